"""`leandet profile`: where a network's time goes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from leandet.cli.arguments import Json, Threads, tell
from leandet.errors import UserError

if TYPE_CHECKING:
    from leandet.cost.profile import Profile

TABLE_WIDTH = 168  # columns that the table needs in a pipe
RUNTIMES = ("onnx", "openvino", "torch")
DEFAULT_SIZE = 224
SMALLEST, LARGEST = 64, 4096


def profile_command(
    model: Annotated[str, typer.Argument(help="A model file (.onnx, .safetensors), or a name from `leandet nets`.")],
    runtime: Annotated[str, typer.Option(help="The runtime to look into: onnx, openvino or torch.")] = "onnx",
    size: Annotated[
        int | None,
        typer.Option(help="Side of a backbone's square input in pixels, 224 if left out; a model file has its own."),
    ] = None,
    seconds: Annotated[float, typer.Option(min=0.1, max=600, help="Time to measure for, in seconds.")] = 4.0,
    html: Annotated[Path | None, typer.Option(help="Write a page too: the roofline, and a bar along the time.")] = None,
    threads: Threads = None,
    as_json: Json = False,
) -> None:
    """Show where a network's time goes: each layer's cost, measured time, and what the machine could do."""
    if runtime not in RUNTIMES:
        raise UserError(f"--runtime must be one of {', '.join(RUNTIMES)}, not {runtime!r}.")
    found = _measure(model, runtime, size, threads, seconds)
    if html is not None:
        from leandet.report.profile_page import write_profile

        tell(f"page: {write_profile(found.to_json(), model, html)}")
    if as_json:
        typer.echo(json.dumps({"model": model, **found.to_json()}))
    else:
        _print(model, found)


def _measure(model: str, runtime: str, size: int | None, threads: int | None, seconds: float) -> Profile:
    import torch

    from leandet import nets
    from leandet.cost.profile import EngineName, example, profile

    torch.manual_seed(0)
    if Path(model).suffix in {".onnx", ".safetensors"}:
        if size is not None:
            raise UserError("--size is for backbones: a model file has its own input size.")
        return _measure_file(Path(model), EngineName(runtime), threads, seconds)
    side = DEFAULT_SIZE if size is None else size
    if not SMALLEST <= side <= LARGEST:
        raise UserError(f"--size must be from {SMALLEST} to {LARGEST} px, not {side}.")
    network: torch.nn.Module = nets.backbone(model) if ":" in model else nets.create(model)
    images = example((side, side), pixels=False)
    return profile(network.eval(), images, EngineName(runtime), threads, seconds=seconds)


def _measure_file(path: Path, engine: Any, threads: int | None, seconds: float) -> Profile:
    import onnx

    from leandet.cost.graph import with_batch
    from leandet.cost.profile import EngineName, example, profile
    from leandet.detector.detector import Detector
    from leandet.detector.files import load_detector
    from leandet.export.graph import Deployed
    from leandet.runtime.onnx import open_onnx

    graph = None
    if path.suffix == ".onnx":
        if engine is EngineName.TORCH:
            raise UserError(f"{path}: PyTorch runs .safetensors files; name that, or another --runtime.")
        card = open_onnx(path).card  # refuses what is not ours
        graph = with_batch(onnx.load(path), 1)
        detector = Detector(card.spec)  # its shapes are what is counted
    else:
        detector, card = load_detector(path)
    images = example((card.spec.size.height, card.spec.size.width), pixels=True)
    deployed = Deployed(detector).eval()
    return profile(deployed, images, engine, threads, seconds=seconds, graph=graph, inside="detector")


def _print(model: str, found: Profile) -> None:
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    table = Table(title=f"{escape(model)}, {found.size[1]}x{found.size[0]} px", title_style="", box=None)
    table.add_column("module", no_wrap=True)
    table.add_column("operations")
    for header in (
        "output",
        "params\nk",
        "multiply-\nadds M",
        "memory\naccess MB",
        "FLOP/\nbyte",
        "median\nms",
        "share\n%",
        "GFLOP/s",
        "GB/s",
        "bound",
        "of roof\n%",
    ):
        table.add_column(header, justify="right", no_wrap=True)
    for row in found.to_json()["layers"]:
        table.add_row(escape(row["module"] or "(network)"), escape(row["operations"]), *_cells(row))
    console = Console()
    wide = Console(width=max(console.width, TABLE_WIDTH))
    wide.print(table)
    blocks = Table(title="by block", title_style="", box=None)
    blocks.add_column("block")
    for header in ("ms", "share %"):
        blocks.add_column(header, justify="right")
    for row in found.to_json()["blocks"]:
        blocks.add_row(escape(row["block"] or "(network)"), f"{row['ms']:.3f}", f"{100 * row['share']:.1f}")
    wide.print(blocks)
    ratio = 100 * (found.sum_of_layers_ms / found.measured_ms - 1)
    typer.echo(
        f"{found.measured_ms:.3f} ms measured, {found.sum_of_layers_ms:.3f} ms in the layers ({ratio:+.1f} %); "
        f"{found.runtime} {found.version}, {found.threads} threads; the machine: "
        f"{found.roof.peak_gflops:.0f} GFLOP/s, {found.roof.bandwidth_gb_s:.1f} GB/s"
    )


def _cells(row: dict[str, Any]) -> list[str]:
    return [
        "x".join(str(side) for side in row["output"]) or "-",
        f"{row['parameters'] / 1e3:.1f}",
        f"{row['multiply_adds'] / 1e6:.2f}",
        f"{row['memory_access_bytes'] / 1e6:.2f}",
        f"{row['intensity']:.1f}",
        f"{row['ms']:.4f}",
        f"{100 * row['share']:.1f}",
        f"{row['gflops']:.1f}" if row["gflops"] else "-",
        f"{row['gb_s']:.1f}",
        row["bound"],
        "-" if row["roof_share"] is None else f"{100 * row['roof_share']:.0f}",
    ]
