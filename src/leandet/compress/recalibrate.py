"""Batch-norm statistics measured anew: after a cut, or before a fresh network is looked at."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import chain

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from leandet.errors import UserError


def recalibrate(module: nn.Module, batches: Iterable[Tensor]) -> nn.Module:
    """Set every batch-norm's mean and variance to the plain average over the batches; the weights stay.

    Cutting channels moves the statistics of whatever reads them, and ranks of candidates mean little before they are
    measured anew (EagleEye, arXiv 2007.02491, section 3.2).

    Args:
        module: changed in place, left in evaluation mode.
        batches: inputs of the module.

    Returns:
        The module.

    Raises:
        UserError: if there is no batch; the statistics are then as they were.
    """
    norms = [part for part in module.modules() if isinstance(part, _BatchNorm) and part.track_running_stats]
    momenta = [norm.momentum for norm in norms]
    every = iter(batches)
    first = next(every, None)
    if first is None:
        raise UserError("measuring batch-norms anew needs at least one batch.")
    module.eval()
    for norm in norms:
        norm.momentum = None  # the plain mean over batches
        norm.reset_running_stats()
        norm.train()
    try:
        with torch.no_grad():
            for batch in chain([first], every):
                module(batch)
    finally:
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.momentum = momentum
        module.eval()
    return module
