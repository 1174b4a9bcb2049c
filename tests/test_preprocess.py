import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from leandet.preprocess import PAD_VALUE, Size, letterbox, place

sides = st.integers(1, 5000)
inputs = st.builds(Size, st.integers(1, 64).map(lambda n: 32 * n), st.integers(1, 64).map(lambda n: 32 * n))
fractions = st.tuples(*[st.floats(0, 1, width=32)] * 4)


@given(st.builds(Size, sides, sides), inputs, fractions)
def test_undo_is_the_inverse_of_apply(original, size, where):
    x1, x2 = sorted(where[:2])
    y1, y2 = sorted(where[2:])
    boxes = np.array([[x1, y1, x2, y2]], np.float32) * np.array([original.width, original.height] * 2, np.float32)
    placement = place(original, size)
    placed = placement.apply(boxes)
    assert (placed >= -1e-3).all()
    assert (placed <= np.array([size.width, size.height] * 2) * (1 + 1e-6) + 1e-3).all()
    # float32 keeps about 1e-7 of a letterboxed coordinate; dividing by the scale magnifies that
    tolerance = 1e-3 + 2e-6 * max(size.width, size.height) / min(placement.scale_x, placement.scale_y)
    np.testing.assert_allclose(placement.undo(placed), boxes, atol=tolerance, rtol=1e-5)


@given(st.builds(Size, sides, sides), inputs)
def test_the_image_fits_and_is_centred(original, size):
    placement = place(original, size)
    width, height = round(original.width * placement.scale_x), round(original.height * placement.scale_y)
    assert 1 <= width <= size.width
    assert 1 <= height <= size.height
    assert width == size.width or height == size.height
    assert 0 <= size.width - width - 2 * placement.left <= 1
    assert 0 <= size.height - height - 2 * placement.top <= 1


@given(st.builds(Size, st.integers(1, 200), st.integers(1, 200)), st.sampled_from([Size(32, 64), Size(96, 32)]))
def test_letterbox_keeps_the_picture_and_pads_with_grey(original, size):
    image = np.full((original.height, original.width, 3), (200, 10, 60), np.uint8)
    boxed, placement = letterbox(image, size)
    assert boxed.shape == (size.height, size.width, 3)
    assert boxed.flags.c_contiguous
    width, height = round(original.width * placement.scale_x), round(original.height * placement.scale_y)
    inside = np.zeros(boxed.shape[:2], bool)
    inside[placement.top : placement.top + height, placement.left : placement.left + width] = True
    assert (boxed[inside] == (200, 10, 60)).all()
    assert (boxed[~inside] == PAD_VALUE).all()


def test_undo_clips_to_the_image():
    placement = place(Size(100, 200), Size(64, 64))
    boxes = placement.undo(np.array([[-10, -10, 500, 500]], np.float32))
    assert boxes.tolist() == [[0, 0, 200, 100]]
    assert boxes.dtype == np.float32


def test_an_image_of_the_right_size_is_untouched():
    image = np.random.default_rng(0).integers(0, 256, (32, 64, 3), np.uint8)
    boxed, placement = letterbox(image, Size(32, 64))
    np.testing.assert_array_equal(boxed, image)
    assert (placement.scale_x, placement.scale_y, placement.left, placement.top) == (1, 1, 0, 0)


@pytest.mark.parametrize("shape", [(1, 4000, 3), (4000, 1, 3)])
def test_extreme_shapes_keep_one_pixel(shape):
    boxed, placement = letterbox(np.zeros(shape, np.uint8), Size(64, 64))
    assert (boxed == 0).any()
    assert placement.scale_x > 0
    assert placement.scale_y > 0


@pytest.mark.parametrize(("height", "width"), [(1080, 1920), (1000, 1777), (1281, 1283), (2448, 3264)])
def test_halving_a_large_photograph_first_gives_its_area_mean(height, width):
    rough = np.random.default_rng(0).normal(size=(height // 40, width // 40, 3)).astype(np.float32)
    scene = cv2.resize(rough, (width, height), interpolation=cv2.INTER_CUBIC)
    image = np.clip(128 + 40 * scene, 0, 255).astype(np.uint8)
    boxed, where = letterbox(image, Size(160, 160))
    inner = (round(width * where.scale_x), round(height * where.scale_y))
    wanted = cv2.resize(image, inner, interpolation=cv2.INTER_AREA).astype(np.float32)
    found = boxed[where.top : where.top + inner[1], where.left : where.left + inner[0]].astype(np.float32)
    assert wanted.std() > 8
    assert np.abs(found - wanted).mean() < 1  # of 255
    assert np.abs((found - wanted).mean((0, 1))).max() < 0.5  # rounding at each halving


@pytest.mark.parametrize(
    ("height", "width", "side"), [(400, 361, 160), (480, 640, 256), (480, 640, 288), (1000, 1777, 512)]
)
def test_a_smaller_photograph_is_halved_once_and_hardly_differs_from_its_area_mean(height, width, side):
    rough = np.random.default_rng(0).normal(size=(24, 32, 3)).astype(np.float32)  # detail that the input can show
    scene = cv2.resize(rough, (width, height), interpolation=cv2.INTER_CUBIC)
    image = np.clip(128 + 40 * scene, 0, 255).astype(np.uint8)
    boxed, where = letterbox(image, Size(side, side))
    inner = (round(width * where.scale_x), round(height * where.scale_y))
    wanted = cv2.resize(image, inner, interpolation=cv2.INTER_AREA).astype(np.float32)
    found = boxed[where.top : where.top + inner[1], where.left : where.left + inner[0]].astype(np.float32)
    assert 0 < np.abs(found - wanted).mean() < 1  # of 255
    assert np.abs((found - wanted).mean((0, 1))).max() < 0.5


@pytest.mark.parametrize(("height", "width", "size"), [(480, 640, Size(240, 320)), (540, 960, Size(180, 320))])
def test_a_photograph_that_divides_evenly_is_its_area_mean_to_the_last_digit(height, width, size):
    image = np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)
    boxed, _ = letterbox(image, size)
    np.testing.assert_array_equal(boxed, cv2.resize(image, (size.width, size.height), interpolation=cv2.INTER_AREA))
