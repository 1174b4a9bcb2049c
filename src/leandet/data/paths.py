"""Finding and reading files under a data folder without ever leaving it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from leandet.errors import UserError

IMAGE_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff"})
CLASS_FILES = ("classes.txt", "labels.txt", "obj.names")
MAX_FILES = 5_000_000
MAX_CLASS_BYTES = 1 << 20


def inside(root: Path, path: Path) -> Path | None:
    """The resolved path if it lies inside the resolved folder `root`, else None (links are followed)."""
    if "\0" in str(path):  # no file has such a name, and Python versions differ in what they do with it
        return None
    try:
        resolved = path.resolve()
    except (OSError, ValueError, RuntimeError):  # links in a circle
        return None
    return resolved if resolved.is_relative_to(root) else None


def named_inside(root: Path, path: Path) -> Path | None:
    """The path as it is named, where what it leads to lies inside the resolved folder `root` too; else None.

    Labels go by the name of a link, not by what it leads to. Where `..` crosses a link, or the name lies outside, it is
    what it leads to.
    """
    resolved = inside(root, path)
    if resolved is None:
        return None
    named = Path(os.path.normpath(path))
    return named if named.is_relative_to(root) and inside(root, named) == resolved else resolved


def is_file(path: Path) -> bool:
    """Whether there is a file; False for a name that no file can have (too long, a NUL byte)."""
    try:
        return path.is_file()
    except (OSError, ValueError):
        return False


def exists(path: Path) -> bool:
    """Whether there is a file or folder; False for a name that none can have."""
    try:
        return path.exists()
    except (OSError, ValueError):
        return False


def shown(root: Path, path: Path) -> str:
    """A path for messages: relative to the data folder where it lies inside."""
    return path.relative_to(root).as_posix() if path.is_relative_to(root) else str(path)


def walk(root: Path, suffixes: frozenset[str]) -> Iterator[Path]:
    """Every file below `root` with one of the (lower-case) suffixes, in a fixed order; hidden folders are skipped.

    Raises:
        UserError: if there are more than five million files, or a folder cannot be read.
    """
    seen = 0

    def unreadable(error: OSError) -> None:
        raise UserError(f"{error.filename}: cannot be read ({error.strerror}): mend its permissions.") from error

    for folder, folders, files in os.walk(root, onerror=unreadable):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        seen += len(files)
        if seen > MAX_FILES:
            raise UserError(f"{root}: more than {MAX_FILES} files: name a smaller data folder.")
        for name in sorted(files):
            if not name.startswith(".") and os.path.splitext(name)[1].lower() in suffixes:  # noqa: PTH122 (speed)
                yield Path(folder, name)


def read_bounded(path: Path, limit: int) -> bytes:
    """The bytes of a file.

    Raises:
        UserError: if it cannot be read or is larger than `limit` bytes.
    """
    try:
        with path.open("rb") as file:
            data = file.read(limit + 1)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise UserError(f"{path}: cannot be read ({reason}): mend or remove it.") from error
    if len(data) > limit:
        raise UserError(f"{path}: larger than the limit of {limit >> 20} MiB for such a file: split it.")
    return data


def read_text(path: Path, limit: int) -> str:
    """The text of a UTF-8 file, a byte-order mark allowed.

    Raises:
        UserError: if it cannot be read, is larger than `limit` bytes or is not UTF-8.
    """
    try:
        return read_bounded(path, limit).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: not UTF-8 text (byte {error.start}): save it as UTF-8.") from error


class FolderIndex:
    """Looks up files by name, then by name without regard to case, reading each folder once."""

    def __init__(self) -> None:
        self._exact: dict[Path, frozenset[str]] = {}
        self._names: dict[Path, dict[str, str]] = {}
        self._stems: dict[Path, dict[str, str]] = {}

    def _load(self, folder: Path) -> None:
        if folder in self._names:
            return
        try:
            names = sorted(entry.name for entry in os.scandir(folder) if entry.is_file())
        except (OSError, ValueError):
            names = []
        self._exact[folder] = frozenset(names)
        self._names[folder] = {name.lower(): name for name in names}
        images = [name for name in reversed(names) if Path(name).suffix.lower() in IMAGE_SUFFIXES]
        # The exact stem wins over one that differs in case.
        self._stems[folder] = {Path(name).stem.lower(): name for name in images} | {
            Path(name).stem: name for name in images
        }

    def file(self, path: Path) -> Path | None:
        """The file at `path`, or the one in its folder whose name differs only in case."""
        self._load(path.parent)
        if path.name in self._exact[path.parent]:
            return path
        name = self._names[path.parent].get(path.name.lower())
        return path.parent / name if name else None

    def images(self, folder: Path) -> list[str]:
        """The names of the pictures in `folder`, sorted."""
        self._load(folder)
        return sorted(set(self._stems[folder].values()))

    def image(self, folder: Path, stem: str) -> Path | None:
        """The picture in `folder` with this name, whatever its suffix."""
        self._load(folder)
        stems = self._stems[folder]
        name = stems.get(stem) or stems.get(stem.lower())
        return folder / name if name else None


def class_file(root: Path, folders: tuple[str, ...] = (".",)) -> tuple[Path, tuple[str, ...]] | None:
    """The first file of class names (`classes.txt`, `labels.txt`, `obj.names`) in `folders`, and the names.

    Raises:
        UserError: if the file is empty, names a class twice or cannot be read.
    """
    for folder in folders:
        for name in CLASS_FILES:
            path = inside(root, root / folder / name)
            if path is not None and path.is_file():
                return path, _read_classes(path)
    return None


def _read_classes(path: Path) -> tuple[str, ...]:
    lines = [" ".join(line.split()) for line in read_text(path, MAX_CLASS_BYTES).splitlines()]
    while lines and not lines[-1]:
        lines.pop()
    if not lines:
        raise UserError(f"{path}: empty: write one class name on each line, or remove the file.")
    seen: set[str] = set()
    for line, name in enumerate(lines, 1):
        if not name:
            raise UserError(f"{path}:{line}: an empty line stands for a class: remove it.")
        if name in seen:
            raise UserError(f"{path}:{line}: the class '{name}' is named twice: keep one.")
        seen.add(name)
    return tuple(lines)
