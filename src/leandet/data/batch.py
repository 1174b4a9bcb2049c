"""Pictures and labels of a batch, padded to one shape so that nothing downstream loops over images."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from leandet.data.augment import Example


class Targets(NamedTuple):
    """Labels of B images, padded to the largest number of objects M.

    Attributes:
        boxes: (B, M, 4), xyxy in pixels of the network's input; zeros where padded.
        labels: (B, M) int64; zeros where padded.
        valid: (B, M) bool; false where padded.
    """

    boxes: Tensor
    labels: Tensor
    valid: Tensor

    @classmethod
    def pad(cls, boxes: Sequence[Tensor], labels: Sequence[Tensor]) -> Targets:
        """Boxes (N_b, 4) and labels (N_b,) of each image -> one padded batch; M is 0 where no image has an object."""
        counts = torch.tensor([len(b) for b in boxes])
        most = int(counts.max()) if len(boxes) else 0
        padded = torch.zeros(len(boxes), most, 4)
        classes = torch.zeros(len(boxes), most, dtype=torch.int64)
        for row, (box, label) in enumerate(zip(boxes, labels, strict=True)):
            padded[row, : len(box)] = box
            classes[row, : len(label)] = label
        return cls(padded, classes, torch.arange(most)[None] < counts[:, None])

    def to(self, device: torch.device) -> Targets:
        """The same targets on another device."""
        return Targets(self.boxes.to(device), self.labels.to(device), self.valid.to(device))


class Batch(NamedTuple):
    """Images uint8 (B, 3, H, W) RGB and their targets."""

    images: Tensor
    targets: Targets


def collate(examples: Sequence[Example]) -> Batch:
    """Stack examples of one size into a batch."""
    images = torch.stack([e.image for e in examples])
    return Batch(images, Targets.pad([e.boxes for e in examples], [e.labels for e in examples]))
