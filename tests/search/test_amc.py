"""AMC: walks stay within reach of the budget, and the actor learns from finished trials and from nothing else."""

import random
import statistics

import pytest
import torch

from leandet.search.amc import NOISE, WARM_UP, Course, Walker, _near, affordable, trained
from leandet.search.latency import Budget
from leandet.search.scene import Fit, Scene, Tried
from leandet.search.space import SIZE


def tight(scene, share):
    return Scene(scene.space, scene.clock, Budget(share * scene.ms(scene.space.whole)))


def history(scene, count, seed=0):
    """Finished trials of random points, of more AP the more of the last groups stay."""
    chance, found = random.Random(seed), []
    for number in range(count):
        levels = {name: chance.randint(low, high) for name, (low, high) in scene.space.dimensions.items()}
        candidate = scene.fitted(levels, Fit.BUDGET)
        shares = [candidate.kept[c.group.name] / c.group.steps for c in scene.space.choices]
        ap = sum(place * share for place, share in enumerate(shares)) / len(shares) ** 2
        found.append(Tried(number, levels, candidate, ap, True, scene.ms(candidate)))
    return found


@pytest.mark.parametrize("share", [0.35, 0.5, 0.8])
@pytest.mark.parametrize("count", [0, WARM_UP])
def test_a_walk_ends_within_the_budget(scene, share, count):
    own = tight(scene, share)
    walker, tried = Walker(own, 0), history(own, count)
    for number in range(count, count + 4):
        levels = walker(own, tried, number, random.Random(number))
        assert set(levels) == set(own.space.dimensions)
        assert all(low <= levels[name] <= high for name, (low, high) in own.space.dimensions.items())
        assert not own.over(own.space.candidate(levels))


def test_actions_are_limited_as_brute_force_says(scene):
    own, chance = tight(scene, 0.35), random.Random(0)
    space = own.space
    least = {name: high if name == SIZE else low for name, (low, high) in space.dimensions.items()}
    names, levels, limited = list(Course.of(own).names), {}, 0
    for name in names:
        low, high = space.dimensions[name]
        wanted = low if name == SIZE else chance.randint(high - 3, high)  # greedy
        got = affordable(own, levels, name, wanted)
        allowed = [n for n in range(low, high + 1) if not own.over(space.candidate(least | levels | {name: n}))]
        best = min(n for n in allowed if n >= wanted) if name == SIZE else max(n for n in allowed if n <= wanted)
        assert got == best
        limited += got != wanted
        levels[name] = got
    assert limited > 1


def test_where_nothing_is_within_reach_the_least_is_taken(scene):
    own = tight(scene, 1e-6)
    levels = Walker(own, 0)(own, [], 0, random.Random(0))
    assert own.space.candidate(levels).kept == own.space.narrowest().kept


def test_what_was_done_is_what_was_judged(scene):
    course = Course.of(scene)
    for trial in history(scene, 5):
        actions = dict(zip(course.names, course.actions(scene, trial.candidate), strict=True))
        for choice in scene.space.choices:
            assert actions[choice.group.name] * choice.group.steps == pytest.approx(
                trial.candidate.kept[choice.group.name]
            )
        if SIZE in actions:
            assert scene.space.sizes[course.level(SIZE, actions[SIZE])] == trial.candidate.size
        assert all(0 < action <= 1 for action in actions.values())


def test_states_are_what_the_walk_has_seen():
    own = torch.tensor([[0.0, 1.0, 0.5, 0.6], [0.5, 1.0, 0.4, 0.4]])
    states = Course(("a", "b"), own, 1).states(torch.tensor([[0.25, 0.5]]))
    assert states.shape == (1, 2, 7)
    assert states[0, 0, 4:].tolist() == pytest.approx([1.0, 0.0, 0.4])  # nothing done, nothing saved, b still to come
    assert states[0, 1, 4:].tolist() == pytest.approx([0.25, 0.6 * 0.75, 0.0])


STEPS, WANTED = 8, [0.2, 0.3, 0.3, 0.4, 0.6, 0.7, 0.8, 0.9]


def lesson(count=40, seed=0):
    """Trials that are worth more the nearer their actions are to the wanted ones."""
    generator = torch.Generator().manual_seed(seed)
    actions = torch.rand(count, STEPS, generator=generator)
    own = torch.tensor([[place / STEPS, 1.0, 0.5, 1 / STEPS] for place in range(STEPS)])
    rewards = -(actions - torch.tensor(WANTED)).square().sum(1)
    return Course(tuple("abcdefgh"), own, 1).states(actions), actions, rewards


def test_the_actor_learns_what_pays():
    misses = []
    for seed in range(3):
        states, actions, rewards = lesson(seed=seed)
        own = trained(states, actions, rewards, seed)(states)[..., 0].detach()
        assert own.min() > 0
        assert own.max() < 1
        misses.append(float((own.mean(0) - torch.tensor(WANTED)).abs().mean()))
    unlearned = statistics.mean(abs(0.5 - wanted) for wanted in WANTED)
    assert statistics.mean(misses) < 0.6 * unlearned


def test_the_same_trials_train_the_same_actor_and_touch_no_other_chance():
    torch.manual_seed(5)
    before = torch.get_rng_state()
    one, two, three = (trained(*lesson(), seed)(lesson()[0]) for seed in (0, 0, 1))
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(one, two)
    assert not torch.allclose(one, three)


def test_a_draw_depends_on_the_finished_trials_and_its_chance_alone(scene):
    tried = history(scene, WARM_UP + 2)
    used = Walker(scene, 0)
    used(scene, tried[:-1], 40, random.Random(9))  # trained on others before
    drawn = used(scene, tried, 40, random.Random(1))
    assert drawn == Walker(scene, 0)(scene, tried, 40, random.Random(1))
    assert drawn != Walker(scene, 0)(scene, tried, 40, random.Random(2))
    better = [*tried[:-1], Tried(tried[-1].number, tried[-1].levels, tried[-1].candidate, 9.0, True, 1.0)]
    assert drawn != Walker(scene, 0)(scene, better, 40, random.Random(1))


@pytest.mark.slow
def test_noise_falls_with_the_trials_and_stays_within(scene):
    def spread(count):
        walker, tried = Walker(scene, 0), history(scene, count)
        drawn = [walker(scene, tried, number, random.Random(number)) for number in range(6)]
        names = [choice.group.name for choice in scene.space.choices]
        return statistics.mean(statistics.pstdev(levels[name] for levels in drawn) for name in names)

    assert spread(60) < 0.6 * spread(WARM_UP)
    chance = random.Random(0)
    drawn = [_near(0.9, NOISE, chance) for _ in range(500)]
    assert all(0 < action <= 1 for action in drawn)
    assert statistics.mean(drawn) < 0.75  # cut off, not clipped: no heap at 1
    assert max(drawn.count(value) for value in drawn) == 1
