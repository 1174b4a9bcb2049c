import json
import os
import pickle
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from lightning.pytorch.callbacks import Callback

from leandet.data.loader import Draw, EpochSampler, TrainingSet, training_loader
from leandet.data.read import read
from leandet.data.shapes import draw_shapes
from leandet.detector.detector import Detector
from leandet.detector.spec import Spec
from leandet.errors import UserError
from leandet.learn import validation
from leandet.learn.callbacks import CURVES
from leandet.learn.recipe import Recipe
from leandet.learn.train import BEST, LAST, Outcome, train
from leandet.learn.validation import found, validation_loader
from leandet.metrics import score
from leandet.preprocess import Size

SIZE = Size(64, 64)
# Started by hand so that it can be killed: the same training as `run` below.
SCRIPT = """
import importlib.util, sys
from pathlib import Path
spec = importlib.util.spec_from_file_location("test_train", sys.argv[1])
module = importlib.util.module_from_spec(spec)
spec.loader.exec_module(module)
import torch
torch.set_num_threads(1)
module.run(Path(sys.argv[2]), Path(sys.argv[3]), epochs=int(sys.argv[4]))
"""


def recipe(epochs: int, **changes: object) -> Recipe:
    settings = {"batch": 4, "evaluations": 2, "patience": 0, "workers": 0, "mosaic_share": 0.5, "warmup_epochs": 1.0}
    return Recipe(epochs=epochs, **(settings | changes))


def run(
    data: Path,
    out: Path,
    epochs: int,
    resume: bool = False,
    callbacks: Sequence[Callback] = (),
    **changes: object,
) -> tuple[Detector, Outcome]:
    dataset, _ = read(data)
    torch.manual_seed(0)
    detector = Detector(Spec("mobilenet_v2_035", len(dataset.classes), SIZE, width=16))
    splits = dataset.splits
    outcome = train(
        detector,
        splits["train"],
        splits["val"],
        dataset.classes,
        recipe(epochs, **changes),
        out,
        resume=resume,
        callbacks=callbacks,
    )
    return detector, outcome


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return draw_shapes(tmp_path_factory.mktemp("shapes"), train=12, val=4, side=96)


@pytest.fixture(scope="module")
def straight(data, tmp_path_factory):
    out = tmp_path_factory.mktemp("straight")
    detector, outcome = run(data, out, 4)
    return detector, outcome, out


def losses(curves: list[dict[str, float]]) -> list[list[float]]:
    return [
        [v for k, v in sorted(row.items()) if k.startswith(("loss", "learning"))] for row in curves if "loss" in row
    ]


def figures(curves: list[dict[str, float]]) -> list[dict[str, float]]:
    """All but the clocks."""
    return [{k: v for k, v in row.items() if not k.endswith("seconds")} for row in curves]


def test_training_leaves_its_files_and_a_detector_that_answers(data, straight):
    detector, outcome, out = straight
    assert (out / LAST).is_file()
    assert (out / BEST).is_file()
    assert json.loads((out / CURVES).read_text()) == outcome.curves
    assert [row["epoch"] for row in outcome.curves] == [1, 2, 3, 4]
    assert ["ap" in row for row in outcome.curves] == [False, True, False, True]
    assert outcome.epochs == 4
    assert 0 <= outcome.loading_share <= 1
    assert outcome.curves[-1]["loss"] < outcome.curves[0]["loss"]
    parts = ("classification", "l1", "giou", "auxiliary")
    for row in outcome.curves:
        assert row["loss"] == pytest.approx(sum(row[f"loss/{part}"] for part in parts), rel=1e-4)
    assert not detector.training
    samples, classes = read(data)[0].splits["val"], read(data)[0].classes
    with torch.inference_mode():
        answers = [found(detector(b.images), b.placements) for b in validation_loader(samples, SIZE, 4)]
    measured = score(samples, [one for some in answers for one in some], classes)
    assert outcome.best_ap == pytest.approx(measured.ap, abs=1e-6)


