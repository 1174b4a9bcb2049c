import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torchvision.ops import box_iou, generalized_box_iou, sigmoid_focal_loss

from leandet.data.batch import Targets
from leandet.detector.decode import Predictions, locations, to_boxes
from leandet.learn.assign import (
    OUTSIDE,
    MinimumCost,
    TopQuality,
    classification_cost,
    one_to_many,
    one_to_one,
)
from leandet.learn.geometry import near

HEIGHT, WIDTH, CLASSES = 64, 96, 3
LEVELS = (8, 16, 32)


def make_predictions(batch: int, seed: int) -> Predictions:
    generator = torch.Generator().manual_seed(seed)
    maps = [torch.zeros(batch, 1, HEIGHT // s, WIDTH // s) for s in LEVELS]
    points, strides = locations(maps, LEVELS)
    distances = torch.rand(batch, len(points), 4, generator=generator) * 4
    logits = torch.randn(batch, len(points), CLASSES, generator=generator) * 2
    return Predictions(logits, to_boxes(distances, points, strides), points, strides)


def make_targets(counts: list[int], seed: int) -> Targets:
    generator = torch.Generator().manual_seed(seed)
    boxes, labels = [], []
    for count in counts:
        corner = torch.rand(count, 2, generator=generator) * torch.tensor([WIDTH - 24.0, HEIGHT - 24.0])
        boxes.append(torch.cat([corner, corner + 2 + torch.rand(count, 2, generator=generator) * 22], 1))
        labels.append(torch.randint(CLASSES, (count,), generator=generator))
    return Targets.pad(boxes, labels)


def test_classification_cost_is_torchvisions_focal_loss_as_positive_less_as_negative():
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(2, 30, CLASSES, generator=generator) * 3
    labels = torch.randint(CLASSES, (2, 5), generator=generator)
    positive = sigmoid_focal_loss(logits, torch.ones_like(logits), alpha=0.25, gamma=2)
    negative = sigmoid_focal_loss(logits, torch.zeros_like(logits), alpha=0.25, gamma=2)
    found = classification_cost(logits, labels)
    assert found.shape == (2, 5, 30)
    for image in range(2):
        wanted = (positive - negative)[image][:, labels[image]].T
        torch.testing.assert_close(found[image], wanted, rtol=1e-4, atol=1e-5)


def plain_cost(assign: MinimumCost, predictions: Predictions, targets: Targets) -> np.ndarray:
    """OneNet's formula, one image, object and location at a time."""
    batch, most = targets.labels.shape
    count = len(predictions.points)
    cost = np.zeros((batch, most, count))
    for b in range(batch):
        iou = generalized_box_iou(targets.boxes[b].double(), predictions.boxes[b].double())
        for m in range(most):
            g = targets.boxes[b, m].tolist()
            for n in range(count):
                box = predictions.boxes[b, n].tolist()
                p = 1 / (1 + math.exp(-float(predictions.logits[b, n, targets.labels[b, m]])))
                positive = 0.25 * (1 - p) ** 2 * -math.log(p + 1e-8)
                negative = 0.75 * p**2 * -math.log(1 - p + 1e-8)
                side = (WIDTH, HEIGHT, WIDTH, HEIGHT)
                l1 = sum(abs(box[k] - g[k]) / side[k] for k in range(4))
                x, y = predictions.points[n].tolist()
                gap = max(abs(x - (g[0] + g[2]) / 2), abs(y - (g[1] + g[3]) / 2))
                reach = assign.radius * float(predictions.strides[n])
                allowed = gap < reach or (g[0] < x < g[2] and g[1] < y < g[3])
                cost[b, m, n] = (
                    assign.classification * (positive - negative)
                    + assign.l1 * l1
                    - assign.giou * float(iou[m, n])
                    + (0 if allowed else OUTSIDE)
                )
    return cost


@pytest.mark.parametrize(
    "assign",
    [MinimumCost(), MinimumCost(radius=math.inf), MinimumCost(classification=0), MinimumCost(1.0, 3.0, 4.0, 0.5)],
)
def test_cost_is_what_a_plain_loop_says(assign):
    predictions, targets = make_predictions(2, 1), make_targets([3, 1], 2)
    valid = targets.valid.numpy()
    found, wanted = assign.cost(predictions, targets).numpy(), plain_cost(assign, predictions, targets)
    outside = wanted > OUTSIDE / 2
    assert np.array_equal(found[valid] > OUTSIDE / 2, outside[valid])
    # float32 keeps three decimals of a cost beside OUTSIDE
    np.testing.assert_allclose(found[valid], wanted[valid], rtol=0, atol=3e-3 if outside.any() else 1e-4)
    inside = valid[..., None] & ~outside
    np.testing.assert_allclose(found[inside], wanted[inside], rtol=0, atol=1e-4)


def optimum(table: np.ndarray) -> float:
    """The least total cost of giving every row a column of its own, by dynamic programming over sets of rows."""
    rows = len(table)
    best = {0: 0.0}
    for column in table.T:
        for taken, cost in list(best.items()):
            for row in range(rows):
                if not taken >> row & 1:
                    more = taken | 1 << row
                    best[more] = min(best.get(more, math.inf), cost + column[row])
    return best[(1 << rows) - 1]


def test_the_optimum_is_that_of_all_permutations():
    table = np.random.default_rng(0).normal(size=(4, 6))
    tried = (sum(table[row, column] for row, column in enumerate(p)) for p in itertools.permutations(range(6), 4))
    assert optimum(table) == pytest.approx(min(tried))


def check_one_to_one(cost: torch.Tensor, valid: torch.Tensor) -> None:
    matches = one_to_one(cost, valid)
    batch, _, count = cost.shape
    pairs = list(zip(matches.image.tolist(), matches.location.tolist(), matches.target.tolist(), strict=True))
    assert len({(b, n) for b, n, _ in pairs}) == len(pairs)  # no location serves two objects
    assert len({(b, m) for b, _, m in pairs}) == len(pairs)  # no object is matched twice
    assert all(bool(valid[b, m]) and 0 <= n < count for b, n, m in pairs)
    for b in range(batch):
        rows = valid[b].nonzero()[:, 0].tolist()
        mine = [(n, m) for image, n, m in pairs if image == b]
        assert len(mine) == min(len(rows), count)
        if not 0 < len(rows) <= count:
            continue
        table = cost[b].double().numpy()[rows]
        total = sum(float(cost[b, m, n]) for n, m in mine)
        if len(rows) <= 6:
            assert total >= optimum(table) - 1e-4
        firsts = table.argmin(1)
        alone = (table == table.min(1, keepdims=True)).sum(1) == 1
        if len(set(firsts)) == len(rows) and alone.all():  # no two objects want one location: each has its best
            assert total == pytest.approx(table.min(1).sum(), abs=1e-4)
            assert {m: n for n, m in mine} == dict(zip(rows, firsts.tolist(), strict=True))


@st.composite
def costs(draw):
    batch, most, count = draw(st.integers(1, 3)), draw(st.integers(0, 6)), draw(st.integers(1, 8))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))
    if draw(st.booleans()):
        cost = torch.randint(-2, 3, (batch, most, count), generator=generator).float()  # ties
    else:
        cost = torch.randn(batch, most, count, generator=generator)
    if most > 1 and draw(st.booleans()):
        cost[:, 1:] = cost[:, :1]  # equal objects
    return cost, torch.rand(batch, most, generator=generator) < draw(st.sampled_from([0.0, 0.5, 1.0]))


