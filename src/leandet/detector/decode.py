"""From maps to boxes, and from boxes to the best K: nothing here suppresses neighbours after the fact."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from leandet.detector.spec import TOP_K


class Predictions(NamedTuple):
    """What a detector says of every location; N locations over all levels.

    Attributes:
        logits: (B, N, C), before the sigmoid.
        boxes: (B, N, 4), xyxy in pixels of the network's input.
        points: (N, 2), centre of each location, x and y in pixels.
        strides: (N,), pixels between neighbouring locations.
    """

    logits: Tensor
    boxes: Tensor
    points: Tensor
    strides: Tensor


def columns(maps: Sequence[Tensor]) -> Tensor:
    """Maps (B, C, h, w) of all levels -> (B, C, N), row by row, finest level first."""
    return torch.cat([m.flatten(2) for m in maps], 2)


def flatten(maps: Sequence[Tensor]) -> Tensor:
    """Maps (B, C, h, w) of all levels -> (B, N, C), row by row, finest level first."""
    return columns(maps).transpose(1, 2)


def locations(maps: Sequence[Tensor], strides: Sequence[int]) -> tuple[Tensor, Tensor]:
    """Centres (N, 2) in pixels and strides (N,) of all locations of the maps (B, C, h, w)."""
    points, sizes = [], []
    for feature, stride in zip(maps, strides, strict=True):
        height, width = feature.shape[-2:]
        y, x = torch.meshgrid(
            torch.arange(height, device=feature.device, dtype=torch.float32),
            torch.arange(width, device=feature.device, dtype=torch.float32),
            indexing="ij",
        )
        points.append((torch.stack([x, y], -1).reshape(-1, 2) + 0.5) * stride)
        sizes.append(torch.full((height * width,), float(stride), device=feature.device))
    return torch.cat(points), torch.cat(sizes)


def to_boxes(distances: Tensor, points: Tensor, strides: Tensor) -> Tensor:
    """Distances to left, top, right and bottom, in strides, from points -> boxes xyxy in pixels.

    Args:
        distances: (B, n, 4).
        points: (n, 2) or (B, n, 2), x and y in pixels.
        strides: (n,) or (B, n), pixels.

    Returns:
        (B, n, 4).
    """
    pixels = distances * strides[..., None]
    return torch.cat([points - pixels[..., :2], points + pixels[..., 2:]], -1)


def boxes_at(places: Tensor, distances: Tensor, points: Tensor, strides: Tensor) -> Tensor:
    """As `to_boxes`, for a few locations: in as few operations as can be, for these are many small ones.

    Args:
        places: (B, k) int64, among the N locations.
        distances: (B, k, 4), of these, in strides.
        points: (N, 2), x and y in pixels.
        strides: (N,), pixels.

    Returns:
        (B, k, 4) xyxy in pixels.
    """
    outwards = torch.tensor([-1.0, -1.0, 1.0, 1.0], device=strides.device)
    start, step = torch.cat([points, points], 1), strides[:, None] * outwards
    return F.embedding(places, start) + F.embedding(places, step) * distances


def pick(values: Tensor, places: Tensor) -> Tensor:
    """Of values (B, C, N) those at places (B, k), int64 -> (B, C, k)."""
    return values.gather(2, places[:, None].expand(-1, values.shape[1], -1))


def choose(logits: Tensor, k: int, heights: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor]:
    """The best k locations, each with its best class.

    The maximum over classes comes first, so that the graph exports with any batch and size. Which class it was is asked
    of the chosen alone: over all locations it would take as long as all else.

    Args:
        logits: (B, C, N).
        k: at most this many; N where N is smaller.
        heights: (B, N), by which locations are compared and scored; the logits of their best classes if left out.

    Returns:
        scores (B, k) in [0, 1] descending, labels (B, k) int64, places (B, k) int64 among the N.
    """
    best, places = (logits.amax(1) if heights is None else heights).topk(min(k, logits.shape[2]), 1)
    return best.sigmoid(), pick(logits, places).argmax(1), places


def top_k(logits: Tensor, boxes: Tensor, k: int = TOP_K) -> tuple[Tensor, Tensor, Tensor]:
    """The best k of what every location says: see `choose`.

    Args:
        logits: (B, N, C).
        boxes: (B, N, 4).
        k: at most this many; N where N is smaller.

    Returns:
        boxes (B, k, 4), scores (B, k) in [0, 1] descending, labels (B, k) int64.
    """
    scores, labels, places = choose(logits.transpose(1, 2), k)
    return pick(boxes.transpose(1, 2), places).transpose(1, 2), scores, labels
