"""How good detections are: COCO's average precision, and what NMS would change. Free of torch."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import Any, NamedTuple

import cv2
import numpy as np

from leandet.card import DEFAULT_THRESHOLD
from leandet.data.sample import Sample
from leandet.detections import Detections
from leandet.errors import UserError

COUNTED = 100  # detections an image in COCO's metric
MIN_SCORE = 1e-3  # COCO's metric wants every detection that could matter, and below this none does
NMS_IOU = 0.6  # of the class-wise NMS that the figures are compared with
DUPLICATE_SCORE = 0.3
FOUND_IOU = 0.5  # from which a detection has found an object, or is a copy of the one that did


@dataclass(frozen=True, slots=True)
class Scores:
    """COCO's figures as fractions, in original pixels; -1 where there is no such object.

    Attributes:
        ap, ap50, ap75: average precision over IoU .50:.95, at .50 and at .75.
        ap_small, ap_medium, ap_large: AP of objects below 32^2, to 96^2 and above 96^2 square pixels, by
            `Sample.areas`.
        ap_with_nms: AP after a class-wise NMS at IoU 0.6: what suppressing neighbours would gain.
        duplicates_per_100: detections scored over 0.3 that overlap (IoU over 0.5) an object already found, for each
            100 objects.
        threshold: the score from which on detections are best, by F1 (IoU over 0.5, all classes together).
        precision, recall: there.
        per_class: AP of each class.
        images: number of images measured.
    """

    ap: float
    ap50: float
    ap75: float
    ap_small: float
    ap_medium: float
    ap_large: float
    ap_with_nms: float
    duplicates_per_100: float
    threshold: float
    precision: float
    recall: float
    per_class: dict[str, float]
    images: int

    def to_json(self) -> dict[str, Any]:
        """A plain object under the same names."""
        return {name: getattr(self, name) for name in self.__slots__}


def score(
    samples: Sequence[Sample], detections: Sequence[Detections], classes: Sequence[str], most: int = COUNTED
) -> Scores:
    """Measure detections against labels.

    Args:
        samples: labelled images.
        detections: of each sample, original pixels, at a score threshold of .001 or lower.
        classes: names.
        most: detections an image and class that count; COCO's 100 are too few for crowds.

    Raises:
        UserError: if no sample has an object.
        ModuleNotFoundError: without the training extra.
    """
    _check(samples)
    plain = _coco(samples, detections, classes, most)
    with_nms = _coco(samples, [suppress(d) for d in detections], classes, most)
    precision = plain.eval["precision"]  # (IoU, recall, class, area, detections)
    verdicts = [judge(sample, found) for sample, found in zip(samples, detections, strict=True)]
    best = operating_point(samples, detections, verdicts)
    return Scores(
        ap=float(plain.stats[0]),
        ap50=float(plain.stats[1]),
        ap75=float(plain.stats[2]),
        ap_small=float(plain.stats[3]),
        ap_medium=float(plain.stats[4]),
        ap_large=float(plain.stats[5]),
        ap_with_nms=float(with_nms.stats[0]),
        duplicates_per_100=duplicates_per_100(samples, detections, verdicts),
        threshold=best.threshold,
        precision=best.precision,
        recall=best.recall,
        per_class={name: _mean(precision[:, :, index, 0, -1]) for index, name in enumerate(classes)},
        images=len(samples),
    )


def average_precision(
    samples: Sequence[Sample], detections: Sequence[Detections], classes: Sequence[str], most: int = COUNTED
) -> float:
    """AP alone, over IoU .50:.95, a fraction; arguments and errors as for `score`."""
    _check(samples)
    return float(_coco(samples, detections, classes, most).stats[0])


def _check(samples: Sequence[Sample]) -> None:
    if not any(len(sample.boxes) for sample in samples):
        raise UserError("these images hold no labelled object, so no accuracy can be measured: choose another split.")


def _mean(precision: Any) -> float:
    found = precision[precision > -1]
    return float(found.mean()) if found.size else -1.0


def _coco(samples: Sequence[Sample], detections: Sequence[Detections], classes: Sequence[str], most: int) -> Any:
    from faster_coco_eval import COCO, COCOeval_faster  # the base install runs detectors and measures none

    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO(_labels(samples, classes))
        found = _results(detections)
        evaluation = COCOeval_faster(truth, truth.loadRes(found), iouType="bbox")
        evaluation.params.maxDets = [1, min(10, most), most]
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return evaluation


def _labels(samples: Sequence[Sample], classes: Sequence[str]) -> dict[str, Any]:
    annotations: list[dict[str, Any]] = []
    for image, sample in enumerate(samples, 1):
        for box, label, crowd, area in zip(sample.boxes, sample.labels, sample.crowd, sample.areas, strict=True):
            x1, y1, x2, y2 = (float(v) for v in box)
            annotations.append(
                {
                    "id": len(annotations) + 1,  # from 1: the metric takes 0 for "unmatched"
                    "image_id": image,
                    "category_id": int(label) + 1,
                    "bbox": [x1, y1, x2 - x1, y2 - y1],
                    "area": float(area),
                    "iscrowd": int(crowd),
                }
            )
    images = [{"id": i, "width": s.size.width, "height": s.size.height} for i, s in enumerate(samples, 1)]
    categories = [{"id": i, "name": name} for i, name in enumerate(classes, 1)]
    return {"images": images, "annotations": annotations, "categories": categories}


def _results(detections: Sequence[Detections]) -> Any:
    """Rows of image, x, y, width, height, score, category: the metric's array form, which also takes no row at all."""
    rows = [
        np.column_stack(
            [np.full(len(d), image), d.boxes[:, :2], d.boxes[:, 2:] - d.boxes[:, :2], d.scores, d.labels + 1]
        )
        for image, d in enumerate(detections, 1)
    ]
    return np.concatenate(rows) if rows else np.zeros((0, 7))


