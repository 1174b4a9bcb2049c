"""The assignments of detectors that need NMS: by where a location lies and what anchors it has, never by its answer.

A location of leandet's networks predicts one box, so it stands for all the anchors that the paper puts on it. Where
the paper ignores a location that is neither good nor bad, here it is a negative.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from leandet.data.batch import Targets
from leandet.detector.decode import Predictions
from leandet.learn.assign import OUTSIDE, Matches, input_extent, one_to_one
from leandet.learn.geometry import pairwise

# YOLOv3's nine anchors (arXiv 1804.02767, section 2.3), width and height in pixels of an input of 416.
YOLO_ANCHORS = (
    (10, 13), (16, 30), (33, 23), (30, 61), (62, 45), (59, 119), (116, 90), (156, 198), (373, 326)
)  # fmt: skip
YOLO_SIDE = 416


@dataclass(frozen=True, slots=True)
class Anchors:
    """Boxes that lie on every location.

    Attributes:
        sides: of the square with an anchor's area, in strides.
        ratios: height to width.
    """

    sides: tuple[float, ...]
    ratios: tuple[float, ...]

    def shapes(self) -> Tensor:
        """Width and height (A, 2) in strides."""
        return torch.tensor([[side / r**0.5, side * r**0.5] for side in self.sides for r in self.ratios])


@dataclass(frozen=True, slots=True)
class BoxOverlap:
    """One-to-many by the IoU of fixed anchors with the object; each object's best location is its own at any IoU.

    A location belongs to the object that its anchors overlap most. `faster_rcnn`, `ssd` and `retinanet` give the
    papers' constants.

    Attributes:
        threshold: IoU from which a location is positive.
        anchors: on every location; its IoU with an object is that of the best of them.
    """

    threshold: float
    anchors: Anchors

    @classmethod
    def faster_rcnn(cls) -> BoxOverlap:
        """The proposal network's (arXiv 1506.01497, section 3.1.2) with FPN's anchors (1612.03144, section 4.1)."""
        return cls(0.7, Anchors((8.0,), (0.5, 1.0, 2.0)))

    @classmethod
    def ssd(cls) -> BoxOverlap:
        """SSD's (arXiv 1512.02325, section 2.2), prior boxes of one scale and the next."""
        return cls(0.5, Anchors((8.0, 11.3), (1 / 3, 0.5, 1.0, 2.0, 3.0)))

    @classmethod
    def retinanet(cls) -> BoxOverlap:
        """RetinaNet's (arXiv 1708.02002, section 4)."""
        return cls(0.5, Anchors((4.0, 4 * 2 ** (1 / 3), 4 * 2 ** (2 / 3)), (0.5, 1.0, 2.0)))

    @torch.no_grad()
    def __call__(self, predictions: Predictions, targets: Targets) -> Matches:
        """Predictions of B images and their targets -> at least one match for each valid object."""
        iou = self.overlap(predictions, targets)
        # A small object lies whole in the anchors of many locations, which then overlap it alike: the nearest has it.
        cost = centre_distance(targets.boxes, predictions.points).mul_(1e-6).sub_(iou)
        return with_their_own(cost, iou >= self.threshold, targets.valid)

    def overlap(self, predictions: Predictions, targets: Targets) -> Tensor:
        """IoU (B, M, N) of each object with the best anchor of each location."""
        batch, most = targets.labels.shape
        points, strides = predictions.points, predictions.strides
        best = points.new_zeros(batch, most, len(points))
        for shape in self.anchors.shapes().to(points.device):
            half = shape * strides[:, None] / 2
            boxes = torch.cat([points - half, points + half], 1)
            best = torch.maximum(best, pairwise(targets.boxes, boxes[None]).iou)
        return best


@dataclass(frozen=True, slots=True)
class NearestCentre:
    """One-to-one: the location whose centre is nearest to the object's (CenterNet, arXiv 1904.07850, section 3).

    CenterNet has one level; on several, the object's size chooses the level as in FCOS.
    """

    @torch.no_grad()
    def __call__(self, predictions: Predictions, targets: Targets) -> Matches:
        """Predictions of B images and their targets -> one match for each valid object, while locations last."""
        cost = centre_distance(targets.boxes, predictions.points)
        reach = (targets.boxes[..., 2:] - targets.boxes[..., :2]).amax(-1, keepdim=True) / 2
        return one_to_one(cost + (~of_scale(reach, predictions.strides)).mul(OUTSIDE), targets.valid)


