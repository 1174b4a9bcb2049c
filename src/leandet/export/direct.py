"""ShuffleNetV2 without its shuffles: every channel goes straight to the unit that reads it.

A shuffle computes nothing, yet an engine lays the whole map out anew for it, at every unit. But which unit reads a
channel is known beforehand: at each unit some of the channels that have passed so far are read and replaced. So each
branch answers its channels in the order of the units that read them, and what a unit reads is put together once.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import cast

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from leandet.detector.detector import Detector
from leandet.detector.neck import Neck
from leandet.nets.blocks import shuffle
from leandet.nets.shufflenet_v2 import ShuffleNetV2, ShuffleUnit

Order = npt.NDArray[np.int64]


def unshuffle(detector: Detector) -> None:
    """Let the channels of a ShuffleNetV2 go straight to their readers, in place; any other detector stays as it is.

    Args:
        detector: its norms are in its convolutions, which are plain ones.
    """
    backbone, neck = detector.backbone, detector.neck
    stages = [_units(getattr(backbone, name, None)) for name in ShuffleNetV2.taps]
    if type(neck) is not Neck or not all(stages):
        return
    order: Order | None = None
    for name, units, reduce in zip(ShuffleNetV2.taps, stages, neck.reduce, strict=True):
        direct = DirectStage(units, order)
        setattr(backbone, name, direct)
        order = direct.order
        _reorder_inputs(reduce, order)


def _units(stage: nn.Module | None) -> list[ShuffleUnit]:
    """Of a stage in which only plain convolutions know the order of channels; none of any other module."""
    units = [unit for unit in stage if isinstance(unit, ShuffleUnit)] if isinstance(stage, nn.Sequential) else []
    kinds = {type(part) for unit in units for branch in unit.children() for part in branch.modules()}
    return units if kinds <= {nn.Sequential, nn.Identity, nn.ReLU, nn.Conv2d} else []


class DirectStage(nn.Sequential):
    """A stage of ShuffleNetV2, its answer in another order of channels: (B, C, H, W) -> (B, outputs, H / 2, W / 2).

    Attributes:
        order: place i of the answer has the channel `order[i]` of the stage's own answer.

    Args:
        units: of the stage, the first of stride 2; taken over, and their weights reordered.
        inputs: place i of what the stage is given has the channel `inputs[i]`; None where nothing is reordered.
    """

    def __init__(self, units: Sequence[ShuffleUnit], inputs: Order | None = None) -> None:
        super().__init__(*units)
        first = units[0]
        if inputs is not None:
            _reorder_inputs(first.branch1, inputs)
            _reorder_inputs(first.branch2, inputs)
        makers = [first.branch1, *(unit.branch2 for unit in units)]
        widths = [_convolutions(maker)[-1].out_channels for maker in makers]
        reads = _reads(widths)
        reader = np.empty(sum(widths), np.int64)  # of each channel that is ever made
        for number, channels in enumerate(reads):
            reader[channels] = number
        self.shares: list[list[int]] = []  # for each maker, how many of its channels each reader reads
        for maker, own in zip(makers, np.split(reader, np.cumsum(widths)[:-1]), strict=True):
            _reorder_outputs(maker, np.argsort(own, kind="stable"))
            self.shares.append(np.bincount(own, minlength=len(reads)).tolist())
        # What comes together comes maker by maker, of each in its own order: sorted, as the channels are numbered.
        for unit, channels in zip(units[1:], reads, strict=False):
            _reorder_inputs(unit.branch2, np.argsort(channels))
        self.order: Order = np.argsort(reads[-1])

    def forward(self, x: Tensor) -> Tensor:
        """See the class."""
        waiting: list[list[Tensor]] = [[] for _ in self]  # for the units after the first, and for the stage's end
        for made, shares in zip(self._made(x, waiting), self.shares, strict=True):
            readers = [number for number, share in enumerate(shares) if share]
            pieces = torch.split(made, [shares[number] for number in readers], 1) if len(readers) > 1 else (made,)
            for number, piece in zip(readers, pieces, strict=True):
                waiting[number].append(piece)
        return torch.cat(waiting[-1], 1)

    def _made(self, x: Tensor, waiting: Sequence[list[Tensor]]) -> Iterator[Tensor]:
        """What each maker makes, of `x` or of what waits for it by then."""
        first, *others = cast(Iterable[ShuffleUnit], self)
        yield first.branch1(x)
        yield first.branch2(x)
        for unit, pieces in zip(others, waiting, strict=False):
            yield unit.branch2(torch.cat(pieces, 1) if len(pieces) > 1 else pieces[0])


def _reads(widths: Sequence[int]) -> list[Order]:
    """Which channels each unit after the first reads, in its order, and last which the stage answers.

    Args:
        widths: channels of the first unit's two branches, and of each other unit's right one; channels are numbered in
            that order.
    """
    numbers = [torch.from_numpy(part) for part in np.split(np.arange(sum(widths)), np.cumsum(widths)[:-1])]

    def mixed(left: Tensor, right: Tensor) -> Tensor:
        return shuffle(torch.cat([left, right])[None], 2)[0]

    left, right, *others = numbers
    passing, reads = mixed(left, right), []
    for new in others:
        left, right = passing.chunk(2)
        reads.append(right.numpy())
        passing = mixed(left, new)
    return [*reads, passing.numpy()]


def _convolutions(branch: nn.Module) -> list[nn.Conv2d]:
    return [part for part in branch.modules() if isinstance(part, nn.Conv2d)]


def _reorder_outputs(branch: nn.Module, order: Order) -> None:
    """Let place i of a branch's answer have what was its channel `order[i]`."""
    _pick(_convolutions(branch)[-1], order, 0)


def _reorder_inputs(branch: nn.Module, order: Order) -> None:
    """Let a branch be given at place i what was its channel `order[i]`."""
    for convolution in _convolutions(branch):
        if convolution.groups == 1:
            _pick(convolution, order, 1)
            return
        _pick(convolution, order, 0)  # depthwise: its answer is in the new order too


def _pick(convolution: nn.Conv2d, order: Order, axis: int) -> None:
    """Reorder a convolution's weight along an axis; along that of its answer, the bias too."""
    places = torch.from_numpy(order).to(convolution.weight.device)
    convolution.weight = nn.Parameter(convolution.weight.detach().index_select(axis, places))
    if axis == 0 and convolution.bias is not None:
        convolution.bias = nn.Parameter(convolution.bias.detach().index_select(0, places))
