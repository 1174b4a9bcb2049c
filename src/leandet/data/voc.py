"""Pascal VOC: one XML file for each picture.

Coordinates are taken as given. VOC's own files count pixels from 1 and include the last one, most tools that write
the format today count from 0; a shift would be wrong for most data, and without it the error is one pixel.
`difficult` objects are ordinary objects here, in training and in AP (VOC's own figures leave them out); `crowd` is our
own element for COCO's crowd regions.
"""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from leandet.data.layout import SPLITS, Layout, split_of_folders
from leandet.data.paths import FolderIndex, class_file, inside, is_file, read_bounded, read_text, shown, walk
from leandet.data.problems import ProblemKind, Problems
from leandet.data.raw import RawBox, RawDataset, RawImage, number, tidy
from leandet.data.sample import Dataset, Sample
from leandet.errors import UserError
from leandet.preprocess import Size

MAX_XML_BYTES = 8 << 20
MAX_LIST_BYTES = 256 << 20
XML = frozenset({".xml"})
# Encodings in which ASCII bytes mean ASCII: in any other the search for a DOCTYPE would be blind.
_ENCODINGS = re.compile(rb"utf-?8|utf-?16|(us-)?ascii|iso-?8859-\d+|latin-?1|windows-125\d", re.IGNORECASE)
_PICTURES = ("JPEGImages", "images", "Images", "imgs", "img", "")


@dataclass(frozen=True, slots=True)
class _Object:
    """One `<object>` as stated."""

    name: str
    xyxy: tuple[float, float, float, float]
    crowd: bool
    number: int


@dataclass(frozen=True, slots=True)
class _Annotation:
    """One XML file as stated."""

    filename: str
    stated: Size | None
    objects: tuple[_Object, ...]


@dataclass(frozen=True, slots=True)
class _Entry:
    """One XML file to read, and the split that it belongs to."""

    xml: Path
    split: str


def looks_like_voc(path: Path) -> bool:
    """Whether an XML file begins like a VOC annotation."""
    try:
        with path.open("rb") as file:
            return b"<annotation" in file.read(4096).replace(b"\0", b"")
    except OSError:
        return False


def read_voc(root: Path, problems: Problems) -> RawDataset:
    """Read VOC labels: `ImageSets/Main` lists if there are any, else every XML file, split by folder names.

    Classes are those of a class file (`classes.txt`, `labels.txt`, `obj.names`) at the root, else the names found,
    sorted.

    Args:
        root: the data folder, resolved; pictures must lie inside it.
        problems: takes what is wrong with single files and objects.

    Raises:
        UserError: if a class file is broken or names none of the labelled classes.
    """
    entries = list(_entries(root, problems))
    parsed = [(entry, _try_parse(root, entry.xml, problems)) for entry in entries]
    found = sorted({o.name for _, a in parsed if a is not None for o in a.objects if o.name})
    classes = _classes(root, found)
    labels = {name: index for index, name in enumerate(classes)}
    index = FolderIndex()
    images = [_image(root, entry, annotation, labels, index, problems) for entry, annotation in parsed]
    _report_unlabelled(root, images, index, problems)
    return RawDataset(root, Layout.VOC, classes, tuple(images), item="object ")


def _classes(root: Path, found: Sequence[str]) -> tuple[str, ...]:
    listed = class_file(root)
    if listed is None:
        return tuple(found)
    path, names = listed
    if found and not set(found) & set(names):
        raise UserError(
            f"{path}: none of its names is used by the labels, which say {', '.join(found[:5])}: mend or remove it."
        )
    return names


def _entries(root: Path, problems: Problems) -> Iterator[_Entry]:
    bases = [p.parents[1] for p in _list_folders(root) if any((p / f"{name}.txt").is_file() for name in _LISTS)]
    if bases:
        for base in bases:
            yield from _listed(root, base, problems)
        return
    for path in walk(root, XML):
        split = split_of_folders(path.relative_to(root))
        yield _Entry(path, "train" if split == "trainval" else split)


_LISTS = (*SPLITS, "trainval")


def _list_folders(root: Path) -> list[Path]:
    patterns = ("ImageSets/Main", "*/ImageSets/Main", "*/*/ImageSets/Main")
    return [p for pattern in patterns for p in sorted(root.glob(pattern)) if p.is_dir() and inside(root, p)]


