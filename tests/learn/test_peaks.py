"""How steeply scores fall is chosen by what it costs."""

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from leandet.data.sample import Sample
from leandet.detector.head import Maps
from leandet.learn.peaks import accuracies, keep_apart, steepest
from leandet.learn.validation import ValidationBatch
from leandet.preprocess import Placement, Size

SIDE = 64


class Told(nn.Module):
    """A head that says the same of every picture: at stride 8, boxes 20 px wide, logits of the first classes."""

    def __init__(self, *logits: dict[tuple[int, int], float]) -> None:
        super().__init__()
        self.logits = logits

    def forward(self, features: list[torch.Tensor]) -> Maps:
        sizes = [feature.shape[-2:] for feature in features]
        classes = [torch.full((1, 3, *size), -20.0) for size in sizes]
        for kind, logits in enumerate(self.logits):
            for (y, x), logit in logits.items():
                classes[0][0, kind, y, x] = logit
        sides = [torch.full((1, 4, *size), math.log(math.expm1(10 / 8))) for size in sizes]
        return Maps(classes, [torch.zeros(1, 1, *size) for size in sizes], sides)


def box(y: int, x: int) -> list[float]:
    cx, cy = 8 * x + 4, 8 * y + 4
    return [cx - 10, cy - 10, cx + 10, cy + 10]


def picture(
    objects: list[tuple[int, int]], size: Size, labels: list[int] | None = None
) -> tuple[list[ValidationBatch], list[Sample]]:
    """One picture with objects at these places, of the first class where nothing else is said."""
    boxes, labels = np.array([box(*place) for place in objects], np.float32), np.array(labels or [0] * len(objects))
    sample = Sample(Path("drawn.png"), size, boxes, labels, np.zeros(len(objects), bool), "drawn")
    images = torch.zeros(1, 3, size.height, size.width, dtype=torch.uint8)
    return [ValidationBatch(images, [Placement(1.0, 1.0, 0, 0, size)])], [sample]


def many() -> list[Sample]:
    """So many objects that half a point is more than two of them."""
    return picture([(2, 2)] * 1000, Size(SIDE, SIDE))[1]


def measured(untrained, logits: dict[tuple[int, int], float], objects: list[tuple[int, int]]) -> dict[float, float]:
    detector = untrained().eval()
    detector.head = Told(logits)
    return accuracies(detector, *picture(objects, Size(SIDE, SIDE)), ("a", "b", "c"))


def test_where_neighbours_are_objects_scores_fall_gently(untrained):
    """The second object stands beside the surer first; the third answer, far off, is wrong."""
    found = measured(untrained, {(2, 2): 4.0, (2, 3): 3.0, (6, 6): -1.0}, [(2, 2), (2, 3)])
    assert found[0] == found[1] == found[3] == pytest.approx(1)  # 3 - 3 * (4 - 3) is still above -1
    assert found[8] == pytest.approx((51 * 1 + 50 * 2 / 3) / 101)  # -5 is not: right, wrong, right
    assert steepest(found, many()) == 3


def test_where_neighbours_are_duplicates_they_fall_steeply(untrained):
    found = measured(untrained, {(2, 2): 4.0, (2, 3): 3.0, (6, 6): -1.0}, [(2, 2), (6, 6)])
    assert found[0] == found[1] == found[3] == pytest.approx((51 * 1 + 50 * 2 / 3) / 101)
    assert found[8] == pytest.approx(1)
    assert steepest(found, many()) == 8


def test_where_objects_of_two_classes_meet_only_one_class_competes(untrained):
    """The second object, of another class, stands beside the surer first; the third answer, far off, is wrong."""
    detector = untrained().eval()
    told = Told({(2, 2): 4.0, (6, 6): -1.0}, {(2, 3): 3.0, (6, 2): -1.0})
    detector.head = told
    given = picture([(2, 2), (2, 3)], Size(SIDE, SIDE), [0, 1])
    apart, together = (accuracies(detector, *given, ("a", "b", "c"), [8.0], classwise=c)[8.0] for c in (True, False))
    assert apart == pytest.approx(1)
    assert together == pytest.approx((1 + 0.5) / 2)  # the second's score is below that of a wrong one of its class
    assert keep_apart(apart, together)
    assert not keep_apart(apart, apart - 0.0009)


def test_half_a_point_is_spent_and_no_more():
    assert steepest({8.0: 0.3949, 3.0: 0.3951, 1.0: 0.41, 0.0: 0.4}, many()) == 3
    assert steepest({8.0: 0.1, 3.0: 0.1, 1.0: 0.1, 0.0: 0.4}, many()) == 0


def test_two_objects_of_a_few_decide_nothing():
    fifty = picture([(2, 2)] * 50, Size(SIDE, SIDE))[1]
    assert steepest({8.0: 0.361, 3.0: 0.4, 0.0: 0.4}, fifty) == 8
    assert steepest({8.0: 0.359, 3.0: 0.4, 0.0: 0.4}, fifty) == 3


def test_as_many_answers_count_as_the_detector_gives(untrained):
    """A hundred and fifty objects in a row: COCO's hundred would leave a third of them out."""
    detector = untrained().eval()
    places = [(1, x) for x in range(1, 301, 2)]
    detector.head = Told(dict.fromkeys(places, 4.0))
    row = picture(places, Size(32, 8 * 304))
    few = accuracies(detector, *row, ("a", "b", "c"))
    detector.spec = replace(detector.spec, detections=200)
    many = accuracies(detector, *row, ("a", "b", "c"))
    assert few[0] < 0.7
    assert many[0] > 0.99
