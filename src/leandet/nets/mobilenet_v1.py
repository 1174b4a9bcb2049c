"""MobileNets: Efficient Convolutional Neural Networks for Mobile Vision Applications (arXiv 1704.04861).

Tensor names are those of timm's `mobilenetv1_*`.
"""

from __future__ import annotations

from torch import Tensor, nn

from leandet.nets.backbone import Classifier, Step
from leandet.nets.blocks import initialise

STAGES = (
    (64, 1),
    (128, 2),
    (256, 2),
    (512, 6),
    (1024, 2),
)  # channels, blocks: table 1; every stage but the first strides


class Separable(nn.Module):
    """Depthwise 3x3 and pointwise 1x1, each with batch-norm and ReLU6 (section 3.1, figure 3).

    (B, inputs, H, W) -> (B, outputs, ceil(H/stride), ceil(W/stride)).
    """

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv_dw = nn.Conv2d(inputs, inputs, 3, stride, 1, groups=inputs, bias=False)
        self.bn1 = nn.BatchNorm2d(inputs)
        self.act1 = nn.ReLU6()
        self.conv_pw = nn.Conv2d(inputs, outputs, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.act2 = nn.ReLU6()

    def forward(self, x: Tensor) -> Tensor:
        """See the class."""
        x = self.act1(self.bn1(self.conv_dw(x)))
        y: Tensor = self.act2(self.bn2(self.conv_pw(x)))
        return y


class MobileNetV1(Classifier):
    """The network of table 1, every width times `width` (any positive number), rounded down and at least 8."""

    taps = ("blocks.2.1", "blocks.3.5", "blocks.4.1")

    def __init__(self, num_classes: int = 1000, width: float = 1.0) -> None:
        super().__init__()
        channels = max(8, int(32 * width))
        self.conv_stem = nn.Conv2d(3, channels, 3, 2, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.act1 = nn.ReLU6()
        stages = []
        for index, (wide, repeats) in enumerate(STAGES):
            blocks = []
            for i in range(repeats):
                outputs = max(8, int(wide * width))
                blocks.append(Separable(channels, outputs, 2 if i == 0 and index > 0 else 1))
                channels = outputs
            stages.append(nn.Sequential(*blocks))
        self.blocks = nn.Sequential(*stages)
        self.classifier = nn.Linear(channels, num_classes)
        initialise(self)

    def steps(self) -> list[Step]:
        """The stem and every block."""
        stem = [Step("conv_stem", self.conv_stem), Step("bn1", self.bn1), Step("act1", self.act1)]
        blocks = [
            Step(f"blocks.{i}.{j}", block)
            for i, stage in self.blocks.named_children()
            for j, block in stage.named_children()
        ]
        return stem + blocks

    def forward(self, x: Tensor) -> Tensor:
        """(B, 3, H, W) -> (B, num_classes)."""
        features: Tensor = self.blocks(self.act1(self.bn1(self.conv_stem(x))))
        logits: Tensor = self.classifier(features.mean((2, 3)))
        return logits
