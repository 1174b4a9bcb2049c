"""Detect in many photographs: a drawn picture for each and one JSON file for all."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

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


@dataclass(frozen=True, slots=True)
class Skipped:
    """A photograph that could not be read, and why."""

    image: Path
    reason: str


@dataclass(slots=True)
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
    images: int = 0
    detections: int = 0
    skipped: list[Skipped] = field(default_factory=list)
    seconds: float = 0.0

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
    if not 0 <= threshold <= 1:
        raise UserError(f"threshold must be from 0 to 1, not {threshold}.")
    if out.exists() and not out.is_dir():
        raise UserError(f"{out} is a file: name a folder to save the results in.")
    images = _outside(images, out)
    console = console or Console(stderr=True)
    start = time.perf_counter()
    summary = DetectSummary(out, threshold)
    records: list[dict[str, object]] = []
    try:
        with Progress(console=console, transient=True) as progress:
            for path, name in progress.track(_named(images), description="detecting"):
                try:
                    image = load_image(path)
                except UserError as error:
                    summary.skipped.append(Skipped(path, str(error)))
                    progress.console.print(f"skipped: {error}", markup=False, highlight=False, soft_wrap=True)
                    continue
                found = model(image).above(threshold)
                records.append(_record(path, name, image, found, classes))
                write_bytes(out / name, _picture(image, found, classes))
                summary.images += 1
                summary.detections += len(found)
    finally:  # after Ctrl-C too: the pictures that are finished keep their figures
        del records[summary.images :]  # a record whose picture was not written
        if records:
            write_bytes(out / RESULTS_NAME, json.dumps(records, indent=1).encode("ascii") + b"\n")
    summary.seconds = time.perf_counter() - start
    if not summary.images:
        raise UserError(f"none of the {len(images)} images could be read; the first: {summary.skipped[0].reason}")
    return summary


def _outside(images: Sequence[Path], out: Path) -> list[Path]:
    """The images that are not in the folder written to, so that no original is overwritten and no drawing drawn on."""
    if not images:
        raise UserError("no images were given: name image files, folders or patterns such as 'photos/*.jpg'.")
    folder = out.resolve()
    kept = [path for path in images if not path.resolve().is_relative_to(folder)]
    if not kept:
        raise UserError(f"all the images lie inside {out}, where the results go: save them in another folder.")
    return kept


def _named(images: Sequence[Path]) -> list[tuple[Path, str]]:
    """Each image with the file name of its picture: `a.jpg`, then `a_2.jpg` for the next image called a."""
    used: set[str] = set()
    named = []
    for path in images:
        name, count = f"{path.stem}.jpg", 1
        while name.casefold() in used:  # some file systems do not tell upper case from lower
            count += 1
            name = f"{path.stem}_{count}.jpg"
        used.add(name.casefold())
        named.append((path, name))
    return named


def _record(path: Path, name: str, image: Image, found: Detections, classes: Sequence[str]) -> dict[str, object]:
    height, width = image.shape[:2]
    return {
        "image": str(path),
        "drawn": name,
        "width": width,
        "height": height,
        "detections": found.to_json(classes),
    }


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
