"""How a search chooses what to try next: each strategy is an Optuna sampler, so the study's storage is all its memory.

What a trial draws depends on the seed, the trial's number and the trials finished before it. So an interrupted search
goes on as if nothing had happened, and workers that share a study never draw the same by design.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum, auto
from typing import Any

import optuna
from optuna.distributions import BaseDistribution, IntDistribution
from optuna.samplers import BaseSampler
from optuna.study import Study
from optuna.trial import FrozenTrial, TrialState

from leandet.search.latency import Budget, Clock
from leandet.search.space import LEVELS, SIZE, Candidate, Levels, Space

STARTS = (0.1, 0.25, 0.4)  # shares of the channels that starting points by worth lose before they are fitted
PARENTS = 0.25  # share of the trials, the best, that evolution breeds from
CROSSED, MUTATED, FARTHEST = 0.5, 0.12, 4  # chances of a crossing and of each level's change, by at most so many levels
ANEW = 1 / 3  # chance that a changed level is drawn anew
WARMTH = 0.02  # AP that annealing gives away at first with probability 1/e
ROUNDS, BLOCKS = 5, 6  # of NetAdapt: latencies on the way to the budget, and blocks of groups tried at each
POPULATION = 16
REDRAWS = 20  # of a structure that is known already
KEY = "candidate"  # where a trial keeps its structure


class Fit(Enum):
    """What is done with a drawn point before it is judged."""

    BUDGET = auto()  # scaled up or down to the widest that meets the budget
    NARROW = auto()  # scaled down only if it is over the budget
    NONE = auto()  # judged as it is


@dataclass(frozen=True, slots=True)
class Tried:
    """A finished trial: its point, AP (a fraction), estimated latency, and whether that meets the budget."""

    number: int
    levels: Levels
    ap: float
    met: bool
    latency_ms: float


@dataclass(frozen=True, slots=True)
class Scene:
    """Where a search takes place.

    Attributes:
        space: what may be chosen.
        clock: estimates what a candidate costs.
        budget: what it may cost.
    """

    space: Space
    clock: Clock
    budget: Budget

    def ms(self, candidate: Candidate) -> float:
        """A candidate's latency as estimated."""
        return self.clock.ms(self.space, candidate)

    def over(self, candidate: Candidate) -> bool:
        """Whether a candidate costs more than it may, as estimated."""
        return self.budget.excess(self.ms(candidate), self.clock.bytes(self.space, candidate)) > 0

    def fitted(self, levels: Levels, fit: Fit) -> Candidate:
        """The structure that is judged for a point."""
        if fit is Fit.NONE:
            return self.space.candidate(levels)
        return self.space.fit(levels, self.over, grow=fit is Fit.BUDGET)

    def lowered(self, levels: Levels, names: Sequence[str], wanted_ms: float) -> Levels:
        """The point with the named groups lowered, each in proportion, until its latency is the wanted one or less."""
        for step in range(LEVELS):
            share = 1 - step / LEVELS
            made = levels | {n: max(1, round(levels[n] * share)) for n in names if n != SIZE}
            if self.ms(self.space.candidate(made)) <= wanted_ms:
                break
        return made


Draw = Callable[[Scene, Sequence[Tried], int, random.Random], Levels]


@dataclass(frozen=True, slots=True)
class Strategy:
    """One way to search.

    Attributes:
        fit: see `Fit`.
        sampler: makes the sampler from the scene and a seed.
        starts: whether the first trials are the starting points.
    """

    fit: Fit
    sampler: Callable[[Scene, int], BaseSampler]
    starts: bool = True


def starting_points(space: Space) -> list[Levels]:
    """Uniform pruning, and pruning by worth at several pressures, at every input size."""
    shares = [space.even(), *(space.by_worth(pressure) for pressure in STARTS)]
    places = range(space.dimensions[SIZE][1] + 1) if SIZE in space.dimensions else (None,)
    points = [share if place is None else share | {SIZE: place} for share in shares for place in places]
    return [point for place, point in enumerate(points) if point not in points[:place]]


def finished(study: Study) -> list[Tried]:
    """The trials that were judged, in the order of their numbers."""
    trials = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
    return [
        Tried(t.number, dict(t.params), t.values[0], all(c <= 0 for c in t.constraints.values()), t.values[1])
        for t in sorted(trials, key=lambda t: t.number)
    ]


def distributions(space: Space) -> dict[str, BaseDistribution]:
    """The space as Optuna has it."""
    return {name: IntDistribution(low, high) for name, (low, high) in space.dimensions.items()}


