"""Eight drawn pictures to learn from, and a small detector for them."""

from collections.abc import Callable

import pytest
import torch

from leandet.data.read import read
from leandet.data.sample import Dataset
from leandet.data.shapes import draw_shapes
from leandet.detector.detector import Detector
from leandet.detector.spec import Spec
from leandet.preprocess import Size

SIDE = 64


@pytest.fixture(scope="session")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    return read(draw_shapes(tmp_path_factory.mktemp("shapes"), train=8, val=4, side=SIDE))[0]


@pytest.fixture(scope="session")
def untrained(dataset: Dataset) -> Callable[[], Detector]:
    """Makes the same detector each time."""

    def make() -> Detector:
        torch.manual_seed(0)
        return Detector(Spec("mobilenet_v2_035", len(dataset.classes), Size(SIDE, SIDE), width=16))

    return make
