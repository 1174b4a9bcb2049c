"""ncnn: the small engine for phones and boards; its graph has no top-k, so the host chooses the best locations."""

from __future__ import annotations

from pathlib import Path

import ncnn
import numpy as np
import numpy.typing as npt

from leandet.errors import UserError
from leandet.runtime.folder import read_folder_card
from leandet.runtime.layout import NCNN_BIN, NCNN_PARAM
from leandet.runtime.runtime import RawOutput, Runtime, check_threads
from leandet.runtime.topk import top_k

INPUT, LOGITS, BOXES = "in0", "out0", "out1"
MAGIC = b"7767517\n"  # the first line of every param file


class NcnnRuntime(Runtime):
    """A detector in a `.ncnn` folder, run by ncnn on the CPU in float32, images of a batch one after another.

    Args:
        path: the folder, written by `leandet export --to ncnn`.
        threads: threads for one call, 1 to 1024; None for all cores that this process may use.

    Raises:
        UserError: if the folder is not whole, damaged or foreign, or `threads` is out of range.
    """

    def __init__(self, path: str | Path, threads: int | None = None) -> None:
        path = Path(path)
        threads = check_threads(threads)
        card = read_folder_card(path, (NCNN_PARAM, NCNN_BIN))
        super().__init__(card=card, name="ncnn", version=str(ncnn.__version__), threads=threads, device="cpu")
        self._where = str(path)
        self._net = _open(path, threads)
        if (self._net.input_names(), self._net.output_names()) != ([INPUT], [LOGITS, BOXES]):
            raise UserError(
                f"{path}: its graph must have the input {INPUT} and the outputs {LOGITS} and {BOXES}, but it has "
                f"{self._net.input_names()} and {self._net.output_names()}; export the model again."
            )

    def run_network(self, inputs: npt.NDArray[np.uint8]) -> RawOutput:
        """The network alone: see `Runtime.run_network`."""
        answers = [self._one(np.ascontiguousarray(image, np.float32)) for image in inputs]
        logits, boxes = (np.stack(part) for part in zip(*answers, strict=True))
        return top_k(logits, boxes, self.card.spec.detections)

    def _one(self, image: npt.NDArray[np.float32]) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
        """(3, H, W) pixels -> logits (N, C), boxes (N, 4). The Mat shares the array's memory, which must outlive it."""
        extractor = self._net.create_extractor()
        given = extractor.input(INPUT, ncnn.Mat(image))
        first, logits = extractor.extract(LOGITS)
        second, boxes = extractor.extract(BOXES)
        if code := given or first or second:
            raise UserError(f"{self._where}: ncnn cannot run the model (its code {code}); export it again.")
        logits, boxes = np.array(logits), np.array(boxes)
        if logits.shape != (len(boxes), self.card.spec.classes) or boxes.shape[1:] != (4,):
            raise UserError(
                f"{self._where}: the model answered logits {logits.shape} and boxes {boxes.shape} instead of "
                f"(N, {self.card.spec.classes}) and (N, 4); export it again."
            )
        return logits, boxes


def _open(path: Path, threads: int) -> ncnn.Net:
    net = ncnn.Net()
    net.opt.use_vulkan_compute = False
    net.opt.num_threads = threads
    # Half precision would answer up to a tenth of a pixel differently: not without being asked.
    net.opt.use_fp16_packed = net.opt.use_fp16_storage = net.opt.use_fp16_arithmetic = False
    param = path / NCNN_PARAM
    with param.open("rb") as file:
        foreign = file.read(len(MAGIC)) != MAGIC
    if foreign or net.load_param(str(param)):
        raise UserError(f"{param}: it is damaged or not an ncnn graph; export the model again.")
    if net.load_model(str(path / NCNN_BIN)):
        raise UserError(f"{path / NCNN_BIN}: it is truncated or damaged; copy or export the model again.")
    return net
