"""Sparse weights on disk: a safetensors file of a few compressed streams, read back bit for bit. Nothing unpickles.

All tensors together are one long row of numbers. The file says which of them are not zero (`gaps`) and what these are:
`values`, or, for a tensor of few distinct values, its `values` once and a `codes` number for each place. `layout` names
the tensors. Every stream is an .xz stream in a tensor of bytes (docs/decisions/0010).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np
import numpy.typing as npt
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from leandet.atomic import write_bytes
from leandet.errors import UserError
from leandet.sparsify.streams import PlaneReader, PlaneWriter, damaged, expand, from_gaps, squeeze, to_gaps

KEY, VERSION = "leandet.sparse", "1"  # metadata that marks the form
LAYOUT_BYTES = "leandet.sparse.layout_bytes"
MOST_LAYOUT_BYTES = 1 << 24
MOST_ELEMENTS = 1 << 36  # of all tensors together; far above any light network
DTYPES = {
    str(dtype).removeprefix("torch."): dtype
    for dtype in (
        *(torch.float64, torch.float32, torch.float16, torch.bfloat16),
        *(torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8, torch.bool),
    )
}
_TORCH_BITS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
_BITS: dict[int, np.dtype[Any]] = {
    1: np.dtype(np.uint8),
    2: np.dtype(np.int16),
    4: np.dtype(np.int32),
    8: np.dtype(np.int64),
}
_CODES: dict[int, np.dtype[Any]] = {1: np.dtype(np.uint8), 2: np.dtype(np.uint16)}
Module = TypeVar("Module", bound=nn.Module)
Bits = npt.NDArray[np.integer]


class Entry(NamedTuple):
    """A tensor of the layout.

    Attributes:
        name: of the tensor.
        dtype: its name in torch.
        shape: sides, possibly none.
        distinct: size of its codebook; 0 where values are written out.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    distinct: int

    @property
    def size(self) -> int:
        """Elements."""
        return prod(self.shape)

    @property
    def bits(self) -> np.dtype[Any]:
        """Integers as wide as the elements."""
        return _BITS[DTYPES[self.dtype].itemsize]


def encode(tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None) -> bytes:
    """The file that holds the tensors.

    Args:
        tensors: of any shape, at most 2^36 elements.
        metadata: kept in the header.

    Raises:
        UserError: if a tensor's type cannot be written.
    """
    values, codes = PlaneWriter("values"), PlaneWriter("codes")
    layout, kept = [], []
    for name, tensor in tensors.items():
        dtype = str(tensor.dtype).removeprefix("torch.")
        if dtype not in DTYPES:
            raise UserError(f"{name} is of type {dtype}, which a sparse file cannot hold: one of {', '.join(DTYPES)}.")
        flat = tensor.detach().cpu().contiguous().reshape(-1).view(_TORCH_BITS[tensor.dtype.itemsize]).numpy()
        kept.append(flat != 0)
        distinct = _add(flat[kept[-1]], values, codes)
        layout.append(Entry(name, dtype, tuple(tensor.shape), distinct))
    flags = np.concatenate(kept) if kept else np.zeros(0, bool)
    streams = {"gaps": to_gaps(flags).tobytes(), **values.streams(), **codes.streams()}
    described = {"tensors": layout, "bytes": {name: len(raw) for name, raw in streams.items()}}
    text = json.dumps(described, separators=(",", ":"), ensure_ascii=False).encode()
    packed = {name: squeeze(raw) for name, raw in {"layout": text, **streams}.items()}
    stored = {name: torch.frombuffer(bytearray(stream), dtype=torch.uint8) for name, stream in packed.items()}
    return save(stored, {**(metadata or {}), KEY: VERSION, LAYOUT_BYTES: str(len(text))})


def _add(numbers: Bits, values: PlaneWriter, codes: PlaneWriter) -> int:
    """Write a tensor's nonzero numbers the shorter way; the size of the codebook, 0 for none."""
    book, places = np.unique(numbers, return_inverse=True)
    width = _code_width(len(book))
    if width and len(book) * numbers.itemsize + len(numbers) * width < len(numbers) * numbers.itemsize:
        values.add(book)
        codes.add(places.astype(_CODES[width]))
        return len(book)
    values.add(numbers)
    return 0


def _code_width(distinct: int) -> int:
    """Bytes of a code; 0 where it would need more than two."""
    return 1 if distinct <= 1 << 8 else 2 if distinct <= 1 << 16 else 0


