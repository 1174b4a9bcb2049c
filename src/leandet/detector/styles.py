"""Which neck and head each style of detector has: one row for each."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from torch import Tensor, nn
from torch.nn import functional as F

from leandet.detector.head import Head
from leandet.detector.neck import Neck
from leandet.detector.onenet import CentreHead, CentreNeck, Pyramid, PyramidHead
from leandet.detector.spec import HeadStyle, Spec


@dataclass(frozen=True, slots=True)
class Style:
    """How a detector is put together.

    Attributes:
        neck: makes the neck for the taps' channels: taps (B, C_l, h, w) -> features (B, spec.width, h, w) by level.
        head: makes the head: features by level -> `Maps`.
        reach: `Maps.sides` -> distances in strides, not negative, element by element.
        fine: whether the neck reads the backbone's map at stride 4 too.
    """

    neck: Callable[[Sequence[int], Spec], nn.Module]
    head: Callable[[Spec], nn.Module]
    reach: Callable[[Tensor], Tensor]
    fine: bool = False


STYLES = {
    HeadStyle.LEAN: Style(
        lambda channels, spec: Neck(channels, spec.width, spec.levels),
        lambda spec: Head(spec.width, spec.classes, len(spec.levels)),
        F.softplus,
    ),
    HeadStyle.ONENET_CENTRE: Style(
        lambda channels, spec: CentreNeck(channels, spec.width),
        lambda spec: CentreHead(spec.width, spec.classes, spec.levels[0]),
        F.relu,
        fine=True,
    ),
    HeadStyle.ONENET_FCOS: Style(
        lambda channels, spec: Pyramid(channels, spec.width),
        lambda spec: PyramidHead(spec.width, spec.classes, len(spec.levels)),
        F.relu,
    ),
}
