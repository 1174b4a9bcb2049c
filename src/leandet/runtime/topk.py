"""The choice of the best locations on the host, for engines whose graph cannot hold a top-k. Nothing suppresses."""

from __future__ import annotations

import numpy as np

from leandet.detections import FloatArray
from leandet.detector.spec import TOP_K
from leandet.runtime.runtime import RawOutput


def top_k(logits: FloatArray, boxes: FloatArray, k: int = TOP_K) -> RawOutput:
    """The best k locations, each with its best class: in numpy what `leandet.detector.decode.top_k` does in PyTorch.

    Args:
        logits: float32 (B, N, C), before the sigmoid.
        boxes: float32 (B, N, 4), xyxy px.
        k: at most this many; N where N is smaller.

    Returns:
        Boxes (B, k, 4), scores (B, k) in [0, 1] descending, labels (B, k) int64.
    """
    best = logits.max(2)
    k = min(k, logits.shape[1])
    # Partial selection first: a full sort of all locations would cost several times as much.
    chosen = np.argpartition(-best, k - 1, axis=1)[:, :k]
    chosen.sort(axis=1)
    order = np.argsort(-np.take_along_axis(best, chosen, 1), axis=1, kind="stable")
    chosen = np.take_along_axis(chosen, order, 1)
    scores = np.exp(
        -np.logaddexp(np.float32(0), -np.take_along_axis(best, chosen, 1))
    )  # the sigmoid, never overflowing
    labels = np.take_along_axis(logits, chosen[..., None], 1).argmax(2)
    return RawOutput(
        np.take_along_axis(boxes, chosen[..., None], 1), scores.astype(np.float32), labels.astype(np.int64)
    )
