"""Channel groups: which channels of a network must be cut together, and in which steps.

Nodes (positions of weight axes) that are tied are one channel. Channels that visit the same axes form a segment;
segments whose axis is split or viewed in parts, or that only together divide by the groups of a grouped convolution,
are cut in proportion. What is left is the group: one number says how wide it is.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import gcd

import numpy as np
import numpy.typing as npt
from torch import nn

from leandet.compress.record import Inputs, on_meta, record
from leandet.compress.trace import Axis, Nodes, Reason, Recording, Role
from leandet.errors import UserError

Hashes = npt.NDArray[np.uint64]
NONE = -1


def connected(count: int, pairs: Nodes) -> Nodes:
    """For each of `count` nodes the smallest node that the pairs (2, n) connect it with."""
    parent = np.arange(count)
    while pairs.size:
        roots = parent[pairs]
        pairs = pairs[:, roots[0] != roots[1]]
        low, high = np.minimum(*parent[pairs]), np.maximum(*parent[pairs])
        np.minimum.at(parent, high, low)
        while not np.array_equal(up := parent[parent], parent):
            parent = up
    return parent


def _key(*words: object) -> int:
    """A 64-bit number for a name, the same in every run."""
    return int.from_bytes(hashlib.blake2b("|".join(map(str, words)).encode(), digest_size=8).digest(), "little")


@dataclass(frozen=True, slots=True)
class Channels:
    """The channels of a recording.

    A channel's path is the multiset of what it visits: weights (with axis and group) and computing operations.

    Attributes:
        of: (nodes,) the channel of each node; node 0 has none, NONE.
        first: (channels,) each channel's smallest node.
        keys: (nodes,) a number for each node's tensor, axis and group.
        paths: (channels,) a number for each channel's path.
        makers: (channels,) the same of the path without the inputs of layers: what a channel is, whoever reads it.
        reads: (nodes,) whether the node reads a channel.
    """

    of: Nodes
    first: Nodes
    keys: Hashes
    paths: Hashes
    makers: Hashes
    reads: npt.NDArray[np.bool_]

    @classmethod
    def of_recording(cls, recording: Recording) -> Channels:
        """Ties to channels, and what each visits."""
        pairs = np.concatenate(recording.ties, 1) if recording.ties else np.empty((2, 0), np.int64)
        roots = connected(recording.count, pairs)
        first, of = np.unique(roots[1:], return_inverse=True)
        of = np.concatenate([[NONE], of])
        keys = np.zeros(recording.count, np.uint64)
        reads = np.zeros(recording.count, bool)
        for axis in recording.axes.values():
            group = np.arange(axis.size) // max(1, axis.size // axis.groups)
            names = [_key(axis.tensor, axis.dim, g) for g in range(int(group.max(initial=0)) + 1)]
            keys[axis.nodes] = np.array(names, np.uint64)[group]
            reads[axis.nodes] = axis.role is Role.IN
        makers = np.zeros(len(first), np.uint64)
        inputs = np.zeros(len(first), np.uint64)
        np.add.at(makers, of[1:][~reads[1:]], keys[1:][~reads[1:]])
        np.add.at(inputs, of[1:][reads[1:]], keys[1:][reads[1:]])
        for step, nodes in recording.visits:
            np.add.at(makers, of[nodes], np.uint64(_key("step", step)))
        return cls(of, first, keys, makers + inputs, makers, reads)


@dataclass(frozen=True, slots=True)
class Group:
    """Channels that are cut in proportion.

    Attributes:
        name: the first layer that makes them.
        layers: all layers that make them.
        channels: numbers of its channels.
        steps: it can be cut to 1, 2, ... `steps` equal shares.
        counts: positions that it has on each axis, by the axis's (tensor, dim).
        width: positions on the axis that gives the name.
        fixed: why it cannot be cut; None where it can.
    """

    name: str
    layers: tuple[str, ...]
    channels: Nodes
    steps: int
    counts: Mapping[tuple[str, int], int]
    width: int
    fixed: Reason | None

    def at(self, kept: int) -> int:
        """Its width with `kept` of its steps."""
        return self.width * kept // self.steps


@dataclass(frozen=True, slots=True)
class Structure:
    """A network's channel groups.

    Attributes:
        recording, channels: what they were found in.
        groups: those that can be cut, in the order in which the network makes them.
        skipped: those that could be cut if an operation could be followed, with the reason.
    """

    recording: Recording
    channels: Channels
    groups: tuple[Group, ...]
    skipped: tuple[Group, ...]

    def sizes(self, kept: Mapping[str, int]) -> dict[tuple[str, int], int]:
        """Positions of every axis when the named groups keep so many of their steps."""
        sizes = {key: axis.size for key, axis in self.recording.axes.items()}
        for group in self.groups:
            if (steps := kept.get(group.name, group.steps)) != group.steps:
                for key, count in group.counts.items():
                    sizes[key] -= count - count * steps // group.steps
        return sizes


def analyse(module: nn.Module, example_input: Inputs) -> Structure:
    """The channel groups of a module.

    Args:
        module: any module; it is not run, only a copy without numbers is.
        example_input: its argument or arguments, of any values.

    Raises:
        UserError: if the module cannot be followed; it says where.
    """
    return structure(record(on_meta(module), example_input))


def structure(recording: Recording) -> Structure:
    """The channel groups of a recording."""
    channels = Channels.of_recording(recording)
    of_channel = _proportional(recording, channels)
    reasons = _reasons(recording, channels, of_channel)
    counts = _counts(recording, channels, of_channel)
    members: dict[int, Nodes] = {}
    order = np.argsort(of_channel, kind="stable")
    starts = np.flatnonzero(np.diff(of_channel[order], prepend=NONE))
    for part in np.split(order, starts[1:]) if len(order) else ():
        members[int(of_channel[part[0]])] = part
    found, taken = [], set[str]()
    for number in sorted(members, key=lambda n: int(channels.first[members[n]].min())):
        group = _group(counts[number], members[number], reasons.get(number), taken)
        if group is not None:
            found.append(group)
            taken.add(group.name)
    return Structure(
        recording,
        channels,
        tuple(g for g in found if g.fixed is None and g.steps > 1),
        tuple(g for g in found if g.fixed is not None and not g.fixed.natural and len(g.channels) > 1),
    )


def _axis_of_nodes(recording: Recording) -> Nodes:
    """(nodes,) the place of each node's axis in the recording."""
    axes = np.full(recording.count, NONE)
    for place, axis in enumerate(recording.axes.values()):
        axes[axis.nodes] = place
    return axes


