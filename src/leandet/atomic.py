"""Files that are written whole or not at all."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from leandet.errors import UserError


def write_bytes(path: Path, content: bytes) -> None:
    """Write `content` to a temporary file beside `path`, then rename it over `path`; makes missing folders.

    Raises:
        UserError: if the disk refuses (full, read-only, not a folder); `path` is then as it was before.
    """
    temporary = ""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
        with os.fdopen(handle, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        Path(temporary).chmod(0o644)
        Path(temporary).replace(path)
        temporary = ""
    except OSError as error:
        raise UserError(f"{path} cannot be written: {error.strerror or error}.") from error
    finally:
        if temporary:  # failed or interrupted before the rename
            Path(temporary).unlink(missing_ok=True)


def write_text(path: Path, content: str) -> None:
    r"""`write_bytes` in UTF-8; a byte of a file's name that is none is written as `\udcXX`, which JSON reads back."""
    write_bytes(path, content.encode("utf-8", "backslashreplace"))


def write_json(path: Path, value: object) -> None:
    """`write_bytes` of indented JSON."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False) + "\n")


@contextmanager
def staged(path: Path) -> Iterator[Path]:
    """A place beside `path`, with its suffix, for a file or folder that takes its name only if all goes well.

    The caller writes a file or makes a folder at the place given. When the block ends, it replaces `path`; when the
    block raises, it is removed and `path` stays as it was. A folder replaces only a folder of the same file names, so
    that nobody's other work is lost.

    Raises:
        UserError: if the disk refuses, or `path` is a folder that holds other files.
    """
    scratch = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        scratch = Path(tempfile.mkdtemp(prefix=f".{path.stem}.", dir=path.parent))
        draft = scratch / path.name
        yield draft
        _replace(draft, path, scratch / "old")
    except OSError as error:
        raise UserError(f"{path} cannot be written: {error.strerror or error}.") from error
    finally:
        if scratch is not None:
            shutil.rmtree(scratch, ignore_errors=True)


def _replace(draft: Path, path: Path, old: Path) -> None:
    if not draft.is_dir():
        draft.chmod(0o644)
        draft.replace(path)
        return
    if path.is_dir():
        ours = {file.name for file in draft.iterdir()}
        if strange := sorted(file.name for file in path.iterdir() if file.name not in ours):
            raise UserError(f"{path} holds {strange[0]!r}, which is not part of a model: name another place.")
    if path.exists():
        path.rename(old)  # a folder cannot be renamed over another; the gap between the two renames is microseconds
    try:
        draft.rename(path)
    except OSError:
        if old.exists():
            old.rename(path)
        raise
