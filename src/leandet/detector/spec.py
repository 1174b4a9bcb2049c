"""What is built, apart from its weights: enough to make the same network again. Free of torch."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from typing import Any

from leandet.errors import UserError
from leandet.preprocess import Size

STRIDE = 32  # the deepest feature: an input's sides are multiples of it
MAX_SIDE = 4096
TOP_K = 100  # COCO's metric counts 100 detections an image


@dataclass(frozen=True, slots=True)
class Spec:
    """A detector's architecture.

    Attributes:
        backbone: a name of `leandet.nets`.
        classes: number of classes, at least 1.
        size: the network's input, height and width in pixels, multiples of 32.
        width: channels of the neck and head, at least 8.
        levels: strides of the feature maps that predict, a subset of 8, 16, 32.
        kept: channels of each group that is not as wide as its architecture has it, pruned or widened.
    """

    backbone: str
    classes: int
    size: Size
    width: int = 64
    levels: tuple[int, ...] = (8, 16, 32)
    kept: dict[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.classes < 1:
            raise UserError(f"classes must be at least 1, not {self.classes}.")
        check_size(self.size)
        if self.width < 8:
            raise UserError(f"width must be at least 8 channels, not {self.width}.")
        if not self.levels or not set(self.levels) <= {8, 16, 32}:
            raise UserError(f"levels must be some of 8, 16, 32, not {list(self.levels)}.")

    def to_json(self) -> dict[str, Any]:
        """A plain object, read back by `from_json`."""
        return {
            "backbone": self.backbone,
            "classes": self.classes,
            "size": [self.size.height, self.size.width],
            "width": self.width,
            "levels": list(self.levels),
            "kept": dict(self.kept),
        }

    @classmethod
    def from_json(cls, value: object) -> Spec:
        """Read what `to_json` wrote.

        Raises:
            UserError: if a field is missing, unknown or of the wrong type.
        """
        if not isinstance(value, dict):
            raise UserError("the card's spec is not an object: the file was not written by leandet.")
        known = {f.name for f in fields(cls)}
        if strange := sorted(set(value) - known):
            raise UserError(f"the card's spec has the unknown field {strange[0]!r}: it needs another leandet version.")
        try:
            height, width = value["size"]
            return cls(
                backbone=str(value["backbone"]),
                classes=int(value["classes"]),
                size=Size(int(height), int(width)),
                width=int(value["width"]),
                levels=tuple(int(s) for s in value["levels"]),
                kept={str(k): int(v) for k, v in value["kept"].items()},
            )
        except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
            raise UserError(f"the card's spec is damaged ({error!r}): export the model again.") from error


def check_size(size: Size) -> None:
    """Refuse an input size that no detector can have.

    Raises:
        UserError: unless both sides are multiples of 32 from 32 to 4096 pixels.
    """
    for side in (size.height, size.width):
        if side % STRIDE or not STRIDE <= side <= MAX_SIDE:
            near = min(max(STRIDE, round(side / STRIDE) * STRIDE), MAX_SIDE)
            raise UserError(
                f"size must be a multiple of {STRIDE} from {STRIDE} to {MAX_SIDE} px, not {side}: try {near}."
            )
