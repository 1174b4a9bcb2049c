"""What a detector is taught: which locations score, and where the boxes of the matched ones should lie."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from leandet.data.batch import Targets
from leandet.detector.decode import Predictions, flatten
from leandet.detector.detector import Detector
from leandet.detector.head import Maps
from leandet.learn.assign import Assigner, Matches, MinimumCost, Pairs, TopQuality
from leandet.learn.geometry import matched
from leandet.learn.processes import share

CLASSIFICATION, L1, GIOU = 2.0, 5.0, 2.0  # OneNet's weights, arXiv 2012.05780, section 4

Guide = Callable[[Detector, Maps, Tensor], Tensor]  # student, its maps and the images -> a further term of the loss


class Parts(NamedTuple):
    """The loss's terms, each a scalar, weighted; `total` is their sum."""

    classification: Tensor
    l1: Tensor
    giou: Tensor
    auxiliary: Tensor
    distillation: Tensor

    @property
    def total(self) -> Tensor:
        """What is minimised."""
        return self.classification + self.l1 + self.giou + self.auxiliary + self.distillation


def quality_focal(logits: Tensor, wanted: Tensor) -> Tensor:
    """Focal loss towards a soft target (GFL, arXiv 2006.04388, equation 5, beta 2): |wanted - p|^2 * cross-entropy.

    With `wanted` 0 or 1 it is the focal loss of gamma 2. Logits and wanted (B, N, C), wanted in [0, 1] -> scalar sum.
    """
    focus = (wanted - logits.sigmoid()).square()
    return (F.binary_cross_entropy_with_logits(logits, wanted, reduction="none") * focus).sum()


def wanted_scores(logits: Tensor, labels: Tensor, matches: Matches, quality: Tensor) -> Tensor:
    """Target scores (B, N, C): `quality` (P,) at each match's location and class, zero elsewhere."""
    wanted = torch.zeros_like(logits)
    wanted[matches.image, matches.location, labels[matches.image, matches.target]] = quality.to(logits.dtype)
    return wanted


class BoxTerms(NamedTuple):
    """Location terms of matched boxes: L1 in image units and 1 - GIoU, summed; and the IoU (P,) without gradient."""

    l1: Tensor
    giou: Tensor
    iou: Tensor


def box_terms(predictions: Predictions, targets: Targets, matches: Matches, weight: Tensor, extent: Tensor) -> BoxTerms:
    """L1 and GIoU of matched boxes, each weighted by `weight` (P,); `extent` (4,) is the input's W, H, W, H in px."""
    boxes = predictions.boxes[matches.image, matches.location]
    truth = targets.boxes[matches.image, matches.target]
    overlap = matched(boxes, truth)
    l1 = ((boxes - truth).abs() / extent).sum(1)
    return BoxTerms((l1 * weight).sum(), ((1 - overlap.giou) * weight).sum(), overlap.iou.detach().clamp(0, 1))


class Criterion(nn.Module):
    """OneNet's one-to-one loss on the scores, and a one-to-many loss on the class logits beneath them.

    Both ask for the IoU as score. The one-to-many loss shows every object to its nine best locations, so that classes
    and boxes are learned from many positives (DeFCN, arXiv 2012.03544, section 3.4); the one-to-one loss reaches the
    class logits no further than the single-channel choice that it adds to them.

    Args:
        auxiliary: weight of the one-to-many loss; with 0 the one-to-one loss teaches the class logits too.
        guide: what a teacher adds (`leandet.learn.distill`); None for none.
        assign: decides which locations the one-to-one loss teaches to detect; an assigner that gives an object several
            makes it the loss of a detector that needs NMS.
    """

    def __init__(self, auxiliary: float = 1.0, guide: Guide | None = None, assign: Assigner | None = None) -> None:
        super().__init__()
        self.guide = guide
        self.assign: Assigner = assign or MinimumCost()
        self.assign_many = TopQuality()
        self.auxiliary = auxiliary

    def forward(self, detector: Detector, images: Tensor, targets: Targets) -> Parts:
        """Images (B, 3, H, W) in 0..255 and their targets -> the loss's parts, per match."""
        maps: Maps = detector.head(detector.features(images))
        settled = maps._replace(classes=[m.detach() for m in maps.classes]) if self.auxiliary else maps
        predictions = detector.predict(settled)
        height, width = images.shape[-2:]
        extent = images.new_tensor([width, height, width, height], dtype=torch.float32)
        matches, pairs = self.one_to_one(predictions, targets)
        count = share(matches.quality.sum())  # one-to-one: the number of objects
        box = box_terms(predictions, targets, matches, matches.quality, extent)
        wanted = wanted_scores(predictions.logits, targets.labels, matches, matches.quality * box.iou)
        return Parts(
            CLASSIFICATION * quality_focal(predictions.logits, wanted) / count,
            L1 * box.l1 / count,
            GIOU * box.giou / count,
            self._many(predictions, maps.classes, targets, extent, pairs),
            self.guide(detector, maps, images) if self.guide is not None else images.new_zeros(()).float(),
        )

    def one_to_one(self, predictions: Predictions, targets: Targets) -> tuple[Matches, Pairs | None]:
        """The detection loss's matches, and the pairs they are of, where the auxiliary loss chooses from these too."""
        if isinstance(self.assign, MinimumCost) and self.assign.radius == self.assign_many.radius:
            pairs = Pairs.near(predictions, targets, self.assign.radius)
            return self.assign.among(pairs, predictions, targets), pairs
        return self.assign(predictions, targets), None

    def one_to_many(self, predictions: Predictions, targets: Targets, pairs: Pairs | None) -> Matches:
        """The matches of the auxiliary loss; place and boxes are those of `one_to_one`, and so are the pairs."""
        if pairs is None:
            return self.assign_many(predictions, targets)
        return self.assign_many.among(pairs, predictions, targets)

    def _many(
        self, chosen: Predictions, classes: list[Tensor], targets: Targets, extent: Tensor, pairs: Pairs | None
    ) -> Tensor:
        if not self.auxiliary:
            return chosen.logits.new_zeros(())
        predictions = chosen._replace(logits=flatten(classes))
        matches = self.one_to_many(predictions, targets, pairs)
        box = box_terms(predictions, targets, matches, matches.quality, extent)
        # Each object's best location is asked for its IoU, the others for their share of it: the ranking within an
        # object is taught too (task-aligned learning, TOOD, arXiv 2108.07755, section 3.2).
        wanted = wanted_scores(predictions.logits, targets.labels, matches, matches.quality * box.iou)
        total = share(matches.quality.sum())
        scores = CLASSIFICATION * quality_focal(predictions.logits, wanted)
        return self.auxiliary * (scores + L1 * box.l1 + GIOU * box.giou) / total
