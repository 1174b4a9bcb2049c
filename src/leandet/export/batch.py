"""A graph that was traced with some images made to take any number of them.

PyTorch's exporter can do so itself, and takes longer: it carries the unknown number through every shape. In a
detector's graph all that depends on it are the first number of each value's shape and of each `Reshape` and `Expand`.
"""

from __future__ import annotations

import numpy as np
import onnx
from onnx import numpy_helper

NAME = "batch"
INFERRED, KEPT = -1, 1  # what stands for "as many as there are" in the shape of a `Reshape`, and of an `Expand`
SHAPING = {"Reshape": INFERRED, "Expand": KEPT}


def free_batch(model: onnx.ModelProto, traced: int) -> None:
    """Take the number of images out of a graph, in place.

    Args:
        model: a graph whose values have the images along their first dimension.
        traced: the number of images that it was made with.
    """
    graph = model.graph
    for value in (*graph.input, *graph.output, *graph.value_info):
        dimensions = value.type.tensor_type.shape.dim
        if dimensions and dimensions[0].dim_value == traced:
            dimensions[0].dim_param = NAME
    weights = {weight.name: weight for weight in graph.initializer}
    freed: dict[tuple[str, str], str] = {}
    for node in graph.node:
        if node.op_type not in SHAPING or node.input[1] not in weights:
            continue
        shape = numpy_helper.to_array(weights[node.input[1]])
        if not shape.size or shape[0] != traced or INFERRED in shape:
            continue
        key = (node.op_type, node.input[1])
        if key not in freed:
            freed[key] = f"{node.input[1]}_{node.op_type.lower()}"
            free = np.concatenate([[SHAPING[node.op_type]], shape[1:]]).astype(np.int64)
            graph.initializer.append(numpy_helper.from_array(free, freed[key]))
        node.input[1] = freed[key]
    used = {name for node in graph.node for name in node.input}
    for _, name in freed:
        if name not in used:
            graph.initializer.remove(weights[name])
