"""Pretrained weights: torchvision's own, through its cache, and safetensors files by path."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from leandet.errors import UserError
from leandet.nets.backbone import Backbone, Classifier

DEFAULT = "default"


@dataclass(frozen=True, slots=True)
class TorchvisionWeights:
    """Weights that torchvision publishes.

    Attributes:
        name: the enum's name and member, as `torchvision.models.get_weight` reads it.
    """

    name: str

    @property
    def top1(self) -> float:
        """ImageNet top-1 accuracy in per cent, as torchvision states it."""
        from torchvision.models import get_weight

        return float(get_weight(self.name).meta["_metrics"]["ImageNet-1K"]["acc@1"])

    def fetch(self) -> Mapping[str, Tensor]:
        """Tensors by torchvision's names, downloaded once into torch's cache and checked by hash; no pickle code runs.

        Raises:
            UserError: if the download fails.
        """
        from torchvision.models import get_weight

        weights = get_weight(self.name)
        try:
            tensors: Mapping[str, Tensor] = weights.get_state_dict(progress=False, check_hash=True)
        except (OSError, RuntimeError) as error:  # URLError is an OSError; a wrong hash is a RuntimeError
            cache = Path(torch.hub.get_dir()) / "checkpoints"
            raise UserError(
                f"could not download {weights.url} ({error}): fetch it elsewhere and put it into {cache}, "
                "or give a safetensors file instead, or none to begin from nothing."
            ) from error
        return tensors


def load_weights(network: Classifier | Backbone, source: Path | str) -> None:
    """Fill a network or backbone with pretrained weights, in place; nothing changes unless everything fits.

    Every tensor that the network has must be in the source with its shape; others (of a classifier that the backbone
    dropped) are ignored.

    Args:
        network: from `nets.create` or `nets.backbone`.
        source: `"default"` for torchvision's ImageNet weights (downloaded once into torchvision's cache, checked by
            hash), else a safetensors file with the network's tensor names (torchvision's; timm's for MobileNetV1).

    Raises:
        UserError: if the file cannot be read, a tensor is missing or of another shape, torchvision has no weights for
            the network, or the download fails.
    """
    if source == DEFAULT:
        if network.pretrained is None:
            raise UserError(
                "no weights are published for this network: give a safetensors file, or train from nothing."
            )
        tensors, where = network.pretrained.fetch(), network.pretrained.name
    else:
        tensors, where = _read(Path(source)), str(source)
    _fill(network, tensors, where)


def _fill(network: nn.Module, tensors: Mapping[str, Tensor], where: str) -> None:
    """Copy tensors into a module by name, after all were checked."""
    own = network.state_dict()
    for name, value in own.items():
        if name not in tensors:
            if name.endswith("num_batches_tracked"):  # a counter that older files lack; no output depends on it
                continue
            raise UserError(f"{where} does not fit the network: it lacks the tensor {name} {tuple(value.shape)}.")
        if tensors[name].shape != value.shape:
            found, wanted = tuple(tensors[name].shape), tuple(value.shape)
            raise UserError(f"{where} does not fit the network: tensor {name} has shape {found}, not {wanted}.")
    network.load_state_dict({name: tensors[name] for name in own if name in tensors}, strict=False)


def _read(path: Path) -> dict[str, Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    if not path.is_file():
        raise UserError(f"no weights file at {path}.")
    try:
        tensors: dict[str, Tensor] = load_file(path)
    except (SafetensorError, OSError) as error:
        raise UserError(f"{path} is not a readable safetensors file ({error}).") from error
    return tensors
