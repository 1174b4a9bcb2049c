"""What the drawn pictures show: how many objects, how large, how close."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Scene:
    """How many objects a picture holds, how large they are, and how much they hide each other.

    Attributes:
        fewest, most: objects in a picture; fewer where there is no room.
        smallest, largest: longer side of an object, as a part of the picture's.
        visible: part of an object's area that what is drawn over it must leave.
        whole: whether what is seen of an object must reach as far as the object; otherwise its label is the box of
            the whole object, and the rest has to be guessed.
        beside: share of the objects that are put beside another one.
        reach: range of the distance to it, as a part of the distance at which the two would just touch.
        alike: whether all objects of a picture are of one class.
    """

    fewest: int = 1
    most: int = 4
    smallest: float = 56 / 256
    largest: float = 140 / 256
    visible: float = 0.6
    whole: bool = True
    beside: float = 0.25
    reach: tuple[float, float] = (0.55, 1.0)
    alike: bool = False


SCENE = Scene()  # the embedded data
CROWD = Scene(100, 140, 0.07, 0.12, visible=0.25, whole=False, beside=0.6, reach=(0.15, 0.9), alike=True)
