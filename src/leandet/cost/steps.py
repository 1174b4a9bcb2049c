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
        beside_ms: mean time of the call that took turns with these, over those of its calls that count;
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
            beside: something else to be timed in turns with the network, for half as long at most: see
                `Measured.beside_ms`.
        """
        ...


def quietest(times: Sequence[float], keep: float) -> list[float]:
    """The fastest share of some times, at least one."""
    return sorted(times)[: max(1, round(keep * len(times)))]


def quiet_means(times: Mapping[K, Sequence[float]], keep: float) -> dict[K, float]:
    """Mean time of each step over the fastest calls, or rounds of calls.

    Means over the same calls add up to these calls' mean. Medians do not: a disturbance strikes other steps in each
    call, so that no step's median shows it, and every call's time does.

    Args:
        times: of each step, one for each call, the same calls in the same order.
        keep: share of the calls that count.
    """
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


def take_turns(
    whole: Call, profiled: Call, seconds: float, threads: int, beside: Call | None = None
) -> tuple[list[float], list[float], list[float]]:
    """Run two calls in turns for `seconds` altogether, each at least `LEAST_CALLS` times, and no oftener a third one.

    Returns:
        Milliseconds of each timed call of `whole`, `profiled` and `beside`, all first called `WARM_UP_CALLS` times
        untimed.
    """
    clock = clock_for(threads)
    turns = (whole, profiled) if beside is None else (whole, profiled, beside)
    for _ in range(WARM_UP_CALLS):
        for call in turns:
            call()
    calls = calls_a_round(whole, seconds, threads)
    counts = (calls, calls) if beside is None else (calls, calls, min(calls, calls_a_round(beside, seconds, threads)))
    times: tuple[list[float], list[float], list[float]] = ([], [], [])
    for _ in range(ROUNDS):
        for call, count, kept in zip(turns, counts, times, strict=False):
            settle(threads)
            for _ in range(count):
                start = clock()
                call()
                kept.append((clock() - start) * 1e3)
    return times
