"""The fully convolutional head: a class score and a box at every location."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from leandet.detector.layers import separable

PRIOR = 0.01  # probability of an object before training; focal loss (arXiv 1708.02002, section 3.3)


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


def class_tower(width: int, classes: int) -> Tower:
    """A tower that scores `classes`, started at probability 0.01 everywhere."""
    return Tower(width, classes, -math.log((1 - PRIOR) / PRIOR))


class Head(nn.Module):
    """Scores and distances at every location of every level.

    A location predicts its distances to the four sides of its box, as softplus(x) strides (never negative, and unlike
    ReLU never without gradient).

    Args:
        width: channels of the features.
        classes: number of classes.
        levels: number of levels; each has a learned scale of its distances (FCOS, arXiv 1904.01355, section 3.2).
    """

    def __init__(self, width: int, classes: int, levels: int) -> None:
        super().__init__()
        self.classify = class_tower(width, classes)
        self.regress = Tower(width, 4, 2.0)  # boxes start about four strides wide
        self.scales = nn.Parameter(torch.ones(levels))

    def forward(self, features: Sequence[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        """Features (B, width, h, w) -> logits (B, classes, h, w) and distances (B, 4, h, w) in strides, by level."""
        logits = [self.classify(feature) for feature in features]
        distances = [F.softplus(self.regress(f) * self.scales[i]) for i, f in enumerate(features)]
        return logits, distances
