"""What a search may choose: how wide each channel group stays, and how large the input is."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace

import torch
from torch import nn

from leandet.compress import shrink
from leandet.compress.allocate import FEWEST, Choice, Quantity, choices, strengths
from leandet.compress.allocate import Costs as PaperCosts
from leandet.compress.channels import analyse
from leandet.compress.criteria import Criterion
from leandet.compress.cut import Plan, cut, plan
from leandet.compress.reconstruct import Moments, reconstruct
from leandet.compress.resize import own_shapes, shapes
from leandet.detector.detector import Detector
from leandet.detector.spec import STRIDE
from leandet.errors import UserError
from leandet.machine import channel_block
from leandet.preprocess import Size

LEVELS = 16  # widths of a group that a search tells apart: sixteenths of its channels
SIZE = "size"  # the dimension that is no group; layer names of a detector never are this word
SMALLEST_SIDE = 96
BISECTIONS = 24

Levels = dict[str, int]


@dataclass(frozen=True, slots=True)
class Candidate:
    """One structure.

    Attributes:
        kept: steps that each named channel group keeps.
        size: of the network's input.
    """

    kept: Mapping[str, int]
    size: Size

    @property
    def key(self) -> str:
        """The same text for the same structure."""
        return json.dumps([self.size.height, self.size.width, sorted(self.kept.items())])

    @classmethod
    def parse(cls, key: str) -> Candidate:
        """Read a `key`."""
        height, width, kept = json.loads(key)
        return cls(dict(kept), Size(height, width))


class StructureError(UserError):
    """A structure that the network's own code does not run at."""


@contextmanager
def _refusing() -> Iterator[None]:
    try:
        yield
    except UserError as error:
        raise StructureError(str(error)) from error


