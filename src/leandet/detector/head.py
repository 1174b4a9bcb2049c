"""The fully convolutional head: at every location what, where, and whether it is the one to answer."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from leandet.detector.decode import flatten
from leandet.detector.layers import separable

PRIOR = 0.01  # probability of an object before training; focal loss (arXiv 1708.02002, section 3.3)


class Maps(NamedTuple):
    """The head's answers, one map for each level.

    Attributes:
        classes: logits (B, C, h, w): which object is here, wherever its other locations are.
        chosen: logits (B, 1, h, w), added to the former: whether this location answers for its object. Empty for a head
            without such a choice.
        distances: (B, 4, h, w) to left, top, right and bottom, in strides, not negative.
    """

    classes: list[Tensor]
    chosen: list[Tensor]
    distances: list[Tensor]

    def logits(self) -> Tensor:
        """Scores before the sigmoid (B, N, C), at every location of every level."""
        classes = flatten(self.classes)
        return classes + flatten(self.chosen) if self.chosen else classes


class Tower(nn.Sequential):
    """Two separable convolutions and a 1x1 predictor, shared over the levels: (B, width, H, W) -> (B, outputs, H, W).

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
    four sides of its box as softplus(x) strides (never negative, and unlike ReLU never without gradient).

    Args:
        width: channels of the features.
        classes: number of classes.
        levels: number of levels; each has a learned scale of its distances (FCOS, arXiv 1904.01355, section 3.2).
    """

    def __init__(self, width: int, classes: int, levels: int) -> None:
        super().__init__()
        self.classify = Tower(width, classes, -math.log((1 - PRIOR) / PRIOR))
        self.choose = Tower(width, 1, 0.0)
        self.regress = Tower(width, 4, 2.0)  # boxes start about four strides wide
        self.scales = nn.Parameter(torch.ones(levels))

    def forward(self, features: Sequence[Tensor]) -> Maps:
        """Features (B, width, h, w) by level -> maps by level."""
        return Maps(
            [self.classify(feature) for feature in features],
            [self.choose(feature) for feature in features],
            [F.softplus(self.regress(f) * self.scales[i]) for i, f in enumerate(features)],
        )
