"""PyTorch itself: the reference that every other engine is compared with."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch

from leandet.card import Card
from leandet.detector.detector import Detector
from leandet.runtime.runtime import RawOutput, Runtime, check_threads


class TorchRuntime(Runtime):
    """A detector run by PyTorch on the CPU, channels last; `threads` holds for the whole process.

    Args:
        detector: in evaluation mode; laid out channels last, its values are left as they are.
        card: of it.
        threads: threads for one call; None for all cores that this process may use.
    """

    def __init__(self, detector: Detector, card: Card, threads: int | None = None) -> None:
        self._detector = detector.to(memory_format=torch.channels_last)
        threads = check_threads(threads)
        super().__init__(card=card, name="torch", version=str(torch.__version__), threads=threads, device="cpu")

    def run_network(self, inputs: npt.NDArray[np.uint8]) -> RawOutput:
        """The network alone: see `Runtime.run_network`."""
        if torch.get_num_threads() != self.threads:
            torch.set_num_threads(self.threads)
        with torch.inference_mode():
            images = torch.from_numpy(inputs).contiguous(memory_format=torch.channels_last)
            boxes, scores, labels = self._detector.detect(images, self.card.spec.detections)
        return RawOutput(boxes.numpy(), scores.numpy(), labels.numpy())
