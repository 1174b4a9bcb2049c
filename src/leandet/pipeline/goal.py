"""How far a detector is cut: a share of its channels, of what it costs or of its latency, or measured milliseconds."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from torch import nn

from leandet.compress import Budget, Quantity, Target
from leandet.compress.allocate import check_ratio
from leandet.compress.prune import quantity_of
from leandet.compress.record import Inputs
from leandet.errors import UserError


@dataclass(frozen=True, slots=True)
class Uncut:
    """What a goal is measured against.

    Attributes:
        module: the network before anything is cut.
        example: its input.
        stopwatch: measures candidates on this machine, in ms.
        beside: a candidate's latency as a share of this network's, measured in turns with it.
    """

    module: nn.Module
    example: Inputs
    stopwatch: Callable[[nn.Module], float]
    beside: Callable[[nn.Module], float]


@dataclass(frozen=True, slots=True)
class Aim:
    """What one cut is asked for: either, as `leandet.compress.shrink` takes it."""

    ratio: float | None = None
    target: Target | Budget | None = None


class Goal(Protocol):
    """What is wanted in the end, of the uncut network."""

    def aim(self, uncut: Uncut, now: nn.Module, done: float, before: float) -> Aim:
        """What the cut from `before` to `done`, shares of the whole cut in [0, 1], asks of the network as it is."""
        ...

    def __str__(self) -> str:
        """For people and for the card."""
        ...


@dataclass(frozen=True, slots=True)
class Ratio:
    """A share of the channels to cut, in every group or over all of them, in [0, 1)."""

    share: float

    def __post_init__(self) -> None:
        check_ratio(self.share)

    def aim(self, uncut: Uncut, now: nn.Module, done: float, before: float) -> Aim:
        """See `Goal.aim`."""
        return Aim(ratio=1 - (1 - done * self.share) / (1 - before * self.share))

    def __str__(self) -> str:
        return f"{self.share:.1%} of the channels cut"


@dataclass(frozen=True, slots=True)
class Remaining:
    """A share of a quantity that may remain, above 0 and at most 1."""

    target: Target

    def aim(self, uncut: Uncut, now: nn.Module, done: float, before: float) -> Aim:
        """See `Goal.aim`."""
        quantity = self.target.quantity
        wanted = (1 - done * (1 - self.target.share)) * quantity_of(uncut.module, uncut.example, quantity)
        return Aim(target=Target(quantity, min(1.0, wanted / quantity_of(now, uncut.example, quantity))))

    def __str__(self) -> str:
        return f"{self.target.share:.1%} of the {self.target.quantity.value} remain"


@dataclass(frozen=True, slots=True)
class Milliseconds:
    """A p50 latency in ONNX Runtime, photograph in, boxes out, that the cut network meets on this machine."""

    limit: float

    def __post_init__(self) -> None:
        if not 0 < self.limit < float("inf"):
            raise UserError(f"a latency must be above 0 ms, not {self.limit:g} ms.")

    def aim(self, uncut: Uncut, now: nn.Module, done: float, before: float) -> Aim:
        """See `Goal.aim`."""
        limit = self.limit
        if done < 1:
            whole = uncut.stopwatch(uncut.module)
            limit = whole - done * max(0.0, whole - limit)
        return Aim(target=Budget(uncut.stopwatch, limit, "ms"))

    def __str__(self) -> str:
        return f"{self.limit:g} ms"


@dataclass(frozen=True, slots=True)
class Latency:
    """A share of the uncut network's p50 latency in ONNX Runtime that may remain, above 0 and below 1.

    On a machine whose speed changes, a share is met more surely than milliseconds: both networks are measured in turns.
    """

    share: float

    def __post_init__(self) -> None:
        if not 0 < self.share < 1:
            raise UserError(f"the latency that remains must be a share above 0 and below 1, not {self.share}.")

    def aim(self, uncut: Uncut, now: nn.Module, done: float, before: float) -> Aim:
        """See `Goal.aim`."""
        return Aim(target=Budget(uncut.beside, 1 - done * (1 - self.share), "of the uncut p50"))

    def __str__(self) -> str:
        return f"{self.share:.1%} of the p50 latency remain"


def remaining(share: float, quantity: Quantity = Quantity.MULTIPLY_ADDS) -> Remaining:
    """The goal that so much remains."""
    return Remaining(Target(quantity, share))
