"""What a teacher adds to the loss: a larger or uncut detector's answers at every location, beside the labels."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from leandet.detector.decode import flatten
from leandet.detector.detector import Detector
from leandet.detector.files import load_detector
from leandet.detector.head import Maps
from leandet.errors import UserError
from leandet.learn.geometry import matched
from leandet.learn.loss import Guide, quality_focal

CLASSES, SCORES, BOXES = 2.0, 2.0, 2.0  # as the labels' own classification and GIoU terms weigh


class Answers(NamedTuple):
    """What a teacher says at every location; nothing here has a gradient.

    Attributes:
        classes: probabilities (B, N, C) of the class logits alone.
        scores: probabilities (B, N, C) of class and choice together.
        boxes: (B, N, 4) xyxy, px of the input.
    """

    classes: Tensor
    scores: Tensor
    boxes: Tensor


@torch.no_grad()
def answers(teacher: Detector, maps: Maps) -> Answers:
    """A teacher's maps, read."""
    kinds = flatten(maps.classes)
    scores = (kinds + flatten(maps.chosen)).sigmoid()
    return Answers(kinds.sigmoid(), scores, teacher.predict(maps).boxes)


@torch.no_grad()
def answered(teacher: Detector, images: Tensor) -> Answers:
    """What a teacher says of images (B, 3, H, W) in 0..255, on its device."""
    return answers(teacher, teacher.head(teacher.features(images)))


def imitation(student: Detector, maps: Maps, wanted: Answers) -> Tensor:
    """How far a student's answers are from its teacher's: a scalar, per object.

    Three terms, for the three things that a location says. The class logits, which in these detectors answer for every
    location of an object, and the scores (class plus choice), which answer for one of them, are each pulled to the
    teacher's probability by binary cross-entropy weighted with the squared difference (quality focal loss with the
    teacher as soft target, arXiv 2006.04388, equation 5): a location where both are silent adds nothing, and one where
    only the student speaks, a duplicate, is taught to be silent. Boxes are pulled by 1 - GIoU with the teacher's class
    confidence as weight. Every term is divided by the sum of its teacher's confidences, so it is a loss per object.

    The gradient of the scores reaches the choice alone, as in the loss of the labels.

    Args:
        student: of the teacher's classes and levels.
        maps: its own, of the same images.
        wanted: the teacher's.
    """
    own = flatten(maps.classes)
    loss = CLASSES * quality_focal(own, wanted.classes) / _sum(wanted.classes)
    loss = loss + SCORES * quality_focal(own.detach() + flatten(maps.chosen), wanted.scores) / _sum(wanted.scores)
    sure = wanted.classes.amax(-1).flatten()
    overlap = matched(student.predict(maps).boxes.flatten(0, 1), wanted.boxes.flatten(0, 1))
    return loss + BOXES * ((1 - overlap.giou) * sure).sum() / sure.sum().clamp(min=1)


class Distillation:
    """A teacher's answers beside the labels: see `imitation`.

    The teacher belongs to no module: no file and no checkpoint holds it, and copies of the student share it.

    Args:
        teacher: another detector of the same classes and levels; put into evaluation mode.
        weight: of the imitation, above 0.
    """

    def __init__(self, teacher: Detector, weight: float = 1.0) -> None:
        if not weight > 0:
            raise UserError(f"the teacher's weight must be above 0, not {weight:g}.")
        self.teacher = teacher.eval().requires_grad_(False)
        self.weight = weight

    def __deepcopy__(self, memo: dict[int, Any]) -> Distillation:
        """The same: averaged weights are a copy of the student, not of its teacher."""
        return self

    def __call__(self, student: Detector, maps: Maps, images: Tensor) -> Tensor:
        """The student's maps for images (B, 3, H, W) in 0..255 -> a scalar."""
        if self.teacher.device != images.device:
            self.teacher.to(images.device)
        return self.weight * imitation(student, maps, answered(self.teacher, images))


@torch.no_grad()
def nearest(made: Sequence[Detector], seen: Sequence[tuple[Tensor, Answers]]) -> Detector:
    """Of some detectors the one whose answers are nearest to a teacher's, by `imitation`.

    Args:
        made: of the teacher's classes and levels, in the mode and on the device of use; the first of equals wins.
        seen: batches of images (B, 3, H, W) in 0..255 and what the teacher answers.
    """

    def away(one: Detector) -> float:
        return sum(float(imitation(one, one.head(one.features(images)), wanted)) for images, wanted in seen)

    return min(made, key=away)


def _sum(probabilities: Tensor) -> Tensor:
    """The sum over all locations of the most likely class's probability, at least 1."""
    return probabilities.amax(-1).sum().clamp(min=1)


def taught(
    model: Path, teacher: Path | None, weight: float, classes: tuple[str, ...], levels: tuple[int, ...]
) -> Guide | None:
    """What teaches a detector after something was cut from it.

    Args:
        model: the uncut detector, which teaches if no other does.
        teacher: another one.
        weight: of its answers beside the labels; 0 for the labels alone.
        classes, levels: of the detector.

    Raises:
        UserError: if the weight is out of range, or the teacher cannot teach.
    """
    if not weight >= 0:
        raise UserError(f"the teacher's weight must be at least 0, not {weight:g}.")
    if teacher is not None and not weight:
        raise UserError(f"{teacher} teaches nothing with the weight 0: leave it out, or give a weight above 0.")
    return Distillation(load_teacher(teacher or model, classes, levels), weight) if weight else None


def load_teacher(path: Path, classes: tuple[str, ...], levels: tuple[int, ...]) -> Detector:
    """A teacher out of a `.safetensors` file, for a student of these classes and levels.

    Raises:
        UserError: if the file is no detector, or one of other classes or levels.
    """
    teacher, card = load_detector(path)
    if card.classes != classes:
        raise UserError(f"{path} cannot teach: its {len(card.classes)} classes are not the {len(classes)} of the data.")
    if card.spec.levels != levels:
        raise UserError(f"{path} cannot teach: it predicts at strides {list(card.spec.levels)}, not {list(levels)}.")
    return teacher
