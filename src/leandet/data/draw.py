"""Draws labelled boxes so that they can be read on any picture."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np

from leandet.detections import FloatArray, IntArray
from leandet.preprocess import Image

Colour = tuple[int, int, int]

# Distinct hues, strong enough on both dark and bright pictures (RGB).
PALETTE: tuple[Colour, ...] = (
    (230, 57, 70), (29, 132, 214), (42, 157, 80), (244, 140, 6), (131, 56, 236), (0, 175, 185), (255, 0, 110),
    (181, 137, 0), (96, 108, 56), (58, 12, 163), (188, 71, 73), (0, 119, 182), (112, 193, 64), (214, 40, 200),
    (127, 79, 36), (17, 138, 178), (239, 71, 111), (6, 167, 125), (153, 88, 42), (90, 90, 200),
)  # fmt: skip
_FONT = cv2.FONT_HERSHEY_SIMPLEX


@dataclass(frozen=True, slots=True)
class _Pen:
    """Sizes that fit the picture."""

    line: int
    scale: float
    weight: int
    pad: int


def colour_of(label: int) -> Colour:
    """The RGB colour of a class; it repeats after twenty classes."""
    return PALETTE[label % len(PALETTE)]


def draw(
    image: Image,
    boxes: FloatArray,
    labels: IntArray,
    classes: Sequence[str],
    scores: FloatArray | None = None,
) -> Image:
    """Draw boxes with their class names, and scores if given, on a copy of the picture.

    Args:
        image: uint8 (H, W, 3) RGB; it is not changed.
        boxes: (N, 4) xyxy in pixels; parts outside the picture are not drawn.
        labels: (N,) index into `classes`; an index without a name is written as its number.
        classes: names.
        scores: (N,) in [0, 1], or None.

    Returns:
        uint8 (H, W, 3) RGB.
    """
    canvas = np.ascontiguousarray(image).copy()
    pen = _pen(*canvas.shape[:2])
    limit = np.array([canvas.shape[1] - 1, canvas.shape[0] - 1] * 2)
    corners = np.clip(np.nan_to_num(np.asarray(boxes, np.float64).reshape(-1, 4)), 0, limit).round().astype(int)
    # Large boxes first: a small one inside stays visible. All labels come last, above every box.
    order = np.argsort(-(corners[:, 2] - corners[:, 0]) * (corners[:, 3] - corners[:, 1]), kind="stable")
    for at in order:
        x1, y1, x2, y2 = (int(v) for v in corners[at])
        cv2.rectangle(canvas, (x1, y1), (x2, y2), colour_of(int(labels[at])), pen.line, cv2.LINE_AA)
    for at in order:
        label = int(labels[at])
        name = classes[label] if 0 <= label < len(classes) else str(label)
        text = _plain(name) + (f" {float(scores[at]):.2f}" if scores is not None else "")
        _tag(canvas, text, tuple(int(v) for v in corners[at]), colour_of(label), pen)
    return canvas


def _pen(height: int, width: int) -> _Pen:
    side = min(height, width)
    return _Pen(max(1, round(side / 240)), max(0.35, side / 1000), max(1, round(side / 700)), max(2, round(side / 200)))


def _tag(canvas: Image, text: str, corners: tuple[int, ...], colour: Colour, pen: _Pen) -> None:
    """Write text on a filled ground above the box, or inside its top where there is no room, within the picture."""
    height, width = canvas.shape[:2]
    scale = pen.scale
    (wide, tall), base = cv2.getTextSize(text, _FONT, scale, pen.weight)
    if wide + 2 * pen.pad > width:  # a long name on a narrow picture
        scale *= max(0.05, (width - 2 * pen.pad) / wide)
        (wide, tall), base = cv2.getTextSize(text, _FONT, scale, pen.weight)
    full_wide, full_tall = wide + 2 * pen.pad, tall + base + pen.pad
    left = max(0, min(corners[0], width - full_wide))
    top = corners[1] - full_tall if corners[1] >= full_tall else corners[1]
    top = max(0, min(top, height - full_tall))
    cv2.rectangle(canvas, (left, top), (left + full_wide, top + full_tall), colour, -1)
    bright = 0.299 * colour[0] + 0.587 * colour[1] + 0.114 * colour[2] > 140
    ink = (0, 0, 0) if bright else (255, 255, 255)
    start = (left + pen.pad, top + pen.pad // 2 + tall)
    cv2.putText(canvas, text, start, _FONT, scale, ink, pen.weight, cv2.LINE_AA)


def _plain(name: str) -> str:
    """The name in the letters that OpenCV's fonts have; of a name that has none of them, a '?' for each."""
    return unicodedata.normalize("NFKD", name).encode("ascii", "ignore").decode() or "?" * len(name)
