import itertools
from dataclasses import replace

import pytest
import torch

from leandet.compress import recalibrate
from leandet.detector.detector import Detector
from leandet.detector.head import PRIOR, WIDE, Head, Maps
from leandet.detector.pixels import MEAN, STD
from leandet.detector.spec import HeadStyle, Spec
from leandet.preprocess import Size

SIZE = Size(64, 96)


def tiny(**changes: object) -> Detector:
    torch.manual_seed(0)
    return Detector(
        Spec(**({"backbone": "mobilenet_v2_035", "classes": 3, "size": SIZE, "width": 16} | changes))
    ).eval()


def pictures(count: int, height: int = 64, width: int = 96) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (count, 3, height, width), dtype=torch.uint8, generator=generator)


@torch.inference_mode()
def test_bytes_and_floats_give_the_same_answer():
    images = pictures(2)
    detector = recalibrate(tiny(), [images])
    for a, b in zip(detector(images), detector(images.float()), strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=0)


@torch.inference_mode()
def test_normalisation_is_torchvisions():
    from torchvision.transforms.v2.functional import normalize, to_dtype

    images = pictures(2)
    detector = recalibrate(tiny(), [images])
    normal = normalize(to_dtype(images, torch.float32, scale=True), [0.485, 0.456, 0.406], [0.229, 0.224, 0.225])
    for a, b in zip(detector.features(images), detector.neck(detector.backbone(normal)), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-2, atol=1e-3)
    assert [round(m / 255, 3) for m in MEAN] == [0.485, 0.456, 0.406]
    assert [round(s / 255, 3) for s in STD] == [0.229, 0.224, 0.225]


