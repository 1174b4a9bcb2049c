"""Other widths at the same multiply-adds: one channel group gets a better width, those beside it make up for it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product

from torch import nn

from leandet.advise.advice import Guideline
from leandet.compress.allocate import Costs, Quantity
from leandet.compress.channels import Group, Structure
from leandet.compress.trace import Role

MULTIPLES = (16, 8)  # float32 numbers in an AVX-512 register, and in an AVX2 or two NEON registers
SAME = 0.01  # share by which multiply-adds may differ and still be the same
UNEQUAL = 2.0  # times that one side of a 1x1 convolution is wider than the other, from which equal widths are tried
SCALES = tuple(0.5 * 1.04**step for step in range(36))  # 0.5 to 2


@dataclass(frozen=True, slots=True)
class Proposal:
    """New steps for some groups, and why."""

    guideline: Guideline
    group: str
    steps: Mapping[str, int]


class Widths:
    """What may be tried on a network.

    Args:
        module: the network.
        structure: its channel groups.
    """

    def __init__(self, module: nn.Module, structure: Structure) -> None:
        self._groups = {group.name: group for group in structure.groups}
        self._costs = Costs(module, structure)
        self.multiply_adds = self._costs.of({}, Quantity.MULTIPLY_ADDS)
        axes = structure.recording.axes
        owners: dict[str, list[str]] = {}
        for group in structure.groups:
            for key in group.counts:
                if axes[key].role is not Role.SIDE:
                    owners.setdefault(axes[key].tensor, []).append(group.name)
        self._beside: dict[str, list[str]] = {name: [] for name in self._groups}
        for names in owners.values():
            for name in names:
                self._beside[name] += [other for other in names if other != name and other not in self._beside[name]]

    def cost(self, steps: Mapping[str, int]) -> int:
        """Multiply-adds at these steps."""
        return int(self._costs.of(steps, Quantity.MULTIPLY_ADDS))

    def widths(self, steps: Mapping[str, int]) -> dict[str, int]:
        """Channels of each of these groups."""
        return {name: self._groups[name].at(kept) for name, kept in steps.items()}

    def now(self, names: Iterable[str]) -> dict[str, int]:
        """Channels that these groups have."""
        return {name: self._groups[name].width for name in names}

    def proposals(self) -> Iterator[Proposal]:
        """Aligned widths for every group that has none, and more equal ones where neighbours are very unequal."""
        for group in self._groups.values():
            if group.width % MULTIPLES[0]:
                yield from self._balanced(Guideline.ALIGNMENT, group, self._aligned_near(group))
            wide = [self._groups[name] for name in self._beside[group.name]]
            if wide and max(other.width for other in wide) >= UNEQUAL * group.width:
                wanted = (group.width * factor for factor in (1.25, 1.5, 2.0))
                yield from self._balanced(Guideline.EQUAL_WIDTHS, group, [self._nearest(group, w) for w in wanted])

    def _aligned_near(self, group: Group) -> list[int]:
        """Steps of the multiples of 16 and 8 just below and above."""
        found = []
        for multiple in MULTIPLES:
            below = group.width // multiple * multiple
            found += [self._nearest(group, w) for w in (below, below + multiple) if w]
        return list(dict.fromkeys(found))

    def _nearest(self, group: Group, width: float) -> int:
        """Steps of the legal width nearest to a wanted one, a multiple of 16 or 8 where there is one near."""
        legal = [steps for steps in range(1, 3 * group.steps) if abs(group.at(steps) / width - 1) <= 0.15]
        for multiple in MULTIPLES:
            if aligned := [steps for steps in legal if group.at(steps) % multiple == 0]:
                return min(aligned, key=lambda steps: abs(group.at(steps) - width))
        return max(1, round(width * group.steps / group.width))

    def _balanced(self, guideline: Guideline, group: Group, wanted: Sequence[int]) -> Iterator[Proposal]:
        """Each wanted width with the groups beside it scaled so that the multiply-adds stay the same."""
        for steps in dict.fromkeys(wanted):
            if steps == group.steps:
                continue
            beside = self._beside[group.name]
            choices = [beside, *([name] for name in beside)] if len(beside) > 1 else [beside]
            fits = [fit for others in choices if (fit := self._balance({group.name: steps}, others)) is not None]
            for fit in sorted(fits, key=lambda kept: abs(self.cost(kept) / self.multiply_adds - 1))[:3]:
                yield Proposal(guideline, group.name, fit)

    def _balance(self, fixed: dict[str, int], others: Sequence[str]) -> dict[str, int] | None:
        """Steps of the others, all scaled alike, at which the multiply-adds stay the same; None where none do."""
        tried: dict[tuple[int, ...], dict[str, int]] = {}
        for scale, fine in product(SCALES, (True, False)):
            steps = {}
            for name in others:
                group = self._groups[name]
                width = scale * group.width
                steps[name] = max(1, round(width * group.steps / group.width)) if fine else self._nearest(group, width)
            tried[tuple(steps.values())] = fixed | steps
        fits = [kept for kept in tried.values() if abs(self.cost(kept) / self.multiply_adds - 1) <= SAME]
        if not fits:
            return None

        def rank(kept: dict[str, int]) -> tuple[int, float]:
            odd = sum(self._groups[name].at(steps) % MULTIPLES[1] != 0 for name, steps in kept.items())
            return odd, abs(self.cost(kept) / self.multiply_adds - 1)

        best = min(fits, key=rank)
        return {name: steps for name, steps in best.items() if steps != self._groups[name].steps}
