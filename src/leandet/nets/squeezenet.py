"""SqueezeNet: AlexNet-level accuracy with 50x fewer parameters (arXiv 1602.07360). Tensor names are torchvision's."""

from __future__ import annotations

from collections.abc import Iterator
from enum import Enum, auto

import torch
from torch import Tensor, nn

from leandet.nets.backbone import Classifier, Step
from leandet.nets.blocks import initialise


class Bypass(Enum):
    """What runs beside the fire modules (figure 2): nothing, the input where widths are equal, else a 1x1 conv."""

    NONE = auto()
    SIMPLE = auto()
    COMPLEX = auto()


class Fire(nn.Module):
    """A 1x1 squeeze, then a 1x1 and a 3x3 expansion of equal width side by side (section 3.2).

    (B, inputs, H, W) -> (B, 2 * expand, H, W). With a bypass, what it makes of the input is added to the output.
    """

    def __init__(self, inputs: int, squeeze: int, expand: int, bypass: Bypass) -> None:
        super().__init__()
        self.squeeze = nn.Conv2d(inputs, squeeze, 1)
        self.expand1x1 = nn.Conv2d(squeeze, expand, 1)
        self.expand3x3 = nn.Conv2d(squeeze, expand, 3, padding=1)
        self.relu = nn.ReLU()
        self.bypass: nn.Module | None = None
        if bypass is not Bypass.NONE and inputs == 2 * expand:
            self.bypass = nn.Identity()
        elif bypass is Bypass.COMPLEX:
            self.bypass = nn.Conv2d(inputs, 2 * expand, 1)

    def forward(self, x: Tensor) -> Tensor:
        """See the class."""
        squeezed = self.relu(self.squeeze(x))
        y = torch.cat([self.relu(self.expand1x1(squeezed)), self.relu(self.expand3x3(squeezed))], 1)
        return y if self.bypass is None else y + self.bypass(x)


FIRES = (
    (16, 64),
    (16, 64),
    (32, 128),
    (32, 128),
    (48, 192),
    (48, 192),
    (64, 256),
    (64, 256),
)  # squeeze, expand: table 1


def _fires(inputs: int, bypass: Bypass) -> Iterator[Fire]:
    for squeeze, expand in FIRES:
        yield Fire(inputs, squeeze, expand, bypass)
        inputs = 2 * expand


def _pool() -> nn.Module:
    return nn.MaxPool2d(3, 2, ceil_mode=True)


class _SqueezeNet(Classifier):
    """What both versions share: the 1x1 convolution whose averaged map is the answer."""

    def __init__(self, features: nn.Sequential, num_classes: int) -> None:
        super().__init__()
        self.features = features
        self.classifier = nn.Sequential(
            nn.Dropout(0.5), nn.Conv2d(2 * FIRES[-1][1], num_classes, 1), nn.ReLU(), nn.AdaptiveAvgPool2d(1)
        )
        initialise(self)

    def steps(self) -> list[Step]:
        """Every module of `features`, and a pooling to stride 32: the paper's features stop at 16."""
        steps = [Step(f"features.{name}", module) for name, module in self.features.named_children()]
        return [*steps, Step("pool", _pool())]

    def forward(self, x: Tensor) -> Tensor:
        """(B, 3, H, W) -> (B, num_classes)."""
        logits: Tensor = self.classifier(self.features(x)).flatten(1)
        return logits


class SqueezeNet10(_SqueezeNet):
    """Version 1.0: table 1 of the paper."""

    taps = ("features.10", "features.12", "pool")

    def __init__(self, num_classes: int = 1000, bypass: Bypass = Bypass.NONE) -> None:
        fires = list(_fires(96, bypass))
        stem = [nn.Conv2d(3, 96, 7, 2), nn.ReLU(), _pool()]
        features = nn.Sequential(*stem, *fires[:3], _pool(), *fires[3:7], _pool(), fires[7])
        super().__init__(features, num_classes)


class SqueezeNet11(_SqueezeNet):
    """Version 1.1: the authors' later release (github.com/forresti/SqueezeNet), 2.3x cheaper by pooling earlier."""

    taps = ("features.7", "features.12", "pool")

    def __init__(self, num_classes: int = 1000) -> None:
        fires = list(_fires(64, Bypass.NONE))
        stem = [nn.Conv2d(3, 64, 3, 2), nn.ReLU(), _pool()]
        features = nn.Sequential(*stem, *fires[:2], _pool(), *fires[2:4], _pool(), *fires[4:])
        super().__init__(features, num_classes)
