"""A small detector whose answers depend on the picture."""

import numpy as np
import pytest
import torch

from leandet.card import Card
from leandet.compress import recalibrate
from leandet.detector.detector import Detector
from leandet.detector.spec import Spec
from leandet.preprocess import Size

SIZE = Size(64, 96)


def pictures(count: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (count, 3, SIZE.height, SIZE.width), np.uint8)


@pytest.fixture(scope="session")
def detector():
    torch.manual_seed(0)
    made = Detector(Spec("mobilenet_v2_035", 3, SIZE, width=16))
    with torch.no_grad():
        for classify, regress in zip(made.head.classify, made.head.regress, strict=True):
            classify[-1].weight.normal_(std=0.5)  # scores that differ, some of them sure
            classify[-1].bias.fill_(-1.0)
            regress[-1].weight.normal_(std=0.1)
    return recalibrate(made, [torch.from_numpy(pictures(16, 100))])


@pytest.fixture(scope="session")
def card(detector):
    return Card(("a", "b", "ü"), detector.spec, {"ap": 0.25}, {"seed": "0"})
