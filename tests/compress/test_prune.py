"""Pruning: an independent mask, criteria against their formulas, targets, rules, and the pruned detector on disk."""

import json
import subprocess
import sys

import pytest
import torch
from torch import Tensor, nn

from leandet.card import Card
from leandet.compress import Budget, Quantity, Rule, Schedule, Scope, Target, prune, recalibrate, shrink
from leandet.compress import criteria as cr
from leandet.compress.allocate import choices
from leandet.compress.channels import analyse
from leandet.cost.count import count
from leandet.detector.detector import Detector
from leandet.detector.files import load_detector, save_detector
from leandet.detector.spec import Spec
from leandet.errors import UserError
from leandet.preprocess import Size


def chain() -> nn.Sequential:
    torch.manual_seed(0)
    layers = [nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 6, 3), nn.ReLU(), nn.Flatten()]
    network = nn.Sequential(*layers, nn.Linear(6 * 16, 4))
    nn.init.uniform_(network[1].weight, 0.5, 1.5)
    return recalibrate(network, [torch.randn(8, 3, 8, 8)])


def first_group(network: nn.Module) -> cr.ChannelGroup:
    structure = analyse(network, torch.zeros(1, 3, 8, 8))
    return cr.view(network, structure, structure.groups[0])


@pytest.mark.parametrize(
    ("criterion", "score"),
    [
        (cr.l1, lambda net: net[0].weight.abs().sum((1, 2, 3))),
        (cr.l2, lambda net: net[0].weight.square().sum((1, 2, 3)).sqrt()),
        (cr.bn_scale, lambda net: net[1].weight.abs()),
        (cr.lamp, lambda net: net[0].weight.square().sum((1, 2, 3))),  # keeps the order of magnitudes
        (
            cr.fpgm,
            lambda net: torch.stack([(net[0].weight - w).square().sum((1, 2, 3)).sqrt().sum() for w in net[0].weight]),
        ),
    ],
)
def test_the_weakest_by_the_papers_formula_go_and_nothing_else_changes(criterion, score):
    network, x = chain(), torch.randn(2, 3, 8, 8)
    kept = score(network).topk(4).indices.sort().values
    pruned = prune(network, x, 0.5, criterion, rules=[Rule("3", exclude=True)])
    assert torch.equal(pruned[0].weight, network[0].weight[kept])
    assert torch.equal(pruned[3].weight, network[3].weight[:, kept])
    dropped = torch.ones(8, dtype=torch.bool)
    dropped[kept] = False
    network[2].register_forward_hook(lambda *arguments: arguments[2].masked_fill(dropped[:, None, None], 0))
    torch.testing.assert_close(pruned(x), network(x))


def test_activations_and_gradients_are_those_of_the_channels():
    network, x = chain(), torch.randn(4, 3, 8, 8)
    seen = network[:3](x)
    group, activations = first_group(network), cr.Activations.measure(network, [x])
    wanted = (seen > 0).double().mean((0, 2, 3))
    torch.testing.assert_close(cr.Apoz(activations)(group), wanted)
    means = seen.double().mean((0, 2, 3))
    torch.testing.assert_close(cr.MeanActivation(activations)(group), means / means.mean())
    taylor = cr.Taylor.measure(network, x, lambda batch: network(batch).square().sum(), [x])
    network(x).square().sum().backward()
    wanted = (network[0].weight * network[0].weight.grad).sum((1, 2, 3)).double().abs()
    torch.testing.assert_close(taylor(group), wanted.detach(), rtol=1e-4, atol=1e-6)


def test_the_penalty_is_the_sum_of_scales():
    network = chain()
    torch.testing.assert_close(cr.scale_penalty(network), network[1].weight.abs().sum())


@pytest.mark.parametrize("scope", Scope)
@pytest.mark.parametrize("quantity", [Quantity.MULTIPLY_ADDS, Quantity.PARAMETERS])
def test_a_target_is_met_and_counted_right(scope, quantity):
    network, x = chain(), torch.randn(1, 3, 8, 8)
    result = shrink(network, x, target=Target(quantity, 0.5), scope=scope)
    before, after = count(network, x), count(result.module, x)
    assert result.multiply_adds == pytest.approx(after.multiply_adds / before.multiply_adds)
    assert result.parameters == pytest.approx(after.parameters / before.parameters)
    share = result.multiply_adds if quantity is Quantity.MULTIPLY_ADDS else result.parameters
    assert 0.25 < share <= 0.5


def size(network: nn.Module) -> float:
    return float(sum(p.numel() for p in network.parameters()))


@pytest.mark.parametrize("scope", Scope)
def test_a_budget_is_met_by_measuring_candidates(scope):
    network, seen = chain(), []

    def measure(candidate: nn.Module) -> float:
        candidate(torch.randn(1, 3, 8, 8))  # a candidate is a network that runs
        seen.append(size(candidate))
        return seen[-1]

    most = 0.6 * size(network)
    result = shrink(network, torch.zeros(1, 3, 8, 8), target=Budget(measure, most, "parameters"), scope=scope)
    assert size(result.module) == max(value for value in seen if value <= most)
    assert len(seen) == len(set(seen)) <= 9  # the same widths are measured once
    with pytest.raises(UserError, match=r"^1 parameters cannot be reached: .* the smallest network measures \d+"):
        shrink(network, torch.zeros(1, 3, 8, 8), target=Budget(measure, 1.0, "parameters"), scope=scope)
    with pytest.raises(UserError, match="above 0 ms"):
        Budget(measure, 0.0, "ms")


