"""The report that a person looks at: one HTML file that needs nothing else, neither network nor script."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

import cv2
import jinja2
import numpy as np

from leandet import atomic
from leandet.preprocess import Image
from leandet.report.view import CurvePoint, look

__all__ = ["CurvePoint", "Picture", "write_report"]

_MOST_BYTES = 3_600_000  # for all pictures together, as text: the page stays below 5 MB
_FORMS = ((640, 86), (480, 82), (360, 78), (256, 72))  # longer side in pixels and JPEG quality, the first that fits


@dataclass(frozen=True, slots=True, eq=False)
class Picture:
    """A photograph twice, with its labels and with the detector's answers drawn on.

    Attributes:
        title: shown beneath.
        labels: uint8 (H, W, 3) RGB.
        predictions: uint8 (H, W, 3) RGB.
    """

    title: str
    labels: Image
    predictions: Image


def write_report(
    results: Mapping[str, object], curves: Sequence[CurvePoint], pictures: Sequence[Picture], out: Path
) -> Path:
    """Write the report as one self-contained file below 5 MB.

    Args:
        results: the content of `results.json`; whatever it lacks is shown as a dash or left out.
        curves: what training measured, one for each epoch; may be empty.
        pictures: a dozen or so; shrunk where they would be too many bytes, and left out from the end at last.
        out: the file; for a folder that exists, `report.html` in it. Replaced whole, or not at all.

    Returns:
        The file written.

    Raises:
        UserError: if it cannot be written there.
    """
    out = out / "report.html" if out.is_dir() else out
    shown = _encode_all(pictures)
    # Always escaped: class names, paths and machine names come from outside.
    environment = jinja2.Environment(
        autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=jinja2.StrictUndefined
    )
    source = resources.files("leandet.report").joinpath("page.html.j2").read_text(encoding="utf-8")
    page = environment.from_string(source).render(
        view=look(results, curves), pictures=shown, pictures_left_out=len(pictures) - len(shown)
    )
    atomic.write_text(out, page)
    return out


def _encode_all(pictures: Sequence[Picture]) -> list[tuple[str, str, str]]:
    """(title, labels, predictions), the pictures as data: URIs of at most `_MOST_BYTES` together."""
    done: list[tuple[str, str, str]] = []
    for side, quality in _FORMS:
        done = [(p.title, _encode(p.labels, side, quality), _encode(p.predictions, side, quality)) for p in pictures]
        if sum(len(a) + len(b) for _, a, b in done) <= _MOST_BYTES:
            return done
    while sum(len(a) + len(b) for _, a, b in done) > _MOST_BYTES:
        done.pop()
    return done


def _encode(image: Image, side: int, quality: int) -> str:
    """A JPEG with a longer side of at most `side` pixels, as a data: URI."""
    height, width = image.shape[:2]
    ratio = side / max(height, width)
    bgr = np.ascontiguousarray(image[..., ::-1])
    if ratio < 1:
        size = (max(1, round(width * ratio)), max(1, round(height * ratio)))
        bgr = np.asarray(cv2.resize(bgr, size, interpolation=cv2.INTER_AREA), np.uint8)
    done, data = cv2.imencode(".jpg", bgr, [cv2.IMWRITE_JPEG_QUALITY, quality])
    if not done:
        raise RuntimeError("OpenCV could not encode a picture of the report")
    return "data:image/jpeg;base64," + base64.b64encode(data.tobytes()).decode("ascii")
