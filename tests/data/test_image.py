"""Pictures: upright, whole and bounded."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path

import cv2
import numpy as np
import pytest

from leandet.data.image import inspect_image, load_image
from leandet.data.image_header import Header, read_header
from leandet.errors import UserError
from leandet.preprocess import Size

from .conftest import jpeg, turned, write

SUFFIXES = [".jpg", ".png", ".bmp", ".webp", ".tiff"]


def encoded(suffix: str) -> bytes:
    pixels = np.random.default_rng(0).integers(0, 255, (37, 91, 3), np.uint8)
    return cv2.imencode(suffix, pixels)[1].tobytes()


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_every_format_has_its_size_and_rgb_order(tmp_path: Path, suffix: str) -> None:
    pixels = np.zeros((37, 91, 3), np.uint8)
    pixels[..., 2] = 255  # red, in OpenCV's order
    path = write(tmp_path / f"ä b{suffix}", cv2.imencode(suffix, pixels)[1].tobytes())
    image = load_image(path)
    assert image.shape == (37, 91, 3)
    assert image.dtype == np.uint8
    assert image[..., 0].min() > 240
    assert image[..., 2].max() < 20
    assert inspect_image(path).size == Size(37, 91)


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("part", [0.4, 0.9])
def test_a_truncated_picture_is_refused(tmp_path: Path, suffix: str, part: float) -> None:
    data = encoded(suffix)
    path = write(tmp_path / f"a{suffix}", data[: int(len(data) * part)])
    for read in (load_image, inspect_image):
        with pytest.raises(UserError, match=r"a\.\w+: .*(cut short|broken)"):
            read(path)


@pytest.mark.parametrize("size", [(64, 48), (100, 97), (48, 64)])
@pytest.mark.parametrize("orientation", [1, 3, 6, 8])
def test_exif_orientation_is_honoured(tmp_path: Path, size: tuple[int, int], orientation: int) -> None:
    path = write(tmp_path / "a.jpg", turned(jpeg(0, *size), orientation))
    seen = Size(*load_image(path).shape[:2])
    assert seen == (Size(*size) if orientation >= 5 else Size(size[1], size[0]))
    assert inspect_image(path).size == seen


@pytest.mark.parametrize("suffix", [".png", ".tif"])
def test_what_has_sixteen_bits_is_told(tmp_path: Path, suffix: str) -> None:
    deep = np.full((40, 64), 0x1234, np.uint16)
    cv2.imwrite(str(tmp_path / f"a{suffix}"), deep)
    cv2.imwrite(str(tmp_path / f"b{suffix}"), (deep >> 8).astype(np.uint8))
    assert [inspect_image(tmp_path / f"{name}{suffix}").bits for name in "ab"] == [16, 8]
    for name in "ab":
        assert inspect_image(tmp_path / f"{name}{suffix}").size == Size(40, 64)
        np.testing.assert_array_equal(load_image(tmp_path / f"{name}{suffix}"), 0x12)


def test_a_thumbnail_does_not_hide_truncation(tmp_path: Path) -> None:
    thumbnail = jpeg(1, 16, 16)
    data = jpeg(0)
    data = data[:2] + b"\xff\xe1" + struct.pack(">H", len(thumbnail) + 2) + thumbnail + data[2:]
    assert inspect_image(write(tmp_path / "whole.jpg", data)).size == Size(48, 64)
    with pytest.raises(UserError, match="cut short"):
        inspect_image(write(tmp_path / "cut.jpg", data[:-20]))


def test_bytes_after_the_end_are_harmless(tmp_path: Path) -> None:
    assert inspect_image(write(tmp_path / "a.jpg", jpeg(0) + b"\0" * 50)).size == Size(48, 64)


def test_a_huge_picture_is_refused_before_it_is_decoded(tmp_path: Path) -> None:
    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", 50_000, 50_000, 8, 2, 0, 0, 0))
    bomb = b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")
    with pytest.raises(UserError, match="50000x50000 is over the limit"):
        load_image(write(tmp_path / "bomb.png", bomb))
    small = chunk(b"IHDR", struct.pack(">IIBBBBB", 1, 1, 8, 2, 0, 0, 0))
    hidden = bomb.replace(chunk(b"IEND", b""), small + chunk(b"IEND", b""))  # decoders read the first header
    with pytest.raises(UserError, match="50000x50000 is over the limit"):
        load_image(write(tmp_path / "hidden.png", hidden))


@pytest.mark.parametrize("kind", [3, 4])
def test_a_tiff_s_size_is_the_first_that_it_states(kind: int) -> None:
    def entry(tag: int, value: int, kind: int = kind) -> bytes:
        return struct.pack("<HHIHH" if kind == 3 else "<HHII", tag, kind, 1, value, *([0] if kind == 3 else []))

    def tiff(*entries: bytes) -> bytes:
        return b"II*\0" + struct.pack("<IH", 8, len(entries)) + b"".join(entries) + bytes(4)

    assert read_header(tiff(entry(256, 50_000), entry(257, 40_000), entry(256, 1), entry(257, 1))) == Header(
        "TIFF", Size(40_000, 50_000), complete=True
    )
    odd = read_header(tiff(entry(256, 1, 16), entry(257, 1)))
    assert odd is not None
    assert odd.size is None


@pytest.mark.parametrize(
    "content", [b"", b"hello", b"\xff\xd8\xff", b"BM", b"RIFF0000WEBP", b"II*\0", b"\x89PNG\r\n\x1a\n"]
)
def test_what_is_no_picture_is_refused(tmp_path: Path, content: bytes) -> None:
    path = write(tmp_path / "a.jpg", content)
    with pytest.raises(UserError, match=r"a\.jpg: "):
        load_image(path)


def test_missing_file_and_folder(tmp_path: Path) -> None:
    for path in (tmp_path / "none.jpg", tmp_path):
        with pytest.raises(UserError, match="cannot be read"):
            load_image(path)
