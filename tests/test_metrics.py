import contextlib
import io
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from torchvision.ops import batched_nms, box_iou

from leandet.card import DEFAULT_THRESHOLD
from leandet.data.sample import Sample
from leandet.detections import Detections
from leandet.errors import UserError
from leandet.metrics import duplicates_per_100, judge, operating_point, overlaps, score, suppress
from leandet.preprocess import Size

CLASSES = ("a", "b", "c")
SIZE = Size(300, 400)


def boxes_of(rng: np.random.Generator, count: int) -> np.ndarray:
    side = np.exp(rng.uniform(np.log(8), np.log(200), (count, 2)))  # small, medium and large
    corner = rng.uniform(0, 1, (count, 2)) * (np.array([400, 300]) - side)
    return np.concatenate([corner, corner + side], 1).astype(np.float32)


def make(seed: int, images: int = 12) -> tuple[list[Sample], list[Detections]]:
    """Labels, some of them crowds, and detections near many of them, some twice, with others that are wrong."""
    rng = np.random.default_rng(seed)
    samples, found = [], []
    for index in range(images):
        count = 0 if index % 5 == 4 else int(rng.integers(1, 8))
        boxes, labels = boxes_of(rng, count), rng.integers(0, 3, count)
        areas = (boxes[:, 2:] - boxes[:, :2]).prod(1) * rng.uniform(0.3, 1, count).astype(np.float32)  # of outlines
        crowd = rng.random(count) < 0.2
        samples.append(Sample(Path(f"{index}.jpg"), SIZE, boxes, labels, crowd, f"{index}", areas))
        near = np.repeat(boxes, 2, 0) + rng.normal(0, 4, (2 * count, 4)).astype(np.float32)
        near_labels = np.where(rng.random(2 * count) < 0.8, np.repeat(labels, 2), rng.integers(0, 3, 2 * count))
        wrong = int(rng.integers(0, 6))
        every = np.concatenate([near, boxes_of(rng, wrong)])
        every[:, 2:] = np.maximum(every[:, 2:], every[:, :2] + 1)
        scores = rng.random(len(every)).astype(np.float32)
        order = np.argsort(-scores)
        all_labels = np.concatenate([near_labels, rng.integers(0, 3, wrong)]).astype(np.int64)
        found.append(Detections(every[order].astype(np.float32), scores[order], all_labels[order]))
    return samples, found


def reference(samples: list[Sample], found: list[Detections], most: int = 100) -> COCOeval:
    """The authors' own implementation, on data written down here."""
    annotations, results = [], []
    for image, (sample, detections) in enumerate(zip(samples, found, strict=True)):
        columns = (sample.boxes.tolist(), sample.labels.tolist(), sample.crowd, sample.areas.tolist())
        for box, label, crowd, area in zip(*columns, strict=True):
            w, h = box[2] - box[0], box[3] - box[1]
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": image,
                    "category_id": label,
                    "bbox": [box[0], box[1], w, h],
                    "area": area,
                    "iscrowd": int(crowd),
                }
            )
        for box, value, label in zip(
            detections.boxes.tolist(), detections.scores.tolist(), detections.labels.tolist(), strict=True
        ):
            bbox = [box[0], box[1], box[2] - box[0], box[3] - box[1]]
            results.append({"image_id": image, "category_id": label, "bbox": bbox, "score": value})
    truth = COCO()
    truth.dataset = {
        "info": {},
        "images": [{"id": i} for i in range(len(samples))],
        "annotations": annotations,
        "categories": [{"id": i} for i in range(3)],
    }
    with contextlib.redirect_stdout(io.StringIO()):
        truth.createIndex()
        evaluation = COCOeval(truth, truth.loadRes(results), "bbox")
        evaluation.params.maxDets = [1, 10, most]
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return evaluation


@pytest.mark.parametrize("seed", range(6))
def test_every_figure_is_pycocotools(seed):
    samples, found = make(seed)
    assert any(sample.crowd.any() for sample in samples)
    assert any(not len(sample.boxes) for sample in samples)
    scores, wanted = score(samples, found, CLASSES), reference(samples, found)
    got = [scores.ap, scores.ap50, scores.ap75, scores.ap_small, scores.ap_medium, scores.ap_large]
    np.testing.assert_allclose(got, wanted.stats[:6], atol=1e-6)
    assert 0.05 < scores.ap < 0.95
    for index, name in enumerate(CLASSES):
        precision = wanted.eval["precision"][:, :, index, 0, 2]
        assert scores.per_class[name] == pytest.approx(precision[precision > -1].mean(), abs=1e-6)
    assert scores.images == len(samples)
    with_nms = reference(samples, [by_torchvision(d, 0.6) for d in found])
    assert scores.ap_with_nms == pytest.approx(with_nms.stats[0], abs=1e-6)
    assert scores.ap_with_nms != scores.ap


