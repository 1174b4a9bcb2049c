"""The head of a deployed detector: the same answers in fewer operations."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from leandet.detector.head import BAR, WIDE, Head, Maps

FEW_CLASSES = 16  # a convolution computes so many outputs at once, asked for or not


class DeployedHead(nn.Module):
    """Answers scores instead of classes and choice, and the bars of the wide boxes beside their sides.

    A decode of many small operations takes longer than their sums: each finds the caches full of the network. So what
    is linear in the features is left to the predictors, whose last blocks of outputs are mostly empty: the mean of the
    sides is a fifth one of theirs, and where there are few classes, the choice is predicted once for each, so that
    adding it is a part of the convolution.

    Args:
        head: in evaluation mode; its modules are taken over and changed.
    """

    def __init__(self, head: Head) -> None:
        super().__init__()
        self.classify, self.choose, self.regress = head.classify, head.choose, head.regress
        mean = torch.cat([torch.eye(4), torch.full((1, 4), -BAR / 4)])
        below = torch.tensor([0.0, 0.0, 0.0, 0.0, BAR * WIDE])
        for classify, choose, regress in zip(self.classify, self.choose, self.regress, strict=True):
            classes = _predictor(classify).out_channels
            if classes <= FEW_CLASSES:
                _combine(_predictor(choose), torch.ones(classes, 1), torch.zeros(classes))
            _combine(_predictor(regress), mean, below)

    def forward(self, features: Sequence[Tensor]) -> Maps:
        """Features (B, width, h, w) by level -> maps by level, with scores in place of classes and choice."""
        scores, sides, bars = [], [], []
        for feature, classify, choose, regress in zip(features, self.classify, self.choose, self.regress, strict=True):
            scores.append(classify(feature) + choose(feature))
            four, fifth = regress(feature).split([4, 1], 1)
            sides.append(four)
            bars.append(F.relu(fifth))
        return Maps(scores, [], sides, bars)


def _predictor(tower: nn.Module) -> nn.Conv2d:
    return cast(nn.Conv2d, list(tower.children())[-1])


def _combine(predictor: nn.Conv2d, shares: Tensor, more: Tensor) -> None:
    """Let a predictor answer sums of its outputs, shares (new, old), and more (new,) of each."""
    weight, bias = predictor.weight.detach(), predictor.bias
    shares = shares.to(weight)
    predictor.weight = nn.Parameter(torch.tensordot(shares, weight, 1))
    old = torch.zeros(len(weight)).to(weight) if bias is None else bias.detach()
    predictor.bias = nn.Parameter(shares @ old + more.to(weight))
    predictor.out_channels = len(shares)
