from __future__ import annotations

import itertools
import os
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from leandet.data.convert import convert
from leandet.data.layout import Layout
from leandet.data.read import read
from leandet.data.sample import Dataset, Sample
from leandet.errors import UserError
from leandet.preprocess import Size

from .conftest import jpeg, turned, write

CLASSES = ("zebra", 'a "b": #c', "it's", "é 😀")


def sample(path: Path, size: Size, boxes: object, labels: list[int], crowd: list[bool] | None = None) -> Sample:
    flags = np.array(crowd or [False] * len(labels), np.bool_)
    return Sample(path, size, np.array(boxes, np.float32).reshape(-1, 4), np.array(labels, np.int64), flags, "")


def made(root: Path) -> Dataset:
    a = write(root / "x" / "p 1.jpg", jpeg(1))
    b = write(root / "y" / "p 1.jpg", turned(jpeg(2)))
    c = write(root / "y" / "P_1.jpg", jpeg(3))
    train = (
        sample(a, Size(48, 64), [[0.125, 1.37, 63.99, 47.5], [3, 4, 5.5, 6.25]], [0, 1]),
        sample(b, Size(64, 48), [[1, 2, 47.3, 63.7]], [3]),
    )
    val = (sample(c, Size(48, 64), [[10, 10, 20, 20], [0, 0, 64, 48]], [2, 0], [False, True]),)
    return Dataset(root, "coco", CLASSES, {"train": train, "val": val})


@pytest.mark.parametrize("to", list(Layout))
def test_round_trip(tmp_path: Path, to: Layout) -> None:
    data = made(tmp_path / "in")
    convert(data, to, tmp_path / "out" / "deep")
    back, report = read(tmp_path / "out" / "deep")
    assert back.layout == to
    assert back.classes == CLASSES
    assert report.clipped == 0
    assert not [p for p in report.problems.kept if p.kind != "empty_class"]
    assert list(back.splits) == list(data.splits)
    for before, after in zip(
        itertools.chain(*data.splits.values()), itertools.chain(*back.splits.values()), strict=True
    ):
        keep = ~before.crowd if to is Layout.YOLO else np.ones(len(before.crowd), np.bool_)
        assert after.size == before.size
        np.testing.assert_allclose(after.boxes, before.boxes[keep], atol=0.01)
        np.testing.assert_array_equal(after.labels, before.labels[keep])
        np.testing.assert_array_equal(after.crowd, before.crowd[keep])
        assert after.image.read_bytes() == before.image.read_bytes()
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["deep"]


side = st.floats(0, 1, width=32)
boxes = st.tuples(side, side, side, side).filter(lambda b: abs(b[0] - b[2]) > 1e-4 and abs(b[1] - b[3]) > 1e-4)


@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(boxes, min_size=1, max_size=8), st.sampled_from([(48, 64), (481, 1999)]), st.sampled_from(list(Layout)))
def test_coordinates_survive(
    tmp_path_factory: pytest.TempPathFactory, fractions: list[tuple[float, ...]], shape: tuple[int, int], to: Layout
) -> None:
    folder = tmp_path_factory.mktemp("trip")
    height, width = shape
    pixels = [
        [min(a, c) * width, min(b, d) * height, max(a, c) * width, max(b, d) * height] for a, b, c, d in fractions
    ]
    picture = write(folder / "in" / "a.jpg", jpeg(0, width, height))
    item = sample(picture, Size(height, width), pixels, [0] * len(pixels))
    convert(Dataset(folder / "in", "coco", ("thing",), {"train": (item,)}), to, folder / "out")
    back, report = read(folder / "out")
    assert report.clipped == 0
    np.testing.assert_allclose(back.splits["train"][0].boxes, item.boxes, atol=0.01)


def test_an_occupied_folder_is_refused_and_an_empty_one_taken(tmp_path: Path) -> None:
    data = made(tmp_path / "in")
    kept = write(tmp_path / "out" / "mine.txt", "x")
    for out in (tmp_path / "out", kept):
        with pytest.raises(UserError, match="name a new one"):
            convert(data, Layout.COCO, out)
    assert kept.read_text() == "x"
    (tmp_path / "empty").mkdir()
    convert(data, Layout.VOC, tmp_path / "empty")
    assert (tmp_path / "empty" / "JPEGImages").is_dir()


def test_a_failure_leaves_nothing(tmp_path: Path) -> None:
    data = made(tmp_path / "in")
    data.splits["val"][0].image.unlink()
    with pytest.raises(UserError, match="cannot be written"):
        convert(data, Layout.YOLO, tmp_path / "out")
    assert [p.name for p in tmp_path.iterdir()] == ["in"]


@pytest.mark.skipif(sys.platform != "linux", reason="other systems have no such names")
@pytest.mark.parametrize("to", list(Layout))
def test_a_name_that_is_no_unicode_is_spelt_otherwise(tmp_path: Path, to: Layout) -> None:
    picture = write(tmp_path / "in" / os.fsdecode(b"caf\xe9.jpg"), jpeg(1))
    data = Dataset(tmp_path, "coco", CLASSES, {"train": (sample(picture, Size(48, 64), [[1, 2, 9, 9]], [0]),)})
    convert(data, to, tmp_path / "out")
    (back,) = read(tmp_path / "out", make_splits=False)[0].splits["train"]
    assert back.image.name == "caf_.jpg"
    np.testing.assert_allclose(back.boxes, [[1, 2, 9, 9]], atol=0.01)
