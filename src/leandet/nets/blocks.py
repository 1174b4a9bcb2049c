"""The pieces that two or more of the papers share."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

Activation = Callable[[], nn.Module]


def multiple(channels: float, of: int = 8, floor: float = 0.9) -> int:
    """The multiple of `of` nearest to a scaled width, one step up if that lost more than a tenth of it.

    Source: the channel rule of the MobileNetV2 authors' code (tensorflow/models), on which the published sizes rest.

    Args:
        channels: wanted channels, any positive number.
        of: the divisor, at least 1.
        floor: the smallest part of the wanted width that may remain.
    """
    near = max(of, int(channels + of / 2) // of * of)
    return near if near >= floor * channels else near + of


def conv_bn(
    inputs: int,
    outputs: int,
    kernel: int = 1,
    *,
    stride: int = 1,
    groups: int = 1,
    activation: Activation | None = None,
    norm: Callable[[int], nn.Module] = nn.BatchNorm2d,
) -> nn.Sequential:
    """Convolution without bias, batch-norm and, if given, an activation.

    Maps (B, inputs, H, W) to (B, outputs, ceil(H/stride), ceil(W/stride)): the padding is half the odd kernel.
    """
    layers = [nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=False), norm(outputs)]
    if activation is not None:
        layers.append(activation())
    return nn.Sequential(*layers)


def shuffle(x: Tensor, groups: int) -> Tensor:
    """Channel shuffle: (B, groups*n, H, W) seen as (groups, n) channels, transposed and flattened again.

    Source: ShuffleNet (arXiv 1707.01083), section 3.1. Only `groups` is fixed: pruned widths and any input size pass.
    """
    return torch.unflatten(x, 1, (groups, -1)).transpose(1, 2).flatten(1, 2)


def initialise(root: nn.Module) -> None:
    """Weights to train from nothing, in place: He's for convolutions (arXiv 1502.01852), small for linear layers."""
    for module in root.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out")
        elif isinstance(module, nn.BatchNorm2d):
            nn.init.ones_(module.weight)
        elif isinstance(module, nn.Linear):
            nn.init.normal_(module.weight, 0, 0.01)
        else:
            continue
        if module.bias is not None:
            nn.init.zeros_(module.bias)
