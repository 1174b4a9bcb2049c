"""`leandet nets`: the backbones and what they cost."""

from __future__ import annotations

import json
from typing import Annotated, Any

import typer

from leandet.errors import UserError

TABLE_WIDTH = 132  # columns that the table needs; a narrower terminal wraps its lines
SMALLEST, LARGEST = 64, 4096  # AlexNet's three poolings leave nothing below 63 px


def nets_command(
    size: Annotated[int, typer.Option(help="Side of the square input in pixels, 64 to 4096.")] = 224,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON list instead of a table.")] = False,
) -> None:
    """List the backbones: parameters, multiply-adds, memory access, features and source, as 1000-class networks."""
    if not SMALLEST <= size <= LARGEST:
        raise UserError(f"--size must be from {SMALLEST} to {LARGEST} px, not {size}.")
    rows = describe(size)
    if as_json:
        typer.echo(json.dumps(rows))
    else:
        _print_table(rows, size)


def describe(size: int) -> list[dict[str, Any]]:
    """One object for each network, counted on one image of `size` x `size` pixels.

    Its keys: name, parameters, multiply_adds, memory_access_bytes (float32), activations, taps (channels and stride of
    each feature map), dropped_parameters (what a detector leaves out), source.
    """
    import torch

    from leandet import nets
    from leandet.cost.count import count

    rows = []
    for name, entry in nets.TABLE.items():
        network = nets.create(name)
        cost = count(network, torch.zeros(1, 3, size, size))
        features = nets.Trunk(network)
        rows.append(
            {
                "name": name,
                "parameters": cost.parameters,
                "multiply_adds": cost.multiply_adds,
                "memory_access_bytes": cost.memory_access_bytes,
                "activations": cost.activations,
                "taps": [{"channels": tap.channels, "stride": tap.stride} for tap in features.taps],
                "dropped_parameters": features.dropped_parameters,
                "source": entry.source,
            }
        )
    return rows


def _print_table(rows: list[dict[str, Any]], size: int) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(title=f"Backbones at {size}x{size} px, float32, 1000 classes", box=None)
    table.add_column("name", no_wrap=True)
    for header in ("parameters\nM", "detector\ndrops M", "multiply-\nadds M", "memory\naccess MB"):
        table.add_column(header, justify="right", no_wrap=True)
    table.add_column("channels at\nstride 8, 16, 32", no_wrap=True)
    table.add_column("source", no_wrap=True)
    for row in rows:
        table.add_row(
            row["name"],
            f"{row['parameters'] / 1e6:.2f}",
            f"{row['dropped_parameters'] / 1e6:.2f}",
            f"{row['multiply_adds'] / 1e6:.1f}",
            f"{row['memory_access_bytes'] / 1e6:.1f}",
            ", ".join(str(tap["channels"]) for tap in row["taps"]),
            row["source"],
        )
    console = Console()
    console.width = max(console.width, TABLE_WIDTH)
    console.print(table)
