"""INT8: what is quantised, what is not, and what the gate says."""

import shutil
from collections import Counter
from dataclasses import replace

import cv2
import numpy as np
import onnx
import pytest
import torch

from leandet.card import Card
from leandet.compress import recalibrate
from leandet.data.read import read
from leandet.data.shapes import CLASSES, draw_shapes
from leandet.detector.detector import Detector
from leandet.detector.spec import Spec
from leandet.errors import UserError
from leandet.export import export
from leandet.metrics import Scores
from leandet.preprocess import Size
from leandet.quantize.qdq import Calibration, OnnxQuantizer, _error
from leandet.quantize.quantize import _Judged, _reasons, calibration_images, quantize
from leandet.quantize.rounded import rounded
from leandet.runtime import open_runtime
from leandet.runtime.bench import BenchReport, BenchRow

SIZE = Size(64, 64)
SECONDS = 0.05


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    return read(draw_shapes(tmp_path_factory.mktemp("drawn") / "data", train=12, val=4, side=64))[0]


@pytest.fixture(scope="module")
def images(dataset):
    return calibration_images(dataset.splits["train"], SIZE)


@pytest.fixture(scope="module")
def model(tmp_path_factory, images):
    torch.manual_seed(0)
    detector = Detector(Spec("mobilenet_v1_025", len(CLASSES), SIZE, width=16))
    with torch.no_grad():
        for tower in detector.head.classify:
            tower[-1].weight.normal_(std=0.5)
    recalibrate(detector, [torch.from_numpy(np.concatenate(images))])
    path = tmp_path_factory.mktemp("model") / "model.onnx"
    export(detector, Card(CLASSES, detector.spec), path, np.concatenate(images[:2]))
    return path


@pytest.fixture(scope="module")
def quantizer(model, images):
    return OnnxQuantizer(model, images, reduce_range=False)


def quantised(path) -> set[str]:
    """Operators that read a dequantised tensor."""
    graph = onnx.load(path).graph
    made = {output for node in graph.node if node.op_type == "DequantizeLinear" for output in node.output}
    return {node.op_type for node in graph.node if any(name in made for name in node.input)}


def convolutions(path) -> tuple[int, int]:
    """All of them, and those whose weights are 8-bit."""
    graph = onnx.load(path).graph
    made = {output for node in graph.node if node.op_type == "DequantizeLinear" for output in node.output}
    found = [node for node in graph.node if node.op_type == "Conv"]
    return len(found), sum(node.input[1] in made for node in found)


def test_engines_find_nothing_to_warn_of(model, images, tmp_path, capfd):
    quantizer = OnnxQuantizer(model, images, reduce_range=False)
    quantizer.write(tmp_path / "int8.onnx", open_runtime(model, 1).card, Calibration.MINMAX)
    open_runtime(tmp_path / "int8.onnx", 1)
    assert "onnxruntime:" not in capfd.readouterr().err


@pytest.mark.parametrize("calibration", Calibration)
def test_convolutions_are_quantised_and_the_decode_is_not(model, quantizer, tmp_path, calibration):
    path = tmp_path / "int8.onnx"
    quantizer.write(path, open_runtime(model, 1).card, calibration)
    every, eight_bit = convolutions(path)
    assert every == eight_bit > 50
    graph = onnx.load(path).graph
    answering = [node for node in graph.node if node.op_type == "MatMul"]
    assert len(answering) == 3 * 3  # the three predictors of the head, on three levels: 8 bit in, floats out
    rounded = {name for node in graph.node if node.op_type == "QuantizeLinear" for name in node.input}
    assert not rounded & {node.output[0] for node in answering}
    assert not {"Cast", "Resize"} & {node.op_type for node in graph.node if "images" in node.input}
    assert not {"NonMaxSuppression", "Loop", "If"} & {node.op_type for node in graph.node}
    assert not {"TopK", "Sigmoid", "GatherElements", "Softplus", "Greater", "ArgMax"} & quantised(path)
    kinds = {tensor.data_type for tensor in onnx.load(path).graph.initializer}
    assert {onnx.TensorProto.INT8, onnx.TensorProto.UINT8} <= kinds


