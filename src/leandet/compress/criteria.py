"""What a channel is worth: each criterion is a callable from a group of channels to one score each, (C,), high to keep.

Scores of one group are compared with each other, and with those of other groups where the cut is shared out globally.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd

from leandet.compress.channels import Group, Structure, analyse
from leandet.compress.record import Inputs, names_of
from leandet.compress.trace import Axis, Role
from leandet.errors import UserError
from leandet.nets.mode import untouched

Key = tuple[str, int]  # a tensor's name and one of its axes


@dataclass(frozen=True, slots=True)
class Rows:
    """What one layer has of a group's channels.

    Attributes:
        key: the tensor and the axis along which its channels lie.
        weights: (n, d), one row for each position.
        channel: (n,) int64, the channel (0 to C-1) of each row.
        position: (n,) int64, the row's place on the axis.
    """

    key: Key
    weights: Tensor
    channel: Tensor
    position: Tensor


@dataclass(frozen=True, slots=True)
class ChannelGroup:
    """A group as criteria see it; C channels.

    Attributes:
        name: the first layer that makes the channels.
        count: C.
        filters: weights that make the channels, one `Rows` for each layer.
        scales: scales of the batch-norms on them; empty where there is none.
        readers: weights that read the channels.
    """

    name: str
    count: int
    filters: tuple[Rows, ...]
    scales: tuple[Rows, ...]
    readers: tuple[Rows, ...]


Criterion = Callable[[ChannelGroup], Tensor]


def rows_of(tensor: Tensor, axis: Axis) -> Tensor:
    """A tensor laid out with one row for each node of an axis: (nodes, the rest)."""
    if tensor.dim() < 2:
        return tensor.reshape(-1, 1)
    blocks = tensor.chunk(axis.groups, 1 - axis.dim) if axis.per_group else (tensor,)
    return torch.cat([block.movedim(axis.dim, 0).flatten(1) for block in blocks])


def view(module: nn.Module, structure: Structure, group: Group) -> ChannelGroup:
    """A group with the module's weights, without gradients."""
    named = dict(module.named_parameters())
    place = torch.full((len(structure.channels.first),), -1)
    place[torch.from_numpy(group.channels)] = torch.arange(len(group.channels))
    of = torch.from_numpy(structure.channels.of)
    parts: dict[Role, list[Rows]] = {role: [] for role in Role}
    for key in group.counts:
        axis = structure.recording.axes[key]
        if axis.tensor not in named or (axis.role is Role.SIDE and axis.tensor not in structure.recording.scales):
            continue
        channel = place[of[axis.base : axis.base + axis.size]]
        position = torch.nonzero(channel >= 0).flatten()
        rows = rows_of(named[axis.tensor].detach(), axis)[position]
        parts[axis.role].append(Rows(key, rows, channel[position].to(rows.device), position))
    filters, scales, readers = (tuple(parts[role]) for role in (Role.OUT, Role.SIDE, Role.IN))
    return ChannelGroup(group.name, len(group.channels), filters, scales, readers)


def combine(group: ChannelGroup, parts: Iterable[tuple[Rows, Tensor]], *, relative: bool = True) -> Tensor:
    """Scores (n,) of several layers' rows -> (C,): the mean over the rows of each channel.

    Args:
        group: whose channels they are.
        parts: rows and a score for each.
        relative: divide each layer's scores by their mean, so that layers of any scale count alike.
    """
    total = torch.zeros(group.count, dtype=torch.float64)
    rows = torch.zeros(group.count, dtype=torch.float64)
    for part, values in parts:
        scores = values.double().cpu()
        if relative:
            scores = scores / scores.mean().clamp_min(1e-30)
        total.index_add_(0, part.channel.cpu(), scores)
        rows.index_add_(0, part.channel.cpu(), torch.ones_like(scores))
    return total / rows.clamp_min(1)


def l1(group: ChannelGroup) -> Tensor:
    """Sum of the filter's absolute weights (Li et al., arXiv 1608.08710, section 3.1)."""
    return combine(group, ((rows, rows.weights.abs().sum(1)) for rows in group.filters))


