from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from leandet.data.problems import ProblemKind
from leandet.data.read import read
from leandet.data.yaml_subset import parse_yaml
from leandet.errors import UserError

from .conftest import jpeg, write

ROW = "0 0.5 0.5 0.25 0.5\n"


def picture(root: Path, images: str, labels: str | None, stem: str, rows: str = ROW) -> None:
    write(root / images / f"{stem}.jpg", jpeg(int.from_bytes(stem.encode()) % 2**31))
    if labels is not None:
        write(root / labels / f"{stem}.txt", rows)


def splits(root: Path) -> dict[str, int]:
    return {name: len(samples) for name, samples in read(root)[0].splits.items()}


@pytest.mark.parametrize("pattern", ["{split}/{kind}", "{kind}/{split}"])
def test_trees_with_data_yaml(root: Path, pattern: str) -> None:
    for k, split in enumerate(("train", "valid", "test")):
        kinds = [pattern.format(split=split, kind=kind) for kind in ("images", "labels")]
        picture(root, kinds[0], kinds[1], f"p{k}")
    images = {key: pattern.format(split=s, kind="images") for key, s in (("train", "train"), ("val", "valid"))}
    yaml = f"train: ../{images['train']}  # Roboflow writes ../\nval: ../{images['val']}\n"
    yaml += "test: ../nothing\nnc: 1\nnames: ['cat']\n"
    write(root / "data.yaml", yaml)
    data, report = read(root)
    assert {name: len(samples) for name, samples in data.splits.items()} == {"train": 1, "val": 1}
    np.testing.assert_allclose(data.splits["train"][0].boxes, [[24, 12, 40, 36]])
    assert not report.problems.kept
    (root / "data.yaml").unlink()
    write(root / "classes.txt", "cat\n")
    assert splits(root) == {"train": 1, "val": 1, "test": 1}


@pytest.mark.parametrize(("images", "labels"), [(".", "."), ("images", "labels"), ("images", "images")])
def test_one_pool(root: Path, images: str, labels: str) -> None:
    for k in range(5):
        picture(root, images, labels, f"p{k}")
    write(root / labels / "classes.txt", "cat\n")  # labelImg writes it among the labels
    assert splits(root) == {"train": 4, "val": 1}


def test_lists_of_pictures(root: Path, tmp_path: Path) -> None:
    for k in range(3):
        picture(root, "obj", "obj", f"p{k}")
    write(root / "obj.names", "cat\n")
    write(root / "train.txt", "obj/p0.jpg\n./obj/p1.jpg\n../secret.jpg\n")
    write(root / "val.txt", "obj/p2.jpg\n")
    write(tmp_path / "secret.jpg", jpeg(1))
    data, report = read(root)
    assert {name: len(samples) for name, samples in data.splits.items()} == {"train": 2, "val": 1}
    assert [(p.kind, p.where) for p in report.problems.kept] == [(ProblemKind.OUTSIDE_ROOT, "train.txt:3")]


@pytest.mark.parametrize(
    ("row", "kind"),
    [
        ("3 0.5 0.5 0.1 0.1", ProblemKind.UNKNOWN_CLASS),
        ("-1 0.5 0.5 0.1 0.1", ProblemKind.UNKNOWN_CLASS),
        ("cat 0.5 0.5 0.1 0.1", ProblemKind.BAD_LABELS),
        ("0.5 0.5 0.5 0.1 0.1", ProblemKind.BAD_LABELS),
        ("0 0.5 0.5 0.1", ProblemKind.BAD_LABELS),
        ("0", ProblemKind.BAD_LABELS),
        ("0 0.5 0.5 0.1 0.1 0.9", ProblemKind.BAD_LABELS),
        ("0 0.5 nan 0.1 0.1", ProblemKind.BAD_BOX),
        ("0 0.5 x 0.1 0.1", ProblemKind.BAD_BOX),
        ("0 0.1 0.1 nan 0.3 0.4 0.4", ProblemKind.BAD_BOX),
        ("0 0.5 0.5 0 0.1", ProblemKind.BAD_BOX),
        ("0 0.5 0.5 -0.1 0.1", ProblemKind.BAD_BOX),
        ("0 32 24 10 10", ProblemKind.BAD_BOX),
        ("0 1.5 0.5 0.1 0.1", ProblemKind.BOX_OUTSIDE),
    ],
)
def test_a_bad_line_is_left_out_alone(root: Path, row: str, kind: ProblemKind) -> None:
    picture(root, "images", "labels", "a")
    picture(root, "images", "labels", "b", f"{ROW}\n{row}\n")
    write(root / "classes.txt", "cat\n")
    _, report = read(root)
    assert [(p.kind, p.where) for p in report.problems.kept] == [(kind, "labels/b.txt:3")]
    assert (report.used, report.boxes, report.used_boxes) == (2, 3, 2)


