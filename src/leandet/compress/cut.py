"""Cutting channels out: the network at its new widths, each of its channels taken from the strongest like it.

How channels flow at the new widths is not computed but seen: the module's own code runs once more. A channel of that
run takes the weights of an original channel with the same path. Where too few of a path are left, the nearest one
serves, and readers that it never had get zero weights.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from leandet.compress.channels import NONE, Channels, Structure
from leandet.compress.record import Inputs, record
from leandet.compress.resize import empty, filled, own_shapes, shapes
from leandet.compress.trace import Axis, Nodes, Recording, Role
from leandet.errors import UserError

Strengths = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Plan:
    """A cut that is known to work: nothing has been cut yet.

    Attributes:
        before: of the network as it is.
        after: the recording at the new widths.
        source: (nodes of after,) the original node of each new node; NONE where there is none.
        kept: steps by group name.
        unmatched: channels of the new network that found no original of exactly their path.
    """

    before: Recording
    after: Recording
    source: Nodes
    kept: Mapping[str, int]
    unmatched: int

    @property
    def dropped(self) -> Nodes:
        """Original nodes that no new node comes from, FIXED left out."""
        gone = np.ones(self.before.count, bool)
        gone[self.source[self.source != NONE]] = False
        gone[0] = False
        return np.flatnonzero(gone)


def plan(
    module: nn.Module, example_input: Inputs, structure: Structure, kept: Mapping[str, int], strength: Strengths
) -> Plan:
    """Work a cut out without touching the module.

    Args:
        module: as analysed.
        example_input: as for `analyse`.
        structure: of the module.
        kept: steps that each named group keeps; the others keep all.
        strength: (channels,) of the structure; the strongest of each path stay.

    Raises:
        UserError: if the network's code does not run at these widths.
    """
    narrow = empty(module, structure.recording, shapes(own_shapes(module), structure, kept))
    after = record(narrow, example_input, structure.recording)
    source, unmatched = match(structure.channels, Channels.of_recording(after), strength)
    if unmatched * 2 > len(structure.channels.first):
        raise UserError("the network behaves differently at other widths: most of its channels find no original.")
    return Plan(structure.recording, after, source, dict(kept), unmatched)


def cut(module: nn.Module, chosen: Plan) -> nn.Module:
    """A new module without the channels that the plan drops; the given one is untouched."""
    return filled(module, chosen.after, own_tensors(module, chosen))


def own_tensors(module: nn.Module, chosen: Plan) -> dict[str, Tensor]:
    """The tensors of the cut network, copied out of the whole one: no gradient leaves them."""
    named = {**dict(module.named_parameters()), **dict(module.named_buffers())}
    return {
        name: tensor.detach().clone(memory_format=torch.preserve_format)
        for name, tensor in gathered(named, chosen).items()
    }


def gathered(named: Mapping[str, Tensor], chosen: Plan) -> dict[str, Tensor]:
    """The tensors of the cut network out of the whole one's; a gradient that reaches the former goes on to the latter.

    A tensor that loses nothing is not copied: it is the whole network's own.

    Args:
        named: parameters and buffers of the whole network, all or some, by name.
        chosen: what is cut.
    """
    before, after = by_tensor(chosen.before), by_tensor(chosen.after)
    return {
        name: _gather(tensor, before[name], after[name], chosen.source) if name in after else tensor
        for name, tensor in named.items()
    }


def mask(module: nn.Module, chosen: Plan) -> nn.Module:
    """A new module of the old widths in which every reader of a dropped channel has weight zero: what `cut` equals."""
    dropped = np.zeros(chosen.before.count, bool)
    dropped[chosen.dropped] = True
    tensors: dict[str, Tensor] = {}
    named = {**dict(module.named_buffers()), **dict(module.named_parameters())}
    for axis in chosen.before.axes.values():
        if axis.role is not Role.IN or not (gone := dropped[axis.nodes]).any():
            continue
        weight = tensors.get(axis.tensor, named[axis.tensor].detach().clone())
        alive = torch.from_numpy(~gone).to(weight.device)
        if axis.per_group:  # (groups, n): rows of each group read their own n channels
            rows = alive.reshape(axis.groups, -1).repeat_interleave(weight.shape[0] // axis.groups, 0)
            weight *= rows.reshape(*rows.shape, *(1,) * (weight.dim() - 2))
        else:
            shape = [1] * weight.dim()
            shape[axis.dim] = -1
            weight *= alive.reshape(shape)
        tensors[axis.tensor] = weight
    return filled(module, chosen.before, tensors)


def by_tensor(recording: Recording) -> dict[str, dict[int, Axis]]:
    """The axes of each tensor by dimension."""
    found: dict[str, dict[int, Axis]] = {}
    for (tensor, dim), axis in recording.axes.items():
        found.setdefault(tensor, {})[dim] = axis
    return found


def _gather(tensor: Tensor, before: Mapping[int, Axis], after: Mapping[int, Axis], source: Nodes) -> Tensor:
    """The new tensor's elements out of the old one's; positions without an original hold their axis's fill."""
    result = tensor
    shared = {dim: axis for dim, axis in after.items() if not axis.per_group}
    for dim, axis in shared.items():
        index = places(axis, before[dim], source)
        result = take(result, dim, index, axis.fill)
    for dim, axis in after.items():
        if axis.per_group:
            index = places(axis, before[dim], source)
            size = before[dim].size // axis.groups
            index = np.where(index == NONE, NONE, index % size).reshape(axis.groups, -1)
            blocks = result.chunk(axis.groups, 1 - dim)
            taken = [take(block, dim, index[g], axis.fill) for g, block in enumerate(blocks)]
            result = torch.cat(taken, 1 - dim)
    return result


