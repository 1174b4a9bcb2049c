"""The vocabulary of the run on labels: what each ATen operation does to channels."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import Any

import torch
from torch import Tensor
from torch._ops import OpOverload
from torch.utils._pytree import tree_leaves

from leandet.compress import labels as lab
from leandet.compress.trace import Handler, Reason, Role, Tracer

aten = torch.ops.aten
GATE = Reason("a gate that is repeated over other channels", natural=True)


def convolution(tracer: Tracer, func: OpOverload, args: tuple[Any, ...], _: dict[str, Any], out: Any) -> None:
    """Reads the input's channels and makes new ones; a depthwise one goes along with its input's."""
    x, weight, bias, transposed, groups = *args[:3], args[6], args[8]
    channels, found = lab.along(tracer.label(x), 1), tracer.weight(weight)
    if channels is None or found is None or found[1]:
        tracer.unknown(func, (x, weight, bias), "has an input or a weight that cannot be followed")
        return
    name, inputs, outputs = found[0], x.shape[1], out.shape[1]
    tracer.work(name, prod(x.shape[2:] if transposed else out.shape[2:]) * x.shape[0])
    if tracer.looks and 1 < groups == inputs:
        tracer.recording.depthwise.add(name)
    if name in tracer.recording.depthwise:
        if transposed and outputs != inputs:
            tracer.unknown(func, (x, weight, bias), "with a channel multiplier cannot be followed")
            return
        made = torch.from_numpy(tracer.axis(name, 0, outputs, Role.SIDE).nodes)
        tracer.tie(torch.stack([made, channels.repeat_interleave(outputs // inputs)]), func)
    else:
        reads = tracer.axis(name, 0 if transposed else 1, inputs, Role.IN, groups=groups, per_group=not transposed)
        tracer.tie(torch.stack([torch.from_numpy(reads.nodes), channels]), func)
        makes = tracer.axis(name, 1 if transposed else 0, outputs, Role.OUT, groups=groups, per_group=transposed)
        made = torch.from_numpy(makes.nodes)
    _go_along(tracer, func, made, bias)
    tracer.put(out, made.reshape(1, -1, *(1,) * (out.dim() - 2)).expand(out.shape))


def _go_along(tracer: Tracer, func: OpOverload, channels: Tensor, vector: Tensor | None, fill: float = 0.0) -> None:
    """A vector of one number for each channel is cut with them."""
    if vector is None:
        return
    found = tracer.weight(vector)
    if found is not None and vector.dim() == 1:
        tracer.axis(found[0], 0, len(vector), Role.SIDE, fill=fill)
    tracer.tie(torch.stack([tracer.label(vector).reshape(-1), channels]), func)


def product(tracer: Tracer, func: OpOverload, args: tuple[Any, ...], _: dict[str, Any], out: Any) -> None:
    """A matrix product with a weight is a linear layer; of two activations it cannot be followed."""
    bias, x, weight = args[:3] if func.overloadpacket == aten.addmm else (None, *args[:2])
    found, channels = tracer.weight(weight), lab.along(tracer.label(x), -1)
    if found is None or channels is None or weight.dim() != 2 or (bias is not None and bias.dim() != 1):
        if any(isinstance(t, Tensor) and _followed(tracer, t) for t in (x, weight)):
            tracer.unknown(func, (bias, x, weight), "multiplies channels with channels")
        return
    name, flipped = found
    reads = tracer.axis(name, 1 if flipped else 0, x.shape[-1], Role.IN)
    makes = tracer.axis(name, 0 if flipped else 1, out.shape[-1], Role.OUT)
    tracer.work(name, prod(out.shape[:-1]))
    made = torch.from_numpy(makes.nodes)
    tracer.tie(torch.stack([torch.from_numpy(reads.nodes), channels]), func)
    _go_along(tracer, func, made, bias)
    tracer.put(out, made.expand(out.shape))


def _followed(tracer: Tracer, tensor: Tensor) -> bool:
    return tracer.weight(tensor) is not None or bool((lab.compact(tracer.label(tensor)) != lab.FIXED).any())


def batch_norm(tracer: Tracer, func: OpOverload, args: tuple[Any, ...], _: dict[str, Any], out: Any) -> None:
    """Its four vectors go along with the channels."""
    x, weight, bias, mean, variance = args[:5]
    label, result = tracer.label(x), out[0]
    if (channels := lab.along(label, 1)) is None:
        tracer.unknown(func, args)
        return
    if weight is not None and (found := tracer.weight(weight)) is not None:
        tracer.recording.scales.add(found[0])
    for vector, fill in ((weight, 0.0), (bias, 0.0), (mean, 0.0), (variance, 1.0)):
        _go_along(tracer, func, channels, vector, fill)
    tracer.put(result, label)


def elementwise(tracer: Tracer, func: OpOverload, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any) -> None:
    """Ties the channels of its operands; an operand of one channel that is repeated over many is a gate."""
    operands = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
    if any(tracer.weight(t) is not None and sum(s > 1 for s in t.shape) > 1 for t in operands):
        tracer.unknown(func, operands, "changes a weight")  # computed weights have axes that nobody follows
        return
    label = lab.fixed(())
    for operand in operands:
        merged = lab.merge(label, tracer.label(operand))
        if merged is None:
            tracer.unknown(func, operands, "makes every pair of channels")
            return
        label = merged.label
        tracer.tie(merged.pairs, func)
        if merged.spread is not None:
            tracer.freeze(merged.spread, GATE)
    tracer.visit(label)
    for tensor in tree_leaves(out):
        if isinstance(tensor, Tensor):
            tracer.put(tensor, label.expand(tensor.shape))


def window(tracer: Tracer, func: OpOverload, args: tuple[Any, ...], _: dict[str, Any], out: Any) -> None:
    """Pooling, padding, resizing: each channel of (B, C, ...) by itself."""
    x = args[0]
    channels = lab.along(tracer.label(x), 1) if x.dim() > 2 else None
    first = tree_leaves(out)[0]
    if channels is None or first.shape[1] != x.shape[1]:
        tracer.unknown(func, args)
        return
    tracer.visit(channels)
    for tensor in tree_leaves(out):
        tracer.put(tensor, channels.reshape(1, -1, *(1,) * (x.dim() - 2)).expand(tensor.shape))


def reduction(tracer: Tracer, func: OpOverload, args: tuple[Any, ...], _: dict[str, Any], out: Any) -> None:
    """Mean, sum, maximum, softmax over rows and columns; over channels it depends on all of them."""
    x = args[0]
    chosen = args[1] if len(args) > 1 and args[1] is not None else list(range(x.dim()))
    dims = [d % max(1, x.dim()) for d in ([chosen] if isinstance(chosen, int) else chosen)] or list(range(x.dim()))
    label = tracer.label(x)
    if not all(lab.constant(label, d) for d in dims):
        tracer.unknown(func, args, "mixes the channels")
        return
    tracer.visit(label)
    for d in dims:
        label = label.narrow(d, 0, 1)
    for tensor in tree_leaves(out):
        if not isinstance(tensor, Tensor):
            continue
        kept = label
        if tensor.dim() < x.dim():
            for d in sorted(dims, reverse=True):
                kept = kept.squeeze(d)
        tracer.put(tensor, kept.expand(tensor.shape))


def view(tracer: Tracer, _: OpOverload, args: tuple[Any, ...], __: dict[str, Any], out: Any) -> None:
    """A new shape; where it takes the channel axis apart, the parts stay alike."""
    result = lab.reshape(tracer.label(args[0]), out.shape)
    for label in result.split:
        tracer.join(label)
    tracer.put(out, result.label)


def same(tracer: Tracer, _: OpOverload, args: tuple[Any, ...], __: dict[str, Any], out: Any) -> None:
    """A copy, another number format."""
    tracer.put(out, tracer.label(args[0]).expand(out.shape))


def turn(tracer: Tracer, func: OpOverload, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any) -> None:
    """Axes change places; a weight seen transposed is remembered."""
    found = tracer.weight(args[0])
    if found is not None and args[0].dim() == 2 and out.shape == args[0].shape[::-1] and not found[1]:
        tracer.flip(out, found[0])
    tracer.put(out, func(tracer.label(args[0]), *args[1:], **kwargs))


def piece(tracer: Tracer, func: OpOverload, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any) -> None:
    """Chunk, split, slice, select: where they cut the channel axis, its parts stay alike."""
    label = tracer.label(args[0])
    second = {aten.split, aten.split_with_sizes}  # these two have the axis last
    place = 2 if func.overloadpacket in second else 1
    dim = kwargs.get("dim", args[place] if len(args) > place else 0)
    pieces = func(label, *args[1:], **kwargs)
    outputs = [out] if isinstance(out, Tensor) else out
    if not lab.constant(label, dim) and outputs[0].shape != label.shape:
        tracer.join(lab.compact(label))
    for tensor, found in zip(outputs, [pieces] if isinstance(out, Tensor) else pieces, strict=True):
        tracer.put(tensor, found)


def moved(tracer: Tracer, func: OpOverload, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any) -> None:
    """Whatever else only moves elements."""
    tracer.put(out, func(tracer.label(args[0]), *args[1:], **kwargs))


def shuffled(tracer: Tracer, func: OpOverload, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any) -> None:
    """Pixel and channel shuffles see the channel axis in parts."""
    label = tracer.label(args[0])
    tracer.join(lab.compact(label))
    tracer.put(out, func(label, *args[1:], **kwargs))


def pad(tracer: Tracer, func: OpOverload, args: tuple[Any, ...], _: dict[str, Any], out: Any) -> None:
    """Constant padding: around rows and columns the channels stay; along channels the new ones are FIXED."""
    amounts, rank = args[1], args[0].dim()
    label = tracer.label(args[0])
    kept = [0 if lab.constant(label, rank - 1 - i // 2) else amount for i, amount in enumerate(amounts)]
    tracer.visit(label)
    tracer.put(out, func(lab.compact(label), kept, lab.FIXED).expand(out.shape))


def cat(tracer: Tracer, _: OpOverload, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any) -> None:
    """One after another."""
    dim = kwargs.get("dim", args[1] if len(args) > 1 else 0)
    tracer.put(out, lab.concatenate([tracer.label(t) for t in args[0]], dim, out.shape))


def stack(tracer: Tracer, func: OpOverload, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any) -> None:
    """One after another along a new axis."""
    dim = kwargs.get("dim", args[1] if len(args) > 1 else 0) % out.dim()
    tracer.put(out, lab.concatenate([tracer.label(t).unsqueeze(dim) for t in args[0]], dim, out.shape))


def unknown(tracer: Tracer, func: OpOverload, args: tuple[Any, ...], kwargs: dict[str, Any], _: Any) -> None:
    """Freeze what it touches."""
    tracer.unknown(func, (args, kwargs))


def _table(rows: Sequence[tuple[Handler, str]]) -> dict[Any, Handler]:
    names = [(handler, name) for handler, text in rows for name in text.split()]
    return {getattr(aten, name): handler for handler, name in names if hasattr(aten, name)}


_HANDLERS = _table(
    [
        (convolution, "convolution _convolution"),
        (product, "addmm mm"),
        (
            batch_norm,
            "native_batch_norm _native_batch_norm_legit _native_batch_norm_legit_no_training "
            "_batch_norm_no_update cudnn_batch_norm",
        ),
        (elementwise, "hardswish hardswish_ hardsigmoid hardsigmoid_ hardtanh hardtanh_ copy_ native_dropout"),
        (reduction, "mean sum amax amin var std max min argmax argmin _softmax _log_softmax cumsum logsumexp prod"),
        (view, "view _unsafe_view _reshape_alias reshape"),
        (same, "clone _to_copy detach alias lift_fresh contiguous expand"),
        (turn, "t transpose permute"),
        (piece, "split split_with_sizes chunk slice select unbind narrow"),
        (moved, "unsqueeze squeeze flip"),
        (shuffled, "pixel_shuffle pixel_unshuffle channel_shuffle native_channel_shuffle"),
        (pad, "constant_pad_nd"),
        (cat, "cat"),
        (stack, "stack"),
    ]
)


def find(func: OpOverload) -> Handler:
    """What an operation does to labels."""
    packet = func.overloadpacket
    if (handler := _HANDLERS.get(packet)) is not None:
        return handler
    name = str(packet)
    if any(part in name for part in ("pool", "upsample", "reflection_pad", "replication_pad")):
        return window
    return elementwise if torch.Tag.pointwise in func.tags else unknown
