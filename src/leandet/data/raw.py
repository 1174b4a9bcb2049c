"""What a reader hands on: labels as the files state them, not yet judged."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from leandet.data.layout import Layout
from leandet.preprocess import Size


class RawBox(NamedTuple):
    """One box as stated: it may be outside the image, inverted or not finite.

    Attributes:
        x1, y1, x2, y2: pixels, or fractions of the image where the reader says `normalised`.
        label: index into the classes.
        crowd: a region of many objects.
        number: line, object or annotation number in the label file, for messages.
        area: square pixels of the object itself; None where only its box is stated.
    """

    x1: float
    y1: float
    x2: float
    y2: float
    label: int
    crowd: bool
    number: int
    area: float | None = None


@dataclass(frozen=True, slots=True)
class RawImage:
    """One labelled image as stated.

    Attributes:
        split: `train`, `val`, `test`, or `""` where nothing says.
        path: the picture, inside the data folder, perhaps missing; None if that is already reported.
        stated: the size that the label file gives, if any.
        boxes: its boxes.
        file: the label file, relative to the data folder; a box's place is `file:number`.
        source: where the labels of this image were read, as file or file:record.
        dropped: boxes already reported and left out by the reader.
    """

    split: str
    path: Path | None
    stated: Size | None
    boxes: tuple[RawBox, ...]
    file: str
    source: str
    dropped: int = 0


@dataclass(frozen=True, slots=True)
class RawDataset:
    """All labelled images of one data folder.

    Attributes:
        root: the data folder, resolved.
        layout: as recognised.
        classes: names, without duplicates.
        images: in the order of the files.
        normalised: whether boxes are fractions of the image instead of pixels.
        item: the word between file and number in a box's place, for instance `annotation `.
    """

    root: Path
    layout: Layout
    classes: tuple[str, ...]
    images: tuple[RawImage, ...]
    normalised: bool = False
    item: str = ""


def number(value: object) -> float:
    """A stated coordinate as a float; NaN where it is none, which the box check then reports."""
    if isinstance(value, str | int | float):
        try:
            return float(value)
        except (ValueError, OverflowError):
            pass
    return float("nan")


def tidy(name: str) -> str:
    """A class name on one line, without blanks around it."""
    return " ".join(name.split())
