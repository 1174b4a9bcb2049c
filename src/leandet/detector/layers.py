"""The two building blocks of the neck and the head."""

from __future__ import annotations

from torch import nn


class ConvNorm(nn.Sequential):
    """1x1 convolution, batch-norm, ReLU. (B, inputs, H, W) -> (B, outputs, H, W)."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__(
            nn.Conv2d(inputs, outputs, 1, bias=False),
            nn.BatchNorm2d(outputs),
            nn.ReLU(inplace=True),
        )


class Separable(nn.Sequential):
    """5x5 depthwise then 1x1 pointwise convolution, batch-norm and ReLU after each.

    MobileNetV1's depthwise-separable convolution (arXiv 1704.04861, section 3.1) with the 5x5 kernel of
    PicoDet's neck (arXiv 2111.00902, section 3.2): wide sight at 2 % of the pointwise convolution's price.
    (B, inputs, H, W) -> (B, outputs, H / stride, W / stride).
    """

    def __init__(self, inputs: int, outputs: int, stride: int = 1) -> None:
        super().__init__(
            nn.Conv2d(inputs, inputs, 5, stride, 2, groups=inputs, bias=False),
            nn.BatchNorm2d(inputs),
            nn.ReLU(inplace=True),
            nn.Conv2d(inputs, outputs, 1, bias=False),
            nn.BatchNorm2d(outputs),
            nn.ReLU(inplace=True),
        )