@given(costs())
@settings(max_examples=300)
def test_every_object_gets_one_location_of_its_own(case):
    check_one_to_one(*case)


@pytest.mark.parametrize("seed", range(10))
def test_objects_that_want_different_locations_get_the_optimum(seed):
    generator = torch.Generator().manual_seed(seed)
    cost = torch.rand(2, 12, 100, generator=generator) + 1
    for b in range(2):
        cost[b, torch.arange(12), torch.randperm(100, generator=generator)[:12]] = 0.5
    check_one_to_one(cost, torch.ones(2, 12, dtype=torch.bool))


def test_the_cheaper_of_two_keeps_the_location():
    cost = torch.tensor([[[1.0, 5.0, 9.0], [0.5, 7.0, 2.0], [3.0, 0.0, 4.0]]])
    matches = one_to_one(cost, torch.ones(1, 3, dtype=torch.bool))
    assert dict(zip(matches.target.tolist(), matches.location.tolist(), strict=True)) == {0: 2, 1: 0, 2: 1}


def test_the_cost_is_left_as_it_was():
    cost = torch.rand(1, 4, 5)
    before = cost.clone()
    one_to_one(cost, torch.ones(1, 4, dtype=torch.bool))
    torch.testing.assert_close(cost, before, rtol=0, atol=0)


def of_image(predictions: Predictions, targets: Targets, b: int) -> tuple[Predictions, Targets]:
    keep = targets.valid[b]
    alone = Targets(targets.boxes[b : b + 1, keep], targets.labels[b : b + 1, keep], targets.valid[b : b + 1, keep])
    return predictions._replace(logits=predictions.logits[b : b + 1], boxes=predictions.boxes[b : b + 1]), alone


