"""The one type of labelled image that every reader makes and everything downstream takes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt

from leandet.detections import FloatArray, IntArray
from leandet.preprocess import Size


@dataclass(frozen=True, slots=True, eq=False)
class Sample:
    """One photograph and its labels.

    Attributes:
        image: the picture's file.
        size: of the picture as seen, EXIF orientation honoured.
        boxes: float32 (N, 4), xyxy in pixels of the picture as seen, inside it, with positive area.
        labels: int64 (N,), index into `Dataset.classes`.
        crowd: bool (N,), regions of many objects (COCO's iscrowd): ignored in training and by the metric.
        source: where the labels were read, as file or file:line, for messages.
    """

    image: Path
    size: Size
    boxes: FloatArray
    labels: IntArray
    crowd: npt.NDArray[np.bool_]
    source: str


@dataclass(frozen=True, slots=True)
class Dataset:
    """Labelled images in named splits.

    Attributes:
        root: the folder that the person named.
        layout: `coco`, `voc` or `yolo`, as recognised.
        classes: names; a label is an index into them.
        splits: `train`, `val` and, where the data has one, `test`. `val` is never empty unless `train` has one image.
    """

    root: Path
    layout: str
    classes: tuple[str, ...]
    splits: dict[str, tuple[Sample, ...]] = field(default_factory=dict)

    @property
    def judging(self) -> str:
        """The split that figures are measured on: `test` where it has a labelled object, else `val`."""
        return "test" if any(len(sample.boxes) for sample in self.splits.get("test", ())) else "val"


def evenly(samples: Sequence[Sample], count: int) -> Sequence[Sample]:
    """At most `count` samples, evenly spaced over all of them; all where they are fewer."""
    if len(samples) <= count:
        return samples
    return [samples[i] for i in np.linspace(0, len(samples) - 1, count).round().astype(int)]
