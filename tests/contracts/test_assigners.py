"""What every assigner must do, and that each does what its paper says, one object and location at a time."""

import itertools
import math
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from scipy.optimize import linear_sum_assignment
from torchvision.models.detection._utils import Matcher
from torchvision.ops import box_iou

from leandet.data.batch import Targets
from leandet.detector.decode import Predictions, locations, to_boxes
from leandet.learn.assign import Assigner, MinimumCost, TopQuality
from leandet.learn.assign_by_place import YOLO_ANCHORS, BestAnchor, BoxOverlap, NearestCentre, ScaleRange
from leandet.learn.assign_by_quality import HighestQuality, Hungarian, TaskAligned

HEIGHT, WIDTH, CLASSES = 192, 256, 3
LEVELS = (8, 16, 32)


@dataclass(frozen=True)
class Row:
    """An assigner and what it promises."""

    name: str
    assign: Assigner
    finds_all: bool  # every valid object is matched
    one_to_one: bool


ROWS = [
    Row("minimum cost", MinimumCost(), True, True),
    Row("minimum cost, location only", MinimumCost(classification=0), True, True),
    Row("Hungarian", Hungarian(), True, True),
    Row("Hungarian, the paper's", Hungarian(MinimumCost(radius=math.inf)), True, True),
    Row("highest quality", HighestQuality(), True, True),
    Row("nearest centre", NearestCentre(), True, True),
    Row("best anchor", BestAnchor(), True, True),
    Row("Faster R-CNN", BoxOverlap.faster_rcnn(), True, False),
    Row("SSD", BoxOverlap.ssd(), True, False),
    Row("RetinaNet", BoxOverlap.retinanet(), True, False),
    Row("FCOS", ScaleRange(), False, False),
    Row("FCOS, whole box", ScaleRange(radius=math.inf), False, False),
    Row("task aligned", TaskAligned(), False, False),
    Row("top quality", TopQuality(), False, False),
]
every = pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)


def make_predictions(batch: int, seed: int, levels: tuple[int, ...] = LEVELS) -> Predictions:
    """Boxes that overlap every object of `make_targets`, so that no two costs are equal."""
    generator = torch.Generator().manual_seed(seed)
    maps = [torch.zeros(batch, 1, math.ceil(HEIGHT / s), math.ceil(WIDTH / s)) for s in levels]
    points, strides = locations(maps, levels)
    distances = 20 * (1 + torch.rand(batch, len(points), 4, generator=generator)) / strides[:, None] * 8
    logits = torch.randn(batch, len(points), CLASSES, generator=generator) * 2
    return Predictions(logits, to_boxes(distances, points, strides), points, strides)


def make_targets(counts: list[int], seed: int) -> Targets:
    generator = torch.Generator().manual_seed(seed)
    boxes, labels = [], []
    for count in counts:
        sides = 8 + torch.rand(count, 2, generator=generator) ** 2 * 140
        corner = torch.rand(count, 2, generator=generator) * (torch.tensor([WIDTH, HEIGHT]) - sides)
        boxes.append(torch.cat([corner, corner + sides], 1))
        labels.append(torch.randint(CLASSES, (count,), generator=generator))
    return Targets.pad(boxes, labels)


def pairs(matches) -> dict[tuple[int, int], tuple[int, float]]:
    """(image, location) -> (object, quality); fails where a location serves twice."""
    columns = [column.tolist() for column in matches]
    found = {(b, n): (m, round(q, 5)) for b, n, m, q in zip(*columns, strict=True)}
    assert len(found) == len(columns[0])
    return found


@every
@pytest.mark.parametrize("seed", range(3))
def test_matches_are_of_valid_objects_and_distinct_locations(row, seed):
    predictions, targets = make_predictions(3, seed), make_targets([7, 0, 12], seed + 10)
    matches = row.assign(predictions, targets)
    found = pairs(matches)
    assert found
    assert all(bool(targets.valid[b, m]) and 0 <= n < len(predictions.points) for (b, n), (m, _) in found.items())
    assert matches.quality.dtype == torch.float32
    assert all(0 <= quality <= 1 for _, quality in found.values())
    objects = [(b, m) for (b, _), (m, _) in found.items()]
    if row.finds_all:
        assert set(objects) == {tuple(i) for i in targets.valid.nonzero().tolist()}
    if row.one_to_one:
        assert len(set(objects)) == len(objects)
        assert (matches.quality == 1).all()