@dataclass(frozen=True, slots=True)
class ScaleRange:
    """One-to-many by level and place, as in FCOS (arXiv 1904.01355, section 3.2, with its centre sampling).

    A location serves an object if it lies in the box, near its centre, and the furthest side of the box is in the
    range of its level; of several objects it serves the smallest. An object too small or too hidden for that has none.

    Attributes:
        radius: of centre sampling, in strides; infinity for the whole box.
    """

    radius: float = 1.5

    @torch.no_grad()
    def __call__(self, predictions: Predictions, targets: Targets) -> Matches:
        """Predictions of B images and their targets -> any number of matches for each valid object."""
        left, top, right, bottom = targets.boxes[..., None].unbind(2)
        x, y = predictions.points.unbind(1)
        sides = torch.stack([x - left, y - top, right - x, bottom - y])
        central = (x - (left + right) / 2).abs().maximum((y - (top + bottom) / 2).abs())
        allowed = (sides.amin(0) > 0) & (central < self.radius * predictions.strides)
        allowed &= of_scale(sides.amax(0), predictions.strides) & targets.valid[..., None]
        area = ((right - left) * (bottom - top)).expand_as(allowed)
        return of_cheapest(area, allowed)


@dataclass(frozen=True, slots=True)
class BestAnchor:
    """One-to-one: the anchor whose shape fits best decides the level, the object's centre the cell (YOLOv2 and v3).

    YOLO9000 (arXiv 1612.08242), section 2; YOLOv3 (1804.02767), section 2.3. The nine anchors are dealt out to the
    levels, small ones to fine ones, and scaled with the input.
    """

    @torch.no_grad()
    def __call__(self, predictions: Predictions, targets: Targets) -> Matches:
        """Predictions of B images and their targets -> one match for each valid object, while locations last."""
        points, strides = predictions.points, predictions.strides
        anchors = points.new_tensor(YOLO_ANCHORS) * (input_extent(predictions) / YOLO_SIDE)
        corners = torch.cat([torch.zeros_like(anchors), anchors], 1)
        shapes = targets.boxes - targets.boxes[..., :2].repeat(1, 1, 2)  # every box moved to the origin
        fit = pairwise(shapes, corners[None]).iou  # (B, M, 9)
        levels = strides.unique()  # type: ignore[no-untyped-call]  # ascending
        parts = [part.amax(-1) for part in fit.tensor_split(len(levels), -1)]
        level = torch.searchsorted(levels, strides)
        cost = 1 - torch.stack(parts, -1)[..., level]
        distance = centre_distance(targets.boxes, points)
        elsewhere = distance > strides / 2
        return one_to_one(cost + elsewhere * (OUTSIDE + distance), targets.valid)


def centre_distance(objects: Tensor, points: Tensor) -> Tensor:
    """Distance in pixels of objects' (B, M, 4) centres from points (N, 2), the longer of its two axes -> (B, M, N)."""
    gap = (objects[..., None, :2] + objects[..., None, 2:]) / 2 - points
    return gap.abs().amax(-1)


def of_scale(reach: Tensor, strides: Tensor) -> Tensor:
    """Whether an object's reach in pixels, broadcast with strides (N,), is of that level's range.

    FCOS's ranges: from 4 to 8 strides; from 0 at the finest level, without end at the coarsest.
    """
    low = torch.where(strides > strides.min(), 4 * strides, 0.0)
    high = torch.where(strides < strides.max(), 8 * strides, torch.inf)
    return (reach >= low) & (reach < high)


def of_cheapest(cost: Tensor, allowed: Tensor) -> Matches:
    """Each location to the cheapest object (B, M, N) of those that allow it; a location that none allows is free."""
    if cost.shape[1] == 0:
        none = torch.zeros(0, dtype=torch.int64, device=cost.device)
        return Matches(none, none, none, none.float())
    least, target = cost.masked_fill(~allowed, torch.inf).min(1)
    image, location = (least < torch.inf).nonzero(as_tuple=True)
    return Matches(image, location, target[image, location], torch.ones(len(image), device=cost.device))


def with_their_own(cost: Tensor, allowed: Tensor, valid: Tensor) -> Matches:
    """Every valid object (B, M) gets one location by cost (B, M, N); the others go to the cheapest that allows them."""
    own = one_to_one(cost, valid)
    allowed = allowed & valid[..., None]
    allowed[own.image, :, own.location] = False
    allowed[own.image, own.target, own.location] = True
    return of_cheapest(cost, allowed)
