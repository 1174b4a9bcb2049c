"""The one way in: a folder or file of labelled images becomes a `Dataset` and a `Report`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from leandet.data.check import Checked, check
from leandet.data.coco import label_files, read_coco
from leandet.data.layout import EXPECTED, SPLITS, Layout, split_of
from leandet.data.paths import walk
from leandet.data.problems import ProblemKind, Problems
from leandet.data.raw import RawDataset
from leandet.data.report import Report, SplitCount
from leandet.data.sample import Dataset, Sample
from leandet.data.split import divide
from leandet.data.voc import XML, looks_like_voc, read_voc
from leandet.data.yolo import TXT, find_yaml, looks_like_label, read_yolo
from leandet.errors import UserError

_SNIFFED = 1000  # files looked into before a folder counts as not of a layout


VAL_FRACTION, VAL_FRACTION_WITH_TEST = 0.2, 0.1


@dataclass(frozen=True, slots=True)
class Place:
    """What lies at a path: the layout, the data folder, and the label files where the layout names them."""

    layout: Layout
    root: Path
    files: tuple[Path, ...] = ()


def read(
    path: Path,
    *,
    val_fraction: float | None = None,
    seed: int = 0,
    make_splits: bool = True,
    threads: int | None = None,
) -> tuple[Dataset, Report]:
    """Read and check a data set in any layout, keeping what is sound.

    Splits are found by their usual names. Without a `val`, a part of `train` becomes it (so that `test` stays honest);
    where there is only one pool, whatever its name, it becomes `train` and `val`.

    Args:
        path: a folder, a COCO .json or a YOLO .yaml.
        val_fraction: part of the images that a made `val` takes, between 0 and 1; None takes a fifth,
            or a tenth where a `test` exists: there `val` only chooses.
        seed: of a made split.
        make_splits: False keeps the splits as found (a pool without a name is `train`).
        threads: pictures decoded at the same time; default: the number of CPUs.

    Returns:
        the data, and what was found wrong with it.

    Raises:
        UserError: if there is no data set at `path`, or nothing in it is usable.
    """
    if val_fraction is not None and not 0 < val_fraction < 1:
        raise UserError(f"val_fraction must lie between 0 and 1, not {val_fraction:g}.")
    problems = Problems()
    raw = _read_raw(recognise(path), problems)
    sound = check(raw, problems, threads)
    if not any(len(item.sample.labels) for item in sound.checked):
        raise UserError(_nothing_usable(path, raw, problems))
    found = _found(sound.checked, pooled=make_splits)
    fraction = val_fraction or (VAL_FRACTION_WITH_TEST if "test" in found else VAL_FRACTION)
    splits, made = _complete(found, sound.checked, fraction, seed) if make_splits else (found, ())
    dataset = Dataset(raw.root, raw.layout.value, raw.classes, splits)
    counts = {name: SplitCount.of(samples, raw.classes) for name, samples in splits.items()}
    _report_empty(raw, counts, made, problems)
    report = Report(
        raw.root,
        raw.layout,
        raw.classes,
        images=len(raw.images),
        used=len(sound.checked),
        boxes=sum(len(image.boxes) + image.dropped for image in raw.images),
        used_boxes=sum(count.boxes for count in counts.values()),
        clipped=sound.clipped,
        made=made,
        splits=counts,
        problems=problems,
    )
    return dataset, report


def recognise(path: Path) -> Place:
    """Tell the layout of a file or folder by its content.

    Raises:
        UserError: if nothing is there, or it is of no known layout.
    """
    try:
        path = path.resolve()
        is_file, is_folder = path.is_file(), path.is_dir()
    except (OSError, ValueError, RuntimeError) as error:
        raise UserError(f"{path}: cannot be opened ({error}): check the path.") from error
    if is_file:
        return _recognise_file(path)
    if not is_folder:
        raise UserError(f"{path}: no such file or folder: name {EXPECTED}.")
    if yaml := find_yaml(path):
        return Place(Layout.YOLO, path, (yaml,))
    if files := label_files(path):
        return Place(Layout.COCO, path, tuple(files))
    if _any(path, XML, looks_like_voc):
        return Place(Layout.VOC, path)
    if _any(path, TXT, looks_like_label):
        return Place(Layout.YOLO, path)
    return _broken_or_nothing(path)


def _recognise_file(path: Path) -> Place:
    if path.suffix.lower() == ".json":
        # annotations/instances_train.json and train/labels.json: the pictures may lie beside the folder.
        beside = path.parent.name.lower() in ("annotations", "labels") or bool(split_of(path.parent.name))
        return Place(Layout.COCO, path.parent.parent if beside else path.parent, (path,))
    if path.suffix.lower() in (".yaml", ".yml"):
        return Place(Layout.YOLO, path.parent, (path,))
    raise UserError(f"{path}: not a data set: name {EXPECTED}.")


def _any(root: Path, suffixes: frozenset[str], test: Callable[[Path], bool]) -> bool:
    return any(test(file) for file, _ in zip(walk(root, suffixes), range(_SNIFFED), strict=False))


def _broken_or_nothing(root: Path) -> Place:
    """Label files of a kind that are all broken still tell the layout; the reader then says what is wrong."""
    json = tuple(p for pattern in ("annotations/*.json", "*.json", "*/*.json") for p in sorted(root.glob(pattern)))
    if json:
        return Place(Layout.COCO, root, json[:1])
    if next(walk(root, XML), None):
        return Place(Layout.VOC, root)
    if not any(root.iterdir()):
        raise UserError(f"{root}: the folder is empty: name {EXPECTED}.")
    raise UserError(f"{root}: no labels found: expected {EXPECTED}.")


def _read_raw(place: Place, problems: Problems) -> RawDataset:
    if place.layout is Layout.COCO:
        return read_coco(place.root, place.files, problems)
    if place.layout is Layout.VOC:
        return read_voc(place.root, problems)
    return read_yolo(place.root, place.files[0] if place.files else None, problems)


def _nothing_usable(path: Path, raw: RawDataset, problems: Problems) -> str:
    first = problems.first()
    reason = f"first problem: {first}" if first else f"{len(raw.images)} images, and no object is labelled."
    return f"no usable labelled image in {path}; {reason}"


def _found(checked: Sequence[Checked], *, pooled: bool) -> dict[str, tuple[Sample, ...]]:
    """Samples by found split; with `pooled`, a `train` is there whatever its name was."""
    names = {item.split for item in checked}
    rename = {"": "train"}
    if pooled and not names & {"", "train"}:
        rename["val" if "val" in names else "test"] = "train"
    splits: dict[str, list[Sample]] = {}
    for item in checked:
        splits.setdefault(rename.get(item.split, item.split), []).append(item.sample)
    return {name: tuple(splits[name]) for name in SPLITS if name in splits}


def _complete(
    found: dict[str, tuple[Sample, ...]], checked: Sequence[Checked], fraction: float, seed: int
) -> tuple[dict[str, tuple[Sample, ...]], tuple[str, ...]]:
    """Splits with a `val`, and the names of those made."""
    if "val" in found:
        return found, ()
    digests = {item.sample.image: item.digest for item in checked}
    train, val = divide(found["train"], lambda sample: digests[sample.image], fraction, seed)
    rest = {name: samples for name, samples in found.items() if name != "train"}
    made = ("val",) if rest else ("train", "val")
    return {"train": train, "val": val, **rest}, made


def _report_empty(raw: RawDataset, counts: dict[str, SplitCount], made: Sequence[str], problems: Problems) -> None:
    for split, count in counts.items():
        if count.images and not count.boxes and split not in made:
            instead = "figures are measured on 'val'" if split == "test" else "nothing can be learned or measured there"
            message = f"no image of split '{split}' has a box: {instead}."
            problems.warning(ProblemKind.EMPTY_SPLIT, raw.layout.value, message)
    for name in raw.classes:
        if not any(count.per_class[name] for count in counts.values()):
            problems.warning(ProblemKind.EMPTY_CLASS, raw.layout.value, f"class '{name}' has no box.")
