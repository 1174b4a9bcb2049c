"""The training loop's moving part: one LightningModule around a plain detector and its criterion."""

from __future__ import annotations

import math
from typing import Any

import lightning
import torch
from torch import Tensor, nn

from leandet.compress.criteria import scale_penalty
from leandet.data.batch import Batch
from leandet.data.sample import Sample
from leandet.detections import Detections
from leandet.detector.decode import Predictions
from leandet.detector.detector import Detector
from leandet.learn.loss import Criterion, Guide, Parts
from leandet.learn.recipe import Recipe
from leandet.learn.validation import ValidationBatch, found
from leandet.metrics import score


class Training(lightning.LightningModule):
    """Optimises a detector; logs the loss's parts each step and AP each validation.

    Args:
        detector: trained in place.
        recipe: settings.
        steps: optimiser steps of the whole training.
        samples: of the validation split, in the order in which the loader gives them.
        classes: names.
        guide: what a teacher adds to the loss; None for none.
    """

    def __init__(
        self,
        detector: Detector,
        recipe: Recipe,
        steps: int,
        samples: tuple[Sample, ...],
        classes: tuple[str, ...],
        guide: Guide | None = None,
    ) -> None:
        super().__init__()
        self.detector = detector
        self.criterion = Criterion(recipe.auxiliary, guide, recipe.assign)
        self.recipe, self.steps = recipe, steps
        self._samples, self._classes = samples, classes
        self._found: list[Detections] = []

    def transfer_batch_to_device(
        self, batch: Batch | ValidationBatch, device: torch.device, dataloader_idx: int
    ) -> Batch | ValidationBatch:
        """Move the tensors; placements stay where they are read."""
        images = batch.images.to(device, non_blocking=True)
        if isinstance(batch, Batch):
            return Batch(images, batch.targets.to(device))
        return ValidationBatch(images, batch.placements)

    def training_step(self, batch: Batch, index: int) -> Tensor:
        """One batch -> its total loss."""
        images = batch.images.contiguous(memory_format=torch.channels_last)
        parts: Parts = self.criterion(self.detector, images, batch.targets)
        loss, terms = parts.total, parts._asdict()
        if self.criterion.guide is None:
            del terms["distillation"]
        if self.recipe.scale_penalty:
            terms["scales"] = self.recipe.scale_penalty * scale_penalty(self.detector)
            loss = loss + terms["scales"]
        self.log_dict(
            {f"loss/{name}": value.detach() for name, value in terms.items()},
            on_step=False,
            on_epoch=True,
            batch_size=len(images),
            sync_dist=True,
        )
        self.log(
            "loss", loss.detach(), on_step=False, on_epoch=True, prog_bar=True, batch_size=len(images), sync_dist=True
        )
        return loss

    def on_validation_epoch_start(self) -> None:
        """Forget the last measurement's detections."""
        self._found.clear()

    def validation_step(self, batch: ValidationBatch, index: int) -> None:
        """Collect the detections of a batch."""
        images = batch.images.contiguous(memory_format=torch.channels_last)
        predictions: Predictions = self.detector(images)
        self._found += found(predictions, batch.placements, self.detector.spec.detections)

    def on_validation_epoch_end(self) -> None:
        """Measure AP over the validation split."""
        scores = score(self._samples, self._found, self._classes, self.detector.spec.counted)
        self.log("ap", scores.ap, prog_bar=True)
        self.log("ap50", scores.ap50)
        self.log("ap_with_nms", scores.ap_with_nms)

    def configure_optimizers(self) -> Any:
        """AdamW with the backbone at its own rate, warmed up linearly, then a cosine."""
        recipe = self.recipe
        optimizer = torch.optim.AdamW(
            _groups(self.detector.backbone, recipe, recipe.backbone_rate)
            + _groups(self.detector.neck, recipe, 1.0)
            + _groups(self.detector.head, recipe, 1.0),
            fused=True,
        )
        warmup = max(1, round(recipe.warmup_epochs * self.steps / recipe.epochs))

        def factor(step: int) -> float:
            if step < warmup:
                return (step + 1) / warmup
            progress = (step - warmup) / max(1, self.steps - warmup)
            return 0.01 + 0.99 * (1 + math.cos(math.pi * min(1.0, progress))) / 2

        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, factor)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


def _groups(module: nn.Module, recipe: Recipe, rate: float) -> list[dict[str, Any]]:
    parameters = [p for p in module.parameters() if p.requires_grad]
    rate *= recipe.learning_rate
    groups = [
        {"params": [p for p in parameters if p.ndim > 1], "lr": rate, "weight_decay": recipe.weight_decay},
        {"params": [p for p in parameters if p.ndim <= 1], "lr": rate, "weight_decay": 0.0},
    ]
    return [group for group in groups if group["params"]]
