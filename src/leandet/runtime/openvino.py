"""OpenVINO on the CPU: the fastest engine on Intel's and AMD's server processors."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import openvino

from leandet.card import Card
from leandet.engines import openvino_core, openvino_settings
from leandet.errors import UserError
from leandet.runtime.folder import read_folder_card
from leandet.runtime.layout import OPENVINO_BIN, OPENVINO_XML
from leandet.runtime.runtime import RawOutput, Runtime, check_threads

INPUT = "images"
OUTPUTS = {"boxes": "f32", "scores": "f32", "labels": "i64"}


class OpenVinoRuntime(Runtime):
    """A detector in a `.openvino` folder, run by OpenVINO on the CPU.

    One image runs in a graph compiled for one, a tenth faster than the one for any batch, which is compiled when the
    first batch comes.

    Args:
        path: the folder, written by `leandet export --to openvino`.
        threads: threads for one call, 1 to 1024; None for all cores that this process may use.

    Raises:
        UserError: if the folder is not whole, damaged or foreign, or `threads` is out of range.
    """

    def __init__(self, path: str | Path, threads: int | None = None) -> None:
        path = Path(path)
        threads = check_threads(threads)
        card = read_folder_card(path, (OPENVINO_XML, OPENVINO_BIN))
        super().__init__(
            card=card, name="openvino", version=openvino.__version__.partition("-")[0], threads=threads, device="cpu"
        )
        self._where = str(path)
        try:
            self._model = openvino_core().read_model(str(path / OPENVINO_XML))
        except RuntimeError as error:
            raise UserError(f"{path}: OpenVINO cannot read the model ({_reason(error)}); export it again.") from error
        _check(self._model, card, str(path))
        self._one = self._compiled(1)
        self._many: Any = None

    def run_network(self, inputs: npt.NDArray[np.uint8]) -> RawOutput:
        """The network alone: see `Runtime.run_network`."""
        if len(inputs) == 1:
            network = self._one
        else:
            self._many = self._many or self._compiled(None)
            network = self._many
        try:
            answer = network({INPUT: inputs}, share_inputs=True)
        except RuntimeError as error:
            raise UserError(f"{self._where}: OpenVINO cannot run the model ({_reason(error)}).") from error
        return RawOutput(*(np.array(answer[name]) for name in OUTPUTS))

    def _compiled(self, batch: int | None) -> Any:
        """The model compiled for one batch size, or for any."""
        model = self._model
        try:
            if batch is not None:
                model = model.clone()
                model.reshape([batch, *(side.get_length() for side in list(model.input().partial_shape)[1:])])
            return openvino_core().compile_model(model, "CPU", openvino_settings(self.threads))
        except RuntimeError as error:
            raise UserError(f"{self._where}: OpenVINO cannot compile the model ({_reason(error)}).") from error


def _check(model: Any, card: Card, where: str) -> None:
    """Refuse a graph that does not keep the contract, before the first photograph meets it."""
    size = card.spec.size
    wanted = f"[?,3,{size.height},{size.width}]"
    inputs = [(node.any_name, node.element_type.get_type_name(), str(node.partial_shape)) for node in model.inputs]
    if inputs != [(INPUT, "u8", wanted)]:
        raise UserError(f"{where}: its input must be `{INPUT}`, u8 {wanted}, but it has {inputs}; export it again.")
    outputs = {name: node.element_type.get_type_name() for node in model.outputs for name in node.names}
    for name, kind in OUTPUTS.items():
        if outputs.get(name) != kind:
            raise UserError(
                f"{where}: its output `{name}` must be {kind} but is {outputs.get(name, 'missing')}; export it again."
            )


def _reason(error: Exception) -> str:
    """The last line of OpenVINO's message, which says what happened; those before say where in its source."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1][:200] if lines else type(error).__name__