def l2(group: ChannelGroup) -> Tensor:
    """Euclidean norm of the filter (He et al., Soft Filter Pruning, arXiv 1808.06866, section 3.1)."""
    return combine(group, ((rows, rows.weights.norm(dim=1)) for rows in group.filters))


def fpgm(group: ChannelGroup) -> Tensor:
    """Sum of the distances to the layer's other filters: low near the geometric median (arXiv 1811.00250, eq. 5)."""
    return combine(group, ((rows, _distances(rows.weights)) for rows in group.filters))


def _distances(filters: Tensor) -> Tensor:
    return torch.cdist(filters.double(), filters.double()).sum(1)


def bn_scale(group: ChannelGroup) -> Tensor:
    """The batch-norm's absolute scale (Network Slimming, arXiv 1708.06519, section 3); train with `scale_penalty`.

    Raises:
        UserError: if no batch-norm follows the layer.
    """
    if not group.scales:
        raise UserError(f"no batch-norm scales the channels of {group.name}: choose another criterion, such as l1.")
    return combine(group, ((rows, rows.weights.abs().sum(1)) for rows in group.scales), relative=False)


def scale_penalty(module: nn.Module) -> Tensor:
    """Sum of the absolute scales of all batch-norms: added to the loss times about 1e-4, it drives scales to zero.

    Source: Network Slimming (arXiv 1708.06519), eq. 1.
    """
    scales = [part.weight.abs().sum() for part in module.modules() if isinstance(part, _BatchNorm) and part.affine]
    return torch.stack(scales).sum() if scales else torch.zeros(())


def lamp(group: ChannelGroup) -> Tensor:
    """Squared norm over the sum of those at least as large in the layer: comparable between layers.

    Source: LAMP (arXiv 2010.07611, eq. 3), there for single weights, here for channels.
    """
    squared = combine(group, ((rows, rows.weights.square().sum(1)) for rows in group.filters))
    order = squared.argsort(descending=True)
    scores = torch.empty_like(squared)
    scores[order] = squared[order] / squared[order].cumsum(0).clamp_min(1e-30)
    return scores


def comparable(criterion: Criterion) -> bool:
    """Whether a criterion's scores mean the same in every layer, so that a global cut takes them as they are."""
    return criterion in (bn_scale, lamp) or isinstance(criterion, Apoz)


@dataclass(frozen=True, slots=True)
class Random:
    """The baseline that every criterion has to beat.

    Attributes:
        seed: the same seed and group give the same scores.
    """

    seed: int = 0

    def __call__(self, group: ChannelGroup) -> Tensor:
        """Uniform in [0, 1)."""
        digest = hashlib.blake2b(f"{self.seed} {group.name}".encode(), digest_size=7).digest()
        generator = torch.Generator().manual_seed(int.from_bytes(digest, "little"))
        return torch.rand(group.count, generator=generator, dtype=torch.float64)


