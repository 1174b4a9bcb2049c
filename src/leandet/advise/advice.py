"""One piece of advice: what to change, and what that was measured to gain."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Any

from leandet.cost.latency import Milliseconds


class Guideline(StrEnum):
    """Why a change may help; the value is its word in tables."""

    EQUAL_WIDTHS = "G1 equal widths"
    FEW_GROUPS = "G2 few groups"
    FEW_FRAGMENTS = "G3 few fragments"
    FEW_ELEMENTWISE = "G4 few element-wise operations"
    ALIGNMENT = "alignment"


@dataclass(frozen=True, slots=True)
class Advice:
    """A change and its measured gain.

    Attributes:
        guideline: why.
        module: where, the first module that changes.
        change: what to do and where, in words.
        before_ms, after_ms: the layers that change, measured side by side in the runtime.
        network_ms: the whole network before, as predicted from its measured pieces.
        multiply_adds: of the whole network, before and after.
        widths: new channels of each group that changes, for `Spec.kept`.
        backbone: another backbone to build instead, None where it stays.
    """

    guideline: Guideline
    module: str
    change: str
    before_ms: Milliseconds
    after_ms: Milliseconds
    network_ms: Milliseconds
    multiply_adds: tuple[int, int]
    widths: Mapping[str, int] = field(default_factory=dict)
    backbone: str | None = None

    @property
    def gain_ms(self) -> Milliseconds:
        """What a call gains."""
        return self.before_ms - self.after_ms

    @property
    def gain(self) -> float:
        """The same as a share of the whole network's time."""
        return self.gain_ms / self.network_ms

    @property
    def can_be_applied(self) -> bool:
        """Whether a spec can say it; else the network's code has to change."""
        return bool(self.widths) or self.backbone is not None

    def named_from(self, start: str) -> Advice:
        """The same with that start taken from every module's name."""
        widths = {name.removeprefix(start): width for name, width in self.widths.items()}
        change = self.change.replace(start, "")
        return replace(self, module=self.module.removeprefix(start), change=change, widths=widths)

    @property
    def text(self) -> str:
        """The whole advice as one sentence."""
        before, after = self.multiply_adds
        return (
            f"{self.guideline}: {self.change}: {self.before_ms:.3f} ms become {self.after_ms:.3f} ms, "
            f"{self.gain:.1%} of the network; multiply-adds {before / 1e6:.1f} M -> {after / 1e6:.1f} M."
        )

    def to_json(self) -> dict[str, Any]:
        """A plain object; times in ms, `gain` as a share of the network's time."""
        return {
            "guideline": str(self.guideline),
            "module": self.module,
            "change": self.change,
            "before_ms": round(self.before_ms, 5),
            "after_ms": round(self.after_ms, 5),
            "network_ms": round(self.network_ms, 5),
            "gain_ms": round(self.gain_ms, 5),
            "gain": round(self.gain, 5),
            "multiply_adds": list(self.multiply_adds),
            "widths": dict(self.widths),
            "backbone": self.backbone,
            "can_be_applied": self.can_be_applied,
            "text": self.text,
        }
