"""The building block of neck and head."""

from __future__ import annotations

from torch import nn

from leandet.nets.blocks import conv_bn

KERNEL = 5  # wide sight at a few percent of the pointwise convolution's price, as in PicoDet's neck (arXiv 2111.00902)


def separable(inputs: int, outputs: int, stride: int = 1) -> nn.Sequential:
    """Depthwise 5x5 then pointwise 1x1 convolution, batch-norm and ReLU after each (MobileNets, arXiv 1704.04861, 3.1).

    Maps (B, inputs, H, W) to (B, outputs, ceil(H/stride), ceil(W/stride)).
    """
    return nn.Sequential(
        conv_bn(inputs, inputs, KERNEL, stride=stride, groups=inputs, activation=nn.ReLU),
        conv_bn(inputs, outputs, activation=nn.ReLU),
    )
