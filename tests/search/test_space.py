"""The space: legal widths, fits that use up the budget, and cuts that are ordinary detectors."""

from dataclasses import replace
from itertools import cycle
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from leandet.card import Card
from leandet.cost.count import count
from leandet.detector.files import load_detector, save_detector
from leandet.machine import channel_block
from leandet.preprocess import Size
from leandet.runtime.bench import BenchRow
from leandet.search.latency import Budget, Pace, usual
from leandet.search.scene import Scene
from leandet.search.space import LEVELS, SIZE, Candidate, input_sizes


def levels_of(space, seed):
    chance = np.random.default_rng(seed)
    return {name: int(chance.integers(low, high + 1)) for name, (low, high) in space.dimensions.items()}


@given(st.integers(0, 10**6), st.floats(0, 20))
@settings(max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_every_width_is_legal_and_grows_with_the_factor(space, seed, factor):
    levels = levels_of(space, seed)
    narrow, wide = space.candidate(levels, factor), space.candidate(levels, factor * 1.3)
    for choice in space.choices:
        name = choice.group.name
        assert 1 <= narrow.kept[name] <= wide.kept[name] <= choice.group.steps
        width = choice.group.at(narrow.kept[name])
        assert width % channel_block() == 0 or width == choice.group.width


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("share", [0.3, 0.6])
def test_a_fit_uses_up_the_budget_and_no_more(scene, seed, share):
    space, levels = scene.space, levels_of(scene.space, seed)
    tight = Scene(space, scene.clock, Budget(share * scene.ms(space.whole)))
    found = space.fit(levels, tight.over, grow=True)
    assert not tight.over(found)
    factors = np.linspace(0, LEVELS, 400)
    brute = [c for c in (space.candidate(levels, float(f)) for f in factors) if not tight.over(c)]
    assert tight.ms(found) >= max(tight.ms(c) for c in brute) - 1e-9
    assert tight.ms(space.fit(levels, tight.over, grow=False)) <= tight.ms(found)


def test_a_file_size_binds_too(scene):
    space, whole = scene.space, scene.clock.bytes(scene.space, scene.space.whole)
    tight = Scene(space, scene.clock, Budget(1e9, whole // 2))
    found = space.fit(space.even(), tight.over, grow=True)
    assert 0.8 * whole / 2 < scene.clock.bytes(space, found) <= whole / 2


def test_a_point_without_growth_stays_where_it_is_within_the_budget(scene):
    levels = scene.space.even(3)
    loose = Scene(scene.space, scene.clock, Budget(1e9))
    assert scene.space.fit(levels, loose.over, grow=False) == scene.space.candidate(levels)
    assert scene.space.fit(levels, loose.over, grow=True) == scene.space.whole


def test_costs_are_the_counters(space):
    levels = levels_of(space, 1) | {SIZE: 1}
    candidate = space.candidate(levels)
    made = space.cut(candidate)
    cost = count(made, torch.zeros(1, 3, candidate.size.height, candidate.size.width))
    assert candidate.size == made.spec.size == Size(96, 96)
    assert space.parameters(candidate) == cost.parameters
    assert space.multiply_adds(candidate) == pytest.approx(cost.multiply_adds, rel=0.02)


def test_a_cut_is_an_ordinary_detector(space, tmp_path):
    candidate = space.candidate(levels_of(space, 2))
    made = space.cut(candidate)
    save_detector(made, Card(("a", "b", "c"), made.spec, {}, {}), tmp_path / "m.safetensors")
    again, _ = load_detector(tmp_path / "m.safetensors")
    images = torch.randint(0, 256, (1, 3, made.spec.size.height, made.spec.size.width), dtype=torch.uint8)
    with torch.inference_mode():
        for a, b in zip(made(images), again(images), strict=True):
            torch.testing.assert_close(a, b, rtol=0, atol=0)


def test_the_detector_itself_is_left_as_it_was(space):
    before = {name: tensor.clone() for name, tensor in space.detector.state_dict().items()}
    space.cut(space.narrowest())
    assert space.detector.spec.kept == {}
    for name, tensor in space.detector.state_dict().items():
        torch.testing.assert_close(tensor, before[name], rtol=0, atol=0)


def test_a_key_says_all(space):
    candidate = space.candidate(levels_of(space, 3))
    assert Candidate.parse(candidate.key) == candidate
    assert candidate.key != space.whole.key


@pytest.mark.parametrize(
    ("size", "smaller", "wanted"),
    [
        (Size(256, 320), 0, [(256, 320)]),
        (Size(256, 320), 2, [(256, 320), (224, 288), (192, 256)]),  # 230.4 and 204.8 are nearest to these
        (Size(320, 320), 1, [(320, 320), (288, 288)]),
        (Size(128, 128), 3, [(128, 128), (96, 96)]),
        (Size(64, 64), 2, [(64, 64)]),
    ],
)
def test_smaller_inputs_keep_the_shape(size, smaller, wanted):
    assert input_sizes(size, smaller) == tuple(Size(*sides) for sides in wanted)


def test_the_clock_is_right_where_it_was_set(scene):
    space = scene.space
    candidate = space.candidate(space.even(5))
    row = SimpleNamespace(p50_ms=3.5, bytes=10_000_000)  # all that is read of a measurement
    right = scene.clock.corrected(space, candidate, row)
    assert right.ms(space, candidate) == pytest.approx(3.5)
    assert right.bytes(space, candidate) == 10_000_000
    # On a machine whose time is proportional to multiply-adds, plus 1 ms, it is right everywhere.
    for seed in range(3):
        other = space.candidate(levels_of(space, seed) | {SIZE: 0})
        assert scene.ms(other) == pytest.approx(1 + 1e-6 * sum(space.work(other).values()))


def row_of(*turns):
    p50 = float(np.median(turns))
    return BenchRow(
        "m", "e", "float32", 1, 1, (64, 64), p50, p50, p50, p50, 1e3 / p50, 1, None, 0.0, p50, 0.0, 9, turns
    )


def test_a_candidates_share_does_not_depend_on_the_minute():
    """A machine whose speed changes from turn to turn and between measurements, a few turns disturbed too."""
    phases = cycle(([1, 1, 2, 2, 2, 1, 1], [2, 2, 2, 2, 2, 2, 1], [1, 1, 1, 1, 1, 1, 1]))

    def stopwatch(*detectors):
        speeds = np.array(next(phases), float)
        disturbed = [np.where(np.arange(7) == place, 1.5, 1.0) for place in range(len(detectors))]
        return SimpleNamespace(rows=[row_of(*(ms * speeds * d)) for ms, d in zip(detectors, disturbed, strict=True)])

    pace = Pace(stopwatch, 8.0, 10.0)  # a detector is its own time here; the whole was timed at 10 ms once
    assert [[row.p50_ms for row in pace(4.0, 2.0)] for _ in range(3)] == [[5.0, 2.5]] * 3


def test_a_machine_is_looked_at_more_than_once():
    """What counts is no fast moment, and not the one in five in which something else ran."""
    moments = iter((3.0, 3.1, 9.0, 4.0, 3.9))

    def stopwatch(_):
        return SimpleNamespace(rows=[row_of(next(moments))])

    stopwatch.seconds = 0.0
    assert usual(stopwatch, None).p50_ms == 4.0
    assert next(moments, None) is None
    moments = iter((3.0, 3.1, 3.3, 3.0, 3.2))
    assert usual(stopwatch, None, (4.1, 3.9)).p50_ms == 3.9  # ten minutes ago it was slower
    moments = iter((5.0, 5.1, 5.3, 5.0, 5.2))
    assert usual(stopwatch, None, (4.1, 3.9)).p50_ms == 4.1  # faster


def test_a_smaller_input_may_take_longer_to_prepare(scene):
    space, plain = scene.space, scene.clock
    smaller = replace(space.whole, size=space.sizes[1])
    clock = replace(plain, sizes=((space.sizes[1].height, space.sizes[1].width, 0.7),))
    assert clock.ms(space, space.whole) == plain.ms(space, space.whole)
    assert clock.ms(space, smaller) == pytest.approx(plain.ms(space, smaller) + 0.7)
    row = SimpleNamespace(p50_ms=2 * clock.ms(space, smaller), bytes=1000)
    assert clock.corrected(space, smaller, row).ms(space, smaller) == pytest.approx(row.p50_ms)


def test_the_clock_travels_as_json(scene):
    for clock in (scene.clock, replace(scene.clock, sizes=((96, 96, 0.5),), weight_bytes=1)):
        assert type(clock).from_json(clock.to_json()) == clock
