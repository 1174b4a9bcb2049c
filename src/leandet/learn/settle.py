"""The last stage of a training: the choice alone learns how sure it may be (docs/decisions/0001)."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader

from leandet.data.batch import Batch
from leandet.data.loader import EpochSampler
from leandet.data.sample import Sample
from leandet.detector.detector import Detector
from leandet.detector.head import Maps
from leandet.detector.spec import STEEPEST
from leandet.learn.fit import fit, trainer_for
from leandet.learn.geometry import matched
from leandet.learn.loss import wanted_scores
from leandet.learn.module import Training
from leandet.learn.peaks import LEARNED, NONE, accuracies, keep_apart, steepest
from leandet.learn.processes import share
from leandet.learn.recipe import Recipe
from leandet.learn.validation import ValidationBatch
from leandet.sparsify.hold import Hold

RATE = 5e-3  # of the choice alone; the recipe's own rate is for a network that still has to learn what it sees


class Settling(Training):
    """Teaches the choice alone, by plain cross-entropy, while everything beneath it stays as it is.

    Attributes:
        fall: with which scores are seen, as `Maps.peaks` takes it.
    """

    fall = NONE

    def on_train_epoch_start(self) -> None:
        """Everything but the choice's towers answers as it will in use: with its running statistics."""
        self.detector.eval()
        _choice(self.detector).train()

    def training_step(self, batch: Batch, index: int) -> Tensor:
        """One batch -> its loss, for each object."""
        images = batch.images.contiguous(memory_format=torch.channels_last)
        maps: Maps = self.detector.head(self.detector.features(images))
        predictions = self.detector.predict(maps)
        matches = self.criterion.assign(predictions, batch.targets)
        boxes = predictions.boxes[matches.image, matches.location]
        overlap = matched(boxes, batch.targets.boxes[matches.image, matches.target]).iou.clamp(0, 1)
        wanted = wanted_scores(predictions.logits, batch.targets.labels, matches, matches.quality * overlap)
        used = maps.peaks(self.fall).logits()
        errors = F.binary_cross_entropy_with_logits(used, wanted, reduction="sum")
        loss = errors / share(matches.quality.sum())
        self.log("loss", loss.detach(), on_step=False, on_epoch=True, prog_bar=True, batch_size=len(images))
        return loss


@dataclass(frozen=True, slots=True)
class Settled:
    """What settling did.

    Attributes:
        ap: AP (fraction) on the validation split, as the detector is used.
        ap_by_fall: AP with each `Spec.fall` that there was to choose from, class by class.
        loss: of the last epoch, for each object.
        seconds: of wall time.
    """

    ap: float
    ap_by_fall: dict[float, float]
    loss: float
    seconds: float


def settle(
    detector: Detector,
    training: DataLoader[Batch],
    validation: DataLoader[ValidationBatch],
    samples: tuple[Sample, ...],
    classes: tuple[str, ...],
    recipe: Recipe,
) -> Settled:
    """Train the choice's towers of a trained detector on, in place, and leave it in evaluation mode.

    The focal loss teaches the order of scores well and their height badly: it forgives a second box of an object a
    score of .3. Plain cross-entropy does not. With the rest frozen the order changes little, for better or worse
    (docs/decisions/0001). Weights that are exactly zero stay zero: a sparse detector remains as sparse as it is.

    Then `Spec.fall` is chosen, as steep as the accuracy on `validation` allows. Where objects crowd it would cost too
    much, because a neighbour's surer score is another object's; there the choice learns with a gentle fall in place.
    And all classes compete with each other where that costs next to nothing of it (`Spec.classwise`).

    Args:
        detector: trained, with a choice (`HeadStyle.chooses`).
        training: the training's own loader; its mosaics end here.
        validation: of the split that measures.
        samples: of that split, in its order.
        classes: names.
        recipe: of the training.

    Returns:
        What came of it.

    Raises:
        KeyboardInterrupt: after Ctrl-C; the detector is between two states, and its training's checkpoint is whole.
    """
    start = time.perf_counter()
    if isinstance(training.sampler, EpochSampler):
        training.sampler.mosaic_until = 0
        training.sampler.set_epoch(0)  # its loaders draw ahead: whatever the training's last epoch was
    recipe = replace(recipe, epochs=recipe.settling_epochs, learning_rate=RATE, warmup_epochs=1.0)
    module = Settling(detector, recipe, len(training) * recipe.epochs, samples, classes)
    detector.eval()
    if steepest(accuracies(detector, validation, samples, classes, (STEEPEST, NONE)), samples) < STEEPEST:
        module.fall = LEARNED
    trainer = trainer_for(recipe, [], evaluate_every=recipe.epochs + 1)  # it is measured below, with every fall
    towers = _choice(detector)
    learning = {name: weight for name, weight in towers.named_parameters() if weight.requires_grad}
    zeros = {name: weight != 0 for name, weight in learning.items() if weight.ndim > 1}
    with _alone(detector, towers), Hold(towers, zeros):
        fit(trainer, module, training, validation)
    detector.eval()
    found = accuracies(detector, validation, samples, classes)
    fall = steepest(found, samples)
    ap, classwise = found[fall], True
    if fall and len(classes) > 1:
        together = accuracies(detector, validation, samples, classes, (fall,), classwise=False)[fall]
        classwise = keep_apart(ap, together)
        ap = ap if classwise else together
    detector.spec = replace(detector.spec, fall=fall, classwise=classwise)
    loss = float(trainer.callback_metrics["loss"])
    return Settled(ap, found, loss, time.perf_counter() - start)


def _choice(detector: Detector) -> nn.Module:
    towers = detector.head.choose
    if not isinstance(towers, nn.Module):
        raise TypeError(f"the head {detector.spec.head} has no choice to settle")
    return towers


@contextmanager
def _alone(detector: nn.Module, part: nn.Module) -> Iterator[None]:
    """Within, of the detector's parameters that learn, only the part's do."""
    own = set(part.parameters())
    resting = [weight for weight in detector.parameters() if weight.requires_grad and weight not in own]
    try:
        for weight in resting:
            weight.requires_grad_(False)
        yield
    finally:
        for weight in resting:
            weight.requires_grad_(True)