class Space:
    """All structures that can be cut out of one trained detector, in whole blocks of this machine's channels.

    A point is one level for each channel group, 1 to 16 sixteenths of its channels, and the place of the input's size
    among `sizes`. Levels say how channels are shared out; how many there are in all is set by one factor that scales
    every level, so that any point can be fitted to a budget.

    Args:
        detector: trained; left as it was.
        criterion: decides which channels of a group stay.
        smaller_inputs: how many input sizes below the detector's own may be chosen, each 32 px shorter.
        moments: of the detector; with them, what reads the channels that go may make up for them (`cuts`).

    Raises:
        UserError: if nothing can be cut.
    """

    def __init__(
        self, detector: Detector, criterion: Criterion, smaller_inputs: int = 0, moments: Moments | None = None
    ) -> None:
        self.detector = detector
        self._moments = moments
        self.sizes = input_sizes(detector.spec.size, smaller_inputs)
        self._example = torch.zeros(1, 3, detector.spec.size.height, detector.spec.size.width)
        self.structure = analyse(detector, self._example)
        self.choices = self._changeable(criterion)
        self._strength = strengths(self.structure, self.choices)
        every = own_shapes(detector)
        self._weights = {name: every[name] for name in self.structure.recording.work}
        self._costs = PaperCosts(detector, self.structure)
        self.whole = Candidate({c.group.name: c.group.steps for c in self.choices}, self.sizes[0])
        self.whole_work = self.work(self.whole)

    def _changeable(self, criterion: Criterion) -> list[Choice]:
        """The groups with more than one legal width that the network's own code lets change."""
        found = choices(self.detector, self.structure, criterion, align=channel_block())
        half = {c.group.name: c.nearest(c.group.steps / 2) for c in found}
        try:
            plan(self.detector, self._example, self.structure, half, strengths(self.structure, found))
        except UserError:
            fixed = shrink(self.detector, self._example, 0.5, align=channel_block()).fixed
            found = [c for c in found if c.group.name not in fixed]
        if not (found := [c for c in found if len(c.legal) > 1]):
            raise UserError("this detector has no channel group that can be cut: there is nothing to search.")
        return found

    @property
    def dimensions(self) -> dict[str, tuple[int, int]]:
        """The lowest and highest level of each dimension."""
        groups = {choice.group.name: (1, LEVELS) for choice in self.choices}
        return groups | ({SIZE: (0, len(self.sizes) - 1)} if len(self.sizes) > 1 else {})

    def even(self, level: int = LEVELS) -> Levels:
        """Every group at one level, the largest input: uniform pruning."""
        return {name: low if name == SIZE else level for name, (low, _) in self.dimensions.items()}

    def by_worth(self, pressure: float) -> Levels:
        """Levels that cut where channels are worth least, with this share (0 to 1) of all channels gone."""
        scores = [choice.scores / max(float(choice.scores.mean()), 1e-30) for choice in self.choices]
        ordered = sorted(float(score) for group in scores for score in group)
        limit = ordered[min(len(ordered) - 1, int(pressure * len(ordered)))]
        shares = [float((group > limit).mean()) for group in scores]
        levels = [max(1, round(LEVELS * share)) for share in shares]
        return self.even() | {c.group.name: level for c, level in zip(self.choices, levels, strict=True)}

    def candidate(self, levels: Levels, factor: float = 1.0) -> Candidate:
        """The structure of a point, its widths scaled by a factor and rounded to legal counts."""
        kept = {}
        for choice in self.choices:
            share = min(1.0, max(FEWEST, factor * levels[choice.group.name] / LEVELS))
            kept[choice.group.name] = choice.nearest(share * choice.group.steps)
        return Candidate(kept, self.sizes[levels.get(SIZE, 0)])

    def fit(self, levels: Levels, over: Callable[[Candidate], bool], *, grow: bool) -> Candidate:
        """The widest structure of a point's proportions that is not over the budget.

        Args:
            levels: the point.
            over: whether a structure costs too much; wider never costs less.
            grow: widen a point that is under the budget too; otherwise it stays as it is.

        Returns:
            The structure; the narrowest of all where even that is over.
        """
        high = LEVELS / min(levels[c.group.name] for c in self.choices) if grow else 1.0
        if not over(widest := self.candidate(levels, high)):
            return widest
        low, best = 0.0, self.candidate(levels, 0.0)
        for _ in range(BISECTIONS):
            middle = (low + high) / 2
            if over(found := self.candidate(levels, middle)):
                high = middle
            else:
                low, best = middle, found
        return best

    def narrowest(self) -> Candidate:
        """The least of everything."""
        return replace(self.candidate(self.even(), 0.0), size=self.sizes[-1])

    def work(self, candidate: Candidate) -> dict[str, float]:
        """Multiply-adds by the name of the weight, at the candidate's widths and the detector's own input size."""
        wanted = shapes(self._weights, self.structure, candidate.kept)
        positions = self.structure.recording.work
        return {name: float(count * math.prod(wanted[name])) for name, count in positions.items()}

    def multiply_adds(self, candidate: Candidate) -> int:
        """In all, at the candidate's input size."""
        return round(self._costs.of(candidate.kept, Quantity.MULTIPLY_ADDS) * self.area(candidate))

    def parameters(self, candidate: Candidate) -> int:
        """In all."""
        return round(self._costs.of(candidate.kept, Quantity.PARAMETERS))

    def area(self, candidate: Candidate) -> float:
        """The candidate's input in units of the detector's own; every map has that share of its points."""
        own = self.sizes[0]
        return candidate.size.height * candidate.size.width / (own.height * own.width)

    def plan(self, candidate: Candidate) -> Plan:
        """Which channels a candidate has of the detector's; it does not depend on the weights.

        Raises:
            UserError: if the network's code does not run at these widths.
        """
        return plan(self.detector, self._example, self.structure, candidate.kept, self._strength)

    def cut(self, candidate: Candidate) -> Detector:
        """The detector at a candidate's widths and input size; batch-norms still as they were.

        Raises:
            StructureError: if the network's code does not run at these widths.
        """
        with _refusing():
            return self._named(cut(self.detector, self.plan(candidate)), candidate)

    def cuts(self, candidate: Candidate) -> list[Detector]:
        """As `cut`, and where moments are known the same with layers that make up for what they lost.

        Raises:
            StructureError: as `cut`.
        """
        with _refusing():
            chosen = self.plan(candidate)
            made = [cut(self.detector, chosen)]
            if self._moments is not None:
                made.append(reconstruct(self.detector, chosen, self._moments))
        return [self._named(one, candidate) for one in made]

    def _named(self, made: nn.Module, candidate: Candidate) -> Detector:
        if not isinstance(made, Detector):
            raise TypeError("a cut detector is a detector")
        made.remember(self.widths(candidate))
        made.spec = replace(made.spec, size=candidate.size)
        return made.eval()

    def widths(self, candidate: Candidate) -> dict[str, int]:
        """Channels left in each group that is narrower than the detector's."""
        groups = {choice.group.name: choice.group for choice in self.choices}
        narrower = {name: steps for name, steps in candidate.kept.items() if steps != groups[name].steps}
        return {name: groups[name].at(steps) for name, steps in narrower.items()}


def input_sizes(size: Size, smaller: int) -> tuple[Size, ...]:
    """An input size and some smaller ones of about its shape: the longer side 32 px less each, the shorter as near."""
    longest = max(size.height, size.width)
    found: list[Size] = []
    for step in range(smaller + 1):
        ratio = (longest - step * STRIDE) / longest
        sides = [max(1, round(side * ratio / STRIDE)) * STRIDE for side in (size.height, size.width)]
        if step == 0 or (max(sides) >= SMALLEST_SIDE and Size(*sides) not in found):
            found.append(Size(*sides))
    return tuple(found)
