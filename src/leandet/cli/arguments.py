"""Arguments that several verbs share, and where their progress goes."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from leandet.errors import UserError

Threads = Annotated[
    int | None, typer.Option(min=1, max=1024, help="Threads for one call; all usable cores if left out.")
]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object on standard output.")]
Ray = Annotated[
    str | None,
    typer.Option(
        metavar="ADDRESS",
        help="Work on a Ray cluster: its host:port, auto for the one on this machine, or local to start one.",
    ),
]
Workers = Annotated[
    int | None, typer.Option(min=1, help="Workers on the cluster; as many as it has room for if left out.")
]
WORKERS_WHERE = "--workers is for --ray: say where they shall run, such as --ray local."
Seed = Annotated[int, typer.Option(min=0, max=2**32 - 1, help="The same seed makes the same choice.")]

Teacher = Annotated[
    Path | None, typer.Option(help="A .safetensors detector of the same classes to learn from beside the labels.")
]
Distill = Annotated[
    float,
    typer.Option(help="Weight of a teacher's answers beside the labels, after the cut; 0 for the labels alone."),
]
OtherTeacher = Annotated[
    Path | None, typer.Option(help="A .safetensors detector that teaches in place of MODEL itself.")
]
ScalePenalty = Annotated[
    float,
    typer.Option(min=0, help="Weight of batch-norm scales in the loss, such as 1e-4, for pruning by bn-scale later."),
]


def one_of(option: str, value: str, names: Sequence[str]) -> str:
    """An option's value, if it is one of the names.

    Raises:
        UserError: if it is not.
    """
    if value not in names:
        raise UserError(f"{option} must be one of {', '.join(names)}, not {value!r}.")
    return value


def tell(line: str) -> None:
    """One line of progress, on standard error: standard output belongs to the answer."""
    sys.stderr.write(line + "\n")
    sys.stderr.flush()
