"""How sparsity rises during training."""

from __future__ import annotations

from dataclasses import dataclass

from leandet.compress.schedule import Schedule
from leandet.errors import UserError


@dataclass(frozen=True, slots=True)
class Ramp:
    """The cubic of automated gradual pruning (Zhu and Gupta, arXiv 1710.01878, eq. 1): fast while much is redundant.

    Attributes:
        epochs: after which the whole sparsity is reached; 0 cuts at once.
    """

    epochs: int

    def __post_init__(self) -> None:
        if self.epochs < 0:
            raise UserError(f"the ramp must be at least 0 epochs, not {self.epochs}.")

    def done(self, epoch: int) -> float:
        """Share of the final sparsity that holds during an epoch, counted from 0; in [0, 1]."""
        if epoch >= self.epochs:
            return 1.0
        return Schedule.AGP.done(epoch, self.epochs)
