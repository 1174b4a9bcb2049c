"""Which photographs a person means: files, folders and patterns."""

from __future__ import annotations

import glob
from collections.abc import Iterable, Sequence
from pathlib import Path

from leandet.errors import UserError

IMAGE_SUFFIXES = frozenset({".bmp", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp"})


def find_images(sources: Sequence[str]) -> list[Path]:
    """The photographs that the sources name.

    Args:
        sources: each an image file, a folder (searched with its subfolders, hidden files left out) or a glob pattern
            (`**` crosses folders). A file named outright is taken whatever its suffix.

    Returns:
        Sorted paths; a file that two sources name appears once.

    Raises:
        UserError: if there is no source, or one of them names no image.
    """
    if not sources:
        raise UserError("no images were given: name image files, folders or patterns such as 'photos/*.jpg'.")
    found: dict[Path, Path] = {}
    for source in sources:
        for path in _expand(source):
            found.setdefault(path.resolve(), path)
    return sorted(found.values())


def _expand(source: str) -> list[Path]:
    try:
        path = Path(source).expanduser()
        if path.is_file():
            return [path]
        if path.is_dir():
            return _only_images(path.rglob("*"), path) or _refuse(f"the folder {source} holds no images")
        if glob.has_magic(source):
            matches = (Path(name) for name in glob.iglob(str(path), recursive=True))  # noqa: PTH207 (Path.glob refuses absolute patterns)
            return _only_images(matches, None) or _refuse(f"the pattern {source} matches no images")
    except (OSError, ValueError, RuntimeError) as error:  # an unreadable folder, a zero byte, an unknown ~user
        raise UserError(f"the source {source!r} cannot be read ({error}): check its path.") from error
    if "://" in source:
        raise UserError(f"{source} is no file or folder: copy or mount what is there, and name the folder.")
    return _refuse(f"{source}: there is no such file or folder")


def _only_images(paths: Iterable[Path], folder: Path | None) -> list[Path]:
    return [
        path
        for path in paths
        if path.suffix.lower() in IMAGE_SUFFIXES
        and path.is_file()
        and (folder is None or not any(part.startswith(".") for part in path.relative_to(folder).parts))
    ]


def _refuse(what: str) -> list[Path]:
    suffixes = " ".join(sorted(IMAGE_SUFFIXES))
    raise UserError(f"{what}: name image files ({suffixes}), folders or patterns such as 'photos/*.jpg'.")
