"""What single weights are worth: a scorer takes a name and values and returns a score for each, high to keep."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from leandet.errors import UserError

Scorer = Callable[[str, Tensor], Tensor]


def magnitude(name: str, weight: Tensor) -> Tensor:
    """The absolute value (Han et al., arXiv 1506.02626, section 3)."""
    return weight.abs()


def lamp(name: str, weight: Tensor) -> Tensor:
    """The square over the sum of the layer's squares at least as large; float64.

    Within a layer it orders weights as `magnitude` does; between layers it needs no tuning, and the largest weight of
    every layer scores 1, so that a global cut never empties a layer. Source: LAMP (arXiv 2010.07611, eq. 2).
    """
    squares = weight.flatten().double().square()
    order = squares.argsort(descending=True, stable=True)
    scores = torch.empty_like(squares)
    scores[order] = squares[order] / squares[order].cumsum(0).clamp_min(torch.finfo(torch.float64).tiny)
    return scores.view_as(weight)


@dataclass(frozen=True, slots=True)
class Random:
    """The baseline that every scorer has to beat.

    Attributes:
        seed: the same seed and name give the same scores.
    """

    seed: int = 0

    def __call__(self, name: str, weight: Tensor) -> Tensor:
        """Uniform in [0, 1)."""
        digest = hashlib.blake2b(f"{self.seed} {name}".encode(), digest_size=7).digest()
        generator = torch.Generator().manual_seed(int.from_bytes(digest, "little"))
        return torch.rand(weight.shape, generator=generator, dtype=torch.float64).to(weight.device)


@dataclass(frozen=True, slots=True)
class Movement:
    """How far training moves a weight away from zero: minus the sum over steps of weight * gradient.

    Scores gather while the weights are trained; a weight once cut moves no more and stays cut. Source: movement pruning
    (arXiv 2005.07683, section 3), there with a learning rate that scales all scores alike.

    Attributes:
        totals: the sums so far, by name.
    """

    totals: dict[str, Tensor] = field(default_factory=dict)

    def add(self, weights: Mapping[str, Tensor]) -> None:
        """Take up one step: after the gradients are there, before the optimiser uses them.

        A gradient that overflowed in mixed precision counts nothing, as for the optimiser.
        """
        for name, weight in weights.items():
            if weight.grad is None:
                continue
            step = torch.nan_to_num(weight.detach() * weight.grad, nan=0.0, posinf=0.0, neginf=0.0)
            if (total := self.totals.get(name)) is None:
                total = self.totals[name] = torch.zeros_like(step)
            elif total.device != step.device:  # restored from a checkpoint
                total = self.totals[name] = total.to(step.device)
            total -= step

    @classmethod
    def measure(cls, module: nn.Module, loss: Callable[[Any], Tensor], batches: Iterable[Any]) -> Movement:
        """Scores of a module that stays as it is; training it at the same time, with `add`, is what the paper does.

        Args:
            module: left without gradients, in the mode that it has.
            loss: from a batch to the loss, running the module.
            batches: at least one.

        Raises:
            UserError: if there is no batch.
        """
        found = cls()
        for batch in batches:
            module.zero_grad()
            loss(batch).backward()  # type: ignore[no-untyped-call]
            found.add(dict(module.named_parameters()))
        module.zero_grad()
        if not found.totals:
            raise UserError("movement scores need at least one batch.")
        return found

    def __call__(self, name: str, weight: Tensor) -> Tensor:
        """In units of the loss.

        Raises:
            UserError: if no step has been taken up for this weight.
        """
        if name not in self.totals:
            raise UserError(f"movement has no scores for {name}: train for a while before the first weights are cut.")
        return self.totals[name].to(weight.device)
