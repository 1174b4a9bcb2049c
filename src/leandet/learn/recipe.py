"""How a detector is trained: every number in one place."""

from __future__ import annotations

from dataclasses import dataclass, field

from leandet.errors import UserError
from leandet.learn.assign import Assigner, MinimumCost

TUNING_RATE = 5e-3  # after a cut: half of a first training's
TUNED_BACKBONE_RATE = 0.3  # after a cut


@dataclass(frozen=True, slots=True)
class Recipe:
    """Training's settings.

    Attributes:
        epochs: passes over the training split, at least 1.
        batch: images a step.
        learning_rate: AdamW's peak, reached after the warm-up and followed by a cosine to 1 % of it.
        backbone_rate: the backbone's rate as a share of it; below 1 where its weights are pretrained.
        weight_decay: of weights; biases and norms have none.
        warmup_epochs: epochs of linear warm-up.
        mosaic_share: share of the epochs, from the start, that use mosaics.
        ema_decay: of the averaged weights, per step, once warmed up.
        auxiliary: weight of the one-to-many loss on the class logits; 0 for plain OneNet.
        assign: decides which locations learn to detect which object.
        settling: share of the epochs that are added for the choice alone (`leandet.learn.settle`); 0 for none.
        scale_penalty: weight of the sum of the batch-norms' absolute scales (Network Slimming, arXiv 1708.06519), which
            drives scales to zero for pruning by them; 0 for none, about 1e-4 in the paper.
        clip: largest norm of the gradient.
        evaluations: how many times the validation split is measured, evenly spread.
        patience: stop after this many measurements without a better AP; 0 never stops.
        seed: decides initial weights, order and views.
        workers: loader processes; 0 loads in the training process, None takes as many as suit the machine.
    """

    epochs: int = 100
    batch: int = 16
    learning_rate: float = 1e-2
    backbone_rate: float = 0.1
    weight_decay: float = 0.02
    warmup_epochs: float = 2.0
    mosaic_share: float = 0.8
    ema_decay: float = 0.995
    auxiliary: float = 1.0
    assign: Assigner = field(default_factory=MinimumCost)
    settling: float = 0.16
    scale_penalty: float = 0.0
    clip: float = 10.0
    evaluations: int = 12
    patience: int = 6
    seed: int = 0
    workers: int | None = None

    def __post_init__(self) -> None:
        for name, least in (("epochs", 1), ("batch", 1), ("evaluations", 1), ("patience", 0), ("workers", 0)):
            if (value := getattr(self, name)) is not None and value < least:
                raise UserError(f"{name} must be at least {least}, not {value}.")
        if not self.learning_rate > 0:
            raise UserError(f"learning_rate must be above 0, not {self.learning_rate}.")
        if not 0 <= self.settling <= 1:
            raise UserError(f"settling must be from 0 to 1, not {self.settling}.")
        if not 0 <= self.scale_penalty < float("inf"):
            raise UserError(f"scale_penalty must be at least 0, not {self.scale_penalty}.")

    @classmethod
    def from_nothing(cls, epochs: int, batch: int, seed: int) -> Recipe:
        """Settings for a network without pretrained weights: the backbone learns at the full rate too.

        On the embedded data a backbone at the pretrained share of the rate had learned almost nothing after 600 steps.
        """
        return cls(epochs=epochs, batch=batch, seed=seed, backbone_rate=1.0)

    @classmethod
    def after_cut(cls, epochs: int, batch: int, seed: int, learning_rate: float = TUNING_RATE) -> Recipe:
        """Settings for a trained detector from which channels were cut.

        The backbone's share of the rate lies between a pretrained network's and one from nothing, for the cut fell
        there too, and there are no mosaics: docs/pruning.md says what either gains.
        """
        return cls(
            epochs=epochs,
            batch=batch,
            seed=seed,
            learning_rate=learning_rate,
            backbone_rate=TUNED_BACKBONE_RATE,
            mosaic_share=0.0,
        )

    @property
    def evaluate_every(self) -> int:
        """Epochs between two measurements on the validation split."""
        return max(1, self.epochs // self.evaluations)

    @property
    def settling_epochs(self) -> int:
        """Epochs for the choice alone, after the others; none where a cut by the norms' scales is still to come."""
        return max(1, round(self.settling * self.epochs)) if self.settling and not self.scale_penalty else 0