@every
@pytest.mark.parametrize("seed", range(3))
def test_the_order_of_images_and_objects_does_not_matter(row, seed):
    # In float32 two totals of the Hungarian's can be equal.
    predictions = Predictions(*(column.double() for column in make_predictions(3, seed)))
    targets = make_targets([7, 4, 12], seed + 10)
    generator = torch.Generator().manual_seed(seed)
    images = torch.randperm(3, generator=generator)
    objects = torch.randperm(12, generator=generator)
    shuffled = row.assign(
        predictions._replace(logits=predictions.logits[images], boxes=predictions.boxes[images]),
        Targets(*(column[images][:, objects] for column in targets)),
    )
    back = {(int(images[b]), n): (int(objects[m]), q) for (b, n), (m, q) in pairs(shuffled).items()}
    assert back == pairs(row.assign(predictions, targets))


@every
def test_an_image_alone_is_matched_as_in_a_batch(row):
    predictions, targets = make_predictions(3, 4), make_targets([7, 0, 12], 5)
    together = pairs(row.assign(predictions, targets))
    for b in range(3):
        kept = targets.valid[b]
        alone = row.assign(
            predictions._replace(logits=predictions.logits[b : b + 1], boxes=predictions.boxes[b : b + 1]),
            Targets(*(column[b : b + 1, kept] for column in targets)),
        )
        assert {(b, n): value for (_, n), value in pairs(alone).items()} == {
            key: value for key, value in together.items() if key[0] == b
        }


@every
@pytest.mark.parametrize("padded", [0, 3])
def test_no_object_at_all(row, padded):
    targets = Targets(
        torch.zeros(2, padded, 4), torch.zeros(2, padded, dtype=torch.int64), torch.zeros(2, padded, dtype=torch.bool)
    )
    matches = row.assign(make_predictions(2, 0), targets)
    assert [len(column) for column in matches] == [0, 0, 0, 0]
    assert [column.dtype for column in matches] == [torch.int64] * 3 + [torch.float32]


@every
def test_no_gradient_flows_and_nothing_is_changed(row):
    predictions, targets = make_predictions(2, 0), make_targets([3, 2], 0)
    learned = predictions._replace(logits=predictions.logits.requires_grad_(), boxes=predictions.boxes.requires_grad_())
    before = [column.clone() for column in (*learned, *targets)]
    assert not any(column.requires_grad for column in row.assign(learned, targets))
    for column, kept in zip((*learned, *targets), before, strict=True):
        assert torch.equal(column, kept)


@every
def test_more_objects_than_locations(row):
    predictions = make_predictions(1, 0, levels=(64,))
    targets = make_targets([len(predictions.points) + 5], 1)
    found = pairs(row.assign(predictions, targets))
    assert len(found) <= len(predictions.points)
    if row.finds_all and row.one_to_one:
        assert len(found) == len(predictions.points)


PLACE_ONLY = [r for r in ROWS if type(r.assign) in (BoxOverlap, NearestCentre, ScaleRange, BestAnchor)]


@pytest.mark.parametrize("row", PLACE_ONLY, ids=lambda row: row.name)
def test_an_assignment_by_place_ignores_the_answers(row):
    targets = make_targets([7, 12], 3)
    assert pairs(row.assign(make_predictions(2, 0), targets)) == pairs(row.assign(make_predictions(2, 1), targets))


@pytest.mark.parametrize("radius", [1.5, math.inf])
def test_hungarian_has_the_least_total_cost(radius):
    predictions, targets = make_predictions(2, 0), make_targets([6, 9], 1)
    cost = MinimumCost(radius=radius).cost(predictions, targets)
    totals = {}
    for assign in (Hungarian(MinimumCost(radius=radius)), MinimumCost(radius=radius)):
        matches = assign(predictions, targets)
        totals[type(assign)] = float(cost[matches.image, matches.target, matches.location].sum())
    least = 0.0
    for b in range(2):
        table = cost[b][targets.valid[b]].numpy()
        least += table[linear_sum_assignment(table)].sum()
    assert totals[Hungarian] == pytest.approx(least, rel=1e-5)
    assert totals[MinimumCost] >= totals[Hungarian] - 1e-4


