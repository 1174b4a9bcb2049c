"""Readers of channels that go make up for them as well as any linear estimate can; nothing else changes."""

import sys

import numpy as np
import pytest
import torch
from torch import nn

from leandet.compress import Moments, recalibrate, shrink
from leandet.detector.decode import flatten
from leandet.detector.detector import Detector
from leandet.detector.spec import Spec
from leandet.preprocess import Size

ROOM = sys.modules["leandet.compress.reconstruct"]  # the package's attribute of that name is the function


@pytest.fixture
def exact(monkeypatch):
    """Without the ridge, the estimate is that of plain least squares."""
    monkeypatch.setattr(ROOM, "RIDGE", 1e-9)


def layers(last: nn.Module, first: nn.Module) -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(first, nn.ReLU(), last)


def test_a_layer_becomes_the_least_squares_solution(exact):
    """Against numpy's solution from the responses themselves."""
    network, images = layers(nn.Linear(12, 5), nn.Linear(6, 12)), torch.randn(500, 6)
    wanted = network(images).detach().numpy()
    made = shrink(network, images[:2], 0.5)
    cut, plain = made.reconstructed(network, Moments.measure(network, [images])), made.module
    kept = cut[1](cut[0](images)).detach().numpy()
    assert kept.shape[1] == 6
    design = np.concatenate([kept, np.ones((500, 1))], 1)
    solution = np.linalg.lstsq(design, wanted, rcond=None)[0]
    assert cut(images).detach().numpy() == pytest.approx(design @ solution, abs=1e-4)
    assert np.abs(plain(images).detach().numpy() - wanted).mean() > 1.2 * np.abs(design @ solution - wanted).mean()


def test_a_twin_replaces_its_twin(exact):
    """Channels that are multiples of others can go without a trace, through a 3x3 convolution and its bias too."""
    network, images = layers(nn.Conv2d(16, 4, 3), nn.Conv2d(3, 16, 1)), torch.randn(4, 3, 12, 12)
    with torch.no_grad():
        network[0].weight[8:] = 10 * network[0].weight[:8]  # the stronger ones stay
        network[0].bias[8:] = 10 * network[0].bias[:8]
    moments = Moments.measure(network, images.split(2))
    made = shrink(network, images, 0.5)
    cut = made.reconstructed(network, moments)
    assert cut[0].out_channels == 8
    assert torch.allclose(cut(images), network(images), atol=1e-3)
    assert not torch.allclose(made.module(images), network(images), atol=0.1)


def test_moments_are_those_of_all_calls_and_leave_no_trace():
    network = layers(nn.Conv2d(6, 4, 1), nn.Conv2d(3, 6, 1)).train()
    network[2].weight.requires_grad_(False)
    batches = list(torch.randn(6, 3, 5, 5).split(2))
    moments = Moments.measure(network, batches)
    read = torch.cat([network[:2](batch) for batch in batches]).movedim(1, -1).reshape(-1, 6).detach()
    mean, covariance = moments.of["2"]
    assert torch.allclose(mean, read.mean(0).double(), atol=1e-5)
    assert torch.allclose(covariance, torch.cov(read.T, correction=0).double(), atol=1e-5)
    assert network.training
    assert not any(part._forward_pre_hooks for part in network.modules())


def test_grouped_and_very_wide_layers_are_cut_and_no_more(monkeypatch):
    monkeypatch.setattr(ROOM, "WIDEST", 8)
    network = nn.Sequential(nn.Conv2d(3, 16, 1), nn.Conv2d(16, 16, 3, groups=16), nn.Conv2d(16, 4, 1))
    images = torch.randn(2, 3, 8, 8)
    moments = Moments.measure(network, [images])
    assert set(moments.of) == {"0"}
    made = shrink(network, images, 0.5)
    assert torch.equal(made.reconstructed(network, moments)(images), made.module(images))


def test_a_cut_detector_is_nearer_to_the_whole():
    torch.manual_seed(0)
    detector = Detector(Spec("shufflenet_v2_x0_5", 3, Size(64, 64), width=32)).eval()
    images = torch.randint(0, 256, (8, 3, 64, 64), dtype=torch.uint8)
    recalibrate(detector, images.split(4))
    before = {name: tensor.clone() for name, tensor in detector.state_dict().items()}
    example = torch.zeros(1, 3, 64, 64)
    moments = Moments.measure(detector, images.split(4))

    def away(cut: nn.Module) -> float:
        recalibrate(cut, images.split(4))
        own, wanted = (flatten(part.head(part.features(images)).classes) for part in (cut, detector))
        return float(((own - wanted) ** 2).mean())

    with torch.no_grad():
        made = shrink(detector, example, 0.3)
        rebuilt = made.reconstructed(detector, moments)
        assert rebuilt.spec == made.module.spec
        assert away(rebuilt) < away(made.module)
    assert all(torch.equal(tensor, before[name]) for name, tensor in detector.state_dict().items())