def places(axis: Axis, before: Axis, source: Nodes) -> Nodes:
    """Where each position of a new axis was on the old one; NONE where there is no original."""
    origin = source[axis.nodes]
    return np.where(origin == NONE, NONE, origin - before.base)


def take(tensor: Tensor, dim: int, index: Nodes, fill: float) -> Tensor:
    """The elements at these places of a dimension; the fill where there is none."""
    if np.array_equal(index, np.arange(tensor.shape[dim])):
        return tensor
    missing = torch.from_numpy(index == NONE).to(tensor.device)
    result = tensor.index_select(dim, torch.from_numpy(np.maximum(index, 0)).to(tensor.device))
    shape = [1] * tensor.dim()
    shape[dim] = -1
    return result.masked_fill(missing.reshape(shape), fill) if bool(missing.any()) else result


def match(before: Channels, after: Channels, strength: Strengths) -> tuple[Nodes, int]:
    """The original node of each new node, and how many new channels have no original of their path.

    Of each path as many originals as are wanted are taken, the strongest, and keep their order.
    """
    origin = np.full(len(after.first), NONE)
    free = np.ones(len(before.first), bool)
    wanted = _by_value(after.paths, after.first)
    offered = _by_value(before.paths, before.first)
    for path, new in wanted.items():
        old = offered.get(path)
        if old is None:
            continue
        best = np.sort(np.argsort(-strength[old], kind="stable")[: len(new)])
        origin[new[: len(best)]] = old[best]
        free[old[best]] = False
    source = np.full(len(after.of), NONE)
    _follow(before, after, origin, source)
    lonely = np.flatnonzero(origin == NONE)
    _adopt(before, after, lonely, free, strength, source)
    return source, len(lonely)


def _by_value(values: npt.NDArray[np.uint64], first: Nodes) -> dict[int, Nodes]:
    """Value -> the channels that have it, in the order of their first nodes."""
    order = np.lexsort((first, values))
    starts = np.flatnonzero(np.diff(values[order], prepend=values[order[:1]] + np.uint64(1)))
    return {int(values[part[0]]): part for part in np.split(order, starts[1:]) if len(part)}


def _follow(before: Channels, after: Channels, origin: Nodes, source: Nodes) -> None:
    """Nodes of channels of one path, in the order of their keys, belong together."""
    new = np.flatnonzero(np.concatenate([[False], origin[after.of[1:]] != NONE]))
    new = new[np.lexsort((new, after.keys[new], origin[after.of[new]]))]
    chosen = np.zeros(len(before.first) + 1, bool)
    chosen[origin[origin != NONE]] = True
    old = np.flatnonzero(chosen[before.of])
    old = old[np.lexsort((old, before.keys[old], before.of[old]))]
    source[new] = old


def _adopt(
    before: Channels,
    after: Channels,
    lonely: Nodes,
    free: npt.NDArray[np.bool_],
    strength: Strengths,
    source: Nodes,
) -> None:
    """Give each lonely channel the free original that is made alike and has most of its readers; none is fine too."""
    if not len(lonely):
        return
    made = _by_value(before.makers, before.first)
    nodes_before, nodes_after = _nodes_of(before, np.flatnonzero(free)), _nodes_of(after, lonely)
    for channel in lonely.tolist():
        new = nodes_after[channel]
        best: tuple[tuple[int, float], Nodes, Nodes, int] | None = None
        for candidate in made.get(int(after.makers[channel]), np.empty(0, np.int64)).tolist():
            if not free[candidate]:
                continue
            old = nodes_before[candidate]
            left, right = _shared(after.keys[new], before.keys[old])
            score = (int(before.reads[old[right]].sum()), float(strength[candidate]))
            if best is None or score > best[0]:
                best = (score, new[left], old[right], candidate)
        if best is not None:
            source[best[1]] = best[2]
            free[best[3]] = False


def _nodes_of(channels: Channels, wanted: Nodes) -> dict[int, Nodes]:
    """Channel -> its nodes in the order of their keys."""
    chosen = np.zeros(len(channels.first) + 1, bool)
    chosen[wanted] = True
    chosen[NONE] = False
    nodes = np.flatnonzero(chosen[channels.of])
    nodes = nodes[np.lexsort((nodes, channels.keys[nodes], channels.of[nodes]))]
    starts = np.flatnonzero(np.diff(channels.of[nodes], prepend=NONE))
    return {int(channels.of[part[0]]): part for part in np.split(nodes, starts[1:]) if len(part)}


def _shared(a: npt.NDArray[np.uint64], b: npt.NDArray[np.uint64]) -> tuple[Nodes, Nodes]:
    """Places of the keys that two ascending lists share, pair by pair, each as often as the rarer has it."""
    left, right, i, j = [], [], 0, 0
    while i < len(a) and j < len(b):
        if a[i] == b[j]:
            left.append(i)
            right.append(j)
        step = (a[i] <= b[j], b[j] <= a[i])
        i, j = i + step[0], j + step[1]
    return np.array(left, np.int64), np.array(right, np.int64)