def test_a_crowd_needs_more_than_a_hundred_detections():
    rng = np.random.default_rng(0)
    boxes, labels = boxes_of(rng, 250), np.zeros(250, np.int64)  # the limit is for each class
    sample = Sample(Path("crowd.jpg"), SIZE, boxes, labels, np.zeros(250, bool), "crowd")
    near = boxes + rng.normal(0, 1, boxes.shape).astype(np.float32)
    found = Detections(near, np.linspace(1, 0.1, 250, dtype=np.float32), labels)
    precision = reference([sample], [found], 300).eval["precision"][:, :, :, 0, -1]
    scores = score([sample], [found], CLASSES, 300)
    assert scores.ap == pytest.approx(precision[precision > -1].mean(), abs=1e-6)
    assert scores.ap > score([sample], [found], CLASSES).ap + 0.05


def test_a_class_without_objects_has_no_figure():
    samples, found = make(0)
    kept = [
        Sample(s.image, s.size, s.boxes[s.labels != 2], s.labels[s.labels != 2], s.crowd[s.labels != 2], s.source)
        for s in samples
    ]
    scores = score(kept, found, CLASSES)
    assert scores.per_class["c"] == -1
    assert scores.ap == pytest.approx(reference(kept, found).stats[0], abs=1e-6)


def test_no_detection_at_all():
    samples, found = make(1)
    scores = score(samples, [Detections.empty() for _ in found], CLASSES)
    assert (scores.ap, scores.ap50, scores.ap_with_nms, scores.duplicates_per_100) == (0, 0, 0, 0)
    assert set(scores.per_class.values()) == {0.0}


def test_perfect_detections():
    samples, _ = make(2)
    perfect = []
    for s in samples:
        own = ~s.crowd
        perfect.append(Detections(s.boxes[own], np.ones(own.sum(), np.float32), s.labels[own]))
    scores = score(samples, perfect, CLASSES)
    assert scores.ap == pytest.approx(1)
    assert scores.duplicates_per_100 == 0


def test_nothing_labelled_is_refused():
    empty = Sample(Path("a"), SIZE, np.zeros((0, 4), np.float32), np.zeros(0, np.int64), np.zeros(0, bool), "a")
    with pytest.raises(UserError, match="no labelled object"):
        score([empty], [Detections.empty()], CLASSES)


def test_scores_are_a_plain_object():
    samples, found = make(3)
    value = score(samples, found, CLASSES).to_json()
    assert {"ap", "ap50", "ap75", "ap_small", "ap_medium", "ap_large"} <= set(value)
    assert {"ap_with_nms", "duplicates_per_100", "per_class", "images"} <= set(value)


def by_torchvision(detections: Detections, iou: float) -> Detections:
    tensors = (torch.from_numpy(np.asarray(v)) for v in (detections.boxes, detections.scores, detections.labels))
    return detections[np.sort(batched_nms(*tensors, iou).numpy())] if len(detections) else detections


@given(st.integers(0, 2**31), st.sampled_from([0.3, 0.5, 0.6, 0.9]))
@settings(max_examples=60)
def test_suppression_is_torchvisions(seed, iou):
    _, found = make(seed, images=2)
    for detections in found:
        kept, wanted = suppress(detections, iou), by_torchvision(detections, iou)
        np.testing.assert_array_equal(kept.boxes, wanted.boxes)
        np.testing.assert_array_equal(kept.labels, wanted.labels)


def test_suppression_of_nothing():
    assert len(suppress(Detections.empty())) == 0


def test_overlaps_are_torchvisions():
    rng = np.random.default_rng(0)
    a, b = boxes_of(rng, 30), boxes_of(rng, 20)
    wanted = box_iou(torch.from_numpy(a), torch.from_numpy(b)).numpy()
    np.testing.assert_allclose(overlaps(a, b), wanted, atol=1e-5)


BOX, OTHER, FAR = (10, 10, 50, 50), (200, 200, 260, 260), (100, 20, 130, 60)


def sample_of(*objects: tuple[tuple[int, ...], int, bool]) -> Sample:
    boxes = np.array([box for box, _, _ in objects], np.float32).reshape(-1, 4)
    labels = np.array([label for _, label, _ in objects], np.int64)
    return Sample(Path("a"), SIZE, boxes, labels, np.array([crowd for _, _, crowd in objects], bool), "a")


