from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest

from leandet.data.problems import ProblemKind, Severity
from leandet.data.read import read
from leandet.errors import UserError
from leandet.preprocess import Size

from .conftest import jpeg, turned, voc_xml, write

CAT = ("cat", (1, 2, 31, 42))
DOG = ("dog", (10, 10, 20, 20))
Add = Callable[..., Path]


def test_one_folder_makes_train_and_val(root: Path, flat_voc: Add) -> None:
    for k in range(10):
        flat_voc(f"p{k}", [CAT, DOG])
    data, report = read(root)
    assert data.layout == "voc"
    assert data.classes == ("cat", "dog")
    assert {name: len(samples) for name, samples in data.splits.items()} == {"train": 8, "val": 2}
    assert report.made == ("train", "val")
    sample = data.splits["train"][0]
    assert sample.size == Size(48, 64)
    assert sample.boxes.dtype == np.float32
    np.testing.assert_array_equal(sample.boxes, [[1, 2, 31, 42], [10, 10, 20, 20]])  # no shift by one
    np.testing.assert_array_equal(sample.labels, [0, 1])
    assert not report.problems.kept


def test_test_folder_stays_and_val_comes_out_of_train(root: Path, flat_voc: Add) -> None:
    for k in range(8):
        flat_voc(f"a{k}", [CAT], folder="train")
        flat_voc(f"b{k}", [CAT], folder="test")
    data, report = read(root, val_fraction=0.25)
    assert {name: len(samples) for name, samples in data.splits.items()} == {"train": 6, "val": 2, "test": 8}
    assert report.made == ("val",)
    assert {s.image.parent.name for s in data.splits["test"]} == {"test"}


def image_sets(root: Path, **lists: str) -> None:
    for k in range(6):
        write(root / f"JPEGImages/p{k}.jpg", jpeg(k))
        write(root / f"Annotations/p{k}.xml", voc_xml("stale.jpg", [CAT]))
    for name, content in lists.items():
        write(root / f"ImageSets/Main/{name}.txt", content)


def names(samples: tuple[object, ...]) -> list[str]:
    return [s.image.stem for s in samples]  # type: ignore[attr-defined]


def test_image_sets_train_and_val_win_over_trainval(root: Path) -> None:
    image_sets(root, train="p0\np1  1\n", val="p2\n", trainval="p0\np1\np2\n", test="p3 -1\np4\np5\n")
    data, _ = read(root)
    assert {k: names(v) for k, v in data.splits.items()} == {
        "train": ["p0", "p1"],
        "val": ["p2"],
        "test": ["p3", "p4", "p5"],
    }


def test_trainval_alone_is_divided(root: Path) -> None:
    image_sets(root, trainval="p0\np1\np2\np3\n", test="p4\n")
    data, report = read(root, val_fraction=0.25)
    assert {k: len(v) for k, v in data.splits.items()} == {"train": 3, "val": 1, "test": 1}
    assert [p.message for p in report.problems.kept] == ["1 labelled pictures are in no list and are not used."]


def test_listed_without_xml_and_escaping_names_are_reported(root: Path) -> None:
    image_sets(root, train="p0\nnone\n../../../secret\n", val="p1\n", test="p2\np3\np4\np5\n")
    _, report = read(root)
    assert [(p.kind, p.where) for p in report.problems.kept] == [
        (ProblemKind.MISSING_LABELS, "ImageSets/Main/train.txt"),
        (ProblemKind.OUTSIDE_ROOT, "ImageSets/Main/train.txt"),
    ]


BOMB = '<!DOCTYPE a [<!ENTITY x "xxxx"><!ENTITY y "&x;&x;">]><annotation><filename>&y;</filename></annotation>'


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("<annotation><object>", "not XML"),
        ("", "not XML"),
        (BOMB, "DOCTYPE"),
        (BOMB.encode("utf-16"), "DOCTYPE"),
        ('<?xml version="1.0" encoding="cp037"?><annotation/>', "encoding cp037"),
        ('<?xml version="1.0" encoding="utf-8"?><annotation>\xff</annotation>'.encode("latin-1"), "not XML"),
        ("<html/>", "begins with <html>"),
        (b" " * (9 << 20), "larger than the limit"),
    ],
)
def test_a_bad_xml_leaves_its_picture_out(root: Path, flat_voc: Add, content: str | bytes, says: str) -> None:
    flat_voc("a", [CAT])
    flat_voc("b", [CAT])
    write(flat_voc("bad", [CAT]), content)
    _, report = read(root)
    (problem,) = report.problems.kept
    assert problem.kind is ProblemKind.BAD_LABELS
    assert problem.where == "bad.xml"
    assert says in problem.message
    assert str(root) not in problem.message
    assert (report.images, report.used) == (3, 2)


