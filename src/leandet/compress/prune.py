"""Structured pruning of any network: score, share out, cut; the result is a new, ordinary module."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from torch import nn

from leandet.compress.allocate import (
    Budget,
    Cost,
    Costs,
    Kept,
    Quantity,
    Rule,
    Scope,
    Target,
    afford,
    check_ratio,
    choices,
    meet,
    share_out,
    strengths,
)
from leandet.compress.channels import Structure, analyse
from leandet.compress.criteria import Criterion, comparable, l1
from leandet.compress.cut import Plan, Strengths, cut, plan
from leandet.compress.reconstruct import Moments, reconstruct
from leandet.compress.record import Inputs
from leandet.errors import UserError

PROBE = 0.5  # pressure at which groups that the network's code holds are found before anything is measured


@runtime_checkable
class Remembers(Protocol):
    """A network that writes down its widths, so that it can be built again."""

    def remember(self, widths: Mapping[str, int]) -> None:
        """Take note of the widths of the channel groups, by name, that were cut."""


@dataclass(frozen=True, slots=True)
class Pruned:
    """What pruning made.

    Attributes:
        module: the new network.
        widths: channels left in each group that was cut, by name.
        fixed: groups that the network's own code holds at their width, and why.
        unmatched: channels of the new network that found no original of exactly their path.
        multiply_adds, parameters: what remains of them, as a share.
        plan: what was cut.
    """

    module: nn.Module
    widths: dict[str, int]
    fixed: dict[str, str]
    unmatched: int
    multiply_adds: float
    parameters: float
    plan: Plan

    def reconstructed(self, module: nn.Module, moments: Moments) -> nn.Module:
        """The same cut of the same module, whose layers make up for what they lost (see `reconstruct`)."""
        new = reconstruct(module, self.plan, moments)
        if isinstance(new, Remembers):
            new.remember(self.widths)
        return new


def prune(
    module: nn.Module,
    example_input: Inputs,
    ratio: float | None = None,
    criterion: Criterion = l1,
    *,
    target: Target | Budget | None = None,
    scope: Scope = Scope.UNIFORM,
    rules: Sequence[Rule] = (),
    align: int = 1,
) -> nn.Module:
    """A new network without the channels that are worth least; the given one is untouched.

    The result equals the given network with those channels masked, as `verify` proves; batch-norms should be measured
    anew (`recalibrate`) and the network fine-tuned.

    Args:
        module: any module, on any device.
        example_input: its argument or arguments; only shapes matter.
        ratio: share of the channels to cut in every group (or over all groups, with `Scope.GLOBAL`), in [0, 1).
        criterion: from a group to one score for each channel.
        target: instead of a ratio, what may remain, or what the result may measure.
        scope: how the cut is shared out.
        rules: for layers by name or type; the later ones win.
        align: keep multiples of so many channels.

    Raises:
        UserError: if neither or both of ratio and target are given, one is out of range or cannot be reached, a rule
            matches nothing, or the network cannot be followed.
    """
    return shrink(module, example_input, ratio, criterion, target=target, scope=scope, rules=rules, align=align).module


def shrink(
    module: nn.Module,
    example_input: Inputs,
    ratio: float | None = None,
    criterion: Criterion = l1,
    *,
    target: Target | Budget | None = None,
    scope: Scope = Scope.UNIFORM,
    rules: Sequence[Rule] = (),
    align: int = 1,
) -> Pruned:
    """As `prune`, with an account of what was done."""
    if (ratio is None) == (target is None):
        raise UserError("give either a ratio or a target.")
    check_ratio(ratio or 0.0)
    if align < 1:
        raise UserError(f"align must be at least 1 channel, not {align}.")
    structure = analyse(module, example_input)
    costs = Costs(module, structure)
    fixed: dict[str, str] = {}
    while True:
        found = choices(module, structure, criterion, rules, align, fixed)
        at = share_out(found, scope, relative=not comparable(criterion))
        strength = strengths(structure, found)
        if isinstance(target, Budget):
            trials = [at(PROBE), at(1.0)]  # what cannot be cut shows before anything is measured
        else:
            trials = [at(ratio or 0.0) if target is None else meet(at, costs, target)]
        try:
            for kept in trials:
                chosen = plan(module, example_input, structure, kept, strength)
        except UserError:
            if not (more := _culprits(module, example_input, structure, kept, strength)):
                raise
            fixed |= more
        else:
            break
    if isinstance(target, Budget):
        kept = afford(at, measured(module, example_input, structure, strength, target.measure), target)
        chosen = plan(module, example_input, structure, kept, strength)
    return _finish(module, structure, costs, chosen, fixed)


def measured(
    module: nn.Module,
    example_input: Inputs,
    structure: Structure,
    strength: Strengths,
    measure: Callable[[nn.Module], float],
) -> Cost:
    """What a candidate really costs: from kept counts to the measurement of the network cut to them."""
    return lambda kept: measure(_made(module, structure, plan(module, example_input, structure, kept, strength))[0])


def _culprits(
    module: nn.Module, example_input: Inputs, structure: Structure, kept: Kept, strength: Strengths
) -> dict[str, str]:
    """Groups that cannot be cut even alone, and why."""
    found = {}
    for group in structure.groups:
        if kept.get(group.name, group.steps) == group.steps:
            continue
        try:
            plan(module, example_input, structure, {group.name: kept[group.name]}, strength)
        except UserError as error:
            found[group.name] = str(error)
    return found


def _made(module: nn.Module, structure: Structure, chosen: Plan) -> tuple[nn.Module, dict[str, int]]:
    """The network cut as planned, which knows its widths, and these."""
    widths = {
        group.name: group.at(chosen.kept[group.name])
        for group in structure.groups
        if chosen.kept.get(group.name, group.steps) != group.steps
    }
    new = cut(module, chosen)
    if isinstance(new, Remembers):
        new.remember(widths)
    return new, widths


def _finish(module: nn.Module, structure: Structure, costs: Costs, chosen: Plan, fixed: dict[str, str]) -> Pruned:
    new, widths = _made(module, structure, chosen)
    multiply_adds, parameters = (
        costs.of(chosen.kept, quantity) / max(1, costs.of({}, quantity))
        for quantity in (Quantity.MULTIPLY_ADDS, Quantity.PARAMETERS)
    )
    return Pruned(new, widths, fixed, chosen.unmatched, multiply_adds, parameters, chosen)


def quantity_of(module: nn.Module, example_input: Inputs, quantity: Quantity) -> float:
    """How much of a quantity a network has, as targets count it.

    Raises:
        UserError: if the network cannot be followed.
    """
    return Costs(module, analyse(module, example_input)).of({}, quantity)
