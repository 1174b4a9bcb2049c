"""Every strategy: legal points, the same point for the same seed and history, within budget, and better than chance."""

import statistics

import optuna
import pytest

from leandet.search.samplers import KEY
from leandet.search.scene import Fit
from leandet.search.strategies import BLOCKS, ROUNDS, STRATEGIES, starting_points
from leandet.search.study import Worker, judged

TRIALS = 40


def worth(space):
    """A made-up AP: layers count unevenly, the last ones most, each with falling returns."""
    weights = {choice.group.name: 1.0 + place for place, choice in enumerate(space.choices)}
    total = sum(weights.values())

    def judge(candidate):
        kept = {c.group.name: candidate.kept[c.group.name] / c.group.steps for c in space.choices}
        return sum(weights[name] * share**0.3 for name, share in kept.items()) / total * space.area(candidate) ** 0.1

    return judge


def run(scene, name, trials=TRIALS, seed=0, study=None):
    study = study or optuna.create_study(directions=["maximize", "minimize"])
    judge = worth(scene.space)
    Worker(study, scene, STRATEGIES[name], judge, trials, seed, float("inf"), tell=lambda number, trial: None).run()
    return study


@pytest.fixture(scope="module")
def studies(scene):
    return {name: run(scene, name) for name in STRATEGIES}


@pytest.mark.parametrize("name", STRATEGIES)
def test_points_are_legal_and_fitted(scene, studies, name):
    space = scene.space
    for trial in studies[name].trials:
        assert set(trial.params) == set(space.dimensions)
        assert all(low <= trial.params[key] <= high for key, (low, high) in space.dimensions.items())
    if STRATEGIES[name].fit is not Fit.NONE:
        assert all(trial.met for trial in judged(studies[name], scene.over))


@pytest.mark.parametrize("name", STRATEGIES)
def test_no_structure_is_judged_twice(scene, studies, name):
    keys = [trial.candidate.key for trial in judged(studies[name], scene.over)]
    assert len(keys) == len(set(keys))


@pytest.mark.parametrize("name", STRATEGIES)
def test_an_interrupted_search_draws_what_an_uninterrupted_one_draws(scene, studies, name):
    study = run(scene, name, trials=12)
    run(scene, name, trials=20, study=study)
    wanted = [trial.user_attrs[KEY] for trial in studies[name].trials[:20]]
    assert [trial.user_attrs[KEY] for trial in study.trials] == wanted


@pytest.mark.parametrize("name", [name for name in STRATEGIES if name not in {"netadapt", "uniform"}])  # no chance
def test_another_seed_draws_other_points(scene, studies, name):
    other = run(scene, name, trials=12, seed=1)
    assert [t.params for t in other.trials] != [t.params for t in studies[name].trials[:12]]


@pytest.mark.parametrize("name", [name for name, how in STRATEGIES.items() if how.starts])
def test_the_first_trial_is_uniform_pruning_to_the_budget(scene, studies, name):
    first = judged(studies[name], scene.over)[0]
    assert first.candidate == scene.space.fit(scene.space.even(), scene.over, grow=True)


def best(scene, study):
    return max(trial.ap for trial in judged(study, scene.over) if trial.met)


@pytest.mark.parametrize("name", ["evolution", "annealing", "amc"])
def test_those_that_learn_beat_uniform_pruning(scene, studies, name):
    uniform = judged(studies[name], scene.over)[0]
    assert best(scene, studies[name]) > uniform.ap


def mean_best(scene, name):
    """Of several seeds: a single draw of so few trials promises nothing."""
    return statistics.mean(best(scene, run(scene, name, seed=seed)) for seed in range(4))


@pytest.fixture(scope="module")
def by_chance(many_groups):
    return mean_best(many_groups, "random")


@pytest.mark.parametrize("name", ["evolution", pytest.param("amc", marks=pytest.mark.slow)])
def test_those_that_learn_beat_chance(many_groups, by_chance, name):
    assert mean_best(many_groups, name) > by_chance


def test_netadapt_walks_from_the_whole_network_to_the_budget(scene, studies):
    trials = judged(studies["netadapt"], scene.over)
    assert trials[0].candidate == scene.space.whole
    assert trials[-1].met
    rounds = [[t.latency_ms for t in trials if t.number and (t.number - 1) // BLOCKS == turn] for turn in range(ROUNDS)]
    slowest = [max(times) for times in rounds if times]
    assert slowest == sorted(slowest, reverse=True)


def test_starting_points_differ(scene):
    points = starting_points(scene.space)
    assert points[0] == scene.space.even()
    assert len({str(point) for point in points}) == len(points) > 1
