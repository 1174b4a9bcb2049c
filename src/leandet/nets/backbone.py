"""A classifier without its end: the features at strides 8, 16 and 32 that a detector reads."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn

from leandet.nets.mode import untouched

STRIDES = (8, 16, 32)
FINE = 4  # the stride of one map more, for detectors that ask for it
_PROBE = (
    64  # side of the image that measures the taps: every stride divides it, and its deepest map still has 2x2 points
)


@dataclass(frozen=True, slots=True)
class Tap:
    """One feature map of a backbone: its channels, and the input pixels between two of its points."""

    channels: int
    stride: int


@dataclass(frozen=True, slots=True)
class Step:
    """One module of the chain that makes the features, and its name in the classifier's state dict."""

    path: str
    module: nn.Module


class Pretrained(Protocol):
    """Published weights that can be had by download."""

    @property
    def name(self) -> str:
        """What they are called, for messages."""

    def fetch(self) -> Mapping[str, Tensor]:
        """The tensors by name.

        Raises:
            UserError: if they cannot be had.
        """


class Classifier(nn.Module, ABC):
    """A paper's network: (B, 3, H, W) float, normalised RGB -> (B, num_classes) logits.

    Attributes:
        taps: names of the steps whose outputs are the features at strides 8, 16 and 32.
        pretrained: its published ImageNet weights, None where there are none.
    """

    taps: tuple[str, str, str]
    pretrained: Pretrained | None = None

    @abstractmethod
    def steps(self) -> list[Step]:
        """The chain from the image to the last feature map, in order; it goes at least to the last tap."""


class Backbone(nn.Module, ABC):
    """What a detector asks of a backbone.

    Attributes:
        dropped_parameters: parameters of the classifier that the features do without.
        pretrained: its published ImageNet weights, None where there are none.
    """

    dropped_parameters: int
    pretrained: Pretrained | None

    @abstractmethod
    def forward(self, x: Tensor) -> list[Tensor]:
        """(B, 3, H, W) float, normalised RGB -> maps (B, channels, ceil(H/stride), ceil(W/stride)) at 8, 16, 32.

        A backbone made with `fine` puts the map at stride 4 before them.
        """

    @property
    def taps(self) -> tuple[Tap, ...]:
        """Channels and stride of each map, measured on the modules as they are now: right after pruning too.

        It runs the network on one small image (some milliseconds), so read it when building, not in a forward pass.
        """
        with untouched(self):
            maps = self(_probe(self))
        return tuple(Tap(f.shape[1], _PROBE // f.shape[2]) for f in maps)


class Trunk(Backbone):
    """The chain of a classifier as far as its stride-32 tap; classifier and last 1x1 expansion are left behind.

    Tensors keep the classifier's names, so its state dicts load. The modules are taken over from the classifier, not
    copied, and windows that stride are padded by half their kernel: AlexNet's and SqueezeNet's unpadded ones would
    otherwise give maps a point or two short of the detector's grid. Every other paper pads so already.

    Args:
        classifier: taken apart.
        fine: whether to give the last map at stride 4 too, before the others.
    """

    def __init__(self, classifier: Classifier, *, fine: bool = False) -> None:
        super().__init__()
        steps = classifier.steps()
        last = [step.path for step in steps].index(classifier.taps[-1])
        self._tapped: tuple[str, ...] = classifier.taps
        self._route = tuple(step.path for step in steps[: last + 1])
        self.pretrained = classifier.pretrained
        whole = _parameters(classifier)
        for step in steps[: last + 1]:
            _place(self, step)
            _pad(step.module)
        self.dropped_parameters = whole - _parameters(self)
        if fine:
            self._tapped = (self._last_at(FINE), *self._tapped)

    def _last_at(self, stride: int) -> str:
        """The last step whose map has this stride."""
        x, last = _probe(self), ""
        with untouched(self):
            for path in self._route:
                x = self.get_submodule(path)(x)
                if x.shape[2] * stride == _PROBE:
                    last = path
        return last

    def forward(self, x: Tensor) -> list[Tensor]:
        """See `Backbone.forward`."""
        features = []
        for path in self._route:  # by name, so that a replaced module (fused, quantised, pruned) is the one that runs
            x = self.get_submodule(path)(x)
            if path in self._tapped:
                features.append(x)
        return features


def _probe(module: nn.Module) -> Tensor:
    """The image that measures the taps."""
    weight = next(module.parameters())
    return torch.zeros(1, 3, _PROBE, _PROBE, device=weight.device, dtype=weight.dtype)


def _parameters(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def _place(root: nn.Module, step: Step) -> None:
    """Register a module under its dotted name, making the namespaces on the way."""
    *parents, leaf = step.path.split(".")
    for name in parents:
        if not hasattr(root, name):
            root.add_module(name, nn.Module())
        root = root.get_submodule(name)
    root.add_module(leaf, step.module)


def _pad(module: nn.Module) -> None:
    """Make every striding window give ceil(side / stride) points."""
    for part in module.modules():
        if isinstance(part, nn.Conv2d) and part.stride != (1, 1):
            part.padding = (part.kernel_size[0] // 2, part.kernel_size[1] // 2)
        elif isinstance(part, nn.MaxPool2d) and part.stride != 1:
            part.padding, part.ceil_mode = int(part.kernel_size) // 2, False  # type: ignore[arg-type]
