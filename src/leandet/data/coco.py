"""COCO: one JSON file for each split, with `images`, `annotations` and `categories`."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from leandet.data.layout import SPLITS, Layout, split_of, split_of_folders
from leandet.data.paths import FolderIndex, inside, read_bounded, shown
from leandet.data.problems import ProblemKind, Problems
from leandet.data.raw import RawBox, RawDataset, RawImage, number, tidy
from leandet.data.sample import Dataset, Sample
from leandet.errors import UserError
from leandet.preprocess import Size

MAX_JSON_BYTES = 1 << 30
Record = dict[str, object]


@dataclass(frozen=True, slots=True)
class _File:
    """One parsed JSON file."""

    path: Path
    shown: str
    split: str
    images: list[object]
    annotations: list[object]
    names: dict[int, str]  # category id -> name


def label_files(root: Path) -> list[Path]:
    """The .json files of a folder that may be COCO labels: `annotations/`, else the root, else one folder down.

    Where some are called `instances_*`, only those: captions and keypoints lie beside them in COCO's own archive.
    """
    for pattern in ("annotations/*.json", "*.json", "*/*.json", "*/annotations/*.json"):
        found = [p for p in sorted(root.glob(pattern)) if p.is_file() and not p.name.startswith(".")]
        coco = [p for p in found if looks_like_coco(p)]
        if coco:
            return [p for p in coco if p.name.startswith("instances_")] or coco
    return []


def looks_like_coco(path: Path) -> bool:
    """Whether the three keys of a COCO file occur in it; the file is not parsed."""
    wanted = [b'"images"', b'"annotations"', b'"categories"']
    tail = b""
    try:
        with path.open("rb") as file:
            while wanted and (block := file.read(1 << 22)):
                wanted = [key for key in wanted if key not in tail + block]
                tail = block[-16:]
    except OSError:
        return False
    return not wanted


def read_coco(root: Path, files: Sequence[Path], problems: Problems) -> RawDataset:
    """Read COCO label files. Boxes are xywh in pixels; category ids are made contiguous in their order.

    Args:
        root: the data folder, resolved; pictures must lie inside it.
        files: the JSON files.
        problems: takes what is wrong with single records.

    Raises:
        UserError: if a file is not JSON, lacks a field or names no category.
    """
    parsed = _without_union([_parse(root, path) for path in files])
    ids: dict[str, int] = {}
    for file in parsed:
        for key, name in file.names.items():
            ids[name] = min(key, ids.get(name, key))
    classes = tuple(sorted(ids, key=lambda name: (ids[name], name)))
    labels = {name: index for index, name in enumerate(classes)}
    index = FolderIndex()
    images = [image for file in parsed for image in _images(root, file, labels, index, problems)]
    return RawDataset(root, Layout.COCO, classes, tuple(images), item="annotation ")


def _without_union(files: list[_File]) -> list[_File]:
    """Leave out `trainval` where both its halves are there."""
    if {"train", "val"} <= {file.split for file in files}:
        return [file for file in files if file.split != "trainval"]
    return files


def _parse(root: Path, path: Path) -> _File:
    try:
        content = json.loads(read_bounded(path, MAX_JSON_BYTES))
    except json.JSONDecodeError as error:
        raise UserError(f"{path}:{error.lineno}: not JSON ({error.msg}): write the file again.") from error
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path}: not JSON that can be read ({error}): write the file again.") from error
    if not isinstance(content, dict):
        raise UserError(f"{path}: a COCO file is one object with images, annotations and categories.")
    lists: dict[str, list[object]] = {}
    for key in ("images", "annotations", "categories"):
        value = content.get(key)
        if not isinstance(value, list):
            raise UserError(
                f"{path}: field '{key}' is missing or no list: a COCO file has images, annotations and categories."
            )
        lists[key] = value
    names = dict(_category(path, entry) for entry in lists["categories"])
    if not names:
        raise UserError(f"{path}: field 'categories' is empty: name at least one class.")
    split = split_of(path.stem) or split_of_folders(path.relative_to(root) if path.is_relative_to(root) else path)
    return _File(path, shown(root, path), split, lists["images"], lists["annotations"], names)


def _category(path: Path, entry: object) -> tuple[int, str]:
    match entry:
        case {"id": int(key), "name": str(name)} if tidy(name):
            return key, tidy(name)
    raise UserError(f"{path}: categories: {json.dumps(entry)[:80]} needs an integer 'id' and a 'name'.")


def _images(
    root: Path, file: _File, labels: Mapping[str, int], index: FolderIndex, problems: Problems
) -> Iterator[RawImage]:
    """The images of one file with their boxes."""
    boxes, dropped = _boxes(file, labels, problems)
    finder = _Finder(root, file, index)
    seen: set[object] = set()
    for position, entry in enumerate(file.images):
        match entry:
            case {"id": int() | str() as key, "file_name": str(name)} if key not in seen:
                seen.add(key)
            case {"id": int() | str() as key, "file_name": str()}:
                where = f"{file.shown}:image {key}"
                problems.error(ProblemKind.BAD_LABELS, where, "this image id is used twice: the second is left out.")
                continue
            case _:
                where = f"{file.shown}:images[{position}]"
                problems.error(ProblemKind.BAD_LABELS, where, "an image needs an 'id' and a 'file_name'.")
                yield RawImage(file.split, None, None, (), file.shown, where)
                continue
        where = f"{file.shown}:image {key}"
        path = finder.find(name)
        if path is None:
            message = f"'{name[:200]}' points outside the data folder: the image is left out."
            problems.error(ProblemKind.OUTSIDE_ROOT, where, message)
        split = {"": _split_of_image(root, path), "trainval": "train"}.get(file.split, file.split)
        yield RawImage(split, path, _stated(entry), tuple(boxes[key]), file.shown, where, dropped[key])
    _report_orphans(file, boxes, seen, problems)


def _split_of_image(root: Path, path: Path | None) -> str:
    split = split_of_folders(path.relative_to(root)) if path is not None else ""
    return "train" if split == "trainval" else split


def _stated(entry: object) -> Size | None:
    match entry:
        case {"width": int(width), "height": int(height)} if width > 0 and height > 0:
            return Size(height, width)
    return None


def _boxes(
    file: _File, labels: Mapping[str, int], problems: Problems
) -> tuple[defaultdict[object, list[RawBox]], defaultdict[object, int]]:
    """Boxes by image id, and how many of each image were reported and left out."""
    boxes: defaultdict[object, list[RawBox]] = defaultdict(list)
    dropped: defaultdict[object, int] = defaultdict(int)
    for position, entry in enumerate(file.annotations, 1):
        record = entry if isinstance(entry, dict) else {}
        key, identity, category, box = (record.get(k) for k in ("image_id", "id", "category_id", "bbox"))
        name = identity if isinstance(identity, int) else position
        where = f"{file.shown}:annotation {name}"
        if not isinstance(key, int | str):
            problems.error(ProblemKind.BAD_LABELS, where, "field 'image_id' is missing: the box is left out.")
        elif not isinstance(category, int) or category not in file.names:
            message = f"category_id {str(category)[:40]} is not in 'categories': the box is left out."
            problems.error(ProblemKind.UNKNOWN_CLASS, where, message)
            dropped[key] += 1
        elif not isinstance(box, list) or len(box) != 4:
            problems.error(
                ProblemKind.BAD_BOX, where, "field 'bbox' is not [x, y, width, height]: the box is left out."
            )
            dropped[key] += 1
        else:
            x, y, width, height = map(number, box)
            crowd = record.get("iscrowd") in (1, True)
            area = None if "area" not in record else number(record["area"])
            label = labels[file.names[category]]
            boxes[key].append(RawBox(x, y, x + width, y + height, label, crowd, name, area))
    return boxes, dropped


def _report_orphans(file: _File, boxes: Mapping[object, list[RawBox]], seen: set[object], problems: Problems) -> None:
    for key, orphans in boxes.items():
        if key not in seen:
            where = f"{file.shown}:annotation {orphans[0].number}"
            message = f"image_id {str(key)[:40]} is not in 'images': its {len(orphans)} boxes are left out."
            problems.error(ProblemKind.BAD_LABELS, where, message)


class _Finder:
    """Finds the pictures of one label file in the places where they usually lie, the last lucky place first."""

    def __init__(self, root: Path, file: _File, index: FolderIndex) -> None:
        self._root, self._index = root, index
        self._here = here = file.path.parent
        stem = file.path.stem.removeprefix("instances_")
        words = [stem, file.split, f"{file.split}2017", "images", f"images/{stem}", f"images/{file.split}"]
        words += ["JPEGImages", "data", f"data/{file.split}", f"{file.split}/images"]
        if file.split in ("val", ""):  # another split's picture of that name is another picture
            words += ["valid", "images/valid"]
        places = [
            here,
            root,
            here.parent,
            *(base / w for base in (root, here, here.parent) for w in words if w.strip("/")),
        ]
        resolved = (inside(root, place) for place in places)
        self._places = list(dict.fromkeys(place for place in resolved if place is not None and place.is_dir()))

    def find(self, name: str) -> Path | None:
        """The picture; a path inside the data folder where it should be if it is missing; None if it points outside."""
        name = name.replace("\\", "/")
        for place in self._places:
            path = inside(self._root, place / name)
            found = self._index.file(path) if path is not None else None
            if found is not None:
                self._places.remove(place)
                self._places.insert(0, place)
                return found
        return inside(self._root, self._here / name) or inside(self._root, self._root / name)


def write_coco(dataset: Dataset, folder: Path, names: Mapping[str, Sequence[tuple[Sample, str]]]) -> dict[str, str]:
    """Write `annotations/instances_<split>.json` into `folder`.

    Args:
        dataset: gives the classes; category ids count from 1.
        folder: an existing folder.
        names: for each split, its samples and the file name that each picture gets.

    Returns:
        for each split, the folder below `folder` where its pictures belong.
    """
    (folder / "annotations").mkdir()
    categories = [{"id": k, "name": name, "supercategory": ""} for k, name in enumerate(dataset.classes, 1)]
    for split, samples in names.items():
        images: list[Record] = []
        annotations: list[Record] = []
        for key, (sample, name) in enumerate(samples, 1):
            size = {"width": sample.size.width, "height": sample.size.height}
            images.append({"id": key, "file_name": name, **size})
            annotations += _annotations(sample, key, len(annotations) + 1)
        content = {"images": images, "annotations": annotations, "categories": categories}
        (folder / "annotations" / f"instances_{split}.json").write_text(json.dumps(content), "utf-8")
    return {split: str(PurePosixPath("images", split)) for split in (*SPLITS, *names)}


def _annotations(sample: Sample, image: int, first: int) -> list[Record]:
    records: list[Record] = []
    objects = zip(sample.boxes, sample.labels, sample.crowd, sample.areas, strict=True)
    for key, (box, label, crowd, area) in enumerate(objects, first):
        x1, y1, x2, y2 = (float(v) for v in box)
        xywh = [round(v, 5) for v in (x1, y1, x2 - x1, y2 - y1)]
        records.append(
            {
                "id": key,
                "image_id": image,
                "category_id": int(label) + 1,
                "bbox": xywh,
                "area": round(float(area), 3),
                "iscrowd": int(crowd),
            }
        )
    return records
