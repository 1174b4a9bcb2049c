"""Engines that run a detector file; only the reference needs torch."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from leandet.errors import UserError, naming_extras
from leandet.runtime.runtime import RawOutput, Runtime

__all__ = ["RawOutput", "Runtime", "model_bytes", "open_runtime"]


def open_runtime(path: str | Path, threads: int | None = None) -> Runtime:
    """Open a model file with the engine that its suffix names.

    Args:
        path: a file or folder written by `leandet export`, such as `model.onnx` or `model.openvino`.
        threads: threads for one call, at least 1; None for all cores that this process may use.

    Raises:
        UserError: if no engine reads such files, the engine is not installed, or the file is missing, damaged or
            foreign.
    """
    suffix = Path(path).suffix.lower()
    if suffix not in ENGINES:
        raise UserError(
            f"{path}: no engine runs {suffix or 'a file without a suffix'}; "
            f"export the model to one of these: {', '.join(ENGINES)}."
        )
    with naming_extras(str(path)):
        return ENGINES[suffix](path, threads)


def model_bytes(path: Path) -> int:
    """What a model takes on the disk: a file's size, or that of all files of a folder, in bytes."""
    return sum(file.stat().st_size for file in path.iterdir()) if path.is_dir() else path.stat().st_size


def _onnx(path: str | Path, threads: int | None) -> Runtime:
    from leandet.runtime.onnx import open_onnx  # the engine loads only when a file asks for it

    return open_onnx(path, threads)


def _torch(path: str | Path, threads: int | None) -> Runtime:
    from leandet.detector.files import load_detector
    from leandet.runtime.torch import TorchRuntime

    return TorchRuntime(*load_detector(Path(path)), threads)


def _openvino(path: str | Path, threads: int | None) -> Runtime:
    from leandet.runtime.openvino import OpenVinoRuntime

    return OpenVinoRuntime(path, threads)


def _ncnn(path: str | Path, threads: int | None) -> Runtime:
    from leandet.runtime.ncnn import NcnnRuntime

    return NcnnRuntime(path, threads)


def _litert(path: str | Path, threads: int | None) -> Runtime:
    from leandet.runtime.litert import LiteRtRuntime

    return LiteRtRuntime(path, threads)


ENGINES: dict[str, Callable[[str | Path, int | None], Runtime]] = {
    ".onnx": _onnx,
    ".openvino": _openvino,
    ".ncnn": _ncnn,
    ".tflite": _litert,
    ".safetensors": _torch,
}
