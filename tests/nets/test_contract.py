"""What every backbone promises to a detector."""

import warnings

import onnxruntime
import pytest
import torch
from torch import nn

from leandet import nets
from leandet.errors import UserError

SIZES = ((64, 96), (97, 131))


@pytest.fixture(params=nets.TABLE, scope="module")
def trunk(request) -> nets.Backbone:
    torch.manual_seed(0)
    return nets.backbone(request.param)


@pytest.mark.parametrize("size", SIZES)
def test_declared_taps_are_real(trunk, size):
    trunk.eval()
    image = torch.randn(1, 3, *size).contiguous(memory_format=torch.channels_last)
    with torch.no_grad():
        maps = trunk(image)
    assert [tap.stride for tap in trunk.taps] == [8, 16, 32]
    for tap, feature in zip(trunk.taps, maps, strict=True):
        assert feature.shape == (1, tap.channels, *(-(-side // tap.stride) for side in size))


@pytest.mark.parametrize(
    "name", ["alexnet", "squeezenet1_0", "mobilenet_v1_025", "mobilenet_v3_small", "shufflenet_v2_x0_5"]
)
def test_the_fine_map_comes_before_the_others(name):
    torch.manual_seed(0)
    fine = nets.backbone(name, fine=True).eval()
    plain = nets.backbone(name).eval()
    plain.load_state_dict(fine.state_dict())
    image = torch.randn(1, 3, 64, 96)
    with torch.no_grad():
        first, *others = fine(image)
        assert first.shape[2:] == (16, 24)
        assert [tap.stride for tap in fine.taps] == [4, 8, 16, 32]
        for ours, wanted in zip(others, plain(image), strict=True):
            assert torch.equal(ours, wanted)


def test_every_parameter_gets_a_gradient(trunk):
    trunk.train()
    trunk.zero_grad()
    loss = sum((feature * torch.randn_like(feature)).sum() for feature in trunk(torch.randn(2, 3, 97, 131)))
    loss.backward()
    without = [name for name, p in trunk.named_parameters() if p.grad is None or not p.grad.any()]
    assert not without
    trunk.zero_grad(set_to_none=True)


def test_batched_equals_single(trunk):
    trunk.eval()
    images = torch.randn(2, 3, *SIZES[0])
    with torch.no_grad():
        together, alone = trunk(images), trunk(images[1:])
    for a, b in zip(together, alone, strict=True):
        assert (a[1:] - b).abs().max() <= 1e-5 * b.abs().max()


def test_reading_taps_leaves_no_trace():
    trunk = nets.backbone("mobilenet_v2_035").train()
    trunk.get_submodule("features.3").eval()
    before = {name: value.clone() for name, value in trunk.state_dict().items()}
    assert trunk.taps[0] == nets.Tap(16, 8)
    assert all(torch.equal(value, before[name]) for name, value in trunk.state_dict().items())
    assert trunk.training
    assert not trunk.get_submodule("features.3.conv").training


def test_taps_follow_a_changed_width():
    trunk = nets.backbone("squeezenet1_1")
    fire = trunk.get_submodule("features.12")
    fire.expand1x1 = nn.Conv2d(64, 100, 1)
    assert [tap.channels for tap in trunk.taps] == [256, 356, 356]


def test_a_trunk_says_what_it_drops():
    # MobileNetV2's last 1x1 (320 -> 1280, its norm) and its classifier
    assert nets.backbone("mobilenet_v2").dropped_parameters == 320 * 1280 + 2 * 1280 + 1280 * 1000 + 1000


class AsTuple(nn.Module):
    def __init__(self, trunk: nets.Backbone) -> None:
        super().__init__()
        self.trunk = trunk

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return tuple(self.trunk(x))


# One of each paper: an export takes seconds.
@pytest.mark.parametrize(
    "name",
    [
        "alexnet",
        "squeezenet1_0_complex",
        "mobilenet_v1_025",
        "mobilenet_v2_035",
        "mobilenet_v3_small",
        "shufflenet_v1_g3_x0_25",
        "shufflenet_v2_x0_5",
    ],
)
def test_onnx_equals_pytorch(name, tmp_path):
    torch.manual_seed(0)
    module = AsTuple(nets.backbone(name)).eval()
    image = torch.randn(1, 3, 96, 128)
    path = tmp_path / "trunk.onnx"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch.export and onnxscript warn of their own deprecations
        torch.onnx.export(module, (image,), path, dynamo=True, external_data=False, verbose=False)
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    got = session.run(None, {session.get_inputs()[0].name: image.numpy()})
    with torch.no_grad():
        wanted = module(image)
    for a, b in zip(got, wanted, strict=True):
        assert (torch.from_numpy(a) - b).abs().max() < 1e-4 * b.abs().max()


def test_unknown_names_are_answered_with_near_ones():
    with pytest.raises(UserError, match="did you mean mobilenet_v2"):
        nets.create("mobilenetv2")
    with pytest.raises(UserError, match="the names are alexnet"):
        nets.create("zzz")
