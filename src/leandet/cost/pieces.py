"""A network in pieces that a runtime computes each by itself: what the table of measured times has entries of.

A piece is one computing operation (convolution, pooling, product) with the element-wise ones that follow it, which
runtimes fuse, or a run of operations that only move data. Its text says all that its time depends on: operators,
attributes, sizes, and which of its neighbours compute (their data lie in the runtime's blocked layout).
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from leandet.cost.flow import Constant, Flow, Operand, Operation, Shape, Value, Weight

COMPUTING = frozenset({"Conv", "Gemm", "MatMul", "MaxPool", "AveragePool", "ReduceMean", "Resize"})
POINTWISE = frozenset(
    {"Relu", "Clip", "HardSwish", "HardSigmoid", "Sigmoid", "Tanh", "Softplus", "Exp", "LeakyRelu"}
    | {"Add", "Sub", "Mul", "Div", "BatchNormalization"}
)


@dataclass(frozen=True, slots=True)
class Port:
    """A value that crosses a piece's border.

    Attributes:
        number: within the piece.
        shape: its shape.
        computed: whether its data are maps in the layout in which the runtime computes: a computing piece is on either
            side, and it is not the network's input.
        integer: whether it holds whole numbers.
    """

    number: int
    shape: Shape
    computed: bool
    integer: bool


@dataclass(frozen=True, slots=True)
class Piece:
    """Operations whose values are numbered within the piece, its inputs first.

    Attributes:
        operations: in order.
        inputs, outputs: what it reads from other pieces and what they, or the network's answer, read of it.
        computes: whether it begins with a computing operation.
    """

    operations: tuple[Operation, ...]
    inputs: tuple[Port, ...]
    outputs: tuple[Port, ...]
    computes: bool

    @property
    def text(self) -> str:
        """Everything about it, in one line of JSON: equal texts, equal pieces."""
        return json.dumps(
            {
                "operations": [
                    [o.op, [_written(i) for i in o.inputs], list(o.outputs), dict(o.attributes)]
                    for o in self.operations
                ],
                "inputs": [_port(port) for port in self.inputs],
                "outputs": [_port(port) for port in self.outputs],
                "computes": self.computes,
            },
            separators=(",", ":"),
        )

    @classmethod
    def parse(cls, text: str) -> Piece:
        """Read what `text` wrote."""
        found = json.loads(text)
        operations = tuple(
            Operation(op, tuple(_read(i) for i in inputs), tuple(outputs), tuple(sorted(_tuples(attributes).items())))
            for op, inputs, outputs, attributes in found["operations"]
        )
        ports = [tuple(Port(n, tuple(s), c, i) for n, s, c, i in found[side]) for side in ("inputs", "outputs")]
        return cls(operations, ports[0], ports[1], found["computes"])


def _written(operand: Operand) -> list[Any]:
    match operand:
        case Value(number):
            return ["value", number]
        case Weight(shape):
            return ["weight", list(shape)]
        case Constant(numbers):
            return ["constant", list(numbers)]


def _read(written: list[Any]) -> Operand:
    kind, content = written
    if kind == "value":
        return Value(content)
    return Weight(tuple(content)) if kind == "weight" else Constant(tuple(content))


def _port(port: Port) -> list[Any]:
    return [port.number, list(port.shape), port.computed, port.integer]


def _tuples(attributes: dict[str, Any]) -> dict[str, Any]:
    return {name: tuple(value) if isinstance(value, list) else value for name, value in attributes.items()}


@dataclass(frozen=True, slots=True)
class Placed:
    """A piece in its network.

    Attributes:
        piece: it.
        reads: the network's number of the value at each of its inputs.
        modules: in which each of its operations runs.
        makes: the network's number of the value at each of its outputs.
    """

    piece: Piece
    reads: tuple[int, ...]
    modules: tuple[str, ...]
    makes: tuple[int, ...] = ()


@dataclass(slots=True)
class _Draft:
    computes: bool
    operations: list[Operation] = field(default_factory=list)
    modules: list[str] = field(default_factory=list)


def pieces(flow: Flow) -> tuple[Placed, ...]:
    """Cut a network into pieces, in the order in which they begin."""
    uses = Counter(n for o in flow.operations for n in _reads(o)) + Counter(flow.outputs)
    drafts: list[_Draft] = []
    home: dict[int, _Draft] = {}
    last: _Draft | None = None
    for operation, module in zip(flow.operations, flow.modules, strict=True):
        draft = _draft_for(operation, uses, home, last)
        if draft is None:
            draft = _Draft(operation.op in COMPUTING)
            drafts.append(draft)
        draft.operations.append(operation)
        draft.modules.append(module)
        home.update(dict.fromkeys(operation.outputs, draft))
        last = draft
    return tuple(_placed(draft, flow, home) for draft in drafts)


def _reads(operation: Operation) -> list[int]:
    return [operand.number for operand in operation.inputs if isinstance(operand, Value)]


def _draft_for(operation: Operation, uses: Counter[int], home: dict[int, _Draft], last: _Draft | None) -> _Draft | None:
    """The draft that an operation joins; None where it begins one."""
    if operation.op in COMPUTING:
        return None
    if operation.op in POINTWISE and (read := [n for n in _reads(operation) if n in home]):
        latest = max(read)
        if home[latest].computes and uses[latest] == 1:
            return home[latest]
    return last if last is not None and not last.computes else None


def _placed(draft: _Draft, flow: Flow, home: dict[int, _Draft]) -> Placed:
    made = {n for o in draft.operations for n in o.outputs}
    reads = tuple(dict.fromkeys(n for o in draft.operations for n in _reads(o) if n not in made))
    own = {n: i for i, n in enumerate((*reads, *(n for o in draft.operations for n in o.outputs)))}
    users: dict[int, list[_Draft]] = {}
    for other in flow.operations:
        for n in _reads(other):
            if n in made and home[other.outputs[0]] is not draft:
                users.setdefault(n, []).append(home[other.outputs[0]])
    ends = dict.fromkeys(n for n in made if n in flow.outputs or n in users)
    operations = tuple(
        Operation(
            o.op,
            tuple(Value(own[i.number]) if isinstance(i, Value) else i for i in o.inputs),
            tuple(own[n] for n in o.outputs),
            o.attributes,
        )
        for o in draft.operations
    )

    def port(number: int, others: Iterable[_Draft]) -> Port:
        maps = len(flow.shapes[number]) == 4 and number not in flow.integer
        computed = maps and any(other.computes for other in others)
        return Port(own[number], flow.shapes[number], computed, number in flow.integer)

    return Placed(
        Piece(
            operations,
            tuple(port(n, [home[n], draft] if n in home else []) for n in reads),
            tuple(port(n, users.get(n, [])) for n in sorted(ends)),
            draft.computes,
        ),
        reads,
        tuple(draft.modules),
        tuple(sorted(ends)),
    )