def _listed(root: Path, base: Path, problems: Problems) -> Iterator[_Entry]:
    """Entries of one `ImageSets/Main`: train, val and test; `trainval` fills in for a missing train or val."""
    lists = {name: _names(base, name) for name in _LISTS}
    if not (lists["train"] and lists["val"]):
        lists["train"] += [name for name in lists["trainval"] if name not in {*lists["train"], *lists["val"]}]
    listed: set[str] = set()
    for split in SPLITS:
        for name in lists[split]:
            listed.add(name)
            path = inside(root, base / "Annotations" / f"{name}.xml")
            where = f"{shown(root, base / 'ImageSets' / 'Main')}/{split}.txt"
            if path is None:
                message = f"'{name[:200]}' points outside the data folder: it is left out."
                problems.error(ProblemKind.OUTSIDE_ROOT, where, message)
            elif not is_file(path):
                message = f"'{name[:200]}' has no file in Annotations: it is left out."
                problems.error(ProblemKind.MISSING_LABELS, where, message)
            else:
                yield _Entry(path, split)
    missing = sum(path.stem not in listed for path in (base / "Annotations").glob("*.xml"))
    if missing:
        message = f"{missing} labelled pictures are in no list and are not used."
        problems.warning(ProblemKind.MISSING_LABELS, shown(root, base / "ImageSets" / "Main"), message)


def _names(base: Path, name: str) -> list[str]:
    """The picture names of one list; VOC's class lists add 1, 0 or -1 after each, which a name may end in too."""
    path = base / "ImageSets" / "Main" / f"{name}.txt"
    if not path.is_file():
        return []
    lines = [line.strip() for line in read_text(path, MAX_LIST_BYTES).splitlines()]
    bare = ((line, re.sub(r"\s+(-1|0|1)$", "", line)) for line in lines if line)
    annotations = base / "Annotations"
    names = (line if line == short or is_file(annotations / f"{line}.xml") else short for line, short in bare)
    return list(dict.fromkeys(names))


def _try_parse(root: Path, path: Path, problems: Problems) -> _Annotation | None:
    try:
        return _parse(path)
    except UserError as error:
        message = str(error).removeprefix(str(path)).lstrip(": ")
        problems.error(ProblemKind.BAD_LABELS, shown(root, path), message)
        return None


def _parse(path: Path) -> _Annotation:
    tree = _xml(path)
    if tree.tag != "annotation":
        raise UserError(f"{path}: begins with <{tree.tag[:40]}>, not <annotation>: mend or remove it.")
    width, height = (number(tree.findtext(f"size/{side}")) for side in ("width", "height"))
    known = 0 < width < 1e6 and 0 < height < 1e6
    objects = tuple(_object(k, entry) for k, entry in enumerate(tree.findall("object"), 1))
    return _Annotation(
        (tree.findtext("filename") or "").strip(), Size(int(height), int(width)) if known else None, objects
    )


def _xml(path: Path) -> ET.Element:
    """Parse a small XML file without entities: they can grow without bound (billion laughs)."""
    data = read_bounded(path, MAX_XML_BYTES)
    plain = data.replace(b"\0", b"")
    encoding = re.search(rb"encoding\s*=\s*[\"']([^\"']*)", plain[:200])
    if encoding and not _ENCODINGS.fullmatch(encoding[1]):
        raise UserError(
            f"{path}: encoding {encoding[1].decode('ascii', 'replace')[:40]} is not read: save it as UTF-8."
        )
    if b"<!DOCTYPE" in plain.upper() or b"<!ENTITY" in plain.upper():
        raise UserError(f"{path}: has a DOCTYPE or ENTITY, which is refused: remove it.")
    try:
        return ET.fromstring(data)  # noqa: S314 (bounded, and without entities)
    except ET.ParseError as error:
        raise UserError(f"{path}: not XML ({error}): write the file again.") from error
    except (ValueError, LookupError) as error:
        raise UserError(f"{path}: cannot be decoded ({error}): save it as UTF-8.") from error


def _object(position: int, entry: ET.Element) -> _Object:
    box = entry.find("bndbox")
    sides = ("xmin", "ymin", "xmax", "ymax")
    x1, y1, x2, y2 = (number(box.findtext(side) if box is not None else None) for side in sides)
    crowd = (entry.findtext("crowd") or "").strip() == "1"
    return _Object(tidy(entry.findtext("name") or ""), (x1, y1, x2, y2), crowd, position)


