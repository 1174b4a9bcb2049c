"""The last stage of a training: the choice alone learns how sure it may be (docs/decisions/0001)."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader

from leandet.data.batch import Batch
from leandet.data.loader import EpochSampler
from leandet.data.sample import Sample
from leandet.detector.detector import Detector
from leandet.learn.fit import fit, trainer_for
from leandet.learn.geometry import matched
from leandet.learn.loss import wanted_scores
from leandet.learn.module import Training
from leandet.learn.processes import share
from leandet.learn.recipe import Recipe
from leandet.learn.validation import ValidationBatch
from leandet.sparsify.hold import Hold

RATE = 5e-3  # of the choice alone; the recipe's own rate is for a network that still has to learn what it sees


class Settling(Training):
    """Teaches the choice alone, by plain cross-entropy, while everything beneath it stays as it is."""

    def on_train_epoch_start(self) -> None:
        """Everything but the choice's towers answers as it will in use: with its running statistics."""
        self.detector.eval()
        _choice(self.detector).train()

    def training_step(self, batch: Batch, index: int) -> Tensor:
        """One batch -> its loss, for each object."""
        images = batch.images.contiguous(memory_format=torch.channels_last)
        predictions = self.detector.every_location(images)
        matches = self.criterion.assign(predictions, batch.targets)
        boxes = predictions.boxes[matches.image, matches.location]
        overlap = matched(boxes, batch.targets.boxes[matches.image, matches.target]).iou.clamp(0, 1)
        wanted = wanted_scores(predictions.logits, batch.targets.labels, matches, matches.quality * overlap)
        errors = F.binary_cross_entropy_with_logits(predictions.logits, wanted, reduction="sum")
        loss = errors / share(matches.quality.sum())
        self.log("loss", loss.detach(), on_step=False, on_epoch=True, prog_bar=True, batch_size=len(images))
        return loss


def settle(
    detector: Detector,
    training: DataLoader[Batch],
    validation: DataLoader[ValidationBatch],
    samples: tuple[Sample, ...],
    classes: tuple[str, ...],
    recipe: Recipe,
) -> dict[str, float]:
    """Train the choice's towers of a trained detector on, in place, and leave it in evaluation mode.

    The focal loss teaches the order of scores well and their height badly: it forgives a second box of an object a
    score of .3. Plain cross-entropy does not. With the rest frozen the order changes little, for better or worse
    (docs/decisions/0001). Weights that are exactly zero stay zero: a sparse detector remains as sparse as it is.

    Args:
        detector: trained, with a choice (`HeadStyle.chooses`).
        training: the training's own loader; its mosaics end here.
        validation: of the split that measures.
        samples: of that split, in its order.
        classes: names.
        recipe: of the training.

    Returns:
        `{ap, ap50, ap_with_nms, loss, seconds}` after it.

    Raises:
        KeyboardInterrupt: after Ctrl-C; the detector is between two states, and its training's checkpoint is whole.
    """
    start = time.perf_counter()
    if isinstance(training.sampler, EpochSampler):
        training.sampler.mosaic_until = 0
    recipe = replace(recipe, epochs=recipe.settling_epochs, learning_rate=RATE, warmup_epochs=1.0)
    module = Settling(detector, recipe, len(training) * recipe.epochs, samples, classes)
    trainer = trainer_for(recipe, [], evaluate_every=recipe.epochs)
    towers = _choice(detector)
    learning = {name: weight for name, weight in towers.named_parameters() if weight.requires_grad}
    zeros = {name: weight != 0 for name, weight in learning.items() if weight.ndim > 1}
    with _alone(detector, towers), Hold(towers, zeros):
        fit(trainer, module, training, validation)
    detector.eval()
    figures = {name: float(trainer.callback_metrics[name]) for name in ("ap", "ap50", "ap_with_nms", "loss")}
    return {**figures, "seconds": time.perf_counter() - start}


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
