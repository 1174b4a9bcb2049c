"""What a model file says of itself: JSON inside the safetensors header or the ONNX metadata. Free of torch."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from leandet.detector.spec import Spec
from leandet.errors import UserError

CARD_KEY = "leandet"  # the metadata key that holds the card, in every file format
CARD_VERSION = 1
MAX_CARD_BYTES = 1 << 20
MAX_CLASSES = 10_000
JUDGED = ("ap", "ap50", "ap75", "ap_with_nms", "duplicates_per_100")  # the accuracies that a card keeps
DEFAULT_THRESHOLD = 0.3  # score from which on a detection is shown where the model does not say


@dataclass(frozen=True, slots=True)
class Card:
    """A model's description.

    Attributes:
        classes: class names; a label is an index into them.
        spec: the architecture; `spec.classes == len(classes)`.
        metrics: figures measured when the file was made, with their unit in the name (`ap`, `p50_ms`).
        provenance: how it came to be (leandet's version, data, seed, epochs, weights).
    """

    classes: tuple[str, ...]
    spec: Spec
    metrics: dict[str, float] = field(default_factory=dict)
    provenance: dict[str, str] = field(default_factory=dict)

    @property
    def threshold(self) -> float:
        """The score in [0, 1] from which on to show detections: where F1 is best on the validation images."""
        return self.metrics.get("threshold", DEFAULT_THRESHOLD)

    def judged(self, figures: Mapping[str, Any], split: str) -> Card:
        """The same with its accuracy on a split (fractions; `Scores.to_json` or what holds its names)."""
        metrics = {**self.metrics, **{name: float(figures[name]) for name in JUDGED}}
        return replace(self, metrics=metrics, provenance={**self.provenance, "judged": split})

    def dump(self) -> str:
        """One line of JSON."""
        return json.dumps(
            {
                "version": CARD_VERSION,
                "classes": list(self.classes),
                "spec": self.spec.to_json(),
                "metrics": self.metrics,
                "provenance": self.provenance,
            },
            ensure_ascii=False,
        )

    @classmethod
    def parse(cls, text: str | None, where: str) -> Card:
        """Read what `dump` wrote.

        Args:
            text: the JSON, or None where the file has no card.
            where: the file, for messages.

        Raises:
            UserError: if there is no card, or it is damaged or from another version.
        """
        if text is None:
            raise UserError(f"{where} carries no leandet card: it was not written by leandet.")
        if len(text) > MAX_CARD_BYTES:
            raise UserError(f"{where}: its card is larger than {MAX_CARD_BYTES} bytes; refusing to read it.")
        try:
            value: Any = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise UserError(f"{where}: its card is not JSON ({error}); export the model again.") from error
        if not isinstance(value, dict) or value.get("version") != CARD_VERSION:
            found = value.get("version") if isinstance(value, dict) else None
            raise UserError(
                f"{where}: its card has version {found!r}, this leandet reads version {CARD_VERSION}; "
                "use the leandet that wrote it or export the model again."
            )
        return cls._of(value, where)

    @classmethod
    def _of(cls, value: dict[str, Any], where: str) -> Card:
        try:
            classes = tuple(str(name) for name in value["classes"])
            metrics = {str(k): float(v) for k, v in value["metrics"].items()}
            provenance = {str(k): str(v) for k, v in value["provenance"].items()}
            spec = Spec.from_json(value["spec"])
        except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
            raise UserError(f"{where}: its card is damaged ({error!r}); export the model again.") from error
        except UserError as error:
            raise UserError(f"{where}: {error}") from error
        if spec.classes != len(classes) or len(classes) > MAX_CLASSES:
            raise UserError(f"{where}: its card names {len(classes)} classes but its spec has {spec.classes}.")
        return cls(classes, spec, metrics, provenance)