def test_each_weight_is_within_half_a_step_of_its_own_channel(model, quantizer, tmp_path):
    path = tmp_path / "int8.onnx"
    quantizer.write(path, open_runtime(model, 1).card, Calibration.MINMAX)
    array = onnx.numpy_helper.to_array
    whole = {tensor.name: array(tensor) for tensor in quantizer._model.graph.initializer}  # normalisation included
    graph = onnx.load(path).graph
    stored = {tensor.name: array(tensor) for tensor in graph.initializer}
    seen = 0
    for node in graph.node:
        name = node.input[0].removesuffix("_quantized")
        if node.op_type == "DequantizeLinear" and name.endswith("weight"):
            eight_bit, scale = stored[node.input[0]], stored[node.input[1]]
            scale = scale.reshape(-1, 1, 1, 1) if eight_bit.ndim == 4 else scale.reshape(1, -1)  # a product's columns
            assert eight_bit.dtype == np.int8
            assert scale.size == (len(whole[name]) if eight_bit.ndim == 4 else whole[name].shape[1]) > 0
            assert (np.abs(eight_bit * scale - whole[name]) <= scale * 0.501).all()
            seen += 1
    assert seen == len(quantizer.layers)


def test_depthwise_convolutions_read_whole_blocks(tmp_path, images):
    """12 channels as exported, 16 as quantised: an 8-bit kernel does the rest of a block one by one."""
    torch.manual_seed(0)
    detector = Detector(Spec("mobilenet_v1_025", len(CLASSES), SIZE, width=12))
    recalibrate(detector, [torch.from_numpy(np.concatenate(images))])
    card, source, path = Card(CLASSES, detector.spec), tmp_path / "model.onnx", tmp_path / "int8.onnx"
    export(detector, card, source, np.concatenate(images[:2]))
    OnnxQuantizer(source, images, reduce_range=False).write(path, card, Calibration.MINMAX)
    before, after = (
        Counter(a.i for node in onnx.load(file).graph.node for a in node.attribute if a.name == "group")
        for file in (source, path)
    )
    filled = {width: before[width] - after[width] for width in (8, 12)}  # of the backbone, of the head
    assert filled[12] >= 9  # sums of maps are not followed
    assert after[16] - before[16] == sum(filled.values())


def test_what_is_only_timed_is_quantised_like_what_is_kept(model, quantizer, tmp_path):
    """From any photographs, in place."""
    photographs = [tmp_path / f"{i}.png" for i in range(3)]
    for path in photographs:
        cv2.imwrite(str(path), np.random.default_rng(0).integers(0, 256, (40, 60, 3), np.uint8))
    kept, timed = tmp_path / "kept.onnx", tmp_path / "timed.onnx"
    card = open_runtime(model, 1).card
    quantizer.write(kept, card, Calibration.MINMAX)
    shutil.copyfile(model, timed)
    rounded(photographs)(timed, card)
    assert open_runtime(timed, 1).precision == "int8"
    assert sorted(p.name for p in tmp_path.glob("*.onnx")) == ["kept.onnx", "timed.onnx"]
    kinds = [Counter(node.op_type for node in onnx.load(path).graph.node) for path in (kept, timed)]
    assert kinds[0] == kinds[1]


def test_kept_layers_stay_float32(model, quantizer, tmp_path):
    path = tmp_path / "int8.onnx"
    kept = sorted(quantizer.layers)[:2]
    quantizer.write(path, open_runtime(model, 1).card, Calibration.MINMAX, kept)
    every, eight_bit = convolutions(path)
    assert every - eight_bit == 2


def test_the_worst_layer_disturbs_the_answers_more_than_the_least_sensitive(model, quantizer, images, tmp_path):
    found = quantizer.sensitivities(Calibration.MINMAX, images[:4])
    assert set(found) == set(quantizer.layers)
    assert list(found.values()) == sorted(found.values(), reverse=True)
    assert all(value > 0 for value in found.values())
    card = open_runtime(model, 1).card
    batch = np.concatenate(images[:4])
    wanted = open_runtime(model, 1).run_network(batch).scores
    disturbed = []
    for layer in (next(iter(found)), list(found)[-1]):
        path = tmp_path / "one.onnx"
        quantizer.write(path, card, Calibration.MINMAX, set(quantizer.layers) - {layer})
        disturbed.append(float(np.square(open_runtime(path, 1).run_network(batch).scores - wanted).sum()))
    assert disturbed[0] > disturbed[1]