def test_the_detector_holds_the_best_averaged_weights(straight):
    detector, _, out = straight
    best = torch.load(out / BEST, weights_only=True)["state_dict"]
    for name, value in detector.state_dict().items():
        if not name.startswith("head.choose"):  # settled afterwards
            torch.testing.assert_close(value, best[f"detector.{name}"], rtol=0, atol=0)
    running = torch.load(out / LAST, weights_only=True)["current_model_state"]
    assert any(not torch.equal(running[f"detector.{k}"], v) for k, v in detector.state_dict().items())


def test_the_same_seed_gives_the_same_training(data, straight, tmp_path):
    detector, outcome, _ = straight
    again, repeated = run(data, tmp_path, 4)
    assert figures(repeated.curves) == figures(outcome.curves)
    for a, b in zip(detector.state_dict().values(), again.state_dict().values(), strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=0)


def test_another_seed_gives_another_training(data, straight, tmp_path):
    _, outcome = run(data, tmp_path, 1, seed=1)
    assert outcome.curves[0]["loss"] != straight[1].curves[0]["loss"]


def kill_after(data: Path, out: Path, epochs: int, finished: int) -> None:
    """Train in a process of its own and kill it, without warning, once `finished` epochs are noted."""
    process = subprocess.Popen(
        [sys.executable, "-c", SCRIPT, __file__, str(data), str(out), str(epochs)],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    until = time.monotonic() + 240
    try:
        while time.monotonic() < until and process.poll() is None:
            if (out / CURVES).is_file() and len(json.loads((out / CURVES).read_text())) >= finished:
                break
            time.sleep(0.01)
        assert process.poll() is None, "the training ended before it could be killed"
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()


def test_a_killed_training_goes_on_as_if_nothing_had_happened(data, straight, tmp_path):
    detector, outcome, _ = straight
    kill_after(data, tmp_path, 4, 2)
    assert len(json.loads((tmp_path / CURVES).read_text())) < 4
    resumed, after = run(data, tmp_path, 4, resume=True)
    assert [row["epoch"] for row in after.curves] == [1, 2, 3, 4]
    for got, wanted in zip(losses(after.curves), losses(outcome.curves), strict=True):
        assert got == pytest.approx(wanted, rel=1e-4)
    for (name, a), b in zip(detector.state_dict().items(), resumed.state_dict().values(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-4, msg=name)
    assert after.best_ap == pytest.approx(outcome.best_ap, abs=1e-3)


class Views(Callback):
    """What a training is shown, by epoch; it can be interrupted before one begins."""

    def __init__(self, interrupted_at: int | None = None) -> None:
        self.seen: dict[int, list[int]] = {}
        self.interrupted_at = interrupted_at

    def on_train_epoch_start(self, trainer, pl_module):
        if trainer.current_epoch == self.interrupted_at:
            raise KeyboardInterrupt

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        self.seen.setdefault(trainer.current_epoch, []).append(int(batch.images.long().sum()))


def test_a_resume_draws_ahead_the_views_of_its_own_epoch(data, tmp_path):
    """With loader processes, which draw before the trainer says which epoch it is; the one before was not measured."""
    whole, first, then = Views(), Views(interrupted_at=1), Views()
    run(data, tmp_path / "whole", 2, callbacks=[whole], workers=1, evaluations=1)
    with pytest.raises(KeyboardInterrupt):
        run(data, tmp_path / "halves", 2, callbacks=[first], workers=1, evaluations=1)
    run(data, tmp_path / "halves", 2, resume=True, callbacks=[then], workers=1, evaluations=1)
    assert first.seen | then.seen == whole.seen
    logs = [len((tmp_path / "halves" / name / "metrics.csv").read_text().splitlines()) for name in ("csv", "csv-2")]
    assert min(logs) > 1  # a resume leaves the log of the epochs before it alone
    assert whole.seen[0] != whole.seen[1]


def test_the_last_epoch_is_measured_whatever_its_number(data, tmp_path):
    _, outcome = run(data, tmp_path, 5, settling=0.0)  # of five epochs, each second is measured
    assert ["ap" in row for row in outcome.curves] == [False, True, False, True, True]
    assert outcome.best_ap == max(row["ap"] for row in outcome.curves if "ap" in row)


def test_a_log_file_gets_a_line_for_each_epoch(data, tmp_path, capfd):
    """Nobody watches a terminal here: the bar would say nothing until the end."""
    _, outcome = run(data, tmp_path, 2, evaluations=1, settling=0.0)
    out, error = capfd.readouterr()
    assert not out
    first, second = error.splitlines()
    assert first.startswith(f"epoch 1 of 2, loss {outcome.curves[0]['loss']:.3f}, ")
    assert f", AP {100 * outcome.curves[1]['ap']:.1f} % on the validation images, " in second
    assert second.endswith(" s")


def test_a_finished_training_is_not_trained_again(data, tmp_path):
    detector, _ = run(data, tmp_path, 1)
    again, outcome = run(data, tmp_path, 1, resume=True)
    assert outcome.epochs == 1
    for a, b in zip(detector.state_dict().values(), again.state_dict().values(), strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=0)


def test_a_training_that_lost_patience_is_finished(data, tmp_path):
    """Resumed, as where it was interrupted while the choice settled, it does not begin another epoch."""
    changes = {"patience": 1, "evaluations": 12, "learning_rate": 1e-9, "settling": 0.0}
    detector, outcome = run(data, tmp_path, 12, **changes)
    assert outcome.epochs == 2
    again, resumed = run(data, tmp_path, 12, resume=True, **changes)
    assert resumed.epochs == 2
    for a, b in zip(detector.state_dict().values(), again.state_dict().values(), strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=0)


@pytest.mark.parametrize("kept", [0.0, 0.5, 0.99])
def test_a_truncated_checkpoint_is_the_persons_to_mend(data, straight, tmp_path, kept):
    content = (straight[2] / LAST).read_bytes()
    (tmp_path / LAST).write_bytes(content[: int(kept * len(content))])
    with pytest.raises(UserError, match=LAST):
        run(data, tmp_path, 4, resume=True)


def test_a_checkpoint_of_another_detector_is_refused(data, straight, tmp_path):
    (tmp_path / LAST).write_bytes((straight[2] / LAST).read_bytes())
    dataset, _ = read(data)
    other = Detector(Spec("mobilenet_v2_035", len(dataset.classes), SIZE, width=24))
    with pytest.raises(UserError, match=LAST):
        train(other, dataset.splits["train"], dataset.splits["val"], dataset.classes, recipe(4), tmp_path, resume=True)


def test_no_training_images(data, tmp_path):
    dataset, _ = read(data)
    detector = Detector(Spec("mobilenet_v2_035", len(dataset.classes), SIZE, width=16))
    with pytest.raises(UserError, match="training split is empty"):
        train(detector, (), dataset.splits["val"], dataset.classes, recipe(1), tmp_path)


def test_no_object_to_validate_on(data, tmp_path):
    dataset, _ = read(data)
    none = {name: getattr(dataset.splits["val"][0], name)[:0] for name in ("boxes", "labels", "crowd", "areas")}
    empty = tuple(replace(s, **none) for s in dataset.splits["val"])
    detector = Detector(Spec("mobilenet_v2_035", len(dataset.classes), SIZE, width=16))
    with pytest.raises(UserError, match="no image of the validation split has a box"):
        train(detector, dataset.splits["train"], empty, dataset.classes, recipe(1), tmp_path)


def test_fewer_epochs_than_are_done_are_refused(data, straight, tmp_path):
    shutil.copytree(straight[2], tmp_path / "out")
    with pytest.raises(UserError, match="more than the 1 asked for"):
        run(data, tmp_path / "out", 1, resume=True)


class Interrupts(Callback):
    def on_train_epoch_end(self, trainer, module):
        if trainer.current_epoch == 1:
            raise KeyboardInterrupt


def test_ctrl_c_is_an_interrupt_and_another_one_is_heard(data, tmp_path):
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        run(data, tmp_path, 3, callbacks=[Interrupts()])
    assert signal.getsignal(signal.SIGINT) is before
    assert (tmp_path / "last.ckpt").is_file()


@pytest.mark.parametrize(
    "change", [{"epochs": 0}, {"batch": 0}, {"evaluations": 0}, {"patience": -1}, {"workers": -1}, {"learning_rate": 0}]
)
def test_impossible_settings_are_refused(change):
    with pytest.raises(UserError, match=next(iter(change))):
        Recipe(**change)


def test_an_epochs_order_depends_on_seed_and_epoch_alone():
    def order(seed: int, epochs: list[int]) -> list[Draw]:
        sampler = EpochSampler(30, seed, mosaic_until=2)
        for epoch in epochs:
            sampler.set_epoch(epoch)
            last = list(sampler)
        return last

    assert order(3, [0, 1, 2]) == order(3, [2])
    assert sorted(d.sample for d in order(3, [1])) == list(range(30))
    assert [d.sample for d in order(3, [1])] != [d.sample for d in order(3, [2])]
    assert [d.sample for d in order(3, [1])] != [d.sample for d in order(4, [1])]
    assert {d.mosaic for d in order(3, [1])} == {True}
    assert {d.mosaic for d in order(3, [2])} == {False}


def same(a: tuple[torch.Tensor, ...], b: tuple[torch.Tensor, ...]) -> bool:
    return all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


def test_a_view_depends_on_seed_epoch_and_index_alone(data):
    samples = read(data)[0].splits["train"]
    views, other = TrainingSet(samples, SIZE, 5), TrainingSet(samples, SIZE, 5)
    wanted = [views[Draw(1, i, True)] for i in range(8)]
    torch.manual_seed(123)  # the caller's generator plays no part
    state = torch.get_rng_state()
    backwards = {i: other[Draw(1, i, True)] for i in reversed(range(8))}
    assert torch.equal(torch.get_rng_state(), state)  # and is left alone
    assert all(same(wanted[i], backwards[i]) for i in range(8))
    assert not same(views[Draw(2, 0, True)], wanted[0])
    assert not same(TrainingSet(samples, SIZE, 6)[Draw(1, 0, True)], wanted[0])


def test_the_batches_do_not_depend_on_the_number_of_workers(data):
    samples = read(data)[0].splits["train"]

    def batches(workers: int) -> list:
        loader = training_loader(samples, SIZE, batch=4, seed=0, mosaic_until=1, workers=workers)
        loader.sampler.set_epoch(0)
        return list(loader)

    here, there = batches(0), batches(1)
    assert len(here) == 3
    for a, b in zip(here, there, strict=True):
        assert torch.equal(a.images, b.images)
        assert same(a.targets, b.targets)


def test_loader_processes_share_what_is_decoded_or_decode_themselves(data):
    samples = read(data)[0].splits["train"]
    loader = training_loader(samples, SIZE, batch=4, seed=0, mosaic_until=0, workers=1)
    if sys.platform == "linux":
        assert loader.multiprocessing_context.get_start_method() == "fork"
    views = loader.dataset
    assert len(views._cache) == len(samples)
    sent = pickle.loads(pickle.dumps(views))
    assert not sent._cache
    assert same(sent[Draw(0, 3, False)], views[Draw(0, 3, False)])


def test_validation_keeps_as_many_pictures_as_fit(data, monkeypatch):
    monkeypatch.setattr(validation, "KEPT_BYTES", 2 * 3 * 64 * 64 + 1)
    samples = read(data)[0].splits["val"]
    loader = validation_loader(samples, SIZE, 2)
    first, second = (torch.cat([batch.images for batch in loader]) for _ in range(2))
    assert torch.equal(first, second)
    assert len(first) == len(samples) > len(loader.dataset._cache) == 2


def test_views_keep_boxes_on_their_objects(data):
    samples = read(data)[0].splits["train"]
    views = TrainingSet(samples, SIZE, 0)
    for index in range(len(samples)):
        for mosaic in (False, True):
            image, boxes, labels = views[Draw(0, index, mosaic)]
            assert image.shape == (3, 64, 64)
            assert image.dtype == torch.uint8
            assert len(boxes) == len(labels)
            assert ((boxes >= 0) & (boxes <= 64)).all()
            assert (boxes[:, 2:] > boxes[:, :2]).all()
