"""Advice on a table made by hand: what is proposed costs the same, what gains nothing is not given."""

import math

import pytest
import torch
from torch import nn

from leandet import nets
from leandet.advise.advice import Advice, Guideline
from leandet.advise.advise import advise
from leandet.advise.apply import applied
from leandet.advise.fragments import fragments
from leandet.advise.widths import SAME, Widths
from leandet.compress.channels import analyse
from leandet.compress.narrow import narrow
from leandet.cost.count import count
from leandet.cost.latency import Entry, Predictor, trace
from leandet.cost.pieces import Piece
from leandet.detector.detector import Detector
from leandet.detector.spec import Spec
from leandet.errors import UserError
from leandet.preprocess import Size

SIDE = 16
IMAGE = torch.zeros(1, 3, SIDE, SIDE)


def chain(a: int = 20, b: int = 64, c: int = 48) -> nn.Sequential:
    """Widths 3 -> a -> b -> c -> 5: the default 20 is no multiple of 8 or 16."""
    return nn.Sequential(
        nn.Conv2d(3, a, 1), nn.ReLU(), nn.Conv2d(a, b, 1), nn.Hardswish(), nn.Conv2d(b, c, 1), nn.Conv2d(c, 5, 1)
    ).eval()


class Judge(Predictor):
    """A predictor whose times are made up from sizes alone; nothing is measured."""

    call_ms = 0.0
    share = 1.0

    def measure(self, some):
        return [Entry(self.judged(piece), tuple(0.0 for _ in piece.inputs)) for piece in some]

    def judged(self, piece: Piece) -> float:
        raise NotImplementedError


class LikesSixteens(Judge):
    """A vector machine: channels cost as much as the next 16."""

    def judged(self, piece):
        work = 1
        for operation in piece.operations:
            if operation.op == "Conv":
                out, read = operation.inputs[1].shape[:2]
                work += math.ceil(out / 16) * math.ceil(read / 16)
        return work / 100


class CountsActivations(Judge):
    """Everything takes the same time, but a Hardswish ten times as much."""

    def judged(self, piece):
        return 1.0 + 9.0 * sum(o.op == "HardSwish" for o in piece.operations)


class LikesFewGroups(Judge):
    """A convolution takes as long as it has groups."""

    def judged(self, piece):
        return float(max(dict(o.attributes).get("group", 1) for o in piece.operations))

    def measure_whole(self, modules, size):
        return [self.predict(module, size) for module in modules]


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("LEANDET_CACHE", str(tmp_path))


def test_proposals_cost_the_same_multiply_adds():
    network = chain()
    widths = Widths(network, analyse(network, IMAGE))
    assert widths.multiply_adds == count(network, IMAGE).multiply_adds
    found = list(widths.proposals())
    assert any(p.guideline is Guideline.ALIGNMENT and widths.widths(p.steps)["0"] % 8 == 0 for p in found)
    assert any(p.guideline is Guideline.EQUAL_WIDTHS for p in found)
    for proposal in found:
        built = chain()
        narrow(built, IMAGE, widths.widths(proposal.steps))
        work = count(built, IMAGE).multiply_adds
        assert work == widths.cost(proposal.steps)
        assert abs(work / widths.multiply_adds - 1) <= SAME


def test_a_machine_of_sixteens_is_advised_multiples_and_the_network_can_be_built():
    network = chain(98, 128, 512)  # two channels beyond a multiple, 0.3 % of the multiply-adds
    best = advise(network, (SIDE, SIDE), LikesSixteens(threads=1))[0]
    assert best.guideline in {Guideline.ALIGNMENT, Guideline.EQUAL_WIDTHS}
    assert best.gain_ms > 0
    narrow(network, IMAGE, best.widths)
    assert network(IMAGE).shape == (1, 5, SIDE, SIDE)
    again = LikesSixteens(threads=1).predict(network, (SIDE, SIDE))
    assert best.network_ms - again == pytest.approx(best.gain_ms)


def test_only_what_gains_is_advised():
    found = advise(chain(), (SIDE, SIDE), CountsActivations(threads=1))
    assert [(a.guideline, a.module) for a in found] == [(Guideline.FEW_ELEMENTWISE, "3")]
    assert (found[0].before_ms, found[0].after_ms, found[0].network_ms) == (10.0, 1.0, 13.0)
    assert not found[0].can_be_applied