def row(p50: float) -> BenchRow:
    return BenchRow(
        "m", "onnxruntime", "float32", 1, 1, (64, 64), p50, p50, p50, p50, 1000 / p50, 1, None, 0.0, p50, 0.0, 9
    )


def judged(lost: float, before: float, after: float, warnings: list[str]) -> _Judged:
    scores = Scores(0.5, 0.8, 0.5, -1, 0.5, 0.5, 0.5, 0.0, 0.3, 0.5, 0.5, {}, 10)
    return _Judged(
        "test", scores, replace(scores, ap=0.5 - lost), BenchReport({}, [row(before), row(after)], "", warnings)
    )


@pytest.mark.parametrize(
    ("lost", "before", "after", "warnings", "said"),
    [
        (0.004, 10.0, 5.0, [], ()),
        (-0.01, 10.0, 9.99, [], ()),
        (0.006, 10.0, 5.0, [], ("it loses 0.0060 AP, more than 0.005",)),
        (0.0, 10.0, 10.0, [], ("it is not faster, 10.00 ms instead of 10.00 ms",)),
        (0.0, 1124.74, 8.87, ["other programs keep 2.0 cores busy: wait."], ("its time cannot be judged",)),
        (0.1, 5.0, 9.0, ["busy."], ("it loses", "it is not faster", "its time")),
    ],
)
def test_the_gate(lost, before, after, warnings, said):
    found = _reasons(judged(lost, before, after, warnings), 0.005)
    assert len(found) == len(said)
    for reason, start in zip(found, said, strict=True):
        assert reason.startswith(start)


def test_what_the_gate_refuses_is_not_written_unless_forced(model, dataset, tmp_path):
    out = tmp_path / "model-int8.onnx"
    result = quantize(model, dataset, out, threads=1, seconds=SECONDS)
    assert out.exists() == result.accepted  # the machine's moment decides which, but never both ways
    forced = quantize(model, dataset, out, threads=1, seconds=SECONDS, force=True)
    runtime = open_runtime(out, 1)
    assert runtime.precision == "int8"
    assert runtime.card.metrics["ap"] == pytest.approx(forced.ap)
    assert forced.bytes == out.stat().st_size < forced.float_bytes
    assert forced.split == "val"
    assert [p.name for p in tmp_path.iterdir()] == [out.name]
    with pytest.raises(UserError, match="begins with a float32"):
        quantize(out, dataset, tmp_path / "again.onnx", threads=1, seconds=SECONDS)


@pytest.mark.parametrize(("out", "drop", "said"), [("a.ncnn", 0.0, "not for .ncnn"), ("a.onnx", 2.0, "from 0 to 1")])
def test_arguments_that_cannot_be(model, dataset, tmp_path, out, drop, said):
    with pytest.raises(UserError, match=said):
        quantize(model, dataset, tmp_path / out, max_drop=drop)
    assert not list(tmp_path.iterdir())


def test_openvino_gets_int8_too(model, dataset, tmp_path):
    pytest.importorskip("openvino")
    pytest.importorskip("nncf")
    out = tmp_path / "model.openvino"
    forced = quantize(model, dataset, out, threads=1, seconds=SECONDS, force=True)
    assert open_runtime(out, 1).precision == "int8"
    assert forced.bytes < forced.float_bytes
    graph = (out / "model.xml").read_text(encoding="utf-8")
    assert "nonmaxsuppression" not in graph.lower()
    assert "FakeQuantize" in graph
    assert 'element_type="i8"' in graph


def test_a_channel_of_large_values_does_not_hide_the_others():
    wanted = np.stack([np.full((2, 4, 4), 1e4, np.float32), np.ones((2, 4, 4), np.float32)], 1)
    found = wanted + np.array([0, 0.5], np.float32).reshape(1, 2, 1, 1)
    assert _error(found, wanted) == pytest.approx(0.25 / 2)
