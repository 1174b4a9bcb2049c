"""Pretrained weights load, and a file that does not fit is named."""

from pathlib import Path
from urllib.error import URLError

import pytest
import torch
from safetensors.torch import save_file

from leandet import nets
from leandet.errors import UserError

SHARED = Path(__file__).parents[3] / "shared" / "weights"
shared_only = pytest.mark.skipif(not SHARED.is_dir(), reason="the shared ImageNet weights are not on this machine")


@pytest.fixture
def small() -> nets.Backbone:
    return nets.backbone("mobilenet_v1_025")


def test_a_file_fills_every_tensor(small, tmp_path):
    wanted = {name: value.clone() for name, value in nets.create("mobilenet_v1_025").state_dict().items()}
    save_file(wanted, tmp_path / "weights.safetensors")
    nets.load_weights(small, tmp_path / "weights.safetensors")
    assert all(torch.equal(value, wanted[name]) for name, value in small.state_dict().items())


def test_a_wrong_shape_is_named(small, tmp_path):
    tensors = {**small.state_dict(), "blocks.0.0.conv_pw.weight": torch.zeros(3, 8, 1, 1)}
    save_file(tensors, tmp_path / "weights.safetensors")
    before = small.state_dict()["conv_stem.weight"].clone()
    with pytest.raises(UserError, match=r"blocks\.0\.0\.conv_pw\.weight has shape \(3, 8, 1, 1\), not \(16, 8, 1, 1\)"):
        nets.load_weights(small, tmp_path / "weights.safetensors")
    assert torch.equal(small.state_dict()["conv_stem.weight"], before)


def test_a_missing_tensor_is_named(small, tmp_path):
    tensors = small.state_dict()
    del tensors["bn1.bias"]
    save_file(tensors, tmp_path / "weights.safetensors")
    with pytest.raises(UserError, match=r"lacks the tensor bn1\.bias \(8,\)"):
        nets.load_weights(small, tmp_path / "weights.safetensors")


def test_a_missing_or_broken_file_is_said(small, tmp_path):
    with pytest.raises(UserError, match="no weights file at"):
        nets.load_weights(small, tmp_path / "none.safetensors")
    (tmp_path / "bad.safetensors").write_bytes(b"not safetensors at all")
    with pytest.raises(UserError, match="not a readable safetensors file"):
        nets.load_weights(small, tmp_path / "bad.safetensors")


def test_no_published_weights_is_said(small):
    with pytest.raises(UserError, match="give a safetensors file"):
        nets.load_weights(small, "default")


def test_an_unreachable_download_is_said(monkeypatch, tmp_path):
    def unreachable(*_: object, **__: object) -> None:
        raise URLError("no route to host")

    monkeypatch.setattr(torch.hub, "download_url_to_file", unreachable)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    with pytest.raises(UserError, match="give a safetensors file instead"):
        nets.load_weights(nets.backbone("mobilenet_v2"), "default")


@shared_only
def test_torchvisions_cache_is_used(monkeypatch):
    monkeypatch.setenv("TORCH_HOME", str(SHARED / "torch"))
    trunk = nets.backbone("mobilenet_v2")
    assert not trunk.get_submodule("features.0.1").bias.any()
    nets.load_weights(trunk, "default")
    assert trunk.get_submodule("features.0.1").bias.any()


@shared_only
@pytest.mark.parametrize(
    ("name", "file"),
    [
        ("squeezenet1_1", "squeezenet1_1"),
        ("squeezenet1_0", "squeezenet1_0_deepcompressed"),
        ("squeezenet1_0_simple", "squeezenet1_0_deepcompressed"),
        ("mobilenet_v1_075", "mobilenetv1_075"),
        ("mobilenet_v1_050", "mobilenetv1_050"),
        ("mobilenet_v1_025", "mobilenetv1_025"),
        ("shufflenet_v2_x0_5", "shufflenet_v2_x0_5_backbone"),
    ],
)
def test_shared_weights_load(name, file):
    trunk = nets.backbone(name).eval()
    nets.load_weights(trunk, SHARED / f"{file}.safetensors")
    with torch.no_grad():
        assert all(feature.isfinite().all() and feature.any() for feature in trunk(torch.rand(1, 3, 128, 128)))


@shared_only
def test_a_file_for_another_network_is_refused():
    with pytest.raises(UserError, match=r"lacks the tensor features\.0\.0\.weight \(32, 3, 3, 3\)"):
        nets.load_weights(nets.backbone("mobilenet_v2"), SHARED / "squeezenet1_1.safetensors")
