"""The supernet: its sub-networks are the candidates that the judge sees, they learn, and they leave no trace."""

import copy
import json

import pytest
import torch
from lightning.pytorch.callbacks import Callback

from leandet.compress import recalibrate
from leandet.compress.criteria import l1
from leandet.data.read import read
from leandet.data.shapes import draw_shapes
from leandet.detector.decode import flatten
from leandet.detector.detector import Detector
from leandet.detector.files import load_detector
from leandet.detector.spec import Spec
from leandet.errors import UserError
from leandet.learn.distill import answers, imitation
from leandet.learn.train import LAST
from leandet.preprocess import Size
from leandet.search import supernet as room
from leandet.search.space import Space
from leandet.search.supernet import WEIGHTS, WORTH, Sandwich, SubNetwork, Supernet

SIDE = 64
BACKBONES = ("mobilenet_v1_025", "shufflenet_v2_x0_5", "mobilenet_v3_small")


def pictures(count=2, seed=1):
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (count, 3, SIDE, SIDE), dtype=torch.uint8, generator=generator)


def build(backbone, classes=3):
    """Sure of some classes, its batch-norms measured: a fresh network says the same of everything at any width."""
    torch.manual_seed(0)
    detector = Detector(Spec(backbone, classes, Size(SIDE, SIDE), width=16)).eval()
    for tower in detector.head.classify:
        torch.nn.init.normal_(tower[-1].weight)
    recalibrate(detector, [pictures(8)])
    return detector


