"""The same module at other widths: only shapes and the layers' own counts change."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd

from leandet.compress.channels import Structure
from leandet.compress.record import clone, names_of
from leandet.compress.trace import Recording

Shape = tuple[int, ...]


def own_shapes(module: nn.Module) -> dict[str, Shape]:
    """The shape of every parameter and buffer as it is."""
    named = {**dict(module.named_parameters()), **dict(module.named_buffers())}
    return {name: tuple(tensor.shape) for name, tensor in named.items()}


def shapes(own: Mapping[str, Shape], structure: Structure, kept: Mapping[str, int]) -> dict[str, Shape]:
    """The shapes of tensors when the named groups keep so many of their steps.

    Args:
        own: of the tensors that are wanted, as they are in the network of that structure.
        structure: its channel groups.
        kept: steps by the group's name.
    """
    sizes = structure.sizes(kept)
    found = {name: list(shape) for name, shape in own.items()}
    for key, axis in structure.recording.axes.items():
        if axis.tensor in found and sizes[key] != axis.size:
            found[axis.tensor][axis.dim] = sizes[key] // (axis.groups if axis.per_group else 1)
    return {name: tuple(shape) for name, shape in found.items()}


def empty(module: nn.Module, recording: Recording, wanted: Mapping[str, Shape]) -> nn.Module:
    """A copy of those shapes on the meta device."""

    def make(name: str, tensor: Tensor) -> Tensor:
        return torch.empty(wanted[name], dtype=tensor.dtype, device="meta")

    copy = clone(module, make)
    set_counts(copy, recording)
    return copy


def filled(module: nn.Module, recording: Recording, tensors: Mapping[str, Tensor]) -> nn.Module:
    """A copy that holds these tensors; all others are copied."""
    copy = clone(module, lambda name, tensor: tensors[name] if name in tensors else tensor.detach().clone())
    set_counts(copy, recording)
    return copy


def set_counts(module: nn.Module, recording: Recording) -> None:
    """Let every layer's own numbers say what its tensors' shapes say."""
    names = names_of(module)
    for part in module.modules():
        if isinstance(part, _ConvNd):
            _set_conv(part, depthwise=names.get(id(part.weight)) in recording.depthwise)
        elif isinstance(part, nn.Linear):
            part.out_features, part.in_features = part.weight.shape
        elif isinstance(part, _NormBase):
            vector = part.weight if part.weight is not None else part.running_mean
            if vector is not None:
                part.num_features = len(vector)
        elif isinstance(part, nn.PReLU):
            part.num_parameters = len(part.weight)


def _set_conv(conv: _ConvNd, *, depthwise: bool) -> None:
    first, second = conv.weight.shape[:2]
    if isinstance(conv, _ConvTransposeNd):
        if depthwise:
            conv.groups = first
        conv.in_channels, conv.out_channels = first, second * conv.groups
        return
    if depthwise:
        conv.groups = first * conv.groups // conv.out_channels  # a multiplier stays what it was
    conv.in_channels, conv.out_channels = second * conv.groups, first
