"""How the report writes a number: one function for each quantity, a dash for whatever is not known."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

NOTHING = "–"


def number(value: object) -> float | None:
    """A finite float, or None for anything else (None, text, NaN, infinity, a boolean)."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return float(value) if math.isfinite(value) else None


def _written(value: object, write: Callable[[float], str]) -> str:
    known = number(value)
    return NOTHING if known is None else write(known).replace("-", "−")


def precision(value: object) -> str:
    """An AP, a fraction from 0 to 1, to three places; -1 says that no such object was there to be found."""
    return _written(value, lambda v: f"{v:.3f}" if v >= 0 else NOTHING)


def milliseconds(value: object) -> str:
    """Three significant figures or so: 0.84, 8.41, 84.1, 841."""
    return _written(value, lambda v: f"{v:.{2 if abs(v) < 10 else 1 if abs(v) < 100 else 0}f}")


def kilobytes(value: object) -> str:
    """Bytes in thousands."""
    return _written(value, lambda v: f"{v / 1000:,.{1 if abs(v) < 100_000 else 0}f}")


def whole(value: object) -> str:
    """A count, its thousands parted."""
    return _written(value, lambda v: f"{v:,.0f}")


def millions(value: object) -> str:
    """A count in millions."""
    return _written(value, lambda v: f"{v / 1e6:,.{2 if abs(v) < 1e7 else 1}f}")


def seconds(value: object) -> str:
    """A duration in the unit that suits it: 0.4 s, 42 s, 7 min 05 s, 2 h 10 min."""

    def write(v: float) -> str:
        if v < 10:
            return f"{v:.1f} s"
        total = round(v)
        if total < 60:
            return f"{total} s"
        if total < 3600:
            return f"{total // 60} min {total % 60:02d} s"
        return f"{total // 3600} h {total % 3600 // 60:02d} min"

    return _written(value, write)


def plain(value: object) -> str:
    """Any scalar as short text."""
    if value is None or value == "":
        return NOTHING
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return whole(value)
    return _written(value, lambda v: f"{v:,.4g}") if isinstance(value, float) else str(value)


@dataclass(frozen=True, slots=True)
class Change:
    """A difference from the row before, as text, and whether it is `better`, `worse` or `same`."""

    text: str
    tone: str


def change(value: object, before: object, *, relative: bool) -> Change | None:
    """The step from `before` to `value`; None where either is unknown.

    Args:
        value: the newer figure.
        before: the older one.
        relative: True for a cost: in per cent, less is better. False for an AP: the plain difference, more is better.
    """
    new, old = number(value), number(before)
    if new is None or old is None or (relative and old == 0):
        return None
    step = (new - old) / old * 100 if relative else new - old
    text = f"{step:+.0f} %" if relative else f"{step:+.3f}"
    if not any(digit in text for digit in "123456789"):
        return Change("±0", "same")
    return Change(text.replace("-", "−"), "better" if (step < 0) == relative else "worse")
