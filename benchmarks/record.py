"""What every benchmark shares: results as JSON with the machine and the command, and pages that quote them."""

from __future__ import annotations

import json
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from leandet.atomic import write_json, write_text
from leandet.errors import UserError
from leandet.machine import describe_machine

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks" / "results"
DOCS = ROOT / "docs"


def command() -> str:
    """This run's command line: paths inside the repository from its root, the ends of those outside."""
    words = [word.replace(f"{ROOT}/", "") for word in sys.argv]
    return shlex.join(["python", *("/".join(Path(w).parts[-2:]) if Path(w).is_absolute() else w for w in words)])


def save(name: str, content: dict[str, Any]) -> Path:
    """Write `benchmarks/results/NAME.json`: the content, the machine with its versions, and the command."""
    RESULTS.mkdir(parents=True, exist_ok=True)
    path = RESULTS / f"{name}.json"
    write_json(path, {**content, "command": command(), "machine": describe_machine()})
    return path


def load(name: str) -> dict[str, Any]:
    """What `save` wrote; empty where there is nothing yet."""
    path = RESULTS / f"{name}.json"
    found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    return found


def table(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table; the first column is text, the others are figures."""
    lines = ["| " + " | ".join(headings) + " |", "|---|" + "---:|" * (len(headings) - 1)]
    return "\n".join(lines + ["| " + " | ".join(row) + " |" for row in rows])


def fill(page: Path, mark: str, text: str) -> None:
    """Replace what stands between `<!-- MARK -->` and `<!-- /MARK -->` in a page.

    Raises:
        UserError: if the page has no such place.
    """
    content = page.read_text(encoding="utf-8")
    begin, end = f"<!-- {mark} -->\n", f"<!-- /{mark} -->"
    before, found, rest = content.partition(begin)
    _, closed, after = rest.partition(end)
    if not (found and closed):
        raise UserError(f"{page} has no place marked <!-- {mark} --> ... <!-- /{mark} -->.")
    write_text(page, f"{before}{begin}{text}\n{end}{after}")
