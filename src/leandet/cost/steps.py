"""What an engine really runs: the steps of its own plan, each with its measured time."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import nan
from statistics import fmean, median
from typing import Protocol, TypeVar

import numpy as np
import numpy.typing as npt

from leandet.engines import settle

ROUNDS = 8  # whole calls and profiled calls take turns, so that a slow minute strikes both alike
WARM_UP_CALLS = 3
LEAST_CALLS = 24
MOST_CALLS = 400  # a round
QUIET_HALF = 0.5

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
    """

    name: str
    kernel: str
    anchors: tuple[str, ...]
    near: str | None
    ms: float


@dataclass(frozen=True, slots=True)
class Measured:
    """An engine's timing of a network.

    Attributes:
        whole_ms: mean time of a call without the profiler over the calls that count, milliseconds.
        steps: in the order in which they run; steps that took no time of their own are left out.
        calls: timed calls, without the profiler and as many with it.
        beside_ms: median time of the call that took turns with these, at whose speed then the other times are given;
            NaN where none did.
    """

    whole_ms: float
    steps: tuple[Step, ...]
    calls: int
    beside_ms: float = nan


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

    def measure(self, seconds: float, keep: float = QUIET_HALF, beside: Call | None = None) -> Measured:
        """Time the network for about so many seconds.

        Args:
            seconds: altogether, but for `beside`.
            keep: share of the calls that count, the fastest ones: other programs disturb the rest.
            beside: something else to be timed in turns with the network. Each call's time is then divided by how much
                slower this was just then, and the middle half of the calls counts, whatever `keep` says.
        """
        ...


def quietest(times: Sequence[float], keep: float) -> list[float]:
    """The fastest share of some times, at least one."""
    return sorted(times)[: max(1, round(keep * len(times)))]


def slowness(beside: Sequence[float]) -> list[float]:
    """How much slower than typically the call beside was, in each round."""
    return [ms / median(beside) for ms in beside] if beside else []


def quiet_means(times: Mapping[K, Sequence[float]], keep: float, slower: Sequence[float] = ()) -> dict[K, float]:
    """Mean time of each step over the fastest calls, or rounds of calls.

    Means over the same calls add up to these calls' mean. Medians do not: a disturbance strikes other steps in each
    call, so that no step's median shows it, and every call's time does.

    Args:
        times: of each step, one for each call, the same calls in the same order.
        keep: share of the calls that count.
        slower: for each call how much slower the machine was, by a call beside it. Times are divided by it, and the
            middle half of the calls counts: one that looks fast may stand beside a disturbed one.
    """
    totals = [sum(call) for call in zip(*times.values(), strict=True)]
    by = slower or [1.0] * len(totals)
    ranked = sorted(range(len(totals)), key=lambda call: totals[call] / by[call])
    counted = middle_half(ranked) if slower else ranked[: max(1, round(keep * len(ranked)))]
    return {step: fmean(taken[call] / by[call] for call in counted) for step, taken in times.items()}


def middle_half(ranked: Sequence[int]) -> Sequence[int]:
    """Without the first and the last quarter; never empty if the whole is not."""
    return ranked[len(ranked) // 4 : len(ranked) - len(ranked) // 4]


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
        beside: of the call beside, in the round of each of these: their mean. Empty where there was none.
    """

    whole: list[float]
    profiled: list[float]
    beside: list[float]


def take_turns(whole: Call, profiled: Call, seconds: float, threads: int, beside: Call | None = None) -> Turns:
    """Run calls in turns for `seconds` altogether, the first two at least `LEAST_CALLS` times each.

    Beside another call each is called once in a round, for the machine's speed changes within a second. With several
    threads each is called some times in a row: the wait until the threads of the one before sleep is much longer.
    All are first called `WARM_UP_CALLS` times untimed.
    """
    turns = [whole, profiled, *([beside] if beside is not None else [])]
    for _ in range(WARM_UP_CALLS):
        for call in turns:
            call()
    calls = calls_a_round(whole, seconds, threads)
    rounds, counts = ROUNDS, [calls] * len(turns)
    if beside is not None:
        among = calls_a_round(beside, seconds, threads)
        if threads == 1:
            rounds = max(LEAST_CALLS, round(ROUNDS / (1 / calls + 0.5 / among)))
            counts = [1, 1, 1]
        else:
            counts[2] = min(calls, among)
    times: list[list[float]] = [[], [], []]
    clock = clock_for(threads)
    for _ in range(rounds):
        taken = []
        for call, count in zip(turns, counts, strict=True):
            settle(threads)
            taken.append([_timed(call, clock) for _ in range(count)])
        times[0] += taken[0]
        times[1] += taken[1]
        times[2] += [fmean(ms) for ms in taken[2:] for _ in taken[0]]
    return Turns(*times)


def _timed(call: Call, clock: Callable[[], float]) -> float:
    """Milliseconds of one call."""
    start = clock()
    call()
    return (clock() - start) * 1e3
