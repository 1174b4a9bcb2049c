"""How a search chooses what to try next: each strategy is an Optuna sampler, so the study's storage is all its memory.

What a trial draws depends on the seed, the trial's number and the trials finished before it. So an interrupted search
goes on as if nothing had happened, and workers that share a study never draw the same by design.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import optuna
from optuna.samplers import BaseSampler

from leandet.search.amc import Walker
from leandet.search.samplers import Drawing, Renewed, Started, distributions
from leandet.search.scene import Draw, Fit, Scene, Tried
from leandet.search.space import SIZE, Levels, Space

STARTS = (0.1, 0.25, 0.4)  # shares of the channels that starting points by worth lose before they are fitted
PARENTS = 0.25  # share of the trials, the best, that evolution breeds from
CROSSED, MUTATED, FARTHEST = 0.5, 0.12, 4  # chances of a crossing and of each level's change, by at most so many levels
ANEW = 1 / 3  # chance that a changed level is drawn anew
WARMTH = 0.02  # AP that annealing gives away at first with probability 1/e
ROUNDS, BLOCKS = 5, 6  # of NetAdapt: latencies on the way to the budget, and blocks of groups tried at each
POPULATION = 16


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


def _amc(scene: Scene, seed: int) -> BaseSampler:
    return Drawing(scene, seed, Walker(scene, seed), Fit.BUDGET)


# The one table that the command line needs.
STRATEGIES: dict[str, Strategy] = {
    "evolution": _own(evolve, Fit.BUDGET),
    "annealing": _own(anneal, Fit.BUDGET),
    "netadapt": _own(net_adapt, Fit.NONE, starts=False),
    "amc": Strategy(Fit.BUDGET, _amc),
    "nsga2": Strategy(Fit.NARROW, _nsga2),
    "tpe": Strategy(Fit.NARROW, _tpe),
    "random": _own(draw_random, Fit.BUDGET, starts=False),
    "uniform": _own(draw_even, Fit.BUDGET, starts=False),
}


def sampler(strategy: Strategy, scene: Scene, seed: int) -> BaseSampler:
    """The strategy's sampler, its starting points first."""
    made = strategy.sampler(scene, seed)
    return Started(starting_points(scene.space), made, distributions(scene.space)) if strategy.starts else made
