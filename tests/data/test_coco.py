from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from leandet.data.problems import ProblemKind
from leandet.data.read import read
from leandet.data.sample import Sample
from leandet.errors import UserError
from leandet.preprocess import Size

from .conftest import coco, jpeg, write


def image(key: int, name: str | None = None) -> dict[str, object]:
    return {"id": key, "file_name": name or f"{key}.jpg", "width": 64, "height": 48}


def box(
    key: int, picture: int, xywh: object = (1, 2, 30, 40), category: object = 10, **more: object
) -> dict[str, object]:
    return {"id": key, "image_id": picture, "category_id": category, "bbox": xywh, "iscrowd": 0, **more}


def pictures(folder: Path, *keys: int) -> None:
    for key in keys:
        write(folder / f"{key}.jpg", jpeg(key))


def test_coco_2017_tree(root: Path) -> None:
    for split, keys in (("train", (1, 2)), ("val", (3,))):
        pictures(root / f"{split}2017", *keys)
        content = coco([image(k) for k in keys], [box(k, k) for k in keys])
        write(root / f"annotations/instances_{split}2017.json", content)
    write(root / "annotations/captions_train2017.json", coco([image(9)], []))
    data, report = read(root)
    assert {k: len(v) for k, v in data.splits.items()} == {"train": 2, "val": 1}
    assert not report.made
    assert not report.problems.kept
    np.testing.assert_array_equal(data.splits["val"][0].boxes, [[1, 2, 31, 42]])
    alone, _ = read(root / "annotations/instances_train2017.json")
    assert {k: len(v) for k, v in alone.splits.items()} == {"train": 1, "val": 1}


def test_roboflow_tree(root: Path) -> None:
    for key, split in enumerate(("train", "valid", "test"), 1):
        pictures(root / split, key)
        write(root / split / "_annotations.coco.json", coco([image(key)], [box(1, key)]))
    data, _ = read(root)
    assert {k: [s.image.name for s in v] for k, v in data.splits.items()} == {
        "train": ["1.jpg"],
        "val": ["2.jpg"],
        "test": ["3.jpg"],
    }


def test_a_missing_picture_is_not_taken_from_another_split(root: Path) -> None:
    """Both splits count from 1: what `valid/` has under that name is another picture."""
    for split, keys in (("train", (1, 2, 3)), ("valid", (1, 2, 3))):
        for key in keys:
            write(root / split / f"{key}.jpg", jpeg(key + 10 * (split == "valid")))
        write(root / f"annotations/instances_{split}.json", coco([image(k) for k in keys], [box(k, k) for k in keys]))
    (root / "train/2.jpg").unlink()
    data, report = read(root)
    assert [s.image.relative_to(root).as_posix() for s in data.splits["train"]] == ["train/1.jpg", "train/3.jpg"]
    assert [p.kind for p in report.problems.kept] == [ProblemKind.MISSING_IMAGE]


def test_one_file_with_splits_in_the_file_names(root: Path) -> None:
    pictures(root / "train", 1, 2)
    pictures(root / "val", 3)
    images = [image(1, "train/1.jpg"), image(2, "train/2.jpg"), image(3, "val/3.jpg")]
    write(root / "labels.json", coco(images, [box(k, k) for k in (1, 2, 3)]))
    data, _ = read(root / "labels.json")
    assert {k: len(v) for k, v in data.splits.items()} == {"train": 2, "val": 1}


def test_category_ids_become_contiguous_in_their_order_and_crowds_stay(root: Path) -> None:
    pictures(root / "images", 1, 2)
    content = json.loads(coco([image(1), image(2)], [box(1, 1, category=90), box(2, 2, category=7, iscrowd=1)]))
    content["categories"] = [{"id": 90, "name": "last"}, {"id": 7, "name": "first"}]
    write(root / "a.json", json.dumps(content))
    data, _ = read(root)
    assert data.classes == ("first", "last")
    by_name = {s.image.stem: s for split in data.splits.values() for s in split}
    assert by_name["1"].labels.tolist() == [1]
    assert by_name["2"].crowd.tolist() == [True]


@pytest.mark.parametrize(
    ("wrong", "kind"),
    [
        (box(7, 1, category=99), ProblemKind.UNKNOWN_CLASS),
        (box(7, 1, category=[1]), ProblemKind.UNKNOWN_CLASS),
        (box(7, 1, [1, 2, 3]), ProblemKind.BAD_BOX),
        (box(7, 1, [1, 2, None, 4]), ProblemKind.BAD_BOX),
        (box(7, 1, [1, 2, float("nan"), 4]), ProblemKind.BAD_BOX),
        (box(7, 1, [1, 2, 10**400, 4]), ProblemKind.BAD_BOX),
        (box(7, 1, [1, 2, -3, 4]), ProblemKind.BAD_BOX),
        (box(7, 1, None), ProblemKind.BAD_BOX),
        (box(7, 55), ProblemKind.BAD_LABELS),
        ({"id": 7}, ProblemKind.BAD_LABELS),
        ({"id": 7, "image_id": [1]}, ProblemKind.BAD_LABELS),
    ],
)
def test_a_bad_annotation_is_left_out_alone(root: Path, wrong: dict[str, object], kind: ProblemKind) -> None:
    pictures(root, 1, 2)
    write(root / "a.json", coco([image(1), image(2)], [box(1, 1), box(2, 2), wrong]))
    _, report = read(root)
    assert [(p.kind, p.where) for p in report.problems.kept] == [(kind, "a.json:annotation 7")]
    assert (report.used, report.used_boxes) == (2, 2)


