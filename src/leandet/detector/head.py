"""The fully convolutional head: at every location what, where, and whether it is the one to answer."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from leandet.detector.decode import columns
from leandet.detector.layers import separable

PRIOR = 0.01  # probability of an object before training; focal loss (arXiv 1708.02002, section 3.3)

# See `Maps.peaks`.
WIDE = 3.0  # strides from a location to its box's sides, on average, from which the box is wide
BAR = 1e4  # by which a score is lowered for each stride that its box lacks to being wide: as good as silent


class Maps(NamedTuple):
    """The head's answers, one map for each level.

    Attributes:
        classes: logits (B, C, h, w): which object is here, wherever its other locations are.
        chosen: logits (B, 1, h, w), added to the former: whether this location answers for its object. Empty for a head
            without such a choice.
        sides: (B, 4, h, w), of left, top, right and bottom: what `Style.reach` makes distances in strides of.
        bars: (B, 1, h, w), what `bars_of` makes of the sides, where the head answers it itself; empty otherwise.
        heights: (B, 1, h, w), what the surest class's score has become where classes competed with each other, the
            others as far below it as they were; empty otherwise.
    """

    classes: list[Tensor]
    chosen: list[Tensor]
    sides: list[Tensor]
    bars: Sequence[Tensor] = ()
    heights: Sequence[Tensor] = ()

    def logits(self) -> Tensor:
        """Scores before the sigmoid (B, N, C), at every location of every level."""
        return self.logits_by_class().transpose(1, 2)

    def logits_by_class(self) -> Tensor:
        """The same as (B, C, N), the order in which they lie in the maps."""
        classes = columns(self.classes)
        if self.heights:
            return classes + (columns(self.heights) - classes.amax(1, keepdim=True))
        return classes + columns(self.chosen) if self.chosen else classes

    def peaks(self, fall: float, classwise: bool = True) -> Maps:
        """The maps as they are used: a score beside a surer one falls further below it.

        Which of two neighbours an object's middle is nearer to, and at which of two levels a middling object is
        answered, is hard to tell, and both may be fairly sure of themselves. So a logit falls by `fall` times what it
        lacks to the highest of its class within reach; the highest keep theirs. In reach are 3x3 locations of its own
        level. Wide boxes are the same object further apart than that: where a location's box is `WIDE`, it meets the
        other wide ones of its level and all answers of the next coarser one on that one's grid, and those within 3x3
        locations of it are in each other's reach. On the coarsest level, the wide ones within 5x5 locations are.

        That is CenterNet's filter (arXiv 1904.07850, section 4) made gentle and, as in DeFCN (arXiv 2012.03544, section
        3.3), taken across levels. It compares no boxes with each other and knows neither order nor threshold of scores:
        max-pools, not an NMS. Losses see the maps as they were, but for the last epochs on crowds
        (docs/decisions/0001). A head without a choice keeps its maps, and so does one whose scores are not to fall.

        Where objects of several classes never stand so close that they meet, all classes may as well compete with each
        other: of each location its surest class alone, so that however many there are it costs as much as one.

        Args:
            fall: at least 0; `Spec.fall`.
            classwise: whether only scores of one class compete; `Spec.classwise`.
        """
        if not fall or not (self.chosen or self.bars):
            return self
        pairs = zip(self.classes, self.chosen, strict=True)
        scores = [what + answers for what, answers in pairs] if self.chosen else self.classes
        bars = self.bars or [bars_of(sides) for sides in self.sides]
        rivals = scores if classwise else [score.amax(1, keepdim=True) for score in scores]
        near = [F.max_pool2d(score, 3, 1, 1) for score in rivals]
        used, highest = [], near[0]
        for level, (score, bar) in enumerate(zip(rivals, bars, strict=True)):
            wide, coarser = score - bar, highest
            if level + 1 < len(rivals):
                ratio = score.shape[-1] // rivals[level + 1].shape[-1]
                # On the coarser grid, where there are few locations; competing on its own would take twice as long.
                coarser = torch.maximum(F.max_pool2d(F.max_pool2d(wide, ratio), 3, 1, 1), near[level + 1])
                far = F.interpolate(coarser, scale_factor=float(ratio))
            else:
                far = F.max_pool2d(wide, 5, 1, 2)
            used.append(score - fall * (torch.maximum(highest, far - bar) - score))
            highest = coarser
        return Maps(used, [], self.sides) if classwise else Maps(scores, [], self.sides, heights=used)


def bars_of(sides: Tensor) -> Tensor:
    """How far a score is lowered among the wide ones: not at all where its box is wide (see `Maps.peaks`).

    Args:
        sides: (B, 4, h, w), see `Maps.sides`.

    Returns:
        (B, 1, h, w), at least 0.
    """
    return F.relu(sides.mean(1, keepdim=True) * -BAR + BAR * WIDE)


class Tower(nn.Sequential):
    """Two separable convolutions and a 1x1 predictor for one level: (B, width, H, W) -> (B, outputs, H, W).

    Args:
        width: channels of the features.
        outputs: channels predicted.
        bias: what every location predicts at first.
    """

    def __init__(self, width: int, outputs: int, bias: float) -> None:
        predictor = nn.Conv2d(width, outputs, 1)
        nn.init.normal_(predictor.weight, std=0.01)
        if predictor.bias is not None:
            nn.init.constant_(predictor.bias, bias)
        super().__init__(separable(width, width), separable(width, width), predictor)


class Head(nn.Module):
    """Classes, choice and distances at every location of every level.

    The score of a location is its class logit plus its choice: what an object is can be learned from all its locations
    (one-to-many), and only the single-channel choice has to learn one-to-one. A location predicts the distances to the
    four sides of its box as softplus(x) strides (never negative, and unlike ReLU never without gradient); the softplus
    is left to who uses them, for in use it is needed at the chosen locations alone (`Detector.best`).

    Each level has towers of its own. One tower over all levels, as in FCOS, must not hold batch-norm: in training it
    would see each level's statistics, in use their mixture (docs/decisions/0007).

    Args:
        width: channels of the features.
        classes: number of classes.
        levels: number of levels.
    """

    def __init__(self, width: int, classes: int, levels: int) -> None:
        super().__init__()
        prior = -math.log((1 - PRIOR) / PRIOR)
        self.classify = nn.ModuleList(Tower(width, classes, prior) for _ in range(levels))
        self.choose = nn.ModuleList(Tower(width, 1, 0.0) for _ in range(levels))
        self.regress = nn.ModuleList(Tower(width, 4, 2.0) for _ in range(levels))  # boxes start four strides wide

    def forward(self, features: Sequence[Tensor]) -> Maps:
        """Features (B, width, h, w) by level -> maps by level."""
        return Maps(
            [tower(feature) for tower, feature in zip(self.classify, features, strict=True)],
            [tower(feature) for tower, feature in zip(self.choose, features, strict=True)],
            [tower(feature) for tower, feature in zip(self.regress, features, strict=True)],
        )
