"""The proof: for every channel group, masking its channels and cutting them out give the same output."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves, tree_map

from leandet.compress.channels import Group, Structure, analyse
from leandet.compress.cut import Plan, cut, mask, plan
from leandet.compress.record import Inputs, clone
from leandet.errors import UserError
from leandet.nets.mode import untouched

EXACT = 1e-6  # worst relative error in float64 that counts as none


@dataclass(frozen=True, slots=True)
class Check:
    """One group's proof.

    Attributes:
        name: of the group.
        channels: its width.
        kept: the width that it was cut to.
        error: largest difference between the masked and the cut network's outputs, relative to the masked's largest.
        change: how far masking moved the outputs, on the same scale; at 0 the proof says nothing.
    """

    name: str
    channels: int
    kept: int
    error: float
    change: float

    @property
    def exact(self) -> bool:
        """Whether the two are the same."""
        return self.error < EXACT


@dataclass(frozen=True, slots=True)
class Verification:
    """What `verify` found.

    Attributes:
        checks: one for each group that can be cut.
        together: all groups cut at once; None where there is no group.
        reasons: why the skipped groups were skipped, by name.
    """

    checks: tuple[Check, ...]
    together: Check | None
    reasons: dict[str, str]

    @property
    def groups(self) -> int:
        """Groups found, the skipped ones too."""
        return len(self.checks) + len(self.reasons)

    @property
    def exact(self) -> int:
        """Groups whose cut is exact."""
        return sum(check.exact for check in self.checks)

    @property
    def skipped(self) -> int:
        """Groups that cannot be cut because an operation cannot be followed or the code fixes their width."""
        return len(self.reasons)

    @property
    def worst_relative_error(self) -> float:
        """Over all groups, and all of them together; 0 where there is none."""
        every = [*self.checks, *([self.together] if self.together else [])]
        return max((check.error for check in every), default=0.0)

    def to_json(self) -> dict[str, Any]:
        """A plain object with the four figures, each group's check and the reasons."""
        return {
            "groups": self.groups,
            "exact": self.exact,
            "skipped": self.skipped,
            "worst_relative_error": self.worst_relative_error,
            "checks": [
                {"name": c.name, "channels": c.channels, "kept": c.kept, "error": c.error, "change": c.change}
                for c in self.checks
            ],
            "reasons": self.reasons,
        }


def verify(module: nn.Module, example_input: Inputs, *, tell: Callable[[int, int], None] | None = None) -> Verification:
    """Cut half of every channel group, one group at a time and then all together, and compare with masking.

    The comparison runs in float64, in evaluation mode, on the module's own weights; a fresh network whose batch-norms
    have seen no data should be given some first (`recalibrate`). The module is left as it was.

    Args:
        module: any module.
        example_input: its argument or arguments, with values for which it does what it was made for.
        tell: is told how many groups are done, of how many.

    Returns:
        The checks. A group that the network's own code does not let change width is counted as skipped, with the line.

    Raises:
        UserError: if the module cannot be followed, or copied; it says where.
    """
    double = clone(module, _double).eval()
    inputs = tree_map(_double_input, example_input if isinstance(example_input, tuple) else (example_input,))
    structure = analyse(double, inputs)
    strength = _strength(structure)
    wanted = _run(double, inputs)
    checks, reasons = [], {group.name: _why(group) for group in structure.skipped}
    able: dict[str, int] = {}
    for done, group in enumerate(structure.groups):
        kept = {group.name: max(1, group.steps // 2)}
        try:
            chosen = plan(double, inputs, structure, kept, strength)
        except UserError as error:
            reasons[group.name] = str(error)
        else:
            checks.append(_check(double, inputs, chosen, group.name, (group.width, group.at(kept[group.name])), wanted))
            able |= kept
        if tell is not None:
            tell(done + 1, len(structure.groups))
    together = None
    if able:
        chosen = plan(double, inputs, structure, able, strength)
        together = _check(double, inputs, chosen, "all together", (0, 0), wanted)
    return Verification(tuple(checks), together, reasons)


def _why(group: Group) -> str:
    return group.fixed.text if group.fixed is not None else ""


def _strength(structure: Structure) -> np.ndarray[Any, np.dtype[np.float64]]:
    """Any order will do, as long as it is not the order of the channels."""
    return np.random.default_rng(0).random(len(structure.channels.first))


def _double(_: str, tensor: Tensor) -> Tensor:
    copy = tensor.detach().clone()
    return copy.double() if copy.is_floating_point() else copy


def _double_input(value: Any) -> Any:
    return value.double() if isinstance(value, Tensor) and value.is_floating_point() else value


def _run(module: nn.Module, inputs: tuple[Any, ...]) -> list[Tensor]:
    with untouched(module):
        return [leaf for leaf in tree_leaves(module(*inputs)) if isinstance(leaf, Tensor)]


def _check(
    module: nn.Module, inputs: tuple[Any, ...], chosen: Plan, name: str, widths: tuple[int, int], before: list[Tensor]
) -> Check:
    masked = _run(mask(module, chosen), inputs)
    error = _distance(masked, _run(cut(module, chosen), inputs))
    return Check(name, *widths, error=error, change=_distance(masked, before))


def _distance(wanted: list[Tensor], found: list[Tensor]) -> float:
    """The largest difference over all outputs, each relative to its largest element; infinite where shapes differ."""
    worst = 0.0
    for a, b in zip(wanted, found, strict=True):
        if a.shape != b.shape:
            return float("inf")
        if a.numel() == 0:
            continue
        scale = float(a.double().abs().max()) or 1.0
        gap = float((a.double() - b.double()).abs().max()) / scale
        worst = max(worst, gap if np.isfinite(gap) else float("inf"))
    return worst