@pytest.mark.parametrize("row", ["0 0.5 0.5 1.0004 0.5", "0 0.75 0.5 0.5008 0.5", "0 0.5 0.5 1.0004 1.0004"])
def test_rounding_overshoot_is_clipped_and_counted(root: Path, row: str) -> None:
    picture(root, "images", "labels", "a", row)
    picture(root, "images", "labels", "b", "0 0.5 0.5 1.000000 1.000000")
    write(root / "classes.txt", "cat\n")
    data, report = read(root)
    assert not report.problems.kept
    assert (report.clipped, report.used_boxes) == (1, 2)
    assert all((s.boxes >= 0).all() and (s.boxes <= [64, 48, 64, 48]).all() for v in data.splits.values() for s in v)


def test_polygon_background_and_orphan(root: Path) -> None:
    picture(root, "images", "labels", "a", "0 0.25 0.25 0.75 0.25 0.5 0.75\n")
    picture(root, "images", None, "b")
    picture(root, "images", "labels", "c", "")
    write(root / "labels/orphan.txt", ROW)
    write(root / "classes.txt", "cat\n")
    data, report = read(root)
    assert [(p.kind, p.where) for p in report.problems.kept] == [(ProblemKind.MISSING_IMAGE, "labels/orphan.txt")]
    assert (report.images, report.used) == (4, 3)
    assert sum(count.empty for count in report.splits.values()) == 2
    (sample,) = (s for v in data.splits.values() for s in v if s.image.stem == "a")
    np.testing.assert_allclose(sample.boxes, [[16, 12, 48, 36]])


def test_a_pose_has_its_box_first(root: Path) -> None:
    picture(root, "images", "labels", "a", "0 0.5 0.5 0.25 0.5 0.45 0.45 0.55 0.55\n")
    picture(root, "images", "labels", "b", ROW)
    write(root / "data.yaml", "names: [cat]\nkpt_shape: [2, 2]\n")
    data, report = read(root)
    assert not report.problems.kept
    (sample,) = (s for v in data.splits.values() for s in v if s.image.stem == "a")
    np.testing.assert_allclose(sample.boxes, [[24, 12, 40, 36]])


@pytest.mark.parametrize(
    ("yaml", "says"),
    [
        ("names: [cat]\nkpt_shape: 17\n", "kpt_shape must be two whole numbers"),
        ("names: [cat]\nnc: 2\n", "nc is 2 but 1"),
        ("names: {0: cat, 2: dog}\n", "0 to 1 without a gap"),
        ("names: {a: cat}\n", "class number"),
        ("names: [cat, cat]\n", "named twice"),
        ("names: []\n", "at least one class"),
        ("names: [cat, [dog]]\n", r"data\.yaml:1: .*flat"),
        ("nc: 1\nnames:\n  cat\n", r"data\.yaml:2: 'cat' is neither"),
        ("names: &anchor\n", "YAML that is not read"),
        ("names: [cat]\ntrain: ../../elsewhere\n", "is not found inside"),
        ("train: images\n", "no class names"),
        ("names: [dog]\ntrain: none\n", "'none' is not found"),
    ],
)
def test_a_broken_yaml_is_refused(root: Path, yaml: str, says: str) -> None:
    picture(root, "images", "labels", "a")
    write(root / "data.yaml", yaml)
    with pytest.raises(UserError, match=says):
        read(root)


