"""What the embedded data's shapes lie on: a cloudy ground, and clutter that is no class."""

from __future__ import annotations

import math

import cv2
import numpy as np
import numpy.typing as npt

from leandet.preprocess import Image

Points = npt.NDArray[np.float64]


def background(side: int, rng: np.random.Generator) -> npt.NDArray[np.float32]:
    """Float32 (side, side, 3) in [0, 255]: a greyish gradient, cloudy at two scales, at times striped, with grain."""
    colours = rng.uniform(30, 225) + rng.uniform(-15, 15, 3) + rng.uniform(-35, 35, (2, 1))
    angle = rng.uniform(0, 2 * math.pi)
    rows, columns = np.mgrid[0:side, 0:side].astype(np.float32) / side
    along = columns * math.cos(angle) + rows * math.sin(angle)
    part = ((along - along.min()) / np.ptp(along))[..., None]
    canvas: npt.NDArray[np.float32] = (colours[0] * (1 - part) + colours[1] * part).astype(np.float32)
    for cells, strength in ((int(rng.integers(3, 7)), 18), (int(rng.integers(12, 40)), 9)):
        cloud = rng.normal(0, rng.uniform(0, strength), (cells, cells, 3)).astype(np.float32)
        canvas += cv2.resize(cloud, (side, side), interpolation=cv2.INTER_CUBIC)
    if rng.random() < 0.35:
        canvas += (rng.uniform(4, 14) * np.sin(along * rng.uniform(40, 160)))[..., None].astype(np.float32)
    canvas += rng.normal(0, rng.uniform(1, 7), (side, side, 1)).astype(np.float32)
    np.clip(canvas, 0, 255, out=canvas)
    return canvas


def clutter(canvas: npt.NDArray[np.float32], rng: np.random.Generator) -> None:
    """Draw things that are no class over the background, in place: lines, curves, blobs and writing."""
    side = len(canvas)
    picture = canvas.astype(np.uint8)  # OpenCV smooths edges only on 8-bit images
    kinds = (_line, _curve, _blob, _writing)
    for kind in rng.choice(len(kinds), int(rng.integers(0, 5))):
        place = rng.uniform(0, side, 2)
        x, y = np.clip(place.astype(int), 0, side - 1)
        colour = np.clip(picture[y, x] + rng.choice([-1, 1]) * rng.uniform(15, 80, 3), 0, 255)
        kinds[kind](picture, place, (float(colour[0]), float(colour[1]), float(colour[2])), rng)
    canvas[:] = picture


def _stroke(side: int, rng: np.random.Generator) -> int:
    """A line's thickness in pixels: 1 to 3 in a picture of 256."""
    return max(1, round(rng.uniform(1, 3) * side / 256))


def _fixed(points: Points) -> list[npt.NDArray[np.int32]]:
    """OpenCV's fixed-point form, 4 bits of fraction."""
    return [np.round(points * 16).astype(np.int32)]


def _line(picture: Image, place: Points, colour: tuple[float, float, float], rng: np.random.Generator) -> None:
    side, angle = len(picture), rng.uniform(0, 2 * math.pi)
    end = place + rng.uniform(0.1, 0.9) * side * np.array([math.cos(angle), math.sin(angle)])
    cv2.polylines(picture, _fixed(np.stack([place, end])), False, colour, _stroke(side, rng), cv2.LINE_AA, 4)


def _curve(picture: Image, place: Points, colour: tuple[float, float, float], rng: np.random.Generator) -> None:
    side = len(picture)
    knots = place + rng.normal(0, 0.25 * side, (4, 2))
    t = np.linspace(0, 1, 40)[:, None]
    a, b, c, d = knots
    bezier = (1 - t) ** 3 * a + 3 * t * (1 - t) ** 2 * b + 3 * t**2 * (1 - t) * c + t**3 * d
    cv2.polylines(picture, _fixed(bezier), False, colour, _stroke(side, rng), cv2.LINE_AA, 4)


def _blob(picture: Image, place: Points, colour: tuple[float, float, float], rng: np.random.Generator) -> None:
    angles = np.linspace(0, 2 * math.pi, 72, endpoint=False)
    radii = np.ones(72)
    for waves in (2, 3, 5):  # strong enough that a blob is never taken for a disc
        radii += rng.uniform(0.16, 0.32) * np.cos(waves * angles + rng.uniform(0, 2 * math.pi))
    radii *= rng.uniform(0.03, 0.14) * len(picture)
    outline = place + np.stack([np.cos(angles), np.sin(angles)], 1) * radii[:, None]
    cv2.fillPoly(picture, _fixed(outline), colour, cv2.LINE_AA, 4)


def _writing(picture: Image, place: Points, colour: tuple[float, float, float], rng: np.random.Generator) -> None:
    # No letter that closes on itself: a large O is a ring.
    text = "".join(rng.choice(list("EFHKLMNSTVWXYZ1257"), int(rng.integers(2, 7))))
    side = len(picture)
    scale, origin = rng.uniform(0.35, 1.0) * side / 256, (int(place[0] - 0.1 * side), int(place[1]))
    font = cv2.FONT_HERSHEY_SIMPLEX
    cv2.putText(picture, text, origin, font, scale, colour, min(2, _stroke(side, rng)), cv2.LINE_AA)
