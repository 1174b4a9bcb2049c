"""`leandet verify`: the proof that cutting a detector's channels is exact."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from leandet.cli.arguments import Json, Threads

if TYPE_CHECKING:
    from leandet.compress import Verification


def verify_command(
    model: Annotated[Path, typer.Argument(help="A .safetensors detector.")],
    threads: Threads = None,
    as_json: Json = False,
) -> None:
    """Prove that the detector can be pruned exactly: every channel group, masked and cut, compared in float64."""
    import torch
    from rich.console import Console
    from rich.progress import Progress

    from leandet.compress import verify
    from leandet.detector.files import load_detector

    detector, card = load_detector(model)
    if threads:
        torch.set_num_threads(threads)
    size, generator = card.spec.size, torch.Generator().manual_seed(0)
    picture = torch.randint(0, 256, (1, 3, size.height, size.width), dtype=torch.uint8, generator=generator)
    with Progress(console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task("channel groups", total=None)
        report = verify(detector, picture, tell=lambda done, of: progress.update(task, completed=done, total=of))
    if as_json:
        typer.echo(json.dumps(report.to_json()))
    else:
        _print_report(report)


def _print_report(report: Verification) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(box=None, pad_edge=False)
    table.add_column("channel group", overflow="fold")
    for name in ("channels", "cut to", "relative error", "change"):
        table.add_column(name, justify="right", no_wrap=True)
    for check in report.checks:
        table.add_row(check.name, str(check.channels), str(check.kept), f"{check.error:.1e}", f"{check.change:.1e}")
    Console().print(table)
    for name, reason in report.reasons.items():
        typer.echo(f"skipped {name}: {reason}")
    typer.echo(
        f"{report.exact} of {report.groups} groups exact, {report.skipped} skipped, "
        f"worst relative error {report.worst_relative_error:.1e} (all groups together included)"
    )
