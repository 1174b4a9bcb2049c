"""How fast a model runs on this machine: the whole path, decoded photograph in and boxes out, and its stages apart."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from itertools import cycle, islice
from pathlib import Path

import cv2
import numpy as np

from leandet.engines import settle
from leandet.errors import UserError
from leandet.machine import BUSY_CORES, busy_cores, describe_machine
from leandet.preprocess import Image
from leandet.runtime import model_bytes, open_runtime
from leandet.runtime.fresh import measure_fresh
from leandet.runtime.photograph import photograph_like
from leandet.runtime.runtime import Runtime

ROUNDS = 10  # each model's time is spread over this many turns, so that a slow minute strikes all models alike
WARM_UP_SECONDS = 0.3
WARM_UP_CALLS = 3
MAX_IMAGES = 64  # decoded photographs held in memory
MAX_BATCH = 1024


@dataclass(frozen=True, slots=True)
class BenchRow:
    """One model's figures. Milliseconds are for one call, that is for `batch` photographs.

    Attributes:
        model: the file.
        runtime, precision: the engine, and the number format of the weights.
        threads: threads for one call.
        batch: photographs in one call.
        size: the network's input, height and width in pixels.
        p10_ms, p50_ms, p90_ms, p99_ms: percentiles of the whole path.
        images_per_s: photographs divided by the time that all calls took.
        bytes: the file's size.
        ap: average precision, a fraction: measured where labelled images are given, else what the card states, or None.
        preprocess_p50_ms, network_p50_ms, postprocess_p50_ms: medians of the stages.
        calls: timed calls that the figures rest on.
        turns_ms: medians of the whole path in each of the model's turns. Where a machine's speed changes, their
            n-th turns tell better how two models compare than all of them together do.
        best_batch, best_images_per_s: the number of photographs in a call at which the most were done in a second, and
            how many; None where no other number was tried.
        cold_start_ms, peak_memory_bytes: see `leandet.runtime.fresh`; None where not measured.
    """

    model: str
    runtime: str
    precision: str
    threads: int
    batch: int
    size: tuple[int, int]
    p10_ms: float
    p50_ms: float
    p90_ms: float
    p99_ms: float
    images_per_s: float
    bytes: int
    ap: float | None
    preprocess_p50_ms: float
    network_p50_ms: float
    postprocess_p50_ms: float
    calls: int
    turns_ms: tuple[float, ...] = ()
    best_batch: int | None = None
    best_images_per_s: float | None = None
    cold_start_ms: float | None = None
    peak_memory_bytes: int | None = None

    def to_json(self) -> dict[str, object]:
        """A plain object with the attributes as keys; `size` is `[height, width]`."""
        return {name: list(v) if isinstance(v := getattr(self, name), tuple) else v for name in self.__slots__}


@dataclass(frozen=True, slots=True)
class BenchReport:
    """What was measured.

    Attributes:
        machine: see `leandet.machine.describe_machine`.
        rows: one for each model, in the order given.
        pictures: what the models looked at.
        warnings: what may have disturbed the measurement.
    """

    machine: dict[str, object]
    rows: list[BenchRow]
    pictures: str
    warnings: list[str]

    def with_ap(self, measured: Sequence[float]) -> BenchReport:
        """The same with average precisions measured here, fractions, one for each row."""
        rows = [replace(row, ap=ap) for row, ap in zip(self.rows, measured, strict=True)]
        return replace(self, rows=rows)

    def to_json(self) -> dict[str, object]:
        """A plain object: `{machine, rows, pictures, warnings}`."""
        return {
            "machine": self.machine,
            "rows": [row.to_json() for row in self.rows],
            "pictures": self.pictures,
            "warnings": list(self.warnings),
        }


@dataclass(slots=True)
class _Contender:
    """A model under measurement: seconds of each timed call, one list of (preprocess, network, postprocess)."""

    path: Path
    runtime: Runtime
    batch: int
    times: list[tuple[float, float, float]] = field(default_factory=list)
    turns: list[int] = field(default_factory=list)  # how many calls there had been when each ended

    def call(self, images: Sequence[Image]) -> tuple[float, float, float]:
        """One call of the whole path: the same three steps as `Runtime.batch`, with the clock read in between."""
        start = time.perf_counter()
        inputs, placements = self.runtime.prepare(images)
        prepared = time.perf_counter()
        raw = self.runtime.run_network(inputs)
        answered = time.perf_counter()
        self.runtime.finish(raw, placements)
        end = time.perf_counter()
        return prepared - start, answered - prepared, end - answered

    def row(self) -> BenchRow:
        stages = np.array(self.times) * 1000
        total = stages.sum(axis=1)
        p10, p50, p90, p99 = np.percentile(total, [10, 50, 90, 99])
        pre, network, post = np.median(stages, axis=0)
        card = self.runtime.card
        return BenchRow(
            model=str(self.path),
            runtime=self.runtime.name,
            precision=self.runtime.precision,
            threads=self.runtime.threads,
            batch=self.batch,
            size=(card.spec.size.height, card.spec.size.width),
            p10_ms=round(float(p10), 4),
            p50_ms=round(float(p50), 4),
            p90_ms=round(float(p90), 4),
            p99_ms=round(float(p99), 4),
            images_per_s=round(self.batch * len(total) * 1000 / float(total.sum()), 2),
            bytes=model_bytes(self.path),
            ap=card.metrics.get("ap"),
            preprocess_p50_ms=round(float(pre), 4),
            network_p50_ms=round(float(network), 4),
            postprocess_p50_ms=round(float(post), 4),
            calls=len(total),
            turns_ms=tuple(round(float(np.median(turn)), 4) for turn in np.split(total, self.turns[:-1])),
        )


def bench(
    paths: Sequence[str | Path],
    threads: int | None = None,
    images: Sequence[Path] | None = None,
    *,
    seconds: float = 5.0,
    batch: int = 1,
    batches: Sequence[int] = (),
    fresh: bool = False,
    warn: Callable[[str], None] | None = None,
) -> BenchReport:
    """Measure models against each other, in turns.

    Args:
        paths: model files.
        threads: threads for one call, resizing included; None for all cores that this process may use.
        images: photographs to detect in, the first 64 used; None for one drawn 640x480 picture, the same every time.
        seconds: measured time for each model, from 0.01 to 3600, after a warm-up.
        batch: photographs in one call, 1 to 1024.
        batches: other numbers of photographs in a call to try, each as long, for the most images in a second.
        fresh: measure cold start and memory too, each model in a process of its own.
        warn: told at once what disturbs the measurement; the report lists it too.

    Raises:
        UserError: if a model or photograph cannot be read, or an argument is out of range.
    """
    if not paths:
        raise UserError("no models were given: name the model files to measure.")
    if not 0.01 <= seconds <= 3600:
        raise UserError(f"seconds must be from 0.01 to 3600, not {seconds}.")
    for number in (batch, *batches):
        if not 1 <= number <= MAX_BATCH:
            raise UserError(f"batch must be from 1 to {MAX_BATCH} images, not {number}.")
    contenders = [_Contender(Path(path), open_runtime(path, threads), batch) for path in paths]
    decoded = _decoded(images)
    machine = describe_machine()  # before the measurement itself loads the machine
    warnings = _disturbances()
    for text in warnings:
        if warn is not None:
            warn(text)
    before = cv2.getNumThreads()
    cv2.setNumThreads(contenders[0].runtime.threads)
    try:
        _measure(contenders, _in_batches(decoded, batch), seconds)
        rows = [contender.row() for contender in contenders]
        for number in batches:
            others = [_Contender(c.path, c.runtime, number) for c in contenders]
            _measure(others, _in_batches(decoded, number), seconds)
            rows = [_better(row, other.row()) for row, other in zip(rows, others, strict=True)]
    finally:
        cv2.setNumThreads(before)
    if fresh:
        rows = [replace(row, **asdict(measure_fresh(Path(row.model), row.threads))) for row in rows]
    described = "one drawn picture of 640x480 px" if images is None else f"{len(decoded)} photographs"
    return BenchReport(machine, rows, described, warnings)


def share(row: BenchRow, other: BenchRow) -> float:
    """What share of another model's time a model takes, the two measured in turns: the median of turn by turn."""
    return float(np.median(np.array(row.turns_ms) / np.array(other.turns_ms)))


