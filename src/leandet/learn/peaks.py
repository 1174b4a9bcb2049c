"""How scores fall beside surer ones: in a crowd, the surer one is another object's, and perhaps of another class."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

import torch
from torch.utils.data import DataLoader

from leandet.data.sample import Sample
from leandet.detections import Detections
from leandet.detector.detector import Detector
from leandet.detector.head import Maps
from leandet.detector.spec import STEEPEST
from leandet.learn.processes import Processes
from leandet.learn.validation import ValidationBatch, found
from leandet.metrics import average_precision

NONE = 0.0
FALLS = (STEEPEST, 3.0, 1.0, NONE)  # docs/decisions/0001 has what each does
COST = 0.005  # AP, a fraction, that fewer duplicates may cost,
OBJECTS = 2  # or as much as so many objects weigh: where few are labelled, AP jumps by more
LEARNED = 1.0  # what a choice learns with in crowds
TOGETHER = 0.001  # AP that it may cost to let all classes compete with each other, which takes less time


def accuracies(
    detector: Detector,
    validation: DataLoader[ValidationBatch],
    samples: Sequence[Sample],
    classes: Sequence[str],
    falls: Sequence[float] = FALLS,
    *,
    classwise: bool = True,
) -> dict[float, float]:
    """AP, a fraction, of a detector in evaluation mode for each `Spec.fall`.

    Args:
        detector: with a choice (`HeadStyle.chooses`).
        validation: batches of `samples`, in their order.
        samples: some of which have an object.
        classes: names.
        falls: to be measured.
        classwise: `Spec.classwise`.
    """
    answers: dict[float, list[Detections]] = defaultdict(list)
    most = detector.spec.counted
    home, device = detector.device, Processes.here().device
    detector.to(device)
    with torch.no_grad():
        for batch in validation:
            images = batch.images.to(device).contiguous(memory_format=torch.channels_last)
            maps: Maps = detector.head(detector.features(images))
            for fall in falls:
                answers[fall] += found(detector.predict(maps.peaks(fall, classwise)), batch.placements, most)
    detector.to(home)
    return {fall: average_precision(samples, answers[fall], classes, most) for fall in falls}


def steepest(accuracies: dict[float, float], samples: Sequence[Sample]) -> float:
    """The steepest fall that costs no more than it may of the AP without any.

    Args:
        accuracies: AP by fall, `NONE` among them.
        samples: on which they were measured.
    """
    allowed = max(COST, OBJECTS / sum(len(sample.boxes) for sample in samples))
    return max(fall for fall, ap in accuracies.items() if ap >= accuracies[NONE] - allowed)


def keep_apart(classwise: float, together: float) -> bool:
    """Whether only scores of one class should compete: objects of several classes stand too close for others.

    Args:
        classwise: AP, a fraction, where only they do.
        together: AP where all classes compete with each other.
    """
    return together < classwise - TOGETHER
