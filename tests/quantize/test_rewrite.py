"""The rewritten graphs answer as the graphs they came from, on pixels and on maps made at random."""

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from leandet.quantize.rewrite import (
    SHIFTED,
    SHIFTED_RANGE,
    enlarge_by_copying,
    multiply_answers,
    normalise_in_weights,
    read_pixels,
)
from small_graphs import answer, model

RANDOM = np.random.default_rng(0)
GREY = 114.0


def first_convolution(mean, *, divided: bool = True, quantised: bool = False) -> onnx.ModelProto:
    node = helper.make_node
    nodes = [
        node("Cast", ["images"], ["pixels"], "cast", to=TensorProto.FLOAT),
        node("Sub", ["pixels", "mean"], ["centred"], "sub"),
        *([node("Div", ["centred", "std"], ["normal"], "div")] if divided else []),
        node(
            "Conv", ["normal" if divided else "centred", "w", "b"], ["out"], "conv", pads=[1, 1, 1, 1], strides=[2, 2]
        ),
    ]
    constants = {
        "mean": np.asarray(mean, np.float32).reshape(1, 3, 1, 1),
        **({"std": np.array([58.4, 57.1, 57.4], np.float32).reshape(1, 3, 1, 1)} if divided else {}),
        "w": (RANDOM.normal(size=(4, 3, 3, 3)) / (1 if divided else 57)).astype(np.float32),
        "b": RANDOM.normal(size=4).astype(np.float32),
    }
    made = model(nodes, {"images": TensorProto.UINT8}, {"out": TensorProto.FLOAT}, constants)
    if quantised:
        normalise_in_weights(made.graph)
        scale, zero = (SHIFTED_RANGE[1] - SHIFTED_RANGE[0]) / 255, round(-SHIFTED_RANGE[0])
        made.graph.initializer.append(numpy_helper.from_array(np.array(scale, np.float32), "scale"))
        made.graph.initializer.append(numpy_helper.from_array(np.array(zero, np.uint8), "zero"))
        made.graph.node[-1].input[0] = "again"
        made.graph.node.insert(2, node("QuantizeLinear", [SHIFTED, "scale", "zero"], ["eight"], "q"))
        made.graph.node.insert(3, node("DequantizeLinear", ["eight", "scale", "zero"], ["again"], "dq"))
    return made


@pytest.mark.parametrize("divided", [True, False])  # as trained, and as exported
@pytest.mark.parametrize(("mean", "exact"), [([GREY] * 3, True), ([123.7, 116.3, 103.5], False)])
def test_normalisation_moves_into_the_weights(mean, exact, divided):
    pixels = RANDOM.integers(0, 256, (2, 3, 8, 12), np.uint8)
    made = first_convolution(mean, divided=divided)
    wanted = answer(made, images=pixels)
    normalise_in_weights(made.graph)
    assert [node.op_type for node in made.graph.node] == ["Cast", "Sub", "Conv"]
    assert {constant.name for constant in made.graph.initializer} == {f"{SHIFTED}.grey", "w", "b"}
    found = answer(made, images=pixels)
    np.testing.assert_allclose(found[..., 1:, 1:], wanted[..., 1:, 1:], atol=1e-4)
    assert np.allclose(found, wanted, atol=1e-4) == exact  # only the padded ring may differ


def test_eight_bit_pixels_are_read_as_they_are():
    pixels = RANDOM.integers(0, 256, (2, 3, 8, 12), np.uint8)
    made = first_convolution([123.7, 116.3, 103.5], quantised=True)
    wanted = answer(made, images=pixels)
    read_pixels(made.graph)
    assert [node.op_type for node in made.graph.node] == ["DequantizeLinear", "Conv"]
    np.testing.assert_array_equal(answer(made, images=pixels), wanted)


@pytest.mark.parametrize("kernel", [1, 3])
def test_answers_are_products(kernel):
    node, pads = helper.make_node, [kernel // 2] * 4
    nodes = [
        node("Conv", ["x", "w", "b"], ["one"], "first", pads=pads),
        node("Conv", ["y", "w"], ["two"], "second", pads=pads),
        node("Concat", ["one", "two"], ["out"], "both", axis=1),
    ]
    weight, bias = RANDOM.normal(size=(3, 5, kernel, kernel)), RANDOM.normal(size=3)
    constants = {"w": weight.astype(np.float32), "b": bias.astype(np.float32)}
    made = model(nodes, dict.fromkeys("xy", TensorProto.FLOAT), {"out": TensorProto.FLOAT}, constants)
    maps = {name: RANDOM.normal(size=(2, 5, 4, 6)).astype(np.float32) for name in "xy"}
    wanted = answer(made, **maps)
    found = multiply_answers(made.graph, ["first", "second"])
    assert found == (set() if kernel == 3 else {"first", "second", "first.last", "second.last"})
    np.testing.assert_allclose(answer(made, **maps), wanted, atol=1e-5)


@pytest.mark.parametrize(("scales", "mode", "copied"), [((1, 1, 2, 2), "floor", True), ((1, 1, 3, 2), "floor", False)])
def test_doubling_is_copying(scales, mode, copied):
    node = helper.make_node
    nodes = [
        node("QuantizeLinear", ["x", "s", "z"], ["q"], "q"),
        node("DequantizeLinear", ["q", "s", "z"], ["x_DequantizeLinear_Output"], "dq"),
        node(
            *("Resize", ["x_DequantizeLinear_Output", "", "by"], ["large"], "resize"),
            mode="nearest",
            coordinate_transformation_mode="asymmetric",
            nearest_mode=mode,
        ),
        node("QuantizeLinear", ["large", "s", "z"], ["large_q"], "q2"),
        node("DequantizeLinear", ["large_q", "s", "z"], ["out"], "dq2"),
    ]
    constants = {"s": np.float32(0.1), "z": np.uint8(7), "by": np.array(scales, np.float32)}
    made = model(nodes, {"x": TensorProto.FLOAT}, {"out": TensorProto.FLOAT}, constants)
    maps = RANDOM.normal(size=(2, 5, 4, 6)).astype(np.float32)
    wanted = answer(made, x=maps)
    enlarge_by_copying(made.graph, {"x": (5, 4, 6)})
    assert ("Resize" in {n.op_type for n in made.graph.node}) != copied
    np.testing.assert_array_equal(answer(made, x=maps), wanted)
    np.testing.assert_array_equal(answer(made, optimised=True, x=maps), wanted)
