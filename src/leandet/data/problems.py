"""What can be wrong with a data set, said so that the person can mend it."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from enum import StrEnum

KEPT = 10_000  # problems remembered in full; the rest are only counted, so that a huge broken set stays in memory


class Severity(StrEnum):
    """An error left something out of the data; a warning did not."""

    ERROR = "error"
    WARNING = "warning"


class ProblemKind(StrEnum):
    """What is wrong. The value is the word used in JSON."""

    BAD_LABELS = "bad_labels"  # a label file, or a line of it, that cannot be read
    MISSING_LABELS = "missing_labels"
    MISSING_IMAGE = "missing_image"
    UNREADABLE_IMAGE = "unreadable_image"
    OUTSIDE_ROOT = "outside_root"  # a path that leaves the data folder
    UNKNOWN_CLASS = "unknown_class"
    EMPTY_CLASS = "empty_class"  # a class without any box
    EMPTY_SPLIT = "empty_split"  # images, but no box
    BAD_BOX = "bad_box"  # not finite, inverted or without area
    BOX_OUTSIDE = "box_outside"
    NO_SOUND_BOX = "no_sound_box"  # an image all of whose boxes were left out
    SIZE_DIFFERS = "size_differs"
    DEEP_IMAGE = "deep_image"  # more than 8 bits a channel
    DUPLICATE_IMAGE = "duplicate_image"  # the same picture in two splits, or twice in one
    DUPLICATE_BOX = "duplicate_box"


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing that is wrong.

    Attributes:
        kind: what sort of problem.
        where: the file, or file:line, relative to the data folder.
        message: one clear sentence.
        severity: whether something was left out of the data (error) or not (warning).
    """

    kind: ProblemKind
    where: str
    message: str
    severity: Severity

    def __str__(self) -> str:
        return f"{self.where}: {self.message}"

    def to_json(self) -> dict[str, str]:
        """`{kind, where, message, severity}`."""
        return {"kind": self.kind, "where": self.where, "message": self.message, "severity": self.severity}


@dataclass(slots=True)
class Problems:
    """Collects problems. The first 10,000 are kept whole; all are counted.

    Attributes:
        kept: the problems remembered, in the order found.
        counts: how many of each (kind, severity) were found.
    """

    kept: list[Problem] = field(default_factory=list)
    counts: Counter[tuple[ProblemKind, Severity]] = field(default_factory=Counter)

    def error(self, kind: ProblemKind, where: str, message: str) -> None:
        """Note something that is left out of the data."""
        self._add(Problem(kind, where, message, Severity.ERROR))

    def warning(self, kind: ProblemKind, where: str, message: str) -> None:
        """Note something odd that stays in the data."""
        self._add(Problem(kind, where, message, Severity.WARNING))

    def _add(self, problem: Problem) -> None:
        self.counts[problem.kind, problem.severity] += 1
        if len(self.kept) < KEPT:
            self.kept.append(problem)

    def count(self, severity: Severity) -> int:
        """How many problems of this severity were found, the forgotten ones included."""
        return sum(number for (_, found), number in self.counts.items() if found is severity)

    def first(self) -> Problem | None:
        """The first error, else the first warning, else None."""
        errors = (p for p in self.kept if p.severity is Severity.ERROR)
        return next(errors, self.kept[0] if self.kept else None)

    def by_kind(self) -> dict[str, int]:
        """How many of each kind, most frequent first."""
        total: Counter[str] = Counter()
        for (kind, _), number in self.counts.items():
            total[kind.value] += number
        return dict(total.most_common())