def found_of(*answers: tuple[tuple[int, ...], int, float]) -> Detections:
    boxes = np.array([box for box, _, _ in answers], np.float32).reshape(-1, 4)
    scores = np.array([value for _, _, value in answers], np.float32)
    return Detections(boxes, scores, np.array([label for _, label, _ in answers], np.int64))


def duplicates(sample, found):
    return duplicates_per_100([sample], [found], [judge(sample, found)])


@pytest.mark.parametrize(
    ("answers", "wanted"),
    [
        ([], 0),
        ([(BOX, 0, 0.9)], 0),
        ([(BOX, 0, 0.9), (BOX, 0, 0.8)], 1),
        ([(BOX, 0, 0.9), (BOX, 0, 0.8), (BOX, 0, 0.7)], 2),
        ([(BOX, 0, 0.9), (BOX, 0, 0.2)], 0),  # the copy is not sure
        ([(BOX, 0, 0.9), (BOX, 1, 0.8)], 0),  # another class
        ([(FAR, 0, 0.9), (FAR, 0, 0.8)], 0),  # wrong, but not on an object
        ([(BOX, 0, 0.9), (OTHER, 1, 0.9), (OTHER, 1, 0.8)], 1),
        ([(BOX, 0, 0.9), ((10, 10, 50, 40), 0, 0.8)], 1),  # IoU 0.75
        ([(BOX, 0, 0.9), ((10, 10, 50, 28), 0, 0.8)], 0),  # IoU 0.45
    ],
)
def test_duplicates_are_second_answers_for_one_object(answers, wanted):
    sample = sample_of((BOX, 0, False), (OTHER, 1, False))
    assert duplicates(sample, found_of(*answers)) == pytest.approx(100 * wanted / 2)


def test_two_objects_in_one_place_may_be_found_twice():
    sample = sample_of((BOX, 0, False), ((12, 10, 52, 50), 0, False))
    answers = [(BOX, 0, 0.9), (BOX, 0, 0.8)]
    assert duplicates(sample, found_of(*answers)) == 0
    assert duplicates(sample, found_of(*answers, (BOX, 0, 0.7))) == 50


def test_a_crowd_has_no_duplicates_and_is_no_object():
    sample = sample_of((BOX, 0, True), (OTHER, 1, False))
    found = found_of((BOX, 0, 0.9), (BOX, 0, 0.8), (BOX, 0, 0.7), (OTHER, 1, 0.6))
    assert duplicates(sample, found) == 0


def points(sample, *answers):
    found = found_of(*answers)
    return operating_point([sample], [found], [judge(sample, found)])


def test_the_threshold_is_where_f1_is_highest():
    sample = sample_of((BOX, 0, False), (OTHER, 1, False))
    both = [(BOX, 0, 0.9), (OTHER, 1, 0.6)]
    assert points(sample, *both) == pytest.approx((0.3, 1, 1))  # midway to nothing
    assert points(sample, *both, (FAR, 0, 0.4)) == pytest.approx((0.5, 1, 1))  # the wrong one stays below
    assert points(sample, (BOX, 0, 0.9), (BOX, 0, 0.8), (FAR, 0, 0.7)) == pytest.approx((0.85, 1, 0.5))
    assert points(sample, (BOX, 0, 0.9), (FAR, 0, 0.8), (OTHER, 1, 0.7)) == pytest.approx((0.35, 2 / 3, 1))


def test_the_threshold_of_nothing_is_the_default():
    sample = sample_of((BOX, 0, False))
    assert points(sample) == (DEFAULT_THRESHOLD, 0, 0)
    assert points(sample, (FAR, 0, 0.9)) == (DEFAULT_THRESHOLD, 0, 0)


def test_what_lies_on_a_crowd_is_neither_right_nor_wrong():
    sample = sample_of((BOX, 0, True), (OTHER, 1, False))
    assert points(sample, (BOX, 0, 0.9), (OTHER, 1, 0.6)) == pytest.approx((0.3, 1, 1))


def test_what_lies_in_a_large_crowd_is_ignored_too():
    sample = sample_of(((0, 0, 200, 200), 0, True), (OTHER, 1, False))
    inside = [((20 + 15 * i, 20, 34 + 15 * i, 50), 0, 0.9 - i / 100) for i in range(5)]
    assert points(sample, *inside, (OTHER, 1, 0.5)) == pytest.approx((0.25, 1, 1))
