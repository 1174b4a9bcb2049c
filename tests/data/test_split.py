from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from leandet.data.sample import Dataset, Sample
from leandet.data.split import divide, resplit
from leandet.errors import UserError
from leandet.preprocess import Size


def sample(name: str, labels: list[int]) -> Sample:
    count = len(labels)
    boxes = np.tile(np.array([[0, 0, 4, 4]], np.float32), (count, 1))
    return Sample(Path(name), Size(8, 8), boxes, np.array(labels, np.int64), np.zeros(count, np.bool_), name)


def own(item: Sample) -> bytes:
    return str(item.image).encode()


@settings(max_examples=150)
@given(
    st.lists(st.lists(st.integers(0, 4), max_size=3), min_size=2, max_size=40),
    st.floats(0.01, 0.99),
    st.integers(0, 99),
    st.integers(1, 40),
)
def test_parts_are_complete_disjoint_and_never_part_copies(
    labels: list[list[int]], fraction: float, seed: int, distinct: int
) -> None:
    samples = [sample(f"{k:02d}", row) for k, row in enumerate(labels)]
    key = lambda s: bytes([int(s.image.name) % distinct])  # noqa: E731
    if len({key(s) for s in samples}) < 2:
        with pytest.raises(UserError, match="copies of one picture"):
            divide(samples, key, fraction, seed)
        return
    kept, taken = divide(samples, key, fraction, seed)
    assert kept
    assert taken
    assert sorted(map(str, (s.image for s in kept + taken))) == sorted(str(s.image) for s in samples)
    assert not {key(s) for s in kept} & {key(s) for s in taken}
    again = divide(list(reversed(samples)), key, fraction, seed)
    assert {s.image for s in again[1]} == {s.image for s in taken}


def test_a_rare_class_is_on_both_sides_and_the_fraction_holds() -> None:
    samples = [sample(f"c{k}", [0]) for k in range(90)] + [sample(f"r{k}", [0, 1]) for k in range(2)]
    samples += [sample(f"e{k}", []) for k in range(8)]
    for seed in range(20):
        kept, taken = divide(samples, own, 0.2, seed)
        assert 19 <= len(taken) <= 21
        for side in (kept, taken):
            assert any(1 in s.labels for s in side)


def test_classes_that_are_never_the_rarest_are_on_both_sides_too() -> None:
    samples = [sample(f"a{k}", [0, 1]) for k in range(3)] + [sample(f"b{k}", [2]) for k in range(30)]
    for seed in range(20):
        for side in divide(samples, own, 0.1, seed):
            assert {int(c) for s in side for c in s.labels} == {0, 1, 2}


def test_resplit_pools_everything() -> None:
    parts = {
        "train": tuple(sample(f"a{k}", [0]) for k in range(60)),
        "test": tuple(sample(f"b{k}", [0]) for k in range(40)),
    }
    data = Dataset(Path(), "voc", ("x",), parts)
    divided = resplit(data, own, 0.2, 0.3, 0)
    assert {name: len(samples) for name, samples in divided.splits.items()} == {"train": 50, "val": 20, "test": 30}
    assert set(resplit(data, own, 0.2, 0, 0).splits) == {"train", "val"}
    for val, test in ((0, 0), (0.5, 0.5), (0.2, -0.1), (1, 0)):
        with pytest.raises(UserError, match="fraction"):
            resplit(data, own, val, test, 0)


def test_resplit_keeps_the_labels_of_both_listings() -> None:
    """One picture in train with its cats and in val with its dogs."""
    a, b, others = sample("a", [0]), sample("a", [1]), tuple(sample(f"o{k}", [0]) for k in range(4))
    b = replace(b, boxes=b.boxes + 1)
    divided = resplit(Dataset(Path(), "coco", ("x", "y"), {"train": (a, *others), "val": (b,)}), own, 0.2, 0, 0)
    (both,) = (s for samples in divided.splits.values() for s in samples if s.image == a.image)
    assert both.labels.tolist() == [0, 1]
    np.testing.assert_array_equal(both.boxes, np.concatenate([a.boxes, b.boxes]))
