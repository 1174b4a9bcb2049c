"""The light backbones, one file for each paper, and the one table of their names."""

from __future__ import annotations

from dataclasses import dataclass
from difflib import get_close_matches
from functools import partial
from typing import Protocol

from leandet.errors import UserError
from leandet.nets import mobilenet_v3, shufflenet_v2
from leandet.nets.alexnet import AlexNet
from leandet.nets.backbone import Backbone, Classifier, Pretrained, Tap, Trunk
from leandet.nets.mobilenet_v1 import MobileNetV1
from leandet.nets.mobilenet_v2 import MobileNetV2
from leandet.nets.mobilenet_v3 import MobileNetV3, minimalistic
from leandet.nets.shufflenet_v1 import STAGE_2, ShuffleNetV1
from leandet.nets.shufflenet_v2 import ShuffleNetV2
from leandet.nets.squeezenet import Bypass, SqueezeNet10, SqueezeNet11
from leandet.nets.timm_backbone import PREFIX, TimmBackbone
from leandet.nets.weights import TorchvisionWeights, load_weights

__all__ = [
    "TABLE",
    "Backbone",
    "Classifier",
    "Entry",
    "Tap",
    "Trunk",
    "backbone",
    "create",
    "load_weights",
]


class Build(Protocol):
    """Makes a network for a number of classes."""

    def __call__(self, *, num_classes: int) -> Classifier:
        """The network, with random weights."""


@dataclass(frozen=True, slots=True)
class Entry:
    """One named network.

    Attributes:
        build: makes it.
        source: the paper.
        pretrained: its published ImageNet weights, None where there are none.
    """

    build: Build
    source: str
    pretrained: Pretrained | None = None


_ALEX = "AlexNet, arXiv 1404.5997"
_SQUEEZE = "SqueezeNet, arXiv 1602.07360"
_MOBILE_1 = "MobileNets, arXiv 1704.04861"
_MOBILE_2 = "MobileNetV2, arXiv 1801.04381"
_MOBILE_3 = "MobileNetV3, arXiv 1905.02244"
_SHUFFLE_1 = "ShuffleNet, arXiv 1707.01083"
_SHUFFLE_2 = "ShuffleNet V2, arXiv 1807.11164"
_LARGE, _SMALL = mobilenet_v3.LARGE, mobilenet_v3.SMALL
_v = TorchvisionWeights

TABLE: dict[str, Entry] = {
    "alexnet": Entry(AlexNet, _ALEX, _v("AlexNet_Weights.IMAGENET1K_V1")),
    "squeezenet1_0": Entry(SqueezeNet10, _SQUEEZE, _v("SqueezeNet1_0_Weights.IMAGENET1K_V1")),
    "squeezenet1_0_simple": Entry(partial(SqueezeNet10, bypass=Bypass.SIMPLE), _SQUEEZE),
    "squeezenet1_0_complex": Entry(partial(SqueezeNet10, bypass=Bypass.COMPLEX), _SQUEEZE),
    "squeezenet1_1": Entry(SqueezeNet11, _SQUEEZE, _v("SqueezeNet1_1_Weights.IMAGENET1K_V1")),
    "mobilenet_v1_025": Entry(partial(MobileNetV1, width=0.25), _MOBILE_1),
    "mobilenet_v1_050": Entry(partial(MobileNetV1, width=0.5), _MOBILE_1),
    "mobilenet_v1_075": Entry(partial(MobileNetV1, width=0.75), _MOBILE_1),
    "mobilenet_v1": Entry(MobileNetV1, _MOBILE_1),
    "mobilenet_v2_035": Entry(partial(MobileNetV2, width=0.35), _MOBILE_2),
    "mobilenet_v2_050": Entry(partial(MobileNetV2, width=0.5), _MOBILE_2),
    "mobilenet_v2_075": Entry(partial(MobileNetV2, width=0.75), _MOBILE_2),
    "mobilenet_v2": Entry(MobileNetV2, _MOBILE_2, _v("MobileNet_V2_Weights.IMAGENET1K_V1")),
    "mobilenet_v2_140": Entry(partial(MobileNetV2, width=1.4), _MOBILE_2),
    "mobilenet_v3_small_minimalistic": Entry(partial(MobileNetV3, layout=minimalistic(_SMALL)), _MOBILE_3),
    "mobilenet_v3_small_075": Entry(partial(MobileNetV3, layout=_SMALL, width=0.75), _MOBILE_3),
    "mobilenet_v3_small": Entry(
        partial(MobileNetV3, layout=_SMALL), _MOBILE_3, _v("MobileNet_V3_Small_Weights.IMAGENET1K_V1")
    ),
    "mobilenet_v3_large_minimalistic": Entry(partial(MobileNetV3, layout=minimalistic(_LARGE)), _MOBILE_3),
    "mobilenet_v3_large_075": Entry(partial(MobileNetV3, layout=_LARGE, width=0.75), _MOBILE_3),
    "mobilenet_v3_large": Entry(
        partial(MobileNetV3, layout=_LARGE), _MOBILE_3, _v("MobileNet_V3_Large_Weights.IMAGENET1K_V1")
    ),
    **{
        f"shufflenet_v1_g{groups}_x{width:.2f}".removesuffix("0").replace(".", "_"): Entry(
            partial(ShuffleNetV1, groups=groups, width=width), _SHUFFLE_1
        )
        for groups in STAGE_2
        for width in (0.25, 0.5, 1.0, 1.5, 2.0)
    },
    **{
        f"shufflenet_v2_{suffix}": Entry(
            partial(ShuffleNetV2, widths=widths),
            _SHUFFLE_2,
            _v(f"ShuffleNet_V2_{suffix.upper()}_Weights.IMAGENET1K_V1"),
        )
        for suffix, widths in (
            ("x0_5", shufflenet_v2.X0_5),
            ("x1_0", shufflenet_v2.X1_0),
            ("x1_5", shufflenet_v2.X1_5),
            ("x2_0", shufflenet_v2.X2_0),
        )
    },
}


def create(name: str, num_classes: int = 1000) -> Classifier:
    """A classifier with random weights: (B, 3, H, W) float, normalised RGB -> (B, num_classes) logits.

    Raises:
        UserError: if the name is not in `TABLE`.
    """
    if name not in TABLE:
        near = get_close_matches(name, TABLE, n=3)
        hint = f"did you mean {', '.join(near)}?" if near else f"the names are {', '.join(TABLE)}."
        raise UserError(f"no network is called {name!r}: {hint}")
    entry = TABLE[name]
    network = entry.build(num_classes=num_classes)
    network.pretrained = entry.pretrained
    return network


def backbone(name: str, *, fine: bool = False) -> Backbone:
    """A network's features at strides 8, 16 and 32, with random weights; `load_weights` fills it.

    Args:
        name: a name of `TABLE`, or `timm:NAME` for any timm network that has these strides.
        fine: whether to give the features at stride 4 too, before the others.

    Raises:
        UserError: if there is no such network, or timm is wanted and not installed.
    """
    if name.startswith(PREFIX):
        return TimmBackbone(name.removeprefix(PREFIX), fine=fine)
    return Trunk(create(name), fine=fine)
