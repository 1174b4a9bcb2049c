"""Reading a picture: whole, upright and bounded, or a clear sentence. Training and every `detect` use this."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from leandet.data.image_header import Header, read_header
from leandet.data.paths import read_bounded
from leandet.errors import UserError
from leandet.preprocess import Image, Size

MAX_PIXELS = 100_000_000
MAX_BYTES = 256 << 20
BITS = 8  # of a channel, that are used
PNG_DEPTH = 24  # the byte of a PNG that says how many it has


@dataclass(frozen=True, slots=True)
class Inspection:
    """A sound picture.

    Attributes:
        size: as seen, EXIF orientation honoured.
        digest: the hash of its file's bytes.
        bits: of a channel; `load_image` keeps the upper 8.
    """

    size: Size
    digest: bytes
    bits: int = BITS


def load_image(path: Path) -> Image:
    """Decode one picture, EXIF orientation honoured.

    Returns:
        uint8 (H, W, 3) RGB, the upper 8 bits of what has more.

    Raises:
        UserError: if the file is missing, no JPEG, PNG, BMP, WebP or TIFF, cut short, broken, larger than 256 MiB
            or than 100 megapixels.
    """
    return decode_image(read_bounded(path, MAX_BYTES), str(path))


def decode_image(data: bytes, name: str) -> Image:
    """Decode the bytes of one picture; `name` stands in messages. Returns and raises as `load_image`."""
    _sound_header(data, name)
    return np.asarray(cv2.cvtColor(_decode(data, cv2.IMREAD_COLOR, name), cv2.COLOR_BGR2RGB), np.uint8)


def inspect_image(path: Path) -> Inspection:
    """Decode one picture only to learn that it is sound.

    Raises:
        UserError: as `load_image`.
    """
    data = read_bounded(path, MAX_BYTES)
    header = _sound_header(data, str(path))
    return Inspection(_seen_size(data, header, str(path)), _digest(data), _bits(data, header))


def file_digest(path: Path) -> bytes:
    """The hash that `Inspection.digest` holds: equal for files with the same bytes.

    Raises:
        UserError: if the file cannot be read or is larger than 256 MiB.
    """
    return _digest(read_bounded(path, MAX_BYTES))


def _digest(data: bytes) -> bytes:
    return hashlib.blake2b(data, digest_size=16).digest()


def _sound_header(data: bytes, name: str) -> Header:
    header = read_header(data)
    if header is None:
        what = "not a JPEG, PNG, BMP, WebP or TIFF picture" if data else "an empty file"
        raise UserError(f"{name}: {what}: convert or remove it.")
    if header.size is not None and header.size.height * header.size.width > MAX_PIXELS:
        raise UserError(f"{name}: {header.size} is over the limit of 100 megapixels: make it smaller.")
    if not header.complete or header.size is None:
        raise UserError(f"{name}: the {header.format} is cut short: copy it again or remove it.")
    return header


def _decode(data: bytes, flag: int, name: str) -> npt.NDArray[Any]:
    try:
        image = cv2.imdecode(np.frombuffer(data, np.uint8), flag)
    except cv2.error:
        image = None
    if image is None:
        raise UserError(f"{name}: broken, it cannot be decoded: copy it again or remove it.")
    return image


def _bits(data: bytes, header: Header) -> int:
    """Of a channel; of a TIFF, which may say it in many ways, as OpenCV finds them."""
    if header.format == "PNG":
        return max(BITS, data[PNG_DEPTH])
    if header.format != "TIFF":
        return BITS
    try:
        image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    except cv2.error:
        image = None
    return BITS if image is None else 8 * image.dtype.itemsize


def _seen_size(data: bytes, header: Header, name: str) -> Size:
    """The size after EXIF orientation, decoded as `load_image` does.

    An eighth-size decode reads every byte of a JPEG in a fraction of the time, and its shape tells whether the
    picture was turned, unless both sides shrink to the same length.
    """
    stored = header.size
    if header.format != "JPEG" or stored is None:
        return Size(*_decode(data, cv2.IMREAD_COLOR, name).shape[:2])
    small = _decode(data, cv2.IMREAD_REDUCED_COLOR_8, name).shape[:2]
    upright = (-(-stored.height // 8), -(-stored.width // 8))
    if upright[0] == upright[1]:
        return Size(*_decode(data, cv2.IMREAD_COLOR, name).shape[:2])
    return stored if small == upright else Size(stored.width, stored.height)
