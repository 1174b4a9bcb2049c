"""Many pieces as one ONNX graph, each between stand-ins for its neighbours: a runtime treats it as in a network.

A computing neighbour is a 1x1 convolution from or to few channels: it brings the data in the layout that the runtime
chooses for convolutions, in a cache, and is not counted.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper

from leandet.cost.flow import Constant, Operand, Shape, Value, Weight
from leandet.cost.pieces import Piece, Port

FEW = 4  # channels that a stand-in reads
SOME = 16  # channels that a stand-in writes
OPSET, IR = 20, 10
FLOATS = frozenset({"Clip", "Resize", "Add", "Sub", "Mul", "Div"})  # whose constants are floats
SCALARS = frozenset({"Clip", "Add", "Sub", "Mul", "Div"})


class GraphOfPieces:
    """The graph, `model`.

    Nodes are named after their piece: own ones `p3n0`, stand-ins `p3i0` before, `p3o0` after.
    """

    def __init__(self, pieces: Sequence[Piece]) -> None:
        self._random = np.random.default_rng(0)
        self._nodes: list[onnx.NodeProto] = []
        self._weights: list[onnx.TensorProto] = []
        self._inputs: dict[str, onnx.ValueInfoProto] = {}
        self._outputs: list[onnx.ValueInfoProto] = []
        for index, piece in enumerate(pieces):
            self._add(f"p{index}", piece)
        graph = helper.make_graph(self._nodes, "pieces", list(self._inputs.values()), self._outputs, self._weights)
        self.model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR)

    def _add(self, name: str, piece: Piece) -> None:
        first = {operand.number for operand in piece.operations[0].inputs if isinstance(operand, Value)}
        for place, port in enumerate(piece.inputs):
            if port.computed:
                self._maker(f"{name}i{place}", f"{name}v{port.number}", port.shape)
                if piece.computes and port.number not in first:  # a residual has another reader in a network too
                    self._reader(f"{name}r{place}", f"{name}v{port.number}", port.shape)
            else:
                self._input(f"{name}v{port.number}", port)
        for place, operation in enumerate(piece.operations):
            attributes: dict[str, Any] = {k: list(v) if isinstance(v, tuple) else v for k, v in operation.attributes}
            node = helper.make_node(
                operation.op,
                [self._operand(f"{name}n{place}_{i}", name, operation.op, o) for i, o in enumerate(operation.inputs)],
                [f"{name}v{number}" for number in operation.outputs],
                name=f"{name}n{place}",
                **attributes,
            )
            self._nodes.append(node)
        for place, port in enumerate(piece.outputs):
            if port.computed or (piece.computes and len(port.shape) == 4):
                self._reader(f"{name}o{place}", f"{name}v{port.number}", port.shape)
            elif len(port.shape) == 4 and not port.integer:
                self._end(f"{name}q{place}", "ReduceMean", f"{name}v{port.number}", (1, 1, 1, 1))
            else:
                self._outputs.append(_info(f"{name}v{port.number}", port.shape, integer=port.integer))

    def _operand(self, weight: str, name: str, op: str, operand: Operand) -> str:
        match operand:
            case Value(number):
                return f"{name}v{number}"
            case Weight(shape):
                self._weight(weight, shape)
            case Constant(()):
                return ""
            case Constant(numbers):
                kind = np.float32 if op in FLOATS else np.int64
                array = np.array(numbers[0] if op in SCALARS else numbers, kind)
                self._weights.append(numpy_helper.from_array(array, weight))
        return weight

    def _weight(self, name: str, shape: Shape) -> None:
        """Positive and small, so that nothing overflows, dies or becomes denormal on its way."""
        scale = 1 / max(1, prod(shape[1:]))
        values = self._random.uniform(0.5 * scale, 1.5 * scale, shape).astype(np.float32)
        self._weights.append(numpy_helper.from_array(values, name))

    def _input(self, name: str, port: Port) -> None:
        self._inputs[name] = _info(name, port.shape, integer=port.integer)

    def _maker(self, name: str, tensor: str, shape: Shape) -> None:
        batch, channels, *sides = shape
        source = f"maps_{batch}_{'_'.join(map(str, sides))}"
        self._inputs[source] = _info(source, (batch, FEW, *sides), integer=False)
        self._weight(f"{name}w", (channels, FEW, 1, 1))
        self._nodes.append(helper.make_node("Conv", [source, f"{name}w"], [tensor], name=name, kernel_shape=[1, 1]))

    def _reader(self, name: str, tensor: str, shape: Shape) -> None:
        self._weight(f"{name}w", (SOME, shape[1], 1, 1))
        self._nodes.append(helper.make_node("Conv", [tensor, f"{name}w"], [f"{name}v"], name=name, kernel_shape=[1, 1]))
        self._end(f"{name}q0", "GlobalAveragePool", f"{name}v", (shape[0], SOME, 1, 1))

    def _end(self, name: str, op: str, tensor: str, shape: Shape) -> None:
        """Shrink a result to an output that costs nothing to hand over."""
        self._nodes.append(helper.make_node(op, [tensor], [f"{name}v"], name=name))
        self._outputs.append(_info(f"{name}v", shape, integer=False))


def _info(name: str, shape: Shape, *, integer: bool) -> onnx.ValueInfoProto:
    kind = onnx.TensorProto.UINT8 if integer and len(shape) == 4 else onnx.TensorProto.FLOAT
    if integer and len(shape) != 4:
        kind = onnx.TensorProto.INT64
    return helper.make_tensor_value_info(name, kind, shape)