def _proportional(recording: Recording, channels: Channels) -> Nodes:
    """(channels,) the number of each channel's group."""
    axes = _axis_of_nodes(recording)
    pairs = np.unique(np.stack([channels.of[1:], axes[1:]]), axis=1)
    hashes = np.array([_key(*key) for key in recording.axes], np.uint64)
    signature = np.zeros(len(channels.first), np.uint64)
    np.add.at(signature, pairs[0], hashes[pairs[1]])
    _, segments = np.unique(signature, return_inverse=True)
    links = [_chain(segments[channels.of[nodes]]) for nodes in recording.joins if len(nodes)]
    count = int(segments.max(initial=0)) + 1
    while True:
        roots = connected(count, np.concatenate([np.empty((2, 0), np.int64), *links], 1))[segments]
        more = []
        for axis in recording.axes.values():
            if axis.groups == 1:
                continue
            parts, sizes = np.unique(roots[channels.of[axis.nodes]], return_counts=True)
            if len(uneven := parts[sizes % axis.groups != 0]) > 1:
                more.append(_chain(uneven))
        if not more:
            return roots
        links += more


def _chain(values: Nodes) -> Nodes:
    values = np.unique(values)
    return np.stack([values[:-1], values[1:]])


def _reasons(recording: Recording, channels: Channels, of_channel: Nodes) -> dict[int, Reason]:
    """Why groups cannot be cut; the network's own inputs and outputs come before what we cannot do."""
    reasons: dict[int, Reason] = {}
    for nodes, reason in recording.frozen:
        for number in np.unique(of_channel[channels.of[nodes]]).tolist():
            if number not in reasons or (reason.natural and not reasons[number].natural):
                reasons[number] = reason
    return reasons


def _counts(recording: Recording, channels: Channels, of_channel: Nodes) -> dict[int, dict[Axis, int]]:
    """Positions that each group has on each axis."""
    groups = of_channel[channels.of[1:]]
    axes = _axis_of_nodes(recording)[1:]
    pairs, sizes = np.unique(np.stack([groups, axes]), axis=1, return_counts=True)
    ordered = list(recording.axes.values())
    counts: dict[int, dict[Axis, int]] = {}
    for group, axis, size in zip(*pairs.tolist(), sizes.tolist(), strict=True):
        counts.setdefault(group, {})[ordered[axis]] = size
    return counts


def _group(counts: Mapping[Axis, int], members: Nodes, reason: Reason | None, taken: Iterable[str]) -> Group | None:
    """The group of these channels; None where no layer makes them or nothing reads them."""
    makers = [axis for axis in counts if axis.role is Role.OUT]
    lost = reason is not None and not reason.natural  # its readers lie behind the operation that cannot be followed
    if not makers or not (lost or any(axis.role is Role.IN for axis in counts)):
        return None
    makers.sort(key=lambda axis: (counts[axis] != axis.size, axis.base))  # a layer that makes nothing else first
    steps = len(members)
    for axis, count in counts.items():
        steps = 1 if count % axis.groups else gcd(steps, count // axis.groups)
    layers = tuple(axis.tensor.removesuffix(".weight") for axis in makers)
    name = layers[0] if layers[0] not in taken else f"{layers[0]}[{makers[0].base}]"
    by_key = {(axis.tensor, axis.dim): count for axis, count in counts.items()}
    return Group(name, layers, members, steps, by_key, counts[makers[0]], reason)


WIDEST = 8  # times its architecture's width that a group can have: a damaged file asks for no terabytes


def kept_steps(structure: Structure, widths: Mapping[str, int]) -> dict[str, int]:
    """Steps for widths by group name: fewer than the group has, or more where a network is built wider.

    Raises:
        UserError: if a name or a width is none of the structure's.
    """
    groups = {group.name: group for group in structure.groups}
    steps = {}
    for name, width in widths.items():
        if name not in groups:
            raise UserError(f"there is no channel group {name!r}: the groups are {_some(list(groups))}.")
        group = groups[name]
        kept, rest = divmod(width * group.steps, group.width)
        if rest or not 1 <= kept <= WIDEST * group.steps:
            step = group.width // group.steps
            most = WIDEST * group.width
            raise UserError(f"group {name} can have {step}, {2 * step}, ... {most} channels, not {width}.")
        steps[name] = kept
    return steps


def _some(names: Sequence[str], most: int = 8) -> str:
    return ", ".join(names[:most]) + (", ..." if len(names) > most else "")
