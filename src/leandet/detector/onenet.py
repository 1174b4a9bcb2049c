"""OneNet's own necks and heads (arXiv 2012.05780), after CenterNet and after FCOS, to compare leandet's with."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from leandet.detector.head import PRIOR, Maps
from leandet.nets.blocks import conv_bn

GROUP = 8  # channels that group-norm (arXiv 1803.08494) takes together: 32 groups at the paper's width of 256


class CentreNeck(nn.Module):
    """Stride 32 to stride 4 in three doublings, each joined by the backbone's map of its size (OneNet, section 3.3).

    A step is a 3x3 convolution and a 4x4 transposed convolution of stride 2, each with batch-norm and ReLU, plus a 1x1
    convolution of the backbone's map. Plain convolutions stand where the authors also offer deformable ones.

    Args:
        channels: of the taps at strides 4, 8, 16, 32.
        width: channels of the output; the steps before have four times and twice as many (the paper's 256, 128, 64).
    """

    def __init__(self, channels: Sequence[int], width: int) -> None:
        super().__init__()
        inputs, steps, laterals = channels[-1], [], []
        for outputs, tap in zip((4 * width, 2 * width, width), reversed(channels[:-1]), strict=True):
            steps.append(
                nn.Sequential(
                    conv_bn(inputs, outputs, 3, activation=nn.ReLU),
                    nn.Sequential(
                        nn.ConvTranspose2d(outputs, outputs, 4, 2, 1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU()
                    ),
                )
            )
            laterals.append(nn.Conv2d(tap, outputs, 1))
            inputs = outputs
        self.steps, self.laterals = nn.ModuleList(steps), nn.ModuleList(laterals)
        _xavier(self)

    def forward(self, taps: Sequence[Tensor]) -> list[Tensor]:
        """Taps (B, C_l, H / s, W / s) at s = 4, 8, 16, 32 -> one (B, width, H / 4, W / 4)."""
        x = taps[-1]
        for step, lateral, tap in zip(self.steps, self.laterals, reversed(taps[:-1]), strict=True):
            x = step(x) + lateral(tap)
        return [x]


class CentreHead(nn.Module):
    """One 3x3 convolution shared by classes and boxes; a box reaches ReLU(x) pixels from its location.

    Args:
        width: channels of the features.
        classes: number of classes.
        stride: of the one level.
    """

    def __init__(self, width: int, classes: int, stride: int) -> None:
        super().__init__()
        self.stride = stride
        self.shared = nn.Sequential(nn.Conv2d(width, width, 3, padding=1), nn.ReLU())
        self.classify = nn.Conv2d(width, classes, 3, padding=1)
        self.regress = nn.Conv2d(width, 4, 3, padding=1)
        _xavier(self)
        _silence(self.classify)

    def forward(self, features: Sequence[Tensor]) -> Maps:
        """Features, one (B, width, h, w) -> maps."""
        shared = [self.shared(feature) for feature in features]
        return Maps([self.classify(x) for x in shared], [], [self.regress(x) / self.stride for x in shared])


class Pyramid(nn.Module):
    """A feature pyramid (arXiv 1612.03144) with FCOS's two coarser levels by 3x3 convolutions of stride 2.

    Args:
        channels: of the taps at strides 8, 16, 32.
        width: channels of every output (the paper's 256).
    """

    def __init__(self, channels: Sequence[int], width: int) -> None:
        super().__init__()
        self.lateral = nn.ModuleList(nn.Conv2d(c, width, 1) for c in channels)
        self.smooth = nn.ModuleList(nn.Conv2d(width, width, 3, padding=1) for _ in channels)
        self.coarser = nn.ModuleList(nn.Conv2d(width, width, 3, 2, 1) for _ in range(2))
        _xavier(self)

    def forward(self, taps: Sequence[Tensor]) -> list[Tensor]:
        """Taps (B, C_l, H / s, W / s) at s = 8, 16, 32 -> (B, width, ceil(H / s), ceil(W / s)) at s = 8 to 128."""
        merged = [lateral(tap) for lateral, tap in zip(self.lateral, taps, strict=True)]
        for level in (1, 0):
            merged[level] = merged[level] + F.interpolate(merged[level + 1], scale_factor=2.0, mode="nearest")
        features = [conv(x) for conv, x in zip(self.smooth, merged, strict=True)]
        features.append(self.coarser[0](features[-1]))
        features.append(self.coarser[1](F.relu(features[-1])))
        return features


class PyramidHead(nn.Module):
    """FCOS's towers (arXiv 1904.01355, section 3): four 3x3 convolutions with group-norm each for classes and boxes.

    A box reaches ReLU(scale * x) strides from its location; the scale is learned for each level.

    Args:
        width: channels of the features.
        classes: number of classes.
        levels: number of levels.
    """

    def __init__(self, width: int, classes: int, levels: int) -> None:
        super().__init__()
        self.classify = _tower(width, classes)
        self.regress = _tower(width, 4)
        self.scales = nn.Parameter(torch.ones(levels))
        _xavier(self)
        _silence(self.classify[-1])

    def forward(self, features: Sequence[Tensor]) -> Maps:
        """Features (B, width, h, w) by level -> maps by level."""
        sides = [self.regress(feature) * self.scales[i] for i, feature in enumerate(features)]
        return Maps([self.classify(feature) for feature in features], [], sides)


def _tower(width: int, outputs: int) -> nn.Sequential:
    layers: list[nn.Module] = []
    for _ in range(4):
        norm = nn.GroupNorm(width // math.gcd(GROUP, width), width)
        layers += [nn.Conv2d(width, width, 3, padding=1), norm, nn.ReLU()]
    return nn.Sequential(*layers, nn.Conv2d(width, outputs, 3, padding=1))


def _xavier(module: nn.Module) -> None:
    """The authors' initial weights, in place."""
    for parameter in module.parameters():
        if parameter.ndim > 1:
            nn.init.xavier_uniform_(parameter)


def _silence(predictor: nn.Module) -> None:
    """Let every location begin with the prior probability of an object."""
    if isinstance(predictor, nn.Conv2d) and predictor.bias is not None:
        nn.init.constant_(predictor.bias, -math.log((1 - PRIOR) / PRIOR))