@dataclass(frozen=True, slots=True)
class SparseFile:
    """An opened sparse file: its layout is read and checked, its tensors are not made yet.

    Compare `entries` with the tensors wanted before calling `tensors`: a small file may well hold a gigabyte of zeros.

    Attributes:
        entries: by name.
        streams: packed.
        sizes: bytes of each stream, expanded.
        where: the file, for messages.
    """

    entries: dict[str, Entry]
    streams: dict[str, bytes]
    sizes: dict[str, int]
    where: str

    @classmethod
    def open(cls, path: Path) -> SparseFile:
        """Read a file that `encode` made.

        Raises:
            UserError: if it is missing, damaged, or of another form or version.
        """
        where = str(path)
        if not path.is_file():
            raise UserError(f"{where}: there is no such file.")
        try:
            with safe_open(path, "pt") as file:
                metadata = file.metadata() or {}
                _check_version(metadata.get(KEY), where)
                packed = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (it is no mapping)
        except (SafetensorError, OSError, UnicodeDecodeError) as error:
            raise damaged(where, str(error)) from error
        streams = {name: _bytes(tensor, where) for name, tensor in packed.items()}
        try:
            size = int(metadata[LAYOUT_BYTES])
            if not 0 <= size <= MOST_LAYOUT_BYTES:
                raise damaged(where, "its layout is too large")
            layout = json.loads(expand(streams.pop("layout"), size, where))
            entries = [Entry(str(n), str(d), tuple(map(int, s)), int(k)) for n, d, s, k in layout["tensors"]]
            sizes = {str(name): int(size) for name, size in layout["bytes"].items()}
        except (KeyError, TypeError, ValueError, AttributeError, RecursionError, OverflowError) as error:
            raise damaged(where, f"its layout cannot be read: {error!r}") from error
        return cls(_checked(entries, sizes, streams, where), streams, sizes, where)

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Of the tensors, by name."""
        return {name: entry.shape for name, entry in self.entries.items()}

    def tensors(self) -> dict[str, Tensor]:
        """All tensors, bit for bit.

        Raises:
            UserError: if the file is damaged.
        """
        raw = {name: expand(packed, self.sizes[name], self.where) for name, packed in self.streams.items()}
        ends = np.cumsum([0, *(entry.size for entry in self.entries.values())])
        places = from_gaps(np.frombuffer(raw.pop("gaps"), np.uint8), int(ends[-1]), self.where)
        cuts = np.searchsorted(places, ends)
        values, codes = (PlaneReader(name, raw, self.where) for name in ("values", "codes"))
        made = {}
        for index, entry in enumerate(self.entries.values()):
            own = places[cuts[index] : cuts[index + 1]] - ends[index]
            flat = np.zeros(entry.size, entry.bits)
            flat[own] = self._numbers(entry, len(own), values, codes)
            made[entry.name] = torch.from_numpy(flat).view(DTYPES[entry.dtype]).reshape(entry.shape)
        return made

    def _numbers(self, entry: Entry, count: int, values: PlaneReader, codes: PlaneReader) -> Bits:
        if not entry.distinct:
            return values.take(count, entry.bits)
        book = values.take(entry.distinct, entry.bits)
        chosen = codes.take(count, _CODES[_code_width(entry.distinct)])
        if count and int(chosen.max()) >= entry.distinct:
            raise damaged(self.where, f"a code of {entry.name} is outside of its codebook")
        return np.asarray(book[chosen])


def _check_version(found: str | None, where: str) -> None:
    if found is None:
        raise UserError(f"{where} is not a sparse model file.")
    if found != VERSION:
        raise UserError(f"{where}: its sparse form has version {found!r}, this leandet reads {VERSION}: make it again.")


def _bytes(tensor: Tensor, where: str) -> bytes:
    if tensor.dtype != torch.uint8 or tensor.dim() != 1:
        raise damaged(where, "a stream is not a row of bytes")
    return tensor.numpy().tobytes()


def _checked(entries: list[Entry], sizes: dict[str, int], streams: dict[str, bytes], where: str) -> dict[str, Entry]:
    """The entries by name, after a look at every number that decides how much memory reading takes."""
    for entry in entries:
        if entry.dtype not in DTYPES or not 0 <= entry.distinct <= 1 << 16 or any(side < 0 for side in entry.shape):
            raise damaged(where, f"tensor {entry.name!r} is described wrongly")
    named = {entry.name: entry for entry in entries}
    total = sum(entry.size for entry in entries)
    if len(named) != len(entries) or total > MOST_ELEMENTS:
        raise damaged(where, "its tensors are too large, or two have one name")
    most = 2 * total + sum(entry.distinct for entry in entries)  # no stream has more bytes than numbers and escapes
    if set(sizes) != set(streams) or "gaps" not in streams or not all(0 <= size <= most for size in sizes.values()):
        raise damaged(where, "its streams are not those of its layout")
    return named


def is_sparse(metadata: Mapping[str, str]) -> bool:
    """Whether a safetensors file with this metadata is of the sparse form."""
    return KEY in metadata


def save_sparse(module: nn.Module, path: Path, metadata: Mapping[str, str] | None = None) -> None:
    """Write a network's parameters and buffers, whole or not at all; zeros cost next to nothing.

    Args:
        module: any module.
        path: of the new file.
        metadata: kept in its header.

    Raises:
        UserError: if the disk refuses or a tensor's type cannot be written.
    """
    write_bytes(path, encode(module.state_dict(), metadata))


def load_sparse(module: Module, path: Path) -> Module:
    """Fill a network, in place, with what `save_sparse` wrote.

    Args:
        module: of the same tensor names and shapes.
        path: of the file.

    Returns:
        The module.

    Raises:
        UserError: if the file is missing, damaged, or of another network; the module is then as it was.
    """
    file = SparseFile.open(path)
    own = {name: tuple(tensor.shape) for name, tensor in module.state_dict().items()}
    if strange := sorted(own.items() ^ file.shapes.items()):
        raise UserError(f"{path} is of another network: they differ in the tensor {strange[0][0]!r}.")
    module.load_state_dict(file.tensors())
    return module
