"""Channels filled up with zeros: wider inside, the same answers."""

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper

from leandet.compress import recalibrate
from leandet.detector.detector import Detector
from leandet.detector.spec import Spec
from leandet.export.blocks import fill_blocks
from leandet.export.graph import Everywhere, deployable
from leandet.export.surgery import constant_of
from leandet.exporter import exported
from leandet.preprocess import Size
from small_graphs import answer, model

RANDOM = np.random.default_rng(0)
IMAGES = RANDOM.normal(size=(2, 3, 16, 20)).astype(np.float32)


def stem(*, width: int = 24, reader: str = "Conv", shared: bool = False, shown: bool = False) -> onnx.ModelProto:
    """A convolution, a pooling, a depthwise convolution, and what reads both."""
    node, pads = helper.make_node, [1, 1, 1, 1]
    nodes = [
        node("Conv", ["images", "w", "b"], ["first"], "conv", pads=pads, strides=[2, 2]),
        node("Relu", ["first"], ["active"], "relu"),
        node("MaxPool", ["active"], ["pooled"], "pool", kernel_shape=[3, 3], strides=[2, 2], pads=pads),
        node("Conv", ["pooled", "dw", "db"], ["deep"], "depthwise", pads=pads, group=width),
        node("Conv", ["deep", "pw"], ["left"], "left"),
        node("Conv", ["pooled", "pw" if shared else "qw"], ["right"], "right"),
        node("Concat", ["pooled", "left", "right"], ["out"], "join", axis=1)
        if reader == "Concat"
        else node("Add", ["left", "right"], ["out"], "add"),
    ]
    constants = {
        "w": RANDOM.normal(size=(width, 3, 3, 3)),
        "b": RANDOM.normal(size=width),
        "dw": RANDOM.normal(size=(width, 1, 3, 3)),
        "db": RANDOM.normal(size=width),
        "pw": RANDOM.normal(size=(5, width, 1, 1)),
        "qw": RANDOM.normal(size=(5, width, 1, 1)),
    }
    if shared:
        del constants["qw"]
    outputs = {"out": TensorProto.FLOAT} | ({"pooled": TensorProto.FLOAT} if shown else {})
    return model(
        nodes, {"images": TensorProto.FLOAT}, outputs, {name: v.astype(np.float32) for name, v in constants.items()}
    )


def test_a_part_of_a_block_becomes_a_whole_one_and_nothing_else_changes():
    made = stem()
    wanted = answer(made, images=IMAGES)
    fill_blocks(made.graph, 16)
    shapes = {name: constant_of(made.graph, name).shape for name in ("w", "b", "dw", "db", "pw", "qw")}
    assert shapes["w"] == (32, 3, 3, 3)
    assert shapes["dw"] == (32, 1, 3, 3)
    assert shapes["b"] == shapes["db"] == (32,)
    assert shapes["pw"] == shapes["qw"] == (5, 32, 1, 1)
    for optimised in (False, True):
        np.testing.assert_allclose(answer(made, optimised=optimised, images=IMAGES), wanted, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize(
    "kept",
    [
        {"width": 32},  # whole blocks already
        {"reader": "Concat"},  # whoever reads the joined map would need zeros too
        {"shared": True},  # one weight for two maps
        {"shown": True},  # an answer keeps its shape
    ],
)
def test_what_cannot_be_filled_up_stays(kept):
    made = stem(**kept)
    before = made.SerializeToString()
    fill_blocks(made.graph, 16)
    assert made.SerializeToString() == before


@pytest.mark.parametrize("name", ["w", "dw", "pw"])
def test_a_layer_that_computes_its_weights_is_left_alone(name):
    """As weight-standardised convolutions do."""
    made = stem()
    initial = next(tensor for tensor in made.graph.initializer if tensor.name == name)
    made.graph.node.insert(0, helper.make_node("Identity", [f"{name}.raw"], [name], f"{name}.computed"))
    initial.name = f"{name}.raw"
    before = made.SerializeToString()
    fill_blocks(made.graph, 16)
    assert made.SerializeToString() == before


def unit(width: int) -> onnx.ModelProto:
    """A pointwise, a depthwise and a pointwise convolution, as in a ShuffleNetV2 unit."""
    nodes = [
        helper.make_node("Conv", ["images", "w", "b"], ["first"], "first"),
        helper.make_node("Relu", ["first"], ["active"], "relu"),
        helper.make_node("Conv", ["active", "dw"], ["deep"], "depthwise", pads=[1, 1, 1, 1], group=width),
        helper.make_node("Conv", ["deep", "pw"], ["out"], "last"),
    ]
    shapes = {"w": (width, 3, 1, 1), "b": (width,), "dw": (width, 1, 3, 3), "pw": (5, width, 1, 1)}
    constants = {name: RANDOM.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}
    return model(nodes, {"images": TensorProto.FLOAT}, {"out": TensorProto.FLOAT}, constants)


@pytest.mark.parametrize(
    ("width", "size", "multiple", "filled"),
    [(58, 16, 4, 64), (58, 8, 4, 64), (6, 8, 4, 8), (60, 16, 4, 60), (60, 16, 16, 64), (64, 16, 16, 64)],
)
def test_depthwise_convolutions_are_laid_out_in_blocks(width, size, multiple, filled):
    made = unit(width)
    wanted = answer(made, images=IMAGES)
    fill_blocks(made.graph, size, multiple)
    assert constant_of(made.graph, "dw").shape == (filled, 1, 3, 3)
    assert constant_of(made.graph, "pw").shape == (5, filled, 1, 1)
    for optimised in (False, True):
        np.testing.assert_allclose(answer(made, optimised=optimised, images=IMAGES), wanted, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("backbone", ["shufflenet_v2_x0_5", "shufflenet_v2_x1_0"])
def test_a_shufflenet_detector_answers_the_same(backbone):
    torch.manual_seed(0)
    pixels = RANDOM.integers(0, 256, (2, 3, 64, 96), np.uint8)
    spec = Spec(backbone, 2, Size(64, 96), width=16, fall=0.0)  # which would multiply rounding
    detector = recalibrate(Detector(spec), [torch.from_numpy(pixels)])
    for classify in detector.head.classify:
        torch.nn.init.normal_(classify[-1].weight)  # logits that depend on the picture
    # What every location says: among the best, equals could change places.
    made = exported(Everywhere(deployable(detector)), torch.zeros(2, 3, 64, 96, dtype=torch.uint8))
    wanted = answer(made, optimised=True, images=pixels)
    assert np.ptp(wanted) > 0.1
    stems = [node.input[1] for node in made.graph.node if node.op_type == "Conv"][:1]
    assert len(constant_of(made.graph, stems[0])) == 24
    fill_blocks(made.graph, 16)
    assert len(constant_of(made.graph, stems[0])) == 32
    groups = [a.i for node in made.graph.node for a in node.attribute if a.name == "group" and a.i > 1]
    assert groups
    assert all(count % 4 == 0 for count in groups)
    onnx.checker.check_model(made, full_check=True)
    np.testing.assert_allclose(answer(made, optimised=True, images=pixels), wanted, rtol=0, atol=1e-4 * np.ptp(wanted))
