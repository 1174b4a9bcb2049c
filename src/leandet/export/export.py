"""Writes a detector for one engine, opens what was written with that engine, and keeps it if the two agree."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from leandet.atomic import staged
from leandet.card import Card
from leandet.detector.detector import Detector
from leandet.errors import UserError, naming_extras
from leandet.export.formats import write_litert, write_ncnn, write_onnx, write_openvino
from leandet.export.graph import Deployed, deployable
from leandet.export.parity import BOX_TOLERANCE, SCORE_TOLERANCE, Parity, compare
from leandet.runtime import open_runtime
from leandet.runtime.runtime import RawOutput

Writer = Callable[[Detector, Card, Path], None]

# The names of the command line; what is written is known by its suffix.
WRITERS: dict[str, tuple[str, Writer]] = {
    "onnx": (".onnx", write_onnx),
    "openvino": (".openvino", write_openvino),
    "ncnn": (".ncnn", write_ncnn),
    "litert": (".tflite", write_litert),
}
SUFFIXES = {name: suffix for name, (suffix, _) in WRITERS.items()}


def export(detector: Detector, card: Card, path: Path, images: npt.NDArray[np.uint8], to: str = "onnx") -> Parity:
    """Write a deployable model: normalisation, network, decode and card together, without NMS.

    Args:
        detector: trained; left in evaluation mode.
        card: stored with it.
        path: of the new file (`.onnx`, `.tflite`) or folder (`.openvino`, `.ncnn`); nothing is there unless the engine,
            opened on it, agrees with PyTorch.
        images: uint8 (B, 3, H, W) RGB letterboxed, on which the two are compared.
        to: `onnx`, `openvino`, `ncnn` or `litert`.

    Returns:
        The measured difference.

    Raises:
        UserError: if the format is unknown, its suffix is another, the engine's packages are missing, what was written
            disagrees with PyTorch, or the disk refuses.
    """
    if to not in WRITERS:
        raise UserError(f"--to must be one of {', '.join(WRITERS)}, not {to!r}.")
    suffix, write = WRITERS[to]
    if path.suffix != suffix:
        raise UserError(f"{path}: a model for {to} must end in {suffix}: name it {path.with_suffix(suffix)}.")
    detector.eval()
    with torch.inference_mode():
        wanted = RawOutput(*(t.numpy() for t in Deployed(detector)(torch.from_numpy(images))))
    with staged(path) as draft:
        with naming_extras():
            write(deployable(detector), card, draft)
        difference = compare(wanted, open_runtime(draft, 1).run_network(images))
        if difference.boxes > BOX_TOLERANCE or difference.scores > SCORE_TOLERANCE:
            raise UserError(
                f"{path} was not written: its graph differs from PyTorch by {difference.boxes:.3g} px and a score of "
                f"{difference.scores:.3g} (allowed {BOX_TOLERANCE} px and {SCORE_TOLERANCE}); please report this "
                "network."
            )
    return difference
