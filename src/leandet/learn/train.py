"""Trains a detector on labelled images: resumable at every epoch, with the last checkpoint always whole."""

from __future__ import annotations

import logging
import signal
import threading
import time
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lightning
import torch
from lightning.pytorch.callbacks import Callback, EarlyStopping, ModelCheckpoint, WeightAveraging
from lightning.pytorch.callbacks.progress.rich_progress import RichProgressBar
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger
from torch import Tensor, nn

from leandet.atomic import write_json
from leandet.data.loader import training_loader
from leandet.data.sample import Sample
from leandet.detector.detector import Detector
from leandet.errors import UserError
from leandet.learn.checkpoints import WholeCheckpoints, check_fits, read_checkpoint
from leandet.learn.loss import Guide
from leandet.learn.memory import keep_freed_memory
from leandet.learn.module import Training
from leandet.learn.processes import Processes
from leandet.learn.recipe import Recipe
from leandet.learn.validation import validation_loader

LAST = "last.ckpt"
BEST = "best.ckpt"
CURVES = "curves.json"


@dataclass(frozen=True, slots=True)
class Outcome:
    """What training did.

    Attributes:
        best_ap: highest AP (fraction) on the validation split; the detector holds those weights.
        epochs: epochs finished.
        seconds: of wall time, all resumed parts together.
        loading_share: share of the training steps' time that was spent waiting for data, in [0, 1].
        curves: for each epoch, figures by name (`loss`, `loss/...`, `learning_rate`, and `ap` where measured).
    """

    best_ap: float
    epochs: int
    seconds: float
    loading_share: float
    curves: list[dict[str, float]]


def train(
    detector: Detector,
    training: tuple[Sample, ...],
    validation: tuple[Sample, ...],
    classes: tuple[str, ...],
    recipe: Recipe,
    out: Path,
    *,
    resume: bool = False,
    guide: Guide | None = None,
    callbacks: Sequence[Callback] = (),
    choose_from: int = 0,
) -> Outcome:
    """Train `detector` in place and leave it with its best averaged weights, in evaluation mode.

    Started by torchrun or srun, every process trains on its share of the pictures; `recipe.batch` is each one's.

    Args:
        detector: as built, perhaps with pretrained backbone weights.
        training, validation: samples.
        classes: names.
        recipe: settings; a resumed training needs the same.
        out: folder for checkpoints, `curves.json`, and the TensorBoard and CSV logs.
        resume: go on from `out`'s last checkpoint where there is one.
        guide: a teacher to learn from beside the labels (`leandet.learn.distill`).
        callbacks: what else happens during training; each keeps its state in the checkpoint.
        choose_from: epochs, counted from 0, before which no weights are chosen as the best.

    Raises:
        UserError: if there are no training samples, the recipe does not suit the detector's head, or the checkpoint is
            damaged or of another detector.
        KeyboardInterrupt: after Ctrl-C, with the last checkpoint whole.
    """
    _check(detector, training, validation, recipe)
    keep_freed_memory()
    lightning.seed_everything(recipe.seed, workers=True, verbose=False)
    size, processes = detector.spec.size, Processes.here()
    loader = training_loader(
        training,
        size,
        batch=recipe.batch,
        seed=recipe.seed,
        mosaic_until=round(recipe.epochs * recipe.mosaic_share),
        workers=recipe.workers,
        rank=processes.rank,
        world=processes.world,
    )
    module = Training(detector, recipe, len(loader) * recipe.epochs, validation, classes, guide)
    module.to(memory_format=torch.channels_last)
    progress = Progress(out)
    checkpoint = out / LAST
    resume = resume and checkpoint.is_file()
    if resume:  # refuse a damaged one, or another detector's, before anything else happens
        _check_checkpoint(checkpoint, module, recipe)
    with quiet():
        trainer = _trainer(recipe, out, [progress, *callbacks], choose_from, processes)
        with interruptible(trainer):
            trainer.fit(
                module,
                loader,
                validation_loader(validation, size, recipe.batch),
                ckpt_path=str(checkpoint) if resume else None,
                weights_only=True,
            )
    best = out / BEST if (out / BEST).is_file() else checkpoint
    state = read_checkpoint(best)["state_dict"]
    detector.load_state_dict({k.removeprefix("detector."): v for k, v in state.items() if k.startswith("detector.")})
    detector.eval()
    curves = progress.curves
    return Outcome(
        best_ap=max((row["ap"] for row in curves if "ap" in row and row["epoch"] > choose_from), default=-1.0),
        epochs=len(curves),
        seconds=sum(row["seconds"] for row in curves),
        loading_share=sum(r["loading_seconds"] for r in curves) / max(1e-9, sum(r["step_seconds"] for r in curves)),
        curves=curves,
    )


