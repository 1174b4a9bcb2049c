"""Small real data sets, made on disk."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable, Sequence
from pathlib import Path

import cv2
import numpy as np
import pytest

Box = tuple[float, float, float, float]
Objects = Sequence[tuple[str, Box]]


def jpeg(seed: int, width: int = 64, height: int = 48) -> bytes:
    pixels = np.random.default_rng(seed).integers(0, 255, (height // 8, width // 8, 3), np.uint8)
    sound, data = cv2.imencode(".jpg", cv2.resize(pixels, (width, height)))
    assert sound
    return data.tobytes()


def turned(data: bytes, orientation: int = 6) -> bytes:
    """The JPEG with an EXIF orientation."""
    entry = struct.pack(">HHHIHHI", 1, 0x112, 3, 1, orientation, 0, 0)
    exif = b"Exif\0\0MM\0*" + struct.pack(">I", 8) + entry
    return data[:2] + b"\xff\xe1" + struct.pack(">H", len(exif) + 2) + exif + data[2:]


def voc_xml(filename: str, objects: Objects, size: tuple[int, int] = (64, 48)) -> str:
    rows = "".join(
        f"<object><name>{name}</name><bndbox><xmin>{x1}</xmin><ymin>{y1}</ymin><xmax>{x2}</xmax><ymax>{y2}</ymax>"
        "</bndbox></object>"
        for name, (x1, y1, x2, y2) in objects
    )
    stated = f"<size><width>{size[0]}</width><height>{size[1]}</height><depth>3</depth></size>"
    return f"<annotation><filename>{filename}</filename>{stated}{rows}</annotation>"


def write(path: Path, content: bytes | str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


@pytest.fixture
def root(tmp_path: Path) -> Path:
    folder = tmp_path / "data"
    folder.mkdir()
    return folder


@pytest.fixture
def flat_voc(root: Path) -> Callable[..., Path]:
    """Adds one picture with its XML to the data folder."""

    def add(name: str, objects: Objects, seed: int | None = None, folder: str = ".", **kwargs: tuple[int, int]) -> Path:
        write(root / folder / f"{name}.jpg", jpeg(hash_of(name) if seed is None else seed))
        return write(root / folder / f"{name}.xml", voc_xml(f"{name}.jpg", objects, **kwargs))

    return add


def hash_of(name: str) -> int:
    return int.from_bytes(name.encode()) % 2**31


def coco(images: list[dict[str, object]], annotations: list[dict[str, object]], names: Sequence[str] = ("cat",)) -> str:
    categories = [{"id": 10 * k, "name": name} for k, name in enumerate(names, 1)]
    return json.dumps({"images": images, "annotations": annotations, "categories": categories})
