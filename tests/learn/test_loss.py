import pytest
import torch
from torch import nn
from torchvision.ops import box_iou, generalized_box_iou_loss, sigmoid_focal_loss

from leandet.data.batch import Targets
from leandet.detector.decode import Predictions
from leandet.detector.detector import Detector
from leandet.detector.head import Maps
from leandet.detector.spec import Spec
from leandet.learn.assign import Matches, MinimumCost
from leandet.learn.loss import Criterion, box_terms, quality_focal, wanted_scores
from leandet.preprocess import Size

HEIGHT, WIDTH = 64, 96


def tiny() -> Detector:
    torch.manual_seed(0)
    return Detector(Spec("mobilenet_v2_035", 3, Size(HEIGHT, WIDTH), width=16))


def pictures(count: int, height: int = HEIGHT, width: int = WIDTH) -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randint(0, 256, (count, 3, height, width), dtype=torch.uint8, generator=generator)


OBJECTS = [torch.tensor([[8.0, 8, 40, 44], [50, 20, 90, 60]]), torch.tensor([[30.0, 10, 60, 30]])]
LABELS = [torch.tensor([0, 2]), torch.tensor([1])]


def test_quality_focal_with_hard_targets_is_the_focal_loss():
    generator = torch.Generator().manual_seed(0)
    logits = (torch.randn(2, 50, 4, generator=generator, dtype=torch.float64) * 3).requires_grad_()
    wanted = (torch.rand(2, 50, 4, generator=generator) < 0.1).double()
    loss = quality_focal(logits, wanted)
    reference = sigmoid_focal_loss(logits, wanted, alpha=-1, gamma=2, reduction="sum")
    torch.testing.assert_close(loss, reference)
    # The gradient too: a detached focus presses wrong scores down two to three times less.
    (slope,), (reference_slope,) = torch.autograd.grad(loss, logits), torch.autograd.grad(reference, logits)
    torch.testing.assert_close(slope, reference_slope)


def test_quality_focal_is_least_at_the_wanted_score():
    wanted = torch.tensor([[[0.1, 0.5, 0.9]]])
    at = [float(quality_focal(torch.logit(wanted) + shift, wanted)) for shift in (-1, -0.1, 0, 0.1, 1)]
    assert at[2] == pytest.approx(0, abs=1e-9)
    assert at[0] > at[1] > at[2] < at[3] < at[4]


def test_box_terms_are_torchvisions_giou_loss_and_a_plain_l1():
    generator = torch.Generator().manual_seed(2)
    corner = torch.rand(2, 20, 2, generator=generator) * 50
    boxes = torch.cat([corner, corner + 5 + torch.rand(2, 20, 2, generator=generator) * 30], -1)
    predictions = Predictions(torch.zeros(2, 20, 3), boxes, torch.zeros(20, 2), torch.ones(20))
    targets = Targets.pad(OBJECTS, LABELS)
    matches = Matches(torch.tensor([0, 0, 1]), torch.tensor([3, 7, 5]), torch.tensor([1, 0, 0]), torch.ones(3))
    weight = torch.tensor([1.0, 0.5, 0.25])
    terms = box_terms(predictions, targets, matches, weight, torch.tensor([96.0, 64, 96, 64]))
    chosen = torch.stack([boxes[0, 3], boxes[0, 7], boxes[1, 5]])
    truth = torch.stack([OBJECTS[0][1], OBJECTS[0][0], OBJECTS[1][0]])
    torch.testing.assert_close(terms.giou, (generalized_box_iou_loss(chosen, truth) * weight).sum())
    l1 = sum(
        float(w) * sum(abs(a - b) / side for a, b, side in zip(p, t, (96, 64, 96, 64), strict=True))
        for w, p, t in zip(weight, chosen.tolist(), truth.tolist(), strict=True)
    )
    assert float(terms.l1) == pytest.approx(l1, rel=1e-5)


