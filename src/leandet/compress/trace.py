"""Runs a module on labels instead of numbers and writes down how its channels hang together.

The module runs on the meta device under a dispatch mode, so Python control flow is taken as it comes and nothing is
computed. Operations that move elements (view, transpose, chunk, cat) really move the labels: a channel shuffle is a
permutation like any other. Convolutions and linear layers read the labels of their input and make new ones;
element-wise operations tie the labels of their operands; what an unknown operation touches must keep its width.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from enum import Enum, auto
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch._ops import OpOverload
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

from leandet.compress import labels as lab
from leandet.compress.labels import FIXED

Nodes = npt.NDArray[np.int64]
Handler = Callable[["Tracer", OpOverload, tuple[Any, ...], dict[str, Any], Any], None]

BATCH_NORMS = frozenset(
    {
        torch.ops.aten.native_batch_norm,
        torch.ops.aten._native_batch_norm_legit,
        torch.ops.aten._native_batch_norm_legit_no_training,
    }
)


class Role(Enum):
    """What one axis of a weight does: makes channels, reads them, or goes along with them (norms, biases)."""

    OUT = auto()
    IN = auto()
    SIDE = auto()


@dataclass(frozen=True, slots=True)
class Axis:
    """One axis of one parameter or buffer; each of its positions is a node.

    Attributes:
        tensor: its name in the module.
        dim: which of the tensor's axes.
        base: number of its first node.
        size: nodes.
        groups: of a grouped convolution, else 1.
        role: what it does.
        per_group: the tensor stores `size / groups` positions, once for all groups (a grouped convolution's inputs).
        fill: what a position without an original holds, so that it changes nothing.
    """

    tensor: str
    dim: int
    base: int
    size: int
    groups: int
    role: Role
    per_group: bool = False
    fill: float = 0.0

    @property
    def nodes(self) -> Nodes:
        """All its nodes."""
        return np.arange(self.base, self.base + self.size)


@dataclass(frozen=True, slots=True)
class Reason:
    """Why a width cannot change; `natural` for the network's own inputs, outputs and gates."""

    text: str
    natural: bool = False


@dataclass(slots=True)
class Recording:
    """What a run on labels found.

    Attributes:
        axes: by (tensor, dim), in the order in which they were met.
        count: number of nodes; node 0 is FIXED and belongs to no axis.
        ties: pairs (2, n) of nodes that are one channel.
        joins: nodes whose channels must be cut in proportion, for each axis that was split or viewed in parts.
        frozen: nodes that must stay, and why.
        visits: for each computing operation its number and the nodes that it touched.
        work: multiply-adds for each element of a weight.
        depthwise: weights whose groups are channels.
        scales: scales of batch-norms.
    """

    axes: dict[tuple[str, int], Axis] = field(default_factory=dict)
    count: int = 1
    ties: list[Nodes] = field(default_factory=list)
    joins: list[Nodes] = field(default_factory=list)
    frozen: list[tuple[Nodes, Reason]] = field(default_factory=list)
    visits: list[tuple[int, Nodes]] = field(default_factory=list)
    work: dict[str, int] = field(default_factory=dict)
    depthwise: set[str] = field(default_factory=set)
    scales: set[str] = field(default_factory=set)


class Tracer(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Follows labels through every ATen operation; `recording` holds what it saw.

    Args:
        names: identity of each parameter and buffer -> its name.
        before: what a run at the whole widths recorded, where this one is at others: which weights are depthwise and
            along which dimension a parameter has its channels cannot be seen where one channel is left. None looks.
        find: what an operation does to labels.
    """

    def __init__(
        self, names: Mapping[int, str], before: Recording | None, find: Callable[[OpOverload], Handler]
    ) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.recording = Recording(depthwise=set(before.depthwise) if before else set())
        self.looks = before is None
        known = before.axes.items() if before else ()
        self._sides = {tensor: dim for (tensor, dim), axis in known if axis.role is Role.SIDE}
        self.failed = ""
        self._find = find
        self._names = names
        self._labels: dict[int, Tensor] = {}
        self._flipped: dict[int, str] = {}
        self._alive: list[Tensor] = []  # an identity is only good while its tensor lives
        self._stack: list[str] = []
        self._steps = 0

    @contextmanager
    def following(self, module: nn.Module) -> Iterator[None]:
        """Keep track of which submodule is running."""

        def leave(*_: object) -> None:  # whatever a hook returns would replace the module's output
            self._stack.pop()

        handles = []
        for name, part in module.named_modules():
            handles.append(part.register_forward_pre_hook(lambda *_, name=name: self._stack.append(name)))
            handles.append(part.register_forward_hook(leave))
        try:
            yield
        except Exception:
            self.failed = self._stack[-1] if self._stack else ""
            raise
        finally:
            for handle in handles:
                handle.remove()

    def __torch_dispatch__(
        self,
        func: OpOverload,
        types: Iterable[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """Run the operation, then move the labels as it moved the elements."""
        args = tree_map(_onto_meta, args)
        named: dict[str, Any] = tree_map(_onto_meta, dict(kwargs or {}))
        result = _normalised(args) if func.overloadpacket in BATCH_NORMS else func(*args, **named)
        if any(isinstance(leaf, Tensor) for leaf in tree_leaves(result)):
            self._find(func)(self, func, args, named, result)
        return result

    # What the operations ask and tell.

    def label(self, tensor: Tensor) -> Tensor:
        """The tensor's labels; those of a vector parameter are its nodes."""
        if (found := self._labels.get(id(tensor))) is not None:
            return found
        name = self._names.get(id(tensor))
        if name is None or tensor.numel() == 0 or tensor.dim() == 0:
            return lab.fixed(tensor.shape)
        wide = [dim for dim, size in enumerate(tensor.shape) if size > 1]
        if len(wide) > 1:
            return lab.fixed(tensor.shape)
        dim = wide[0] if wide else self._sides.get(name, 0)
        axis = self.axis(name, dim, tensor.numel(), Role.SIDE)
        made = torch.from_numpy(axis.nodes).reshape(tensor.shape)
        self.put(tensor, made)
        return made

    def put(self, tensor: Tensor, label: Tensor) -> None:
        """Note the labels of a tensor."""
        if label.shape != tensor.shape:
            raise RuntimeError(f"labels of shape {tuple(label.shape)} for a tensor of {tuple(tensor.shape)}")
        self._labels[id(tensor)] = label
        self._alive.append(tensor)

    def weight(self, tensor: Tensor) -> tuple[str, bool] | None:
        """A weight's name and whether it is seen transposed; None for a tensor that is no parameter."""
        if id(tensor) in self._names:
            return self._names[id(tensor)], False
        if id(tensor) in self._flipped:
            return self._flipped[id(tensor)], True
        return None

    def flip(self, tensor: Tensor, name: str) -> None:
        """Note that a tensor is a weight transposed."""
        self._flipped[id(tensor)] = name
        self._alive.append(tensor)

    def axis(
        self,
        tensor: str,
        dim: int,
        size: int,
        role: Role,
        *,
        groups: int = 1,
        per_group: bool = False,
        fill: float = 0.0,
    ) -> Axis:
        """The axis of that name, made at its first use; frozen where it is used in two ways that disagree."""
        key = (tensor, dim)
        known = self.recording.axes.get(key)
        if known is None:
            known = Axis(tensor, dim, self.recording.count, size, groups, role, per_group, fill)
            self.recording.axes[key] = known
            self.recording.count += size
        elif (known.size, known.groups, known.role) != (size, groups, role):
            self.freeze(torch.from_numpy(known.nodes), Reason(f"{tensor} is used in two ways"))
            return Axis(tensor, dim, known.base, size, groups, role, per_group, fill)
        return known

    def tie(self, pairs: Tensor, func: OpOverload) -> None:
        """Pairs (2, n) of labels are the same channel; what is tied to FIXED is frozen."""
        a, b = pairs
        live = (a != FIXED) & (b != FIXED)
        if (different := pairs[:, live & (a != b)]).numel():
            self.recording.ties.append(different.numpy())
        if (bound := (a + b)[~live & (a != b)]).numel():
            self.freeze(bound, self.reason(func, "meets a tensor of fixed size"))

    def join(self, label: Tensor) -> None:
        """All these channels are cut in proportion."""
        nodes = np.unique(label.numpy())
        self.recording.joins.append(nodes[nodes != FIXED])

    def freeze(self, label: Tensor, reason: Reason) -> None:
        """These channels stay."""
        nodes = np.unique(lab.compact(label).numpy())
        if len(nodes := nodes[nodes != FIXED]):
            self.recording.frozen.append((nodes, reason))

    def visit(self, label: Tensor) -> None:
        """An operation that computes touched these channels: which ones is part of a channel's path."""
        self._steps += 1
        nodes = lab.compact(label).reshape(-1).numpy()
        if len(nodes := nodes[nodes != FIXED]):
            self.recording.visits.append((self._steps, nodes))

    def work(self, tensor: str, positions: int) -> None:
        """Each element of a weight is multiplied and added at so many positions."""
        self.recording.work[tensor] = self.recording.work.get(tensor, 0) + positions

    def reason(self, func: OpOverload, what: str) -> Reason:
        """A reason that names the operation and the module that runs."""
        return Reason(f"{func.overloadpacket} in {(self._stack and self._stack[-1]) or 'the network'} {what}")

    def unknown(self, func: OpOverload, args: Any, what: str = "cannot be followed") -> None:
        """Freeze whatever the operation touches; its results are FIXED."""
        reason = self.reason(func, what)
        for tensor in tree_leaves(args):
            if not isinstance(tensor, Tensor):
                continue
            self.freeze(self.label(tensor), reason)
            if (found := self.weight(tensor)) is not None and tensor.dim() > 1:
                self._freeze_tensor(found[0], tensor, reason, flipped=found[1])

    def _freeze_tensor(self, name: str, tensor: Tensor, reason: Reason, *, flipped: bool) -> None:
        shape = tuple(reversed(tensor.shape)) if flipped else tuple(tensor.shape)
        for dim, size in enumerate(shape):
            known = self.recording.axes.get((name, dim))
            axis = known or self.axis(name, dim, size, Role.SIDE)
            self.freeze(torch.from_numpy(axis.nodes), reason)

    def finish(self, outputs: Any) -> None:
        """The network's outputs stay as wide as they are."""
        for tensor in tree_leaves(outputs):
            if isinstance(tensor, Tensor):
                self.freeze(self.label(tensor), Reason("an output of the network", natural=True))


def _onto_meta(value: Any) -> Any:
    """Constants that the network's code makes elsewhere join it on the meta device."""
    return value.to("meta") if isinstance(value, Tensor) and value.device.type != "meta" and value.dim() else value


def _normalised(args: tuple[Any, ...]) -> tuple[Tensor, Tensor, Tensor]:
    """What batch-norm returns on the meta device, where PyTorch's own takes a third of a recording's time.

    The lengths of its vectors are checked before: `torch.batch_norm` does so on every device.
    """
    x = args[0]
    return torch.empty_like(x), x.new_empty(0), x.new_empty(0)
