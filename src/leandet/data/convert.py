"""Writes a data set in any of the three layouts, whole or not at all."""

from __future__ import annotations

import re
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from leandet.data.coco import write_coco
from leandet.data.layout import Layout
from leandet.data.sample import Dataset, Sample
from leandet.data.voc import write_voc
from leandet.data.yolo import write_yolo
from leandet.errors import UserError

_WRITERS = {Layout.COCO: write_coco, Layout.VOC: write_voc, Layout.YOLO: write_yolo}


def convert(dataset: Dataset, to: Layout, out: Path) -> None:
    """Write the data in another layout, pictures copied; nothing is left behind if it fails.

    Boxes come back equal to 0.01 pixels. YOLO knows no crowd regions: they are left out there.

    Args:
        dataset: as `read` gives it.
        to: the layout to write.
        out: the folder to make; it may exist if it is empty.

    Raises:
        UserError: if `out` is a file or not empty, or a file cannot be written or copied.
    """
    try:
        with _new_folder(out) as folder:
            names = _names(dataset)
            places = _WRITERS[to](dataset, folder, names)
            for split, samples in names.items():
                pictures = folder / places[split]
                pictures.mkdir(parents=True, exist_ok=True)
                for sample, name in samples:
                    shutil.copyfile(sample.image, pictures / name)
    except OSError as error:
        raise UserError(f"{out}: cannot be written ({error}): choose another folder or free some space.") from error


@contextmanager
def _new_folder(out: Path) -> Iterator[Path]:
    """A folder beside `out` that takes its name once everything is written."""
    out = out.resolve()
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UserError(f"{out}: is there already and not an empty folder: name a new one.")
    out.parent.mkdir(parents=True, exist_ok=True)
    partial = out.parent / f".{out.name}.{uuid.uuid4().hex[:8]}.partial"
    partial.mkdir()
    try:
        yield partial
        if out.exists():
            out.rmdir()
        partial.replace(out)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _names(dataset: Dataset) -> dict[str, list[tuple[Sample, str]]]:
    """A file name for each picture, with a stem used only once: labels in VOC and YOLO go by the stem."""
    used: set[str] = set()
    names: dict[str, list[tuple[Sample, str]]] = {}
    for split, samples in dataset.splits.items():
        for sample in samples:
            # Blanks and control characters would break the lists of names; what is not Unicode cannot be written there.
            stem = re.sub(r"[\s\x00-\x1f\x7f\ud800-\udfff]+", "_", sample.image.stem)
            unique, count = stem, 1
            while unique.lower() in used:
                count += 1
                unique = f"{stem}_{count}"
            used.add(unique.lower())
            names.setdefault(split, []).append((sample, unique + sample.image.suffix))
    return names
