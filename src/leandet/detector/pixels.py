"""What a backbone is given: pixels in the units of its pretrained weights."""

from __future__ import annotations

import torch
from torch import Tensor, nn

# ImageNet's statistics in 8-bit units: the normalisation that every pretrained backbone expects.
MEAN = (123.675, 116.28, 103.53)
STD = (58.395, 57.12, 57.375)


class Centre(nn.Module):
    """Pixels less ImageNet's mean."""

    mean: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean", torch.tensor(MEAN).view(1, -1, 1, 1), persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        """Images (B, 3, H, W), RGB, uint8 or float in 0..255 -> floats of the same shape, about -124 to 151."""
        return images.to(self.mean.dtype) - self.mean


class Normalise(nn.Module):
    """Pixels less ImageNet's mean, over its standard deviation."""

    std: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.centre = Centre()
        self.register_buffer("std", torch.tensor(STD).view(1, -1, 1, 1), persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        """Images (B, 3, H, W), RGB, uint8 or float in 0..255 -> floats of the same shape, about -2.1 to 2.6."""
        centred: Tensor = self.centre(images)
        return centred / self.std