def make(backbone):
    """The same structures on every machine."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("leandet.search.space.channel_block", lambda: 8)
        return Space(build(backbone), l1)


@pytest.fixture(scope="module", params=BACKBONES)
def spaces(request):
    return make(request.param)


@pytest.fixture(scope="module")
def small():
    return make(BACKBONES[0])


@pytest.fixture
def learner(small):
    """In training, its weights put back afterwards."""
    before = {name: tensor.clone() for name, tensor in small.detector.state_dict().items()}
    small.detector.train()
    yield small
    small.detector.load_state_dict(before)
    small.detector.zero_grad()
    small.detector.eval()


def test_a_sub_network_answers_as_the_candidate_cut_out(spaces):
    whole = spaces.detector
    before = {name: tensor.clone() for name, tensor in whole.state_dict().items()}
    for candidate in Sandwich(spaces, 3).structures(5)[:2]:
        shared, made = SubNetwork(spaces, candidate), spaces.cut(candidate)
        for training in (False, True):
            whole.train(training)
            made.train(training)
            with torch.no_grad():
                wanted = made.head(made.features(pictures()))
                got = shared(whole, pictures())
            whole.eval()
            for a, b in zip(got[:3], wanted[:3], strict=True):
                torch.testing.assert_close(flatten(a), flatten(b), rtol=1e-5, atol=1e-5)
    for name, tensor in whole.state_dict().items():  # running statistics are not shared
        torch.testing.assert_close(tensor, before[name], rtol=0, atol=0)


def test_it_still_does_after_the_whole_has_learned(learner):
    space, whole = learner, learner.detector
    candidate = space.candidate(space.even(6))
    shared = SubNetwork(space, candidate)
    with torch.no_grad():
        before = flatten(shared(whole, pictures()).classes)
    optimizer = torch.optim.SGD(whole.parameters(), lr=0.05)
    flatten(shared(whole, pictures()).classes).square().mean().backward()
    optimizer.step()
    made = space.cut(candidate).train()
    with torch.no_grad():
        got = flatten(shared(whole, pictures()).classes)
        wanted = flatten(made.head(made.features(pictures())).classes)
    torch.testing.assert_close(got, wanted, rtol=1e-5, atol=1e-5)
    assert not torch.allclose(got, before, rtol=1e-3, atol=1e-3)


def test_gradients_are_those_of_the_cut_networks(learner):
    """Along a random direction of the shared weights, against differences of candidates that are really cut."""
    candidate, images, step = learner.candidate(learner.even(6)), pictures().double(), 1e-7
    whole = learner.detector.eval().double()
    generator = torch.Generator().manual_seed(0)
    way = {n: torch.randn(p.shape, generator=generator, dtype=p.dtype) for n, p in whole.named_parameters()}

    def loss(maps):
        return flatten(maps.classes).square().mean() + flatten(maps.sides).mean()

    def moved(by):
        with torch.no_grad():
            for name, weight in whole.named_parameters():
                weight.add_(way[name], alpha=by)
            made = learner.cut(candidate)
            value = float(loss(made.head(made.features(images))))
            for name, weight in whole.named_parameters():
                weight.sub_(way[name], alpha=by)
        return value

    with torch.no_grad():
        for weight in whole.parameters():  # a channel that is zero everywhere stands on ReLU's kink
            weight.add_(torch.randn(weight.shape, generator=generator), alpha=0.01)
    try:
        loss(SubNetwork(learner, candidate)(whole, images)).backward()
        slope = sum(float((p.grad * way[n]).sum()) for n, p in whole.named_parameters() if p.grad is not None)
        assert slope == pytest.approx((moved(step) - moved(-step)) / (2 * step), rel=1e-5)
        assert abs(slope) > 1e-4
    finally:
        whole.float()


def test_channels_that_are_cut_get_no_gradient(learner):
    candidate, name = learner.narrowest(), f"{learner.choices[0].group.name}.weight"
    flatten(SubNetwork(learner, candidate)(learner.detector, pictures()).sides).square().sum().backward()
    whole, made = (net.get_parameter(name) for net in (learner.detector, learner.cut(candidate)))
    learned = {place for place, row in enumerate(whole.grad.flatten(1).abs().sum(1)) if row > 0}
    stay = {place for place, row in enumerate(whole) if any(torch.equal(row, other) for other in made)}
    assert learned == stay
    assert 0 < len(stay) == len(made) < len(whole)


def test_steps_draw_by_seed_and_number_alone(small):
    one, two = Sandwich(small, 0), Sandwich(small, 0)
    drawn = [one.structures(step) for step in range(20)]
    assert drawn == [two.structures(step) for step in range(20)]
    assert [Sandwich(small, 1).structures(step) for step in range(20)] != drawn
    assert all(structures[0].kept == drawn[0][0].kept for structures in drawn)
    shares = [small.multiply_adds(c) / small.multiply_adds(small.whole) for structures in drawn for c in structures]
    assert min(shares) == shares[0] <= room.LEAST
    assert max(shares) <= room.MOST
    assert all(len({c.key for c in structures[1:]}) == room.DRAWN for structures in drawn)
    assert all(c.size == small.sizes[0] for structures in drawn for c in structures)
    pool = [small.multiply_adds(c) / small.multiply_adds(small.whole) for c in Sandwich(small, 0)._pool]
    assert min(pool) < 0.4
    assert max(pool) > 0.7


def test_what_is_added_is_the_imitation_of_the_same_steps_answers(small):
    whole, guide = small.detector.train(), Sandwich(small, 0)
    try:
        with torch.no_grad():
            maps = whole.head(whole.features(pictures()))
            wanted = answers(whole, maps)
            parts = []
            for candidate in guide.structures(0):
                made = small.cut(candidate).train()
                parts.append(float(imitation(made, made.head(made.features(pictures())), wanted)))
            assert float(guide(whole, maps, pictures())) == pytest.approx(sum(parts), rel=1e-4)
        assert min(parts) > 0
    finally:
        whole.eval()
    assert copy.deepcopy(guide) is guide


def test_sub_networks_learn_what_the_whole_answers(learner):
    """Those that are trained, and by their shared weights one that never was."""
    whole, images = learner.detector, pictures(4)
    guide, strange = Sandwich(learner, 0), learner.candidate(learner.even(5))
    assert strange.kept not in [candidate.kept for candidate in guide._pool]
    networks = [SubNetwork(learner, candidate) for candidate in (learner.narrowest(), strange)]

    def distances():
        with torch.no_grad():
            wanted = answers(whole, whole.head(whole.features(images)))
            return [float(imitation(net.detector, net(whole, images), wanted)) for net in networks]

    before = distances()
    optimizer = torch.optim.Adam(whole.parameters(), lr=2e-3)
    for _ in range(15):
        optimizer.zero_grad()
        guide(whole, whole.head(whole.features(images)), images).backward()
        optimizer.step()
    assert all(after < 0.9 * now for after, now in zip(distances(), before, strict=True))


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    return read(draw_shapes(tmp_path_factory.mktemp("supernet") / "shapes", train=8, val=4, side=SIDE))[0]


def trained(dataset, folder, epochs=2):
    detector = build(BACKBONES[0], len(dataset.classes))
    own = Supernet(folder, epochs, 4, 0)
    space = Space(detector, own.worth(detector, dataset))
    own.train(space, dataset.classes, dataset)
    return space, own


@pytest.fixture(scope="module")
def straight(dataset, tmp_path_factory):
    return trained(dataset, tmp_path_factory.mktemp("straight") / "net")


def test_training_leaves_an_ordinary_model_and_its_losses(dataset, straight):
    space, own = straight
    made, card = load_detector(own.folder / WEIGHTS)
    assert card.classes == dataset.classes
    for (name, a), b in zip(space.detector.state_dict().items(), made.state_dict().values(), strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=0, msg=name)
    curves = json.loads((own.folder / room.TRAINING / "curves.json").read_text())
    assert len(curves) == own.epochs
    assert all(row["loss/distillation"] > 0 for row in curves)
    assert [("ap" in row) for row in curves] == [
        False,
        True,
    ]  # the last weights are taken, not the best whole network's


def test_a_finished_supernet_is_read_and_a_copy_is_the_same(dataset, straight):
    space, own = straight
    stamp = (own.folder / WEIGHTS).stat().st_mtime_ns
    again, same = trained(dataset, own.folder)
    assert (own.folder / WEIGHTS).stat().st_mtime_ns == stamp
    assert own.finished
    assert same.digest == own.digest
    assert [c.scores.tolist() for c in again.choices] == [c.scores.tolist() for c in space.choices]
    for a, b in zip(space.detector.state_dict().values(), again.detector.state_dict().values(), strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=0)


class Interrupts(Callback):
    def on_train_epoch_start(self, trainer, module):
        if trainer.current_epoch == 1:
            raise KeyboardInterrupt


@pytest.mark.slow
def test_an_interrupted_training_goes_on_as_if_nothing_had_happened(dataset, straight, tmp_path, monkeypatch):
    folder, train = tmp_path / "net", room.train

    def interrupted(*positional, callbacks, **named):
        return train(*positional, callbacks=[*callbacks, Interrupts()], **named)

    monkeypatch.setattr(room, "train", interrupted)
    with pytest.raises(KeyboardInterrupt):
        trained(dataset, folder)
    assert (folder / room.TRAINING / LAST).is_file()
    assert not (folder / WEIGHTS).exists()
    monkeypatch.setattr(room, "train", train)
    space, _ = trained(dataset, folder)
    for (name, a), b in zip(
        space.detector.state_dict().items(), straight[0].detector.state_dict().values(), strict=True
    ):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-4, msg=name)


@pytest.mark.parametrize("name", [WORTH, WEIGHTS])
def test_damaged_files_are_the_persons_to_mend(dataset, straight, tmp_path, name):
    for file in (WORTH, WEIGHTS):
        content = (straight[1].folder / file).read_bytes()
        (tmp_path / file).write_bytes(content[: len(content) // 2] if file == name else content)
    with pytest.raises(UserError, match=name):
        trained(dataset, tmp_path)


def test_another_detectors_supernet_is_refused(dataset, straight, small):
    with pytest.raises(UserError, match="of another detector"):
        straight[1].train(small, dataset.classes, dataset)
