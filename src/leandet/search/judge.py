"""What a candidate is worth without training: cut, batch-norms measured anew, AP on some validation images.

EagleEye (arXiv 2007.02491, section 3): ranks of candidates mean little on the uncut network's batch-norm statistics,
and agree well with the ranks after fine-tuning once they are measured anew. After deep cuts that is not enough, as all
candidates are worth next to nothing; once the layers make up for what they lost (`leandet.compress.reconstruct`) it is.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from leandet.compress import Moments, recalibrate
from leandet.compress.criteria import Taylor
from leandet.data.batch import Batch
from leandet.data.loader import training_loader
from leandet.data.sample import Dataset, Sample, evenly
from leandet.detections import Detections
from leandet.detector.detector import Detector
from leandet.learn.distill import Answers, answered, nearest
from leandet.learn.loss import Criterion, Parts
from leandet.learn.validation import ValidationBatch, found, validation_loader
from leandet.metrics import average_precision
from leandet.preprocess import Size
from leandet.search.space import Candidate, Space

BATCH = 16
CALIBRATION = 128  # training images that the batch-norms see: 8 batches
COMPARED = 2  # of these batches, that say which of two cuts is nearer to the whole detector
JUDGED = 96  # validation images that a candidate is judged on
WORTH = 64  # training views that decide which channels are worth most


def channel_worth(detector: Detector, samples: Sequence[Sample], seed: int) -> Taylor:
    """How much the detection loss would change without each channel, by its first-order estimate on some views."""
    example = torch.zeros(1, 3, detector.spec.size.height, detector.spec.size.width)
    chosen = evenly(samples, WORTH)
    loader = training_loader(chosen, detector.spec.size, batch=BATCH, seed=seed, mosaic_until=0, workers=0)
    criterion = Criterion()

    def loss(batch: Batch) -> Tensor:
        images = _laid_out(batch.images)
        parts: Parts = criterion(detector.eval(), images, batch.targets)
        return parts.total

    return Taylor.measure(detector, example, loss, loader)


def channel_moments(detector: Detector, samples: Sequence[Sample]) -> Moments:
    """What the detector's layers read on the images that batch-norms are measured on."""
    batches = validation_loader(evenly(samples, CALIBRATION), detector.spec.size, BATCH)
    return Moments.measure(detector, (_laid_out(batch.images) for batch in batches))


def _laid_out(images: Tensor) -> Tensor:
    return images.contiguous(memory_format=torch.channels_last)


@dataclass(slots=True)
class Judge:
    """Judges candidates of a space; the same candidate is always worth the same.

    Attributes:
        space: whose candidates they are.
        dataset: its `train` split measures the batch-norms, its `val` split judges; `test` is never looked at.
    """

    space: Space
    dataset: Dataset
    _calibration: dict[Size, list[Tensor]] = field(default_factory=dict)
    _answers: dict[Size, list[tuple[Tensor, Answers]]] = field(default_factory=dict)
    _judged: dict[Size, list[ValidationBatch]] = field(default_factory=dict)

    def calibrated(self, candidate: Candidate) -> Detector:
        """The candidate as a detector, its batch-norms measured on training images.

        Of the plain and the reconstructed cut, the one that answers more like the whole detector.

        Raises:
            StructureError: as `Space.cut`.
        """
        if candidate.size not in self._calibration:
            samples = evenly(self.dataset.splits["train"], CALIBRATION)
            batches = validation_loader(samples, candidate.size, BATCH)
            self._calibration[candidate.size] = [_laid_out(batch.images) for batch in batches]
        images = self._calibration[candidate.size]
        made = [detector.to(memory_format=torch.channels_last) for detector in self.space.cuts(candidate)]
        for detector in made:
            recalibrate(detector, images)
        return made[0] if len(made) == 1 else nearest(made, self._told(candidate.size))

    def _told(self, size: Size) -> list[tuple[Tensor, Answers]]:
        """What the whole detector answers, once for each input size."""
        if size not in self._answers:
            whole, images = self.space.detector.eval(), self._calibration[size][:COMPARED]
            self._answers[size] = [(image, answered(whole, image)) for image in images]
        return self._answers[size]

    def __call__(self, candidate: Candidate) -> float:
        """AP, a fraction, on the judged images.

        Raises:
            StructureError: as `Space.cut`.
            UserError: as `ap`, or if an image cannot be read.
        """
        return self.ap(self.calibrated(candidate))

    @property
    def _samples(self) -> Sequence[Sample]:
        """The judged images; where none of them would have an object, of the labelled ones alone."""
        samples = self.dataset.splits["val"]
        chosen = evenly(samples, JUDGED)
        if any(len(sample.boxes) for sample in chosen):
            return chosen
        return evenly([sample for sample in samples if len(sample.boxes)], JUDGED)

    def ap(self, detector: Detector) -> float:
        """AP of a detector of any size on the judged images.

        Raises:
            UserError: if no image of `val` holds an object.
        """
        size = detector.spec.size
        samples = self._samples
        if size not in self._judged:
            self._judged[size] = list(validation_loader(samples, size, BATCH))
        answers: list[Detections] = []
        with torch.inference_mode():
            for batch in self._judged[size]:
                images = _laid_out(batch.images)
                answers += found(detector(images), batch.placements, detector.spec.detections)
        return average_precision(samples, answers, self.dataset.classes, detector.spec.counted)
