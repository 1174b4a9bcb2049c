"""Overlaps of padded batches of boxes, coordinate by coordinate: no (B, M, N, 4) tensor is ever made."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

EPS = 1e-7


class Overlap(NamedTuple):
    """Pairwise or elementwise overlap: IoU in [0, 1] and GIoU (arXiv 1902.09630, algorithm 1) in [-1, 1]."""

    iou: Tensor
    giou: Tensor


def _overlap(a: tuple[Tensor, ...], b: tuple[Tensor, ...]) -> Overlap:
    inter_w = (torch.minimum(a[2], b[2]) - torch.maximum(a[0], b[0])).clamp_(min=0)
    inter_h = (torch.minimum(a[3], b[3]) - torch.maximum(a[1], b[1])).clamp_(min=0)
    inter = inter_w * inter_h
    union = (a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - inter
    hull_w = torch.maximum(a[2], b[2]) - torch.minimum(a[0], b[0])
    hull_h = torch.maximum(a[3], b[3]) - torch.minimum(a[1], b[1])
    hull = hull_w * hull_h
    iou = inter / (union + EPS)
    return Overlap(iou, iou - (hull - union) / (hull + EPS))


def pairwise(objects: Tensor, predictions: Tensor) -> Overlap:
    """Objects (B, M, 4) against predictions (B, N, 4), xyxy pixels -> (B, M, N)."""
    return _overlap(objects[..., None].unbind(2), predictions[:, None].unbind(3))


def matched(a: Tensor, b: Tensor) -> Overlap:
    """Boxes (P, 4) against boxes (P, 4), xyxy pixels -> (P,)."""
    return _overlap(a.unbind(1), b.unbind(1))


def near(objects: Tensor, points: Tensor, strides: Tensor, radius: float) -> Tensor:
    """Which locations may claim an object by their place: inside it, or within `radius` strides of its centre.

    Args:
        objects: (B, M, 4) xyxy pixels.
        points: (N, 2) x and y in pixels.
        strides: (N,) pixels.
        radius: in strides; reaches the objects that are too small to hold any location.

    Returns:
        (B, M, N) bool.
    """
    left, top, right, bottom = objects[..., None].unbind(2)
    x, y = points.T.contiguous()
    across = (x - (left + right) / 2).abs_()  # from the centre, (B, M, N)
    along = (y - (top + bottom) / 2).abs_()
    outside = torch.maximum(across - (right - left) / 2, along - (bottom - top) / 2)
    beyond = torch.maximum(across, along, out=across).sub_(strides * radius)
    # One comparison at the end: on the CPU it takes as long as six sums of as many pairs.
    return torch.minimum(outside, beyond, out=outside) < 0
