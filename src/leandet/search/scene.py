"""Where a search takes place, and what its strategies see: the space, what candidates cost, and the finished trials."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import Enum, auto

from leandet.search.latency import Budget, Clock
from leandet.search.space import LEVELS, SIZE, Candidate, Levels, Space


class Fit(Enum):
    """What is done with a drawn point before it is judged."""

    BUDGET = auto()  # scaled up or down to the widest that meets the budget
    NARROW = auto()  # scaled down only if it is over the budget
    NONE = auto()  # judged as it is


@dataclass(frozen=True, slots=True)
class Tried:
    """A finished trial: its point, the structure made of it, AP (a fraction), estimated latency, and if that is met."""

    number: int
    levels: Levels
    candidate: Candidate
    ap: float
    met: bool
    latency_ms: float


@dataclass(frozen=True, slots=True)
class Scene:
    """Where a search takes place.

    Attributes:
        space: what may be chosen.
        clock: estimates what a candidate costs.
        budget: what it may cost.
    """

    space: Space
    clock: Clock
    budget: Budget

    def ms(self, candidate: Candidate) -> float:
        """A candidate's latency as estimated."""
        return self.clock.ms(self.space, candidate)

    def over(self, candidate: Candidate) -> bool:
        """Whether a candidate costs more than it may, as estimated."""
        return self.budget.excess(self.ms(candidate), self.clock.bytes(self.space, candidate)) > 0

    def fitted(self, levels: Levels, fit: Fit) -> Candidate:
        """The structure that is judged for a point."""
        if fit is Fit.NONE:
            return self.space.candidate(levels)
        return self.space.fit(levels, self.over, grow=fit is Fit.BUDGET)

    def lowered(self, levels: Levels, names: Sequence[str], wanted_ms: float) -> Levels:
        """The point with the named groups lowered, each in proportion, until its latency is the wanted one or less."""
        for step in range(LEVELS):
            share = 1 - step / LEVELS
            made = levels | {n: max(1, round(levels[n] * share)) for n in names if n != SIZE}
            if self.ms(self.space.candidate(made)) <= wanted_ms:
                break
        return made


Draw = Callable[[Scene, Sequence[Tried], int, random.Random], Levels]