def _better(row: BenchRow, other: BenchRow) -> BenchRow:
    """The row with the best number of images in a call so far."""
    best, most = row.best_batch or row.batch, row.best_images_per_s or row.images_per_s
    if other.images_per_s > most:
        best, most = other.batch, other.images_per_s
    return replace(row, best_batch=best, best_images_per_s=most)


def _measure(contenders: Sequence[_Contender], pictures: list[list[Image]], seconds: float) -> None:
    turns = [cycle(pictures) for _ in contenders]
    for contender, batches in zip(contenders, turns, strict=True):
        end = time.perf_counter() + min(WARM_UP_SECONDS, seconds)
        done = 0
        while done < WARM_UP_CALLS or time.perf_counter() < end:
            contender.call(next(batches))
            done += 1
    order = list(zip(contenders, turns, strict=True))
    for _ in range(ROUNDS):
        for contender, batches in order:
            if len(order) > 1:
                settle(contender.runtime.threads)
            contender.call(next(batches))  # untimed: brings its weights back into the caches
            end = time.perf_counter() + seconds / ROUNDS
            while True:
                contender.times.append(contender.call(next(batches)))
                if time.perf_counter() >= end:
                    break
            contender.turns.append(len(contender.times))
        order.append(order.pop(0))  # nobody always follows the same neighbour


def _decoded(images: Sequence[Path] | None) -> list[Image]:
    """The photographs, or the drawn one."""
    if images is None:
        return [photograph_like()]
    from leandet.data.image import load_image

    if not images:
        raise UserError("no images were given: name image files or folders, or leave them out.")
    return [load_image(path) for path in images[:MAX_IMAGES]]


def _in_batches(decoded: Sequence[Image], batch: int) -> list[list[Image]]:
    """The photographs in batches; every photograph appears as often as any other."""
    endless = cycle(decoded)
    return [list(islice(endless, batch)) for _ in range(len(decoded))]


def _disturbances() -> list[str]:
    busy = busy_cores()
    if busy is None or busy <= BUSY_CORES:
        return []
    return [f"other programs keep {busy:.1f} cores busy: close them and measure again, these times may be too long."]
