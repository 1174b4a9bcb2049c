"""YOLO: one text file for each picture, `class cx cy w h` in fractions of the picture, or a polygon."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath

from leandet.data.layout import SPLITS, Layout, split_of, split_of_folders
from leandet.data.paths import (
    CLASS_FILES,
    IMAGE_SUFFIXES,
    class_file,
    exists,
    inside,
    is_file,
    named_inside,
    read_text,
    shown,
    walk,
)
from leandet.data.problems import ProblemKind, Problems
from leandet.data.raw import RawBox, RawDataset, RawImage, number, tidy
from leandet.data.sample import Dataset, Sample
from leandet.data.yaml_subset import Value, parse_yaml
from leandet.errors import UserError

MAX_YAML_BYTES = 1 << 20
MAX_LABEL_BYTES = 16 << 20
MAX_LIST_BYTES = 256 << 20
TXT = frozenset({".txt"})
_CLASS_FOLDERS = (".", "labels", "images", "train", "train/labels", "labels/train", "images/train", "obj", "data")


def looks_like_label(path: Path) -> bool:
    """Whether a text file begins with a line of a class number and at least four coordinates."""
    try:
        with path.open("rb") as file:
            words = file.read(4096).split(b"\n", 1)[0].split()
        return len(words) >= 5 and words[0].isdigit() and all(float(word) == float(word) for word in words)
    except (OSError, ValueError):
        return False


def find_yaml(root: Path) -> Path | None:
    """The `data.yaml` of a folder, or another YAML file in it that names classes."""
    found = sorted([*root.glob("*.yaml"), *root.glob("*.yml")], key=lambda p: (p.stem != "data", p.name))
    return next((path for path in found if path.stem == "data" or _has_names(path)), None)


def _has_names(path: Path) -> bool:
    try:
        return any(line.startswith("names:") for line in read_text(path, MAX_YAML_BYTES).splitlines())
    except UserError:
        return False


def read_yolo(root: Path, yaml: Path | None, problems: Problems) -> RawDataset:
    """Read YOLO labels.

    Class names and splits come from `yaml`; without it, names from a class file, and splits from lists
    (`train.txt`) or from folder names. A picture without a label file has no objects.

    Args:
        root: the data folder, resolved; everything must lie inside it.
        yaml: its `data.yaml`, if it has one.
        problems: takes what is wrong with single files and lines.

    Raises:
        UserError: if no class names are found, `nc` disagrees with them, or a named split is missing.
    """
    settings = parse_yaml(read_text(yaml, MAX_YAML_BYTES), str(yaml)) if yaml else {}
    named_by, classes = _classes(root, yaml, settings)
    pictures = list(_from_yaml(root, yaml, settings, problems) if yaml else ())
    if not pictures:
        pictures = list(_from_lists(root, problems)) or list(_from_folders(root))
    keypoints = _keypoint_values(yaml, settings)
    labels = [_labels_of(root, path) for _, path in pictures]
    images = [
        _image(root, split, path, own, len(classes), keypoints, problems)
        for (split, path), own in zip(pictures, labels, strict=True)
    ]
    unmatched = list(_without_picture(root, set(labels), problems))
    dropped = problems.by_kind().get(ProblemKind.UNKNOWN_CLASS, 0)
    if dropped and not any(image.boxes for image in images):
        raise UserError(
            f"{named_by}: no label uses one of its {len(classes)} classes (numbers 0 to {len(classes) - 1}): mend it."
        )
    return RawDataset(root, Layout.YOLO, classes, tuple(images + unmatched), normalised=True)


def _classes(root: Path, yaml: Path | None, settings: Mapping[str, Value]) -> tuple[Path, tuple[str, ...]]:
    names = settings.get("names")
    if yaml is None or names is None:
        listed = class_file(root, _CLASS_FOLDERS)
        if listed is None:
            raise UserError(f"{root}: YOLO labels, but no class names: add a data.yaml with 'names:' or a classes.txt.")
        path, classes = listed
    else:
        path, classes = yaml, _yaml_names(yaml, names)
    count = settings.get("nc")
    if count is not None and count != str(len(classes)):
        raise UserError(f"{yaml}: nc is {count} but {len(classes)} classes are named in {path.name}: make them agree.")
    return path, classes


def _yaml_names(yaml: Path, names: Value) -> tuple[str, ...]:
    if isinstance(names, dict):
        try:
            numbered = {int(key): tidy(name) for key, name in names.items()}
        except ValueError as error:
            raise UserError(f"{yaml}: names: each key must be a class number from 0.") from error
        if sorted(numbered) != list(range(len(names))):
            raise UserError(f"{yaml}: names: the class numbers must be 0 to {len(names) - 1} without a gap.")
        classes = tuple(numbered[key] for key in range(len(names)))
    else:
        classes = tuple(tidy(name) for name in ([names] if isinstance(names, str) else names))
    if not classes or not all(classes):
        raise UserError(f"{yaml}: names: name at least one class, and none by an empty text.")
    if len(set(classes)) != len(classes):
        twice = next(name for name in classes if classes.count(name) > 1)
        raise UserError(f"{yaml}: names: the class '{twice}' is named twice: keep one.")
    return classes


def _keypoint_values(yaml: Path | None, settings: Mapping[str, Value]) -> int:
    """Values that a pose label has after its box: `kpt_shape` is [points, values of each]; 0 without poses."""
    shape = settings.get("kpt_shape")
    if shape is None:
        return 0
    if not isinstance(shape, list) or len(shape) != 2 or not all(text.isascii() and text.isdigit() for text in shape):
        raise UserError(f"{yaml}: kpt_shape must be two whole numbers such as [17, 3]: points, and values of each.")
    return int(shape[0]) * int(shape[1])


def _from_yaml(root: Path, yaml: Path, settings: Mapping[str, Value], problems: Problems) -> Iterator[tuple[str, Path]]:
    """(split, picture) of each `train`, `val` and `test` entry."""
    base = settings.get("path", ".")
    for key in ("train", "val", "valid", "test"):
        value = settings.get(key, "")
        for entry in value if isinstance(value, list) else [value]:
            if not isinstance(entry, str) or entry in ("", "~", "null"):
                continue
            place = _place(root, yaml.parent, str(base), entry)
            if place is None and key == "test":
                continue  # YOLO tools write a test entry whether there is one or not
            if place is None:
                raise UserError(
                    f"{yaml}: {key}: '{entry}' is not found inside {root}: mend the path or move the pictures there."
                )
            split = split_of(key)
            found = _from_list(root, place, problems) if place.is_file() else walk(place, IMAGE_SUFFIXES)
            yield from ((split, path) for path in found)


def _place(root: Path, here: Path, base: str, entry: str) -> Path | None:
    """Where an entry of `data.yaml` lies.

    Exports often carry the folder of another machine in `path`, or `../train/images` though `train` is beside the
    file; so the entry is also tried from the file's own folder, and without its leading dots.
    """
    bare = entry
    while bare.startswith("../"):
        bare = bare[3:]
    for path in (here / base / entry, here / entry, here / bare, root / bare):
        found = named_inside(root, path)
        if found is not None and exists(found):
            return found
    return None


def _from_lists(root: Path, problems: Problems) -> Iterator[tuple[str, Path]]:
    for split in (*SPLITS, "valid"):
        path = root / f"{split}.txt"
        if path.is_file() and not looks_like_label(path):
            yield from ((split_of(split), picture) for picture in _from_list(root, path, problems))


def _from_list(root: Path, path: Path, problems: Problems) -> Iterator[Path]:
    """The pictures that a text file lists, one on each line, from its own folder or from the root."""
    for line, text in enumerate(read_text(path, MAX_LIST_BYTES).splitlines(), 1):
        entry = text.strip().replace("\\", "/")
        if not entry:
            continue
        found = [p for base in (path.parent, root) if (p := named_inside(root, base / entry)) is not None]
        if found:
            yield next((p for p in found if is_file(p)), found[0])
        else:
            message = f"'{entry[:200]}' points outside the data folder: it is left out."
            problems.error(ProblemKind.OUTSIDE_ROOT, f"{shown(root, path)}:{line}", message)


def _from_folders(root: Path) -> Iterator[tuple[str, Path]]:
    for path in walk(root, IMAGE_SUFFIXES):
        split = split_of_folders(path.relative_to(root))
        yield "train" if split == "trainval" else split, path


def _labels_of(root: Path, picture: Path) -> Path:
    """The label file of a picture, perhaps missing: by its name, and where it is a link, else by what it leads to."""
    own = _label_path(root, picture)
    path = inside(root, picture)
    if path is None or path == picture or own.is_file():
        return own
    other = _label_path(root, path)
    return other if other.is_file() else own


def _label_path(root: Path, picture: Path) -> Path:
    """Where labels go: the nearest folder `images` becomes `labels`; else beside the picture."""
    parts = list(picture.relative_to(root).parts)
    for at in range(len(parts) - 2, -1, -1):
        if parts[at].lower() in ("images", "jpegimages"):
            path = root.joinpath(*parts[:at], "labels", *parts[at + 1 :]).with_suffix(".txt")
            if path.is_file():
                return path
            break
    return picture.with_suffix(".txt")


def _image(
    root: Path, split: str, picture: Path, named: Path, count: int, keypoints: int, problems: Problems
) -> RawImage:
    """One picture with the labels that lie, perhaps, at `named`."""
    path = inside(root, picture)
    if path is None:
        message = "a link that points outside the data folder: the image is left out."
        problems.error(ProblemKind.OUTSIDE_ROOT, shown(root, picture), message)
        return RawImage(split, None, None, (), shown(root, picture), shown(root, picture))
    labels = inside(root, named)
    if labels is None or not is_file(labels):
        return RawImage(split, path, None, (), shown(root, path), shown(root, path))
    file = shown(root, labels)
    try:
        lines = read_text(labels, MAX_LABEL_BYTES).splitlines()
    except UserError as error:
        problems.error(ProblemKind.BAD_LABELS, file, str(error).removeprefix(str(labels)).lstrip(": "))
        return RawImage(split, None, None, (), file, file)
    rows = [(line, text.split()) for line, text in enumerate(lines, 1) if text.strip()]
    boxes = [_box(words, line, count, keypoints, f"{file}:{line}", problems) for line, words in rows]
    sound = tuple(box for box in boxes if box is not None)
    return RawImage(split, path, None, sound, file, file, len(boxes) - len(sound))


def _box(words: Sequence[str], line: int, count: int, keypoints: int, where: str, problems: Problems) -> RawBox | None:
    """One line as a box; what is wrong with it is reported and gives None."""
    label, *values = map(number, words)
    if keypoints and len(values) == 4 + keypoints:
        values = values[:4]  # a pose: its box comes first
    polygon = len(values) >= 6 and len(values) % 2 == 0
    if len(values) != 4 and not polygon:
        message = f"{len(words)} values, but a line is 'class cx cy w h' or a polygon: it is left out."
        problems.error(ProblemKind.BAD_LABELS, where, message)
    elif not label.is_integer():
        problems.error(ProblemKind.BAD_LABELS, where, f"'{words[0][:20]}' is no class number: the line is left out.")
    elif not 0 <= label < count:
        message = f"class {label:.0f}, but only 0 to {count - 1} are named: the box is left out."
        problems.error(ProblemKind.UNKNOWN_CLASS, where, message)
    elif not all(map(math.isfinite, values)):
        problems.error(ProblemKind.BAD_BOX, where, "a coordinate is no finite number: the box is left out.")
    elif max(values) > 2:
        message = "coordinates over 1, as if in pixels: divide them by the picture's size; the box is left out."
        problems.error(ProblemKind.BAD_BOX, where, message)
    elif polygon:
        xs, ys = values[0::2], values[1::2]
        return RawBox(min(xs), min(ys), max(xs), max(ys), int(label), crowd=False, number=line)
    else:
        x, y, w, h = values
        return RawBox(x - w / 2, y - h / 2, x + w / 2, y + h / 2, int(label), crowd=False, number=line)
    return None


def _without_picture(root: Path, paths: set[Path], problems: Problems) -> Iterator[RawImage]:
    """Label files in the folders of the pictures' label files `paths` that are none of them."""
    others = {*CLASS_FILES, *(f"{split}.txt" for split in (*SPLITS, "valid"))}
    for folder in sorted({path.parent for path in paths}):
        for path in sorted(folder.glob("*.txt")):
            if path not in paths and path.name not in others and looks_like_label(path):
                file = shown(root, path)
                problems.error(ProblemKind.MISSING_IMAGE, file, "no picture belongs to this label file.")
                split = split_of_folders(path.relative_to(root))
                yield RawImage("train" if split == "trainval" else split, None, None, (), file, file)


