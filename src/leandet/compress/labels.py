"""Labels: integers in the shape of a tensor that say which channel each element belongs to.

A label tensor is int64, on the CPU, and broadcast (stride 0) along every axis on which all elements belong to the same
channel: batch, rows, columns. So it stays small, and `constant` is free. The label `FIXED` marks what is no channel:
the network's input, constants, whatever cannot be followed.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import NamedTuple

import torch
from torch import Tensor

FIXED = 0


def fixed(shape: Sequence[int]) -> Tensor:
    """A tensor of no channel, of the given shape."""
    return torch.zeros((), dtype=torch.int64, device="cpu").expand(tuple(shape))


def constant(label: Tensor, axis: int) -> bool:
    """Whether all elements along `axis` belong to the same channel."""
    return label.shape[axis] <= 1 or label.stride(axis) == 0


def compact(label: Tensor) -> Tensor:
    """The same labels with every constant axis cut to length 1."""
    for axis in range(label.dim()):
        if label.shape[axis] > 1 and label.stride(axis) == 0:
            label = label.narrow(axis, 0, 1)
    return label


def along(label: Tensor, axis: int) -> Tensor | None:
    """The labels (n,) of the n positions of `axis`; None where they vary along another axis too."""
    small = compact(label)
    if any(size != 1 for i, size in enumerate(small.shape) if i != axis % label.dim()):
        return None
    return small.reshape(-1).expand(label.shape[axis])


class Regroup(NamedTuple):
    """Axes of a tensor, and the axes that a reshape makes of them: the same elements in the same order."""

    before: tuple[int, ...]
    after: tuple[int, ...]


def regroup(before: Sequence[int], after: Sequence[int]) -> list[Regroup]:
    """The smallest runs of axes of shape `before` that become runs of axes of shape `after`; no axis may be empty."""
    groups: list[Regroup] = []
    i = j = 0
    while i < len(before) or j < len(after):
        ends = (i, j)
        left = before[i] if i < len(before) else 1
        right = after[j] if j < len(after) else 1
        if left == 1 and right != 1 and i < len(before):
            groups.append(Regroup((i,), ()))
            i += 1
            continue
        if right == 1 and left != 1 and j < len(after):
            groups.append(Regroup((), (j,)))
            j += 1
            continue
        i, j = min(i + 1, len(before)), min(j + 1, len(after))
        while left != right:
            if left < right:
                left *= before[i]
                i += 1
            else:
                right *= after[j]
                j += 1
        groups.append(Regroup(tuple(range(ends[0], i)), tuple(range(ends[1], j))))
    return groups


class Reshaped(NamedTuple):
    """What a reshape does to labels, and the labels whose axis it takes apart (their parts must stay alike)."""

    label: Tensor
    split: list[Tensor]


def reshape(label: Tensor, shape: Sequence[int]) -> Reshaped:
    """The labels in another shape of as many elements; axes on which they are constant stay so."""
    if prod(shape) == 0:
        return Reshaped(fixed(shape), [])
    small, sizes, split = label, list(shape), []
    for group in regroup(label.shape, shape):
        if all(constant(label, axis) for axis in group.before):
            for axis in group.before:
                small = small.narrow(axis, 0, 1)
            for axis in group.after:
                sizes[axis] = 1
        elif sum(shape[axis] > 1 for axis in group.after) > 1:
            split.append(compact(label))
    return Reshaped(small.reshape(sizes).expand(tuple(shape)), split)


def concatenate(labels: Sequence[Tensor], axis: int, shape: Sequence[int]) -> Tensor:
    """The labels one after another along `axis`; `shape` is that of the result."""
    axis %= len(shape)
    labels = [label for label in labels if label.dim() == len(shape)]  # torch skips empty vectors
    for other in range(len(shape)):
        if other != axis and all(constant(label, other) for label in labels):
            labels = [label.narrow(other, 0, 1) for label in labels]
    if all(constant(label, axis) for label in labels):
        first = labels[0].narrow(axis, 0, 1)
        if all(torch.equal(label.narrow(axis, 0, 1), first) for label in labels):
            return first.expand(tuple(shape))
    return torch.cat(labels, axis).expand(tuple(shape))


class Merged(NamedTuple):
    """What an element-wise operation makes of two labels.

    Attributes:
        label: of the result, broadcast as the operands are.
        pairs: (2, n) labels that are now the same channel.
        spread: labels that were repeated over the channels of the other: gates, which are no channels of the result.
    """

    label: Tensor
    pairs: Tensor
    spread: Tensor | None


def merge(a: Tensor, b: Tensor) -> Merged | None:
    """Line two operands up; None where each is repeated over the other's channels (an outer product)."""
    rank = max(a.dim(), b.dim())
    a, b = (x[(None,) * (rank - x.dim())] for x in (a, b))
    shape = tuple(y if x == 1 else x for x, y in zip(a.shape, b.shape, strict=True))
    small_a, small_b = compact(a), compact(b)
    over_a, over_b = _spreads(a, small_a, small_b), _spreads(b, small_b, small_a)
    nothing = torch.empty((2, 0), dtype=torch.int64, device="cpu")
    if over_a and over_b:
        return None
    if over_a:
        return Merged(b.expand(shape), nothing, small_a.reshape(-1))
    if over_b:
        return Merged(a.expand(shape), nothing, small_b.reshape(-1))
    common = [y if x == 1 else x for x, y in zip(small_a.shape, small_b.shape, strict=True)]
    one, two = small_a.expand(common), small_b.expand(common)
    merged = torch.where(one == FIXED, two, one)
    return Merged(merged.expand(shape), torch.stack([one.reshape(-1), two.reshape(-1)]), None)


def _spreads(whole: Tensor, small: Tensor, other: Tensor) -> bool:
    """Whether one channel of an operand, broadcast now or expanded before, meets many of the other."""
    channel = bool((small != FIXED).any())
    sizes = zip(whole.shape, small.shape, other.shape, strict=True)
    return any(own == 1 and meets > 1 and (size == 1 or channel) for size, own, meets in sizes)
