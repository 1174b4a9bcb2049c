"""Quantisers that round in the forward pass and let gradients through (Bengio et al., arXiv 1308.3432).

`attach` puts them on a detector's convolutions: one on the weights, one on what the convolution reads.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

INPUT_QUANTIZER = "input_quantizer"
Make = Callable[[nn.Conv2d], tuple[nn.Module, nn.Module]]


def rounded(x: Tensor) -> Tensor:
    """The nearest whole numbers, ties to even as engines round, with the gradient of x."""
    return x + (x.round() - x).detach()


class Int8Weight(nn.Module):
    """Signed, symmetric, one scale for an output channel: what ONNX Runtime's QDQ holds.

    Args:
        steps: from zero to the largest weight: 127 of 8 bits; 64 of 7, which processors without VNNI get.
    """

    def __init__(self, steps: int = 127) -> None:
        super().__init__()
        self.steps = steps

    def forward(self, weight: Tensor) -> Tensor:
        """(O, I, h, w) -> the same on its grid of -steps..steps."""
        step = weight.detach().abs().amax((1, 2, 3), keepdim=True).clamp(min=1e-12) / self.steps
        return rounded(weight / step).clamp(-self.steps, self.steps) * step


class Range(nn.Module):
    """Unsigned integers between a learned lowest and highest value, with zero on the grid.

    Rounding through and clipping give the ends LSQ's gradients (arXiv 1902.08153, equation 3), zero point included
    (LSQ+, arXiv 2004.09576, section 3.1).

    Args:
        bits: of each value.
        learned: whether the ends follow the gradient; otherwise they stay as first observed.
    """

    low: Tensor
    high: Tensor

    def __init__(self, bits: int = 8, *, learned: bool = True) -> None:
        super().__init__()
        self.steps = 2**bits - 1
        self.low = nn.Parameter(torch.tensor(0.0), requires_grad=learned)
        self.high = nn.Parameter(torch.tensor(0.0), requires_grad=learned)
        self.observing = False

    def forward(self, x: Tensor) -> Tensor:
        """Any shape; while `observing`, x as it is."""
        if self.observing:
            with torch.no_grad():
                self.low.clamp_(max=x.amin())
                self.high.clamp_(min=x.amax())
            return x
        low = self.low.clamp(max=0)
        step = (self.high.clamp(min=0) - low).clamp(min=1e-8) / self.steps
        zero = rounded(-low / step)
        found: Tensor = (rounded(x / step + zero).clamp(0, self.steps) - zero) * step
        return found


class Lsq(nn.Module):
    """Weights with a learned step size (LSQ, Esser et al., arXiv 1902.08153).

    The step starts at 2 E|w| / sqrt(Q) (section 2.1), and its gradient is scaled by 1 / sqrt(N Q) for N weights
    (section 2.2).

    Args:
        bits: of each weight, from 2.
    """

    started: Tensor

    def __init__(self, bits: int) -> None:
        super().__init__()
        self.least, self.most = -(2 ** (bits - 1)), 2 ** (bits - 1) - 1
        self.step = nn.Parameter(torch.tensor(1.0))
        self.register_buffer("started", torch.tensor(False))

    def forward(self, x: Tensor) -> Tensor:
        """Any shape -> the same on its grid."""
        if not self.started:
            with torch.no_grad():
                self.step.copy_((2 * x.abs().mean() / math.sqrt(self.most)).clamp(min=1e-8))
                self.started.fill_(True)
        scale = 1 / math.sqrt(x.numel() * self.most)
        step = (self.step * scale + (self.step * (1 - scale)).detach()).clamp(min=1e-8)
        return rounded((x / step).clamp(self.least, self.most)) * step


class DorefaWeight(nn.Module):
    """DoReFa's weights (Zhou et al., arXiv 1606.06160, equation 9), times the largest |weight|.

    The paper's weights fill [-1, 1] and leave their size to the batch-norm behind; the factor keeps a trained
    network's own size, so that its batch-norm's statistics still hold.
    """

    def __init__(self, bits: int) -> None:
        super().__init__()
        self.steps = 2**bits - 1

    def forward(self, weight: Tensor) -> Tensor:
        """Any shape -> the same on its grid."""
        bent = weight.tanh()
        unit = bent / (2 * bent.detach().abs().max().clamp(min=1e-12)) + 0.5
        found: Tensor = (2 * rounded(unit * self.steps) / self.steps - 1) * weight.detach().abs().max()
        return found


def attach(module: nn.Module, make: Make, images: Tensor) -> dict[str, nn.Conv2d]:
    """Put quantisers on every convolution that the images reach; ranges are observed on them.

    The first convolution's input is left alone: it is the pixels, which are 8-bit already.

    Args:
        module: changed in place; left in evaluation mode.
        make: the weight's and the input's quantiser for a convolution.
        images: uint8 (B, 3, H, W) RGB.

    Returns:
        The convolutions by name, in the order in which they first ran.
    """
    names = {layer: name for name, layer in module.named_modules()}
    order: dict[str, nn.Conv2d] = {}

    def note(layer: nn.Module, arguments: tuple[Any, ...]) -> None:
        if isinstance(layer, nn.Conv2d):
            order.setdefault(names[layer], layer)

    hooks = [layer.register_forward_pre_hook(note) for layer in names if isinstance(layer, nn.Conv2d)]
    module.eval()
    with torch.no_grad():
        module(images)
    for hook in hooks:
        hook.remove()
    for index, layer in enumerate(order.values()):
        weight, reads = make(layer)
        if index:
            layer.add_module(INPUT_QUANTIZER, reads)
            layer.register_forward_pre_hook(_quantize_input)
        parametrize.register_parametrization(layer, "weight", weight)
    _observe(module, images)
    return order


def detach(convolutions: dict[str, nn.Conv2d]) -> dict[str, tuple[float, float]]:
    """Take the quantisers off again, the trained weights staying unrounded.

    Returns:
        The learned lowest and highest value of what each convolution reads, where that was a `Range`.
    """
    ranges = {}
    for name, layer in convolutions.items():
        parametrize.remove_parametrizations(layer, "weight", leave_parametrized=False)
        layer._forward_pre_hooks.clear()
        reads = getattr(layer, INPUT_QUANTIZER, None)
        if isinstance(reads, Range):
            ranges[name] = (min(0.0, reads.low.item()), max(0.0, reads.high.item()))
        if reads is not None:
            delattr(layer, INPUT_QUANTIZER)
    return ranges


def _quantize_input(layer: nn.Module, arguments: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    quantizer: nn.Module = getattr(layer, INPUT_QUANTIZER)
    return (quantizer(arguments[0]),)


def _observe(module: nn.Module, images: Tensor) -> None:
    """Let every `Range` see what it will round."""

    def each() -> Iterator[Range]:
        return (one for one in module.modules() if isinstance(one, Range))

    for one in each():
        one.observing = True
    with torch.no_grad():
        module(images)
    for one in each():
        one.observing = False