def test_schedules_begin_at_nothing_and_end_at_all():
    assert [Schedule.LINEAR.done(step, 4) for step in range(5)] == [0, 0.25, 0.5, 0.75, 1]
    final, first = 0.8, 0.0  # eq. 1 of the paper, with its own letters
    wanted = [final + (first - final) * (1 - step / 4) ** 3 for step in range(5)]
    assert [final * Schedule.AGP.done(step, 4) for step in range(5)] == pytest.approx(wanted)


def test_alignment_and_rules_hold():
    network, x = chain(), torch.randn(1, 3, 8, 8)
    pruned = prune(network, x, 0.3, align=4, rules=[Rule("3", ratio=0.5, align=1)])
    assert (pruned[0].out_channels, pruned[3].out_channels) == (4, 3)
    untouched = prune(network, x, 0.5, rules=[Rule(kind=nn.Conv2d, exclude=True)])
    assert torch.equal(untouched(x), network(x))
    assert untouched is not network


def test_the_later_rule_wins_whatever_it_says():
    network, x = chain(), torch.randn(1, 3, 8, 8)
    nothing_but = prune(network, x, 0.25, rules=[Rule("*", exclude=True), Rule("3", ratio=0.5)])
    assert (nothing_but[0].out_channels, nothing_but[3].out_channels) == (8, 3)
    everything_but = prune(network, x, 0.25, rules=[Rule("3", ratio=0.5), Rule("3", exclude=True)])
    assert (everything_but[0].out_channels, everything_but[3].out_channels) == (6, 6)


def test_scores_that_compare_between_layers_are_compared():
    torch.manual_seed(0)
    network = nn.Sequential(
        nn.Conv2d(3, 32, 1), nn.BatchNorm2d(32), nn.Conv2d(32, 32, 1), nn.BatchNorm2d(32), nn.Conv2d(32, 4, 1)
    )
    nn.init.uniform_(network[1].weight, 1e-6, 3e-6)  # all but dead
    nn.init.uniform_(network[3].weight, 0.5, 1.5)
    x = torch.zeros(1, 3, 4, 4)
    slim = prune(network, x, 0.4, cr.bn_scale, scope=Scope.GLOBAL)
    assert slim[2].out_channels == 32
    assert slim[0].out_channels < 8
    relative = prune(network, x, 0.4, cr.l1, scope=Scope.GLOBAL)  # filters alike in size: shared out
    assert relative[2].out_channels < 28
    assert relative[0].out_channels > 8


