"""Divides samples in two: seeded, every class on both sides where possible, copies of a picture never parted."""

from __future__ import annotations

import random
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from leandet.data.sample import Dataset, Sample
from leandet.errors import UserError

Key = Callable[[Sample], bytes]


@dataclass(slots=True)
class _Group:
    """Copies of one picture, which stay together."""

    samples: list[Sample]
    classes: frozenset[int]
    taken: bool = False


def divide(
    samples: Sequence[Sample], key: Key, fraction: float, seed: int
) -> tuple[tuple[Sample, ...], tuple[Sample, ...]]:
    """Take a part of the samples away.

    Pictures are grouped by the rarest class on them and each group gives its share, so the class balance is kept.

    Args:
        samples: to be divided; their order is kept on both sides.
        key: equal for copies of one picture.
        fraction: the part to take, over 0 and under 1; at least one picture is taken and one kept.
        seed: the same seed and samples give the same parts.

    Returns:
        (kept, taken). With a single picture, nothing is taken.

    Raises:
        UserError: if `fraction` is out of range, or all samples are copies of one picture.
    """
    if not 0 < fraction < 1:
        raise UserError(f"the fraction of a split must lie between 0 and 1, not {fraction:g}.")
    groups = _group(samples, key)
    if len(groups) < 2:
        if len(samples) > 1:
            raise UserError(
                f"all {len(samples)} images are copies of one picture: add others, so that it can be split."
            )
        return tuple(samples), ()
    _take(groups, fraction, random.Random(seed))
    _repair(groups)
    taken = {id(sample) for group in groups if group.taken for sample in group.samples}
    return tuple(s for s in samples if id(s) not in taken), tuple(s for s in samples if id(s) in taken)


def _group(samples: Sequence[Sample], key: Key) -> list[_Group]:
    members: dict[bytes, list[Sample]] = {}
    for sample in sorted(samples, key=lambda s: str(s.image)):
        members.setdefault(key(sample), []).append(sample)
    return [_Group(group, frozenset(int(c) for s in group for c in s.labels)) for group in members.values()]


def _take(groups: Sequence[_Group], fraction: float, chance: random.Random) -> None:
    frequency = Counter(label for group in groups for label in group.classes)
    strata: defaultdict[tuple[int, int], list[_Group]] = defaultdict(list)
    for group in groups:
        rarest = min(((frequency[label], label) for label in group.classes), default=(len(groups) + 1, -1))
        strata[rarest].append(group)
    # Rounding is carried over, so that many small groups together still give the fraction.
    owed = 0.0
    for _, stratum in sorted(strata.items()):
        chance.shuffle(stratum)
        owed += fraction * len(stratum)
        count = min(len(stratum), max(0, round(owed)))
        for group in stratum[:count]:
            group.taken = True
        owed -= count


def _repair(groups: Sequence[_Group]) -> None:
    """Move single pictures until each side has one and, where two pictures show a class, each side shows it."""
    for side in (True, False):
        if all(group.taken is not side for group in groups):
            groups[0].taken = side
    counts = {side: Counter(c for g in groups if g.taken is side for c in g.classes) for side in (True, False)}
    size = {side: sum(g.taken is side for g in groups) for side in (True, False)}
    for label in sorted(counts[True] + counts[False], key=lambda c: (counts[True][c] + counts[False][c], c)):
        for side in (True, False):
            other = counts[not side]
            if counts[side][label] or other[label] < 2 or size[not side] < 2:
                continue
            # Moving it must not rob the other side of another class.
            found = (g for g in groups if label in g.classes and all(other[c] > 1 for c in g.classes))
            group = next(found, None)
            if group is not None:
                group.taken = side
                counts[side].update(group.classes)
                other.subtract(group.classes)
                size[side], size[not side] = size[side] + 1, size[not side] - 1


def resplit(dataset: Dataset, key: Key, val_fraction: float, test_fraction: float, seed: int) -> Dataset:
    """Pool every split and divide it anew.

    Args:
        dataset: read before.
        key: equal for copies of one picture.
        val_fraction: part of all images, over 0.
        test_fraction: part of all images; 0 makes no test split.
        seed: as for `divide`.

    Raises:
        UserError: if the fractions leave nothing to train on, or as `divide`.
    """
    if not (0 < val_fraction < 1 and 0 <= test_fraction < 1 and val_fraction + test_fraction < 1):
        raise UserError(
            f"val fraction {val_fraction:g} and test fraction {test_fraction:g} must leave some images to train on."
        )
    pictures: dict[Path, Sample] = {}  # a picture listed in two splits is one picture here
    for sample in (sample for samples in dataset.splits.values() for sample in samples):
        known = pictures.get(sample.image)
        pictures[sample.image] = sample if known is None else known.with_labels_of(sample)
    pool = tuple(pictures.values())
    test: tuple[Sample, ...] = ()
    if test_fraction:
        pool, test = divide(pool, key, test_fraction, seed)
    train, val = divide(pool, key, val_fraction / (1 - test_fraction), seed + 1)
    splits = {"train": train, "val": val} | ({"test": test} if test else {})
    return Dataset(dataset.root, dataset.layout, dataset.classes, splits)
