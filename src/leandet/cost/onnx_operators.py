"""Which ONNX operators stand for an operation of PyTorch's: one writer for each, and the notes that they write in."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from leandet.cost.flow import Attribute, Constant, Operand, Operation, Shape, Value, Weight
from leandet.errors import UserError

aten = torch.ops.aten


class Notes:
    """The operators written down so far, and which tensor is which of their values.

    Attributes:
        operations: in the order in which they run.
        modules: the innermost module in which each runs.
        shapes: of each value.
        integer: values that hold whole numbers.
        module: the innermost module that runs now.
    """

    def __init__(self) -> None:
        self.operations: list[Operation] = []
        self.modules: list[str] = []
        self.shapes: dict[int, Shape] = {}
        self.integer: set[int] = set()
        self.module = ""
        self._values: dict[int, Value] = {}
        self._alive: list[Tensor] = []  # an identity is only good while its tensor lives

    def value(self, tensor: Tensor) -> Value:
        """A new value that is this tensor."""
        made = Value(len(self.shapes))
        self.shapes[made.number] = tuple(tensor.shape)
        if not tensor.is_floating_point():
            self.integer.add(made.number)
        self.same(tensor, made)
        return made

    def same(self, tensor: Tensor, operand: Operand) -> None:
        """Note that a tensor is a value; one that is a weight needs no note."""
        if isinstance(operand, Value):
            self._values[id(tensor)] = operand
            self._alive.append(tensor)

    def operand(self, tensor: object) -> Operand:
        """What a tensor or number is to an operator."""
        if isinstance(tensor, Tensor):
            return self._values.get(id(tensor), Weight(tuple(tensor.shape)))
        return Constant((float(tensor),))  # type: ignore[arg-type]

    def add(
        self, op: str, inputs: Sequence[Operand], results: Tensor | Sequence[Tensor], **attributes: Attribute
    ) -> None:
        """Write down an operator and the tensors that it makes."""
        made = [results] if isinstance(results, Tensor) else list(results)
        numbers = tuple(self.value(tensor).number for tensor in made)
        self.operations.append(Operation(op, tuple(inputs), numbers, tuple(sorted(attributes.items()))))
        self.modules.append(self.module)

    def maker(self, operand: Operand) -> Operation | None:
        """The operation that made a value."""
        if not isinstance(operand, Value):
            return None
        return next((o for o in reversed(self.operations) if operand.number in o.outputs), None)

    def knows(self, tensor: Tensor) -> bool:
        """Whether a tensor depends on the input."""
        return id(tensor) in self._values


Writer = Callable[[Notes, tuple[Any, ...], dict[str, Any], Any], None]


def _simple(op: str, reads: int = 1, **attributes: Attribute) -> Writer:
    """An operator of the first so many arguments."""

    def write(to: Notes, args: tuple[Any, ...], _: dict[str, Any], result: Any) -> None:
        to.add(op, [to.operand(arg) for arg in args[:reads]], result, **attributes)

    return write


def _same(to: Notes, args: tuple[Any, ...], _: dict[str, Any], result: Any) -> None:
    to.same(result, to.operand(args[0]))


def _ignored(to: Notes, args: tuple[Any, ...], _: dict[str, Any], result: Any) -> None:
    """Nothing that the answer depends on."""


def _both(numbers: Any) -> tuple[int, int]:
    pair = [int(n) for n in numbers] if isinstance(numbers, list | tuple) else [int(numbers)]
    return (pair[0], pair[-1])


def _pads(padding: Any) -> tuple[int, ...]:
    return _both(padding) * 2


def _conv(to: Notes, args: tuple[Any, ...], _: dict[str, Any], result: Any) -> None:
    data, weight, bias, stride, padding, dilation, transposed, _, groups = args
    if transposed:
        raise UserError("the latency of a transposed convolution cannot be predicted yet: measure the network.")
    inputs = [to.operand(data), Weight(tuple(weight.shape)), *([Weight(tuple(bias.shape))] if bias is not None else [])]
    to.add(
        "Conv",
        inputs,
        result,
        kernel_shape=tuple(weight.shape[2:]),
        strides=_both(stride),
        pads=_pads(padding),
        dilations=_both(dilation),
        group=groups,
    )


def _norm(to: Notes, args: tuple[Any, ...], _: dict[str, Any], result: Any) -> None:
    """Folded into the convolution before it, else an operation of its own."""
    data, channels = to.operand(args[0]), Weight((args[0].shape[1],))
    before = to.maker(data)
    if before is None or before.op != "Conv":
        to.add("BatchNormalization", [data, *[channels] * 4], result[0])
        return
    place = to.operations.index(before)
    to.operations[place] = Operation("Conv", (*before.inputs[:2], channels), before.outputs, before.attributes)
    to.same(result[0], data)


def _clip(low: int, high: int) -> Writer:
    def write(to: Notes, args: tuple[Any, ...], _: dict[str, Any], result: Any) -> None:
        limits = [Constant((float(args[i]),)) for i in (low, high) if i < len(args) and args[i] is not None]
        to.add("Clip", [to.operand(args[0]), *limits], result)

    return write


def _hardtanh(to: Notes, args: tuple[Any, ...], _: dict[str, Any], result: Any) -> None:
    low, high = args[1:3] if len(args) > 2 else (-1.0, 1.0)
    to.add("Clip", [to.operand(args[0]), Constant((float(low),)), Constant((float(high),))], result)


def _silu(to: Notes, args: tuple[Any, ...], _: dict[str, Any], result: Any) -> None:
    gate = torch.empty_like(result)
    to.add("Sigmoid", [to.operand(args[0])], gate)
    to.add("Mul", [to.operand(args[0]), to.operand(gate)], result)


def _reshape(to: Notes, args: tuple[Any, ...], _: dict[str, Any], result: Any) -> None:
    to.add("Reshape", [to.operand(args[0]), Constant(tuple(result.shape))], result)


def _transpose(to: Notes, args: tuple[Any, ...], _: dict[str, Any], result: Any) -> None:
    order = list(range(result.dim()))
    first, second = args[1] % result.dim(), args[2] % result.dim()
    order[first], order[second] = second, first
    to.add("Transpose", [to.operand(args[0])], result, perm=tuple(order))


def _permute(to: Notes, args: tuple[Any, ...], _: dict[str, Any], result: Any) -> None:
    to.add("Transpose", [to.operand(args[0])], result, perm=tuple(dim % result.dim() for dim in args[1]))


def filled(args: tuple[Any, ...], *defaults: Any) -> tuple[Any, ...]:
    """An operator's arguments, those left out at the end as its schema has them."""
    return (*args, *defaults[len(args) :])


