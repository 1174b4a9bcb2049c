"""How far two engines' answers for the same images lie apart."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from leandet.runtime.runtime import RawOutput

BOX_TOLERANCE = 0.1  # pixels
SCORE_TOLERANCE = 1e-3
SURE = 0.05  # detections scored below this are not compared, but for an image's ten best: their order is a coin toss
LEAST = 10


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
