"""How much of each group stays: rules, and a ratio or a target that is shared out over the groups."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from enum import Enum
from fnmatch import fnmatchcase
from math import prod

import numpy as np
from torch import nn

from leandet.compress.channels import Group, Structure
from leandet.compress.criteria import Criterion, view
from leandet.compress.cut import Strengths
from leandet.compress.resize import own_shapes
from leandet.compress.trace import Role
from leandet.errors import UserError

FEWEST = 0.1  # share of a group's steps that a global cut leaves at least: an empty layer cuts the network in two
TRIALS, MEASURED_TRIALS = 40, 7  # halvings of the pressure: a count costs nothing, a measurement costs an export
Kept = dict[str, int]
Cost = Callable[[Mapping[str, int]], float]  # of the network whose named groups keep so many steps: all a search needs


class Scope(Enum):
    """How a cut is shared out: the same share of every group, or where channels are worth least."""

    UNIFORM = "uniform"
    GLOBAL = "global"


class Quantity(Enum):
    """What a target limits; the value is its name in messages."""

    MULTIPLY_ADDS = "multiply-adds"
    PARAMETERS = "parameters"
    CHANNELS = "channels"


@dataclass(frozen=True, slots=True)
class Target:
    """What has to remain at most.

    Attributes:
        quantity: of what.
        share: of the uncut network's, above 0 and at most 1.
    """

    quantity: Quantity
    share: float

    def __post_init__(self) -> None:
        if not 0 < self.share <= 1:
            raise UserError(f"the {self.quantity.value} that remain must be a share above 0 up to 1, not {self.share}.")


@dataclass(frozen=True, slots=True)
class Budget:
    """What a candidate may measure at most, such as its latency on one machine.

    Attributes:
        measure: of a candidate network.
        most: the limit, above 0.
        unit: of both, for messages.
    """

    measure: Callable[[nn.Module], float]
    most: float
    unit: str

    def __post_init__(self) -> None:
        if not 0 < self.most < float("inf"):
            raise UserError(f"a budget must be above 0 {self.unit}, not {self.most} {self.unit}.")


@dataclass(frozen=True, slots=True)
class Rule:
    """What holds for some layers; a group follows the rules of every layer that makes its channels, the last first.

    Attributes:
        layers: a pattern of layer names such as `backbone.*` (shell style).
        kind: only layers of this type.
        ratio: share of the channels to cut there, in [0, 1), whatever holds elsewhere.
        exclude: cut nothing there.
        align: keep multiples of so many channels there.
    """

    layers: str = "*"
    kind: type[nn.Module] = nn.Module
    ratio: float | None = None
    exclude: bool = False
    align: int | None = None

    def __post_init__(self) -> None:
        check_ratio(self.ratio or 0.0)
        if self.align is not None and self.align < 1:
            raise UserError(f"align must be at least 1 channel, not {self.align}.")

    def matches(self, module: nn.Module, layer: str) -> bool:
        """Whether the rule speaks of this layer."""
        return fnmatchcase(layer, self.layers) and issubclass(_kind(module, layer), self.kind)


def _kind(module: nn.Module, layer: str) -> type[nn.Module]:
    """A layer's type; that of any where it is no module of its own, but a parameter that the network's code reads."""
    try:
        return type(module.get_submodule(layer))
    except AttributeError:
        return nn.Module


def check_ratio(ratio: float) -> None:
    """Refuse a ratio that leaves nothing or more than there is.

    Raises:
        UserError: unless it is in [0, 1).
    """
    if not 0 <= ratio < 1:
        raise UserError(f"a ratio is the share of channels to cut, from 0 to below 1, not {ratio}.")


@dataclass(frozen=True, slots=True)
class Choice:
    """One group, its channels' scores, and what may be kept of it.

    Attributes:
        group: it.
        scores: (C,).
        legal: steps that may be kept, ascending; the last is all.
        ratio: a rule's own share to cut, or None.
    """

    group: Group
    scores: Strengths
    legal: tuple[int, ...]
    ratio: float | None

    def nearest(self, steps: float) -> int:
        """The legal number of steps nearest to a wanted one, the larger of two."""
        return min(reversed(self.legal), key=lambda legal: abs(legal - steps))

    def prices(self, *, relative: bool) -> Strengths:
        """(steps,) mean score of the channels that each step costs, the cheapest first."""
        scores = np.sort(self.scores)
        if relative:
            scores = scores / max(float(np.abs(scores).mean()), 1e-30)
        prices: Strengths = scores.reshape(self.group.steps, -1).mean(1)
        return prices


def choices(
    module: nn.Module,
    structure: Structure,
    criterion: Criterion,
    rules: Sequence[Rule] = (),
    align: int = 1,
    fixed: Mapping[str, str] | None = None,
) -> list[Choice]:
    """The groups that may be cut, scored.

    Args:
        module, structure: as analysed.
        criterion: scores a group's channels.
        rules: the later ones win.
        align: keep multiples of so many channels where no rule says otherwise.
        fixed: names of groups to leave out, and why.

    Raises:
        UserError: if a rule matches no layer, or the criterion's scores are none.
    """
    _check_rules(module, structure, rules)
    found = []
    for group in structure.groups:
        own = [rule for rule in rules if any(rule.matches(module, layer) for layer in group.layers)]
        decisive = next((rule for rule in reversed(own) if rule.exclude or rule.ratio is not None), None)
        if group.name in (fixed or {}) or (decisive is not None and decisive.exclude):
            continue
        multiple = next((rule.align for rule in reversed(own) if rule.align is not None), align)
        ratio = None if decisive is None else decisive.ratio
        scores = criterion(view(module, structure, group)).double().cpu().numpy()
        if scores.shape != (len(group.channels),) or not np.isfinite(scores).all():
            raise UserError(f"the criterion gave no finite score for each of the channels of {group.name}.")
        found.append(Choice(group, scores, _legal(structure, group, multiple), ratio))
    return found


def _check_rules(module: nn.Module, structure: Structure, rules: Sequence[Rule]) -> None:
    layers = [layer for group in structure.groups for layer in group.layers]
    for rule in rules:
        if any(rule.matches(module, layer) for layer in layers):
            continue
        if rule.kind is nn.Module:
            near = get_close_matches(rule.layers, layers, n=8, cutoff=0.5) or layers
            shown = ", ".join(near[:8]) + (", ..." if len(layers) > len(near[:8]) else "")
            raise UserError(f"the rule for {rule.layers!r} matches no layer that can be cut: there are {shown}.")
        kinds = sorted({_kind(module, layer).__name__ for layer in layers})
        where = "" if rule.layers == "*" else f" under {rule.layers!r}"
        raise UserError(
            f"the rule for {rule.kind.__name__}{where} matches no layer that can be cut: their types are "
            f"{', '.join(kinds)}."
        )


def _legal(structure: Structure, group: Group, align: int) -> tuple[int, ...]:
    """Steps that leave a multiple of `align` channels on every layer that makes them, and all steps."""
    axes = structure.recording.axes
    counts = [count for key, count in group.counts.items() if axes[key].role is Role.OUT]
    fits = [
        steps for steps in range(1, group.steps) if all((count * steps // group.steps) % align == 0 for count in counts)
    ]
    return (*fits, group.steps)


class Costs:
    """Multiply-adds and parameters of a network at any widths, without running it."""

    def __init__(self, module: nn.Module, structure: Structure) -> None:
        self._structure = structure
        self._shapes = own_shapes(module)
        self._parameters = [name for name, _ in module.named_parameters()]

    def of(self, kept: Mapping[str, int], quantity: Quantity) -> float:
        """The quantity when the named groups keep so many steps; channels as a sum over the groups."""
        if quantity is Quantity.CHANNELS:
            groups = self._structure.groups
            return sum(len(g.channels) * kept.get(g.name, g.steps) / g.steps for g in groups)
        shapes = {name: list(shape) for name, shape in self._shapes.items()}
        sizes = self._structure.sizes(kept)
        for key, axis in self._structure.recording.axes.items():
            if axis.tensor in shapes:
                shapes[axis.tensor][axis.dim] = sizes[key] // (axis.groups if axis.per_group else 1)
        if quantity is Quantity.PARAMETERS:
            return sum(prod(shapes[name]) for name in self._parameters)
        work = self._structure.recording.work
        return sum(positions * prod(shapes[name]) for name, positions in work.items())


def share_out(found: Sequence[Choice], scope: Scope, *, relative: bool = True) -> Callable[[float], Kept]:
    """A function from a pressure in [0, 1] to the steps that each group keeps; more pressure never keeps more.

    Args:
        found: the groups.
        scope: how the cut is shared out.
        relative: over all groups, weigh each score by its group's mean; False for scores that compare between layers.
    """
    free = [choice for choice in found if choice.ratio is None]
    ruled = {c.group.name: c.nearest(c.group.steps * (1 - c.ratio)) for c in found if c.ratio is not None}
    if scope is Scope.UNIFORM:
        return lambda p: ruled | {c.group.name: c.nearest(c.group.steps * (1 - p)) for c in free}
    prices = [choice.prices(relative=relative) for choice in free]
    weights = [np.full(len(p), len(c.group.channels) / c.group.steps) for p, c in zip(prices, free, strict=True)]
    pooled = np.concatenate([*prices, np.empty(0)])
    order = np.argsort(pooled, kind="stable")
    removed = np.concatenate([*weights, np.empty(0)])[order].cumsum()

    def at(pressure: float) -> Kept:
        count = int(np.searchsorted(removed, pressure * (removed[-1] if len(removed) else 0) + 1e-9, side="right"))
        gone = np.zeros(len(pooled), bool)
        gone[order[:count]] = True
        kept, start = dict(ruled), 0
        for choice, price in zip(free, prices, strict=True):
            left = len(price) - int(gone[start : start + len(price)].sum())
            start += len(price)
            kept[choice.group.name] = choice.nearest(max(left, FEWEST * choice.group.steps))
        return kept

    return at


def reach(at: Callable[[float], Kept], cost: Cost, limit: float, trials: int = TRIALS) -> tuple[Kept, float]:
    """The least pressure whose cost is within a limit, found by halving.

    Returns:
        What is kept, and its cost; where even the most pressure is above the limit, that.
    """
    known: dict[tuple[tuple[str, int], ...], float] = {}

    def tried(pressure: float) -> tuple[Kept, float]:
        kept = at(pressure)
        key = tuple(sorted(kept.items()))
        if key not in known:
            known[key] = cost(kept)
        return kept, known[key]

    for end in (0.0, 1.0):
        best = tried(end)
        if (best[1] <= limit) == (end == 0):  # nothing has to go, or all that may go is not enough
            return best
    low, high = 0.0, 1.0
    for _ in range(trials):
        middle = (low + high) / 2
        found = tried(middle)
        if found[1] <= limit:
            high, best = middle, found
        else:
            low = middle
    return best


def meet(at: Callable[[float], Kept], costs: Costs, target: Target) -> Kept:
    """The least cut that meets a target.

    Raises:
        UserError: if none does; it says how near the largest comes.
    """
    whole = costs.of({}, target.quantity)
    kept, least = reach(at, lambda kept: costs.of(kept, target.quantity), target.share * whole)
    if least > target.share * whole:
        near = int(1000 * least / whole + 1) / 1000
        raise UserError(
            f"{target.share:.1%} of the {target.quantity.value} cannot be reached: with these rules and groups "
            f"{near:.1%} remain at least."
        )
    return kept


def afford(at: Callable[[float], Kept], cost: Cost, budget: Budget) -> Kept:
    """The least cut within a budget, by a cost that measures.

    Raises:
        UserError: if none is; it says how near the largest comes.
    """
    kept, least = reach(at, cost, budget.most, MEASURED_TRIALS)
    if least > budget.most:
        raise UserError(
            f"{budget.most:g} {budget.unit} cannot be reached: with these rules and groups the smallest network "
            f"measures {least:.3g} {budget.unit}."
        )
    return kept


def strengths(structure: Structure, found: Sequence[Choice]) -> Strengths:
    """(channels,) the scores of all groups in one array; what has none counts as zero."""
    values = np.zeros(len(structure.channels.first))
    for choice in found:
        values[choice.group.channels] = choice.scores
    return values
