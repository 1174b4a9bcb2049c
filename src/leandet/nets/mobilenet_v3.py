"""Searching for MobileNetV3 (arXiv 1905.02244). Tensor names are torchvision's."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from typing import NamedTuple

from torch import Tensor, nn

from leandet.nets.backbone import Classifier, Step
from leandet.nets.blocks import Activation, conv_bn, initialise, multiple

_norm = partial(nn.BatchNorm2d, eps=0.001, momentum=0.01)
RE, HS = nn.ReLU, nn.Hardswish


class Row(NamedTuple):
    """One block: depthwise kernel, expanded channels, output channels, squeeze-and-excite, activation, stride."""

    kernel: int
    expanded: int
    channels: int
    gate: bool
    activation: Activation
    stride: int


@dataclass(frozen=True, slots=True)
class Layout:
    """One of the paper's networks.

    Attributes:
        rows: its blocks.
        last: channels of the 1x1 expansion behind the pooling.
        taps: the last block at strides 8, 16 and 32.
        activation: of the stem and the tail.
    """

    rows: tuple[Row, ...]
    last: int
    taps: tuple[str, str, str]
    activation: Activation = HS


LARGE = Layout(  # table 1
    (
        Row(3, 16, 16, False, RE, 1),
        Row(3, 64, 24, False, RE, 2),
        Row(3, 72, 24, False, RE, 1),
        Row(5, 72, 40, True, RE, 2),
        Row(5, 120, 40, True, RE, 1),
        Row(5, 120, 40, True, RE, 1),
        Row(3, 240, 80, False, HS, 2),
        Row(3, 200, 80, False, HS, 1),
        Row(3, 184, 80, False, HS, 1),
        Row(3, 184, 80, False, HS, 1),
        Row(3, 480, 112, True, HS, 1),
        Row(3, 672, 112, True, HS, 1),
        Row(5, 672, 160, True, HS, 2),
        Row(5, 960, 160, True, HS, 1),
        Row(5, 960, 160, True, HS, 1),
    ),
    1280,
    ("features.6", "features.12", "features.15"),
)
SMALL = Layout(  # table 2
    (
        Row(3, 16, 16, True, RE, 2),
        Row(3, 72, 24, False, RE, 2),
        Row(3, 88, 24, False, RE, 1),
        Row(5, 96, 40, True, HS, 2),
        Row(5, 240, 40, True, HS, 1),
        Row(5, 240, 40, True, HS, 1),
        Row(5, 120, 48, True, HS, 1),
        Row(5, 144, 48, True, HS, 1),
        Row(5, 288, 96, True, HS, 2),
        Row(5, 576, 96, True, HS, 1),
        Row(5, 576, 96, True, HS, 1),
    ),
    1024,
    ("features.3", "features.8", "features.11"),
)


def minimalistic(layout: Layout) -> Layout:
    """The same widths with 3x3 kernels and ReLU only and no gates, as the authors' code (tensorflow/models) has it."""
    rows = tuple(row._replace(kernel=3, gate=False, activation=RE) for row in layout.rows)
    return replace(layout, rows=rows, activation=RE)


class SqueezeExcite(nn.Module):
    """Scales each channel by a gate in [0, 1] made from all channel means (section 5.3): (B, C, H, W) -> same shape."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        squeezed = multiple(channels / 4)
        self.fc1 = nn.Conv2d(channels, squeezed, 1)
        self.relu = nn.ReLU()
        self.fc2 = nn.Conv2d(squeezed, channels, 1)
        self.gate = nn.Hardsigmoid()

    def forward(self, x: Tensor) -> Tensor:
        """See the class."""
        gate: Tensor = self.gate(self.fc2(self.relu(self.fc1(x.mean((2, 3), keepdim=True)))))
        return x * gate


class InvertedResidual(nn.Module):
    """MobileNetV2's block with a gate behind the depthwise convolution (figure 4).

    (B, inputs, H, W) -> (B, outputs, ceil(H/stride), ceil(W/stride)).
    """

    def __init__(self, inputs: int, row: Row) -> None:
        super().__init__()
        wide, act = row.expanded, row.activation
        layers: list[nn.Module] = []
        if wide != inputs:
            layers.append(conv_bn(inputs, wide, activation=act, norm=_norm))
        layers.append(conv_bn(wide, wide, row.kernel, stride=row.stride, groups=wide, activation=act, norm=_norm))
        if row.gate:
            layers.append(SqueezeExcite(wide))
        layers.append(conv_bn(wide, row.channels, norm=_norm))
        self.block = nn.Sequential(*layers)
        self.residual = row.stride == 1 and inputs == row.channels

    def forward(self, x: Tensor) -> Tensor:
        """See the class."""
        y: Tensor = self.block(x)
        return x + y if self.residual else y


class MobileNetV3(Classifier):
    """A layout with every width times `width`; its last 1x1 expansion runs on the pooled features (section 5.1).

    As in the authors' code (tensorflow/models), a block's expansion is a factor of its scaled input, and the expansion
    behind the pooling never shrinks; torchvision's width option scales both by themselves.
    """

    def __init__(self, num_classes: int = 1000, layout: Layout = LARGE, width: float = 1.0) -> None:
        super().__init__()
        self.taps = layout.taps
        channels = multiple(16 * width)
        layers: list[nn.Module] = [conv_bn(3, channels, 3, stride=2, activation=layout.activation, norm=_norm)]
        before = 16
        for row in layout.rows:
            expanded = multiple(row.expanded / before * channels)
            scaled = row._replace(expanded=expanded, channels=multiple(row.channels * width))
            layers.append(InvertedResidual(channels, scaled))
            channels, before = scaled.channels, row.channels
        wide = 6 * channels
        layers.append(conv_bn(channels, wide, activation=layout.activation, norm=_norm))
        self.features = nn.Sequential(*layers)
        last = multiple(layout.last * max(1.0, width))
        self.classifier = nn.Sequential(
            nn.Linear(wide, last), layout.activation(), nn.Dropout(0.2), nn.Linear(last, num_classes)
        )
        initialise(self)

    def steps(self) -> list[Step]:
        """Every module of `features`."""
        return [Step(f"features.{name}", module) for name, module in self.features.named_children()]

    def forward(self, x: Tensor) -> Tensor:
        """(B, 3, H, W) -> (B, num_classes)."""
        logits: Tensor = self.classifier(self.features(x).mean((2, 3)))
        return logits
