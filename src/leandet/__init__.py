"""leandet: labelled images and a latency budget in, an NMS-free object detector out.

The public door. Names load on first use, so that running a detector never imports torch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from leandet.detections import Detections
    from leandet.detector.detector import Detector
    from leandet.detector.files import load
    from leandet.errors import UserError
    from leandet.pipeline import Options, build
    from leandet.runtime import open_runtime

__all__ = ["Detections", "Detector", "Options", "UserError", "build", "load", "open_runtime"]

_HOMES = {
    "Detections": "leandet.detections",
    "Detector": "leandet.detector.detector",
    "Options": "leandet.pipeline",
    "UserError": "leandet.errors",
    "build": "leandet.pipeline",
    "load": "leandet.detector.files",
    "open_runtime": "leandet.runtime",
}


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module 'leandet' has no attribute {name!r}")
    from importlib import import_module

    from leandet.errors import missing_extra

    try:
        return getattr(import_module(_HOMES[name]), name)
    except ModuleNotFoundError as error:
        if (sentence := missing_extra(error)) is None:
            raise
        raise ImportError(f"leandet.{name}: {sentence}") from error


def __dir__() -> list[str]:
    return sorted(__all__)
