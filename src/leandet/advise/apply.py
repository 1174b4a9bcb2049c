"""From a detector's spec and an advice to the spec of the detector that follows it."""

from __future__ import annotations

from dataclasses import replace

from leandet.advise.advice import Advice
from leandet.detector.detector import Detector
from leandet.detector.spec import Spec
from leandet.errors import UserError


def applied(spec: Spec, advice: Advice, *, inside: str) -> Spec:
    """The new spec; it can be built and trained.

    Args:
        spec: of the detector that the advice is about, or of one with the backbone that it is about.
        advice: what to change.
        inside: "" where the advice is about the backbone alone.

    Raises:
        UserError: if a spec cannot say it, or a detector does not have that part (it does without the backbone's end).
    """
    if not advice.can_be_applied:
        raise UserError(f"this advice cannot be applied, the network's code has to change: {advice.change}.")
    if advice.backbone is not None:
        return replace(spec, backbone=advice.backbone, kept={})
    start = "" if inside else "backbone."
    new = replace(spec, kept={**spec.kept, **{f"{start}{name}": width for name, width in advice.widths.items()}})
    try:
        Detector(new)
    except UserError as error:
        raise UserError(f"this advice is about a part that a detector does without: {error}") from error
    return new
