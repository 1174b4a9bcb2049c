"""What is built, apart from its weights: enough to make the same network again. Free of torch."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from enum import StrEnum
from typing import Any

from leandet.errors import UserError
from leandet.preprocess import Size

STRIDE = 32  # the deepest feature: an input's sides are multiples of it
MAX_SIDE = 4096
MOST_CHANNELS = 4096  # of neck and head: a file may not ask for any memory it likes
TOP_K = 100  # COCO's metric counts 100 detections an image
MOST_DETECTIONS = 10_000
STEEPEST = 8.0  # fall: beside a score of .95, one of .9 becomes .02
LEVELS = (8, 16, 32)  # strides of the maps that predict, where nothing else is asked for


class HeadStyle(StrEnum):
    """What stands on the backbone. The value is what a card says.

    LEAN is leandet's own. The others are OneNet's (arXiv 2012.05780), to compare with: one map at stride 4 after
    CenterNet, or a pyramid with deep towers after FCOS.
    """

    LEAN = "lean"
    ONENET_CENTRE = "onenet_centre"
    ONENET_FCOS = "onenet_fcos"

    @property
    def strides(self) -> tuple[int, ...]:
        """The strides at which it predicts, ascending; the lean one can leave some out."""
        return _STRIDES[self]

    def check_levels(self, levels: tuple[int, ...]) -> None:
        """Refuse strides at which it does not predict.

        Raises:
            UserError: unless they are some of the lean style's, ascending, or exactly another's.
        """
        lean = self is HeadStyle.LEAN
        some = bool(levels) and list(levels) == sorted(set(levels) & set(self.strides))
        fits = some if lean else levels == self.strides
        if not fits:
            named = ("some of " if lean else "") + ", ".join(map(str, self.strides)) + (", ascending" if lean else "")
            raise UserError(f"levels must be {named}, not {list(levels)}.")

    @property
    def chooses(self) -> bool:
        """Whether the choice of the location that answers is apart from the classes, as `Recipe.auxiliary` needs."""
        return self is HeadStyle.LEAN


_STRIDES = {
    HeadStyle.LEAN: (8, 16, 32),
    HeadStyle.ONENET_CENTRE: (4,),
    HeadStyle.ONENET_FCOS: (8, 16, 32, 64, 128),
}


@dataclass(frozen=True, slots=True)
class Spec:
    """A detector's architecture.

    Attributes:
        backbone: a name of `leandet.nets`.
        classes: number of classes, at least 1.
        size: the network's input, height and width in pixels, multiples of 32.
        width: channels of the neck and head, from 8 to 4,096.
        levels: strides of the feature maps that predict, `head.strides` or, for the lean head, some of them.
        head: what stands on the backbone.
        detections: the most that are returned for one image, from 1 to 10,000; more for crowds.
        fall: how steeply a score falls beside a surer one (`Maps.peaks`), from 0, not at all, to 8. A
            training ends by choosing it (`leandet.learn.peaks`).
        classwise: whether only scores of one class make each other fall; chosen with it.
        kept: channels of each group that is not as wide as its architecture has it, pruned or widened.
    """

    backbone: str
    classes: int
    size: Size
    width: int = 64
    levels: tuple[int, ...] = LEVELS
    kept: dict[str, int] = field(default_factory=dict)
    head: HeadStyle = HeadStyle.LEAN
    detections: int = TOP_K
    fall: float = STEEPEST
    classwise: bool = True

    def __post_init__(self) -> None:
        if self.classes < 1:
            raise UserError(f"classes must be at least 1, not {self.classes}.")
        check_size(self.size)
        check_width(self.width)
        self.head.check_levels(self.levels)
        if not 1 <= self.detections <= MOST_DETECTIONS:
            raise UserError(f"detections must be from 1 to {MOST_DETECTIONS}, not {self.detections}.")
        if not 0 <= self.fall <= STEEPEST:
            raise UserError(f"fall must be from 0 to {STEEPEST:g}, not {self.fall:g}.")

    @property
    def counted(self) -> int:
        """Detections of an image that accuracy counts: as many as are returned, and at least COCO's 100."""
        return max(TOP_K, self.detections)

    def to_json(self) -> dict[str, Any]:
        """A plain object, read back by `from_json`."""
        return {
            "backbone": self.backbone,
            "classes": self.classes,
            "size": [self.size.height, self.size.width],
            "width": self.width,
            "levels": list(self.levels),
            "kept": dict(self.kept),
            "head": self.head.value,
            "detections": self.detections,
            "fall": self.fall,
            "classwise": self.classwise,
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
        head = value.get("head", HeadStyle.LEAN.value)  # cards from before the choice do not name it
        if head not in list(HeadStyle):
            raise UserError(f"the card's spec has the unknown head {head!r}: it needs another leandet version.")
        try:
            height, width = value["size"]
            return cls(
                backbone=str(value["backbone"]),
                classes=int(value["classes"]),
                size=Size(int(height), int(width)),
                width=int(value["width"]),
                levels=tuple(int(s) for s in value["levels"]),
                kept={str(k): int(v) for k, v in value["kept"].items()},
                head=HeadStyle(head),
                detections=int(value.get("detections", TOP_K)),
                fall=float(value.get("fall", STEEPEST)),
                classwise=bool(value.get("classwise", True)),
            )
        except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
            raise UserError(f"the card's spec is damaged ({error!r}): export the model again.") from error


def check_width(width: int) -> None:
    """Refuse channels of neck and head that no detector may have.

    Raises:
        UserError: if they are out of range.
    """
    if not 8 <= width <= MOST_CHANNELS:
        raise UserError(f"width must be from 8 to {MOST_CHANNELS} channels, not {width}.")


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