def test_wanted_scores_lie_at_the_matches_alone():
    labels = torch.tensor([[0, 2], [1, 0]])
    matches = Matches(torch.tensor([0, 0, 1]), torch.tensor([4, 1, 4]), torch.tensor([0, 1, 0]), torch.ones(3))
    wanted = wanted_scores(torch.zeros(2, 6, 3), labels, matches, torch.tensor([0.3, 0.6, 0.9]))
    assert {tuple(i): round(float(wanted[tuple(i)]), 4) for i in wanted.nonzero().tolist()} == {
        (0, 4, 0): 0.3,
        (0, 1, 2): 0.6,
        (1, 4, 1): 0.9,
    }


@pytest.mark.parametrize("auxiliary", [0.0, 1.0])
def test_every_parameter_gets_a_gradient(auxiliary):
    detector = tiny()
    criterion = Criterion(auxiliary)
    # An object for each level: boxes begin about four strides wide.
    objects = [torch.tensor([[30.0, 30, 64, 64], [100, 20, 168, 88]]), torch.tensor([[10.0, 0, 146, 128]])]
    criterion(detector, pictures(2, 128, 192), Targets.pad(objects, LABELS)).total.backward()
    for name, parameter in detector.named_parameters():
        assert parameter.grad is not None, name
        assert torch.isfinite(parameter.grad).all(), name
        assert parameter.grad.abs().sum() > 0, name


def test_one_to_one_reaches_the_classes_only_without_the_auxiliary_loss():
    targets = Targets.pad(OBJECTS, LABELS)
    for auxiliary, reached in ((0.0, True), (1.0, False)):
        detector = tiny()
        parts = Criterion(auxiliary)(detector, pictures(2), targets)
        assert (parts.auxiliary > 0) == (not reached)
        parts.classification.backward()
        gradients = [p.grad for p in detector.head.classify.parameters()]
        assert all((g is not None) == reached for g in gradients)
        assert all(p.grad is not None for p in detector.head.choose.parameters())


def test_a_batch_without_objects_teaches_silence():
    detector = tiny()
    criterion = Criterion()
    none = Targets.pad([torch.zeros(0, 4)] * 2, [torch.zeros(0, dtype=torch.int64)] * 2)
    parts = criterion(detector, pictures(2), none)
    parts.total.backward()
    assert torch.isfinite(parts.total)
    assert parts.l1.item() == 0
    assert parts.giou.item() == 0
    gradients = [p.grad for p in detector.parameters() if p.grad is not None]
    assert all(torch.isfinite(g).all() for g in gradients)
    for tower in (*detector.head.classify, *detector.head.choose):
        assert (tower[-1].bias.grad > 0).all()  # descent lowers every score


def test_an_image_without_objects_beside_one_with_objects():
    detector = tiny()
    targets = Targets.pad([OBJECTS[0], torch.zeros(0, 4)], [LABELS[0], torch.zeros(0, dtype=torch.int64)])
    parts = Criterion()(detector, pictures(2), targets)
    assert all(torch.isfinite(part) for part in parts)


class Fixed(nn.Module):
    """A detector that answers what it is told."""

    def __init__(self, predictions: Predictions) -> None:
        super().__init__()
        self.predictions = predictions

    def features(self, images: torch.Tensor) -> list[torch.Tensor]:
        return []

    def head(self, features: list[torch.Tensor]) -> Maps:
        return Maps([], [], [])

    def predict(self, maps: Maps) -> Predictions:
        return self.predictions


def perfect(shift: float = 0, confusion: float = 0, copies: int = 1) -> Predictions:
    """Each object found by `copies` of the locations near its centre, sure of its class; boxes moved by `shift` px."""
    with torch.no_grad():
        plain = tiny().eval()(pictures(2))
    logits, boxes = torch.full_like(plain.logits, -9.0), plain.boxes.clone()
    for image, (objects, labels) in enumerate(zip(OBJECTS, LABELS, strict=True)):
        for box, label in zip(objects, labels, strict=True):
            gap = (plain.points - (box[:2] + box[2:]) / 2).abs().amax(1)
            for near in gap.argsort()[:copies]:
                logits[image, near, label] = 9 - confusion
                boxes[image, near] = box + shift
    return plain._replace(logits=logits, boxes=boxes)


