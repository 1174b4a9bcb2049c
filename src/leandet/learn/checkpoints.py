"""Checkpoints that are whole or not there, and are never unpickled."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.plugins.io import TorchCheckpointIO
from torch import nn

from leandet.atomic import write_bytes
from leandet.errors import UserError


class WholeCheckpoints(TorchCheckpointIO):
    """Writes beside the old checkpoint and renames: a kill or a full disk leaves the last one as it was."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any | None = None) -> None:
        """Write `checkpoint` to `path`.

        Raises:
            UserError: if the disk refuses.
        """
        buffer = io.BytesIO()
        torch.save(checkpoint, buffer)
        write_bytes(Path(path), buffer.getvalue())


def read_checkpoint(path: Path) -> dict[str, Any]:
    """A checkpoint's tensors and plain values, on the CPU.

    Raises:
        UserError: if the file is damaged or holds anything else.
    """
    load: Callable[..., dict[str, Any]] = torch.load
    try:
        return load(path, weights_only=True, map_location="cpu")
    except Exception as error:  # torch.load fails in as many ways as a file can be damaged
        raise UserError(
            f"{path} is damaged ({type(error).__name__}): delete it, and training begins again from the start."
        ) from error


def check_fits(checkpoint: dict[str, Any], module: nn.Module, path: Path) -> None:
    """Refuse a checkpoint of another detector.

    Raises:
        UserError: unless it holds the module's tensors, in their shapes.
    """
    found = {name: tuple(tensor.shape) for name, tensor in checkpoint.get("state_dict", {}).items()}
    if found != {name: tuple(tensor.shape) for name, tensor in module.state_dict().items()}:
        raise UserError(f"{path} is of another detector: delete it, and training begins again from the start.")
