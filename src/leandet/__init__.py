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

    try:
        return getattr(import_module(_HOMES[name]), name)
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] in {"torch", "torchvision", "lightning", "safetensors"}:
            raise ImportError(f"leandet.{name} needs the training extra: pip install 'leandet[train]'") from error
        raise


def __dir__() -> list[str]:
    return sorted(__all__)
