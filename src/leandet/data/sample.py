"""The one type of labelled image that every reader makes and everything downstream takes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
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
        areas: float32 (N,), square pixels that decide whether an object counts as small, medium or large: COCO's are
            those of its outlines; the boxes' where none are given.
    """

    image: Path
    size: Size
    boxes: FloatArray
    labels: IntArray
    crowd: npt.NDArray[np.bool_]
    source: str
    areas: FloatArray = field(default_factory=lambda: np.zeros(0, np.float32))

    def __post_init__(self) -> None:
        if not len(self.areas):
            object.__setattr__(self, "areas", (self.boxes[:, 2:] - self.boxes[:, :2]).prod(1, dtype=np.float32))
        if len(self.areas) != len(self.boxes):
            raise ValueError(f"{len(self.areas)} areas for {len(self.boxes)} boxes.")

    def with_labels_of(self, other: Sample) -> Sample:
        """The same picture with what another sample of it adds; boxes that both have count once."""
        known = set(self._objects())
        new = [place for place, thing in enumerate(other._objects()) if thing not in known]
        return replace(
            self,
            boxes=np.concatenate([self.boxes, other.boxes[new]]),
            labels=np.concatenate([self.labels, other.labels[new]]),
            crowd=np.concatenate([self.crowd, other.crowd[new]]),
            areas=np.concatenate([self.areas, other.areas[new]]),
        )

    def _objects(self) -> list[tuple[tuple[float, ...], int, bool]]:
        return list(zip(map(tuple, self.boxes.tolist()), self.labels.tolist(), self.crowd.tolist(), strict=True))


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