def test_classes_that_match_nothing_and_missing_names(root: Path) -> None:
    picture(root, "images", "labels", "a", "7 0.5 0.5 0.1 0.1")
    with pytest.raises(UserError, match="no class names"):
        read(root)
    write(root / "classes.txt", "cat\n")
    with pytest.raises(UserError, match=r"classes\.txt: no label uses"):
        read(root)


def test_the_same_folder_for_train_and_val(root: Path) -> None:
    picture(root, "images", "labels", "a")
    write(root / "data.yaml", "train: images\nval: images\nnames:\n- cat\n")
    data, report = read(root)
    assert {name: len(samples) for name, samples in data.splits.items()} == {"train": 1, "val": 1}
    assert [p.kind for p in report.problems.kept] == [ProblemKind.DUPLICATE_IMAGE]


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("names: [a, 'b c', \"d#e\"] # end", ["a", "b c", "d#e"]),
        ("names: ['it''s', jack's]", ["it's", "jack's"]),
        ("names:\n  - a\n  - 'b: c'\n", ["a", "b: c"]),
        ("names:\n- a # one\n- b\nnc: 2", ["a", "b"]),
        ('names:\n  0: a\n  1: "b\\"#" # x\n', {"0": "a", "1": 'b"#'}),
        ("names: {0: a, 1: 'b'}", {"0": "a", "1": "b"}),
        ("names: [\n  a,\n  b,\n]\n", ["a", "b"]),
        ("download: |\n  names: no\n  import os\nnames: [é]", ["é"]),
    ],
)
def test_yaml_subset(text: str, names: object) -> None:
    assert parse_yaml(text, "data.yaml")["names"] == names


@pytest.mark.parametrize("linked", ["pictures", "folder"])
@pytest.mark.parametrize("named", [True, False])
def test_labels_go_by_the_name_of_a_linked_picture(root: Path, linked: str, named: bool) -> None:
    """A train folder of links into a store is usual where one store serves several data sets."""
    for k in range(3):
        write(root / "store" / f"p{k}.jpg", jpeg(k))
        write(root / "labels" / "train" / f"p{k}.txt", ROW)
    (root / "images").mkdir()
    if linked == "folder":
        (root / "images" / "train").symlink_to("../store", target_is_directory=True)
    else:
        (root / "images" / "train").mkdir()
        for k in range(3):
            (root / "images" / "train" / f"p{k}.jpg").symlink_to(f"../../store/p{k}.jpg")
    write(root / "data.yaml", "train: images/train\nnames: [cat]\n")
    if not named:
        write(root / "train.txt", "".join(f"images/train/p{k}.jpg\n" for k in range(3)))
        write(root / "data.yaml", "train: train.txt\nnames: [cat]\n")
    data, report = read(root, make_splits=False)
    assert [len(sample.boxes) for sample in data.splits["train"]] == [1, 1, 1]
    assert not report.problems.kept
    assert all(sample.image.parent == root.resolve() / "store" for sample in data.splits["train"])


def test_a_picture_listed_twice_is_used_once(root: Path) -> None:
    for k in range(2):
        picture(root, "obj", "obj", f"p{k}")
    write(root / "obj.names", "cat\n")
    write(root / "train.txt", "obj/p0.jpg\nobj/p1.jpg\nobj/p0.jpg\n")
    data, report = read(root, make_splits=False)
    assert [len(sample.boxes) for sample in data.splits["train"]] == [1, 1]
    assert [p.kind for p in report.problems.kept] == [ProblemKind.DUPLICATE_IMAGE]


def test_a_folder_that_may_not_be_read_is_named(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for k in range(2):
        picture(root, "images", "labels", f"p{k}")
    write(root / "classes.txt", "cat\n")
    scan = os.scandir

    def refusing(path: str) -> object:
        if Path(path).name == "images":
            raise PermissionError(13, "Permission denied", str(path))
        return scan(path)

    monkeypatch.setattr(os, "scandir", refusing)  # whoever runs the tests may be allowed everything
    with pytest.raises(UserError, match=r"images: cannot be read \(Permission denied\)"):
        read(root)