def loss_of(predictions: Predictions, rows: slice = slice(None)) -> torch.Tensor:
    targets = Targets.pad(OBJECTS[rows], LABELS[rows])
    chosen = predictions._replace(logits=predictions.logits[rows], boxes=predictions.boxes[rows])
    images = pictures(2)[rows]
    return Criterion(auxiliary=0)(Fixed(chosen), images, targets)


def test_the_better_prediction_has_the_lower_loss():
    best = float(loss_of(perfect()).total)
    assert best < 0.01
    moved = [float(loss_of(perfect(shift)).total) for shift in (0, 2, 5, 10)]
    assert moved == sorted(moved)
    assert len(set(moved)) == 4
    assert float(loss_of(perfect(confusion=18)).total) > best
    assert float(loss_of(perfect(copies=2)).classification) > best + 0.5  # a duplicate is an error


def test_an_assigner_decides_who_learns():
    """Every copy of an object matched with it, and nobody: silence is wanted everywhere."""

    def both(predictions: Predictions, targets: Targets) -> Matches:
        image, location = (predictions.logits.amax(2) > 0).nonzero(as_tuple=True)
        iou = [
            box_iou(predictions.boxes[i, n][None], targets.boxes[i])[0] for i, n in zip(image, location, strict=True)
        ]
        return Matches(image, location, torch.stack(iou).argmax(1), torch.ones(len(image)))

    def nobody(predictions: Predictions, targets: Targets) -> Matches:
        none = torch.zeros(0, dtype=torch.int64)
        return Matches(none, none, none, torch.zeros(0))

    predictions = perfect(shift=2, copies=2)
    targets = Targets.pad(OBJECTS, LABELS)
    single, double, silent = (
        Criterion(0, assign=assign)(Fixed(predictions), pictures(2), targets)
        for assign in (MinimumCost(), both, nobody)
    )
    assert float(double.classification) < 0.1 * float(single.classification)
    torch.testing.assert_close(double.l1, single.l1)  # a mean over the matches
    assert float(silent.l1) == 0
    hushed = quality_focal(predictions.logits, torch.zeros_like(predictions.logits))
    torch.testing.assert_close(silent.classification, 2 * hushed)


def test_pairs_that_both_assignments_share_are_those_that_each_finds():
    torch.manual_seed(0)
    detector, images = tiny().eval(), pictures(2)
    boxes = torch.tensor(
        [[[4.0, 4, 40, 30], [10, 20, 60, 60], [2, 2, 9, 9]], [[30.0, 8, 62, 50], [0, 0, 0, 0], [0, 0, 0, 0]]]
    )
    targets = Targets(
        boxes, torch.tensor([[0, 1, 0], [1, 0, 0]]), torch.tensor([[True, True, True], [True, False, False]])
    )
    cost = MinimumCost()
    shared = Criterion(assign=cost)(detector, images, targets)
    apart = Criterion(assign=cost.__call__)(detector, images, targets)
    assert shared.auxiliary > 0
    for one, other in zip(shared, apart, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=0)


def test_the_loss_is_a_mean_over_the_batchs_objects():
    predictions = perfect(shift=4, confusion=12)
    together = loss_of(predictions)
    first, second = loss_of(predictions, slice(0, 1)), loss_of(predictions, slice(1, 2))
    for whole, a, b in zip(together, first, second, strict=True):
        torch.testing.assert_close(whole, (a * len(OBJECTS[0]) + b * len(OBJECTS[1])) / 3)
    assert float(together.l1) > 0
