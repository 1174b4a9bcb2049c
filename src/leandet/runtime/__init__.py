"""Engines that run a detector file; only the reference needs torch."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from leandet.errors import UserError
from leandet.runtime.runtime import RawOutput, Runtime

__all__ = ["RawOutput", "Runtime", "open_runtime"]


def open_runtime(path: str | Path, threads: int | None = None) -> Runtime:
    """Open a model file with the engine that its suffix names.

    Args:
        path: a file written by `leandet export`, such as `model.onnx`.
        threads: threads for one call, at least 1; None for all cores that this process may use.

    Raises:
        UserError: if no engine reads such files, or the file is missing, damaged or foreign.
    """
    suffix = Path(path).suffix.lower()
    if suffix not in ENGINES:
        raise UserError(
            f"{path}: no engine runs {suffix or 'a file without a suffix'}; "
            f"export the model to one of these: {', '.join(ENGINES)}."
        )
    return ENGINES[suffix](path, threads)


def _onnx(path: str | Path, threads: int | None) -> Runtime:
    from leandet.runtime.onnx import open_onnx  # the engine loads only when a file asks for it

    return open_onnx(path, threads)


def _torch(path: str | Path, threads: int | None) -> Runtime:
    from leandet.runtime.torch import TorchRuntime

    return TorchRuntime(path, threads)


ENGINES: dict[str, Callable[[str | Path, int | None], Runtime]] = {".onnx": _onnx, ".safetensors": _torch}
