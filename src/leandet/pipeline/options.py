"""What a person asks of `build`, and how the open choices are made from the data."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from leandet.data.sample import Sample
from leandet.detector.spec import MOST_DETECTIONS, STRIDE, TOP_K, check_size, check_width
from leandet.errors import UserError
from leandet.export import SUFFIXES
from leandet.preprocess import Size
from leandet.search.latency import Budget

BACKBONE, SIDE = "mobilenet_v2", 320  # where nothing else chooses
VIEWS = 22_000  # training pictures shown in all when the number of epochs is not given
FEWEST_EPOCHS, MOST_EPOCHS = 12, 120
ALIKE = 0.95  # share of the images that must have one shape before the input takes it
SHAPE_TOLERANCE = 1.1  # ratio of two aspect ratios that count as one shape


@dataclass(frozen=True, slots=True)
class Architecture:
    """What is trained: a backbone, and the longest side of its input in pixels; and whether for use in 8 bit."""

    backbone: str
    side: int
    int8: bool = False

    def __str__(self) -> str:
        return f"{self.backbone} at {self.side} px{', INT8' if self.int8 else ''}"


@dataclass(frozen=True, slots=True)
class Options:
    """A build's settings; the same words as on the command line.

    Attributes:
        data: folder or file in COCO, VOC or YOLO layout.
        out: folder for everything that is made.
        backbone: a name of `leandet.nets`; None chooses by the budget, or takes MobileNetV2 without one.
        weights: `imagenet`, `none`, the path of the backbone's safetensors file, or of a folder with one for each.
        size: longest side of the network's input in pixels, a multiple of 32; None chooses by the budget, or takes 320.
        width: channels of neck and head.
        epochs: passes over the training split; None chooses by the number of images.
        batch: images a training step.
        seed: of everything random.
        threads: of training and of the measured runtime; None for all usable cores.
        budget_ms: the p50 latency to meet, photograph in, boxes out; None for none.
        max_bytes: the largest file; only with a budget. None for any.
        seconds: time allowed for the whole build; only with a budget. None for as long as it takes.
        target: the engine that the result is for, a name of `leandet export --to`.
        prune: share of the multiply-adds to cut out after training, above 0 and below 1; None prunes nothing.
        int8: quantise too, and choose the 8-bit file where the gate of `leandet.quantize` accepts it. With a budget,
            each backbone is planned in the precision that suits it.
        teacher: a `.safetensors` detector of the same classes to learn from while training; None for none.
        scale_penalty: see `Recipe`; for pruning by batch-norm scales later.
    """

    data: Path
    out: Path
    backbone: str | None = None
    weights: str = "imagenet"
    size: int | None = None
    width: int = 96
    epochs: int | None = None
    batch: int = 16
    seed: int = 0
    threads: int | None = None
    budget_ms: float | None = None
    prune: float | None = None
    int8: bool = False
    teacher: Path | None = None
    scale_penalty: float = 0.0
    max_bytes: int | None = None
    seconds: float | None = None
    target: str = "onnx"

    def __post_init__(self) -> None:
        if self.size is not None:
            check_size(Size(self.size, self.size))
        check_width(self.width)
        if self.budget_ms is not None:
            Budget(self.budget_ms, self.max_bytes)  # refuses what is none
            if self.prune is not None:
                raise UserError("give either a budget, which decides how much is cut, or a share to prune.")
        elif self.max_bytes is not None or self.seconds is not None:
            raise UserError("a largest size or a time to work needs a budget in milliseconds too.")
        if self.int8 and self.target != "onnx":
            raise UserError("int8 in a build is for the target onnx: build without, then `leandet quantize --to`.")
        if self.seconds is not None and not self.seconds > 0:
            raise UserError(f"the time to work must be above 0 s, not {self.seconds:g} s.")
        if self.target not in SUFFIXES:
            raise UserError(f"the target must be one of {', '.join(SUFFIXES)}, not {self.target!r}.")
        if self.epochs is not None and self.epochs < 1:
            raise UserError(f"epochs must be at least 1, not {self.epochs}.")
        if self.prune is not None and not 0 < self.prune < 1:
            raise UserError(f"prune is the share of multiply-adds to cut out, above 0 and below 1, not {self.prune:g}.")

    def in_time(self, p50_ms: float) -> bool:
        """Whether a latency is within the budget; True without one."""
        return self.budget_ms is None or p50_ms <= self.budget_ms

    def meets(self, p50_ms: float, size: int) -> bool:
        """Whether a latency and a file size in bytes are within the budget; True without one."""
        return self.in_time(p50_ms) and (self.max_bytes is None or size <= self.max_bytes)

    @property
    def architecture(self) -> Architecture:
        """What is trained where no budget chooses."""
        return Architecture(self.backbone or BACKBONE, self.size or SIDE)

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


def detections(samples: Sequence[Sample]) -> int:
    """The most that a detector should return for one image: half as many again as the fullest image has objects.

    In hundreds, and at least COCO's 100.
    """
    fullest = max((len(sample.boxes) for sample in samples), default=0)
    return min(MOST_DETECTIONS, max(TOP_K, math.ceil(1.5 * fullest / TOP_K) * TOP_K))


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
