"""Measures a detector's accuracy on labelled images, whatever engine runs it; free of torch for an exported file."""

from __future__ import annotations

from collections.abc import Sequence

from leandet.data.image import load_image
from leandet.data.sample import Dataset, Sample
from leandet.detections import Detections
from leandet.errors import UserError
from leandet.metrics import MIN_SCORE, Scores, score
from leandet.runtime.runtime import Runtime


def check_classes(runtime: Runtime, classes: Sequence[str], where: str) -> None:
    """Refuse to measure a model on data of other classes.

    Raises:
        UserError: naming the first class that differs.
    """
    own = runtime.card.classes
    if tuple(own) != tuple(classes):
        strange = sorted(set(classes) ^ set(own))
        detail = f"they differ in {strange[0]!r}" if strange else "they are in another order"
        raise UserError(f"the model's {len(own)} classes are not those of {where} ({len(classes)}): {detail}.")


def best_threshold(runtime: Runtime, dataset: Dataset, judged: float | None = None) -> float:
    """The score at which a model's F1 is highest on the validation images, for its card.

    Args:
        runtime: the model, opened.
        dataset: of its classes.
        judged: the same of the judging split, where that was measured: taken if the validation images judge.

    Raises:
        UserError: if an image cannot be read or nothing is labelled.
    """
    if judged is None or dataset.judging != "val":
        judged = evaluate(runtime, dataset.splits["val"], dataset.classes)[0].threshold
    return round(judged, 4)


def evaluate(runtime: Runtime, samples: Sequence[Sample], classes: Sequence[str]) -> tuple[Scores, list[Detections]]:
    """Detect in every sample and score the answers in original pixels.

    As many detections of an image count as `Spec.counted` says.

    Args:
        runtime: an opened detector of the same classes.
        samples: labelled images, all of them are read from disk.
        classes: names.

    Returns:
        The scores, and the detections of each sample (scored over 0.001).

    Raises:
        UserError: if an image cannot be read or nothing is labelled.
    """
    found = []
    for sample in samples:
        detections = runtime(load_image(sample.image))
        found.append(detections[detections.scores > MIN_SCORE])
    return score(samples, found, classes, runtime.card.spec.counted), found
