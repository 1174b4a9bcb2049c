"""How long candidates take, estimated by scaling measured layer times, and what they may take."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import onnx

from leandet.cost.graph import to_onnx
from leandet.cost.profile import EngineName, example, profile
from leandet.detector.detector import Detector
from leandet.errors import UserError
from leandet.export.blocks import fill_blocks
from leandet.export.graph import Deployed, deployable, easily_decoded
from leandet.export.stopwatch import Stopwatch
from leandet.machine import channel_block
from leandet.runtime.bench import BenchRow, share
from leandet.search.space import Candidate, Space

PROFILE_SECONDS = 4.0
LOOKS, SLOW = 5, 2  # measurements of the whole detector, and which of them counts, the slowest being 1


@dataclass(frozen=True, slots=True)
class Budget:
    """What a detector may cost.

    Attributes:
        ms: p50 of the whole path, photograph in, boxes out, above 0.
        bytes: of the file, above 0; None for any.

    Raises:
        UserError: if one is out of range.
    """

    ms: float
    bytes: int | None = None

    def __post_init__(self) -> None:
        if not 0 < self.ms < float("inf"):
            raise UserError(f"the budget must be above 0 ms, not {self.ms:g} ms.")
        if self.bytes is not None and self.bytes < 1:
            raise UserError(f"the largest size must be above 0 bytes, not {self.bytes}.")

    def part(self, share: float) -> Budget:
        """The same with a share of the time."""
        return replace(self, ms=share * self.ms)

    def excess(self, ms: float, size: int) -> float:
        """By what share the worse of the two exceeds the budget; 0 or less where both are within."""
        return max(ms / self.ms, size / self.bytes if self.bytes else 0.0) - 1


@dataclass(frozen=True, slots=True)
class Clock:
    """Estimates a candidate's latency and file size from what was measured on the whole detector.

    A layer's time is scaled by its multiply-adds, that of a layer without weights by the square root of the network's
    (its work grows with the channels of one side only); what lies outside the network stays. `bias` brings the estimate
    of one measured candidate to what was measured.

    Attributes:
        layers: time in ms and names of the weights of each layer of the whole detector.
        host_ms: what the whole path takes beside the network.
        sizes: height and width in pixels of other inputs than the whole detector's, and by how many ms longer a
            photograph takes to become one.
        whole_ms: p50 of the whole detector's path at the machine's usual speed, see `usual`.
        bias: factor on the layers' times.
        extra_bytes: of the file, beside those of its parameters.
        weight_bytes: of a parameter: 4, or 1 in 8 bit.
    """

    layers: tuple[tuple[float, tuple[str, ...]], ...]
    host_ms: float
    whole_ms: float
    bias: float = 1.0
    extra_bytes: int = 0
    weight_bytes: int = 4
    sizes: tuple[tuple[int, int, float], ...] = ()

    def ms(self, space: Space, candidate: Candidate) -> float:
        """p50 of the whole path, in ms."""
        return self._host(candidate) + self.bias * self._network(space, candidate)

    def bytes(self, space: Space, candidate: Candidate) -> int:
        """Of the file."""
        return self.weight_bytes * space.parameters(candidate) + self.extra_bytes

    def corrected(self, space: Space, candidate: Candidate, row: BenchRow) -> Clock:
        """The clock that agrees with what was measured of a candidate."""
        bias = max(row.p50_ms - self._host(candidate), 1e-6) / self._network(space, candidate)
        return replace(self, bias=bias, extra_bytes=row.bytes - self.weight_bytes * space.parameters(candidate))

    def _host(self, candidate: Candidate) -> float:
        own = (candidate.size.height, candidate.size.width)
        return self.host_ms + sum(ms for height, width, ms in self.sizes if (height, width) == own)

    def _network(self, space: Space, candidate: Candidate) -> float:
        before, after = space.whole_work, space.work(candidate)
        rest = (sum(after.values()) / sum(before.values())) ** 0.5
        total = 0.0
        for ms, weights in self.layers:
            own = sum(before[name] for name in weights)
            total += ms * (sum(after[name] for name in weights) / own if own else rest)
        return max(1e-9, total * space.area(candidate))

    def to_json(self) -> dict[str, Any]:
        """A plain object, read back by `from_json`."""
        layers = [[ms, list(weights)] for ms, weights in self.layers]
        names = ("host_ms", "whole_ms", "bias", "extra_bytes", "weight_bytes")
        return {"layers": layers, "sizes": [list(size) for size in self.sizes]} | {n: getattr(self, n) for n in names}

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> Clock:
        """Read what `to_json` wrote."""
        layers = tuple((float(ms), tuple(weights)) for ms, weights in value["layers"])
        host_ms, whole_ms, bias = (float(value[name]) for name in ("host_ms", "whole_ms", "bias"))
        sizes = tuple((int(height), int(width), float(ms)) for height, width, ms in value["sizes"])
        return cls(layers, host_ms, whole_ms, bias, int(value["extra_bytes"]), int(value["weight_bytes"]), sizes)


@dataclass(frozen=True, slots=True)
class Pace:
    """Measures candidates in turns with the whole detector, and states them at the machine's usual speed.

    A machine's speed changes while a search runs, by half on a shared one; the share of the whole detector's time that
    a candidate takes does not. So all that a search compares is measured at one speed. The share is taken turn by turn:
    a machine that flips between two speeds has medians that flip with it (of eight measurements of one pair the median
    of the turns' shares lay between .80 and .86, the share of the fastest tenths of calls between .72 and .85).

    Attributes:
        stopwatch: that measures.
        whole: the uncut detector.
        whole_ms: its p50 at the usual speed.
    """

    stopwatch: Stopwatch
    whole: Detector
    whole_ms: float

    def __call__(self, *detectors: Detector) -> list[BenchRow]:
        """A row for each detector; its p50 at the usual speed.

        Raises:
            UserError: see `Stopwatch`.
        """
        whole, *rows = self.stopwatch(self.whole, *detectors).rows
        return [replace(row, p50_ms=round(self.whole_ms * share(row, whole), 4)) for row in rows]


def usual(stopwatch: Stopwatch, detector: Detector, before: Sequence[float] = ()) -> BenchRow:
    """The last of five looks at a detector, with the p50 that it has as a rule.

    A shared machine changes its speed by the second and by the minute: what meets a budget by one short look misses it
    by the next. So there is as long a pause after each look as it takes, and the second slowest of the five counts; and
    where it was looked at minutes ago too, of these moments and this one the second slowest again.

    Args:
        stopwatch: that looks.
        detector: at which.
        before: p50s in ms at earlier moments.
    """
    looks = []
    for look in range(LOOKS):
        if look:
            time.sleep(stopwatch.seconds)
        looks.append(stopwatch(detector).rows[0])
    now = sorted(row.p50_ms for row in looks)[-SLOW]
    moments = sorted([*before, now])
    last, p50_ms = looks[-1], moments[-min(SLOW, len(moments))]
    slower = p50_ms / last.p50_ms  # the host's part of the path as well as the network's
    prepared, finished = slower * last.preprocess_p50_ms, slower * last.postprocess_p50_ms
    return replace(last, p50_ms=p50_ms, preprocess_p50_ms=prepared, postprocess_p50_ms=finished)


def wind(space: Space, stopwatch: Stopwatch, before: Sequence[float] = ()) -> Clock:
    """A clock from the whole detector's profile and measured path; `before` as for `usual`.

    Engines without a profiler of their own share ONNX Runtime's proportions, and 8 bit shares float32's; the sum is
    their own.
    """
    engine = EngineName.OPENVINO if stopwatch.to == "openvino" else EngineName.ONNX
    size = space.detector.spec.size
    image = example((size.height, size.width), pixels=True)
    module = Deployed(easily_decoded(deployable(space.detector))).eval()
    model = to_onnx(module, image)
    if engine is EngineName.ONNX:  # as it is written for it
        fill_blocks(model.graph, channel_block())
        model = onnx.shape_inference.infer_shapes(model, data_prop=True)
    found = profile(module, image, engine, stopwatch.threads, seconds=PROFILE_SECONDS, inside="detector", graph=model)
    row = usual(stopwatch, space.detector, before)
    known = space.whole_work
    layers = tuple((layer.ms, _weights(layer.modules, known)) for layer in found.layers)
    outside = row.preprocess_p50_ms + row.postprocess_p50_ms
    own = stopwatch.preparing_ms(space.sizes[0])
    sizes = tuple((s.height, s.width, stopwatch.preparing_ms(s) - own) for s in space.sizes[1:])
    weight_bytes = 1 if row.precision == "int8" else 4
    clock = Clock(layers, outside, row.p50_ms, weight_bytes=weight_bytes, sizes=sizes)
    return clock.corrected(space, space.whole, row)


def _weights(modules: Sequence[str], known: dict[str, float]) -> tuple[str, ...]:
    return tuple(name for module in modules if (name := f"{module}.weight") in known)
