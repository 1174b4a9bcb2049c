"""Which weights are cut."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn.utils import prune as oracle
from torch.nn.utils.parametrizations import weight_norm

from leandet import nets
from leandet.errors import UserError
from leandet.sparsify import Blocks, Movement, NofM, Plan, Random, Scope, lamp, magnitude, rewind, sparsify
from leandet.sparsify.patterns import parse_pattern


def network(seed: int = 0) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Conv2d(3, 8, 3),  # reads the picture: stays dense
        nn.Conv2d(8, 8, 3, groups=8),  # depthwise: stays dense
        nn.Conv2d(8, 16, 3),
        nn.ReLU(),
        nn.Conv2d(16, 12, 1),
        nn.Flatten(),
        nn.Linear(12, 8),
    )


def test_computed_weights_stay_dense_and_shared_ones_are_one():
    made = network()
    made[2] = weight_norm(made[2])
    made.append(nn.Linear(8, 8))
    made.append(nn.Linear(8, 8))
    made[8].weight = made[7].weight
    assert list(sparsify(made, 0.5).masks) == ["4.weight", "6.weight", "7.weight"]


CUT = ["2.weight", "4.weight", "6.weight"]


@pytest.mark.parametrize("sparsity", [0.0, 0.1, 0.5, 0.9, 0.97])
def test_global_magnitude_is_that_of_torch(sparsity):
    ours, masks = sparsify(network(), sparsity, scorer=magnitude)
    theirs = network()
    parts = [(theirs[2], "weight"), (theirs[4], "weight"), (theirs[6], "weight")]
    oracle.global_unstructured(parts, oracle.L1Unstructured, amount=sparsity)
    assert list(masks) == CUT
    for index in (2, 4, 6):
        assert torch.equal(masks[f"{index}.weight"], theirs[index].weight_mask.bool())
        assert torch.equal(ours[index].weight, theirs[index].weight)


@pytest.mark.parametrize("sparsity", [0.1, 0.5, 0.9])
def test_layerwise_magnitude_is_that_of_torch(sparsity):
    masks = sparsify(network(), sparsity, scorer=magnitude, scope=Scope.UNIFORM).masks
    for name, mask in masks.items():
        layer = network()[int(name[0])]
        oracle.l1_unstructured(layer, "weight", amount=sparsity)
        assert torch.equal(mask, layer.weight_mask.bool())


def test_the_given_network_is_untouched_and_what_is_masked_is_zero():
    given_ = network()
    before = {name: tensor.clone() for name, tensor in given_.state_dict().items()}
    made, masks = sparsify(given_, 0.8)
    for name, tensor in given_.state_dict().items():
        assert torch.equal(tensor, before[name])
    for name, tensor in made.state_dict().items():
        assert torch.equal(tensor, before[name] * masks[name] if name in masks else before[name])


def test_ties_are_cut_to_the_exact_number():
    made = sparsify(nn.Linear(10, 10), 0.5).module
    with torch.no_grad():
        made.weight.fill_(1.0)
    assert int((sparsify(made, 0.37).module.weight == 0).sum()) == 37


def test_lamp_against_its_definition():
    weight = torch.randn(5, 4, generator=torch.Generator().manual_seed(0))
    squares = weight.double().square()
    wanted = squares / torch.stack([squares[squares >= value].sum() for value in squares.flatten()]).view(5, 4)
    torch.testing.assert_close(lamp("", weight), wanted)
    assert lamp("", weight).max() == 1
    assert lamp("", torch.zeros(2, 4)).isfinite().all()


def test_lamp_never_empties_a_layer():
    module = network()
    with torch.no_grad():
        module[4].weight.mul_(1e-6)
    assert not sparsify(module, 0.98, scorer=magnitude).masks["4.weight"].any()
    assert all(mask.any() for mask in sparsify(module, 0.98, scorer=lamp).masks.values())


def test_random_depends_on_seed_and_name_alone():
    a, b = sparsify(network(), 0.5, scorer=Random(1)).masks, sparsify(network(7), 0.5, scorer=Random(1)).masks
    assert all(torch.equal(a[name], b[name]) for name in a)
    c = sparsify(network(), 0.5, scorer=Random(2)).masks
    assert not all(torch.equal(a[name], c[name]) for name in a)


def test_movement_against_its_sum():
    torch.manual_seed(0)
    layer, batches = nn.Linear(4, 4), [torch.randn(3, 4) for _ in range(3)]
    found = Movement.measure(layer, lambda x: layer(x).square().sum(), batches)
    total = torch.zeros(4, 4)
    for x in batches:  # the gradient of sum((xW' + b)^2) by hand
        total -= layer.weight.detach() * (2 * (x @ layer.weight.T + layer.bias)).T.mm(x).detach()
    torch.testing.assert_close(found.totals["weight"], total)
    assert layer.weight.grad is None
    assert int(sparsify(layer, 0.5, scorer=found).masks["weight"].sum()) == 8


def test_a_weight_that_moves_away_from_zero_scores_high():
    layer = nn.Linear(4, 1, bias=False)
    with torch.no_grad():
        layer.weight.copy_(torch.tensor([[0.1, 0.1, 5.0, 5.0]]))
    movement = Movement()
    optimizer = torch.optim.SGD(layer.parameters(), 0.01)
    for _ in range(20):  # the first two are wanted at 1, the last two at 0
        optimizer.zero_grad()
        (layer.weight - torch.tensor([[1.0, 1.0, 0.0, 0.0]])).square().sum().backward()
        movement.add(dict(layer.named_parameters()))
        optimizer.step()
    mask = Plan(0.5, scorer=movement).masks(layer)["weight"]
    assert mask.tolist() == [[True, True, False, False]]
    assert Plan(0.5).masks(layer)["weight"].tolist() == [[False, False, True, True]]


def test_movement_without_a_step():
    with pytest.raises(UserError, match="movement has no scores"):
        sparsify(network(), 0.5, scorer=Movement())
    with pytest.raises(UserError, match="at least one batch"):
        Movement.measure(network(), lambda x: x.sum(), [])


sides = st.integers(1, 6)


@given(st.sampled_from([(2, 4), (4, 8), (1, 4), (1, 2)]), sides, sides, st.sampled_from([(), (1, 1), (3, 3)]), sides)
@settings(max_examples=40)
def test_every_group_of_m_keeps_exactly_its_n_largest(nm, outputs, groups, kernel, seed):
    n, m = nm
    weight = torch.randn(outputs, groups * m, *kernel, generator=torch.Generator().manual_seed(seed))
    (mask,) = NofM(n, m).masks({"w": weight.abs()}, 1 - n / m, Scope.GLOBAL).values()
    kept = mask.unflatten(1, (groups, m))
    assert (kept.sum(2) == n).all()
    values = weight.abs().unflatten(1, (groups, m))
    least_kept = values.masked_fill(~kept, torch.inf).amin(2)
    assert (values.masked_fill(kept, -torch.inf).amax(2) <= least_kept).all()


@given(st.integers(1, 4), sides, sides, st.sampled_from([(), (1, 1), (3, 3)]), st.floats(0, 0.99), sides)
@settings(max_examples=40)
def test_blocks_go_whole_and_the_least_go(length, blocks, inputs, kernel, sparsity, seed):
    weight = torch.randn(blocks * length, inputs, *kernel, generator=torch.Generator().manual_seed(seed))
    (mask,) = Blocks(length).masks({"w": weight.abs()}, sparsity, Scope.UNIFORM).values()
    for b in range(blocks):
        for i in range(inputs):
            block = mask[b * length : (b + 1) * length, i]
            assert block.all() or not block.any()
    gone = sorted(
        (float(weight[b * length : (b + 1) * length, i].abs().sum()), bool(mask[b * length, i].flatten()[0]))
        for b in range(blocks)
        for i in range(inputs)
    )
    count = round(sparsity * blocks * inputs)
    assert [kept for _, kept in gone] == [False] * count + [True] * (blocks * inputs - count)


def test_layers_that_do_not_fit_stay_dense():
    assert list(sparsify(network(), pattern=NofM(4, 8)).masks) == ["2.weight", "4.weight"]  # 12 inputs are no eights
    assert list(sparsify(network(), 0.5, pattern=Blocks(8)).masks) == ["2.weight", "6.weight"]
    assert list(sparsify(network(), 0.5, exclude=["4", "6"]).masks) == ["2.weight"]


@pytest.mark.parametrize("pattern", [NofM(2, 4), Blocks(4)])
def test_patterns_hold_on_a_real_backbone(pattern):
    module = nets.create("mobilenet_v2_035")
    made, masks = sparsify(module, 0.5, pattern=pattern)
    zeros = sum(int((~mask).sum()) for mask in masks.values()) / sum(mask.numel() for mask in masks.values())
    assert zeros == pytest.approx(0.5, abs=0.02)  # blocks of large kernels count as blocks
    if isinstance(pattern, NofM):
        for name in masks:
            assert ((made.get_parameter(name) != 0).unflatten(1, (-1, 4)).sum(2) <= 2).all()


def test_what_is_cut_stays_cut_as_sparsity_rises():
    module, within = network(), None
    for pattern in (NofM(2, 8), Blocks(4)):
        plan = Plan(0.75, pattern)
        for seed, done in enumerate((0.2, 0.5, 0.8, 1.0)):
            masks = plan.masks(network(seed), done, within)
            if within is not None:
                assert all(not (masks[name] & ~within[name]).any() for name in masks)
            within = masks
        assert all(mask.float().mean() < 0.6 for mask in masks.values())
        within = None
    assert module is not None


def test_an_early_network_gets_its_mask():
    early, trained = network(1), network(2)
    masks = sparsify(trained, 0.6).masks
    rewind(trained, early.state_dict(), masks)
    for name, tensor in trained.state_dict().items():
        wanted = early.state_dict()[name]
        assert torch.equal(tensor, wanted * masks[name] if name in masks else wanted)
    with pytest.raises(UserError, match="another network"):
        rewind(trained, nn.Linear(2, 2).state_dict(), masks)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({}, "give a sparsity"),
        ({"sparsity": 1.0}, "up to but not including 1"),
        ({"sparsity": -0.1}, "from 0"),
        ({"sparsity": float("nan")}, "from 0"),
        ({"sparsity": 0.9, "pattern": NofM(2, 4)}, "2:4 means a sparsity of 0.5, not 0.9"),
        ({"sparsity": 0.5, "exclude": ["nothing"]}, "'nothing': layers that can be cut are 0, 1, 2"),
        ({"sparsity": 0.5, "exclude": ["*"]}, "no layer is left"),
        ({"sparsity": 0.5, "pattern": Blocks(7)}, "no layer is left"),
    ],
)
def test_bad_wishes(arguments, sentence):
    with pytest.raises(UserError, match=sentence):
        sparsify(network(), **arguments)


@pytest.mark.parametrize("text", ["", "4:2", "0:4", "4:4", "1x0", "2x4", "1x", "a:b", "1x4 ", "2:4:8", "99999:100000"])
def test_patterns_that_are_none(text):
    with pytest.raises(UserError):
        parse_pattern(text)


@pytest.mark.parametrize(("text", "pattern"), [("2:4", NofM(2, 4)), ("4:8", NofM(4, 8)), ("1x16", Blocks(16))])
def test_patterns_as_text(text, pattern):
    assert parse_pattern(text) == pattern
    assert str(pattern) == text