@pytest.mark.parametrize("assign", [MinimumCost(), TopQuality(), TopQuality(k=1000)])
@pytest.mark.parametrize("seed", range(4))
def test_an_image_alone_is_matched_as_in_a_batch(assign, seed):
    predictions, targets = make_predictions(4, seed), make_targets([3, 0, 9, 1], seed + 50)
    together = assign(predictions, targets)
    assert len(together.image) >= 13
    for b in range(4):
        alone = assign(*of_image(predictions, targets, b))
        mine = together.image == b
        order, other = together.location[mine].argsort(), alone.location.argsort()
        torch.testing.assert_close(together.location[mine][order], alone.location[other], rtol=0, atol=0)
        torch.testing.assert_close(together.target[mine][order], alone.target[other], rtol=0, atol=0)
        torch.testing.assert_close(together.quality[mine][order], alone.quality[other])


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("crowd", [0, 40])
def test_costs_of_near_pairs_alone_decide_as_all_costs_do(seed, crowd):
    """Forty times one tiny object: its few locations are not enough, so most go to a last resort."""
    assign, predictions = MinimumCost(), make_predictions(3, seed)
    targets = make_targets([3, 12, crowd], seed + 50)
    targets.boxes[2] = torch.tensor([30.0, 30, 34, 34])
    fewest = near(targets.boxes, predictions.points, predictions.strides, assign.radius).sum(-1).min()
    assert fewest < 40 < len(predictions.points)
    found, wanted = assign(predictions, targets), one_to_one(assign.cost(predictions, targets), targets.valid)
    for one, other in zip(found, wanted, strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize("assign", [MinimumCost(), TopQuality()])
def test_no_object_in_the_batch(assign):
    matches = assign(make_predictions(2, 0), make_targets([0, 0], 0))
    assert [len(column) for column in matches] == [0, 0, 0, 0]


@pytest.mark.parametrize("assign", [MinimumCost(), TopQuality()])
def test_no_gradient_flows(assign):
    predictions, targets = make_predictions(2, 0), make_targets([3, 2], 0)
    learned = predictions._replace(logits=predictions.logits.requires_grad_(), boxes=predictions.boxes.requires_grad_())
    assert not any(column.requires_grad for column in assign(learned, targets))


def plain_one_to_many(quality: np.ndarray, k: int) -> dict[tuple[int, int], tuple[int, float]]:
    """(image, location) -> (object, its share of the object's best), one claim at a time."""
    matches = {}
    for b, table in enumerate(quality):
        claims: dict[int, tuple[float, int]] = {}
        for m, row in enumerate(table):
            for n in sorted(range(len(row)), key=lambda i, row=row: -row[i])[:k]:
                if row[n] >= 0 and row[n] > claims.get(n, (-1.0, 0))[0]:
                    claims[n] = (float(row[n]), m)
        for n, (value, m) in claims.items():
            matches[b, n] = (m, value / max(table[m].max(), 1e-6))
    return matches


@pytest.mark.parametrize("k", [1, 3, 9, 500])
@pytest.mark.parametrize("seed", range(3))
def test_one_to_many_is_what_a_plain_loop_says(k, seed):
    generator = torch.Generator().manual_seed(seed)
    quality = torch.rand(2, 5, 30, generator=generator)
    quality[torch.rand(2, 5, 30, generator=generator) < 0.5] = -1  # barred
    quality[1, 4] = -1  # padding
    found, wanted = one_to_many(quality, k), plain_one_to_many(quality.numpy(), k)
    assert set(zip(found.image.tolist(), found.location.tolist(), strict=True)) == set(wanted)
    assert len(found.image) == len(wanted)
    for b, n, m, share in zip(*(column.tolist() for column in found), strict=True):
        assert (m, pytest.approx(share, abs=1e-6)) == wanted[b, n]


def test_quality_is_probability_and_overlap_where_the_place_allows():
    predictions, targets = make_predictions(1, 5), make_targets([4], 6)
    found = TopQuality(k=5, balance=0.6)(predictions, targets)
    p = predictions.logits[0].sigmoid()[:, targets.labels[0]].T
    iou = box_iou(targets.boxes[0], predictions.boxes[0])
    quality = (p**0.4 * iou**0.6).numpy()
    for m, (left, top, right, bottom) in enumerate(targets.boxes[0].tolist()):
        for n, (x, y) in enumerate(predictions.points.tolist()):
            gap = max(abs(x - (left + right) / 2), abs(y - (top + bottom) / 2))
            if not (gap < 1.5 * float(predictions.strides[n]) or (left < x < right and top < y < bottom)):
                quality[m, n] = -1
    wanted = plain_one_to_many(quality[None], 5)
    assert {(0, n): m for n, m in zip(found.location.tolist(), found.target.tolist(), strict=True)} == {
        key: m for key, (m, _) in wanted.items()
    }