def write_yolo(dataset: Dataset, folder: Path, names: Mapping[str, Sequence[tuple[Sample, str]]]) -> dict[str, str]:
    """Write `data.yaml` and `labels/<split>` into `folder`. YOLO knows no crowd regions: they are left out.

    Args:
        dataset: gives the classes.
        folder: an existing folder.
        names: for each split, its samples and the file name that each picture gets.

    Returns:
        for each split, the folder below `folder` where its pictures belong.
    """
    lines = [f"{split}: images/{split}" for split in names]
    lines += [f"nc: {len(dataset.classes)}", "names:"]
    # JSON text is YAML text: names with quotes, colons or '#' stay whole.
    lines += [f"  {k}: {json.dumps(name, ensure_ascii=False)}" for k, name in enumerate(dataset.classes)]
    (folder / "data.yaml").write_text("\n".join(lines) + "\n", "utf-8")
    for split, samples in names.items():
        labels = folder / "labels" / split
        labels.mkdir(parents=True)
        for sample, name in samples:
            (labels / f"{Path(name).stem}.txt").write_text("".join(_rows(sample)), "utf-8")
    return {split: str(PurePosixPath("images", split)) for split in names}


def _rows(sample: Sample) -> Iterator[str]:
    width, height = sample.size.width, sample.size.height
    for box, label, crowd in zip(sample.boxes, sample.labels, sample.crowd, strict=True):
        if not crowd:
            x1, y1, x2, y2 = (float(v) for v in box)
            values = ((x1 + x2) / 2 / width, (y1 + y2) / 2 / height, (x2 - x1) / width, (y2 - y1) / height)
            yield f"{int(label)} {' '.join(f'{v:.8f}' for v in values)}\n"
