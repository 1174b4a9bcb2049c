"""The latency of a detector that is still in the making: exported for ONNX Runtime and timed like any other."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from torch import nn

from leandet.card import Card
from leandet.detector.detector import Detector
from leandet.export.formats import write_onnx
from leandet.export.graph import folded
from leandet.runtime.bench import BenchReport, bench


@dataclass(frozen=True, slots=True)
class Stopwatch:
    """Times detectors on this machine, photograph in, boxes out.

    Attributes:
        card: of the detectors' model.
        images: photographs to detect in.
        threads: of the engine; None for all usable cores.
        seconds: measured time for each detector.
    """

    card: Card
    images: tuple[Path, ...]
    threads: int | None
    seconds: float

    def __call__(self, candidate: nn.Module) -> float:
        """A detector's p50 in ms."""
        if not isinstance(candidate, Detector):
            raise TypeError(f"a detector was to be timed, not a {type(candidate).__name__}")
        return self.compare([candidate]).rows[0].p50_ms

    def compare(self, detectors: Sequence[Detector]) -> BenchReport:
        """Several detectors, measured in turns."""
        with tempfile.TemporaryDirectory(prefix="leandet-") as scratch:
            paths = [Path(scratch) / f"{number}.onnx" for number in range(len(detectors))]
            for path, detector in zip(paths, detectors, strict=True):
                write_onnx(folded(detector), replace(self.card, spec=detector.spec), path)
            return bench(paths, self.threads, self.images, seconds=self.seconds)
