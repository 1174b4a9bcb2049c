"""What an engine really runs: the steps of its own plan, each with its measured time."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import nan
from statistics import fmean
from typing import Protocol, TypeVar

import numpy as np
import numpy.typing as npt

from leandet.engines import settle

ROUNDS = 8  # whole calls and profiled calls take turns, so that a slow minute strikes both alike
WARM_UP_CALLS = 3
LEAST_CALLS = 24
MOST_CALLS = 400  # a round
QUIET_HALF = 0.5
QUIET = 1.05  # times the least that a yardstick takes: nothing else slows the core
ENOUGH = 12  # calls beside quiet ones
PATIENCE = 4  # times as long as wished, while there are not enough of them

K = TypeVar("K")
Call = Callable[[], object]


@dataclass(frozen=True, slots=True)
class Step:
    """One step of an engine's plan.

    Attributes:
        name: as the engine's profiler calls it.
        kernel: what the engine runs, in its own words.
        anchors: nodes of the graph whose outputs it makes. Empty for a layout reorder.
        near: for a reorder, the node whose output it moves.
        ms: mean time in milliseconds over the calls that count.
        blocked: whether its kernel is one of those in the engine's blocked layout.
    """

    name: str
    kernel: str
    anchors: tuple[str, ...]
    near: str | None
    ms: float
    blocked: bool = False


@dataclass(frozen=True, slots=True)
class Measured:
    """An engine's timing of a network.

    Attributes:
        whole_ms: mean time of a call without the profiler over the calls that count, milliseconds.
        steps: in the order in which they run; steps that took no time of their own are left out.
        calls: timed calls, without the profiler and as many with it.
        beside_ms: mean time of the yardstick beside the calls that count; NaN where there was none.
    """

    whole_ms: float
    steps: tuple[Step, ...]
    calls: int
    beside_ms: float = nan


@dataclass(frozen=True, slots=True)
class Yardstick:
    """A call that takes turns with others and says how fast the machine is.

    Attributes:
        call: of a network that is always the same.
        ms: what it takes on a quiet machine.
    """

    call: Call
    ms: float


class Engine(Protocol):
    """A runtime that can tell how long each step of a network takes.

    Attributes:
        name, version: of the runtime.
        threads: threads for one call.
    """

    name: str
    version: str
    threads: int

    def open(self) -> Call:
        """A session of its own, which runs the network on random numbers."""
        ...

    def measure(self, seconds: float, keep: float = QUIET_HALF, beside: Yardstick | None = None) -> Measured:
        """Time the network for about so many seconds.

        Args:
            seconds: altogether, but for `beside`.
            keep: share of the calls that count, the fastest ones: other programs disturb the rest.
            beside: takes turns with the network. The calls beside its quiet ones then count, whatever `keep` says, and
                measuring takes up to `PATIENCE` times as long until there are enough.
        """
        ...


def quietest(times: Sequence[float], keep: float) -> list[float]:
    """The fastest share of some times, at least one."""
    return sorted(times)[: max(1, round(keep * len(times)))]


def undisturbed(taken: Sequence[float], least: float) -> list[int]:
    """Which calls of a yardstick met nothing that slowed the machine; the least slowed ones where too few did.

    Args:
        taken: milliseconds of each call.
        least: what a call has been seen to take.
    """
    ranked = sorted(range(len(taken)), key=taken.__getitem__)
    enough = max(1, min(ENOUGH, len(ranked) // 4))
    return sorted(place for n, place in enumerate(ranked) if n < enough or taken[place] <= QUIET * least)


def quiet_means(times: Mapping[K, Sequence[float]], keep: float, quiet: Sequence[int] | None = None) -> dict[K, float]:
    """Mean time of each step over the fastest calls, or rounds of calls.

    Means over the same calls add up to these calls' mean. Medians do not: a disturbance strikes other steps in each
    call, so that no step's median shows it, and every call's time does.

    Args:
        times: of each step, one for each call, the same calls in the same order.
        keep: share of the calls that count.
        quiet: the calls that count, where a yardstick says so.
    """
    if quiet is None:
        totals = [sum(call) for call in zip(*times.values(), strict=True)]
        quiet = sorted(range(len(totals)), key=totals.__getitem__)[: max(1, round(keep * len(totals)))]
    return {step: fmean(taken[call] for call in quiet) for step, taken in times.items()}


def random_input(shape: Sequence[int], kind: type[np.generic], seed: int = 0) -> npt.NDArray[np.generic]:
    """Something to run on: uint8 pixels, or standard normal floats."""
    random = np.random.default_rng(seed)
    if np.issubdtype(kind, np.integer):
        return random.integers(0, 256, tuple(shape)).astype(kind)
    return random.standard_normal(tuple(shape)).astype(kind)


def clock_for(threads: int) -> Callable[[], float]:
    """The clock for calls of so many threads.

    With one thread it is the process's own time, which stands still while another program has the core: a call's time
    is then what it would be on a quiet machine. Several threads wait for each other, so only the wall's clock will do.
    """
    return time.process_time if threads == 1 else time.perf_counter


def calls_a_round(call: Call, seconds: float, threads: int) -> int:
    """How many calls, and as many profiled ones, fill one of the rounds that take `seconds` altogether."""
    clock = clock_for(threads)
    start = clock()
    call()
    once = clock() - start
    return min(MOST_CALLS, max(LEAST_CALLS // ROUNDS, round(seconds / (2 * ROUNDS) / max(once, 1e-6))))


@dataclass(frozen=True, slots=True)
class Turns:
    """Calls that took turns.

    Attributes:
        whole, profiled: milliseconds of each timed call.
        beside: of the yardstick, around each of these. Empty where there was none.
        quiet: which of the calls it found the machine quiet for; None where there was none.
    """

    whole: list[float]
    profiled: list[float]
    beside: list[float]
    quiet: list[int] | None


def take_turns(whole: Call, profiled: Call, seconds: float, threads: int, beside: Yardstick | None = None) -> Turns:
    """Run calls in turns for `seconds` altogether, the first two at least `LEAST_CALLS` times each.

    All are first called `WARM_UP_CALLS` times untimed.
    """
    for _ in range(WARM_UP_CALLS):
        for call in (whole, profiled, *([beside.call] if beside is not None else [])):
            call()
    calls, clock = calls_a_round(whole, seconds, threads), clock_for(threads)
    if beside is not None and threads == 1:
        return _one_by_one(whole, profiled, beside, ROUNDS * calls)
    times: list[list[float]] = [[], [], []]
    for _ in range(ROUNDS):
        for kept, call in zip(times, (whole, profiled), strict=False):
            settle(threads)
            kept += [_timed(call, clock) for _ in range(calls)]
        if beside is not None:
            settle(threads)
            beside.call()
            few = min(calls, calls_a_round(beside.call, seconds, threads))
            times[2] += [fmean(_timed(beside.call, clock) for _ in range(few))] * calls
    plain, slower, around = times
    return Turns(plain, slower, around, None if beside is None else undisturbed(around, beside.ms))


def _one_by_one(whole: Call, profiled: Call, beside: Yardstick, calls: int) -> Turns:
    """Each call between two of the yardstick, for a machine that others share changes its speed within a second.

    The yardstick is called untimed first: what it takes after another network has filled the caches says more of that
    network than of the machine.
    """
    clock, plain, slower, around = clock_for(1), [0.0] * 0, [0.0] * 0, [0.0] * 0
    beside.call()
    before = _timed(beside.call, clock)
    while len(plain) < calls or (
        len(plain) < PATIENCE * calls and sum(ms <= QUIET * beside.ms for ms in around) < ENOUGH
    ):
        plain.append(_timed(whole, clock))
        slower.append(_timed(profiled, clock))
        beside.call()
        after = _timed(beside.call, clock)
        around.append(max(before, after))
        before = after
    return Turns(plain, slower, around, undisturbed(around, beside.ms))


def _timed(call: Call, clock: Callable[[], float]) -> float:
    """Milliseconds of one call."""
    start = clock()
    call()
    return (clock() - start) * 1e3
