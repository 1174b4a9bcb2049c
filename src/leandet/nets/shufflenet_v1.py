"""ShuffleNet: An Extremely Efficient Convolutional Neural Network for Mobile Devices (arXiv 1707.01083)."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from leandet.nets.backbone import Classifier, Step
from leandet.nets.blocks import conv_bn, initialise, shuffle

STAGE_2 = {
    1: 144,
    2: 200,
    3: 240,
    4: 272,
    8: 384,
}  # groups -> channels at width 1: table 1; each later stage doubles them
REPEATS = (4, 8, 4)


def _up(channels: float, groups: int) -> int:
    """The next multiple of `groups`: grouped convolutions divide their channels evenly."""
    return math.ceil(channels / groups) * groups


class ShuffleUnit(nn.Module):
    """1x1 group conv, shuffle, depthwise 3x3, 1x1 group conv (figure 2).

    (B, inputs, H, W) -> (B, outputs, ceil(H/stride), ceil(W/stride)). At stride 1 the input is added; at stride 2 the
    average-pooled input is put beside the branch, which therefore makes only `outputs - inputs` channels.
    """

    def __init__(self, inputs: int, outputs: int, stride: int, groups: int, first: int) -> None:
        super().__init__()
        middle = _up(outputs // 4, groups)  # the bottleneck: a quarter of the output (section 3.3)
        self.shuffled = first
        self.reduce = conv_bn(inputs, middle, groups=first, activation=nn.ReLU)
        self.depthwise = conv_bn(middle, middle, 3, stride=stride, groups=middle)
        self.expand = conv_bn(middle, outputs if stride == 1 else outputs - inputs, groups=groups)
        self.pool = nn.AvgPool2d(3, stride, 1) if stride > 1 else None
        self.relu = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        """See the class."""
        y = self.reduce(x)
        if self.shuffled > 1:
            y = shuffle(y, self.shuffled)
        y = self.expand(self.depthwise(y))
        merged = x + y if self.pool is None else torch.cat([self.pool(x), y], 1)
        out: Tensor = self.relu(merged)
        return out


class ShuffleNetV1(Classifier):
    """The network of table 1 for `groups` in 1, 2, 3, 4, 8, its widths times `width`.

    The stem keeps 24 channels from width 1 to 1.5 and doubles at 2, as the authors' release (megvii-model/
    ShuffleNet-Series) has it. Where a scaled width does not divide by `groups`, it is rounded up until it does.
    """

    def __init__(self, num_classes: int = 1000, groups: int = 3, width: float = 1.0) -> None:
        super().__init__()
        channels = _up(24 * (int(width) if width >= 1 else width), groups)
        self.conv1 = conv_bn(3, channels, 3, stride=2, activation=nn.ReLU)
        self.maxpool = nn.MaxPool2d(3, 2, 1)
        stages = []
        for index, repeats in enumerate(REPEATS):
            outputs = _up(int(STAGE_2[groups] * width), groups) * 2**index
            units = []
            for i in range(repeats):
                first = 1 if (index, i) == (0, 0) else groups  # 24 channels are too few to group (section 3.3)
                units.append(ShuffleUnit(channels, outputs, 2 if i == 0 else 1, groups, first))
                channels = outputs
            stages.append(nn.Sequential(*units))
        self.stage2, self.stage3, self.stage4 = stages
        self.fc = nn.Linear(channels, num_classes)
        initialise(self)

    taps = ("stage2", "stage3", "stage4")

    def steps(self) -> list[Step]:
        """The stem and the three stages."""
        return [Step(name, self.get_submodule(name)) for name in ("conv1", "maxpool", *self.taps)]

    def forward(self, x: Tensor) -> Tensor:
        """(B, 3, H, W) -> (B, num_classes)."""
        features: Tensor = self.stage4(self.stage3(self.stage2(self.maxpool(self.conv1(x)))))
        logits: Tensor = self.fc(features.mean((2, 3)))
        return logits