def _cat(to: Notes, args: tuple[Any, ...], _: dict[str, Any], result: Any) -> None:
    dim = args[1] if len(args) > 1 else 0
    to.add("Concat", [to.operand(tensor) for tensor in args[0]], result, axis=dim % result.dim())


def _split(to: Notes, args: tuple[Any, ...], named: dict[str, Any], result: Any) -> None:
    dim = (args[2] if len(args) > 2 else named.get("dim", 0)) % args[0].dim()
    sizes = Constant(tuple(part.shape[dim] for part in result))
    to.add("Split", [to.operand(args[0]), sizes], result, axis=dim)


def _slice(to: Notes, args: tuple[Any, ...], _: dict[str, Any], result: Any) -> None:
    data, dim, start, _end, step = filled(args, None, 0, None, None, 1)
    if result.shape == data.shape:
        to.same(result, to.operand(data))
        return
    length = data.shape[dim]
    first = 0 if start is None else min(max(start + (length if start < 0 else 0), 0), length)
    last = first + result.shape[dim] * step
    numbers = [Constant((n,)) for n in (first, last, dim % data.dim(), step)]
    to.add("Slice", [to.operand(data), *numbers], result)


def _expand(to: Notes, args: tuple[Any, ...], _: dict[str, Any], result: Any) -> None:
    to.add("Expand", [to.operand(args[0]), Constant(tuple(result.shape))], result)


