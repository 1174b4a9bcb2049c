"""Detect in many photographs: a drawn picture for each and one JSON file for all."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Generator, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import cv2
from rich.console import Console
from rich.progress import Progress

from leandet.atomic import write_bytes
from leandet.data.draw import draw
from leandet.data.image import load_image
from leandet.detections import Detections
from leandet.errors import UserError
from leandet.preprocess import Image

RESULTS_NAME = "detections.json"
JPEG_QUALITY = 95


class Photograph(NamedTuple):
    """A photograph to detect in, and the file name of its drawn picture."""

    path: Path
    drawn: str


@dataclass(frozen=True, slots=True)
class Skipped:
    """A photograph that could not be read, and why."""

    image: Path
    reason: str


Answer = dict[str, Any] | Skipped  # an entry of `detections.json`, or why there is none
Answers = Generator[tuple[int, Answer], None, None]  # each with its photograph's place


@dataclass(frozen=True, slots=True)
class DetectSummary:
    """What one run of `detect` did.

    Attributes:
        out: the folder that holds the drawn pictures and `detections.json`.
        threshold: scores under it were dropped, 0 to 1.
        images: photographs detected in.
        detections: objects found in all of them.
        skipped: photographs that could not be read.
        seconds: wall time of the whole run, reading and drawing included.
    """

    out: Path
    threshold: float
    images: int
    detections: int
    skipped: list[Skipped]
    seconds: float

    def to_json(self) -> dict[str, object]:
        """A plain object: `{out, results, threshold, images, detections, skipped: [{image, reason}], seconds}`."""
        return {
            "out": str(self.out),
            "results": str(self.out / RESULTS_NAME),
            "threshold": self.threshold,
            "images": self.images,
            "detections": self.detections,
            "skipped": [{"image": str(item.image), "reason": item.reason} for item in self.skipped],
            "seconds": round(self.seconds, 3),
        }


def detect(
    model: Callable[[Image], Detections],
    classes: Sequence[str],
    images: Sequence[Path],
    out: Path,
    threshold: float,
    *,
    console: Console | None = None,
) -> DetectSummary:
    """Detect in each photograph; write its drawn picture and, at the end, one JSON file.

    `detections.json` is a list of `{image, drawn, width, height, detections: [{box, score, label, name}]}`, sizes and
    boxes in pixels of the original photograph. When the run is interrupted it lists the photographs that were finished.

    Args:
        model: from a photograph, uint8 (H, W, 3) RGB, to its detections, such as a `Runtime`.
        classes: the names of the labels.
        images: the photographs; those inside `out` are left out, because they are what an earlier run drew.
        out: the folder to write into, made if missing.
        threshold: drop scores under it, 0 to 1.
        console: where progress and skipped photographs are reported; standard error by default.

    Raises:
        UserError: if `threshold` is out of range, `out` cannot be written, or none of the photographs can be read.
    """

    def answers(photographs: Sequence[Photograph]) -> Answers:
        for place, photograph in enumerate(photographs):
            yield place, answer(model, classes, photograph, out, threshold)

    return gather(answers, images, out, threshold, console=console)


def answer(
    model: Callable[[Image], Detections], classes: Sequence[str], photograph: Photograph, out: Path, threshold: float
) -> Answer:
    """Detect in one photograph and write its drawn picture into `out`.

    Args:
        model: see `detect`.
        classes: the names of the labels.
        photograph: which, and what its picture is called.
        out: the folder to write into, made if missing.
        threshold: drop scores under it, 0 to 1.

    Raises:
        UserError: if the picture cannot be written or the engine cannot run the model.
    """
    try:
        image = load_image(photograph.path)
    except UserError as error:
        return Skipped(photograph.path, str(error))
    found = model(image).above(threshold)
    write_bytes(out / photograph.drawn, _picture(image, found, classes))
    height, width = image.shape[:2]
    return {
        "image": str(photograph.path),
        "drawn": photograph.drawn,
        "width": width,
        "height": height,
        "detections": found.to_json(classes),
    }


def gather(
    answers: Callable[[Sequence[Photograph]], Answers],
    images: Sequence[Path],
    out: Path,
    threshold: float,
    *,
    console: Console | None = None,
) -> DetectSummary:
    """What `detect` does around the detecting itself, wherever that happens.

    Args:
        answers: from the photographs to their answers, in any order; one that comes again is dropped.
        images: see `detect`.
        out: see `detect`.
        threshold: see `detect`.
        console: see `detect`.

    Raises:
        UserError: see `detect`.
        RuntimeError: if a photograph got no answer.
    """
    if not 0 <= threshold <= 1:
        raise UserError(f"threshold must be from 0 to 1, not {threshold}.")
    if out.exists() and not out.is_dir():
        raise UserError(f"{out} is a file: name a folder to save the results in.")
    photographs = _named(_outside(images, out))
    console = console or Console(stderr=True)
    start = time.perf_counter()
    known: list[Answer | None] = [None] * len(photographs)
    try:
        with Progress(console=console, transient=True) as progress, closing(answers(photographs)) as coming:
            for place, found in progress.track(coming, len(known), description="detecting"):
                if known[place] is None and isinstance(found, Skipped):
                    progress.console.print(f"skipped: {found.reason}", markup=False, highlight=False, soft_wrap=True)
                known[place] = known[place] or found
    finally:  # after Ctrl-C too: the pictures that are finished keep their figures
        records = [found for found in known if isinstance(found, dict)]
        if records:
            write_bytes(out / RESULTS_NAME, json.dumps(records, indent=1).encode("ascii") + b"\n")
    if None in known:
        raise RuntimeError(f"{known.count(None)} of {len(known)} photographs got no answer")
    skipped = [found for found in known if isinstance(found, Skipped)]
    if not records:
        raise UserError(f"none of the {len(known)} images could be read; the first: {skipped[0].reason}")
    objects = sum(len(record["detections"]) for record in records)
    return DetectSummary(out, threshold, len(records), objects, skipped, time.perf_counter() - start)


def _outside(images: Sequence[Path], out: Path) -> list[Path]:
    """The images that are not in the folder written to, so that no original is overwritten and no drawing drawn on."""
    if not images:
        raise UserError("no images were given: name image files, folders or patterns such as 'photos/*.jpg'.")
    folder = out.resolve()
    kept = [path for path in images if not path.resolve().is_relative_to(folder)]
    if not kept:
        raise UserError(f"all the images lie inside {out}, where the results go: save them in another folder.")
    return kept


def _named(images: Sequence[Path]) -> list[Photograph]:
    """Each image with the file name of its picture: `a.jpg`, then `a_2.jpg` for the next image called a."""
    used: set[str] = set()
    named = []
    for path in images:
        name, count = f"{path.stem}.jpg", 1
        while name.casefold() in used:  # some file systems do not tell upper case from lower
            count += 1
            name = f"{path.stem}_{count}.jpg"
        used.add(name.casefold())
        named.append(Photograph(path, name))
    return named


def _picture(image: Image, found: Detections, classes: Sequence[str]) -> bytes:
    """The photograph with its detections, as a JPEG file."""
    drawn = draw(image, found.boxes, found.labels, classes, found.scores)
    try:
        _, data = cv2.imencode(".jpg", drawn[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])
    except cv2.error as error:
        raise UserError(
            f"a picture of {image.shape[1]}x{image.shape[0]} px cannot be saved as JPEG: shrink it."
        ) from error
    return data.tobytes()
