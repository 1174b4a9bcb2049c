"""Which weights may go together: single ones, n of each m input channels, or blocks of filters."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from leandet.compress.allocate import Scope
from leandet.errors import UserError

Masks = dict[str, Tensor]  # by weight name: bool, of the weight's shape, true where it stays


class Pattern(Protocol):
    """A shape that zeros must have; as text it is what the command line takes."""

    def fits(self, shape: torch.Size) -> bool:
        """Whether a weight (O, I, ...) can have it."""
        ...

    def masks(self, scores: Mapping[str, Tensor], sparsity: float, scope: Scope) -> Masks:
        """The masks that keep most of the score.

        Args:
            scores: by weight name, (O, I, ...), high to keep; -inf for what is cut already.
            sparsity: share of zeros, in [0, 1).
            scope: `UNIFORM` for the same share of every weight, `GLOBAL` where scores are least.
        """
        ...


@dataclass(frozen=True, slots=True)
class Unstructured:
    """Any single weight."""

    def __str__(self) -> str:
        return "unstructured"

    def fits(self, shape: torch.Size) -> bool:
        """Always."""
        return True

    def masks(self, scores: Mapping[str, Tensor], sparsity: float, scope: Scope) -> Masks:
        """As `Pattern.masks`; exactly round(sparsity * weights) of each weight, or of all together, are cut."""
        return {name: kept.view_as(scores[name]) for name, kept in _cut(scores, sparsity, scope).items()}


ANY = Unstructured()


@dataclass(frozen=True, slots=True)
class Blocks:
    """1xN: the kernels of N consecutive filters that read one input channel (arXiv 2105.14713, section 3.2).

    N neighbouring outputs then share their inputs, which is what a vector unit wants. The paper scores a block by its
    sum of absolute weights, which is what `magnitude` gives here: a block is worth the mean of its weights' scores.

    Attributes:
        length: N, at least 1.
    """

    length: int

    def __post_init__(self) -> None:
        if self.length < 1:
            raise UserError(f"a block must be at least 1 filter long, not {self.length}.")

    def __str__(self) -> str:
        return f"1x{self.length}"

    def fits(self, shape: torch.Size) -> bool:
        """Whether the filters divide into blocks."""
        return shape[0] % self.length == 0

    def masks(self, scores: Mapping[str, Tensor], sparsity: float, scope: Scope) -> Masks:
        """As `Pattern.masks`; a block counts as much as any other, whatever its kernel."""
        worth = {name: self._apart(score).mean((1, 3)) for name, score in scores.items()}
        masks = {}
        for name, kept in _cut(worth, sparsity, scope).items():
            blocks = kept.view_as(worth[name])[:, None, :, None].expand(self._apart(scores[name]).shape)
            masks[name] = blocks.reshape(scores[name].shape)
        return masks

    def _apart(self, tensor: Tensor) -> Tensor:
        """(O, I, ...) -> (O / N, N, I, kernel)."""
        return tensor.reshape(tensor.shape[0] // self.length, self.length, tensor.shape[1], -1)


@dataclass(frozen=True, slots=True)
class NofM:
    """At most n of each m neighbouring input channels, as sparse tensor cores take it (arXiv 2104.08378).

    Attributes:
        n, m: 0 < n < m.
    """

    n: int
    m: int

    def __post_init__(self) -> None:
        if not 0 < self.n < self.m:
            raise UserError(f"an n:m pattern needs 0 < n < m, not {self.n}:{self.m}.")

    def __str__(self) -> str:
        return f"{self.n}:{self.m}"

    @property
    def sparsity(self) -> float:
        """The share of zeros that the pattern means."""
        return 1 - self.n / self.m

    def fits(self, shape: torch.Size) -> bool:
        """Whether the input channels divide into groups of m."""
        return shape[1] % self.m == 0

    def masks(self, scores: Mapping[str, Tensor], sparsity: float, scope: Scope) -> Masks:
        """As `Pattern.masks`, whose scope plays no part; a smaller sparsity keeps more than n, in whole weights."""
        gone = min(int(sparsity * self.m + 1e-6), self.m - self.n)
        masks = {}
        for name, score in scores.items():
            groups = score.reshape(score.shape[0], score.shape[1] // self.m, self.m, -1)
            lowest = groups.argsort(dim=2, stable=True)[:, :, :gone]
            masks[name] = torch.ones_like(groups, dtype=torch.bool).scatter(2, lowest, False).view_as(score)
        return masks


def _cut(scores: Mapping[str, Tensor], sparsity: float, scope: Scope) -> dict[str, Tensor]:
    """Flat masks; ties are cut in order, so that the number of zeros is exact."""
    flat = {name: score.flatten().double() for name, score in scores.items()}
    if scope is Scope.UNIFORM:
        return {name: _keep(score, sparsity) for name, score in flat.items()}
    kept = _keep(torch.cat(list(flat.values())), sparsity)
    return dict(zip(flat, torch.split(kept, [len(score) for score in flat.values()]), strict=True))


def _keep(scores: Tensor, sparsity: float) -> Tensor:
    kept = torch.ones_like(scores, dtype=torch.bool)
    kept[scores.argsort(stable=True)[: round(sparsity * len(scores))]] = False
    return kept


def parse_pattern(text: str) -> NofM | Blocks:
    """`2:4` or `1x4`, as on the command line.

    Raises:
        UserError: if it is neither.
    """
    if match := re.fullmatch(r"(\d{1,3}):(\d{1,3})", text):
        return NofM(int(match[1]), int(match[2]))
    if match := re.fullmatch(r"1x(\d{1,4})", text):
        return Blocks(int(match[1]))
    raise UserError(f"--pattern must be n:m such as 2:4, or 1xN such as 1x4, not {text!r}.")
