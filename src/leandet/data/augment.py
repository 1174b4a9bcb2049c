"""Random views of labelled pictures, through torchvision's transforms v2."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torchvision import tv_tensors
from torchvision.transforms import v2

from leandet.preprocess import PAD_VALUE, Size

MIN_VISIBLE = 0.25  # of an object's area; below this a cut object teaches more noise than shape
MIN_SIDE = 2.0  # pixels


class Example(NamedTuple):
    """One training picture.

    Attributes:
        image: uint8 (3, H, W) RGB.
        boxes: float32 (N, 4) xyxy pixels.
        labels: int64 (N,).
    """

    image: Tensor
    boxes: Tensor
    labels: Tensor


class Scaled(v2.ScaleJitter):  # type: ignore[misc]
    """A picture at a random size, of a pixel or more each way: a long, thin one keeps its short side."""

    def make_params(self, flat_inputs: list[Any]) -> dict[str, Any]:
        """The size as height and width in pixels."""
        height, width = super().make_params(flat_inputs)["size"]
        return {"size": (max(1, height), max(1, width))}


class Augment:
    """Flip, scale, translate and colour; and mosaics of four pictures.

    Randomness comes from torch's global generator, so the caller's seed decides every view.

    Args:
        size: of the pictures made, pixels.
        scale: range of the picture's size relative to the size that fits.
        mosaic_scale: the same for each picture of a mosaic, relative to half the side.
    """

    def __init__(
        self, size: Size, scale: tuple[float, float] = (0.6, 1.5), mosaic_scale: tuple[float, float] = (0.8, 2.0)
    ) -> None:
        self.size = size
        fit = (size.height, size.width)
        self.view = v2.Compose(
            [
                v2.RandomHorizontalFlip(),
                Scaled(fit, scale_range=scale),
                v2.RandomCrop(fit, pad_if_needed=True, fill=PAD_VALUE),
            ]
        )
        self.tile_view = v2.Compose(
            [
                v2.RandomHorizontalFlip(),
                Scaled(fit, scale_range=(mosaic_scale[0] / 2, mosaic_scale[1] / 2)),
            ]
        )
        # No hue: its round trip through HSV costs four times all else together.
        self.colour = v2.RandomApply([v2.ColorJitter(brightness=0.3, contrast=0.3, saturation=0.4)], 0.8)

    def single(self, example: Example) -> Example:
        """A random view of one picture."""
        image, boxes, labels = self._apply(self.view, example)
        return self._finish(image, boxes, labels)

    def mosaic(self, examples: Sequence[Example]) -> Example:
        """Four pictures around a random centre, one in each quarter (YOLOv4, arXiv 2004.10934, section 3.3)."""
        height, width = self.size.height, self.size.width
        centre = torch.empty(2).uniform_(0.3, 0.7)
        cx, cy = int(centre[0] * width), int(centre[1] * height)
        canvas = torch.full((3, height, width), PAD_VALUE, dtype=torch.uint8)
        boxes, labels = [], []
        for index, example in enumerate(examples):
            tile, tile_boxes, tile_labels = self._apply(self.tile_view, example)
            tile_height, tile_width = tile.shape[-2:]
            # Each tile touches the centre with one corner and is cut where its quarter ends.
            left = cx - tile_width if index % 2 == 0 else cx
            top = cy - tile_height if index < 2 else cy
            x0, x1 = max(left, 0), min(left + tile_width, width)
            y0, y1 = max(top, 0), min(top + tile_height, height)
            canvas[:, y0:y1, x0:x1] = tile[:, y0 - top : y1 - top, x0 - left : x1 - left]
            boxes.append(tile_boxes + torch.tensor([left, top, left, top]))
            labels.append(tile_labels)
        return self._finish(canvas, torch.cat(boxes), torch.cat(labels))

    @staticmethod
    def _apply(view: v2.Compose, example: Example) -> Example:
        size = (example.image.shape[-2], example.image.shape[-1])
        # Without clamping, so that afterwards the part of an object that was cut away is known.
        boxes = tv_tensors.BoundingBoxes(example.boxes, format="XYXY", canvas_size=size, clamping_mode=None)
        image, moved = view(tv_tensors.Image(example.image), boxes)
        return Example(image.as_subclass(Tensor), moved.as_subclass(Tensor), example.labels)

    def _finish(self, image: Tensor, boxes: Tensor, labels: Tensor) -> Example:
        limit = torch.tensor([self.size.width, self.size.height] * 2, dtype=torch.float32)
        clipped = torch.minimum(boxes.clamp(min=0), limit)
        sides = clipped[:, 2:] - clipped[:, :2]
        area = (boxes[:, 2:] - boxes[:, :2]).prod(1)
        keep = (sides.prod(1) >= MIN_VISIBLE * area) & (sides >= MIN_SIDE).all(1)
        return Example(self.colour(image), clipped[keep], labels[keep])


def to_tensor(image: np.ndarray[tuple[int, ...], np.dtype[np.uint8]]) -> Tensor:
    """uint8 (H, W, 3) numpy -> uint8 (3, H, W) tensor, contiguous."""
    return torch.from_numpy(np.ascontiguousarray(image.transpose(2, 0, 1)))
