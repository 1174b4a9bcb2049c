"""LiteRT (TensorFlow Lite) on the CPU: the engine of Android; the host chooses the best locations."""

from __future__ import annotations

import zipfile
from importlib import metadata
from pathlib import Path

import numpy as np
import numpy.typing as npt
from ai_edge_litert.interpreter import Interpreter

from leandet.card import MAX_CARD_BYTES, Card
from leandet.errors import UserError
from leandet.runtime.folder import CARD_FILE
from leandet.runtime.runtime import RawOutput, Runtime, check_threads
from leandet.runtime.topk import top_k

MAGIC = b"TFL3"  # at byte 4 of every model


class LiteRtRuntime(Runtime):
    """A detector in a `.tflite` file, run by LiteRT on the CPU, images of a batch one after another.

    Args:
        path: the file, written by `leandet export --to litert`.
        threads: threads for one call, 1 to 1024; None for all cores that this process may use.

    Raises:
        UserError: if the file is missing, damaged or foreign, or `threads` is out of range.
    """

    def __init__(self, path: str | Path, threads: int | None = None) -> None:
        path = Path(path)
        threads = check_threads(threads)
        card = _read_card(path)
        super().__init__(
            card=card, name="litert", version=metadata.version("ai-edge-litert"), threads=threads, device="cpu"
        )
        try:
            self._interpreter = Interpreter(str(path), num_threads=threads)
            self._interpreter.allocate_tensors()
        except (ValueError, RuntimeError) as error:
            raise UserError(f"{path}: LiteRT cannot read the model ({error}); export it again.") from error
        self._input, self._logits, self._boxes = _tensors(self._interpreter, card, str(path))

    def run_network(self, inputs: npt.NDArray[np.uint8]) -> RawOutput:
        """The network alone: see `Runtime.run_network`."""
        logits, boxes = [], []
        for image in inputs:
            self._interpreter.set_tensor(self._input, np.ascontiguousarray(image.transpose(1, 2, 0))[None])
            self._interpreter.invoke()
            logits.append(self._interpreter.get_tensor(self._logits))
            boxes.append(self._interpreter.get_tensor(self._boxes))
        return top_k(np.concatenate(logits), np.concatenate(boxes), self.card.spec.detections)


def _read_card(path: Path) -> Card:
    """The card attached to a model file, in the zip archive after the model."""
    if not path.is_file():
        raise UserError(f"{path}: there is no such file; give the path of a model exported by leandet.")
    with path.open("rb") as file:
        if file.read(8)[4:] != MAGIC:
            raise UserError(f"{path}: it is not a LiteRT model; export it again.")
    try:
        with zipfile.ZipFile(path) as archive, archive.open(CARD_FILE) as entry:
            text = entry.read(MAX_CARD_BYTES + 1).decode("utf-8")
    except (zipfile.BadZipFile, KeyError, ValueError, OSError) as error:
        raise UserError(f"{path} carries no leandet card, or it was cut short: copy or export it again.") from error
    return Card.parse(text, str(path))


def _tensors(interpreter: Interpreter, card: Card, where: str) -> tuple[int, int, int]:
    """Indices of the input, the logits and the boxes; refuses a graph that does not keep the contract."""
    size, classes = card.spec.size, card.spec.classes
    signatures = interpreter.get_signature_list()
    if list(signatures) != ["serving_default"]:
        raise UserError(f"{where}: it has the signatures {sorted(signatures)}; export the model again.")
    runner = interpreter.get_signature_runner("serving_default")
    inputs, outputs = list(runner.get_input_details().values()), runner.get_output_details()
    shape = [1, size.height, size.width, 3]
    if len(inputs) != 1 or inputs[0]["shape"].tolist() != shape or inputs[0]["dtype"] is not np.uint8:
        raise UserError(f"{where}: its input must be uint8 {shape}, but it has {inputs}; export the model again.")
    logits, boxes = (outputs.get(f"output_{index}") for index in (0, 1))
    if (
        logits is None
        or boxes is None
        or logits["shape"][2:].tolist() != [classes]
        or boxes["shape"][2:].tolist() != [4]
    ):
        raise UserError(f"{where}: its outputs must be (1, N, {classes}) and (1, N, 4); export the model again.")
    return int(inputs[0]["index"]), int(logits["index"]), int(boxes["index"])