def one_image(seed: int, count: int = 6) -> tuple[Predictions, Targets, list[list[float]]]:
    predictions, targets = make_predictions(1, seed), make_targets([count], seed + 20)
    return predictions, targets, targets.boxes[0].tolist()


def greedy(cost: np.ndarray) -> dict[int, int]:
    """Location -> object: every object its cheapest location, the loser of a conflict its next, until all have one."""
    wanted = {m: list(np.argsort(row, kind="stable")) for m, row in enumerate(cost)}
    given: dict[int, int] = {}
    waiting = list(wanted)
    while waiting:
        claims: dict[int, list[int]] = {}
        for m in waiting:
            while wanted[m][0] in given and cost[given[wanted[m][0]], wanted[m][0]] <= cost[m, wanted[m][0]]:
                wanted[m].pop(0)
            claims.setdefault(int(wanted[m][0]), []).append(m)
        waiting = []
        for n, rivals in claims.items():
            rivals = sorted([*rivals, *([given[n]] if n in given else [])], key=lambda m, n=n: cost[m, n])  # noqa: PLW2901
            given[n] = rivals[0]
            waiting += rivals[1:]
    return given


def anchor_overlap(assign: BoxOverlap, predictions: Predictions, boxes: list[list[float]]) -> np.ndarray:
    overlap = np.zeros((len(boxes), len(predictions.points)))
    for n, ((x, y), stride) in enumerate(zip(predictions.points.tolist(), predictions.strides.tolist(), strict=True)):
        for side, ratio in itertools.product(assign.anchors.sides, assign.anchors.ratios):
            width, height = side * stride / math.sqrt(ratio), side * stride * math.sqrt(ratio)
            anchor = torch.tensor([[x - width / 2, y - height / 2, x + width / 2, y + height / 2]])
            iou = box_iou(torch.tensor(boxes), anchor)[:, 0].numpy()
            overlap[:, n] = np.maximum(overlap[:, n], iou)
    return overlap


@pytest.mark.parametrize(
    "assign", [BoxOverlap.faster_rcnn(), BoxOverlap.retinanet()], ids=["Faster R-CNN", "RetinaNet"]
)
@pytest.mark.parametrize("seed", range(2))
def test_box_overlap_is_what_a_plain_loop_says_and_torchvisions_matcher(assign, seed):
    predictions, targets, boxes = one_image(seed)
    overlap = anchor_overlap(assign, predictions, boxes)
    middles = (targets.boxes[0, :, None, :2] + targets.boxes[0, :, None, 2:]) / 2
    nearer = (predictions.points - middles).abs().amax(-1).numpy() * 1e-6  # decides between equal overlaps
    own = greedy(nearer - overlap)
    wanted = dict(own)
    for n, column in enumerate(overlap.T):
        if n not in own and column.max() >= assign.threshold:
            wanted[n] = int(column.argmax())
    found = {n: m for (_, n), (m, _) in pairs(assign(predictions, targets)).items()}
    assert found == wanted
    theirs = Matcher(assign.threshold, assign.threshold, allow_low_quality_matches=False)(torch.tensor(overlap))
    agreed = {n: int(m) for n, m in enumerate(theirs) if m >= 0 and own.get(n, m) == m}
    assert agreed.items() <= found.items()
    assert len(found) - len(agreed) <= len(boxes)


def reach_of_level(stride: float) -> tuple[float, float]:
    return {8.0: (0, 64), 16.0: (64, 128), 32.0: (128, math.inf)}[stride]


@pytest.mark.parametrize("radius", [1.5, math.inf])
@pytest.mark.parametrize("seed", range(3))
def test_scale_range_is_what_a_plain_loop_says(radius, seed):
    predictions, targets, boxes = one_image(seed, 12)
    wanted = {}
    for n, ((x, y), stride) in enumerate(zip(predictions.points.tolist(), predictions.strides.tolist(), strict=True)):
        low, high = reach_of_level(stride)
        fit = []
        for m, (left, top, right, bottom) in enumerate(boxes):
            sides = (x - left, y - top, right - x, bottom - y)
            central = max(abs(x - (left + right) / 2), abs(y - (top + bottom) / 2)) < radius * stride
            if min(sides) > 0 and low <= max(sides) < high and central:
                fit.append(((right - left) * (bottom - top), m))
        if fit:
            wanted[n] = min(fit)[1]
    found = {n: m for (_, n), (m, _) in pairs(ScaleRange(radius)(predictions, targets)).items()}
    assert found == wanted


