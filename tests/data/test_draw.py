from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from leandet.data.draw import colour_of, draw
from leandet.data.image import load_image
from leandet.data.read import read
from leandet.data.show import show, write_picture
from leandet.errors import UserError


@pytest.mark.parametrize("shape", [(1, 1), (8, 12), (48, 64), (2000, 300), (1080, 1920)])
def test_any_box_on_any_picture(shape: tuple[int, int]) -> None:
    image = np.full((*shape, 3), 128, np.uint8)
    boxes = np.array(
        [[-50, -50, 1e9, 1e9], [0, 0, 1, 1], [5, 3, 9, 7], [np.nan, 0, np.inf, 2], [1e5, 1e5, 2e5, 2e5]], np.float32
    )
    drawn = draw(image, boxes, np.array([0, 1, 2, 99, -1]), ["a" * 300, "chat é", "猫"], np.ones(5, np.float32))
    assert drawn.shape == image.shape
    assert drawn.dtype == np.uint8
    assert (image == 128).all()


def test_box_edge_has_the_colour_of_its_class_and_label_stays_inside() -> None:
    image = np.zeros((480, 640, 3), np.uint8)
    drawn = draw(image, np.array([[600, 300, 639, 400]], np.float32), np.array([3]), ["w", "x", "y", "long name"])
    assert tuple(drawn[350, 600]) == colour_of(3)
    ground = (drawn == colour_of(3)).all(2)
    assert ground[:300, :600].any()  # the label was moved left to fit


def test_no_boxes_is_the_same_picture() -> None:
    image = np.random.default_rng(0).integers(0, 255, (20, 30, 3), np.uint8)
    np.testing.assert_array_equal(draw(image, np.zeros((0, 4), np.float32), np.zeros(0, np.int64), ["a"]), image)


def test_show_writes_pictures(root: Path, tmp_path: Path, flat_voc: Callable[..., Path]) -> None:
    for k in range(6):
        flat_voc(f"p{k}", [("cat", (1, 2, 31, 42))])
    data, _ = read(root)
    written = show(data, tmp_path / "out", count=3, seed=1)
    assert len(written) == 3
    assert all(load_image(path).shape == (48, 64, 3) for path in written)
    assert written == show(data, tmp_path / "out", count=3, seed=1)
    assert len(list((tmp_path / "out").iterdir())) == 3
    assert len(show(data, tmp_path / "all", count=99)) == 5
    with pytest.raises(UserError, match="no split 'test'"):
        show(data, tmp_path / "out", split="test")
    with pytest.raises(UserError, match="count"):
        show(data, tmp_path / "out", count=0)


def test_pictures_that_cannot_be_written(tmp_path: Path) -> None:
    image = np.zeros((4, 4, 3), np.uint8)
    with pytest.raises(UserError, match="no picture format"):
        write_picture(tmp_path / "a.xyz", image)
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot be written"):
        write_picture(tmp_path / "file" / "a.jpg", image)
