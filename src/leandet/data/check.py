"""Judges labels against their pictures: what is sound becomes samples, the rest becomes problems."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from leandet.data.image import BITS, Inspection, inspect_image
from leandet.data.paths import exists, shown
from leandet.data.problems import ProblemKind, Problems
from leandet.data.raw import RawDataset, RawImage
from leandet.data.sample import Sample
from leandet.errors import UserError
from leandet.preprocess import Size

Boxes = npt.NDArray[np.float64]
Mask = npt.NDArray[np.bool_]
ROUNDING_PIXELS, ROUNDING_FRACTION = 2.0, 0.005  # an overshoot up to the larger one is rounding
UNSEEN_PIXELS = 0.01  # below this, clipping changes nothing that a person wrote
LARGEST = 1e7  # no coordinate of a picture under 100 megapixels comes near
SAME_BOX_IOU = 0.95
MAX_COMPARED = 2000  # boxes of one image compared pairwise


@dataclass(frozen=True, slots=True)
class Checked:
    """A sound sample, the split it was found in (`""` if none), and the hash of its picture's bytes."""

    sample: Sample
    split: str
    digest: bytes


@dataclass(frozen=True, slots=True)
class Soundness:
    """All that is sound.

    Attributes:
        checked: sound samples, in the order of the label files.
        clipped: how many boxes were clipped to their picture.
    """

    checked: tuple[Checked, ...]
    clipped: int


def check(raw: RawDataset, problems: Problems, threads: int | None = None) -> Soundness:
    """Judge every picture and box.

    A picture is left out if it is missing or broken, or if labels were stated for it and none is sound: it would teach
    that nothing is there. A single bad box is left out alone.

    Args:
        raw: as a reader stated it.
        problems: takes what is wrong.
        threads: pictures decoded at the same time; default: the number of CPUs.
    """
    known = inspect_images({image.path for image in raw.images if image.path is not None}, threads)
    checked: list[Checked] = []
    clipped, deep = 0, set[Path]()
    for image in raw.images:
        if image.path is None:
            continue
        outcome = known[image.path]
        if isinstance(outcome, str):
            _report_picture(raw.root, image, image.path, outcome, problems)
            continue
        _check_size(image, outcome.size, problems)
        if outcome.bits > BITS and image.path not in deep:
            deep.add(image.path)
            message = (
                f"of its {outcome.bits} bits a channel the upper {BITS} are used: scale it if that leaves it dark."
            )
            problems.warning(ProblemKind.DEEP_IMAGE, shown(raw.root, image.path), message)
        sample, touched = _sample(raw, image, image.path, outcome.size, problems)
        if not len(sample.labels) and (image.boxes or image.dropped):
            message = "none of its boxes is sound: the image is left out."
            problems.error(ProblemKind.NO_SOUND_BOX, image.source, message)
            continue
        clipped += touched
        checked.append(Checked(sample, image.split, outcome.digest))
    checked = _merged(raw.root, checked, problems)
    _report_duplicates(raw.root, checked, problems)
    return Soundness(tuple(checked), clipped)


def inspect_images(paths: Iterable[Path], threads: int | None = None) -> dict[Path, Inspection | str]:
    """Decode pictures in parallel: for each its inspection, or the sentence that says what is wrong with it."""
    ordered = sorted(paths)
    with ThreadPoolExecutor(threads or os.cpu_count() or 1) as pool:
        return dict(zip(ordered, pool.map(_inspect, ordered), strict=True))


def _inspect(path: Path) -> Inspection | str:
    try:
        return inspect_image(path)
    except UserError as error:
        return str(error).removeprefix(str(path)).lstrip(": ")


def _report_picture(root: Path, image: RawImage, path: Path, message: str, problems: Problems) -> None:
    if exists(path):
        problems.error(ProblemKind.UNREADABLE_IMAGE, shown(root, path), message)
    else:
        message = f"its picture {shown(root, path)} is missing: the image is left out."
        problems.error(ProblemKind.MISSING_IMAGE, image.source, message)


def _check_size(image: RawImage, size: Size, problems: Problems) -> None:
    stated = image.stated
    if stated is None or stated == size:
        return
    turned = stated == Size(size.width, size.height)
    hint = " (turned by its EXIF orientation; boxes refer to it as seen)" if turned else ""
    message = f"the labels say {stated}, the picture is {size}{hint}: the picture is trusted."
    problems.warning(ProblemKind.SIZE_DIFFERS, image.source, message)


def _sample(raw: RawDataset, image: RawImage, path: Path, size: Size, problems: Problems) -> tuple[Sample, int]:
    """The sound boxes of one image as a sample, and how many of them were clipped."""
    sides = np.array([size.width, size.height] * 2, np.float64)
    stated = np.array([box[:4] for box in image.boxes], np.float64).reshape(-1, 4)
    boxes = stated * sides if raw.normalised else stated
    clipped = np.clip(boxes, 0, sides)
    places = [f"{image.file}:{raw.item}{box.number}" for box in image.boxes]
    sound, touched = _judge(boxes, clipped, sides, places, problems)
    labels = np.array([box.label for box in image.boxes], np.int64)[sound]
    crowd = np.array([box.crowd for box in image.boxes], np.bool_)[sound]
    kept = clipped[sound].astype(np.float32)
    own = np.array([np.nan if box.area is None else box.area for box in image.boxes], np.float64)[sound]
    areas = np.where(np.isfinite(own) & (own > 0), own, _area(clipped[sound])).astype(np.float32)
    _report_same_boxes(kept, labels, crowd, image.source, problems)
    return Sample(path, size, kept, labels, crowd, image.source, areas), int((touched & sound).sum())


