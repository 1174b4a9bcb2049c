"""Any timm network with features at strides 8, 16 and 32 as a backbone (the `timm` extra)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import ModuleType

import torch
from torch import Tensor, nn

from leandet.errors import UserError
from leandet.nets.backbone import FINE, STRIDES, Backbone

PREFIX = "timm:"


class TimmBackbone(Backbone):
    """timm's feature extractor for a network of its own, named as timm names it.

    Raises:
        UserError: if timm is not installed, has no such network, or the network lacks one of the strides.
    """

    def __init__(self, name: str, *, fine: bool = False) -> None:
        super().__init__()
        strides = (FINE, *STRIDES) if fine else STRIDES
        self.network = _features(name, strides, pretrained=False)
        with torch.device("meta"):  # the whole network is wanted for its size only
            whole = _timm().create_model(name)
        self.dropped_parameters = sum(p.numel() for p in whole.parameters()) - sum(
            p.numel() for p in self.network.parameters()
        )
        self.pretrained = TimmWeights(name, strides)

    def forward(self, x: Tensor) -> list[Tensor]:
        """See `Backbone.forward`."""
        return list(self.network(x))


@dataclass(frozen=True, slots=True)
class TimmWeights:
    """timm's default weights for one of its networks.

    Attributes:
        name: timm's name of the network.
        strides: of the features whose tensors are wanted.
    """

    name: str
    strides: tuple[int, ...] = STRIDES

    def fetch(self) -> Mapping[str, Tensor]:
        """Tensors by `TimmBackbone`'s names, downloaded once into the Hugging Face cache.

        Raises:
            UserError: if timm has none or the download fails.
        """
        try:
            network = _features(self.name, self.strides, pretrained=True)
        except (OSError, RuntimeError) as error:
            raise UserError(
                f"could not get timm's weights of {self.name} ({error}): give a safetensors file instead."
            ) from error
        return {f"network.{key}": value for key, value in network.state_dict().items()}


def _timm() -> ModuleType:
    try:
        import timm
    except ImportError as error:
        raise UserError("timm networks need the timm extra: pip install 'leandet[train,timm]'.") from error
    module: ModuleType = timm
    return module


def _features(name: str, strides: tuple[int, ...], *, pretrained: bool) -> nn.Module:
    timm = _timm()
    if not timm.is_model(name):
        near = timm.list_models(f"*{name}*")[:3]
        hint = f": did you mean {', '.join(near)}?" if near else "."
        raise UserError(f"timm has no network called {name!r}{hint}")
    try:
        probe = timm.create_model(name, features_only=True, pretrained=False)
        reductions = probe.feature_info.reduction()
    except (RuntimeError, AssertionError, AttributeError, ValueError, TypeError) as error:
        raise UserError(f"timm's {name} gives no features: choose another network.") from error
    if missing := [s for s in strides if s not in reductions]:
        needs = ", ".join(str(s) for s in strides)
        raise UserError(f"timm's {name} has no features at stride {missing[0]}: a backbone needs {needs}.")
    indices = tuple(len(reductions) - 1 - reductions[::-1].index(stride) for stride in strides)
    network: nn.Module = timm.create_model(name, features_only=True, pretrained=pretrained, out_indices=indices)
    return network
