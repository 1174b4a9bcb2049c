"""ONNX Runtime on the CPU: the engine that runs everywhere."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnxruntime
from onnxruntime.capi import onnxruntime_pybind11_state as state

from leandet.card import CARD_KEY, Card
from leandet.engines import onnx_options
from leandet.errors import UserError
from leandet.runtime.runtime import RawOutput, Runtime, check_threads

INPUT = "images"
OUTPUTS = {"boxes": "tensor(float)", "scores": "tensor(float)", "labels": "tensor(int64)"}

# ONNX Runtime's exceptions share no base class but Exception.
_ENGINE_ERRORS: tuple[type[Exception], ...] = (
    RuntimeError,
    *(kind for kind in vars(state).values() if isinstance(kind, type) and issubclass(kind, Exception)),
)


class OnnxRuntime(Runtime):
    """A detector in an ONNX file, run by ONNX Runtime on the CPU; made by `open_onnx`."""

    def __init__(self, session: onnxruntime.InferenceSession, card: Card, threads: int, where: str) -> None:
        super().__init__(
            card=card, name="onnxruntime", version=str(onnxruntime.__version__), threads=threads, device="cpu"
        )
        self._session = session
        self._where = where

    def run_network(self, inputs: npt.NDArray[np.uint8]) -> RawOutput:
        """The network alone: see `Runtime.run_network`."""
        try:
            boxes, scores, labels = self._session.run(list(OUTPUTS), {INPUT: inputs})
        except _ENGINE_ERRORS as error:
            raise UserError(
                f"{self._where}: ONNX Runtime {self.version} cannot run the model ({_first_line(error)}); "
                "export it again."
            ) from error
        if boxes.shape[:1] + boxes.shape[2:] != (len(inputs), 4) or not boxes.shape[:2] == scores.shape == labels.shape:
            raise UserError(
                f"{self._where}: the model answered boxes {boxes.shape}, scores {scores.shape} and "
                f"labels {labels.shape} for {len(inputs)} images instead of (B, K, 4), (B, K), (B, K); export it again."
            )
        return RawOutput(boxes, scores, labels)


def open_onnx(path: str | Path, threads: int | None = None, *, spinning: bool = True) -> OnnxRuntime:
    """Open a detector that `leandet export` wrote.

    Args:
        path: the `.onnx` file.
        threads: threads for one call, 1 to 1024; None for all cores that this process may use.
        spinning: let idle threads look for the next piece of work instead of sleeping, as ONNX Runtime does by itself.
            On two cores it makes a small detector 1.4 to 1.5 times faster: waking a thread takes longer than many a
            layer. Where other programs need the cores it is the slower way: choose one thread then.

    Raises:
        UserError: if the file is missing, damaged, foreign or at odds with its own card, or `threads` is out of range.
    """
    path = Path(path)
    threads = check_threads(threads)
    if not path.is_file():
        raise UserError(f"{path}: there is no such file; give the path of a model exported by leandet.")
    session = _open_session(path, threads, spinning=spinning)
    card = Card.parse(_metadata(session, path), str(path))
    _check_graph(session, card, str(path))
    return OnnxRuntime(session, card, threads, str(path))


def _open_session(path: Path, threads: int, *, spinning: bool) -> onnxruntime.InferenceSession:
    options = onnx_options(threads, spinning=spinning)
    try:
        return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except _ENGINE_ERRORS as error:
        raise UserError(
            f"{path}: it is truncated, damaged or not an ONNX model that ONNX Runtime {onnxruntime.__version__} "
            f"can read ({_first_line(error)}); copy or export it again."
        ) from error


def _metadata(session: onnxruntime.InferenceSession, path: Path) -> str | None:
    try:
        text: str | None = session.get_modelmeta().custom_metadata_map.get(CARD_KEY)
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: its metadata is not UTF-8 text; export the model again.") from error
    return text


def _check_graph(session: onnxruntime.InferenceSession, card: Card, where: str) -> None:
    """Refuse a graph that does not keep the contract, before the first photograph meets it."""
    inputs: list[Any] = session.get_inputs()
    if [(node.name, node.type) for node in inputs] != [(INPUT, "tensor(uint8)")] or len(inputs[0].shape) != 4:
        found = ", ".join(f"{node.name} {node.type} {node.shape}" for node in inputs) or "no input"
        raise UserError(
            f"{where}: its input must be `{INPUT}`, uint8 (B, 3, H, W), but it has {found}; export the model again."
        )
    batch, *sides = inputs[0].shape
    size = card.spec.size
    if sides != [3, size.height, size.width]:
        raise UserError(
            f"{where}: its card says an input of 3 x {size.height} x {size.width} px but its graph takes "
            f"{' x '.join(str(side) for side in sides)}; export the model again."
        )
    if isinstance(batch, int):
        raise UserError(f"{where}: its graph takes only batches of {batch}; export it again with a dynamic batch.")
    found_outputs = {node.name: node.type for node in session.get_outputs()}
    for name, kind in OUTPUTS.items():
        if found_outputs.get(name) != kind:
            raise UserError(
                f"{where}: its output `{name}` must be a {kind} but is {found_outputs.get(name, 'missing')}; "
                "export the model again."
            )


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[0][:200] if lines else type(error).__name__