@pytest.mark.parametrize("seed", range(3))
def test_nearest_centre_is_what_a_plain_loop_says(seed):
    predictions, targets, boxes = one_image(seed, 10)
    cost = np.zeros((len(boxes), len(predictions.points)))
    for m, (left, top, right, bottom) in enumerate(boxes):
        for n, ((x, y), s) in enumerate(zip(predictions.points.tolist(), predictions.strides.tolist(), strict=True)):
            low, high = reach_of_level(s)
            cost[m, n] = max(abs(x - (left + right) / 2), abs(y - (top + bottom) / 2))
            cost[m, n] += 0 if low <= max(right - left, bottom - top) / 2 < high else 1e4
    found = {n: m for (_, n), (m, _) in pairs(NearestCentre()(predictions, targets)).items()}
    assert found == greedy(cost)


@pytest.mark.parametrize("seed", range(3))
def test_best_anchor_is_what_a_plain_loop_says(seed):
    predictions, targets, boxes = one_image(seed)
    found = {m: n for (_, n), (m, _) in pairs(BestAnchor()(predictions, targets)).items()}
    taken = set()
    for m, (left, top, right, bottom) in enumerate(boxes):
        width, height = right - left, bottom - top
        fits = []
        for index, (w, h) in enumerate(YOLO_ANCHORS):
            w, h = w * WIDTH / 416, h * HEIGHT / 416  # noqa: PLW2901
            both = min(w, width) * min(h, height)
            fits.append((both / (w * h + width * height - both), LEVELS[index // 3]))
        stride = max(fits)[1]
        cell = (int((left + right) / 2 / stride), int((top + bottom) / 2 / stride), stride)
        if cell in taken:
            continue  # who keeps a cell is one_to_one's business
        taken.add(cell)
        x, y = predictions.points[found[m]].tolist()
        assert (int(x / stride), int(y / stride), predictions.strides[found[m]].item()) == cell


def quality_of(predictions: Predictions, targets: Targets, p_power: float, iou_power: float) -> np.ndarray:
    """p^a * IoU^b, and -inf where the place rules a location out."""
    boxes = targets.boxes[0].tolist()
    table = np.full((len(boxes), len(predictions.points)), -math.inf)
    iou = box_iou(targets.boxes[0], predictions.boxes[0])
    for m, (left, top, right, bottom) in enumerate(boxes):
        for n, ((x, y), s) in enumerate(zip(predictions.points.tolist(), predictions.strides.tolist(), strict=True)):
            central = max(abs(x - (left + right) / 2), abs(y - (top + bottom) / 2)) < 1.5 * s
            if central or (left < x < right and top < y < bottom):
                p = 1 / (1 + math.exp(-float(predictions.logits[0, n, targets.labels[0, m]])))
                table[m, n] = p**p_power * float(iou[m, n]) ** iou_power
    return table


@pytest.mark.parametrize("seed", range(2))
def test_highest_quality_is_what_a_plain_loop_says(seed):
    predictions, targets, _ = one_image(seed, 10)
    found = {n: m for (_, n), (m, _) in pairs(HighestQuality()(predictions, targets)).items()}
    assert found == greedy(-quality_of(predictions, targets, 0.2, 0.8))


@pytest.mark.parametrize("seed", range(2))
def test_task_aligned_is_what_a_plain_loop_says(seed):
    predictions, targets, boxes = one_image(seed, 8)
    quality = quality_of(predictions, targets, 0.5, 6.0)
    wanted: dict[int, tuple[float, int]] = {}
    for m in range(len(boxes)):
        for n in np.argsort(-quality[m])[:10]:
            if quality[m, n] > wanted.get(int(n), (-math.inf, 0))[0]:
                wanted[int(n)] = (quality[m, n], m)
    found = pairs(TaskAligned()(predictions, targets))
    assert {n: m for (_, n), (m, _) in found.items()} == {n: m for n, (_, m) in wanted.items()}
    for (_, n), (m, share) in found.items():
        assert share == pytest.approx(min(1.0, wanted[n][0] / max(quality[m].max(), 1e-6)), abs=1e-4)