def _mean(to: Notes, args: tuple[Any, ...], _: dict[str, Any], result: Any) -> None:
    keep = bool(args[2]) if len(args) > 2 else False
    axes = Constant(tuple(dim % args[0].dim() for dim in args[1]))
    to.add("ReduceMean", [to.operand(args[0]), axes], result, keepdims=int(keep))


def _max(to: Notes, args: tuple[Any, ...], _: dict[str, Any], result: Any) -> None:
    dim, keep = args[1] % args[0].dim(), int(args[2]) if len(args) > 2 else 0
    to.add("ReduceMax", [to.operand(args[0]), Constant((dim,))], result[0], keepdims=keep)
    to.add("ArgMax", [to.operand(args[0])], result[1], axis=dim, keepdims=keep)


def _highest(to: Notes, args: tuple[Any, ...], _: dict[str, Any], result: Any) -> None:
    dims = args[1] if len(args) > 1 and args[1] else range(args[0].dim())
    keep = int(args[2]) if len(args) > 2 else 0
    axes = Constant(tuple(dim % args[0].dim() for dim in dims))
    to.add("ReduceMax", [to.operand(args[0]), axes], result, keepdims=keep)


def _which(to: Notes, args: tuple[Any, ...], _: dict[str, Any], result: Any) -> None:
    dim, keep = args[1] % args[0].dim(), int(args[2]) if len(args) > 2 else 0
    to.add("ArgMax", [to.operand(args[0])], result, axis=dim, keepdims=keep)


def _max_pool(to: Notes, args: tuple[Any, ...], _: dict[str, Any], result: Any) -> None:
    data, kernel, stride, padding, _dilation, ceil = filled(args, None, None, [], 0, 1, False)
    to.add(
        "MaxPool",
        [to.operand(data)],
        result[0],
        kernel_shape=_both(kernel),
        strides=_both(stride or kernel),
        pads=_pads(padding),
        ceil_mode=int(ceil),
    )


def _avg_pool(to: Notes, args: tuple[Any, ...], _: dict[str, Any], result: Any) -> None:
    data, kernel, stride, padding, ceil, counts_padding = filled(args, None, None, [], 0, False, True)
    to.add(
        "AveragePool",
        [to.operand(data)],
        result,
        kernel_shape=_both(kernel),
        strides=_both(stride or kernel),
        pads=_pads(padding),
        ceil_mode=int(ceil),
        count_include_pad=int(counts_padding),
    )