def _check(detector: Detector, training: Sequence[Sample], validation: Sequence[Sample], recipe: Recipe) -> None:
    if not training:
        raise UserError("the training split is empty: label some images or choose another split.")
    if recipe.auxiliary and not detector.spec.head.chooses:
        raise UserError(f"the head {detector.spec.head} has no auxiliary branch: train it with auxiliary=0.")
    if not any(len(sample.boxes) for sample in validation):
        raise UserError("no image of the validation split has a box: label some, or leave the split to be made.")


def _check_checkpoint(path: Path, module: Training, recipe: Recipe) -> None:
    known = read_checkpoint(path)
    check_fits(known, module, path)
    if known["epoch"] >= recipe.epochs:
        raise UserError(
            f"{path} has {known['epoch'] + 1} epochs, more than the {recipe.epochs} asked for: "
            "ask for as many, or begin in another folder."
        )


@contextmanager
def interruptible(trainer: lightning.Trainer) -> Iterator[None]:
    """Ctrl-C within is a KeyboardInterrupt again: Lightning makes an exit with code 1 of it, and ignores the next."""
    before = signal.getsignal(signal.SIGINT)
    try:
        yield
    except SystemExit:
        if not trainer.interrupted:
            raise
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGINT, before)
        raise KeyboardInterrupt from None


def _trainer(
    recipe: Recipe, out: Path, others: Sequence[Callback], choose_from: int, processes: Processes
) -> lightning.Trainer:
    out.mkdir(parents=True, exist_ok=True)
    callbacks: list[Callback] = [
        Averaging(recipe.ema_decay),
        *others,
        Bar(leave=False, console_kwargs={"stderr": True}),  # standard output belongs to the answer
        Best(out, choose_from),
        ModelCheckpoint(out, "last", enable_version_counter=False, save_on_train_epoch_end=True, every_n_epochs=1),
    ]
    if recipe.patience:
        callbacks.append(EarlyStopping("ap", mode="max", patience=recipe.patience))
    return lightning.Trainer(
        accelerator="auto",
        devices=processes.each,
        num_nodes=processes.nodes,
        strategy="ddp" if processes.world > 1 else "auto",
        use_distributed_sampler=False,  # the loader shares the pictures out
        sync_batchnorm=torch.cuda.is_available() and processes.world > 1,  # PyTorch has none on the CPU
        precision="16-mixed" if torch.cuda.is_available() else "32-true",
        max_epochs=recipe.epochs,
        check_val_every_n_epoch=recipe.evaluate_every,
        gradient_clip_val=recipe.clip,
        callbacks=callbacks,
        plugins=[WholeCheckpoints()],
        logger=[TensorBoardLogger(out, name="", version="tensorboard"), CSVLogger(out, name="", version="csv")],
        log_every_n_steps=1_000_000,
        num_sanity_val_steps=0,
        enable_model_summary=False,
        default_root_dir=out,
    )


class Bar(RichProgressBar):
    """The progress bar, with the training's figures alone."""

    def get_metrics(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule
    ) -> dict[str, int | str | float | dict[str, float]]:
        """The figures shown, without the logger's version."""
        figures = super().get_metrics(trainer, pl_module)
        return {name: value for name, value in figures.items() if name != "v_num"}


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


class Averaging(WeightAveraging):
    """Exponential moving average of weights and buffers whose memory grows with training up to `decay`.

    Early on the average must forget the random start: step n uses min(decay, (1 + n) / (10 + n)), as TensorFlow's
    ExponentialMovingAverage does.
    """

    def __init__(self, decay: float) -> None:
        def average(old: list[Tensor], new: list[Tensor], count: Tensor | int) -> None:
            step = int(count)
            share = 1 - min(decay, (1 + step) / (10 + step))
            if old[0].is_floating_point():
                torch._foreach_lerp_(old, new, share)
            else:  # counters, such as batch-norm's
                torch._foreach_copy_(old, new)

        super().__init__(multi_avg_fn=average)

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
        epoch = trainer.current_epoch + 1
        figures = {k: float(v) for k, v in trainer.callback_metrics.items() if k.startswith("loss")}
        if epoch % (trainer.check_val_every_n_epoch or 1) == 0:
            figures |= {k: float(v) for k, v in trainer.callback_metrics.items() if k.startswith("ap")}
        self.curves.append(
            {
                "epoch": epoch,
                **figures,
                "learning_rate": float(trainer.optimizers[0].param_groups[-1]["lr"]),
                "seconds": time.perf_counter() - self._epoch_start,
                "loading_seconds": self._loading,
                "step_seconds": self._stepping,
            }
        )
        if trainer.is_global_zero:
            write_json(self._path, self.curves)


@contextmanager
def quiet() -> Iterator[None]:
    """Keeps Lightning's advertisements and advice, meant for its own callers, off a person's screen."""
    loggers = [logging.getLogger(name) for name in ("lightning.pytorch", "lightning.fabric")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module=r"lightning\..*")
        warnings.filterwarnings("ignore", message=r".*`isinstance\(treespec, LeafSpec\)`.*")
        try:
            yield
        finally:
            for logger, level in zip(loggers, levels, strict=True):
                logger.setLevel(level)
