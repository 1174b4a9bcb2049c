"""What is exported answers as what was trained."""

import pytest
import torch
from torch import nn

from leandet.detector.detector import Detector
from leandet.detector.pixels import Centre, Normalise
from leandet.detector.spec import Spec
from leandet.export.graph import deployable

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
