"""A tiny network that keeps the ONNX contract and really looks at its input: it finds the red rectangle."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from leandet.card import CARD_KEY, Card
from leandet.detector.spec import Spec
from leandet.preprocess import Size

CLASSES = ("corner", "red")


def red_card(size: Size, **metrics: float) -> Card:
    return Card(CLASSES, Spec("mobilenet_v2", len(CLASSES), size), metrics)


def red_graph(size: Size) -> onnx.GraphProto:
    """Outputs the box of the red pixels with score 0.9, label 1, then a fixed 8x8 corner with score 0.1, label 0."""

    def constant(name: str, value: np.ndarray) -> onnx.TensorProto:
        return numpy_helper.from_array(value, name)

    constants = [
        constant("channels", np.array([1.0, -1.0, -1.0], np.float32).reshape(1, 3, 1, 1)),
        constant("level", np.array(150, np.float32)),
        constant("zero", np.array(0, np.float32)),
        constant("one", np.array(1, np.float32)),
        constant("axis", np.array([1], np.int64)),
        constant("corner", np.array([[[0, 0, 8, 8]]], np.float32)),
        constant("known_scores", np.array([[0.9, 0.1]], np.float32)),
        constant("known_labels", np.array([[1, 0]], np.float32)),
    ]
    node = helper.make_node
    nodes = [
        node("Cast", ["images"], ["pixels"], to=TensorProto.FLOAT),
        node("Mul", ["pixels", "channels"], ["signed"]),
        node("ReduceSum", ["signed", "axis"], ["redness"], keepdims=0),
        node("Greater", ["redness", "level"], ["is_red"]),
        node("Cast", ["is_red"], ["red"], to=TensorProto.FLOAT),
        node("ReduceMax", ["red"], ["columns"], axes=[1], keepdims=0),
        node("ReduceMax", ["red"], ["rows"], axes=[2], keepdims=0),
    ]
    for name, source, last in (("x1", "columns", 0), ("y1", "rows", 0), ("x2", "columns", 1), ("y2", "rows", 1)):
        nodes += [
            node("ArgMax", [source], [f"{name}_at"], axis=1, keepdims=1, select_last_index=last),
            node("Cast", [f"{name}_at"], [name if not last else f"{name}_in"], to=TensorProto.FLOAT),
        ]
        if last:
            nodes.append(node("Add", [f"{name}_in", "one"], [name]))
    nodes += [
        node("Concat", ["x1", "y1", "x2", "y2"], ["flat"], axis=1),
        node("Unsqueeze", ["flat", "axis"], ["found"]),
        node("Mul", ["found", "zero"], ["nothing"]),
        node("Add", ["nothing", "corner"], ["corners"]),
        node("Concat", ["found", "corners"], ["boxes"], axis=1),
        node("Mul", ["x1", "zero"], ["column"]),
        node("Add", ["column", "known_scores"], ["scores"]),
        node("Add", ["column", "known_labels"], ["float_labels"]),
        node("Cast", ["float_labels"], ["labels"], to=TensorProto.INT64),
    ]
    value = helper.make_tensor_value_info
    return helper.make_graph(
        nodes,
        "red",
        [value("images", TensorProto.UINT8, ["B", 3, size.height, size.width])],
        [
            value("boxes", TensorProto.FLOAT, ["B", 2, 4]),
            value("scores", TensorProto.FLOAT, ["B", 2]),
            value("labels", TensorProto.INT64, ["B", 2]),
        ],
        constants,
    )


def write_onnx(path: Path, graph: onnx.GraphProto, card: str | None) -> Path:
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    if card is not None:
        helper.set_model_props(model, {CARD_KEY: card})
    path.write_bytes(model.SerializeToString())
    return path


def red_picture(height: int, width: int, box: tuple[int, int, int, int]) -> np.ndarray:
    """A dark RGB picture with a red rectangle at xyxy `box`."""
    image = np.full((height, width, 3), 20, np.uint8)
    x1, y1, x2, y2 = box
    image[y1:y2, x1:x2] = (255, 0, 0)
    return image


@pytest.fixture
def make_onnx(tmp_path: Path) -> Callable[..., Path]:
    """Writes the red detector: `make_onnx(name, size, card)`; card None for the right one, "" for none at all."""

    def make(name: str = "red.onnx", size: Size = Size(64, 96), card: str | None = None) -> Path:  # noqa: B008
        text = red_card(size, ap=0.5).dump() if card is None else card or None
        return write_onnx(tmp_path / name, red_graph(size), text)

    return make


@pytest.fixture
def picture() -> Callable[..., np.ndarray]:
    return red_picture
