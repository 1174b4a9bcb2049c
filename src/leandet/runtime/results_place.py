"""Where the results of a video go, so that no film and no recording is lost."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from leandet.errors import UserError

CAMERA, STREAM = "camera", "stream"  # names of recordings
RECORDING = re.compile(rf"({CAMERA}|{STREAM})(_\d+)?")


def files(place: Path) -> tuple[Path, Path]:
    """The drawn film and the lines of JSON of a place."""
    return place.with_name(f"{place.name}.mp4"), place.with_name(f"{place.name}.jsonl")


@contextmanager
def reserved(source: str, out: Path) -> Iterator[Path]:
    """The place of a video's results: a path without their suffixes, kept from others while a recording is made.

    A file's results have its own name. A camera's or stream's recording, which cannot be made again, is numbered where
    there is one, and so is a file of such a name.

    Args:
        source: a video file, a stream's address, or a camera's number.
        out: folder of the results.

    Raises:
        UserError: if the folder cannot be written, or holds a film of the file's name that is no drawing.
    """
    name = CAMERA if source.isdigit() else STREAM
    if Path(source).is_file():
        place = out / Path(source).stem
        if (like := RECORDING.fullmatch(place.name)) is None:
            _refuse_overwriting(Path(source), place)
            yield place
            return
        name = like[1]
    place = _numbered(out, name)
    _, results = files(place)
    try:
        yield place
    finally:
        if results.exists() and not results.stat().st_size:
            results.unlink()


def _refuse_overwriting(film: Path, place: Path) -> None:
    """Refuse to draw a film over itself or another one that is no drawing.

    Raises:
        UserError: where it would be.
    """
    video, results = files(place)
    if video.exists() and (video.samefile(film) or not results.exists()):
        raise UserError(f"{video} would be overwritten by the drawing: save in another folder.")


def _numbered(out: Path, name: str) -> Path:
    """The name, numbered from 2 on where there is a recording of it or one is being made.

    An empty `NAME.jsonl` keeps others away, for a recording takes its name when it ends, hours later perhaps.
    `reserved` removes it where nothing was recorded; a process that is killed leaves it.

    Raises:
        UserError: if the folder cannot be written.
    """
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"the folder {out} cannot be made ({error.strerror}): save in another one.") from error
    for one in itertools.chain([name], (f"{name}_{number}" for number in itertools.count(2))):
        video, results = files(out / one)
        if video.exists():
            continue
        try:
            results.open("x", encoding="utf-8").close()
        except FileExistsError:
            continue
        except OSError as error:
            raise UserError(f"{results} cannot be written: {error.strerror or error}.") from error
        break
    return out / one
