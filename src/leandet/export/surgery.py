"""Reading an ONNX graph and changing it in place."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
import numpy.typing as npt
import onnx
from onnx import numpy_helper


def chain_from(graph: onnx.GraphProto, start: str, kinds: Sequence[str]) -> list[onnx.NodeProto] | None:
    """Nodes of these kinds, each the only reader of the one before; None where the graph goes another way."""
    found: list[onnx.NodeProto] = []
    for kind in kinds:
        readers = readers_of(graph, found[-1].output[0] if found else start)
        if [node.op_type for node in readers] != [kind]:
            return None
        found.append(readers[0])
    return found


def sources_of(graph: onnx.GraphProto, name: str) -> set[str]:
    """Inputs of the node that makes `name`."""
    return {source for node in graph.node if name in node.output for source in node.input}


def readers_of(graph: onnx.GraphProto, name: str) -> list[onnx.NodeProto]:
    """Nodes that read the value `name`."""
    return [node for node in graph.node if name in node.input]


def rename_readers(graph: onnx.GraphProto, old: str, new: str) -> None:
    """Let whatever reads the value `old` read `new`."""
    for node in readers_of(graph, old):
        node.input[:] = [new if name == old else name for name in node.input]


def replace(graph: onnx.GraphProto, old: Sequence[onnx.NodeProto], new: Sequence[onnx.NodeProto]) -> None:
    """Put nodes at the place of the last of others, known by their names."""
    names = {node.name for node in old}
    last = max(index for index, node in enumerate(graph.node) if node.name in names)
    kept = [[node] if node.name not in names else [] for node in graph.node]
    kept[last] = list(new)
    copies = [onnx.NodeProto.FromString(node.SerializeToString()) for nodes in kept for node in nodes]
    del graph.node[:]
    graph.node.extend(copies)


def is_constant(graph: onnx.GraphProto, name: str) -> bool:
    """Whether a value is a constant: a layer may as well compute its weights."""
    return any(tensor.name == name for tensor in graph.initializer)


def constant_of(graph: onnx.GraphProto, name: str) -> npt.NDArray[np.float32]:
    """The constant `name`."""
    tensor = next(tensor for tensor in graph.initializer if tensor.name == name)
    value: npt.NDArray[np.float32] = numpy_helper.to_array(tensor)
    return value


def forget(graph: onnx.GraphProto, names: Iterable[str]) -> None:
    """Constants that nothing reads any longer go: engines warn of them."""
    for name in names:
        if not readers_of(graph, name):
            graph.initializer.remove(next(tensor for tensor in graph.initializer if tensor.name == name))


def store(graph: onnx.GraphProto, name: str, value: npt.NDArray[np.generic]) -> None:
    """Give the constant `name` a value, in place of the one it has."""
    for info in [info for info in graph.value_info if info.name == name]:
        graph.value_info.remove(info)  # its shape may be another now
    tensor = numpy_helper.from_array(value, name)
    for old in graph.initializer:
        if old.name == name:
            old.CopyFrom(tensor)
            return
    graph.initializer.append(tensor)