def _judge(boxes: Boxes, clipped: Boxes, sides: Boxes, places: Sequence[str], problems: Problems) -> tuple[Mask, Mask]:
    """Which boxes are sound, and which reach outside; reports the others."""
    finite: Mask = np.all(np.isfinite(boxes) & (np.abs(boxes) < LARGEST), axis=1)
    boxes, clipped = np.where(finite[:, None], boxes, 0), np.where(finite[:, None], clipped, 0)
    # float32 is what is stored: a box must keep its area there.
    stored = clipped.astype(np.float32)
    positive = (boxes[:, 2] > boxes[:, 0]) & (boxes[:, 3] > boxes[:, 1])
    visible = (stored[:, 2] > stored[:, 0]) & (stored[:, 3] > stored[:, 1])
    overshoot = np.abs(boxes - clipped)
    rounding: Mask = np.all(overshoot <= np.maximum(ROUNDING_PIXELS, ROUNDING_FRACTION * sides), axis=1)
    half: Mask = _area(clipped) >= 0.5 * _area(boxes)
    sound = finite & positive & visible & (rounding | half)
    for at in np.flatnonzero(~sound | ~rounding).tolist():
        x1, y1, x2, y2 = boxes[at]
        corners = f"({x1:g}, {y1:g}) to ({x2:g}, {y2:g})"
        if not finite[at]:
            problems.error(ProblemKind.BAD_BOX, places[at], "a coordinate is no finite number: the box is left out.")
        elif not positive[at]:
            message = f"the box {corners} is inverted or has no area: it is left out."
            problems.error(ProblemKind.BAD_BOX, places[at], message)
        elif not sound[at]:
            message = f"the box {corners} lies mostly outside the picture of {sides[0]:g}x{sides[1]:g}: it is left out."
            problems.error(ProblemKind.BOX_OUTSIDE, places[at], message)
        else:
            message = f"the box {corners} reaches {overshoot[at].max():.1f} pixels outside the picture: it is clipped."
            problems.warning(ProblemKind.BOX_OUTSIDE, places[at], message)
    return sound, np.any(overshoot > UNSEEN_PIXELS, axis=1)


def _area(boxes: Boxes) -> Boxes:
    return np.asarray((boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1]))


def _report_same_boxes(
    boxes: npt.NDArray[np.float32],
    labels: npt.NDArray[np.int64],
    crowd: Mask,
    where: str,
    problems: Problems,
) -> None:
    """One warning for an image in which boxes of the same class all but coincide."""
    if not 2 <= len(boxes) <= MAX_COMPARED:
        return
    wide = boxes.astype(np.float64)
    corner = np.maximum(wide[:, None, :2], wide[None, :, :2])
    shared = np.clip(np.minimum(wide[:, None, 2:], wide[None, :, 2:]) - corner, 0, None).prod(2)
    area = _area(wide)
    same = shared > SAME_BOX_IOU * (area[:, None] + area[None] - shared)
    same &= (labels[:, None] == labels[None]) & ~crowd[:, None] & ~crowd[None]
    again = int(np.triu(same, 1).any(0).sum())
    if again:
        message = f"{again} boxes repeat another of the same class (IoU over {SAME_BOX_IOU}): they are kept."
        problems.warning(ProblemKind.DUPLICATE_BOX, where, message)


def _merged(root: Path, checked: Sequence[Checked], problems: Problems) -> list[Checked]:
    """One sample for each picture of a split: were it several, each would teach that the others' objects are none."""
    merged: dict[tuple[Path, str], Checked] = {}
    for item in checked:
        key = (item.sample.image, item.split)
        known = merged.get(key)
        if known is None:
            merged[key] = item
            continue
        both = known.sample.with_labels_of(item.sample)
        merged[key] = replace(known, sample=both)
        message = (
            f"the picture {shown(root, item.sample.image)} is listed again, first in {known.sample.source}: "
            f"it is used once, with the boxes of both ({len(both.labels)})."
        )
        problems.warning(ProblemKind.DUPLICATE_IMAGE, item.sample.source, message)
    return list(merged.values())


def _report_duplicates(root: Path, checked: Sequence[Checked], problems: Problems) -> None:
    """The same picture in two found splits: what is measured there is partly known by heart."""
    first: dict[bytes, dict[str, Path]] = {}
    for item in checked:
        splits = first.setdefault(item.digest, {})
        for split, path in splits.items():
            if split != item.split and item.split not in splits:
                message = (
                    f"the same picture as {shown(root, path)}: it is in both {split or 'no split'} and {item.split}."
                )
                problems.warning(ProblemKind.DUPLICATE_IMAGE, shown(root, item.sample.image), message)
                break
        splits.setdefault(item.split, item.sample.image)
