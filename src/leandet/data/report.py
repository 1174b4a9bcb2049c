"""What a check of a data set found, for people and for programs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from leandet.data.layout import Layout
from leandet.data.problems import Problems, Severity
from leandet.data.sample import Sample


@dataclass(frozen=True, slots=True)
class SplitCount:
    """What one split holds.

    Attributes:
        images: pictures in it.
        empty: pictures without objects.
        boxes: objects, crowd regions included.
        per_class: objects by class name, every class named.
    """

    images: int
    empty: int
    boxes: int
    per_class: dict[str, int]

    @classmethod
    def of(cls, samples: Sequence[Sample], classes: Sequence[str]) -> SplitCount:
        """Count one split."""
        labels = np.concatenate([s.labels for s in samples]) if samples else np.zeros(0, np.int64)
        counts = np.bincount(labels, minlength=len(classes))
        empty = sum(not len(s.labels) for s in samples)
        return cls(len(samples), empty, len(labels), {n: int(c) for n, c in zip(classes, counts, strict=True)})


@dataclass(frozen=True, slots=True)
class Report:
    """The outcome of reading and checking a data set.

    Attributes:
        root: the data folder.
        layout: as recognised.
        classes: names, in label order.
        images: pictures that the labels speak of.
        used: pictures that are sound and used.
        boxes: boxes that the labels state.
        used_boxes: boxes that are sound and used.
        clipped: boxes that reached outside their picture and were clipped to it.
        made: names of the splits that were made here; the others were found.
        splits: what each split holds.
        problems: everything that is wrong.
    """

    root: Path
    layout: Layout
    classes: tuple[str, ...]
    images: int
    used: int
    boxes: int
    used_boxes: int
    clipped: int
    made: tuple[str, ...] = ()
    splits: Mapping[str, SplitCount] = field(default_factory=dict)
    problems: Problems = field(default_factory=Problems)

    def to_json(self) -> dict[str, object]:
        """One plain object; `problems` holds the first 10,000, `problem_counts` counts all by kind."""
        return {
            "data": str(self.root),
            "layout": self.layout.value,
            "classes": list(self.classes),
            "images": self.images,
            "used_images": self.used,
            "boxes": self.boxes,
            "used_boxes": self.used_boxes,
            "clipped_boxes": self.clipped,
            "made_splits": list(self.made),
            "splits": {
                name: {"images": c.images, "empty": c.empty, "boxes": c.boxes, "per_class": c.per_class}
                for name, c in self.splits.items()
            },
            "errors": self.problems.count(Severity.ERROR),
            "warnings": self.problems.count(Severity.WARNING),
            "problem_counts": self.problems.by_kind(),
            "problems": [problem.to_json() for problem in self.problems.kept],
        }

    def summary(self) -> list[str]:
        """A few lines for a person, the verdict last."""
        lines = [f"{self.root}: {self.layout.value.upper()} layout, {len(self.classes)} classes"]
        for name, count in self.splits.items():
            origin = "made here" if name in self.made else "found"
            lines.append(
                f"{name} ({origin}): {count.images} images, {count.boxes} boxes, {count.empty} without objects"
            )
        if self.clipped:
            lines.append(f"{self.clipped} boxes reached outside their image and were clipped")
        errors, warnings = self.problems.count(Severity.ERROR), self.problems.count(Severity.WARNING)
        lines.append(f"{errors} errors, {warnings} warnings")
        lines.append(f"trains on {self.used} of {self.images} images, {self.used_boxes} of {self.boxes} boxes")
        return lines
