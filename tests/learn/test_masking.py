"""Zeros that grow while a detector trains."""

import pytest
import torch

from leandet.learn.callbacks import Best
from leandet.learn.masking import Masking
from leandet.learn.recipe import Recipe
from leandet.learn.train import BEST, LAST, train
from leandet.sparsify import Movement, NofM, Plan, Ramp, magnitude

EPOCHS = 4


def run(dataset, detector, out, plan, ramp=2, resume=False, **more):
    masking = Masking(plan, Ramp(ramp))
    recipe = Recipe(epochs=EPOCHS, batch=4, patience=0, workers=0, evaluations=EPOCHS, warmup_epochs=1)
    splits = dataset.splits
    train(
        *(detector, splits["train"], splits["val"], dataset.classes, recipe, out),
        resume=resume,
        callbacks=[masking, *more.get("callbacks", [])],
        choose_from=ramp,
    )
    return detector, masking


@pytest.mark.parametrize("plan", [Plan(0.8), Plan(0.5, NofM(2, 4)), Plan(0.8, scorer=Movement())], ids=str)
def test_masks_hold_in_weights_average_and_momentum(dataset, untrained, tmp_path, plan):
    detector, masking = run(dataset, untrained(), tmp_path, plan)
    before = untrained()
    last = torch.load(tmp_path / LAST, weights_only=True)
    assert set(masking.masks) == set(plan.weights(detector))
    zeros = sum(int((~mask).sum()) for mask in masking.masks.values())
    assert zeros / sum(mask.numel() for mask in masking.masks.values()) == pytest.approx(plan.sparsity, abs=1e-3)
    names = [name for name, _ in detector.named_parameters()]
    moments = list(last["optimizer_states"][0]["state"].values())
    for name, mask in masking.masks.items():
        assert (detector.get_parameter(name)[~mask] == 0).all()
        assert not mask.any() or not torch.equal(detector.get_parameter(name)[mask], before.get_parameter(name)[mask])
        for state in ("state_dict", "current_model_state"):
            assert (last[state][f"detector.{name}"][~mask] == 0).all(), (name, state)
    assert len(moments) == len(names)
    cut = {tuple(mask.shape): mask for mask in masking.masks.values()}
    seen = 0
    for state in moments:
        if (mask := cut.get(tuple(state["exp_avg"].shape))) is None:
            continue
        same_shape = [m for m in masking.masks.values() if m.shape == mask.shape]
        assert any((state["exp_avg"][~m] == 0).all() and (state["exp_avg_sq"][~m] == 0).all() for m in same_shape)
        seen += 1
    assert seen


def test_only_weights_with_all_their_zeros_are_chosen(dataset, untrained, tmp_path):
    detector, masking = run(dataset, untrained(), tmp_path, Plan(0.8), ramp=3)
    best = torch.load(tmp_path / BEST, weights_only=True)
    assert best["epoch"] >= 3
    for name, mask in masking.masks.items():
        assert (best["state_dict"][f"detector.{name}"][~mask] == 0).all()
        assert (detector.get_parameter(name)[~mask] == 0).all()  # the settled choice's too
        if not name.startswith("head.choose"):
            assert torch.equal(best["state_dict"][f"detector.{name}"], detector.get_parameter(name))
    assert Best(tmp_path, 3).monitor == "ap"


class Stop(Exception):  # noqa: N818 (it is no error)
    pass


class StopsAfter(Masking):
    """Breaks off in the middle of an epoch, as a crash would."""

    def on_train_epoch_start(self, trainer, pl_module):
        if trainer.current_epoch == 2:
            raise Stop
        super().on_train_epoch_start(trainer, pl_module)


@pytest.mark.parametrize("scorer", [pytest.param("magnitude", marks=pytest.mark.slow), "movement"])
def test_an_interrupted_training_cuts_the_same_weights(dataset, untrained, tmp_path, scorer):
    def plan() -> Plan:
        return Plan(0.8, scorer=magnitude if scorer == "magnitude" else Movement())

    wanted, masking = run(dataset, untrained(), tmp_path / "straight", plan(), ramp=3)
    recipe = Recipe(epochs=EPOCHS, batch=4, patience=0, workers=0, evaluations=EPOCHS, warmup_epochs=1)
    splits = dataset.splits
    with pytest.raises(Stop):
        train(
            *(untrained(), splits["train"], splits["val"], dataset.classes, recipe, tmp_path / "broken"),
            callbacks=[StopsAfter(plan(), Ramp(3))],
            choose_from=3,
        )
    checkpoint = torch.load(tmp_path / "broken" / LAST, weights_only=True)
    assert checkpoint["epoch"] == 1
    found = untrained()
    resumed = StopsAfter(plan(), Ramp(3))
    resumed.on_train_epoch_start = lambda *arguments: Masking.on_train_epoch_start(resumed, *arguments)
    train(
        *(found, splits["train"], splits["val"], dataset.classes, recipe, tmp_path / "broken"),
        resume=True,
        callbacks=[resumed],
        choose_from=3,
    )
    assert all(torch.equal(resumed.masks[name], mask) for name, mask in masking.masks.items())
    for name, tensor in wanted.state_dict().items():
        torch.testing.assert_close(found.state_dict()[name], tensor, rtol=1e-3, atol=1e-4)
