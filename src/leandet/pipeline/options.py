"""What a person asks of `build`, and how the open choices are made from the data."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from leandet.data.sample import Sample
from leandet.detector.spec import STRIDE, check_size
from leandet.errors import UserError
from leandet.preprocess import Size

VIEWS = 22_000  # training pictures shown in all when the number of epochs is not given
FEWEST_EPOCHS, MOST_EPOCHS = 12, 120
ALIKE = 0.95  # share of the images that must have one shape before the input takes it
SHAPE_TOLERANCE = 1.1  # ratio of two aspect ratios that count as one shape


@dataclass(frozen=True, slots=True)
class Options:
    """A build's settings; the same words as on the command line.

    Attributes:
        data: folder or file in COCO, VOC or YOLO layout.
        out: folder for everything that is made.
        backbone: a name of `leandet.nets`.
        weights: `imagenet`, `none`, or the path of a safetensors file for the backbone.
        size: longest side of the network's input in pixels, a multiple of 32.
        width: channels of neck and head.
        epochs: passes over the training split; None chooses by the number of images.
        batch: images a training step.
        seed: of everything random.
        threads: of training and of the measured runtime; None for all usable cores.
        budget_ms: the p50 latency to meet, photograph in, boxes out; None for none.
        prune: share of the multiply-adds to cut out after training, above 0 and below 1; None prunes nothing.
        teacher: a `.safetensors` detector of the same classes to learn from while training; None for none.
        scale_penalty: see `Recipe`; for pruning by batch-norm scales later.
    """

    data: Path
    out: Path
    backbone: str = "mobilenet_v2"
    weights: str = "imagenet"
    size: int = 320
    width: int = 96
    epochs: int | None = None
    batch: int = 16
    seed: int = 0
    threads: int | None = None
    budget_ms: float | None = None
    prune: float | None = None
    teacher: Path | None = None
    scale_penalty: float = 0.0

    def __post_init__(self) -> None:
        check_size(Size(self.size, self.size))
        if self.budget_ms is not None and not self.budget_ms > 0:
            raise UserError(f"the budget must be above 0 ms, not {self.budget_ms:g} ms.")
        if self.epochs is not None and self.epochs < 1:
            raise UserError(f"epochs must be at least 1, not {self.epochs}.")
        if self.prune is not None and not 0 < self.prune < 1:
            raise UserError(f"prune is the share of multiply-adds to cut out, above 0 and below 1, not {self.prune:g}.")

    def to_json(self) -> dict[str, Any]:
        """A plain object; `out` is left out, so that a finished folder may be moved."""
        value = asdict(self)
        del value["out"]
        value["data"] = str(self.data)
        value["teacher"] = None if self.teacher is None else str(self.teacher)
        return value


def default_epochs(images: int) -> int:
    """About 22,000 training pictures in all, from 12 to 120 epochs."""
    return min(MOST_EPOCHS, max(FEWEST_EPOCHS, math.ceil(VIEWS / max(1, images))))


def input_size(samples: Sequence[Sample], side: int) -> Size:
    """The network's input: a square of `side` pixels, or the images' own shape where 95 % of them share one.

    A 640x480 photograph letterboxed into a square wastes a quarter of the computation on grey; where all photographs
    are alike, the input takes their shape, its shorter side rounded up to a multiple of 32.
    """
    ratios = sorted(s.size.width / s.size.height for s in samples)
    middle = ratios[len(ratios) // 2]
    alike = sum(max(r / middle, middle / r) <= SHAPE_TOLERANCE for r in ratios)
    if alike < ALIKE * len(ratios):
        return Size(side, side)
    short = math.ceil(side / max(middle, 1 / middle) / STRIDE - 1e-9) * STRIDE
    return Size(short, side) if middle >= 1 else Size(side, short)