def suppress(detections: Detections, iou: float = NMS_IOU) -> Detections:
    """Class-wise non-maximum suppression at `iou`: only ever used to measure what it would change."""
    if not len(detections):
        return detections
    boxes = detections.boxes.astype(np.float64)
    corners = np.column_stack([boxes[:, :2], boxes[:, 2:] - boxes[:, :2]])
    kept = cv2.dnn.NMSBoxesBatched(corners.tolist(), detections.scores.tolist(), detections.labels.tolist(), 0.0, iou)
    return detections[np.sort(np.asarray(kept, np.int64).reshape(-1))]


def lying_on(a: np.ndarray[Any, Any], b: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Share of each box (K, 4) that lies within each box (N, 4), xyxy -> (K, N)."""
    return np.asarray(_shared(a, b) / np.maximum((a[:, 2:] - a[:, :2]).prod(-1)[:, None], 1e-9))


def overlaps(a: np.ndarray[Any, Any], b: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """IoU of boxes (K, 4) with boxes (N, 4), xyxy -> (K, N)."""
    inter = _shared(a, b)
    union = (a[:, 2:] - a[:, :2]).prod(-1)[:, None] + (b[:, 2:] - b[:, :2]).prod(-1)[None] - inter
    return np.asarray(inter / np.maximum(union, 1e-9))


def _shared(a: np.ndarray[Any, Any], b: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Areas that boxes (K, 4) and (N, 4) have in common -> (K, N)."""
    low = np.maximum(a[:, None, :2], b[None, :, :2])
    high = np.minimum(a[:, None, 2:], b[None, :, 2:])
    return np.asarray(np.clip(high - low, 0, None).prod(-1))


def _objects(samples: Sequence[Sample]) -> int:
    return sum(int((~sample.crowd).sum()) for sample in samples)


class Verdict(IntEnum):
    """What a detection is, at IoU over 0.5."""

    FALSE = 0
    HIT = 1
    COPY = 2  # of an object that a better one has found
    IGNORED = 3  # lies on a crowd


Verdicts = np.ndarray[Any, np.dtype[np.int64]]


def judge(sample: Sample, detections: Detections) -> Verdicts:
    """A verdict (N,) on each detection; the better ones choose first, so it does not depend on those below.

    Of a crowd, which may be much larger than any object in it, a detection need only lie on it by half, as in COCO.
    """
    iou = overlaps(detections.boxes, sample.boxes)
    iou[:, sample.crowd] = lying_on(detections.boxes, sample.boxes[sample.crowd])
    iou[detections.labels[:, None] != sample.labels[None]] = 0
    taken = np.zeros(len(sample.boxes), bool)
    verdicts = np.full(len(detections), Verdict.FALSE, np.int64)
    for place, row in enumerate(iou):
        free = np.where(taken | sample.crowd, 0, row)
        if free.size and free.max() > FOUND_IOU:
            taken[int(free.argmax())] = True
            verdicts[place] = Verdict.HIT
        elif row.size and row.max() > FOUND_IOU:
            verdicts[place] = Verdict.IGNORED if sample.crowd[int(row.argmax())] else Verdict.COPY
    return verdicts


def duplicates_per_100(
    samples: Sequence[Sample], detections: Sequence[Detections], verdicts: Sequence[Verdicts]
) -> float:
    """For each 100 objects, detections scored over 0.3 that lie on one already found (same class, IoU over 0.5)."""
    copies = sum(
        int(((found.scores > DUPLICATE_SCORE) & (verdict == Verdict.COPY)).sum())
        for found, verdict in zip(detections, verdicts, strict=True)
    )
    return 100 * copies / max(_objects(samples), 1)


class OperatingPoint(NamedTuple):
    """A score to cut at, and the share of detections above it that are right, and of objects that are found."""

    threshold: float
    precision: float
    recall: float


def operating_point(
    samples: Sequence[Sample], detections: Sequence[Detections], verdicts: Sequence[Verdicts]
) -> OperatingPoint:
    """The score with the highest F1: what a person who has to cut somewhere should begin with.

    It lies midway between the last detection that counts and the next; (0.3, 0, 0) where nothing is found.
    """
    objects = _objects(samples)
    scores = np.concatenate([np.zeros(0), *(found.scores for found in detections)])
    verdict = np.concatenate([np.zeros(0, np.int64), *verdicts])
    counted = verdict != Verdict.IGNORED
    order = np.argsort(-scores[counted], kind="stable")
    scores, hits = scores[counted][order], np.cumsum(verdict[counted][order] == Verdict.HIT)
    if not hits.size or not hits[-1]:
        return OperatingPoint(DEFAULT_THRESHOLD, 0.0, 0.0)
    seen = np.arange(1, len(hits) + 1)
    best = int(np.argmax(2 * hits / (seen + objects)))
    below = scores[best + 1] if best + 1 < len(scores) else 0.0
    middle = (float(scores[best]) + float(below)) / 2
    return OperatingPoint(middle, float(hits[best] / seen[best]), float(hits[best] / objects))
