"""ShuffleNetV2 without shuffles answers as with them."""

import copy

import pytest
import torch
from torch import nn

from leandet.compress import Target, recalibrate, shrink
from leandet.compress.prune import Quantity
from leandet.detector.detector import Detector
from leandet.detector.spec import HeadStyle, Spec
from leandet.export.direct import DirectStage, unshuffle
from leandet.export.graph import Deployed, deployable, folded
from leandet.exporter import exported

from .conftest import SIZE, pictures

STAGES = ("stage2", "stage3", "stage4")


def made(backbone, **spec):
    torch.manual_seed(0)
    return recalibrate(Detector(Spec(backbone, 2, SIZE, width=16, **spec)), [torch.from_numpy(pictures(2))])


def direct(detector):
    return [isinstance(getattr(detector.backbone, stage, None), DirectStage) for stage in STAGES]


def assert_same(detector):
    images = torch.from_numpy(pictures(2, 1))
    plain = folded(detector).double()
    lean = copy.deepcopy(plain)
    unshuffle(lean)
    with torch.inference_mode():
        wanted, found = plain(images), lean(images)
    torch.testing.assert_close(found.logits, wanted.logits)
    torch.testing.assert_close(found.boxes, wanted.boxes)
    return lean


@pytest.mark.parametrize("backbone", ["shufflenet_v2_x0_5", "shufflenet_v2_x1_0"])
def test_the_same_answers_under_the_same_names(backbone):
    whole = made(backbone)
    lean = assert_same(whole)
    assert direct(lean) == [True] * 3
    assert direct(whole) == [False] * 3  # the given one stays as it was
    assert direct(deployable(whole)) == [True] * 3
    assert set(lean.state_dict()) == set(folded(whole).state_dict())


@pytest.mark.parametrize("share", [0.3, 0.7])
def test_a_pruned_one_too(share):
    whole = made("shufflenet_v2_x0_5")
    images = torch.from_numpy(pictures(1)).float()
    cut = shrink(whole, (images,), target=Target(Quantity.MULTIPLY_ADDS, share)).module
    assert cut.backbone.stage3[0].branch2[0].weight.shape != whole.backbone.stage3[0].branch2[0].weight.shape
    assert direct(assert_same(cut)) == [True] * 3


def test_nothing_is_laid_out_anew_for_a_shuffle():
    images = torch.from_numpy(pictures(1))
    kinds = [n.op_type for n in exported(Deployed(deployable(made("shufflenet_v2_x0_5"))).eval(), images).graph.node]
    before = [n.op_type for n in exported(Deployed(folded(made("shufflenet_v2_x0_5"))).eval(), images).graph.node]
    assert before.count("Transpose") - kinds.count("Transpose") == 16  # one for each unit


def test_what_others_than_convolutions_read_keeps_its_order():
    other = made("shufflenet_v2_x0_5")
    other.backbone.stage3[2].branch2[2] = nn.LeakyReLU()
    assert direct(assert_same(other)) == [False] * 3
    fcos = made("shufflenet_v2_x0_5", head=HeadStyle.ONENET_FCOS, levels=(8, 16, 32, 64, 128))
    assert direct(assert_same(fcos)) == [False] * 3
    assert direct(assert_same(made("mobilenet_v2_035"))) == [False] * 3
