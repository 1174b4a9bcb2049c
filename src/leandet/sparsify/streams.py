"""Numbers as byte streams that compress well: gaps between the kept, bytes of equal weight together, xz around all."""

from __future__ import annotations

import lzma
from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

from leandet.errors import UserError

Bytes = npt.NDArray[np.uint8]
Integers = npt.NDArray[np.int64]

ESCAPE = 255  # a byte of gap that says: so many zeros, and the gap goes on
# A range coder that adapts, without context: our bytes are numbers, not text (see docs/decisions/0010).
_FILTER = {"id": lzma.FILTER_LZMA2, "preset": 6, "lc": 0, "lp": 0, "pb": 0, "dict_size": 1 << 16}
_MEMORY = 1 << 20  # bytes that reading may take beside its result; our dictionary needs a fifth


def squeeze(raw: bytes) -> bytes:
    """An .xz stream with its own checksum."""
    return lzma.compress(raw, lzma.FORMAT_XZ, lzma.CHECK_CRC32, filters=[_FILTER])


def expand(packed: bytes, size: int, where: str) -> bytes:
    """What `squeeze` packed; never more than `size` bytes are made.

    Raises:
        UserError: unless it is one whole stream of exactly `size` bytes.
    """
    reader = lzma.LZMADecompressor(lzma.FORMAT_XZ, memlimit=_MEMORY)
    try:
        raw = reader.decompress(packed, size)
        if not reader.eof:  # the end mark and the checksum lie behind the last byte
            raw += reader.decompress(b"", 1)
    except (lzma.LZMAError, EOFError) as error:
        raise damaged(where, str(error)) from error
    if len(raw) != size or not reader.eof or reader.unused_data:
        raise damaged(where, "a stream has another length than the file says")
    return raw


def damaged(where: str, what: str) -> UserError:
    """The sentence for a sparse file that is not whole."""
    return UserError(f"{where} is not a whole sparse model file ({what}): copy or make it again.")


def to_gaps(kept: npt.NDArray[np.bool_]) -> Bytes:
    """Flags (n,) -> for each true one the number of false ones before it, a byte each, longer gaps escaped."""
    gaps = np.diff(np.flatnonzero(kept), prepend=-1) - 1
    escapes = gaps // ESCAPE
    stream = np.full(len(gaps) + int(escapes.sum()), ESCAPE, np.uint8)
    stream[np.cumsum(escapes + 1) - 1] = gaps % ESCAPE
    return stream


def from_gaps(stream: Bytes, total: int, where: str) -> Integers:
    """The places, ascending, that `to_gaps` wrote down.

    Raises:
        UserError: if one lies outside of `total` flags.
    """
    ends = np.flatnonzero(stream != ESCAPE)
    places = np.cumsum(stream, dtype=np.int64)[ends] + np.arange(len(ends))
    whole = len(stream) == 0 or stream[-1] != ESCAPE
    if not whole or (len(places) and places[-1] >= total):
        raise damaged(where, "its places lie outside of its tensors")
    return places


class PlaneWriter:
    """Collects integers of 1 to 8 bytes: byte k of every number goes to stream k, least significant first.

    The exponents of floats then lie together and compress; their mantissas do not disturb them.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self._planes: list[list[bytes]] = []

    def add(self, numbers: npt.NDArray[np.integer]) -> None:
        """Integers (n,)."""
        little = numbers.astype(numbers.dtype.newbyteorder("<"), copy=False)
        for k, plane in enumerate(np.ascontiguousarray(little).view(np.uint8).reshape(-1, numbers.itemsize).T):
            if k == len(self._planes):
                self._planes.append([])
            self._planes[k].append(plane.tobytes())

    def streams(self) -> dict[str, bytes]:
        """By name."""
        return {f"{self._name}{k}": b"".join(parts) for k, parts in enumerate(self._planes)}


class PlaneReader:
    """Gives back what a `PlaneWriter` of the same name took."""

    def __init__(self, name: str, streams: Mapping[str, bytes], where: str) -> None:
        self._name, self._streams, self._where = name, streams, where
        self._at: dict[str, int] = {}

    def take(self, count: int, kind: npt.DTypeLike) -> npt.NDArray[np.integer]:
        """The next `count` integers.

        Raises:
            UserError: if fewer are left.
        """
        little = np.dtype(kind).newbyteorder("<")
        table = np.empty((count, little.itemsize), np.uint8)
        for k in range(little.itemsize):
            name = f"{self._name}{k}"
            start = self._at.get(name, 0)
            part = self._streams.get(name, b"")[start : start + count]
            if len(part) != count:
                raise damaged(self._where, f"stream {name} ends early")
            table[:, k] = np.frombuffer(part, np.uint8)
            self._at[name] = start + count
        return table.view(little)[:, 0].astype(np.dtype(kind))
