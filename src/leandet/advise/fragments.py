"""Fragments that could be one (guideline 3): convolutions side by side that read the same and differ in width alone."""

from __future__ import annotations

import dataclasses
import json
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from leandet.cost.flow import Constant, Operation, Value, Weight
from leandet.cost.pieces import Piece, Placed, Port


@dataclass(frozen=True, slots=True)
class Fragments:
    """Convolutions that one convolution can replace without changing what the network computes.

    Attributes:
        placed: the fragments, each with what the runtime fuses behind it.
        merged: all of them as one convolution, and the split of its channels that their readers then need.
    """

    placed: tuple[Placed, ...]
    merged: tuple[Piece, Piece]


def fragments(placed: Sequence[Placed]) -> list[Fragments]:
    """Every set of two or more such convolutions, in the order of their first.

    They have one input, one kernel, stride, padding and dilation, no groups, and the same activations behind them.
    """
    alike: dict[tuple[int, str], list[Placed]] = defaultdict(list)
    for one in placed:
        if (form := _form(one.piece)) is not None:
            alike[one.reads[0], form].append(one)
    return [Fragments(tuple(some), _merged([one.piece for one in some])) for some in alike.values() if len(some) > 1]


def _form(piece: Piece) -> str | None:
    """What fragments must have in common; None for what is no plain convolution of one input."""
    conv, *rest = piece.operations
    plain = conv.op == "Conv" and dict(conv.attributes).get("group", 1) == 1 and isinstance(conv.inputs[1], Weight)
    chained = all(sum(isinstance(i, Value) for i in o.inputs) == 1 for o in piece.operations)
    weightless = not any(isinstance(i, Weight) for o in rest for i in o.inputs)
    if not (plain and chained and weightless and len(piece.inputs) == len(piece.outputs) == 1):
        return None
    steps = [
        [o.op, [str(i) for i in o.inputs if isinstance(i, Constant)], dict(o.attributes)] for o in piece.operations
    ]
    kernel = [list(i.shape[1:]) for i in conv.inputs if isinstance(i, Weight)]
    return json.dumps([steps, kernel])


def _merged(some: Sequence[Piece]) -> tuple[Piece, Piece]:
    widths = tuple(piece.outputs[0].shape[1] for piece in some)
    first, end = some[0], some[0].outputs[0]
    conv, *rest = first.operations
    inputs = tuple(Weight((sum(widths), *i.shape[1:])) if isinstance(i, Weight) else i for i in conv.inputs)
    whole = dataclasses.replace(end, shape=(end.shape[0], sum(widths), *end.shape[2:]), computed=False)
    one = Piece((dataclasses.replace(conv, inputs=inputs), *rest), first.inputs, (whole,), first.computes)
    ports = tuple(Port(n, p.outputs[0].shape, p.outputs[0].computed, False) for n, p in enumerate(some, 1))
    split = Operation("Split", (Value(0), Constant(widths)), tuple(port.number for port in ports), (("axis", 1),))
    return one, Piece((split,), (dataclasses.replace(whole, number=0, computed=True),), ports, False)
