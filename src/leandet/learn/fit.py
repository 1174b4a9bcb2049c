"""Lightning's trainer as every training here uses it: without advertisements, and ended by Ctrl-C."""

from __future__ import annotations

import signal
import sys
import threading
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import lightning
import torch
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger
from torch.utils.data import DataLoader

from leandet.data.batch import Batch
from leandet.learn.callbacks import Bar, Lines
from leandet.learn.checkpoints import WholeCheckpoints
from leandet.learn.processes import Processes
from leandet.learn.recipe import Recipe
from leandet.learn.validation import ValidationBatch
from leandet.loggers import only_errors

CSV = "csv"  # folder of the log; numbered from 2 on in a training that is resumed


def trainer_for(
    recipe: Recipe, callbacks: Sequence[Callback], evaluate_every: int, out: Path | None = None
) -> lightning.Trainer:
    """A trainer for the processes that there are.

    Args:
        recipe: its epochs and the largest norm of its gradients.
        callbacks: beside the progress bar, or its lines where nobody watches a terminal.
        evaluate_every: epochs between two measurements on the validation split.
        out: folder for the checkpoints and logs; None for neither.
    """
    processes = Processes.here()
    watched = sys.stderr.isatty()  # a log file would show nothing of the bar
    # Standard output is the answer's.
    shown = Bar(leave=False, console_kwargs={"stderr": True}) if watched else Lines()
    logs = []
    if out is not None:
        out.mkdir(parents=True, exist_ok=True)
        resumed = len(list(out.glob(f"{CSV}*")))  # Lightning empties a folder that it finds
        csv = f"{CSV}-{resumed + 1}" if resumed else CSV
        logs = [TensorBoardLogger(out, name="", version="tensorboard"), CSVLogger(out, name="", version=csv)]
    with quiet():
        return lightning.Trainer(
            accelerator="auto",
            devices=processes.each,
            num_nodes=processes.nodes,
            strategy="ddp" if processes.world > 1 else "auto",
            use_distributed_sampler=False,  # the loader shares the pictures out
            sync_batchnorm=torch.cuda.is_available() and processes.world > 1,  # PyTorch has none on the CPU
            # Networks this light wait for their kernels' launches: half precision only adds more of them (on an H100 a
            # step of 16 pictures takes MobileNetV2 43 ms so, and 60 ms in bfloat16).
            precision="32-true",
            max_epochs=recipe.epochs,
            check_val_every_n_epoch=evaluate_every,
            gradient_clip_val=recipe.clip,
            callbacks=[*callbacks, shown],
            enable_progress_bar=watched,
            plugins=[WholeCheckpoints()],
            logger=logs,
            log_every_n_steps=1_000_000,
            num_sanity_val_steps=0,
            enable_checkpointing=out is not None,
            enable_model_summary=False,
            default_root_dir=out,
        )


def fit(
    trainer: lightning.Trainer,
    module: lightning.LightningModule,
    training: DataLoader[Batch],
    validation: DataLoader[ValidationBatch],
    checkpoint: Path | None = None,
) -> None:
    """Train `module`, from `checkpoint` where there is one (read without pickle).

    Raises:
        KeyboardInterrupt: after Ctrl-C, with the last checkpoint whole.
    """
    with quiet(), interruptible(trainer):
        path = None if checkpoint is None else str(checkpoint)
        trainer.fit(module, training, validation, ckpt_path=path, weights_only=True)


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


@contextmanager
def quiet() -> Iterator[None]:
    """Keeps Lightning's advertisements and advice, meant for its own callers, off a person's screen."""
    with only_errors("lightning.pytorch", "lightning.fabric"), warnings.catch_warnings():
        warnings.filterwarnings("ignore", module=r"lightning\..*")
        warnings.filterwarnings("ignore", message=r".*`isinstance\(treespec, LeafSpec\)`.*")
        yield
