"""Masks: which weights of a network are cut, and what becomes of them."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Generic, NamedTuple, TypeVar

import torch
from torch import Tensor, nn

from leandet.compress.allocate import Scope
from leandet.errors import UserError
from leandet.sparsify.patterns import ANY, Masks, NofM, Pattern
from leandet.sparsify.scores import Scorer, lamp

Module = TypeVar("Module", bound=nn.Module)
LAYERS = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)
FEWEST_INPUTS = 4  # of a filter: leaves out depthwise filters and the first layer, which are few and matter most


@dataclass(frozen=True, slots=True)
class Plan:
    """What is to be cut, and how it is chosen.

    Attributes:
        sparsity: share of zeros in the weights that the pattern fits (with `Blocks`, of blocks), in [0, 1).
        pattern: the shape of the zeros.
        scorer: what a weight is worth.
        scope: the same share of every weight, or where scores are least.
        exclude: layers that stay dense, by name; `*` and `?` stand for any characters.
    """

    sparsity: float
    pattern: Pattern = ANY
    scorer: Scorer = lamp
    scope: Scope = Scope.GLOBAL
    exclude: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not 0 <= self.sparsity < 1:
            raise UserError(f"the sparsity must be from 0 up to but not including 1, not {self.sparsity:g}.")
        if isinstance(self.pattern, NofM) and abs(self.sparsity - self.pattern.sparsity) > 1e-6:
            raise UserError(
                f"the pattern {self.pattern} means a sparsity of {self.pattern.sparsity:g}, not {self.sparsity:g}."
            )

    def __str__(self) -> str:
        scorer = getattr(self.scorer, "__name__", type(self.scorer).__name__).lower()
        scope = "" if isinstance(self.pattern, NofM) else f", {self.scope.value}"
        dense = f", without {' '.join(self.exclude)}" if self.exclude else ""
        return f"{100 * self.sparsity:g} % {self.pattern} by {scorer}{scope}{dense}"

    def weights(self, module: nn.Module) -> dict[str, nn.Parameter]:
        """The weights that will be cut, by name: of linear and convolutional layers with at least four inputs a filter.

        Depthwise filters and the layer that reads the picture stay dense, as in Fast Sparse ConvNets (arXiv
        1911.09723, section 3.1).

        Raises:
            UserError: if nothing is left, or a name to exclude matches no layer.
        """
        found = _weights(module)
        for rule in self.exclude:
            if not any(fnmatchcase(name.removesuffix(".weight"), rule) for name in found):
                shown = ", ".join(name.removesuffix(".weight") for name in list(found)[:8])
                raise UserError(f"nothing can be excluded by {rule!r}: layers that can be cut are {shown}, ...")
        chosen = {name: weight for name, weight in found.items() if self._takes(name, weight)}
        if not chosen:
            raise UserError("no layer is left to cut: none fits the pattern, or all are excluded.")
        return chosen

    def _takes(self, name: str, weight: Tensor) -> bool:
        excluded = any(fnmatchcase(name.removesuffix(".weight"), rule) for rule in self.exclude)
        return weight.shape[1] >= FEWEST_INPUTS and self.pattern.fits(weight.shape) and not excluded

    def masks(self, module: nn.Module, done: float = 1.0, within: Mapping[str, Tensor] | None = None) -> Masks:
        """Masks for the weights as they are now.

        Args:
            module: untouched.
            done: share of the sparsity wanted now, in [0, 1].
            within: masks to begin from: what they cut stays cut.

        Raises:
            UserError: as `weights`.
        """
        scores = {}
        with torch.no_grad():
            for name, weight in self.weights(module).items():
                score = self.scorer(name, weight.detach()).double()
                scores[name] = (
                    score if within is None else score.masked_fill(~within[name].to(score.device), -torch.inf)
                )
            return self.pattern.masks(scores, done * self.sparsity, self.scope)


def _weights(module: nn.Module) -> dict[str, nn.Parameter]:
    """Weights of layers, by name; one that is used twice appears once.

    Layers whose weight is computed from others (a parametrisation, weight norm) stay dense.
    """
    parameters = {id(weight): (name, weight) for name, weight in module.named_parameters()}  # each under its first name
    layers = (part for part in module.modules() if isinstance(part, LAYERS))
    return dict(parameters[key] for part in layers if (key := id(part._parameters.get("weight"))) in parameters)


def apply(module: nn.Module, masks: Mapping[str, Tensor]) -> None:
    """Set what the masks cut to zero, in place."""
    with torch.no_grad():
        for name, mask in masks.items():
            weight = module.get_parameter(name)
            weight.masked_fill_(~mask.to(weight.device), 0)


def share_of_zeros(tensors: Mapping[str, Tensor]) -> float:
    """In [0, 1], over all the tensors' elements."""
    total = sum(tensor.numel() for tensor in tensors.values())
    return sum(tensor.numel() - int(torch.count_nonzero(tensor)) for tensor in tensors.values()) / max(1, total)


class Sparsified(NamedTuple, Generic[Module]):
    """A network with zeros in it.

    Attributes:
        module: the masked copy.
        masks: by weight name, bool, true where the weight stays; for `Hold` and `rewind`.
    """

    module: Module
    masks: Masks


def sparsify(
    module: Module,
    sparsity: float | None = None,
    *,
    pattern: Pattern = ANY,
    scorer: Scorer = lamp,
    scope: Scope = Scope.GLOBAL,
    exclude: Sequence[str] = (),
) -> Sparsified[Module]:
    """A copy of any network with the weights that are worth least set to zero.

    Train it on with `Hold`, so that the zeros stay; `save_sparse` writes a file that is smaller for them.

    Args:
        module: untouched.
        sparsity: share of zeros in the weights that the pattern fits (with `Blocks`, of blocks), in [0, 1); may be left
            out for n:m.
        pattern: `Unstructured()`, `NofM(2, 4)`, `Blocks(4)`.
        scorer: `lamp`, which leaves something in every layer; `magnitude`, `Movement`, `Random()`.
        scope: the same share of every weight, or where scores are least.
        exclude: layers that stay dense, by name; `*` and `?` stand for any characters.

    Raises:
        UserError: if the sparsity is out of range, or nothing can be cut.
    """
    plan = Plan(wanted(sparsity, pattern), pattern, scorer, scope, tuple(exclude))
    masks = plan.masks(module)
    copied = copy.deepcopy(module)
    apply(copied, masks)
    return Sparsified(copied, masks)


def wanted(sparsity: float | None, pattern: Pattern) -> float:
    """The sparsity asked for, or that of the pattern.

    Raises:
        UserError: if neither says one.
    """
    if sparsity is not None:
        return sparsity
    if isinstance(pattern, NofM):
        return pattern.sparsity
    raise UserError("give a sparsity, such as 0.9.")


def rewind(module: nn.Module, early: Mapping[str, Tensor], masks: Mapping[str, Tensor]) -> None:
    """Give a network back its initial or early weights, in place, without those that were cut.

    Trained again under `Hold` it is the winning ticket of the Lottery Ticket hypothesis (arXiv 1803.03635); in larger
    networks weights from some hundred steps after the start are what works (arXiv 1903.01611).

    Args:
        module: trained.
        early: its `state_dict` from then.
        masks: chosen from the trained weights.

    Raises:
        UserError: if the early weights are another network's.
    """
    own = {name: tensor.shape for name, tensor in module.state_dict().items()}
    if strange := sorted(own.items() ^ {name: tensor.shape for name, tensor in early.items()}.items()):
        raise UserError(f"the early weights are of another network: they differ in {strange[0][0]!r}.")
    module.load_state_dict(early)
    apply(module, masks)
