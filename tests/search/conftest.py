import pytest
import torch

from leandet.compress.criteria import l1
from leandet.detector.detector import Detector
from leandet.detector.spec import Spec
from leandet.preprocess import Size
from leandet.search.latency import Budget, Clock
from leandet.search.scene import Scene
from leandet.search.space import Space

MS_FOR_EACH = 1e-6  # of the made-up machine, for each multiply-add


def make_space(backbone: str = "alexnet", side: int = 128, smaller_inputs: int = 1) -> Space:
    torch.manual_seed(0)
    detector = Detector(Spec(backbone, 3, Size(side, side), width=16)).eval()
    return Space(detector, l1, smaller_inputs)


def make_scene(space: Space, share: float = 0.5) -> Scene:
    """A machine that takes 1 ms and a nanosecond for each multiply-add; the budget is a share of the whole's time."""
    layers = tuple((MS_FOR_EACH * work, (name,)) for name, work in space.whole_work.items())
    whole_ms = 1.0 + MS_FOR_EACH * sum(space.whole_work.values())
    clock = Clock(layers, 1.0, whole_ms, extra_bytes=1000)
    return Scene(space, clock, Budget(share * clock.ms(space, space.whole)))


@pytest.fixture(scope="session")
def space() -> Space:
    return make_space()


@pytest.fixture(scope="session")
def scene(space) -> Scene:
    return make_scene(space)


@pytest.fixture(scope="session")
def many_groups() -> Scene:
    return make_scene(make_space("shufflenet_v2_x0_5"))
