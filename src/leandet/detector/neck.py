"""Mixes the backbone's features across scales at a small price."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn
from torch.nn import functional as F

from leandet.detector.layers import separable
from leandet.nets.blocks import conv_bn

STRIDES = (8, 16, 32)


class Neck(nn.Module):
    """A path-aggregation neck (PANet, arXiv 1803.01534) of depthwise-separable convolutions.

    Each tap is first reduced to `width` channels by a 1x1 convolution. A top-down path brings context to stride 8, then
    a bottom-up path brings detail back to the coarser levels that predict; it stops at the coarsest of `levels`.

    Args:
        channels: of the taps at strides 8, 16, 32.
        width: channels of every output.
        levels: strides to return, ascending, a subset of 8, 16, 32.
    """

    def __init__(self, channels: Sequence[int], width: int, levels: Sequence[int]) -> None:
        super().__init__()
        self.levels = tuple(levels)
        self.reduce = nn.ModuleList(conv_bn(c, width, activation=nn.ReLU) for c in channels)
        self.top_down = nn.ModuleList(separable(width, width) for _ in channels[:-1])
        steps = STRIDES.index(max(levels))
        self.down = nn.ModuleList(separable(width, width, 2) for _ in range(steps))
        self.bottom_up = nn.ModuleList(separable(width, width) for _ in range(steps))

    def forward(self, taps: Sequence[Tensor]) -> list[Tensor]:
        """Taps (B, C_l, H / s, W / s) at s = 8, 16, 32 -> one (B, width, H / s, W / s) for each of `levels`."""
        features = [reduce(tap) for reduce, tap in zip(self.reduce, taps, strict=True)]
        for level in reversed(range(len(self.top_down))):
            context = F.interpolate(features[level + 1], scale_factor=2.0, mode="nearest")
            features[level] = self.top_down[level](features[level] + context)
        for level, (down, mix) in enumerate(zip(self.down, self.bottom_up, strict=True)):
            features[level + 1] = mix(features[level + 1] + down(features[level]))
        return [features[STRIDES.index(stride)] for stride in self.levels]
