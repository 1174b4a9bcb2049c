"""The latency of detectors that are still in the making: exported and timed like any other."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass, replace
from pathlib import Path

from leandet.card import Card
from leandet.detector.detector import Detector
from leandet.export.export import WRITERS
from leandet.export.graph import folded
from leandet.runtime.bench import BenchReport, bench


@dataclass(frozen=True, slots=True)
class Stopwatch:
    """Measures detectors as they will run: exported, photograph in, boxes out.

    Attributes:
        card: of the detectors' model.
        images: photographs to detect in.
        threads: of the engine; None for all usable cores.
        seconds: measured time for each detector.
        to: the target, a name of `leandet export --to`.
    """

    card: Card
    images: tuple[Path, ...]
    threads: int | None
    seconds: float
    to: str = "onnx"

    def __call__(self, *detectors: Detector) -> BenchReport:
        """A row for each detector, measured in turns.

        Raises:
            UserError: if the target's engine is not installed or does not take the network.
        """
        suffix, write = WRITERS[self.to]
        with tempfile.TemporaryDirectory(prefix="leandet-") as scratch:
            paths = [Path(scratch) / f"{number}{suffix}" for number in range(len(detectors))]
            for path, detector in zip(paths, detectors, strict=True):
                write(folded(detector), replace(self.card, spec=detector.spec), path)
            return bench(paths, self.threads, self.images, seconds=self.seconds)
