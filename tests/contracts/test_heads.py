"""What every style of head must do once a detector has it: one row for each."""

import math

import numpy as np
import pytest
import torch

from leandet.card import Card
from leandet.compress import prune, recalibrate, verify
from leandet.data.batch import Targets
from leandet.detector.detector import Detector
from leandet.detector.files import load_detector, save_detector
from leandet.detector.spec import HeadStyle, Spec
from leandet.errors import UserError
from leandet.export import BOX_TOLERANCE, SCORE_TOLERANCE, export
from leandet.learn.loss import Criterion
from leandet.learn.recipe import Recipe
from leandet.learn.train import train
from leandet.preprocess import Size

HEIGHT, WIDTH = 64, 96
BOXES = [torch.tensor([[4.0, 4, 60, 60], [50, 20, 90, 44]]), torch.tensor([[30.0, 10, 42, 21]])]
LABELS = [torch.tensor([0, 2]), torch.tensor([1])]


def pictures(count: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (count, 3, HEIGHT, WIDTH), dtype=torch.uint8, generator=generator)


def made(style: HeadStyle) -> Detector:
    torch.manual_seed(0)
    spec = Spec("shufflenet_v2_x0_5", 3, Size(HEIGHT, WIDTH), width=16, levels=style.strides, head=style)
    return recalibrate(Detector(spec), [pictures(8)])


@pytest.fixture(scope="module", params=list(HeadStyle))
def detector(request):
    return made(request.param)


@torch.inference_mode()
def test_locations_are_those_of_its_strides(detector):
    predictions = detector.eval()(pictures(2))
    strides = detector.spec.head.strides
    assert sorted(set(predictions.strides.tolist())) == list(strides)
    assert len(predictions.points) == sum(math.ceil(HEIGHT / s) * math.ceil(WIDTH / s) for s in strides)
    assert predictions.logits.shape == (2, len(predictions.points), 3)
    assert (predictions.boxes[..., :2] <= predictions.points).all()
    assert (predictions.boxes[..., 2:] >= predictions.points).all()
    assert predictions.logits.sigmoid().mean() < 0.05


@torch.inference_mode()
def test_a_batch_answers_as_its_images_alone_do(detector):
    images = pictures(3)
    together = detector.eval()(images)
    assert together.boxes.std(dim=0).max() > 0.1  # the pictures do matter
    for i in range(3):
        alone = detector(images[i : i + 1])
        torch.testing.assert_close(together.logits[i], alone.logits[0], rtol=1e-3, atol=1e-4)
        torch.testing.assert_close(together.boxes[i], alone.boxes[0], rtol=1e-3, atol=1e-2)


@pytest.mark.parametrize("style", list(HeadStyle))
def test_every_parameter_learns(style):
    detector = made(style).train()
    Criterion(auxiliary=float(style.chooses))(detector, pictures(2), Targets.pad(BOXES, LABELS)).total.backward()
    for name, parameter in detector.named_parameters():
        assert parameter.grad is not None, f"{name} takes no part"
        assert torch.isfinite(parameter.grad).all(), name


@pytest.mark.parametrize("style", [HeadStyle.ONENET_CENTRE, HeadStyle.ONENET_FCOS])  # the lean one: tests/export
def test_onnx_answers_alike(style, tmp_path):
    detector = made(style)
    card = Card(("a", "b", "c"), detector.spec, {}, {})
    images = np.asarray(pictures(2))
    parity = export(detector, card, tmp_path / "model.onnx", images)
    assert parity.boxes <= BOX_TOLERANCE
    assert parity.scores <= SCORE_TOLERANCE
    assert parity.compared > 0


def test_a_pruned_one_is_saved_and_loaded(detector, tmp_path):
    small = prune(detector, pictures(1).float(), ratio=0.3)
    assert sum(p.numel() for p in small.parameters()) < 0.9 * sum(p.numel() for p in detector.parameters())
    path = tmp_path / "model.safetensors"
    save_detector(small, Card(("a", "b", "c"), small.spec, {}, {}), path)
    loaded, card = load_detector(path)
    assert card.spec.head is detector.spec.head
    with torch.inference_mode():
        for a, b in zip(small.eval()(pictures(2)), loaded(pictures(2)), strict=True):
            torch.testing.assert_close(a, b, rtol=0, atol=0)


@pytest.mark.parametrize("style", [HeadStyle.ONENET_CENTRE, HeadStyle.ONENET_FCOS])
def test_cutting_its_channels_is_exact(style):
    detector = made(style)
    report = verify(detector, pictures(1).float())
    assert report.exact == len(report.checks) > 5
    assert report.worst_relative_error < 1e-6
    # Group-norm mixes channels: what it touches stays, and says so.
    assert all("group" in reason for reason in report.reasons.values())
    assert bool(report.reasons) == (style is HeadStyle.ONENET_FCOS)


def test_boxes_of_the_centre_head_are_pixels():
    detector = made(HeadStyle.ONENET_CENTRE).eval()
    with torch.no_grad():
        detector.head.regress.weight.zero_()
        detector.head.regress.bias.copy_(torch.tensor([1.0, 2, -3, 4]))
        predictions = detector(pictures(1))
    wanted = predictions.points.repeat(1, 2) + torch.tensor([-1.0, -2, 0, 4])
    torch.testing.assert_close(predictions.boxes[0], wanted)


def test_a_head_without_a_choice_refuses_the_auxiliary_branch(tmp_path):
    detector = made(HeadStyle.ONENET_CENTRE)
    with pytest.raises(UserError, match="auxiliary=0"):
        train(detector, (object(),), (), ("a", "b", "c"), Recipe(epochs=1), tmp_path)
