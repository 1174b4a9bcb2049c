"""timm's networks through the same door."""

import sys

import pytest
import torch

from leandet import nets
from leandet.errors import UserError


def test_a_timm_network_gives_three_maps():
    trunk = nets.backbone("timm:mobilenetv4_conv_small_050").eval()
    image = torch.randn(1, 3, 96, 128)
    with torch.no_grad():
        maps = trunk(image)
    assert [tap.stride for tap in trunk.taps] == [8, 16, 32]
    assert [f.shape for f in maps] == [(1, t.channels, 96 // t.stride, 128 // t.stride) for t in trunk.taps]
    assert trunk.dropped_parameters > 0


def test_a_timm_network_gives_the_fine_map_too():
    trunk = nets.backbone("timm:mobilenetv4_conv_small_050", fine=True).eval()
    assert [tap.stride for tap in trunk.taps] == [4, 8, 16, 32]


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("timm:mobilenetv4_conv_smal", "did you mean mobilenetv4_conv_small"),
        ("timm:nothing_like_it", "timm has no network called"),
        ("timm:vit_tiny_patch16_224", "has no features at stride 8"),
    ],
)
def test_wrong_names_are_answered(name, sentence):
    with pytest.raises(UserError, match=sentence):
        nets.backbone(name)


def test_a_missing_extra_is_said(monkeypatch):
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(UserError, match=r"pip install 'leandet\[train,timm\]'"):
        nets.backbone("timm:resnet18")


def test_weights_that_cannot_be_had_are_said(monkeypatch):
    import timm

    trunk = nets.backbone("timm:mobilenetv4_conv_small_050")

    def unreachable(*_: object, **__: object) -> None:
        raise OSError("no route to host")

    monkeypatch.setattr(timm, "create_model", unreachable)
    with pytest.raises(UserError, match="could not get timm's weights"):
        nets.load_weights(trunk, "default")
