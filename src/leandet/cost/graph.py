"""A network as the graph that a runtime gets: who makes which tensor, in which module, and of what shape."""

from __future__ import annotations

import ast
import dataclasses
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from math import prod

import onnx
from onnx import helper
from torch import Tensor, nn

from leandet.exporter import exported
from leandet.nets.mode import untouched

SCOPES = "pkg.torch.onnx.name_scopes"  # where PyTorch's exporter writes the modules that a node came from


def to_onnx(module: nn.Module, example_input: Tensor) -> onnx.ModelProto:
    """The ONNX graph of a module in evaluation mode, every size fixed; the module is left as it was.

    Raises:
        UserError: if PyTorch returns no graph.
    """
    with untouched(module):
        return exported(module, example_input)


def with_batch(model: onnx.ModelProto, batch: int) -> onnx.ModelProto:
    """A copy of a graph with a free batch, its first input's batch fixed and its shapes inferred anew."""
    fixed = onnx.ModelProto()
    fixed.CopyFrom(model)
    for value in fixed.graph.input[:1]:
        value.type.tensor_type.shape.dim[0].dim_value = batch
    del fixed.graph.value_info[:]
    for value in fixed.graph.output:  # their shapes still speak of a free batch
        value.type.tensor_type.ClearField("shape")
    return onnx.shape_inference.infer_shapes(fixed, data_prop=True)


@dataclass(frozen=True, slots=True)
class Node:
    """One operation of the graph.

    Attributes:
        name: unique in the graph.
        op: ONNX's operator.
        inputs, outputs: names of tensors, empty ones left out.
        scope: the innermost module whose code ran, None where the exporter does not say.
        owners: the modules that own its weights.
    """

    name: str
    op: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    scope: str | None
    owners: tuple[str, ...]

    @property
    def modules(self) -> tuple[str, ...]:
        """Scope and owners, each once."""
        scope = () if self.scope is None else (self.scope,)
        return tuple(dict.fromkeys((*scope, *self.owners)))


class Graph:
    """The graph of `model`, indexed.

    Args:
        model: the graph; nodes without a name get one, in place.
    """

    def __init__(self, model: onnx.ModelProto) -> None:
        self.model = model
        graph = model.graph
        for index, proto in enumerate(graph.node):
            proto.name = proto.name or f"{proto.op_type}_{index}"
        values = [*graph.value_info, *graph.input, *graph.output]
        self.weights = {tensor.name: tuple(tensor.dims) for tensor in graph.initializer}
        self._shapes = {v.name: _shape(v) for v in values}
        kinds = {v.name: v.type.tensor_type.elem_type for v in values}
        kinds |= {tensor.name: tensor.data_type for tensor in graph.initializer}
        self._widths = {name: helper.tensor_dtype_to_np_dtype(kind).itemsize for name, kind in kinds.items() if kind}
        self.nodes = {proto.name: self._node(proto) for proto in graph.node}
        self.consumers: dict[str, list[Node]] = {}
        for node in self.nodes.values():
            for name in node.inputs:
                self.consumers.setdefault(name, []).append(node)
        self._place_strays()
        self.producer = {name: node for node in self.nodes.values() for name in node.outputs}
        self.inputs = tuple(v.name for v in graph.input if v.name not in self.weights)
        self.outputs = frozenset(v.name for v in graph.output)

    def _node(self, proto: onnx.NodeProto) -> Node:
        inputs = tuple(name for name in proto.input if name)
        scopes = next((p.value for p in proto.metadata_props if p.key == SCOPES), "")
        owners = tuple(name.rpartition(".")[0] for name in inputs if name in self.weights and "." in name)
        outputs = tuple(name for name in proto.output if name)
        return Node(proto.name, proto.op_type, inputs, outputs, _module_of_scopes(scopes), tuple(dict.fromkeys(owners)))

    def _place_strays(self) -> None:
        """Nodes that the exporter itself made, such as a Split: they belong to the module in which their users are."""
        for node in reversed(self.nodes.values()):
            if node.modules:
                continue
            users = [u for name in node.outputs for u in self.consumers.get(name, []) if u.modules]
            scopes = [u.scope if u.scope is not None else u.owners[0] for u in users]
            if scopes:
                self.nodes[node.name] = dataclasses.replace(node, scope=common(scopes))

    def shape(self, tensor: str) -> tuple[int, ...]:
        """The shape of a tensor; () where the graph does not say."""
        return self.weights.get(tensor) or self._shapes.get(tensor, ())

    def bytes_of(self, tensor: str) -> int:
        """What a tensor takes in memory; 0 where the graph does not say its shape, as float32 where not its type."""
        shape = self.shape(tensor)
        return self._widths.get(tensor, 4) * prod(shape) if shape else 0

    def traffic(self, names: Iterable[str]) -> int:
        """Bytes that a fused group of nodes must read and write: what it shares with the others, and its weights."""
        inside = [self.nodes[name] for name in names]
        made = {tensor for node in inside for tensor in node.outputs}
        read = {tensor for node in inside for tensor in node.inputs} - made
        members = set(names)
        written = {
            t for t in made if t in self.outputs or any(user.name not in members for user in self.consumers.get(t, []))
        }
        return sum(self.bytes_of(tensor) for tensor in read | written)


def _shape(value: onnx.ValueInfoProto) -> tuple[int, ...]:
    dims = value.type.tensor_type.shape.dim
    return tuple(d.dim_value for d in dims) if all(d.HasField("dim_value") for d in dims) else ()


def common(modules: Sequence[str]) -> str:
    """The innermost module that holds all of them; "" for the whole network."""
    shared = []
    for names in zip(*(module.split(".") for module in modules), strict=False):
        if len(set(names)) > 1:
            break
        shared.append(names[0])
    return ".".join(shared)


def _module_of_scopes(text: str) -> str | None:
    """`['', 'features', 'features.0', 'relu']`, the last of which is the operation itself -> `features.0`."""
    try:
        scopes = ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return None
    return str(scopes[-2]) if isinstance(scopes, list) and len(scopes) > 1 else None
