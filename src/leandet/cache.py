"""The person's cache folder: measurements of this machine that need not be made twice."""

from __future__ import annotations

import os
import sys
from pathlib import Path

VARIABLE = "LEANDET_CACHE"  # names another folder


def cache_folder() -> Path:
    """The folder, which may not exist yet: `$LEANDET_CACHE`, else `leandet` where the system keeps caches."""
    if chosen := os.environ.get(VARIABLE):
        return Path(chosen)
    if sys.platform == "win32" and (local := os.environ.get("LOCALAPPDATA")):
        return Path(local) / "leandet" / "cache"
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "leandet"
