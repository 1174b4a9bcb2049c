"""What the first bytes of a picture say, read before any decoder may allocate for it."""

from __future__ import annotations

from dataclasses import dataclass

from leandet.preprocess import Size


@dataclass(frozen=True, slots=True)
class Header:
    """A picture's format, its stored size (before EXIF orientation; None if unknown) and whether its end is there."""

    format: str
    size: Size | None
    complete: bool


def read_header(data: bytes) -> Header | None:
    """The header of a JPEG, PNG, BMP, WebP or TIFF file; None for anything else."""
    if data[:3] == b"\xff\xd8\xff":
        return _jpeg(data)
    if data[:8] == b"\x89PNG\r\n\x1a\n":
        return _png(data)
    if data[:2] == b"BM" and len(data) >= 54:
        return _bmp(data)
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return _webp(data)
    if data[:4] in (b"II*\0", b"MM\0*"):
        return _tiff(data)
    return None


def _jpeg(data: bytes) -> Header:
    """Walk the segments up to the first scan: an EXIF thumbnail's own end marker must not count."""
    size, at = None, 2
    while at >= 0 and at + 4 <= len(data):
        marker = data[at + 1]
        if data[at] != 0xFF:
            at = data.find(b"\xff", at)
        elif marker == 0xFF:
            at += 1
        elif marker == 0x01 or 0xD0 <= marker <= 0xD8:
            at += 2
        elif marker == 0xD9:
            break
        else:
            if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC) and at + 9 <= len(data):
                height, width = (int.from_bytes(data[at + k : at + k + 2]) for k in (5, 7))
                size = Size(height, width) if height and width else None
            at += 2 + int.from_bytes(data[at + 2 : at + 4])
            if marker == 0xDA:
                return Header("JPEG", size, data.find(b"\xff\xd9", at) >= 0)
    return Header("JPEG", size, complete=False)


def _png(data: bytes) -> Header:
    """The first chunk must be the header, and no later one counts: so decoders have it."""
    size, at = None, 8
    if data[12:16] == b"IHDR" and len(data) >= 24:
        size = Size(int.from_bytes(data[20:24]), int.from_bytes(data[16:20]))
    while at + 12 <= len(data):
        length, kind = int.from_bytes(data[at : at + 4]), data[at + 4 : at + 8]
        if kind == b"IEND":
            return Header("PNG", size, complete=True)
        at += 12 + length
    return Header("PNG", size, complete=False)


def _bmp(data: bytes) -> Header:
    def word(at: int, count: int = 4) -> int:
        return int.from_bytes(data[at : at + count], "little", signed=True)

    size = Size(abs(word(22)), abs(word(18)))
    row = (size.width * word(28, 2) + 31) // 32 * 4
    stored_plainly = word(30) == 0
    return Header("BMP", size, not stored_plainly or len(data) >= word(10) + row * size.height)


def _webp(data: bytes) -> Header:
    def word(at: int, count: int) -> int:
        return int.from_bytes(data[at : at + count], "little")

    complete = word(4, 4) + 8 <= len(data)
    kind = data[12:16]
    if kind == b"VP8X":
        return Header("WebP", Size(word(27, 3) + 1, word(24, 3) + 1), complete)
    if kind == b"VP8L":
        bits = word(21, 4)
        return Header("WebP", Size((bits >> 14 & 0x3FFF) + 1, (bits & 0x3FFF) + 1), complete)
    return Header("WebP", Size(word(28, 2) & 0x3FFF, word(26, 2) & 0x3FFF), complete)


_TIFF_BYTES = {3: 2, 4: 4}  # of the types SHORT and LONG


def _tiff(data: bytes) -> Header:
    """The first directory's first width and length; the decoder itself tells whether the rest is there.

    Other types than 16 and 32 bits are not believed: the size is then unknown.
    """

    def word(at: int, count: int) -> int:
        return int.from_bytes(data[at : at + count], "little" if data[:1] == b"I" else "big")

    start = word(4, 4)
    found: dict[int, int] = {}
    for entry in range(start + 2, start + 2 + 12 * word(start, 2), 12):
        tag, kind = word(entry, 2), word(entry + 2, 2)
        if tag in (256, 257):
            found.setdefault(tag, word(entry + 8, _TIFF_BYTES[kind]) if kind in _TIFF_BYTES else 0)
    size = Size(found[257], found[256]) if len(found) == 2 and all(found.values()) else None
    return Header("TIFF", size, complete=size is not None)
