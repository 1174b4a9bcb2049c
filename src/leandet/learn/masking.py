"""Zeros that grow while a detector trains, and stay."""

from __future__ import annotations

from typing import Any

import lightning
import torch
from lightning.pytorch.callbacks import Callback

from leandet.learn.callbacks import Averaging
from leandet.learn.module import Training
from leandet.sparsify import Hold, Movement, Plan, Ramp
from leandet.sparsify.masking import apply
from leandet.sparsify.patterns import Masks


class Masking(Callback):
    """Cuts weights as a ramp says, at the start of epochs, and holds them at zero: averaged weights and momentum too.

    Args:
        plan: what to cut.
        ramp: when.
        masks: to begin with, such as those of a Lottery Ticket; what they cut stays cut. Chosen anew if left out.
    """

    def __init__(self, plan: Plan, ramp: Ramp, masks: Masks | None = None) -> None:
        self._plan, self._ramp = plan, ramp
        self._done = 0.0 if masks is None else 1.0
        self.masks: Masks = dict(masks or {})
        self._hold: Hold | None = None

    def state_dict(self) -> dict[str, Any]:
        """Masks and movement travel in the checkpoint, so that a resume cuts the same weights."""
        return {"masks": self.masks, "done": self._done, "movement": self._movement.totals}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take up what was cut before a resume."""
        self.masks, self._done = dict(state_dict["masks"]), float(state_dict["done"])
        self._movement.totals.update(state_dict["movement"])

    @property
    def _movement(self) -> Movement:
        return self._plan.scorer if isinstance(self._plan.scorer, Movement) else Movement()

    def on_fit_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Hold what is cut already."""
        detector = _detector(pl_module)
        if not self.masks:
            weights = self._plan.weights(detector)
            self.masks = {name: torch.ones_like(weight, dtype=torch.bool) for name, weight in weights.items()}
        self._hold = Hold(detector, self.masks)

    def on_train_epoch_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Cut more, if the ramp says so."""
        done = max(self._done, self._ramp.done(trainer.current_epoch))
        if done > self._done and self._hold is not None:
            self.masks = self._plan.masks(_detector(pl_module), done, self.masks)
            self._done = done
            self._hold.tighten(self.masks, trainer.optimizers)
        for callback in trainer.callbacks:  # type: ignore[attr-defined]
            if isinstance(callback, Averaging):
                apply(_detector(callback.averaged), self.masks)

    def on_before_optimizer_step(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, optimizer: torch.optim.Optimizer
    ) -> None:
        """Take up the step's movement, before its gradients are clipped."""
        if isinstance(self._plan.scorer, Movement):
            self._plan.scorer.add(self._plan.weights(_detector(pl_module)))

    def teardown(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, stage: str) -> None:
        """Let the weights go, and the GPU that they were trained on."""
        if self._hold is not None:
            self._hold.release()
            self._hold = None
        self.masks = {name: mask.cpu() for name, mask in self.masks.items()}


def _detector(module: torch.nn.Module) -> torch.nn.Module:
    if not isinstance(module, Training):
        raise TypeError("masking holds the weights of a detector in training.")
    return module.detector
