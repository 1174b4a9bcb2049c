"""Optuna samplers that draw from the seed, the trial's number and the finished trials, and remember nothing else."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from optuna.distributions import BaseDistribution, IntDistribution
from optuna.samplers import BaseSampler
from optuna.study import Study
from optuna.trial import FrozenTrial, TrialState

from leandet.search.scene import Draw, Fit, Scene, Tried
from leandet.search.space import Candidate, Levels, Space

REDRAWS = 20  # of a structure that is known already
KEY = "candidate"  # where a trial keeps its structure


def finished(study: Study) -> list[Tried]:
    """The trials that were judged, in the order of their numbers."""
    trials = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
    return [
        Tried(
            t.number,
            dict(t.params),
            Candidate.parse(t.user_attrs[KEY]),
            t.values[0],
            all(c <= 0 for c in t.constraints.values()),
            t.values[1],
        )
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
