"""Keeps masked weights at zero through any number of optimiser steps."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from types import TracebackType
from typing import Self

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from leandet.sparsify.masking import apply


class Hold:
    """Trains what is left: cut weights get no gradient, no momentum and stay exactly zero.

    A weight that is zero, has no gradient and no state does not move under any optimiser of `torch.optim`, weight decay
    and Nesterov's momentum included. So gradients are masked as they arrive (before anybody clips their norm), and
    weights and state once, when masks change.

    Args:
        module: whose weights are held; masked at once.
        masks: bool by weight name, true where the weight stays.
        optimizers: that train it already; fresh ones need not be named.

    Use as a context manager, or call `release`.
    """

    def __init__(self, module: nn.Module, masks: Mapping[str, Tensor], optimizers: Iterable[Optimizer] = ()) -> None:
        self._module = module
        self._cut: dict[str, Tensor] = {}
        self._hooks = [self._hook(name) for name in masks]
        self.tighten(masks, optimizers)

    def _hook(self, name: str) -> torch.utils.hooks.RemovableHandle:
        def mask(gradient: Tensor) -> Tensor:
            if self._cut[name].device != gradient.device:  # held before a trainer moved the module to its GPU
                self._cut[name] = self._cut[name].to(gradient.device)
            return gradient.masked_fill(self._cut[name], 0)  # not times zero: an overflow would leave a NaN

        handle: torch.utils.hooks.RemovableHandle = self._module.get_parameter(name).register_hook(mask)  # type: ignore[no-untyped-call]
        return handle

    def tighten(self, masks: Mapping[str, Tensor], optimizers: Iterable[Optimizer] = ()) -> None:
        """Take other masks for the same weights, and clear weights, gradients and momentum of what they cut."""
        apply(self._module, masks)
        states = [optimizer.state for optimizer in optimizers]
        for name, mask in masks.items():
            weight = self._module.get_parameter(name)
            cut = self._cut[name] = ~mask.to(weight.device)
            kept = [value for state in states if weight in state for value in state[weight].values()]
            for tensor in (weight.grad, *kept):
                if isinstance(tensor, Tensor) and tensor.shape == weight.shape:
                    tensor.masked_fill_(cut, 0)

    def release(self) -> None:
        """Let the weights go."""
        for hook in self._hooks:
            hook.remove()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()