@pytest.mark.parametrize(
    "box",
    [(5, 5, 5, 9), (9, 5, 5, 9), ("nan", 1, 5, 5), ("inf", 1, 5, 5), ("", 1, 5, 5), ("1e300", 1, 5, 5), ("x", 1, 2, 3)],
)
def test_a_bad_box_is_left_out_alone(root: Path, flat_voc: Add, box: tuple[object, ...]) -> None:
    flat_voc("a", [CAT])
    flat_voc("b", [CAT, ("cat", box)])
    _, report = read(root)
    (problem,) = report.problems.kept
    assert (problem.kind, problem.where, problem.severity) == (ProblemKind.BAD_BOX, "b.xml:object 2", Severity.ERROR)
    assert (report.used, report.boxes, report.used_boxes) == (2, 3, 2)


def test_boxes_outside(root: Path, flat_voc: Add) -> None:
    flat_voc("a", [CAT])
    flat_voc("b", [("cat", (-1, 0, 65, 49)), ("cat", (40, 10, 70, 20)), ("cat", (50, 10, 90, 20))])
    data, report = read(root)
    assert [(p.kind, p.where, p.severity) for p in report.problems.kept] == [
        (ProblemKind.BOX_OUTSIDE, "b.xml:object 2", Severity.WARNING),
        (ProblemKind.BOX_OUTSIDE, "b.xml:object 3", Severity.ERROR),
    ]
    assert report.clipped == 2
    (boxes,) = (s.boxes for split in data.splits.values() for s in split if s.image.stem == "b")
    np.testing.assert_array_equal(boxes, [[0, 0, 64, 48], [40, 10, 64, 20]])


def test_an_image_without_a_sound_box_is_left_out_but_one_without_objects_stays(root: Path, flat_voc: Add) -> None:
    flat_voc("a", [CAT])
    flat_voc("b", [("cat", (5, 5, 5, 5))])
    flat_voc("c", [])
    data, report = read(root)
    assert [p.kind for p in report.problems.kept] == [ProblemKind.BAD_BOX, ProblemKind.NO_SOUND_BOX]
    assert sum(count.empty for count in report.splits.values()) == 1
    assert sorted(s.image.stem for split in data.splits.values() for s in split) == ["a", "c"]


def test_pictures_missing_truncated_and_unlabelled(root: Path, flat_voc: Add) -> None:
    for k in range(3):
        flat_voc(f"p{k}", [CAT])
    (root / "p0.jpg").write_bytes(jpeg(5)[:-30])
    (root / "p1.jpg").unlink()
    write(root / "alone.jpg", jpeg(9))
    _, report = read(root)
    assert [(p.kind, p.where) for p in report.problems.kept] == [
        (ProblemKind.MISSING_LABELS, "alone.jpg"),
        (ProblemKind.UNREADABLE_IMAGE, "p0.jpg"),
        (ProblemKind.MISSING_IMAGE, "p1.xml"),
    ]
    assert "trains on 1 of 3 images" in report.summary()[-1]


def test_exif_boxes_refer_to_the_picture_as_seen(root: Path, flat_voc: Add) -> None:
    flat_voc("a", [CAT])
    flat_voc("b", [("cat", (1, 2, 40, 60))])  # 48x64 as seen; stated 64x48
    write(root / "b.jpg", turned(jpeg(3)))
    data, report = read(root)
    (sample,) = (s for split in data.splits.values() for s in split if s.image.stem == "b")
    assert sample.size == Size(64, 48)
    np.testing.assert_array_equal(sample.boxes, [[1, 2, 40, 60]])
    (problem,) = report.problems.kept
    assert problem.kind is ProblemKind.SIZE_DIFFERS
    assert "EXIF" in problem.message


