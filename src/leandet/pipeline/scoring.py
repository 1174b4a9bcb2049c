"""What criteria a detector can be pruned by, and the training images that some of them look at."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from leandet.compress import criteria
from leandet.compress.criteria import Criterion
from leandet.data.batch import Batch
from leandet.data.loader import training_loader
from leandet.data.sample import Sample, evenly
from leandet.detector.detector import Detector
from leandet.learn.loss import Criterion as Loss
from leandet.learn.validation import validation_loader
from leandet.preprocess import Size

IMAGES = 256  # looked at for batch-norm statistics, activations and gradients


@dataclass(frozen=True, slots=True)
class Pictures:
    """Training images, for what is measured on a detector without training it.

    Attributes:
        samples: of the training split.
        size: of the detector's input.
        batch: images a batch.
        seed: of the random views.
    """

    samples: Sequence[Sample]
    size: Size
    batch: int
    seed: int

    def plain(self) -> Iterator[Tensor]:
        """Letterboxed, as at detection: uint8 (B, 3, H, W)."""
        return (batch.images for batch in validation_loader(evenly(self.samples, IMAGES), self.size, self.batch))

    def labelled(self) -> Iterator[Batch]:
        """Random views with their labels, as in training, without mosaics."""
        samples = evenly(self.samples, IMAGES)
        return iter(training_loader(samples, self.size, batch=self.batch, seed=self.seed, mosaic_until=0, workers=0))


def _always(criterion: Criterion) -> Callable[[Detector, Pictures], Criterion]:
    return lambda detector, pictures: criterion


def taylor(detector: Detector, pictures: Pictures) -> Criterion:
    """By the gradient of the training loss."""
    loss = Loss()
    example = torch.zeros(1, 3, pictures.size.height, pictures.size.width)
    return criteria.Taylor.measure(
        detector, example, lambda batch: loss(detector, batch.images, batch.targets).total, pictures.labelled()
    )


# The names of the command line.
CRITERIA: dict[str, Callable[[Detector, Pictures], Criterion]] = {
    "l1": _always(criteria.l1),
    "l2": _always(criteria.l2),
    "fpgm": _always(criteria.fpgm),
    "bn-scale": _always(criteria.bn_scale),
    "lamp": _always(criteria.lamp),
    "taylor": taylor,
    "apoz": lambda detector, pictures: criteria.Apoz(criteria.Activations.measure(detector, pictures.plain())),
    "mean-activation": lambda detector, pictures: criteria.MeanActivation(
        criteria.Activations.measure(detector, pictures.plain())
    ),
    "random": lambda detector, pictures: criteria.Random(pictures.seed),
}