def _image(
    root: Path,
    entry: _Entry,
    annotation: _Annotation | None,
    labels: Mapping[str, int],
    index: FolderIndex,
    problems: Problems,
) -> RawImage:
    file = shown(root, entry.xml)
    if annotation is None:
        return RawImage(entry.split, None, None, (), file, file)
    boxes = []
    for o in annotation.objects:
        if o.name in labels:
            boxes.append(RawBox(*o.xyxy, labels[o.name], o.crowd, o.number))
        else:
            message = f"class '{o.name[:80]}' is not in the class file" if o.name else "the object has no <name>"
            problems.error(ProblemKind.UNKNOWN_CLASS, f"{file}:object {o.number}", f"{message}: the box is left out.")
    path = _picture(root, entry.xml, annotation.filename, index)
    if path is None:
        message = f"filename '{annotation.filename[:200]}' points outside the data folder: the image is left out."
        problems.error(ProblemKind.OUTSIDE_ROOT, file, message)
    dropped = len(annotation.objects) - len(boxes)
    return RawImage(entry.split, path, annotation.stated, tuple(boxes), file, file, dropped)


def _picture(root: Path, xml: Path, filename: str, index: FolderIndex) -> Path | None:
    """The picture of an XML file: of the same name first, because `filename` goes stale when files are renamed.

    Returns a path inside the data folder where it should be if it is missing; None if `filename` points outside.
    """
    folders = [xml.parent]
    if xml.parent != root:
        folders += [xml.parent.parent / name for name in _PICTURES]
        # annotations/train/a.xml beside images/train/a.jpg
        folders += [xml.parent.parent.parent / name / xml.parent.name for name in _PICTURES[:-1] if name]
    folders = [folder for folder in folders if inside(root, folder)]
    for folder in folders:
        if found := index.image(folder, xml.stem):
            return inside(root, found)
    first: Path | None = None
    for folder in folders:
        path = inside(root, folder / (filename.replace("\\", "/") or f"{xml.stem}.jpg"))
        if path is not None:
            first = first or path
            if found := index.file(path):
                return found
    return first


def _report_unlabelled(root: Path, images: Sequence[RawImage], index: FolderIndex, problems: Problems) -> None:
    """Pictures that lie beside XML files and have none themselves are not used; say so."""
    used: dict[Path, set[str]] = {}
    for image in images:
        if image.path is not None and image.path.parent == (root / image.file).parent:
            used.setdefault(image.path.parent, set()).add(image.path.name)
    for folder, names in used.items():
        for name in index.images(folder):
            if name not in names and not (folder / name).with_suffix(".xml").exists():
                message = "the picture has no XML file beside it and is not used."
                problems.warning(ProblemKind.MISSING_LABELS, shown(root, folder / name), message)


def write_voc(dataset: Dataset, folder: Path, names: Mapping[str, Sequence[tuple[Sample, str]]]) -> dict[str, str]:
    """Write `Annotations`, `ImageSets/Main` and `classes.txt` into `folder`; coordinates keep their fractions.

    Args:
        dataset: gives the classes.
        folder: an existing folder.
        names: for each split, its samples and the file name that each picture gets.

    Returns:
        for each split, the folder below `folder` where its pictures belong.
    """
    (folder / "Annotations").mkdir()
    (folder / "ImageSets" / "Main").mkdir(parents=True)
    (folder / "classes.txt").write_text("\n".join(dataset.classes) + "\n", "utf-8")
    for split, samples in names.items():
        stems = [Path(name).stem for _, name in samples]
        (folder / "ImageSets" / "Main" / f"{split}.txt").write_text("".join(f"{stem}\n" for stem in stems), "utf-8")
        for sample, name in samples:
            content = ET.tostring(_element(sample, name, dataset.classes), "utf-8")
            (folder / "Annotations" / f"{Path(name).stem}.xml").write_bytes(content)
    return dict.fromkeys(names, "JPEGImages")


def _element(sample: Sample, name: str, classes: Sequence[str]) -> ET.Element:
    tree = ET.Element("annotation")
    ET.SubElement(tree, "folder").text = "JPEGImages"
    ET.SubElement(tree, "filename").text = name
    size = ET.SubElement(tree, "size")
    for side, value in (("width", sample.size.width), ("height", sample.size.height), ("depth", 3)):
        ET.SubElement(size, side).text = str(value)
    for box, label, crowd in zip(sample.boxes, sample.labels, sample.crowd, strict=True):
        entry = ET.SubElement(tree, "object")
        ET.SubElement(entry, "name").text = classes[int(label)]
        ET.SubElement(entry, "difficult").text = str(int(crowd))
        if crowd:
            ET.SubElement(entry, "crowd").text = "1"
        corners = ET.SubElement(entry, "bndbox")
        for side, value in zip(("xmin", "ymin", "xmax", "ymax"), box, strict=True):
            ET.SubElement(corners, side).text = f"{float(value):.4f}".rstrip("0").rstrip(".")
    ET.indent(tree)
    return tree
