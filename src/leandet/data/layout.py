"""The three layouts of labelled images and the usual names of their splits. Imports nothing heavy, for `--help`."""

from __future__ import annotations

import re
from enum import StrEnum
from pathlib import PurePath


class Layout(StrEnum):
    """How labels lie on disk."""

    COCO = "coco"
    VOC = "voc"
    YOLO = "yolo"


SPLITS = ("train", "val", "test")
EXPECTED = (
    "a COCO .json (or a folder with one, for instance annotations/instances_train.json), "
    "VOC .xml files (Annotations + JPEGImages, or each beside its picture), "
    "or YOLO data.yaml / classes.txt with images/ and labels/"
)

_WORDS = {
    "train": "train",
    "training": "train",
    "val": "val",
    "valid": "val",
    "validation": "val",
    "test": "test",
    "testing": "test",
    "trainval": "trainval",
}


def split_of(name: str) -> str:
    """The split that a file or folder name speaks of: `train`, `val`, `test`, `trainval`, or `""` if none.

    `instances_train2017.json` gives `train`, `valid` gives `val`.
    """
    for word in re.findall(r"[a-z]+", name.lower()):
        if word in _WORDS:
            return _WORDS[word]
    return ""


def split_of_folders(path: PurePath) -> str:
    """The split that the nearest telling folder of a relative file path names, or `""`."""
    for part in reversed(path.parts[:-1]):
        if split := split_of(part):
            return split
    return ""
