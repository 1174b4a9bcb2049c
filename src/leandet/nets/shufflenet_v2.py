"""ShuffleNet V2: Practical Guidelines for Efficient CNN Architecture Design (arXiv 1807.11164).

Tensor names are torchvision's.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from leandet.nets.backbone import Classifier, Step
from leandet.nets.blocks import conv_bn, initialise, shuffle

REPEATS = (4, 8, 4)


class Widths(NamedTuple):
    """One column of table 5: channels of the stages and of the last 1x1 convolution."""

    stage2: int
    stage3: int
    stage4: int
    last: int


X0_5 = Widths(48, 96, 192, 1024)
X1_0 = Widths(116, 232, 464, 1024)
X1_5 = Widths(176, 352, 704, 1024)
X2_0 = Widths(244, 488, 976, 2048)


class ShuffleUnit(nn.Module):
    """Two branches put together and shuffled (figure 3c, 3d).

    (B, inputs, H, W) -> (B, outputs, ceil(H/stride), ceil(W/stride)). At stride 1 the input is split in halves and the
    left one passes untouched; at stride 2 both branches see the whole input.
    """

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        half = outputs // 2
        self.splits = stride == 1
        self.branch1 = nn.Sequential()
        if not self.splits:
            self.branch1 = nn.Sequential(
                *conv_bn(inputs, inputs, 3, stride=stride, groups=inputs), *conv_bn(inputs, half, activation=nn.ReLU)
            )
        self.branch2 = nn.Sequential(
            *conv_bn(half if self.splits else inputs, half, activation=nn.ReLU),
            *conv_bn(half, half, 3, stride=stride, groups=half),
            *conv_bn(half, half, activation=nn.ReLU),
        )

    def forward(self, x: Tensor) -> Tensor:
        """See the class."""
        left, right = x.chunk(2, 1) if self.splits else (x, x)
        return shuffle(torch.cat([self.branch1(left), self.branch2(right)], 1), 2)


class ShuffleNetV2(Classifier):
    """The network of table 5."""

    taps = ("stage2", "stage3", "stage4")

    def __init__(self, num_classes: int = 1000, widths: Widths = X1_0) -> None:
        super().__init__()
        channels = 24
        self.conv1 = conv_bn(3, channels, 3, stride=2, activation=nn.ReLU)
        self.maxpool = nn.MaxPool2d(3, 2, 1)
        stages = []
        for repeats, outputs in zip(REPEATS, widths[:3], strict=True):
            first = ShuffleUnit(channels, outputs, 2)
            stages.append(nn.Sequential(first, *(ShuffleUnit(outputs, outputs, 1) for _ in range(repeats - 1))))
            channels = outputs
        self.stage2, self.stage3, self.stage4 = stages
        self.conv5 = conv_bn(channels, widths.last, activation=nn.ReLU)
        self.fc = nn.Linear(widths.last, num_classes)
        initialise(self)

    def steps(self) -> list[Step]:
        """The stem, the three stages and the last 1x1 convolution."""
        return [Step(name, self.get_submodule(name)) for name in ("conv1", "maxpool", *self.taps, "conv5")]

    def forward(self, x: Tensor) -> Tensor:
        """(B, 3, H, W) -> (B, num_classes)."""
        features = self.stage4(self.stage3(self.stage2(self.maxpool(self.conv1(x)))))
        logits: Tensor = self.fc(self.conv5(features).mean((2, 3)))
        return logits
