"""What every detector of leandet returns, whatever runs it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from leandet.errors import UserError

FloatArray = npt.NDArray[np.float32]
IntArray = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True, eq=False)
class Detections:
    """The objects found in one image, best first.

    Attributes:
        boxes: float32 (K, 4), xyxy in pixels of the original image.
        scores: float32 (K,), in [0, 1].
        labels: int64 (K,), index into the model's class names.
    """

    boxes: FloatArray
    scores: FloatArray
    labels: IntArray

    def __post_init__(self) -> None:
        count = len(self.scores)
        if self.boxes.shape != (count, 4) or self.scores.shape != (count,) or self.labels.shape != (count,):
            raise ValueError(
                f"boxes (K, 4), scores (K,) and labels (K,) must agree: "
                f"got {self.boxes.shape}, {self.scores.shape}, {self.labels.shape}"
            )

    @classmethod
    def empty(cls) -> Detections:
        """No objects: K = 0."""
        return cls(np.zeros((0, 4), np.float32), np.zeros(0, np.float32), np.zeros(0, np.int64))

    def __len__(self) -> int:
        return len(self.scores)

    def __getitem__(self, index: int | slice | npt.NDArray[np.bool_] | npt.NDArray[np.integer]) -> Detections:
        """The chosen objects, as for a numpy array; an integer gives a Detections of length 1."""
        if isinstance(index, int | np.integer):
            index = np.array([index])
        return Detections(self.boxes[index], self.scores[index], self.labels[index])

    def above(self, score: float) -> Detections:
        """Only the objects scored at least `score` (0 to 1)."""
        return self[self.scores >= score]

    def to_json(self, classes: Sequence[str]) -> list[dict[str, object]]:
        """One plain object for each detection: `{box: [x1, y1, x2, y2], score, label, name}`, boxes in pixels.

        Raises:
            UserError: if a label is outside `classes`.
        """
        strange = self.labels[(self.labels < 0) | (self.labels >= len(classes))]
        if len(strange):
            raise UserError(
                f"the model answered label {strange[0]} but its card names {len(classes)} classes: export it again."
            )
        return [
            {
                "box": [round(float(v), 2) for v in box],
                "score": round(float(score), 4),
                "label": int(label),
                "name": classes[int(label)],
            }
            for box, score, label in zip(self.boxes, self.scores, self.labels, strict=True)
        ]
