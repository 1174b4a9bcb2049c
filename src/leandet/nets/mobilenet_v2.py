"""MobileNetV2: Inverted Residuals and Linear Bottlenecks (arXiv 1801.04381). Tensor names are torchvision's."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor, nn

from leandet.nets.backbone import Classifier, Step
from leandet.nets.blocks import conv_bn, initialise, multiple


class Row(NamedTuple):
    """One line of the paper's table 2: `repeats` blocks, the first of which strides."""

    expansion: int
    channels: int
    repeats: int
    stride: int


TABLE_2 = (
    Row(1, 16, 1, 1),
    Row(6, 24, 2, 2),
    Row(6, 32, 3, 2),
    Row(6, 64, 4, 2),
    Row(6, 96, 3, 1),
    Row(6, 160, 3, 2),
    Row(6, 320, 1, 1),
)


class InvertedResidual(nn.Module):
    """1x1 expansion, depthwise 3x3, linear 1x1; the input is added where shapes allow (section 3.3, figure 4d)."""

    def __init__(self, inputs: int, outputs: int, stride: int, expansion: int) -> None:
        super().__init__()
        wide = inputs * expansion
        layers: list[nn.Module] = []
        if expansion != 1:
            layers.append(conv_bn(inputs, wide, activation=nn.ReLU6))
        layers.append(conv_bn(wide, wide, 3, stride=stride, groups=wide, activation=nn.ReLU6))
        # The narrow tensor stays linear (section 3.2); torchvision's names have its conv and norm in the chain itself.
        self.conv = nn.Sequential(*layers, *conv_bn(wide, outputs))
        self.residual = stride == 1 and inputs == outputs

    def forward(self, x: Tensor) -> Tensor:
        """(B, inputs, H, W) -> (B, outputs, ceil(H/stride), ceil(W/stride))."""
        y: Tensor = self.conv(x)
        return x + y if self.residual else y


class MobileNetV2(Classifier):
    """The network of table 2, every width times `width`; the last 1x1 never narrower than 1280 (section 4.1)."""

    taps = ("features.6", "features.13", "features.17")

    def __init__(self, num_classes: int = 1000, width: float = 1.0) -> None:
        super().__init__()
        channels = multiple(32 * width)
        last = multiple(1280 * max(1.0, width))
        layers: list[nn.Module] = [conv_bn(3, channels, 3, stride=2, activation=nn.ReLU6)]
        for row in TABLE_2:
            for i in range(row.repeats):
                outputs = multiple(row.channels * width)
                layers.append(InvertedResidual(channels, outputs, row.stride if i == 0 else 1, row.expansion))
                channels = outputs
        layers.append(conv_bn(channels, last, activation=nn.ReLU6))
        self.features = nn.Sequential(*layers)
        self.classifier = nn.Sequential(nn.Dropout(0.2), nn.Linear(last, num_classes))
        initialise(self)

    def steps(self) -> list[Step]:
        """Every module of `features`."""
        return [Step(f"features.{name}", module) for name, module in self.features.named_children()]

    def forward(self, x: Tensor) -> Tensor:
        """(B, 3, H, W) -> (B, num_classes)."""
        logits: Tensor = self.classifier(self.features(x).mean((2, 3)))
        return logits
