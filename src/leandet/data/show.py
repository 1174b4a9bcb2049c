"""Pictures of labels: the quickest check that a data set says what its owner believes."""

from __future__ import annotations

import random
import uuid
from contextlib import suppress
from pathlib import Path

import cv2

from leandet.data.draw import draw
from leandet.data.image import load_image
from leandet.data.sample import Dataset
from leandet.errors import UserError
from leandet.preprocess import Image


def show(dataset: Dataset, out: Path, count: int = 16, split: str = "train", seed: int = 0) -> list[Path]:
    """Write some pictures with their labels drawn on them.

    Args:
        dataset: as `read` gives it.
        out: a folder, made if missing; files are called `<split>_<number>_<name>.jpg`.
        count: how many pictures, at least 1; fewer are written if the split has fewer.
        split: which split.
        seed: of the choice.

    Returns:
        the files written.

    Raises:
        UserError: if there is no such split, `count` is under 1 or a file cannot be read or written.
    """
    samples = dataset.splits.get(split, ())
    if not samples:
        raise UserError(f"{dataset.root}: no split '{split}' with images: choose from {', '.join(dataset.splits)}.")
    if count < 1:
        raise UserError(f"count must be at least 1, not {count}.")
    chosen = sorted(random.Random(seed).sample(range(len(samples)), min(count, len(samples))))
    written = []
    for number, at in enumerate(chosen, 1):
        sample = samples[at]
        picture = draw(load_image(sample.image), sample.boxes, sample.labels, dataset.classes)
        path = out / f"{split}_{number:03d}_{sample.image.stem}.jpg"
        write_picture(path, picture)
        written.append(path)
    return written


def write_picture(path: Path, image: Image) -> None:
    """Write uint8 (H, W, 3) RGB in the format of the path's suffix (JPEG, PNG, ...), whole or not at all.

    Raises:
        UserError: if the format is unknown or the file cannot be written.
    """
    partial = path.with_name(f".{uuid.uuid4().hex}.partial")
    try:
        sound, data = cv2.imencode(path.suffix or ".", cv2.cvtColor(image, cv2.COLOR_RGB2BGR))
    except cv2.error:
        sound = False
    if not sound:
        raise UserError(f"{path}: no picture format with this suffix: use .jpg or .png.")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        partial.write_bytes(data.tobytes())
        partial.replace(path)
    except OSError as error:
        with suppress(OSError):
            partial.unlink()
        raise UserError(f"{path}: cannot be written ({error.strerror}): choose another folder.") from error
