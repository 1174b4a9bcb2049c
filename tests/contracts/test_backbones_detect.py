"""What every backbone must do once a detector is built on it: one row for each paper."""

import pytest
import torch

from leandet.compress import recalibrate
from leandet.data.batch import Targets
from leandet.detector.detector import Detector
from leandet.detector.spec import Spec
from leandet.learn.loss import Criterion
from leandet.preprocess import Size

BACKBONES = [
    "alexnet",
    "squeezenet1_1",
    "mobilenet_v1_025",
    "mobilenet_v2_035",
    "mobilenet_v3_small",
    "shufflenet_v1_g3_x0_25",
    "shufflenet_v2_x0_5",
]
HEIGHT, WIDTH = 128, 192
# Of sizes that every level learns from: about four strides wide, as boxes begin.
BOXES = [torch.tensor([[4.0, 4, 60, 60], [0, 0, 192, 128]]), torch.tensor([[30.0, 10, 62, 41]])]
LABELS = [torch.tensor([0, 2]), torch.tensor([1])]


def pictures(count: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (count, 3, HEIGHT, WIDTH), dtype=torch.uint8, generator=generator)


@pytest.fixture(scope="module", params=BACKBONES)
def detector(request):
    torch.manual_seed(0)
    return Detector(Spec(request.param, 3, Size(HEIGHT, WIDTH), width=16))


def test_every_parameter_learns(detector):
    torch.manual_seed(0)
    detector.train()
    criterion = Criterion()
    detector.zero_grad()
    parts = criterion(detector, pictures(2), Targets.pad(BOXES, LABELS))
    parts.total.backward()
    assert torch.isfinite(parts.total)
    for name, parameter in detector.named_parameters():
        assert parameter.grad is not None, f"{name} takes no part"
        assert torch.isfinite(parameter.grad).all(), name
    # A dead unit is chance; a module in which nothing moves is a fault.
    for name, module in detector.named_modules():
        own = [p.grad for p in module.parameters(recurse=False)]
        assert not own or any(g.abs().sum() > 0 for g in own), f"{name} learns nothing"


@torch.inference_mode()
def test_a_batch_answers_as_its_images_alone_do(detector):
    images = pictures(3)
    recalibrate(detector, [pictures(6)])
    together = detector(images)
    assert together.boxes.std(dim=0).max() > 0.5  # the pictures do matter
    for i in range(3):
        alone = detector(images[i : i + 1])
        torch.testing.assert_close(together.logits[i], alone.logits[0], rtol=1e-3, atol=1e-4)
        torch.testing.assert_close(together.boxes[i], alone.boxes[0], rtol=1e-3, atol=1e-2)


@torch.inference_mode()
def test_locations_cover_the_picture(detector):
    predictions = detector.eval()(pictures(1))
    assert len(predictions.points) == sum((HEIGHT // s) * (WIDTH // s) for s in (8, 16, 32))
    assert predictions.points.amin(0).tolist() == [4, 4]
    assert predictions.points.amax(0).tolist() == [WIDTH - 4, HEIGHT - 4]
