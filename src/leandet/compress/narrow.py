"""A fresh network at given widths: what makes a pruned network's description one number for each group."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import nn

from leandet.compress.channels import analyse, kept_steps
from leandet.compress.record import Inputs
from leandet.compress.resize import own_shapes, set_counts, shapes


def narrow(module: nn.Module, example_input: Inputs, widths: Mapping[str, int]) -> None:
    """Give the named channel groups other widths, in place; for networks whose weights are still to be loaded.

    Weights keep the leading part of their values, which means nothing: the channels are not those that pruning kept.

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
                tensor.data = tensor[tuple(slice(size) for size in wanted[name])].clone()
    set_counts(module, structure.recording)
