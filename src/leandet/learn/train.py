"""Trains a detector on labelled images: resumable at every epoch, with the last checkpoint always whole."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import lightning
import torch
from lightning.pytorch.callbacks import Callback, ModelCheckpoint

from leandet.data.loader import EpochSampler, training_loader
from leandet.data.sample import Sample
from leandet.detector.detector import Detector
from leandet.errors import UserError
from leandet.learn.callbacks import Averaging, Best, LastMeasured, Patience, Progress
from leandet.learn.checkpoints import check_fits, read_checkpoint
from leandet.learn.fit import fit, trainer_for
from leandet.learn.loss import Guide
from leandet.learn.memory import keep_freed_memory
from leandet.learn.module import Training
from leandet.learn.processes import Processes
from leandet.learn.recipe import Recipe
from leandet.learn.settle import settle
from leandet.learn.validation import validation_loader

LAST = "last.ckpt"
BEST = "best.ckpt"


@dataclass(frozen=True, slots=True)
class Outcome:
    """What training did.

    Attributes:
        best_ap: AP (fraction) on the validation split of the weights that the detector holds: those of the highest AP,
            their choice settled where there is one.
        epochs: epochs finished, without those of the settling.
        seconds: of wall time, all resumed parts together.
        loading_share: share of the training steps' time that was spent waiting for data, in [0, 1].
        curves: for each epoch, figures by name (`loss`, `loss/...`, `learning_rate`, and `ap` where measured).
        ap_by_fall: AP on the validation split with each `Spec.fall` that the settling chose from; empty without one.
    """

    best_ap: float
    epochs: int
    seconds: float
    loading_share: float
    curves: list[dict[str, float]]
    ap_by_fall: dict[float, float]


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
        training: samples to learn from.
        validation: samples that choose among the epochs.
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
        workers=processes.loaders if recipe.workers is None else recipe.workers,
        rank=processes.rank,
        world=processes.world,
    )
    module = Training(detector, recipe, len(loader) * recipe.epochs, validation, classes, guide)
    module.to(memory_format=torch.channels_last)
    progress = Progress(out)
    checkpoint = out / LAST
    resume = resume and checkpoint.is_file()
    if resume:  # refuse a damaged one, or another detector's, before anything else happens
        done = _check_checkpoint(checkpoint, module, recipe)
        if isinstance(loader.sampler, EpochSampler):
            # Loader processes draw ahead, before Lightning says which epoch it is: they would repeat the first's views.
            loader.sampler.set_epoch(done)
    judge = validation_loader(validation, size, recipe.batch)
    trainer = trainer_for(
        recipe, _callbacks(recipe, out, [progress, *callbacks], choose_from), recipe.evaluate_every, out
    )
    fit(trainer, module, loader, judge, checkpoint if resume else None)
    _take_best(detector, out)
    curves = progress.curves
    best_ap = max((row["ap"] for row in curves if "ap" in row and row["epoch"] > choose_from), default=-1.0)
    seconds = sum(row["seconds"] for row in curves)
    ap_by_fall: dict[float, float] = {}
    if detector.spec.head.chooses and recipe.settling_epochs:
        settled = settle(detector, loader, judge, validation, classes, recipe)
        best_ap, seconds, ap_by_fall = settled.ap, seconds + settled.seconds, settled.ap_by_fall
    return Outcome(
        best_ap=best_ap,
        epochs=len(curves),
        seconds=seconds,
        loading_share=sum(r["loading_seconds"] for r in curves) / max(1e-9, sum(r["step_seconds"] for r in curves)),
        curves=curves,
        ap_by_fall=ap_by_fall,
    )


def _take_best(detector: Detector, out: Path) -> None:
    """The averaged weights of the best measured epoch, or of the last where none was measured."""
    best = out / BEST if (out / BEST).is_file() else out / LAST
    state = read_checkpoint(best)["state_dict"]
    detector.load_state_dict({k.removeprefix("detector."): v for k, v in state.items() if k.startswith("detector.")})
    detector.eval()


def _check(detector: Detector, training: Sequence[Sample], validation: Sequence[Sample], recipe: Recipe) -> None:
    if not training:
        raise UserError("the training split is empty: label some images or choose another split.")
    if recipe.auxiliary and not detector.spec.head.chooses:
        raise UserError(f"the head {detector.spec.head} has no auxiliary branch: train it with auxiliary=0.")
    if not any(len(sample.boxes) for sample in validation):
        raise UserError("no image of the validation split has a box: label some, or leave the split to be made.")


def _check_checkpoint(path: Path, module: Training, recipe: Recipe) -> int:
    """How many epochs a checkpoint has behind it.

    Raises:
        UserError: if it is damaged, of another detector, or further than the recipe goes.
    """
    known = read_checkpoint(path)
    check_fits(known, module, path)
    if known["epoch"] >= recipe.epochs:
        raise UserError(
            f"{path} has {known['epoch'] + 1} epochs, more than the {recipe.epochs} asked for: "
            "ask for as many, or begin in another folder."
        )
    return int(known["epoch"]) + 1


def _callbacks(recipe: Recipe, out: Path, others: Sequence[Callback], choose_from: int) -> list[Callback]:
    """In their order: the average is taken first, the checkpoints last."""
    last = ModelCheckpoint(out, "last", enable_version_counter=False, save_on_train_epoch_end=True, every_n_epochs=1)
    stop = [Patience(recipe.patience)] if recipe.patience else []
    return [Averaging(recipe.ema_decay), LastMeasured(), *others, Best(out, choose_from), last, *stop]
