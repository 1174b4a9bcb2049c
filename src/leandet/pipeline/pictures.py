"""The report's pictures: a dozen judged photographs, with their labels and with what was found."""

from __future__ import annotations

from leandet.data.draw import draw
from leandet.data.image import load_image
from leandet.data.sample import evenly
from leandet.pipeline.stages import Work
from leandet.report import Picture
from leandet.runtime import open_runtime

COUNT = 12


def pictures(work: Work, model: str) -> list[Picture]:
    """Evenly spaced samples of the judged split beside the detections of the file `model`, over its own threshold."""
    runtime = open_runtime(work.path(model), work.options.threads)
    _, samples = work.judged
    classes = work.dataset.classes
    result = []
    for sample in evenly(samples, COUNT):
        image = load_image(sample.image)
        found = runtime(image).above(runtime.card.threshold)
        result.append(
            Picture(
                sample.image.name,
                draw(image, sample.boxes, sample.labels, classes),
                draw(image, found.boxes, found.labels, classes, found.scores),
            )
        )
    return result