@torch.inference_mode()
@pytest.mark.parametrize("levels", [(8, 16, 32), (8, 16), (16,), (8, 32), (32,)])
def test_shapes_follow_the_levels(levels):
    detector = tiny(levels=levels)
    predictions = detector(pictures(2))
    count = sum((64 // s) * (96 // s) for s in levels)
    assert predictions.logits.shape == (2, count, 3)
    assert predictions.boxes.shape == (2, count, 4)
    assert predictions.points.shape == (count, 2)
    assert sorted(set(predictions.strides.tolist())) == [float(s) for s in levels]
    for feature, stride in zip(detector.features(pictures(2)), levels, strict=True):
        assert feature.shape == (2, 16, 64 // stride, 96 // stride)


def test_levels_that_do_not_predict_cost_no_parameters():
    assert all(parameter.requires_grad for parameter in tiny(levels=(8,)).parameters())
    detector = tiny(levels=(8,)).train()
    predictions = detector(pictures(2))
    (predictions.logits.sum() + predictions.boxes.sum()).backward()
    unused = [n for n, p in detector.named_parameters() if p.grad is None]
    assert unused == []


@torch.inference_mode()
def test_boxes_have_area_and_hold_their_point():
    predictions = tiny()(pictures(3))
    assert (predictions.boxes[..., :2] < predictions.points).all()
    assert (predictions.boxes[..., 2:] > predictions.points).all()


@torch.inference_mode()
def test_an_untrained_head_is_sure_of_nothing():
    scores = tiny()(pictures(2)).logits.sigmoid()
    torch.testing.assert_close(scores.mean(), torch.tensor(PRIOR), rtol=0.3, atol=0)


@torch.inference_mode()
def test_a_batch_answers_as_its_images_alone_do():
    images = pictures(4)
    detector = recalibrate(tiny(), [images])
    together = detector(images)
    assert together.boxes.std(dim=0).max() > 0.5  # the pictures do matter
    for i in range(4):
        alone = detector(images[i : i + 1])
        torch.testing.assert_close(together.logits[i], alone.logits[0], rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(together.boxes[i], alone.boxes[0], rtol=1e-4, atol=1e-3)


@torch.inference_mode()
def test_any_multiple_of_32_will_do():
    detector = tiny()
    for height, width in ((32, 32), (96, 64), (128, 160)):
        count = sum((height // s) * (width // s) for s in (8, 16, 32))
        assert detector(pictures(1, height, width)).boxes.shape == (1, count, 4)


def test_the_head_answers_in_use_as_in_training():
    """A batch-norm over levels that differ would not: it normalises each by its own statistics while it trains."""
    torch.manual_seed(0)
    head = Head(16, 3, 3)
    features = [torch.randn(8, 16, side, side) * scale + scale for side, scale in ((24, 0.3), (16, 1.0), (12, 3.0))]
    recalibrate(head, [features])
    with torch.no_grad():
        in_use = head(features)
        in_training = head.train()(features)
    for ours, theirs in zip(itertools.chain(*in_use), itertools.chain(*in_training), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0.01, atol=0.01)


def test_the_score_is_the_class_plus_the_choice():
    detector = tiny()
    with torch.no_grad():
        maps = detector.head(detector.features(pictures(1)))
        logits = detector.predict(maps).logits
        other = detector.predict(maps._replace(chosen=[m - 3 for m in maps.chosen])).logits
    torch.testing.assert_close(other, logits - 3)
    classes = torch.cat([m.flatten(2) for m in maps.classes], 2).transpose(1, 2)
    gap = logits - classes  # the same for all classes of a location
    torch.testing.assert_close(gap, gap[..., :1].expand_as(gap))


@torch.inference_mode()
def test_in_use_only_the_highest_of_neighbours_keeps_its_score():
    score = torch.tensor([[4.0, 3.0, -2.0, -1.0], [1.0, 0.0, -2.0, 2.0]]).view(1, 1, 2, 4)
    sides = torch.rand(1, 4, 2, 4)
    peaks = Maps([score - 1.5], [torch.full((1, 1, 2, 4), 1.5)], [sides]).peaks(8.0)
    highest = [[4.0, 4.0, 3.0, 2.0], [4.0, 4.0, 3.0, 2.0]]  # of each location and its neighbours, by hand
    torch.testing.assert_close(peaks.logits(), (9 * score - 8 * torch.tensor(highest)).view(1, 8, 1))
    assert peaks.logits()[0, [0, 7], 0].tolist() == [4.0, 2.0]
    assert peaks.sides == [sides]


@torch.inference_mode()
def test_the_filter_keeps_classes_and_pictures_apart_and_levels_where_no_box_is_wide():
    images = pictures(2)
    detector = recalibrate(tiny(levels=(16, 32)), [images])
    raw, used = detector.every_location(images), detector(images)
    torch.testing.assert_close(used.boxes, raw.boxes)
    assert all((sides.mean(1) < WIDE).all() for sides in detector.head(detector.features(images)).sides)
    start = 0
    for rows, columns in ((4, 6), (2, 3)):
        before = raw.logits[:, start : start + rows * columns].view(2, rows, columns, 3)
        after = used.logits[:, start : start + rows * columns].view(2, rows, columns, 3)
        for row, column in itertools.product(range(rows), range(columns)):
            near = before[:, max(0, row - 1) : row + 2, max(0, column - 1) : column + 2].amax((1, 2))
            own = before[:, row, column]
            torch.testing.assert_close(after[:, row, column], own - 8 * (near - own))
        start += rows * columns


@torch.inference_mode()
def test_without_a_fall_every_location_keeps_its_score():
    images = pictures(2)
    detector = recalibrate(tiny(), [images])
    raw = detector.every_location(images)
    assert not torch.allclose(detector(images).logits, raw.logits)
    detector.spec = replace(detector.spec, fall=0.0)
    torch.testing.assert_close(detector(images).logits, raw.logits)
    best = detector.detect(images, 5)[1]
    torch.testing.assert_close(best, raw.logits.flatten(1).sigmoid().sort(descending=True).values[:, :5])


@torch.inference_mode()
def test_a_head_without_a_choice_has_no_filter():
    detector = recalibrate(tiny(head=HeadStyle.ONENET_FCOS, levels=HeadStyle.ONENET_FCOS.strides), [pictures(1)])
    torch.testing.assert_close(detector(pictures(1)).logits, detector.every_location(pictures(1)).logits)
