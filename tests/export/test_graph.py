"""What is exported answers as what was trained."""

import pytest
import torch
from torch import nn

from leandet.compress import recalibrate
from leandet.detector.detector import Detector
from leandet.detector.head import Head, bars_of
from leandet.detector.pixels import Centre, Normalise
from leandet.detector.spec import Spec
from leandet.export.graph import Deployed, deployable, easily_decoded

from .conftest import SIZE, pictures

BACKBONES = (
    "alexnet",
    "squeezenet1_1",
    "mobilenet_v1_025",
    "mobilenet_v2_035",
    "mobilenet_v3_small",
    "shufflenet_v1_g3_x0_5",
    "shufflenet_v2_x0_5",
)


@pytest.mark.parametrize("backbone", BACKBONES)
def test_the_first_convolution_divides_instead_of_the_pixels(backbone):
    torch.manual_seed(0)
    made = Detector(Spec(backbone, 2, SIZE, width=16)).eval()
    images = torch.from_numpy(pictures(2))
    lean = deployable(made)
    assert isinstance(lean.pixels, Centre)
    assert isinstance(made.pixels, Normalise)  # the given one stays as it was
    with torch.inference_mode():
        wanted, found = made.double()(images), lean.double()(images)
    torch.testing.assert_close(found.logits, wanted.logits, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(found.boxes, wanted.boxes, rtol=1e-4, atol=1e-3)


class Standardised(nn.Conv2d):
    """As some of timm's: the weights' scale does not matter."""

    def forward(self, x):
        return nn.functional.conv2d(x, self.weight / self.weight.std(), self.bias, self.stride, self.padding)


def test_a_convolution_of_its_own_kind_keeps_its_weights():
    made = Detector(Spec("shufflenet_v2_x0_5", 2, SIZE, width=16)).eval()
    made.backbone.conv1[0].__class__ = Standardised
    made.backbone.conv1[1].running_var.uniform_(0.5, 2)
    with torch.inference_mode():
        wanted, found = made(torch.from_numpy(pictures(2))), deployable(made)(torch.from_numpy(pictures(2)))
    torch.testing.assert_close(found.logits, wanted.logits, rtol=1e-4, atol=1e-3)


def spread(detector, images):
    """A detector whose answers vary: boxes on both sides of being wide, scores in any order."""
    detector = recalibrate(detector, [images])
    for kind, mean in ((detector.head.classify, 0.0), (detector.head.choose, 0.0), (detector.head.regress, 3.0)):
        for tower in kind:
            nn.init.normal_(tower[-1].weight, std=1.0)
            nn.init.constant_(tower[-1].bias, mean)
    return detector.double().eval()


@pytest.mark.parametrize("classes", [3, 20])
def test_a_deployed_head_answers_the_same(classes):
    torch.manual_seed(0)
    images = torch.from_numpy(pictures(3))
    made = spread(Detector(Spec("shufflenet_v2_x0_5", classes, SIZE, width=16)), images)
    deployed = Deployed(easily_decoded(made))
    with torch.inference_mode():
        maps = deployed.detector.head(deployed.detector.features(images))
        bars = [bars_of(sides) for sides in made.head(made.features(images)).sides]
        boxes, scores, labels = made.detect(images, deployed.k)
        found = deployed(images)
    assert isinstance(made.head, Head)  # the given one stays as it was
    assert not maps.chosen
    assert 0.1 < torch.cat([bar.flatten() == 0 for bar in bars]).double().mean() < 0.9  # wide and not
    for answered, bar in zip(maps.bars, bars, strict=True):
        torch.testing.assert_close(answered, bar, rtol=1e-9, atol=1e-6)
    torch.testing.assert_close(found[0], boxes)
    torch.testing.assert_close(found[1], scores)
    assert found[2].tolist() == labels.tolist()


def test_a_head_of_convolutions_of_their_own_kind_stays():
    made = Detector(Spec("shufflenet_v2_x0_5", 2, SIZE, width=16)).eval()
    made.head.regress[0][-1].__class__ = Standardised
    assert easily_decoded(made) is made