def _adaptive_pool(to: Notes, args: tuple[Any, ...], _: dict[str, Any], result: Any) -> None:
    sides = [(a, b) for a, b in zip(args[0].shape[2:], result.shape[2:], strict=True)]
    if any(a % b for a, b in sides):
        raise UserError("the latency of an adaptive pooling to no divisor of its input cannot be predicted yet.")
    kernel = tuple(a // b for a, b in sides)
    to.add("AveragePool", [to.operand(args[0])], result, kernel_shape=kernel, strides=kernel)


def _addmm(to: Notes, args: tuple[Any, ...], _: dict[str, Any], result: Any) -> None:
    bias, data, weight = args[:3]
    inputs = [to.operand(data), Weight((weight.shape[1], weight.shape[0])), Weight(tuple(bias.shape))]
    to.add("Gemm", inputs, result, transB=1)


def _nearest(to: Notes, args: tuple[Any, ...], _: dict[str, Any], result: Any) -> None:
    scales = Constant(tuple(float(b) / a for a, b in zip(args[0].shape, result.shape, strict=True)))
    to.add(
        "Resize",
        [to.operand(args[0]), Constant(()), scales],
        result,
        mode="nearest",
        coordinate_transformation_mode="asymmetric",
        nearest_mode="floor",
    )


def _cast(to: Notes, args: tuple[Any, ...], _: dict[str, Any], result: Any) -> None:
    to.add("Cast", [to.operand(args[0])], result, to=1 if result.is_floating_point() else 7)  # ONNX's float, int64


def _topk(to: Notes, args: tuple[Any, ...], _: dict[str, Any], result: Any) -> None:
    axis = (args[2] if len(args) > 2 else -1) % args[0].dim()
    to.add("TopK", [to.operand(args[0]), Constant((int(args[1]),))], list(result), axis=axis)


def _gather(to: Notes, args: tuple[Any, ...], _: dict[str, Any], result: Any) -> None:
    to.add("GatherElements", [to.operand(args[0]), to.operand(args[2])], result, axis=args[1] % args[0].dim())


def _index(to: Notes, args: tuple[Any, ...], _: dict[str, Any], result: Any) -> None:
    """Rows of a table by their numbers."""
    if len(args[1]) != 1:
        raise UserError("the latency of indexing along several axes cannot be predicted yet: measure the network.")
    numbers = args[1][0]
    places = torch.empty_like(numbers[..., None])
    to.add("Reshape", [to.operand(numbers), Constant(tuple(places.shape))], places)
    to.add("GatherND", [to.operand(args[0]), to.operand(places)], result)


WRITERS: dict[Any, Writer] = {
    aten.convolution: _conv,
    aten.native_batch_norm: _norm,
    aten._native_batch_norm_legit_no_training: _norm,
    aten.cudnn_batch_norm: _norm,
    aten.addmm: _addmm,
    aten.mm: _simple("MatMul", 2),
    aten.bmm: _simple("MatMul", 2),
    aten.max_pool2d_with_indices: _max_pool,
    aten.avg_pool2d: _avg_pool,
    aten._adaptive_avg_pool2d: _adaptive_pool,
    aten.mean: _mean,
    aten.upsample_nearest2d: _nearest,
    aten.hardtanh: _hardtanh,
    aten.hardtanh_: _hardtanh,
    aten.clamp: _clip(1, 2),
    aten.clamp_: _clip(1, 2),
    aten.silu: _silu,
    aten.silu_: _silu,
    aten.view: _reshape,
    aten._unsafe_view: _reshape,
    aten.reshape: _reshape,
    aten.unsqueeze: _reshape,
    aten.squeeze: _reshape,
    aten.transpose: _transpose,
    aten.permute: _permute,
    aten.cat: _cat,
    aten.split: _split,
    aten.split_with_sizes: _split,
    aten.slice: _slice,
    aten.expand: _expand,
    aten.clone: _same,
    aten.detach: _same,
    aten._to_copy: _cast,
    aten.max: _max,
    aten.amax: _highest,
    aten.argmax: _which,
    aten.topk: _topk,
    aten.gather: _gather,
    aten.index: _index,
    aten.empty_like: _ignored,
    **{
        packet: _simple(op, reads)
        for op, reads, packets in (
            ("Relu", 1, (aten.relu, aten.relu_)),
            ("HardSwish", 1, (aten.hardswish, aten.hardswish_)),
            ("Sigmoid", 1, (aten.sigmoid, aten.sigmoid_)),
            ("Tanh", 1, (aten.tanh, aten.tanh_)),
            ("Softplus", 1, (aten.softplus,)),
            ("Exp", 1, (aten.exp,)),
            ("LeakyRelu", 1, (aten.leaky_relu, aten.leaky_relu_)),
            ("Add", 2, (aten.add, aten.add_)),
            ("Sub", 2, (aten.sub, aten.sub_)),
            ("Mul", 2, (aten.mul, aten.mul_)),
            ("Div", 2, (aten.div, aten.div_)),
            ("Max", 2, (aten.maximum,)),
            ("Gather", 2, (aten.embedding,)),
        )
        for packet in packets
    },
    **dict.fromkeys((aten.hardsigmoid, aten.hardsigmoid_), _simple("HardSigmoid", alpha=1 / 6)),
}