class Blurs(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.enter, self.leave = nn.Conv2d(3, 8, 1), nn.Conv2d(8, 4, 1)
        self.register_buffer("blur", torch.full((8, 1, 3, 3), 1 / 9))

    def forward(self, x: Tensor) -> Tensor:
        return self.leave(nn.functional.conv2d(self.enter(x), self.blur, padding=1, groups=self.blur.shape[0]))


@pytest.mark.parametrize("target", [Quantity.MULTIPLY_ADDS, Quantity.PARAMETERS])
def test_a_filter_may_be_a_buffer(target):
    network, x = Blurs(), torch.randn(1, 3, 8, 8)
    result = shrink(network, x, target=Target(target, 0.6))
    assert result.module.blur.shape[0] == result.widths["enter"] < 8
    assert result.parameters == pytest.approx(size(result.module) / size(network))
    assert result.module(x).shape == (1, 4, 8, 8)


def test_a_filter_without_a_module_meets_rules_and_criteria():
    network, x = Blurs(), torch.randn(4, 3, 8, 8)
    activations = cr.Activations.measure(network, [x])
    for criterion in (cr.Apoz(activations), cr.MeanActivation(activations)):
        assert shrink(network, x, 0.5, criterion=criterion).widths["enter"] == 4
    kept = shrink(network, x, 0.5, rules=(Rule("enter", kind=nn.Conv2d, exclude=True),))
    assert "enter" not in kept.widths


def test_scores_below_zero_are_no_more_than_that():
    """Relative to their mean they would be endless."""
    group = Blurs()
    structure = analyse(group, torch.zeros(1, 3, 8, 8))
    (one,) = choices(group, structure, lambda view: torch.arange(8.0) - 5)
    prices = one.prices(relative=True)
    assert list(prices) == sorted(prices)
    assert abs(prices).mean() == pytest.approx(1)


def test_no_batch_leaves_the_statistics_alone():
    network = chain()
    before = network[1].running_mean.clone()
    with pytest.raises(UserError, match="at least one batch"):
        recalibrate(network, iter(()))
    assert torch.equal(network[1].running_mean, before)


class WithAWrittenWidth(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.free, self.bound, self.leave = nn.Conv2d(3, 8, 1), nn.Conv2d(8, 8, 1), nn.Conv2d(8, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.leave(self.bound(self.free(x)).view(len(x), 2, 4, 8, 8).flatten(1, 2))


def test_a_width_in_the_code_stays_and_the_rest_is_cut():
    result = shrink(WithAWrittenWidth(), torch.zeros(1, 3, 8, 8), 0.5)
    assert result.widths == {"free": 4}
    assert list(result.fixed) == ["bound"]


def test_a_budget_too_leaves_a_width_in_the_code():
    network = WithAWrittenWidth()
    nn.init.constant_(network.bound.weight, 9.0)  # worth most: half of the cut does not reach it
    budget = Budget(size, 0.6 * size(network), "parameters")
    result = shrink(network, torch.zeros(1, 3, 8, 8), target=budget, scope=Scope.GLOBAL)
    assert list(result.widths) == ["free"]
    assert list(result.fixed) == ["bound"]


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({"ratio": 1.0}, "from 0 to below 1"),
        ({"ratio": -0.1}, "from 0 to below 1"),
        ({}, "either a ratio or a target"),
        ({"ratio": 0.5, "target": Target(Quantity.PARAMETERS, 0.5)}, "either a ratio or a target"),
        ({"target": Target(Quantity.MULTIPLY_ADDS, 0.001)}, "remain at least"),
        ({"ratio": 0.5, "rules": [Rule("nowhere.*", ratio=0.1)]}, "there are 0, 3"),
        ({"ratio": 0.5, "rules": [Rule("3x", ratio=0.1)]}, "there are 3, ..."),
        ({"ratio": 0.5, "rules": [Rule(kind=nn.Linear, ratio=0.1)]}, "for Linear matches no .* types are Conv2d"),
        ({"ratio": 0.5, "align": 0}, "at least 1 channel"),
    ],
)
def test_what_a_person_can_mend_is_said(arguments, sentence):
    with pytest.raises(UserError, match=sentence):
        prune(chain(), torch.zeros(1, 3, 8, 8), **arguments)


def test_a_network_that_cannot_be_followed_says_where():
    class Asks(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x * 2 if x.sum() > 0 else x

    with pytest.raises(UserError, match=r"test_prune\.py:\d+"):
        prune(nn.Sequential(nn.Conv2d(3, 4, 1), Asks()), torch.zeros(1, 3, 8, 8), 0.5)


@pytest.mark.parametrize(
    "backbone",
    [
        pytest.param("mobilenet_v2_035", marks=pytest.mark.slow),
        "shufflenet_v2_x0_5",
        pytest.param("shufflenet_v1_g3_x0_25", marks=pytest.mark.slow),
    ],
)
def test_a_pruned_detector_is_rebuilt_in_another_process_and_pruned_again(backbone, tmp_path):
    torch.manual_seed(0)
    detector = Detector(Spec(backbone, 3, Size(64, 64), width=16))
    pictures = torch.randint(0, 256, (4, 3, 64, 64), dtype=torch.uint8)
    recalibrate(detector, [pictures])
    half = Target(Quantity.MULTIPLY_ADDS, 0.5)
    once = prune(detector, pictures[:1], target=half, scope=Scope.GLOBAL)
    assert isinstance(once, Detector)
    twice = prune(once, pictures[:1], 0.3)
    for number, pruned in enumerate((once, twice)):
        path = tmp_path / f"{number}.safetensors"
        save_detector(pruned, Card(("a", "b", "c"), pruned.spec), path)
    assert 0.35 < count(once, pictures[:1]).multiply_adds / count(detector, pictures[:1]).multiply_adds <= 0.5
    code = (
        "import sys, json, torch; from leandet import load; torch.set_num_threads(1)\n"
        "g = torch.load(sys.argv[1], weights_only=True)\n"
        "print(json.dumps([load(p)(g).logits.double().flatten().tolist() for p in sys.argv[2:]]))"
    )
    torch.save(pictures, tmp_path / "pictures.pt")
    files = [str(tmp_path / name) for name in ("pictures.pt", "0.safetensors", "1.safetensors")]
    done = subprocess.run([sys.executable, "-c", code, *files], capture_output=True, text=True, check=True)
    for pruned, found in zip((once, twice), json.loads(done.stdout), strict=True):
        with torch.no_grad():
            wanted = pruned.eval()(pictures).logits.double().flatten()
        torch.testing.assert_close(torch.tensor(found, dtype=torch.float64), wanted, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("kept", [{"nowhere": 4}, {"neck.reduce.0.0": 2000}, {"neck.reduce.0.0": 0}])
def test_a_damaged_description_is_refused(kept, tmp_path):
    spec = Spec("mobilenet_v2_035", 3, Size(64, 64), width=16)
    detector = Detector(spec)
    path = tmp_path / "m.safetensors"
    save_detector(detector, Card(("a", "b", "c"), Spec(spec.backbone, 3, spec.size, 16, kept=kept)), path)
    with pytest.raises(UserError, match=r"nowhere|can have"):
        load_detector(path)
