"""What a network costs on paper: parameters, multiply-adds, activations and memory access, operation by operation."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from enum import StrEnum
from math import prod
from typing import Any

import torch
from torch import Tensor, nn
from torch._ops import OpOverload
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from leandet.nets.mode import untouched

FLOAT_BYTES = 4  # memory access is counted as if every element were float32
aten = torch.ops.aten


class Kind(StrEnum):
    """What an operation is; the value is its name in tables."""

    CONV = "conv"
    POINTWISE = "1x1 conv"
    DEPTHWISE = "depthwise conv"
    GROUPED = "group conv"
    LINEAR = "linear"
    MATMUL = "matrix product"
    NORM = "batch norm"
    POOL = "pooling"
    ELEMENTWISE = "element-wise"
    CONCAT = "concat"
    REDUCE = "reduction"
    RESIZE = "resize"
    COPY = "copy"
    OTHER = "other"


LEARNT = frozenset({Kind.CONV, Kind.POINTWISE, Kind.DEPTHWISE, Kind.GROUPED, Kind.LINEAR})


@dataclass(frozen=True, slots=True)
class Row:
    """One operation.

    Attributes:
        module: dotted name of the innermost module that ran it, "" for the whole.
        kind: what it is.
        output: shape of its output.
        parameters: parameters of that module itself, given to the first operation that it runs.
        multiply_adds: of convolutions, linear layers and matrix products, else 0.
        activations: output elements of convolutions and linear layers, else 0.
        memory_access_bytes: float32 reads of inputs and weights plus writes of the output.
    """

    module: str
    kind: Kind
    output: tuple[int, ...]
    parameters: int
    multiply_adds: int
    activations: int
    memory_access_bytes: int


@dataclass(frozen=True, slots=True)
class Cost:
    """A network's cost for one input.

    Attributes:
        rows: the operations in the order in which they ran.
        parameters: of the network, shared ones once.
    """

    rows: tuple[Row, ...]
    parameters: int

    @property
    def multiply_adds(self) -> int:
        """Sum over the rows."""
        return sum(row.multiply_adds for row in self.rows)

    @property
    def activations(self) -> int:
        """Sum over the rows."""
        return sum(row.activations for row in self.rows)

    @property
    def memory_access_bytes(self) -> int:
        """Sum over the rows."""
        return sum(row.memory_access_bytes for row in self.rows)


def count(module: nn.Module, example_input: Tensor | tuple[Tensor, ...]) -> Cost:
    """Run a network once in eval mode and count every operation that it makes.

    Counted as follows.

    - Multiply-adds: convolutions, linear layers and matrix products, half of what `torch.utils.flop_counter` says (a
      bias, a batch-norm or a ReLU counts nothing). This is torchvision's own convention.
    - Activations: output elements of convolutions and linear layers (Radosavovic et al., arXiv 2003.13678, section 3).
    - Memory access: elements read (inputs, weights, biases, batch-norm's four vectors) and written, times 4 bytes, each
      operation by itself as if nothing stayed in a cache (ShuffleNet V2, arXiv 1807.11164, section 2, guideline 1). A
      broadcast tensor is read once; views (reshape, chunk, transpose) move nothing until something copies them, as a
      channel shuffle does. Batch-norm counts as an operation: a runtime folds it away, so fold it first to count that.

    The module is left as it was: modes are restored, no gradient is made, no running statistic moves. Both the module
    and the input may be on the meta device, where nothing is computed.

    Args:
        module: any module; whatever its forward calls in PyTorch is seen.
        example_input: its argument or arguments; its batch size is counted too.

    Returns:
        The rows and their sums.
    """
    inputs = example_input if isinstance(example_input, tuple) else (example_input,)
    counter = Counter()
    with untouched(module), counter.following(module), counter:
        module(*inputs)
    return Cost(tuple(counter.rows), sum(p.numel() for p in module.parameters()))


@dataclass
class _Frame:
    """A module that is running, and its parameters that no row has yet."""

    name: str
    parameters: int
    linear: bool = False  # whether its matrix product is a linear layer's: one without bias is no other operation


class Counter(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Sees every ATen operation, and knows by hooks which module is running."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.rows: list[Row] = []
        self.stack: list[_Frame] = []

    @contextmanager
    def following(self, module: nn.Module) -> Iterator[None]:
        """Keep `stack` in step with the modules that run."""
        seen: set[nn.Module] = set()

        def enter(name: str) -> Callable[[nn.Module, Any], None]:
            def hook(part: nn.Module, _: object) -> None:
                first = part not in seen
                seen.add(part)
                own = sum(p.numel() for p in part.parameters(recurse=False)) if first else 0
                self.stack.append(_Frame(name, own, isinstance(part, nn.Linear)))

            return hook

        def leave(*_: object) -> None:
            self.stack.pop()

        handles = []
        for name, part in module.named_modules():
            handles.append(part.register_forward_pre_hook(enter(name)))
            handles.append(part.register_forward_hook(leave, always_call=True))
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def __torch_dispatch__(
        self,
        func: OpOverload,
        types: Iterable[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> object:
        """Run the operation and write its row."""
        kwargs = kwargs or {}
        result = self.run(func, args, kwargs)
        if not _moves_nothing(func):
            self._record(func, args, kwargs, result)
        return result

    def run(self, func: OpOverload, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> object:
        """Run one operation."""
        return func(*args, **kwargs)

    def _record(self, func: OpOverload, args: tuple[Any, ...], kwargs: Mapping[str, Any], result: object) -> None:
        kind = _kind(func, args)
        outputs = list(_tensors(result))
        inputs = list(_tensors((args, tuple(kwargs.values()))))
        if not outputs:
            return
        if kind in {Kind.NORM, Kind.POOL}:
            outputs = outputs[:1]  # the others (indices, saved statistics) serve training only
        frame = self.stack[-1] if self.stack else _Frame("", 0)
        if frame.linear and kind is Kind.MATMUL:
            kind = Kind.LINEAR
        parameters, frame.parameters = frame.parameters, 0
        formula = flop_registry.get(func.overloadpacket)
        self.rows.append(
            Row(
                module=frame.name,
                kind=kind,
                output=tuple(outputs[0].shape),
                parameters=parameters,
                multiply_adds=formula(*args, **kwargs, out_val=result) // 2 if formula else 0,
                activations=outputs[0].numel() if kind in LEARNT else 0,
                memory_access_bytes=FLOAT_BYTES * sum(_stored(t) for t in inputs + outputs),
            )
        )


def _tensors(value: object) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, tuple | list):
        for item in value:
            yield from _tensors(item)


def _stored(tensor: Tensor) -> int:
    """Elements that lie in memory: a broadcast axis repeats what is there."""
    return prod(size if step else 1 for size, step in zip(tensor.shape, tensor.stride(), strict=True))


def _moves_nothing(func: OpOverload) -> bool:
    """Whether an operation only looks at its input in another way, or only allocates."""
    if func.overloadpacket in {aten._unsafe_view, aten._reshape_alias, aten.empty, aten.empty_like, aten.new_empty}:
        return True
    aliases = [r.alias_info for r in func._schema.returns]
    return bool(aliases) and all(a is not None and not a.is_write for a in aliases)


_KINDS: dict[Any, Kind] = {
    aten.addmm: Kind.LINEAR,
    aten.linear: Kind.LINEAR,
    aten.mm: Kind.MATMUL,
    aten.bmm: Kind.MATMUL,
    aten.baddbmm: Kind.MATMUL,
    aten.native_batch_norm: Kind.NORM,
    aten._native_batch_norm_legit: Kind.NORM,
    aten._native_batch_norm_legit_no_training: Kind.NORM,
    aten._batch_norm_no_update: Kind.NORM,
    aten.cudnn_batch_norm: Kind.NORM,
    aten.hardswish: Kind.ELEMENTWISE,  # torch does not tag these two pairs as pointwise
    aten.hardswish_: Kind.ELEMENTWISE,
    aten.hardsigmoid: Kind.ELEMENTWISE,
    aten.hardsigmoid_: Kind.ELEMENTWISE,
    aten.cat: Kind.CONCAT,
    aten.clone: Kind.COPY,
    aten._to_copy: Kind.COPY,
    aten.copy_: Kind.COPY,
    aten.mean: Kind.REDUCE,
    aten.sum: Kind.REDUCE,
    aten.amax: Kind.REDUCE,
}


def _kind(func: OpOverload, args: tuple[Any, ...]) -> Kind:
    packet = func.overloadpacket
    if packet in {aten.convolution, aten._convolution}:
        return _kind_of_conv(args)
    if packet in _KINDS:
        return _KINDS[packet]
    name = str(packet)
    if "pool" in name:
        return Kind.POOL
    if "upsample" in name:
        return Kind.RESIZE
    return Kind.ELEMENTWISE if torch.Tag.pointwise in func.tags else Kind.OTHER


def _kind_of_conv(args: tuple[Any, ...]) -> Kind:
    data, weight, groups = args[0], args[1], args[8]
    if groups == data.shape[1] and groups > 1:
        return Kind.DEPTHWISE
    if groups > 1:
        return Kind.GROUPED
    return Kind.POINTWISE if all(side == 1 for side in weight.shape[2:]) else Kind.CONV