class Inception(nn.Module):
    """Three 1x1 convolutions of one input, two of them with the same activation, and a 3x3 one."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Conv2d(8, 16, 1), nn.Conv2d(8, 24, 1), nn.Conv2d(8, 16, 1)
        self.d = nn.Conv2d(8, 16, 3, padding=1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        rest = [nn.functional.relu(self.a(x)), nn.functional.relu(self.b(x)), self.c(x), self.d(x)]
        return torch.cat(rest, 1)


class CountsConvolutions(Judge):
    """Every convolution takes the same time, a split a tenth of it."""

    def judged(self, piece):
        return sum({"Conv": 1.0, "Split": 0.1}.get(o.op, 0.0) for o in piece.operations)


def test_fragments_that_differ_in_width_alone_may_be_one():
    network = nn.Sequential(nn.Conv2d(3, 8, 1), Inception()).eval()
    found = advise(network, (SIDE, SIDE), CountsConvolutions(threads=1))
    (one,) = [a for a in found if a.guideline is Guideline.FEW_FRAGMENTS]
    assert one.change == "one convolution instead of 2: 1.a, 1.b"
    assert (one.before_ms, one.after_ms) == (2.0, pytest.approx(1.1))
    assert not one.can_be_applied


def test_merged_fragments_are_measured_by_the_runtime(monkeypatch):
    for name in ("SECONDS", "KNOWN_SECONDS"):
        monkeypatch.setattr(f"leandet.cost.latency.{name}", 0.1)
    network = nn.Sequential(nn.Conv2d(3, 8, 1), Inception()).eval()
    (one,) = fragments(trace(network, (SIDE, SIDE)))
    conv, split = one.merged
    assert conv.outputs[0].shape == split.inputs[0].shape == (1, 40, SIDE, SIDE)
    assert [port.shape[1] for port in split.outputs] == [16, 24]
    assert all(entry.total > 0 for entry in Predictor(threads=1).measure(one.merged))


def test_another_number_of_groups_is_another_backbone():
    name = "shufflenet_v1_g8_x0_25"
    found = advise(nets.create(name).eval(), (64, 64), LikesFewGroups(threads=1), backbone=name)
    assert {a.backbone for a in found if a.guideline is Guideline.FEW_GROUPS} == {"shufflenet_v1_g1_x0_25"}


def test_whole_networks_are_timed_as_they_are():
    small, large = nn.Conv2d(3, 8, 3).eval(), nn.Conv2d(3, 256, 3).eval()
    first, second = Predictor(threads=1).measure_whole([small, large], (SIDE, SIDE))
    assert 0 < first < second


def advice(**changes) -> Advice:
    return Advice(Guideline.ALIGNMENT, "m", "change", 2.0, 1.0, 10.0, (100, 100), **changes)


def test_an_advice_becomes_a_spec_that_builds():
    spec = Spec("shufflenet_v2_x0_5", 2, Size(64, 64), width=16)
    groups = analyse(Detector(spec), torch.zeros(1, 3, 64, 64)).groups
    group = next(g for g in groups if g.name.startswith("backbone."))
    new = applied(spec, advice(widths={group.name: 2 * group.width}), inside="detector")
    wider, before = Detector(new).eval(), Detector(spec)
    assert wider.get_parameter(f"{group.name}.weight").shape[0] == 2 * group.width
    assert sum(p.numel() for p in wider.parameters()) > sum(p.numel() for p in before.parameters())
    assert Spec.from_json(new.to_json()) == new
    with torch.no_grad():
        assert wider(torch.zeros(1, 3, 64, 64)).logits.isfinite().all()
    from_backbone = applied(spec, advice(widths={group.name.removeprefix("backbone."): group.width}), inside="")
    assert from_backbone.kept == {group.name: group.width}
    assert applied(spec, advice(backbone="mobilenet_v2"), inside="").backbone == "mobilenet_v2"


def test_what_a_spec_cannot_say_is_refused():
    spec = Spec("shufflenet_v2_x0_5", 2, Size(64, 64), width=16)
    with pytest.raises(UserError, match="cannot be applied"):
        applied(spec, advice(), inside="")
    with pytest.raises(UserError, match="a part that a detector does without"):
        applied(spec, advice(widths={"conv5.0": 512}), inside="")


def test_the_sentence_has_units():
    one = advice(widths={"m": 16})
    assert one.gain == pytest.approx(0.1)
    assert "2.000 ms become 1.000 ms, 10.0% of the network" in one.text
    assert one.named_from("detector.") == one
