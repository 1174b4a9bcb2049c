"""Rounding with gradients: equal to ONNX's own quantisers, to the papers' formulas, and what is learned is exported."""

import copy

import numpy as np
import onnx
import pytest
import torch
from torch import nn

from leandet.card import Card
from leandet.data.read import read
from leandet.data.shapes import CLASSES, draw_shapes
from leandet.detector.detector import Detector
from leandet.detector.spec import Spec
from leandet.errors import UserError
from leandet.preprocess import Size
from leandet.quantize.aware import simulate, tune
from leandet.quantize.fake import DorefaWeight, Int8Weight, Lsq, Range, attach, detach
from leandet.quantize.qdq import Calibration, OnnxQuantizer
from leandet.quantize.quantize import calibration_images

SIZE = Size(64, 64)


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    return read(draw_shapes(tmp_path_factory.mktemp("drawn") / "data", train=4, val=2, side=64))[0]


@pytest.fixture
def detector():
    torch.manual_seed(0)
    return Detector(Spec("mobilenet_v2_035", len(CLASSES), SIZE, width=8)).eval()


def test_a_range_is_onnx_s_grid():
    torch.manual_seed(0)
    reads, x = Range(), torch.randn(1000) * 3
    with torch.no_grad():
        reads.low.fill_(-1.3)
        reads.high.fill_(4.1)
    scale = np.float32(5.4 / 255)
    zero = np.uint8(round(1.3 / 5.4 * 255))
    steps = np.clip(np.round(x.numpy() / scale) + zero, 0, 255)
    np.testing.assert_allclose(reads(x).detach().numpy(), (steps - zero) * scale, atol=float(scale) * 1.01)
    assert (np.abs(reads(x).detach().numpy() - (steps - zero) * scale) < 1e-5).mean() > 0.99  # ties aside
    assert reads(torch.zeros(1)).abs().item() < 1e-6


@pytest.mark.parametrize("steps", [127, 64])  # of 8 and of 7 bits
def test_int8_weights_are_symmetric_and_per_channel(steps):
    torch.manual_seed(0)
    weight = torch.randn(5, 3, 3, 3) * torch.tensor([0.01, 0.1, 1, 10, 100]).view(-1, 1, 1, 1)
    found = Int8Weight(steps)(weight)
    step = weight.abs().amax((1, 2, 3), keepdim=True) / steps
    torch.testing.assert_close(found / step, (found / step).round(), atol=1e-3, rtol=0)
    assert ((found - weight).abs() <= step * 0.501).all()


@pytest.mark.parametrize("make", [lambda: Lsq(3), lambda: DorefaWeight(3)])
def test_few_bits_are_few_values_and_gradients_pass(make):
    torch.manual_seed(0)
    weight = torch.randn(400, requires_grad=True)
    found = make()(weight)
    assert len(found.unique()) <= 2**3
    found.square().sum().backward()
    assert (weight.grad != 0).float().mean() > 0.5


def test_lsq_s_step_has_the_paper_s_gradient():
    torch.manual_seed(0)
    weight, quantizer = torch.randn(256), Lsq(4)
    quantizer(weight)
    step = quantizer.step.item()
    assert step == pytest.approx(2 * float(weight.abs().mean()) / 7**0.5)
    quantizer(weight).sum().backward()
    ratio = (weight / step).double()
    inside = ratio.round() - ratio
    wanted = torch.where(ratio <= -8, -8.0, torch.where(ratio >= 7, 7.0, inside))  # equation 3
    assert quantizer.step.grad.item() == pytest.approx(float(wanted.sum()) / (256 * 7) ** 0.5, rel=1e-3)


def test_quantisers_come_off_as_they_went_on(detector, dataset):
    images = torch.from_numpy(np.concatenate(calibration_images(dataset.splits["train"], SIZE)))
    wanted = copy.deepcopy(detector.state_dict())
    with torch.no_grad():
        before = detector(images).logits
    layers = attach(detector, lambda layer: (Int8Weight(), Range()), images)
    assert set(layers) == {name for name, m in detector.named_modules() if isinstance(m, nn.Conv2d)}
    with torch.no_grad():
        rounded = detector(images).logits
    copied = copy.deepcopy(detector)  # as the averaging of weights does
    copied.head.classify[0][-1].input_quantizer.high.data.fill_(0.0)
    with torch.no_grad():
        torch.testing.assert_close(detector(images).logits, rounded)
    assert not torch.equal(rounded, before)
    ranges = detach(layers)
    assert set(ranges) == set(layers) - {next(iter(layers))}
    assert all(low <= 0 <= high for low, high in ranges.values())
    assert detector.state_dict().keys() == wanted.keys()
    with torch.no_grad():
        torch.testing.assert_close(detector(images).logits, before)


def test_what_is_learned_is_exported(detector, dataset, tmp_path):
    card = Card(CLASSES, detector.spec)
    before = copy.deepcopy(detector.backbone.state_dict())
    tuned = tune(detector, card, dataset, tmp_path, epochs=1)
    assert all(torch.equal(a, b) for a, b in zip(before.values(), detector.backbone.state_dict().values(), strict=True))
    images = calibration_images(dataset.splits["train"], SIZE)
    quantizer = OnnxQuantizer(tuned.model, images, reduce_range=False, learned=tuned.ranges)
    assert set(tuned.ranges) < set(quantizer.layers)
    quantizer.write(tmp_path / "int8.onnx", card, Calibration.MINMAX)
    graph = onnx.load(tmp_path / "int8.onnx").graph
    stored = {t.name: onnx.numpy_helper.to_array(t) for t in graph.initializer}
    made = {node.output[0]: node for node in graph.node}
    towers = [f"head.{tower}.0.0.0.0" for tower in ("classify", "choose", "regress")]  # all read one neck's output
    reads = [made[node.input[0]] for node in graph.node for t in towers if node.name in quantizer.layers[t]]
    assert len(reads) == 3
    wide = max(tuned.ranges[t][1] for t in towers) - min(tuned.ranges[t][0] for t in towers)
    for node in reads:
        assert float(stored[node.input[1]]) == pytest.approx(wide / 255, rel=1e-4)


@pytest.mark.parametrize(("method", "bits", "said"), [("ternary", 4, "must be one of"), ("lsq", 1, "bits must be")])
def test_what_cannot_be_simulated(detector, dataset, tmp_path, method, bits, said):
    with pytest.raises(UserError, match=said):
        simulate(detector, Card(CLASSES, detector.spec), dataset, tmp_path, method=method, bits=bits, epochs=1)


def test_a_simulation_says_what_it_is(detector, dataset, tmp_path):
    found = simulate(detector, Card(CLASSES, detector.spec), dataset, tmp_path, method="lsq", bits=4, epochs=1)
    value = found.to_json()
    assert value["simulated"] is True
    assert (value["split"], value["images"], value["bits"]) == ("val", 2, 4)
    assert 0 <= value["ap"] <= 1
    assert isinstance(detector.head.classify[0][-1].parametrizations.weight[0], Lsq)
    assert detector.head.classify[0][-1].parametrizations.weight[0].most == 127  # 8 bit at both ends
    assert detector.neck.reduce[0][0].parametrizations.weight[0].most == 7
