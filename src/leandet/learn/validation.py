"""Feeds a detector the validation split and reads its answers, as a runtime would: letterboxed, in original pixels."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from leandet.data.augment import to_tensor
from leandet.data.image import load_image
from leandet.data.sample import Sample
from leandet.detections import Detections
from leandet.detector.decode import Predictions, top_k
from leandet.detector.spec import TOP_K
from leandet.metrics import MIN_SCORE
from leandet.preprocess import Placement, Size, letterbox

KEPT_BYTES = 1 << 28  # of letterboxed pictures; beyond this they are read again each time


class Letterboxed(NamedTuple):
    """One picture: uint8 (3, H, W) RGB, and where it lies."""

    image: Tensor
    placement: Placement


class ValidationBatch(NamedTuple):
    """Images uint8 (B, 3, H, W) RGB, and where each lies."""

    images: Tensor
    placements: list[Placement]


class ValidationSet(Dataset[Letterboxed]):
    """Letterboxed samples; as many as fit into `KEPT_BYTES` are kept in memory after the first pass."""

    def __init__(self, samples: Sequence[Sample], size: Size) -> None:
        self.samples, self.size = samples, size
        self._keep = KEPT_BYTES // (3 * size.height * size.width)
        self._cache: dict[int, Letterboxed] = {}

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> Letterboxed:
        if (known := self._cache.get(index)) is not None:
            return known
        image, placement = letterbox(load_image(self.samples[index].image), self.size)
        item = Letterboxed(to_tensor(image), placement)
        if len(self._cache) < self._keep:
            self._cache[index] = item
        return item


def _collate(items: Sequence[Letterboxed]) -> ValidationBatch:
    return ValidationBatch(torch.stack([i.image for i in items]), [i.placement for i in items])


def validation_loader(samples: Sequence[Sample], size: Size, batch: int) -> DataLoader[ValidationBatch]:
    """Batches of letterboxed samples, in order."""
    return DataLoader[ValidationBatch](ValidationSet(samples, size), batch_size=batch, collate_fn=_collate)  # type: ignore[arg-type]


def found(predictions: Predictions, placements: Sequence[Placement], k: int = TOP_K) -> list[Detections]:
    """Predictions of B images -> their k best detections in original pixels, best first, scored over 0.001."""
    best = top_k(predictions.logits.float(), predictions.boxes.float(), k)
    boxes, scores, labels = (tensor.cpu().numpy() for tensor in best)
    result = []
    for row, placement in enumerate(placements):
        keep = scores[row] > MIN_SCORE
        result.append(Detections(placement.undo(boxes[row][keep]), scores[row][keep], labels[row][keep]))
    return result
