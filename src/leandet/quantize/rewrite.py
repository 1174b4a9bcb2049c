"""The same network in the forms that ONNX Runtime runs fast in 8 bit.

Profiled on MobileNetV2 and ShuffleNetV2 detectors, four places kept an 8-bit graph slow, and none was a convolution:
the pixels were made floats, normalised and made 8-bit again; the head's predictors computed in float behind a layout
change each; the enlarging of feature maps had no kernel for the layout of 8-bit convolutions.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import numpy.typing as npt
import onnx
from onnx import helper

from leandet.export.surgery import (
    chain_from,
    constant_of,
    forget,
    is_constant,
    readers_of,
    rename_readers,
    replace,
    sources_of,
    store,
)
from leandet.preprocess import PAD_VALUE
from leandet.runtime.onnx import INPUT

TO_LAST, TO_FIRST = (0, 2, 3, 1), (0, 3, 1, 2)  # channels last, as 8-bit convolutions compute, and first
SHIFTED = "pixels_shifted"
SHIFTED_RANGE = (-float(PAD_VALUE), 255.0 - PAD_VALUE)  # one step is one grey level, and zero is the letterbox's grey


def normalise_in_weights(graph: onnx.GraphProto) -> None:
    """Let the first convolution read pixels less the letterbox's grey, with the normalisation in its weights.

    Quantised with the range `SHIFTED_RANGE`, the shifted pixels are the pixels themselves: see `read_pixels`. Exact but
    for the outermost ring, where the convolution now pads with the letterbox's grey instead of ImageNet's mean.
    Does nothing where the graph begins otherwise.
    """
    begins = (("Cast", "Sub", "Conv"), ("Cast", "Sub", "Div", "Conv"))
    steps = next((found for kinds in begins if (found := chain_from(graph, INPUT, kinds))), None)
    if steps is None:
        return
    cast, shift, *divide, convolution = steps
    if not all(is_constant(graph, name) for name in convolution.input[1:]):
        return
    mean = constant_of(graph, shift.input[1]).reshape(1, -1, 1, 1)
    std = constant_of(graph, divide[0].input[1]).reshape(1, -1, 1, 1) if divide else np.ones_like(mean)
    weight = constant_of(graph, convolution.input[1])
    if mean.shape[1] != weight.shape[1] or std.shape != mean.shape:
        return
    bias = constant_of(graph, convolution.input[2]) if len(convolution.input) > 2 else np.zeros(len(weight))
    scaled = weight.astype(np.float64) / std
    moved = bias + (scaled * (PAD_VALUE - mean)).sum((1, 2, 3))
    if len(convolution.input) == 2:
        convolution.input.append(f"{convolution.input[1]}.bias")
    store(graph, convolution.input[1], scaled.astype(np.float32))
    store(graph, convolution.input[2], moved.astype(np.float32))
    store(graph, f"{SHIFTED}.grey", np.array(PAD_VALUE, np.float32))
    subtract = helper.make_node("Sub", [cast.output[0], f"{SHIFTED}.grey"], [SHIFTED], f"{SHIFTED}.sub")
    convolution.input[0] = SHIFTED
    names = {node.input[1] for node in (shift, *divide)}
    replace(graph, [shift, *divide], [subtract])
    forget(graph, names)


def read_pixels(graph: onnx.GraphProto) -> None:
    """After quantising: the shifted pixels in 8 bit are the input itself, so nothing need compute them."""
    for node in [n for n in graph.node if n.op_type == "QuantizeLinear" and n.input[0] == SHIFTED]:
        if [float(constant_of(graph, name)) for name in node.input[1:3]] != [1.0, float(PAD_VALUE)]:
            continue
        rename_readers(graph, node.output[0], INPUT)
        chain = [n for n in graph.node if {SHIFTED, *sources_of(graph, SHIFTED)} & set(n.output)]
        others = any(SHIFTED in n.input for n in graph.node if n is not node)
        replace(graph, [node, *([] if others else chain)], [])


def multiply_answers(graph: onnx.GraphProto, names: Iterable[str]) -> set[str]:
    """Turn 1x1 convolutions that answer into matrix products over channels-last maps, whose 8-bit form answers floats.

    Args:
        graph: changed in place.
        names: of convolutions; those that are not plain 1x1 stay, with all others of their weight.

    Returns:
        Names of the products and of the changes of layout before them; the product has the convolution's name.
    """
    wanted = set(names)
    answering = [node for node in graph.node if node.name in wanted]
    plain = {n.name for n in answering if _is_plain(n, constant_of(graph, n.input[1]))}
    mixed = {n.input[1] for n in graph.node if n.op_type == "Conv" and n.name not in plain}
    found: set[str] = set()
    turned: set[str] = set()
    for node in answering:
        name, (source, weight, *bias) = node.name, list(node.input)
        if weight in mixed:
            continue
        if weight not in turned:
            store(graph, weight, np.ascontiguousarray(constant_of(graph, weight)[:, :, 0, 0].T))
            turned.add(weight)
        last, product, summed = (f"{name}.{part}" for part in ("last", "product", "sum"))
        nodes = [
            helper.make_node("Transpose", [source], [last], last, perm=TO_LAST),
            helper.make_node("MatMul", [last, weight], [product], name),
            *(helper.make_node("Add", [product, b], [summed], summed) for b in bias),
            helper.make_node(
                "Transpose", [summed if bias else product], [node.output[0]], f"{name}.first", perm=TO_FIRST
            ),
        ]
        replace(graph, [node], nodes)
        found |= {last, name}
    return found


def enlarge_by_copying(graph: onnx.GraphProto, shapes: dict[str, tuple[int, int, int]]) -> None:
    """After quantising: double a map's sides by laying 8-bit rows and columns twice, channels last.

    Args:
        graph: changed in place; only doubling to the nearest pixel with the same scale before and after is.
        shapes: channels, height and width in pixels of every tensor that is a map.
    """
    maker = {output: node for node in graph.node for output in node.output}
    for resize in [n for n in graph.node if n.op_type == "Resize"]:
        before, readers = maker.get(resize.input[0]), readers_of(graph, resize.output[0])
        if before is None or before.op_type != "DequantizeLinear" or [n.op_type for n in readers] != ["QuantizeLinear"]:
            continue
        after, shape = readers[0], shapes.get(resize.input[0].removesuffix("_DequantizeLinear_Output"))
        same = all(
            np.array_equal(constant_of(graph, a), constant_of(graph, b))
            for a, b in zip(before.input[1:3], after.input[1:3], strict=True)
        )
        if shape is None or not same or not _doubles(graph, resize):
            continue
        replace(graph, [resize, after], _doubling(graph, resize.name, before.input[0], after.output[0], shape))


def _doubling(
    graph: onnx.GraphProto, name: str, source: str, target: str, shape: tuple[int, int, int]
) -> list[onnx.NodeProto]:
    channels, height, width = shape
    last, columns, rows, whole = (f"{name}.{part}" for part in ("last", "columns", "rows", "whole"))
    store(graph, f"{rows}.shape", np.array([0, height, 1, 2 * width * channels]))
    store(graph, f"{whole}.shape", np.array([0, 2 * height, 2 * width, channels]))
    return [
        helper.make_node("Transpose", [source], [last], last, perm=TO_LAST),
        helper.make_node("Concat", [last, last], [columns], columns, axis=3),
        helper.make_node("Reshape", [columns, f"{rows}.shape"], [rows], rows),
        helper.make_node("Concat", [rows, rows], [f"{rows}.twice"], f"{rows}.twice", axis=2),
        helper.make_node("Reshape", [f"{rows}.twice", f"{whole}.shape"], [whole], whole),
        helper.make_node("Transpose", [whole], [target], f"{name}.first", perm=TO_FIRST),
    ]


def _doubles(graph: onnx.GraphProto, resize: onnx.NodeProto) -> bool:
    words = {a.name: a.s.decode() for a in resize.attribute if a.type == onnx.AttributeProto.STRING}
    if words.get("mode") != "nearest" or words.get("coordinate_transformation_mode") != "asymmetric":
        return False
    if words.get("nearest_mode") != "floor" or len(resize.input) < 3 or not resize.input[2]:
        return False
    return np.array_equal(constant_of(graph, resize.input[2]), [1, 1, 2, 2])


def _is_plain(node: onnx.NodeProto, weight: npt.NDArray[np.float32]) -> bool:
    numbers = {a.name: list(a.ints) for a in node.attribute if a.type == onnx.AttributeProto.INTS}
    group = next((a.i for a in node.attribute if a.name == "group"), 1)
    moved = any(numbers.get("pads", [])) or any(s != 1 for s in numbers.get("strides", []))
    return weight.shape[2:] == (1, 1) and group == 1 and not moved
