import math
from pathlib import Path

import numpy as np
import pytest

from leandet.data.sample import Sample
from leandet.errors import UserError
from leandet.pipeline import Options
from leandet.pipeline.options import default_epochs, input_size
from leandet.preprocess import Size, place


def samples(*sizes: tuple[int, int]) -> list[Sample]:
    """Unlabelled samples of these (width, height)."""
    none = np.zeros((0, 4), np.float32), np.zeros(0, np.int64), np.zeros(0, bool)
    return [Sample(Path("a.jpg"), Size(height, width), *none, "a") for width, height in sizes]


@pytest.mark.parametrize(
    ("sizes", "wanted"),
    [
        ([(640, 480)] * 20, Size(256, 320)),  # 240 rounded up
        ([(480, 640)] * 20, Size(320, 256)),
        ([(1920, 1080)] * 5, Size(192, 320)),  # 180 rounded up
        ([(500, 500)] * 5, Size(320, 320)),
        ([(640, 320)] * 5, Size(160, 320)),  # exactly: not rounded up
        ([(640, 480)] * 10 + [(480, 640)] * 10, Size(320, 320)),
        ([(640, 480)] * 19 + [(480, 640)], Size(256, 320)),  # 95 %
        ([(640, 480)] * 18 + [(480, 640)] * 2, Size(320, 320)),
        ([(640, 480)] * 10 + [(650, 480)] * 10, Size(256, 320)),  # nearly one shape
        ([(3000, 10)] * 5, Size(32, 320)),
        ([(7, 7)], Size(320, 320)),
    ],
)
def test_the_input_takes_the_images_shape_where_they_share_one(sizes, wanted):
    assert input_size(samples(*sizes), 320) == wanted


@pytest.mark.parametrize("side", [64, 320, 416])
@pytest.mark.parametrize("width", range(200, 1200, 37))
def test_an_input_of_the_images_shape_costs_no_resolution(side, width):
    photo = Size(480, width)
    size = input_size(samples((width, 480)), side)
    assert max(size.height, size.width) == side
    assert size.height % 32 == size.width % 32 == 0
    square, own = place(photo, Size(side, side)), place(photo, size)
    assert (own.scale_x, own.scale_y) == (square.scale_x, square.scale_y)
    short = min(size.height, size.width)
    assert short - 32 < side * min(480, width) / max(480, width) + 1e-6  # no row of 32 px is wasted


def test_fewer_images_are_shown_more_often():
    epochs = [default_epochs(n) for n in range(2000)]
    assert epochs == sorted(epochs, reverse=True)
    assert (min(epochs), max(epochs)) == (12, 120)
    for n in range(184, 1833):
        assert epochs[n] == math.ceil(22000 / n)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"size": 300}, "not 300"),
        ({"size": 0}, "not 0"),
        ({"budget_ms": 0.0}, "above 0 ms"),
        ({"budget_ms": -1.0}, "above 0 ms"),
        ({"budget_ms": float("nan")}, "above 0 ms"),
        ({"epochs": 0}, "epochs must be at least 1"),
    ],
)
def test_impossible_options_are_refused(change, said):
    with pytest.raises(UserError, match=said):
        Options(Path("data"), Path("out"), **change)


def test_options_are_plain_and_leave_out_the_folder():
    value = Options(Path("data"), Path("here")).to_json()
    assert value == Options(Path("data"), Path("there")).to_json()
    assert value["data"] == "data"
    assert "out" not in value
