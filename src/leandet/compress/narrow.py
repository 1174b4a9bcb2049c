"""A fresh network at given widths: what makes a network's description one number for each channel group."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from leandet.compress.channels import analyse, kept_steps
from leandet.compress.record import Inputs
from leandet.compress.resize import Shape, own_shapes, set_counts, shapes


def narrow(module: nn.Module, example_input: Inputs, widths: Mapping[str, int]) -> None:
    """Give the named channel groups other widths, in place; for networks whose weights are still to be loaded.

    Weights keep the leading part of their values, which means nothing: the channels are not those that pruning kept.
    Where a group gets wider than its architecture has it, weights go on with random values as large as the others and
    vectors (batch-norms, biases) with their mean: the network can be trained from there.

    Args:
        module: as built by its architecture.
        example_input: its argument or arguments; only shapes matter.
        widths: channels by group name, as `Pruned.widths` has them.

    Raises:
        UserError: if a name or width is none of this network's, or the network cannot be followed.
    """
    structure = analyse(module, example_input)
    wanted = shapes(own_shapes(module), structure, kept_steps(structure, widths))
    with torch.no_grad():
        for name, tensor in [*module.named_parameters(), *module.named_buffers()]:
            if wanted[name] != tuple(tensor.shape):
                tensor.data = _resized(tensor, wanted[name])
    set_counts(module, structure.recording)


def _resized(tensor: Tensor, shape: Shape) -> Tensor:
    """The leading part of a tensor, gone on with where it is too small."""
    part = tuple(slice(min(sizes)) for sizes in zip(tensor.shape, shape, strict=True))
    if tensor[part].shape == shape:
        return tensor[part].clone()
    if tensor.dim() > 1:
        made = torch.randn(shape, dtype=tensor.dtype, device=tensor.device) * tensor.std()
    else:
        made = torch.full(shape, float(tensor.mean()), dtype=tensor.dtype, device=tensor.device)
    made[part] = tensor[part]
    return made