def test_bad_images(root: Path, tmp_path: Path) -> None:
    write(tmp_path / "secret.jpg", jpeg(1))
    pictures(root, 1, 2)
    bad = [{"id": 3}, "text", image(1, "again.jpg"), image(4, "../secret.jpg"), image(5, str(tmp_path / "secret.jpg"))]
    bad += [image(6, "nul\0.jpg"), image(7, "x" * 3000 + ".jpg")]
    write(root / "a.json", coco([image(1), image(2), *bad], [box(1, 1), box(2, 2), box(3, 4)]))
    data, report = read(root)
    kinds = [p.kind for p in report.problems.kept]
    assert kinds == [ProblemKind.BAD_LABELS] * 3 + [ProblemKind.OUTSIDE_ROOT] * 3 + [ProblemKind.MISSING_IMAGE]
    assert report.used == 2
    assert all(s.image.is_relative_to(root) for split in data.splits.values() for s in split)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ('{"images": [\n  {', r"a\.json:2: not JSON"),
        ("[1]", "one object"),
        ("[" * 100_000, "not JSON"),
        ('{"images": [], "annotations": []}', "field 'categories'"),
        ('{"images": [], "annotations": [], "categories": []}', "'categories' is empty"),
        ('{"images": [], "annotations": [], "categories": [{"id": "x", "name": "a"}]}', "integer 'id'"),
        (b"\xff\xfe\xfa", "not JSON"),
        ('{"images": [], "annotations": [], "categories": [{"id": 1, "name": "a"}]}', "no usable labelled image"),
    ],
)
def test_a_broken_file_is_refused(root: Path, content: str | bytes, says: str) -> None:
    write(root / "a.json", content)
    for path in (root, root / "a.json"):
        with pytest.raises(UserError, match=says):
            read(path)


def test_the_same_picture_in_two_splits_is_reported_and_kept(root: Path) -> None:
    for split, keys in (("train", (1, 2)), ("val", (3,))):
        for key in keys:
            write(root / split / f"{key}.jpg", jpeg(1 if key == 3 else key))
        write(root / f"annotations/instances_{split}.json", coco([image(k) for k in keys], [box(k, k) for k in keys]))
    _, report = read(root)
    (problem,) = report.problems.kept
    assert (problem.kind, problem.where) == (ProblemKind.DUPLICATE_IMAGE, "val/3.jpg")
    assert "train/1.jpg" in problem.message
    assert report.used == 3


def test_files_that_share_pictures_teach_all_their_objects(root: Path) -> None:
    """cats.json and dogs.json over the same photographs: neither may say that the other's animals are none."""
    pictures(root, 1, 2)
    for k, name in enumerate(("cats", "dogs")):
        boxes = [box(1, 1, (1, 2, 30, 40)), box(2, 1, (k, 5, 9, 9)), box(3, 2)]
        write(root / "annotations" / f"{name}.json", coco([image(1), image(2)], boxes))
    data, report = read(root, make_splits=False)
    first, second = data.splits["train"]
    np.testing.assert_array_equal(first.boxes, [[1, 2, 31, 42], [0, 5, 9, 14], [1, 5, 10, 14]])
    np.testing.assert_array_equal(second.boxes, [[1, 2, 31, 42]])
    assert [(p.kind, p.where) for p in report.problems.kept] == [
        (ProblemKind.DUPLICATE_IMAGE, f"annotations/dogs.json:image {key}") for key in (1, 2)
    ]
    assert "first in annotations/cats.json:image 1: it is used once, with the boxes of both (3)" in str(
        report.problems.kept[0]
    )


def test_the_area_is_the_object_s_where_it_is_stated(root: Path) -> None:
    pictures(root, 1)
    areas = ({"area": 700.5}, {}, {"area": 0}, {"area": "none"})
    write(root / "a.json", coco([image(1)], [box(k, 1, (k, 2, 30, 40), **more) for k, more in enumerate(areas)]))
    (sample,) = read(root, make_splits=False)[0].splits["train"]
    np.testing.assert_array_equal(sample.areas, [700.5, 1200, 1200, 1200])


def test_areas_belong_to_boxes(root: Path) -> None:
    boxes = np.array([[0, 0, 2, 3], [0, 0, 4, 5]], np.float32)
    rest = (np.zeros(2, np.int64), np.zeros(2, np.bool_), "")
    np.testing.assert_array_equal(Sample(root, Size(9, 9), boxes, *rest).areas, [6, 20])
    with pytest.raises(ValueError, match="1 areas for 2 boxes"):
        Sample(root, Size(9, 9), boxes, *rest, np.ones(1, np.float32))
