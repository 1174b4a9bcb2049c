"""The drawn data set: the same pictures every time, tight boxes, and never a half-written folder."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import pytest

from leandet.data import shapes
from leandet.data.scene import CROWD, Scene
from leandet.data.shapes import CLASSES, draw_picture, draw_shapes
from leandet.errors import UserError
from leandet.metrics import overlaps


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return draw_shapes(tmp_path_factory.mktemp("shapes") / "set", train=10, val=5, side=128)


def _coco(folder: Path, split: str) -> dict:
    return json.loads((folder / "annotations" / f"instances_{split}.json").read_text())


def _contents(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def test_same_arguments_same_files(drawn: Path, tmp_path: Path) -> None:
    assert _contents(draw_shapes(tmp_path / "again", train=10, val=5, side=128)) == _contents(drawn)


def test_seed_and_split_change_the_pictures(drawn: Path, tmp_path: Path) -> None:
    other = draw_shapes(tmp_path / "other", train=1, val=1, side=128, seed=1)
    pictures = [f / s / "000001.jpg" for f in (drawn, other) for s in ("train", "val")]
    assert len({p.read_bytes() for p in pictures}) == 4


def test_a_longer_split_begins_with_the_same_pictures(drawn: Path, tmp_path: Path) -> None:
    short = draw_shapes(tmp_path / "short", train=2, val=1, side=128)
    assert (short / "train" / "000002.jpg").read_bytes() == (drawn / "train" / "000002.jpg").read_bytes()


@pytest.mark.parametrize(("split", "count"), [("train", 10), ("val", 5)])
def test_coco_fields(drawn: Path, split: str, count: int) -> None:
    coco = _coco(drawn, split)
    assert [i["id"] for i in coco["images"]] == list(range(1, count + 1))
    assert [a["id"] for a in coco["annotations"]] == list(range(1, len(coco["annotations"]) + 1))
    assert [(c["id"], c["name"]) for c in coco["categories"]] == list(enumerate(CLASSES, 1))
    for image in coco["images"]:
        picture = cv2.imread(str(drawn / split / image["file_name"]))
        assert picture is not None
        assert picture.shape == (image["height"], image["width"], 3)
        assert 1 <= sum(a["image_id"] == image["id"] for a in coco["annotations"]) <= 8
    for annotation in coco["annotations"]:
        x, y, width, height = annotation["bbox"]
        assert x >= 0
        assert y >= 0
        assert x + width <= 128
        assert y + height <= 128
        assert 0 < annotation["area"] <= width * height
        assert annotation["iscrowd"] == 0


@pytest.mark.parametrize("split", ["train", "val"])
def test_every_class_is_in_both_splits(drawn: Path, split: str) -> None:
    assert {a["category_id"] for a in _coco(drawn, split)["annotations"]} == {1, 2, 3, 4, 5}


def _quiet(monkeypatch: pytest.MonkeyPatch) -> None:
    """White ground without clutter, shapes in dark colours of their own: boxes can be read off the pixels."""
    monkeypatch.setattr(shapes, "background", lambda side, _: np.full((side, side, 3), 255, np.float32))
    monkeypatch.setattr(shapes, "clutter", lambda *_: None)
    monkeypatch.setattr(shapes, "_contrasting", lambda *_: np.zeros(3))


@pytest.mark.parametrize("label", range(len(CLASSES)))
def test_boxes_are_tight_to_the_pixels(label: int, monkeypatch: pytest.MonkeyPatch) -> None:
    _quiet(monkeypatch)
    checked = 0
    for seed in range(40):
        picture, drawn = draw_picture(128, np.random.default_rng(seed), label)
        if len(drawn) != 1:
            continue
        checked += 1
        # A pixel a quarter covered or more is plainly darker than the ground.
        inked = np.argwhere(picture.min(axis=2) < 255 - 255 / 32)
        (top, left), (bottom, right) = inked.min(axis=0), inked.max(axis=0) + 1
        x1, y1, x2, y2 = drawn[0].box
        assert max(abs(x1 - left), abs(y1 - top), abs(x2 - right), abs(y2 - bottom)) < 1.01
    assert checked


def test_shapes_stay_visible_and_overlap_at_times() -> None:
    pictures = [draw_picture(128, np.random.default_rng(seed)) for seed in range(30)]
    visible = [shape.visible for _, drawn in pictures for shape in drawn]
    assert min(visible) >= 0.6
    assert 0.05 < np.mean(np.array(visible) < 0.99) < 0.6


def test_a_complete_folder_is_kept_and_a_damaged_one_redrawn(tmp_path: Path) -> None:
    out = draw_shapes(tmp_path / "set", train=2, val=1, side=64)
    picture = out / "train" / "000001.jpg"
    first, drawn_at = picture.read_bytes(), picture.stat().st_mtime_ns
    draw_shapes(out, train=2, val=1, side=64)
    assert picture.stat().st_mtime_ns == drawn_at
    picture.unlink()
    draw_shapes(out, train=2, val=1, side=64)
    assert picture.read_bytes() == first
    draw_shapes(out, train=3, val=1, side=64)
    assert len(list((out / "train").iterdir())) == 3
    assert [p.name for p in tmp_path.iterdir()] == ["set"]


def test_an_interruption_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(shapes, "draw_picture", interrupt)
    with pytest.raises(KeyboardInterrupt):
        draw_shapes(tmp_path / "set", train=1, val=1)
    assert not list(tmp_path.iterdir())


def test_a_strangers_folder_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "holiday.jpg").write_bytes(b"mine")
    with pytest.raises(UserError, match="is not a set of drawn shapes"):
        draw_shapes(tmp_path / "set", train=1, val=1)
    assert (tmp_path / "set" / "holiday.jpg").read_bytes() == b"mine"


def test_an_empty_folder_is_filled(tmp_path: Path) -> None:
    draw_shapes(tmp_path, train=1, val=1, side=64)
    assert (tmp_path / "train" / "000001.jpg").is_file()


@pytest.mark.parametrize("wrong", [{"train": 0}, {"val": 0}, {"side": 63}, {"seed": -1}])
def test_arguments_out_of_range(wrong: dict[str, int], tmp_path: Path) -> None:
    with pytest.raises(UserError, match="drawing shapes needs"):
        draw_shapes(tmp_path / "set", **wrong)


def test_a_parent_that_is_a_file(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot be made"):
        draw_shapes(tmp_path / "file" / "set", train=1, val=1)


def test_a_crowd_is_crowded_and_its_labels_are_whole_shapes():
    picture, shapes = draw_picture(192, np.random.default_rng(3), 2, CROWD)
    assert picture.shape == (192, 192, 3)
    assert len(shapes) >= 80
    assert {shape.label for shape in shapes} == {2}
    assert min(shape.visible for shape in shapes) >= CROWD.visible - 1e-9
    assert min(shape.visible for shape in shapes) < 0.5
    boxes = np.array([shape.box for shape in shapes])
    overlap = overlaps(boxes, boxes)
    np.fill_diagonal(overlap, 0)
    assert (overlap.max(1) > 0.5).sum() >= 3
    sides = (boxes[:, 2:] - boxes[:, :2]).max(1) / 192
    assert sides.min() > CROWD.smallest - 0.01
    assert sides.max() < CROWD.largest + 0.01


def test_another_scene_is_another_data_set(tmp_path):
    first = draw_shapes(tmp_path / "set", train=1, val=1, side=96)
    plain = (first / "shapes.json").read_text()
    assert "scene" not in plain  # folders drawn before scenes are still known
    crowd = draw_shapes(tmp_path / "set", train=1, val=1, side=96, scene=Scene(fewest=5, most=5, largest=0.3))
    assert (crowd / "shapes.json").read_text() != plain
    annotations = json.loads((crowd / "annotations" / "instances_train.json").read_text())["annotations"]
    assert len(annotations) == 5