class Drawing(BaseSampler):
    """A sampler that draws whole points by one of our own rules, again where a structure is known already."""

    def __init__(self, scene: Scene, seed: int, draw: Draw, fit: Fit) -> None:
        self._scene, self._seed, self._draw, self._fit = scene, seed, draw, fit

    def infer_relative_search_space(self, study: Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        """Every dimension, always."""
        return distributions(self._scene.space)

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """One point."""
        chance = random.Random(f"{self._seed} {trial.number}")
        tried, known = finished(study), {t.user_attrs.get(KEY) for t in study.get_trials(deepcopy=False)}
        for _ in range(REDRAWS):
            levels = self._draw(self._scene, tried, trial.number, chance)
            if self._scene.fitted(levels, self._fit).key not in known:
                break
        return dict(levels)

    def sample_independent(
        self, study: Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        """Never needed: every dimension is drawn together."""
        raise RuntimeError(f"{param_name} is no dimension of the space")


class Renewed(BaseSampler):
    """One of Optuna's samplers, made anew for each trial with a seed of its own."""

    def __init__(self, seed: int, make: Callable[[int], BaseSampler]) -> None:
        self._seed, self._make = seed, make
        self._now = make(seed)

    def before_trial(self, study: Study, trial: FrozenTrial) -> None:
        """Take the trial's seed."""
        self._now = self._make(random.Random(f"{self._seed} {trial.number}").getrandbits(31))
        self._now.before_trial(study, trial)

    def infer_relative_search_space(self, study: Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        """The sampler's own."""
        return self._now.infer_relative_search_space(study, trial)

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """The sampler's own."""
        return self._now.sample_relative(study, trial, search_space)

    def sample_independent(
        self, study: Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        """The sampler's own."""
        return self._now.sample_independent(study, trial, param_name, param_distribution)

    def after_trial(self, study: Study, trial: FrozenTrial, state: TrialState, values: Sequence[float] | None) -> None:
        """The sampler's own."""
        self._now.after_trial(study, trial, state, values)


class Started(BaseSampler):
    """A sampler whose first trials are given points.

    Args:
        points: the k-th trial, those that failed left out, draws the k-th.
        then: the sampler that takes over from there.
        space: every dimension.
    """

    def __init__(self, points: Sequence[Levels], then: BaseSampler, space: Mapping[str, BaseDistribution]) -> None:
        self._points, self._then, self._space = points, then, dict(space)

    def before_trial(self, study: Study, trial: FrozenTrial) -> None:
        """The sampler's own."""
        self._then.before_trial(study, trial)

    def infer_relative_search_space(self, study: Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        """Every dimension for a given point, then the sampler's own."""
        if _place(study, trial) < len(self._points):
            return self._space
        return self._then.infer_relative_search_space(study, trial)

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """The given point, then the sampler's own."""
        if (place := _place(study, trial)) < len(self._points):
            return dict(self._points[place])
        return self._then.sample_relative(study, trial, search_space)

    def sample_independent(
        self, study: Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        """The sampler's own."""
        return self._then.sample_independent(study, trial, param_name, param_distribution)

    def after_trial(self, study: Study, trial: FrozenTrial, state: TrialState, values: Sequence[float] | None) -> None:
        """The sampler's own."""
        self._then.after_trial(study, trial, state, values)


def _place(study: Study, trial: FrozenTrial) -> int:
    """How many trials before this one did not fail."""
    return sum(t.number < trial.number and t.state is not TrialState.FAIL for t in study.get_trials(deepcopy=False))


def draw_random(scene: Scene, tried: Sequence[Tried], number: int, chance: random.Random) -> Levels:
    """The baseline: every level uniform."""
    return {name: chance.randint(low, high) for name, (low, high) in scene.space.dimensions.items()}


def draw_even(scene: Scene, tried: Sequence[Tried], number: int, chance: random.Random) -> Levels:
    """Uniform pruning, what every search has to beat; one trial is all there is."""
    return scene.space.even()


def mutated(space: Space, levels: Levels, chance: random.Random, share: float = MUTATED) -> Levels:
    """A neighbour: some levels, at least one, moved by 1 to 4, and one in three of those drawn anew."""
    names = list(space.dimensions)
    changed = [name for name in names if chance.random() < share] or [chance.choice(names)]
    made = dict(levels)
    for name in changed:
        low, high = space.dimensions[name]
        if chance.random() < ANEW:
            made[name] = chance.randint(low, high)
            continue
        step = chance.choice((-1, 1)) * (1 if name == SIZE else chance.randint(1, FARTHEST))
        made[name] = min(high, max(low, made[name] + step))
    return made


def evolve(scene: Scene, tried: Sequence[Tried], number: int, chance: random.Random) -> Levels:
    """A child of the best quarter, once there are 16: two of them crossed, then some levels changed."""
    if len(tried) < POPULATION:
        return draw_random(scene, tried, number, chance)
    ranked = sorted(tried, key=lambda t: (not t.met, -t.ap))
    parents = ranked[: max(2, math.ceil(PARENTS * len(ranked)))]
    child = dict(chance.choice(parents).levels)
    if chance.random() < CROSSED:
        other = chance.choice(parents).levels
        child = {name: chance.choice((level, other[name])) for name, level in child.items()}
    return mutated(scene.space, child, chance)


def anneal(scene: Scene, tried: Sequence[Tried], number: int, chance: random.Random) -> Levels:
    """Simulated annealing (AutoCompress, arXiv 1907.03141, section 3.3): a neighbour of where the walk stands.

    The walk is replayed from the finished trials. A worse one is accepted with probability exp(-loss of AP / warmth);
    the warmth falls as 1 / (1 + trials / 20).
    """
    if not tried:
        return draw_random(scene, tried, number, chance)
    here = tried[0]
    for step, there in enumerate(tried[1:]):
        loss = (here.ap - there.ap) if there.met == here.met else (float("inf") if here.met else -1.0)
        warmth = WARMTH / (1 + step / 20)
        if loss <= 0 or random.Random(f"{there.number}").random() < math.exp(-min(700.0, loss / warmth)):
            here = there
    return mutated(scene.space, here.levels, chance)


def net_adapt(scene: Scene, tried: Sequence[Tried], number: int, chance: random.Random) -> Levels:
    """NetAdapt (arXiv 1804.03230, algorithm 1): from the whole network to the budget, a little faster each round.

    Each of five rounds tries to reach its own latency, on the way from the whole network's to the budget, by narrowing
    one of six blocks of neighbouring groups alone (the paper tries each layer), and keeps the one of most AP. Where a
    block is not enough, all the others give the rest. After the last round the walk goes on around its end.
    """
    space = scene.space
    here = space.even()
    if number == 0:
        return here
    turn, block = divmod(number - 1, BLOCKS)
    for done in range(min(turn, ROUNDS)):
        if found := [t for t in tried if t.number and (t.number - 1) // BLOCKS == done]:
            here = max(found, key=lambda t: t.ap).levels
    names, budget = list(space.even()), scene.budget.ms
    if turn >= ROUNDS:
        return scene.lowered(mutated(space, here, chance), names, budget)
    whole = scene.ms(space.whole)
    wanted = whole * (budget / whole) ** ((turn + 1) / ROUNDS) if whole > budget else whole
    own = [name for place, name in enumerate(names) if place * BLOCKS // len(names) == block]
    return scene.lowered(scene.lowered(here, own, wanted), names, wanted)


def _own(draw: Draw, fit: Fit, *, starts: bool = True) -> Strategy:
    return Strategy(fit, lambda scene, seed: Drawing(scene, seed, draw, fit), starts)


def _nsga2(scene: Scene, seed: int) -> BaseSampler:
    return Renewed(seed, lambda own: optuna.samplers.NSGAIISampler(population_size=POPULATION, seed=own))


def _tpe(scene: Scene, seed: int) -> BaseSampler:
    return Renewed(seed, lambda own: optuna.samplers.TPESampler(seed=own, multivariate=True))


# The one table that the command line needs.
STRATEGIES: dict[str, Strategy] = {
    "evolution": _own(evolve, Fit.BUDGET),
    "annealing": _own(anneal, Fit.BUDGET),
    "netadapt": _own(net_adapt, Fit.NONE, starts=False),
    "nsga2": Strategy(Fit.NARROW, _nsga2),
    "tpe": Strategy(Fit.NARROW, _tpe),
    "random": _own(draw_random, Fit.BUDGET, starts=False),
    "uniform": _own(draw_even, Fit.BUDGET, starts=False),
}


def sampler(strategy: Strategy, scene: Scene, seed: int) -> BaseSampler:
    """The strategy's sampler, its starting points first."""
    made = strategy.sampler(scene, seed)
    return Started(starting_points(scene.space), made, distributions(scene.space)) if strategy.starts else made
