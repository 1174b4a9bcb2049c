"""What long work was asked for, kept in its folder: it can be resumed only as what it was begun as."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from leandet.errors import UserError


def check_request(path: Path, wanted: Mapping[str, Any], work: str, *, resume: bool, made: bool) -> None:
    """Refuse a folder that holds other work, or work that was not meant to be resumed.

    Args:
        path: where the request of the folder's work is kept, a JSON object.
        wanted: the request now.
        work: what is made, for messages: `build`.
        resume: whether to go on with what is there.
        made: whether anything worth keeping is there; a folder where nothing is may be begun anew.

    Raises:
        UserError: saying which it is, and what to do.
    """
    folder = path.parent
    if path.is_file() and (resume or made):
        if not resume:
            raise UserError(f"{folder} already holds a {work}: add --resume to go on with it, or choose another --out.")
        try:
            found = json.loads(path.read_text(encoding="utf-8"))
        except (ValueError, OSError) as error:
            raise UserError(f"{path} is damaged ({error}): delete {folder} and {work} again.") from error
        if found != wanted:
            name = next((k for k in wanted if not isinstance(found, dict) or found.get(k) != wanted[k]), "its version")
            raise UserError(
                f"{folder} was begun with another {name}: repeat its options with --resume, or name another --out."
            )
    elif resume:
        raise UserError(f"{folder} holds no {work} to resume: leave out --resume, or name its folder with --out.")
