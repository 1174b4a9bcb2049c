"""A cut whose readers make up for what they lost: least squares on what they read before.

A channel that goes was in part told by the channels that stay. Each convolution or linear layer that loses inputs takes
the best linear estimate of them from those it keeps, put into its own weights: the least-squares reconstruction of
Channel Pruning (He, Zhang and Sun, arXiv 1707.06168, section 3.1, equation 2), solved from second moments that are
measured once on the whole network instead of from sampled responses for each cut. So any number of cuts is
reconstructed from one look at the images.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from leandet.compress.channels import NONE
from leandet.compress.cut import Plan, by_tensor, own_tensors, places, take
from leandet.compress.resize import filled
from leandet.compress.trace import Axis, Nodes
from leandet.nets.mode import untouched

ROWS = 4096  # positions of a batch that each layer's moments are taken from, evenly spaced
WIDEST = 2048  # inputs; a wider layer's moments would cost more than they give
RIDGE = 1e-2  # of the kept channels' mean variance, added to each: so few positions bend the estimate less

Layers = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.Linear)


@dataclass(frozen=True, slots=True)
class Moments:
    """What the layers of a network read.

    Attributes:
        of: by the layer's name, the mean (C,) and the covariance (C, C) of its inputs over images and positions,
            float64 on the CPU. Grouped and depthwise convolutions are left out.
    """

    of: Mapping[str, tuple[Tensor, Tensor]]

    @classmethod
    def measure(cls, module: nn.Module, batches: Iterable[Tensor]) -> Moments:
        """Run the module, in evaluation mode, on batches of its inputs and measure; it is left as it was.

        A layer that is called several times, as a head on every level, has the moments of all calls.
        """
        sums: dict[str, _Sums] = {}
        wanted = {name: part for name, part in module.named_modules() if _readable(part)}
        hooks = [part.register_forward_pre_hook(_adder(sums, name)) for name, part in wanted.items()]
        try:
            with untouched(module):
                for batch in batches:
                    module(batch)
        finally:
            for hook in hooks:
                hook.remove()
        return cls({name: found.moments() for name, found in sums.items()})


@dataclass(slots=True)
class _Sums:
    rows: int
    first: Tensor
    second: Tensor

    def moments(self) -> tuple[Tensor, Tensor]:
        mean = self.first / self.rows
        return mean, self.second / self.rows - torch.outer(mean, mean)


def _readable(part: nn.Module) -> bool:
    if not isinstance(part, Layers):
        return False
    inputs = part.in_features if isinstance(part, nn.Linear) else part.in_channels
    return inputs <= WIDEST and getattr(part, "groups", 1) == 1


def _adder(sums: dict[str, _Sums], name: str) -> Callable[[nn.Module, tuple[Any, ...]], None]:
    def add(part: nn.Module, arguments: tuple[Any, ...]) -> None:
        if not arguments:
            return  # called by keyword: it is cut and no more
        read = arguments[0].detach()
        if not isinstance(part, nn.Linear):
            read = read.movedim(1, -1)
        read = read.reshape(-1, read.shape[-1])
        if len(read) > ROWS:
            read = read[torch.linspace(0, len(read) - 1, ROWS, device=read.device).long()]
        read = read.float()
        first, second = read.sum(0).double().cpu(), (read.T @ read).double().cpu()
        known = sums.get(name)
        if known is None:
            sums[name] = _Sums(len(read), first, second)
        else:
            known.rows, known.first, known.second = known.rows + len(read), known.first + first, known.second + second

    return add


def reconstruct(module: nn.Module, chosen: Plan, moments: Moments) -> nn.Module:
    """A new module without the channels that the plan drops, as `cut`, whose readers estimate them from what is left.

    What goes on to batch-norms has another spread than before: measure them anew (`recalibrate`).

    Args:
        module: the whole network; untouched.
        chosen: what is cut.
        moments: of the whole network. Layers that it does not have are cut and no more.
    """
    named, tensors = dict(module.named_parameters()), own_tensors(module, chosen)
    with torch.no_grad():
        before, after = by_tensor(chosen.before), by_tensor(chosen.after)
        for layer, (mean, covariance) in moments.of.items():
            weight = f"{layer}.weight"
            axes = after.get(weight, {})
            if 1 not in axes:
                continue
            index = places(axes[1], before[weight][1], chosen.source)
            rows = _rows(named[weight], before[weight], axes, chosen)
            if (found := _made_up(rows, index, mean, covariance)) is None:
                continue
            change, shift = found
            tensors[weight] += change.to(tensors[weight])
            if (bias := tensors.get(f"{layer}.bias")) is not None:
                bias += shift.to(bias)
    return filled(module, chosen.after, tensors)


def _rows(weight: Tensor, before: Mapping[int, Axis], after: Mapping[int, Axis], chosen: Plan) -> Tensor:
    """The whole layer's weight with the outputs that stay, and all inputs: float64 on the CPU."""
    rows = weight.detach().double().cpu()
    return take(rows, 0, places(after[0], before[0], chosen.source), after[0].fill) if 0 in after else rows


def _made_up(rows: Tensor, index: Nodes, mean: Tensor, covariance: Tensor) -> tuple[Tensor, Tensor] | None:
    """What is added to the cut weight and, for each output, to the bias; None if nothing is lost or nothing is left.

    Args:
        rows: the layer's weight with all inputs (O, C, ...).
        index: the input of each of the cut layer's; NONE where it has none.
        mean, covariance: of all inputs.
    """
    kept = torch.from_numpy(index[index != NONE])
    gone = torch.from_numpy(np.setdiff1d(np.arange(len(mean)), kept.numpy()))
    if not len(kept) or not len(gone):
        return None
    known = covariance[kept][:, kept]
    ridge = RIDGE * known.diagonal().mean().clamp(min=1e-12)
    # Of each input that goes (columns), what each that stays (rows) tells.
    share = torch.linalg.solve(known + ridge * torch.eye(len(kept)).double(), covariance[kept][:, gone])
    lost = rows[:, gone]
    change = rows.new_zeros(rows.shape[0], len(index), *rows.shape[2:])
    change[:, torch.from_numpy(np.flatnonzero(index != NONE))] = torch.einsum("og...,kg->ok...", lost, share)
    taps = lost.flatten(2).sum(2) if lost.dim() > 2 else lost
    return change, taps @ (mean[gone] - share.T @ mean[kept])
