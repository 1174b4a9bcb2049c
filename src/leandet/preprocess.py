"""Letterboxing: the one way in which a photograph becomes a network's input, in evaluation and on every runtime."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

from leandet.detections import FloatArray

Image = npt.NDArray[np.uint8]
PAD_VALUE = 114  # the grey used by the YOLO family: near the mean of natural photographs
# A photograph so many times the size is halved first, for an area mean costs by what it reads: 43 ms at 12 megapixels,
# then 8. A smaller one is halved once, unless it divides evenly, which is a case of its own and fast: 1.0 ms from
# 640x480 to 256x192 px, then 0.55.
HALVED, HALVED_IF_UNEVEN = 4, 2


@dataclass(frozen=True, slots=True)
class Size:
    """Height and width in pixels; both at least 1."""

    height: int
    width: int

    def __str__(self) -> str:
        return f"{self.width}x{self.height}"


@dataclass(frozen=True, slots=True)
class Placement:
    """Where the original image lies inside the letterboxed one.

    Attributes:
        scale_x, scale_y: letterboxed pixels for one original pixel, along each axis (they differ only by rounding).
        left, top: padding in letterboxed pixels.
        original: size of the original image.
    """

    scale_x: float
    scale_y: float
    left: int
    top: int
    original: Size

    def apply(self, boxes: FloatArray) -> FloatArray:
        """Boxes (N, 4) xyxy from original pixels to letterboxed pixels."""
        scale = np.array([self.scale_x, self.scale_y] * 2, np.float32)
        shift = np.array([self.left, self.top] * 2, np.float32)
        return np.asarray(boxes * scale + shift, np.float32)

    def undo(self, boxes: FloatArray) -> FloatArray:
        """Boxes (N, 4) xyxy from letterboxed pixels to original pixels, clipped to the image."""
        scale = np.array([self.scale_x, self.scale_y] * 2, np.float32)
        shift = np.array([self.left, self.top] * 2, np.float32)
        limit = np.array([self.original.width, self.original.height] * 2, np.float32)
        return np.asarray(np.clip((boxes - shift) / scale, 0, limit), np.float32)


def place(original: Size, size: Size) -> Placement:
    """The placement that fits an image of `original` size into `size`, aspect kept, centred."""
    ratio = min(size.height / original.height, size.width / original.width)
    height = max(1, min(size.height, round(original.height * ratio)))
    width = max(1, min(size.width, round(original.width * ratio)))
    return Placement(
        width / original.width,
        height / original.height,
        (size.width - width) // 2,
        (size.height - height) // 2,
        original,
    )


def letterbox(image: Image, size: Size) -> tuple[Image, Placement]:
    """Fit a photograph into a fixed size without changing its aspect; the rest is grey.

    Args:
        image: uint8 (H, W, 3) RGB.
        size: the network's input.

    Returns:
        uint8 (size.height, size.width, 3) RGB, and where the photograph lies in it.
    """
    original = Size(*image.shape[:2])
    where = place(original, size)
    width, height = round(original.width * where.scale_x), round(original.height * where.scale_y)
    times = min(original.height / height, original.width / width)
    even = original.height % height == original.width % width == 0
    least = HALVED if even or times >= HALVED else HALVED_IF_UNEVEN
    while min(image.shape[0] / height, image.shape[1] / width) >= least:
        half = (image.shape[1] // 2, image.shape[0] // 2)
        image = cv2.resize(image, half, interpolation=cv2.INTER_LINEAR)  # type: ignore[assignment] # the mean of four
    if (height, width) != image.shape[:2]:
        shrink = width < image.shape[1]
        image = cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA if shrink else cv2.INTER_LINEAR)  # type: ignore[assignment]
    if (height, width) == (size.height, size.width):
        return np.ascontiguousarray(image), where
    canvas = np.full((size.height, size.width, 3), PAD_VALUE, np.uint8)
    canvas[where.top : where.top + height, where.left : where.left + width] = image
    return canvas, where
