"""How a cut is spread over steps, with fine-tuning between them."""

from __future__ import annotations

from enum import Enum


class Schedule(Enum):
    """Which share of the whole cut is done after each of some steps."""

    LINEAR = "linear"
    AGP = "agp"

    def done(self, step: int, steps: int) -> float:
        """The share, in [0, 1], after `step` of `steps`.

        AGP is the cubic of Zhu and Gupta (arXiv 1710.01878, eq. 1): most goes early, while much is redundant.
        """
        share = step / steps
        return share if self is Schedule.LINEAR else 1 - (1 - share) ** 3
