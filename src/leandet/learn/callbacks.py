"""Beside the steps of a training: the bar or its lines, the averaged weights, the curves, the best weights kept."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Any

import lightning
import torch
from lightning.pytorch.callbacks import Callback, EarlyStopping, ModelCheckpoint, WeightAveraging
from lightning.pytorch.callbacks.progress.rich_progress import RichProgressBar
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from leandet.atomic import write_json

CURVES = "curves.json"


class Bar(RichProgressBar):
    """The progress bar, with the training's figures alone."""

    def get_metrics(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule
    ) -> dict[str, int | str | float | dict[str, float]]:
        """The figures shown, without the logger's version."""
        figures = super().get_metrics(trainer, pl_module)
        return {name: value for name, value in figures.items() if name != "v_num"}


def _figures(trainer: lightning.Trainer) -> dict[str, float]:
    """The losses of the epoch that ends, and its APs where it was measured."""
    measured = (trainer.current_epoch + 1) % (trainer.check_val_every_n_epoch or 1) == 0
    kinds = ("loss", "ap") if measured else ("loss",)
    return {name: float(value) for name, value in trainer.callback_metrics.items() if name.startswith(kinds)}


class Patience(EarlyStopping):
    """Stops after so many measurements without a better AP; a training that it had stopped stays so when resumed.

    Args:
        measurements: how many.
    """

    def __init__(self, measurements: int) -> None:
        super().__init__("ap", mode="max", patience=measurements)

    def on_train_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Stop again what a checkpoint says was stopped, before another epoch begins."""
        trainer.should_stop = trainer.should_stop or self.wait_count >= self.patience


class Lines(Callback):
    """A line on standard error after each epoch: what a log file gets in place of the bar."""

    def __init__(self) -> None:
        self._start = 0.0

    def on_train_epoch_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Start the clock."""
        self._start = time.perf_counter()

    def on_train_epoch_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Say what the epoch gave; validation, if any, ran before this."""
        if not trainer.is_global_zero:
            return
        figures = _figures(trainer)
        ap = f", AP {100 * figures['ap']:.1f} % on the validation images" if "ap" in figures else ""
        seconds = time.perf_counter() - self._start
        sys.stderr.write(
            f"epoch {trainer.current_epoch + 1} of {trainer.max_epochs}, loss {figures['loss']:.3f}{ap}, "
            f"{seconds:.0f} s\n"
        )
        sys.stderr.flush()


class LastMeasured(Callback):
    """Sees to it that the last epoch, whose rate is the lowest, is measured, whatever its number."""

    def on_train_epoch_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Measure after this epoch if no other follows."""
        if trainer.current_epoch + 1 == trainer.max_epochs:
            trainer.check_val_every_n_epoch = 1


class Best(ModelCheckpoint):
    """Keeps the weights of the highest AP measured from some epoch on, counted from 0."""

    def __init__(self, out: Path, choose_from: int) -> None:
        super().__init__(
            out, "best", monitor="ap", mode="max", enable_version_counter=False, save_on_train_epoch_end=False
        )
        self._from = choose_from

    def on_validation_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Compare this measurement with the best, if it counts yet."""
        if trainer.current_epoch >= self._from:
            super().on_validation_end(trainer, pl_module)


class Average(AveragedModel):
    """Exponential moving average of a module's weights and buffers whose memory grows with training up to `decay`.

    Early on the average must forget the random start: step n uses min(decay, (1 + n) / (10 + n)), as TensorFlow's
    ExponentialMovingAverage does. PyTorch's own update collects both modules' tensors anew each time; here they are
    collected once.

    Args:
        module: copied.
        device: where the copy lies: that of the module in training, or every update would move all weights.
        decay: in [0, 1), per step.
    """

    def __init__(self, module: nn.Module, device: torch.device, decay: float) -> None:
        super().__init__(module, device)
        self._decay = decay
        self._pairs: list[tuple[list[Tensor], list[Tensor]]] = []  # averaged and current, by type

    def update_parameters(self, model: nn.Module) -> None:
        """Move towards `model`: the same at every call, on the copy's device, its tensors changed in place alone."""
        if not self._pairs:
            self._pairs = _paired(self.module, model)
        step = int(self.n_averaged)
        share = 1 - min(self._decay, (1 + step) / (10 + step)) if step else 1.0
        with torch.no_grad():
            for averaged, current in self._pairs:
                if averaged[0].is_floating_point():
                    torch._foreach_lerp_(averaged, current, share)
                else:  # counters, such as batch-norm's
                    torch._foreach_copy_(averaged, current)
        self.n_averaged += 1


def _paired(averaged: nn.Module, current: nn.Module) -> list[tuple[list[Tensor], list[Tensor]]]:
    """The tensors of both, those of one type together, as a fused update needs them."""
    groups: dict[torch.dtype, tuple[list[Tensor], list[Tensor]]] = {}
    tensors = ([*module.parameters(), *module.buffers()] for module in (averaged, current))
    for one, other in zip(*tensors, strict=True):
        ours, theirs = groups.setdefault(one.dtype, ([], []))
        ours.append(one.detach())
        theirs.append(other.detach())
    return list(groups.values())


class Averaging(WeightAveraging):
    """Keeps an `Average` of what is trained: it is what is measured, and what training leaves."""

    def __init__(self, decay: float) -> None:
        super().__init__()
        self._decay = decay

    def setup(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, stage: str) -> None:
        """Copy the module to where it will be trained: now it is still where it was made."""
        if stage == "fit":
            self._average_model = Average(pl_module, trainer.strategy.root_device, self._decay)

    @property
    def averaged(self) -> nn.Module:
        """The averaged copy of the module in training."""
        if self._average_model is None:
            raise RuntimeError("there is an average only once training has begun.")
        average: nn.Module = self._average_model.module
        return average


class Progress(Callback):
    """Writes `curves.json` after each epoch and measures how long steps wait for data."""

    def __init__(self, out: Path) -> None:
        self._path = out / CURVES
        self.curves: list[dict[str, float]] = []
        self._epoch_start = self._step_end = 0.0
        self._loading = self._stepping = 0.0

    def state_dict(self) -> dict[str, Any]:
        """The curves travel in the checkpoint, so that a resume has those of the epochs that it holds, no more."""
        return {"curves": self.curves}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take up the curves of the epochs before a resume."""
        self.curves = list(state_dict["curves"])

    def on_train_epoch_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Start the clocks."""
        self._epoch_start = self._step_end = time.perf_counter()
        self._loading = self._stepping = 0.0

    def on_train_batch_start(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """The wait for this batch is over."""
        self._loading += time.perf_counter() - self._step_end

    def on_train_batch_end(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """One step, with its wait, is over."""
        now = time.perf_counter()
        self._stepping += now - self._step_end
        self._step_end = now

    def on_train_epoch_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Note the epoch's figures; validation, if any, ran before this."""
        self.curves.append(
            {
                "epoch": trainer.current_epoch + 1,
                **_figures(trainer),
                "learning_rate": float(trainer.optimizers[0].param_groups[-1]["lr"]),
                "seconds": time.perf_counter() - self._epoch_start,
                "loading_seconds": self._loading,
                "step_seconds": self._stepping,
            }
        )
        if trainer.is_global_zero:
            write_json(self._path, self.curves)
