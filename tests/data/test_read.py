from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from leandet.data.read import read
from leandet.errors import UserError

from .conftest import jpeg, write

CAT = ("cat", (1, 2, 31, 42))


def test_nothing_there(root: Path) -> None:
    with pytest.raises(UserError, match=r"folder is empty.*COCO.*VOC.*YOLO"):
        read(root)
    with pytest.raises(UserError, match="no such file or folder"):
        read(root / "none")
    write(root / "a.jpg", jpeg(0))
    with pytest.raises(UserError, match="no labels found: expected"):
        read(root)
    with pytest.raises(UserError, match=r"a\.jpg: not a data set"):
        read(root / "a.jpg")
    with pytest.raises(UserError, match=r"cannot be opened|no such file"):
        read(Path("nul\0"))


def test_all_bad_names_the_first_problem(root: Path, flat_voc: Callable[..., Path]) -> None:
    flat_voc("a", [CAT])
    (root / "a.jpg").write_bytes(jpeg(0)[:-40])
    with pytest.raises(UserError, match=r"no usable labelled image in .*; first problem: a\.jpg: .*cut short"):
        read(root)


def test_all_background_is_refused(root: Path, flat_voc: Callable[..., Path]) -> None:
    flat_voc("a", [])
    with pytest.raises(UserError, match="no object is labelled"):
        read(root)


@pytest.mark.parametrize("fraction", [0, 1, -0.5, float("nan")])
def test_val_fraction_is_checked(root: Path, fraction: float) -> None:
    with pytest.raises(UserError, match="val_fraction"):
        read(root, val_fraction=fraction)


def test_a_single_image_trains_without_val(root: Path, flat_voc: Callable[..., Path]) -> None:
    flat_voc("a", [CAT])
    data, _ = read(root)
    assert {name: len(samples) for name, samples in data.splits.items()} == {"train": 1, "val": 0}


def test_a_test_split_without_boxes_does_not_judge(root: Path, flat_voc: Callable[..., Path]) -> None:
    for split in ("train", "val"):
        flat_voc(split, [CAT], folder=split)
    flat_voc("c", [], folder="test")
    data, report = read(root)
    assert data.judging == "val"
    assert [p.message for p in report.problems.kept] == [
        "no image of split 'test' has a box: figures are measured on 'val'."
    ]


@pytest.mark.parametrize("only", ["val", "test"])
def test_one_pool_of_any_name_is_divided_or_kept(root: Path, flat_voc: Callable[..., Path], only: str) -> None:
    for k in range(5):
        flat_voc(f"p{k}", [CAT], folder=only)
    assert {k: len(v) for k, v in read(root)[0].splits.items()} == {"train": 4, "val": 1}
    assert {k: len(v) for k, v in read(root, make_splits=False)[0].splits.items()} == {only: 5}


def test_reading_is_repeatable_and_the_seed_counts(root: Path, flat_voc: Callable[..., Path]) -> None:
    for k in range(20):
        flat_voc(f"p{k}", [CAT])
    first, again, other = (
        [s.image.name for s in read(root, seed=seed, threads=2)[0].splits["val"]] for seed in (1, 1, 2)
    )
    assert first == again
    assert first != other


def test_report_json_is_plain(root: Path, flat_voc: Callable[..., Path]) -> None:
    flat_voc("a", [CAT, ("cat", (5, 5, 5, 5))])
    flat_voc("b", [CAT])
    _, report = read(root)
    plain = json.loads(json.dumps(report.to_json(), allow_nan=False))
    assert plain["problems"] == [
        {
            "kind": "bad_box",
            "where": "a.xml:object 2",
            "message": "the box (5, 5) to (5, 5) is inverted or has no area: it is left out.",
            "severity": "error",
        }
    ]
    assert (plain["images"], plain["used_images"], plain["boxes"], plain["used_boxes"]) == (2, 2, 3, 2)
    assert plain["errors"] == 1
    assert sum(split["per_class"]["cat"] for split in plain["splits"].values()) == 2


SHARED = Path(__file__).parents[2].parent / "shared" / "data"


@pytest.mark.parametrize(
    ("name", "sizes", "boxes", "errors"),
    [
        ("bccd", {"train": 205, "val": 87, "test": 72}, 4886, {"bad_box": 2}),
        ("cards", {"train": 266, "val": 30, "test": 67}, 670, {}),
    ],
)
def test_real_data(name: str, sizes: dict[str, int], boxes: int, errors: dict[str, int]) -> None:
    if not (SHARED / name).is_dir():
        pytest.skip(f"{SHARED / name} is not on this machine")
    data, report = read(SHARED / name)
    assert {split: len(samples) for split, samples in data.splits.items()} == sizes
    assert report.used_boxes == boxes
    assert report.problems.by_kind() == errors
    assert all(count for split in report.splits.values() for count in split.per_class.values())
