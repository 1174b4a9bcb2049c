"""What every engine offers: a photograph in, detections in its own pixels out."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import NamedTuple

import cv2
import numpy as np
import numpy.typing as npt

from leandet.card import Card
from leandet.detections import Detections, FloatArray, IntArray
from leandet.errors import UserError
from leandet.machine import usable_cores
from leandet.preprocess import Image, Placement, Size, letterbox

MAX_THREADS = 1024


class RawOutput(NamedTuple):
    """What the network answers for a batch of B images, at most K objects each.

    Attributes:
        boxes: float32 (B, K, 4), xyxy in letterboxed pixels.
        scores: float32 (B, K), in [0, 1], best first.
        labels: int64 (B, K).
    """

    boxes: FloatArray
    scores: FloatArray
    labels: IntArray


def prepared(images: Sequence[Image], size: Size) -> tuple[npt.NDArray[np.uint8], list[Placement]]:
    """See `Runtime.prepare`; for a network's input of a size."""
    inputs = np.empty((len(images), 3, size.height, size.width), np.uint8)
    placements = []
    for index, image in enumerate(images):
        _check_image(image)
        boxed, where = letterbox(image, size)
        cv2.split(boxed, list(inputs[index]))  # straight into the batch: six times faster than a transposed copy
        placements.append(where)
    return inputs, placements


class Runtime(ABC):
    """A detector opened by one engine.

    An engine writes only `run_network`; the way in and out of pixels is the same for all. Every answer holds the K
    objects that the network gives, low scores included: `Detections.above(score)` drops those under a threshold.

    Attributes:
        card: what the file says of itself.
        name: the engine, such as "onnxruntime".
        version: the engine's version.
        threads: threads that one call may use.
        device: where it runs, such as "cpu".
    """

    def __init__(self, *, card: Card, name: str, version: str, threads: int, device: str) -> None:
        self.card = card
        self.name = name
        self.version = version
        self.threads = threads
        self.device = device

    @property
    def precision(self) -> str:
        """The number format of the weights, as the card's provenance states it; "float32" where it does not."""
        return self.card.provenance.get("precision", "float32")

    def __call__(self, image: Image) -> Detections:
        """The objects in one photograph.

        Args:
            image: uint8 (H, W, 3) RGB of any size.

        Returns:
            Boxes xyxy in the photograph's own pixels, best first.

        Raises:
            UserError: if the image has another shape or type, or the engine cannot run the model.
        """
        return self.batch([image])[0]

    def batch(self, images: Sequence[Image]) -> list[Detections]:
        """The objects in each of several photographs, in one call of the network.

        Args:
            images: each uint8 (H, W, 3) RGB; their sizes may differ.

        Returns:
            One `Detections` for each photograph, in its own pixels, best first.

        Raises:
            UserError: if an image has another shape or type, or the engine cannot run the model.
        """
        if not images:
            return []
        inputs, placements = self.prepare(images)
        return self.finish(self.run_network(inputs), placements)

    def prepare(self, images: Sequence[Image]) -> tuple[npt.NDArray[np.uint8], list[Placement]]:
        """The first stage: letterbox and stack.

        Args:
            images: at least one, each uint8 (H, W, 3) RGB.

        Returns:
            uint8 (B, 3, H, W) for `run_network`, and where each photograph lies in it.

        Raises:
            UserError: if an image has another shape or type.
        """
        return prepared(images, self.card.spec.size)

    @abstractmethod
    def run_network(self, inputs: npt.NDArray[np.uint8]) -> RawOutput:
        """The second stage: the network alone, on uint8 (B, 3, H, W) RGB of the card's size.

        Raises:
            UserError: if the engine cannot run the model.
        """

    def finish(self, raw: RawOutput, placements: Sequence[Placement]) -> list[Detections]:
        """The last stage: boxes back to each photograph's own pixels."""
        return [
            Detections(where.undo(boxes), scores, labels)
            for where, boxes, scores, labels in zip(placements, *raw, strict=True)
        ]


def check_threads(threads: int | None) -> int:
    """The threads for one call: as asked, or all cores that this process may use.

    Raises:
        UserError: unless there are 1 to 1024.
    """
    if threads is None:
        threads = usable_cores()
    if not 1 <= threads <= MAX_THREADS:
        raise UserError(f"threads must be from 1 to {MAX_THREADS}, not {threads}.")
    return threads


def _check_image(image: Image) -> None:
    if not isinstance(image, np.ndarray) or image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
        found = f"{image.dtype} {image.shape}" if isinstance(image, np.ndarray) else type(image).__name__
        raise UserError(f"an image must be a uint8 array (height, width, 3) in RGB order, not {found}.")
    if 0 in image.shape:
        raise UserError(f"an image must have at least one pixel, but this one has the shape {image.shape}.")