def test_a_picture_of_sixteen_bits_is_used_and_told(root: Path, flat_voc: Add) -> None:
    flat_voc("a", [CAT])
    deep = np.random.default_rng(0).integers(0, 4096, (48, 64), np.uint16)
    write(root / "b.png", cv2.imencode(".png", deep)[1].tobytes())
    write(root / "b.xml", voc_xml("b.png", [CAT]))
    data, report = read(root)
    assert sum(len(samples) for samples in data.splits.values()) == 2
    (problem,) = report.problems.kept
    assert (problem.kind, problem.where) == (ProblemKind.DEEP_IMAGE, "b.png")
    assert "of its 16 bits a channel the upper 8 are used" in problem.message


def test_a_stated_size_of_zero_is_no_size(root: Path, flat_voc: Add) -> None:
    flat_voc("a", [CAT], size=(0, 0))
    flat_voc("b", [CAT])
    assert not read(root)[1].problems.kept


def test_filename_may_not_leave_the_folder(root: Path, tmp_path: Path, flat_voc: Add) -> None:
    write(tmp_path / "secret.jpg", jpeg(1))
    flat_voc("a", [CAT])
    write(root / "sub/b.xml", voc_xml("../../secret.jpg", [CAT]))
    (root / "sub/c.jpg").symlink_to(tmp_path / "secret.jpg")
    write(root / "sub/c.xml", voc_xml("c.jpg", [CAT]))
    data, report = read(root)
    assert {p.where: p.kind for p in report.problems.kept} == dict.fromkeys(
        ["sub/b.xml", "sub/c.xml"], ProblemKind.OUTSIDE_ROOT
    )
    assert (report.images, report.used) == (3, 1)
    assert [s.image.name for s in data.splits["train"]] == ["a.jpg"]


def test_class_file_gives_the_order_and_its_absent_names_are_reported(root: Path, flat_voc: Add) -> None:
    flat_voc("a", [CAT, DOG])
    flat_voc("b", [CAT])
    write(root / "classes.txt", "zebra\ncat\n")
    data, report = read(root)
    assert data.classes == ("zebra", "cat")
    assert [(p.kind, p.where) for p in report.problems.kept] == [
        (ProblemKind.UNKNOWN_CLASS, "a.xml:object 2"),
        (ProblemKind.EMPTY_CLASS, "voc"),
    ]


@pytest.mark.parametrize(
    ("content", "says"),
    [("bird\nfish\n", "none of its names"), ("cat\ncat\n", r":2: .*twice"), ("\n", "empty"), ("a\n\nb", ":2: ")],
)
def test_a_useless_class_file_is_refused(root: Path, flat_voc: Add, content: str, says: str) -> None:
    flat_voc("a", [CAT])
    write(root / "classes.txt", content)
    with pytest.raises(UserError, match=rf"classes\.txt.*{says}"):
        read(root)


def test_duplicate_boxes_are_a_warning(root: Path, flat_voc: Add) -> None:
    flat_voc("a", [CAT, CAT, ("dog", CAT[1])])
    flat_voc("b", [CAT])
    _, report = read(root)
    (problem,) = report.problems.kept
    assert (problem.kind, problem.severity) == (ProblemKind.DUPLICATE_BOX, Severity.WARNING)
    assert report.used_boxes == 4


def test_pictures_and_xml_in_sibling_folders(root: Path) -> None:
    for k in range(4):
        write(root / f"images/p{k}.JPG", jpeg(k))
        write(root / f"annotations/p{k}.xml", voc_xml(f"p{k}.png", [CAT]))
    _, report = read(root)
    assert (report.images, report.used) == (4, 4)


def test_a_listed_name_may_end_in_a_number(root: Path) -> None:
    image_sets(root, train="p0\np 1\np1 -1\n", val="p2\n")
    write(root / "Annotations" / "p 1.xml", voc_xml("p 1.jpg", [CAT]))
    write(root / "JPEGImages" / "p 1.jpg", jpeg(99))
    data, _ = read(root)
    assert sorted(sample.image.stem for sample in data.splits["train"]) == ["p 1", "p0", "p1"]
