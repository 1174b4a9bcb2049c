"""The latency of detectors that are still in the making: exported and timed like any other."""

from __future__ import annotations

import shutil
import tempfile
import time
import weakref
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from statistics import median
from typing import Any

import cv2

from leandet.card import Card
from leandet.data.image import load_image
from leandet.detector.detector import Detector
from leandet.errors import naming_extras
from leandet.export.export import WRITERS
from leandet.export.graph import deployable
from leandet.machine import usable_cores
from leandet.preprocess import Size
from leandet.runtime.bench import BenchReport, bench
from leandet.runtime.runtime import prepared

PREPARED, TURNS = 8, 3  # photographs that tell how long it takes to prepare one, and how often each is


@dataclass(frozen=True, slots=True, weakref_slot=True)
class Stopwatch:
    """Measures detectors as they will run: exported, photograph in, boxes out.

    How long a detector takes does not depend on what its weights are, and an export takes longer than a measurement. So
    a structure is exported once for as long as the stopwatch lives, and measured as often as it is asked for.

    Attributes:
        card: of the detectors' model.
        images: photographs to detect in.
        threads: of the engine; None for all usable cores.
        seconds: measured time for each detector.
        to: the target, a name of `leandet export --to`.
        finish: what is done to each written file before it is measured, its card given too; None for nothing.
        drafts: one for the same target that exports what this one finishes, so that nothing is exported twice; None to
            export itself.
    """

    card: Card
    images: tuple[Path, ...]
    threads: int | None
    seconds: float
    to: str = "onnx"
    finish: Callable[[Path, Card], None] | None = None
    drafts: Stopwatch | None = None
    _folder: Path = field(init=False, repr=False, compare=False)
    _known: list[dict[str, Any]] = field(init=False, repr=False, compare=False, default_factory=list)

    def __post_init__(self) -> None:
        folder = Path(tempfile.mkdtemp(prefix="leandet-"))
        object.__setattr__(self, "_folder", folder)
        weakref.finalize(self, shutil.rmtree, folder, ignore_errors=True)

    def __call__(self, *detectors: Detector) -> BenchReport:
        """A row for each detector, measured in turns.

        Raises:
            UserError: if the target's engine is not installed or does not take the network.
        """
        return bench([self.file(one) for one in detectors], self.threads, self.images, seconds=self.seconds)

    def preparing_ms(self, size: Size) -> float:
        """Median ms that a photograph takes to become an input of a size: what no network can change.

        Not a line over the size: a size that divides a photograph's takes less. With as many threads as the engine.
        """
        paths = self.images[:: max(1, len(self.images) // PREPARED)][:PREPARED]
        photographs = [load_image(path) for path in paths]
        before, times = cv2.getNumThreads(), []
        cv2.setNumThreads(self.threads or usable_cores())
        try:
            for image in photographs * (1 + TURNS):
                start = time.perf_counter()
                prepared([image], size)
                times.append(1e3 * (time.perf_counter() - start))
        finally:
            cv2.setNumThreads(before)
        return median(times[len(photographs) :])  # the first turn warms up

    def file(self, detector: Detector) -> Path:
        """The exported detector, or an earlier one of the same structure; there for as long as the stopwatch lives.

        Raises:
            UserError: as when it is measured.
        """
        suffix, write = WRITERS[self.to]
        asked = detector.spec.to_json()
        if asked not in self._known:
            path = self._folder / f"{len(self._known)}{suffix}"
            card = replace(self.card, spec=detector.spec)
            if self.drafts is None:
                with naming_extras():
                    write(deployable(detector), card, path)
            else:
                shutil.copyfile(self.drafts.file(detector), path)
            if self.finish is not None:
                self.finish(path, card)
            self._known.append(asked)
        return self._folder / f"{self._known.index(asked)}{suffix}"