@dataclass(frozen=True, slots=True)
class Taylor:
    """The first-order estimate of how the loss changes without the filter (Molchanov et al., arXiv 1906.10771, eq. 8).

    Attributes:
        importance: for each tensor and axis (n,), the mean over batches of (sum over the filter of weight * gradient)².
    """

    importance: Mapping[Key, Tensor]

    @classmethod
    def measure(
        cls, module: nn.Module, example_input: Inputs, loss: Callable[[Any], Tensor], batches: Iterable[Any]
    ) -> Taylor:
        """Run `loss` (which runs the module) on each batch and differentiate it.

        Args:
            module: as it will be pruned; left without gradients, in the mode that it has.
            example_input: as for `analyse`.
            loss: from a batch to the loss.
            batches: at least one.

        Raises:
            UserError: if there is no batch.
        """
        recording = analyse(module, example_input).recording
        named = dict(module.named_parameters())
        axes = {k: axis for k, axis in recording.axes.items() if axis.role is Role.OUT and axis.tensor in named}
        total = {key: torch.zeros(axis.size, dtype=torch.float64) for key, axis in axes.items()}
        seen = 0
        for batch in batches:
            module.zero_grad()
            loss(batch).backward()  # type: ignore[no-untyped-call]
            seen += 1
            for key, axis in axes.items():
                weight = named[axis.tensor]
                if weight.grad is not None:
                    part = rows_of(weight.detach() * weight.grad, axis).sum(1)
                    total[key] += part.double().square().cpu()
        module.zero_grad()
        if not seen:
            raise UserError("the Taylor criterion needs at least one batch.")
        return cls({key: value / seen for key, value in total.items()})

    def __call__(self, group: ChannelGroup) -> Tensor:
        """Root mean squares, in units of the loss.

        Between layers they do not compare all the same: what the loss becomes without one channel says little of what
        it becomes without most of a layer's. Taken as they are, they emptied the last layers of MobileNetV2, whose
        channels are many; weighed by each layer's mean, AP after a cut by half was .27 instead of .15 (as mean
        squares .21; divided by what a channel saves .10).
        """
        parts = ((rows, self.importance[rows.key][rows.position]) for rows in group.filters)
        return combine(group, parts, relative=False).sqrt()


@dataclass(frozen=True, slots=True)
class Activations:
    """What the readers of channels see, measured on pictures.

    Attributes:
        zeros: for each weight (n,), the share of zeros in each input channel, in [0, 1].
        means: the mean absolute value of each input channel.
    """

    zeros: Mapping[str, Tensor] = field(default_factory=dict)
    means: Mapping[str, Tensor] = field(default_factory=dict)

    @classmethod
    def measure(cls, module: nn.Module, batches: Iterable[Any]) -> Activations:
        """Run the module in evaluation mode on each batch (a tensor, or a tuple of arguments).

        Raises:
            UserError: if there is no batch.
        """
        names = names_of(module)
        zeros: dict[str, Tensor] = {}
        means: dict[str, Tensor] = {}
        counts: dict[str, int] = {}

        def look(part: nn.Module, arguments: tuple[Any, ...]) -> None:
            x = arguments[0].detach()
            channels = x.movedim(1 if isinstance(part, _ConvNd) else -1, 0).flatten(1).double()
            name = names[id(part.weight)]
            zeros[name] = zeros.get(name, 0) + (channels == 0).double().sum(1).cpu()
            means[name] = means.get(name, 0) + channels.abs().sum(1).cpu()
            counts[name] = counts.get(name, 0) + channels.shape[1]

        handles = [
            part.register_forward_pre_hook(look) for part in module.modules() if isinstance(part, _ConvNd | nn.Linear)
        ]
        try:
            with untouched(module):
                for batch in batches:
                    module(*(batch if isinstance(batch, tuple) else (batch,)))
        finally:
            for handle in handles:
                handle.remove()
        if not counts:
            raise UserError("criteria of activations need at least one batch.")
        return cls({k: v / counts[k] for k, v in zeros.items()}, {k: v / counts[k] for k, v in means.items()})


@dataclass(frozen=True, slots=True)
class Apoz:
    """One less the average percentage of zeros (APoZ) in a channel (Hu et al., arXiv 1607.03250, section 2.1)."""

    activations: Activations

    def __call__(self, group: ChannelGroup) -> Tensor:
        """In [0, 1]."""
        zeros = self.activations.zeros
        parts = ((rows, 1 - zeros[rows.key[0]][rows.position]) for rows in group.readers if rows.key[0] in zeros)
        return combine(group, parts, relative=False)


@dataclass(frozen=True, slots=True)
class MeanActivation:
    """The mean absolute activation of a channel (Molchanov et al., arXiv 1611.06440, section 2.2)."""

    activations: Activations

    def __call__(self, group: ChannelGroup) -> Tensor:
        """Relative to the mean of each reader's channels."""
        means = self.activations.means
        return combine(group, ((r, means[r.key[0]][r.position]) for r in group.readers if r.key[0] in means))
