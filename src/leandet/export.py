"""The bridge from training to the edge: one self-describing file, checked against PyTorch before it appears."""

from __future__ import annotations

import logging
import warnings
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from leandet.atomic import write_bytes
from leandet.card import CARD_KEY, Card
from leandet.detector.decode import TOP_K, Predictions, top_k
from leandet.detector.detector import Detector
from leandet.errors import UserError
from leandet.runtime.runtime import RawOutput

BOX_TOLERANCE = 0.1  # pixels
SCORE_TOLERANCE = 1e-3
SURE = 0.05  # detections scored below this are not compared, but for an image's ten best: their order is a coin toss
LEAST = 10


class Deployed(nn.Module):
    """What is exported: uint8 pixels in, the best detections out."""

    def __init__(self, detector: Detector, k: int = TOP_K) -> None:
        super().__init__()
        self.detector, self.k = detector, k

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """uint8 (B, 3, H, W) RGB -> boxes (B, k, 4) xyxy px, scores (B, k) descending, labels (B, k) int64."""
        predictions: Predictions = self.detector(images)
        return top_k(predictions.logits, predictions.boxes, self.k)


@dataclass(frozen=True, slots=True)
class Parity:
    """How far an exported file is from PyTorch, over matched detections.

    Attributes:
        boxes: largest difference of a coordinate, pixels of the input.
        scores: largest difference of a score.
        compared: detections compared.
    """

    boxes: float
    scores: float
    compared: int


def export_onnx(detector: Detector, card: Card, path: Path, images: npt.NDArray[np.uint8]) -> Parity:
    """Write `model.onnx`: normalisation, network, NMS-free top-k decode and card in one file, with a dynamic batch.

    Args:
        detector: trained; left in evaluation mode.
        card: stored with it.
        path: of the new file; nothing is written unless it agrees with PyTorch.
        images: uint8 (B, 3, H, W) RGB letterboxed, B at least 2, on which the two are compared.

    Returns:
        The measured difference.

    Raises:
        UserError: if the exported graph disagrees with PyTorch, or the disk refuses.
    """
    deployed = Deployed(detector).eval()
    content = _to_onnx(deployed, card, torch.from_numpy(images[:2]))
    with torch.inference_mode():
        wanted = RawOutput(*(t.numpy() for t in deployed(torch.from_numpy(images))))
    difference = compare(wanted, _run(content, images))
    if difference.boxes > BOX_TOLERANCE or difference.scores > SCORE_TOLERANCE:
        raise UserError(
            f"{path} was not written: its graph differs from PyTorch by {difference.boxes:.3g} px and a score of "
            f"{difference.scores:.3g} (allowed {BOX_TOLERANCE} px and {SCORE_TOLERANCE}); please report this network."
        )
    write_bytes(path, content)
    return difference


def _to_onnx(deployed: Deployed, card: Card, example: Tensor) -> bytes:
    exporter = logging.getLogger("torch.onnx")
    level = exporter.level
    exporter.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the exporter's notes on its own internals
            program = torch.onnx.export(
                deployed,
                (example,),
                dynamo=True,
                verbose=False,
                input_names=["images"],
                output_names=["boxes", "scores", "labels"],
                dynamic_shapes=({0: torch.export.Dim("batch", min=1, max=4096)},),
            )
    finally:
        exporter.setLevel(level)
    if program is None:
        raise UserError("PyTorch's exporter returned no graph; please report this network.")
    model = program.model_proto
    entry = model.metadata_props.add()
    entry.key, entry.value = CARD_KEY, card.dump()
    return bytes(model.SerializeToString())


def _run(content: bytes, images: npt.NDArray[np.uint8]) -> RawOutput:
    import onnxruntime

    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    return RawOutput(*session.run(["boxes", "scores", "labels"], {"images": images}))


def compare(wanted: RawOutput, found: RawOutput) -> Parity:
    """The largest differences between two engines' answers for the same B images.

    Every detection of `wanted` scored over 0.05, and the ten best of each image whatever their score, is compared with
    the one of its class that is nearest in `found`; where there is none, the difference is infinite. Left out are those
    that score like the last: a rounding error decides on which side of the top k they fall.
    """
    boxes = scores = 0.0
    compared = 0
    if not all(np.isfinite(values).all() for raw in (wanted, found) for values in (raw.boxes, raw.scores)):
        return Parity(float("inf"), float("inf"), compared)
    for image in range(len(wanted.scores)):
        sure = max(int((wanted.scores[image] > SURE).sum()), min(LEAST, wanted.scores.shape[1]))
        # The k-th best score is the same whatever the order of equals, so all are compared by rank.
        scores = max(scores, float(np.abs(found.scores[image] - wanted.scores[image]).max()))
        cut = wanted.scores[image, -1] + SCORE_TOLERANCE
        for rank in range(sure):  # scores descend
            if wanted.scores[image, rank] <= cut:
                break
            same = found.labels[image] == wanted.labels[image, rank]
            if not same.any():
                return Parity(float("inf"), float("inf"), compared)
            gaps = np.abs(found.boxes[image][same] - wanted.boxes[image, rank]).max(1)
            nearest = int(gaps.argmin())
            boxes = max(boxes, float(gaps[nearest]))
            scores = max(scores, float(abs(found.scores[image][same][nearest] - wanted.scores[image, rank])))
            compared += 1
    return Parity(boxes, scores, compared)
