"""`leandet profile`: where a network's time goes."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from leandet.cli.arguments import Json, Threads, tell
from leandet.errors import UserError

if TYPE_CHECKING:
    from onnx import ModelProto
    from torch import Tensor, nn

    from leandet.advise import Advice
    from leandet.cost.profile import EngineName, Profile
    from leandet.detector.spec import Spec

TABLE_WIDTH = 168  # columns that the table needs in a pipe
RUNTIMES = ("onnx", "openvino", "torch")
DEFAULT_SIZE = 224
SMALLEST, LARGEST = 64, 4096
CLASSES = 80  # of a spec made from a backbone; training puts the data's number in its place


@dataclass(frozen=True, slots=True)
class Subject:
    """What is looked into.

    Attributes:
        module: the network, in evaluation mode.
        image: what it runs on.
        graph: its ONNX graph where a file has one.
        inside: the submodule from inside of which modules are named, "" for the whole.
        backbone: its name, where it is one of `leandet nets`.
        spec: of the detector, or of one with the backbone.
        precision: of its weights, such as float32.
    """

    module: nn.Module
    image: Tensor
    graph: ModelProto | None
    inside: str
    backbone: str | None
    spec: Spec
    precision: str = "float32"

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of its input in pixels."""
        height, width = self.image.shape[-2:]
        return height, width


def profile_command(
    model: Annotated[str, typer.Argument(help="A model file (.onnx, .safetensors), or a name from `leandet nets`.")],
    runtime: Annotated[str, typer.Option(help="The runtime to look into: onnx, openvino or torch.")] = "onnx",
    size: Annotated[
        int | None,
        typer.Option(help="Side of a backbone's square input in pixels, 224 if left out; a model file has its own."),
    ] = None,
    seconds: Annotated[float, typer.Option(min=0.1, max=600, help="Time to measure for, in seconds.")] = 4.0,
    html: Annotated[
        Path | None, typer.Option(help="Also write a page with the roofline chart and the layers along the time.")
    ] = None,
    with_advice: Annotated[
        bool, typer.Option("--advise", help="Also measure what other widths, groups and operations would gain.")
    ] = False,
    apply: Annotated[
        int | None, typer.Option(min=1, help="Write the spec of a detector that follows this advice; needs --out.")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Where --apply writes the spec, a JSON file.")] = None,
    threads: Threads = None,
    as_json: Json = False,
) -> None:
    """Show where a network's time goes: each layer's cost, measured time, and what the machine could do."""
    from leandet.cost.profile import EngineName, profile

    wanted = with_advice or apply is not None
    if runtime not in RUNTIMES:
        raise UserError(f"--runtime must be one of {', '.join(RUNTIMES)}, not {runtime!r}.")
    if (apply is None) != (out is None):
        raise UserError("--apply and --out go together: the number of an advice, and the file for the new spec.")
    if wanted and runtime == "torch":
        raise UserError("advice is measured in onnx or openvino: choose one of them with --runtime.")
    subject = _subject(model, EngineName(runtime), size)
    if wanted and subject.precision != "float32":
        raise UserError("advice is measured on float32 layers: name the float32 file that this one was made of.")
    found = profile(
        subject.module,
        subject.image,
        EngineName(runtime),
        threads,
        seconds=seconds,
        graph=subject.graph,
        inside=subject.inside,
    )
    advice = _advise(subject, runtime, threads) if wanted else []
    answer = {"model": model, **found.to_json(), "advice": [one.to_json() for one in advice]}
    if html is not None:
        from leandet.report.profile_page import write_profile

        write_profile(answer, model, html)
        tell(f"page: {html}")
    if as_json:
        typer.echo(json.dumps(answer))
    else:
        _print(model, found)
        _print_advice(advice, asked=wanted)
    if apply is not None and out is not None:
        _apply(subject, advice, apply, out)


def _subject(model: str, engine: EngineName, size: int | None) -> Subject:
    import torch

    torch.manual_seed(0)
    if Path(model).suffix in {".onnx", ".safetensors"}:
        return _file(Path(model), engine, size)
    return _backbone(model, size)


def _backbone(name: str, size: int | None) -> Subject:
    from leandet import nets
    from leandet.cost.profile import example
    from leandet.detector.spec import STRIDE, Spec
    from leandet.preprocess import Size

    side = DEFAULT_SIZE if size is None else size
    if not SMALLEST <= side <= LARGEST:
        raise UserError(f"--size must be from {SMALLEST} to {LARGEST} px, not {side}.")
    network: nn.Module = nets.backbone(name) if ":" in name else nets.create(name)
    whole = max(STRIDE, side // STRIDE * STRIDE)  # a detector's sides are multiples of 32
    spec = Spec(name, CLASSES, Size(whole, whole))
    return Subject(network.eval(), example((side, side), pixels=False), None, "", name, spec)


def _file(path: Path, engine: EngineName, size: int | None) -> Subject:
    import onnx

    from leandet.cost.graph import with_batch
    from leandet.cost.profile import EngineName, example
    from leandet.detector.detector import Detector
    from leandet.detector.files import load_detector
    from leandet.export.graph import Deployed
    from leandet.runtime.onnx import open_onnx

    if size is not None:
        raise UserError("--size is for backbones: a model file has its own input size.")
    graph, precision = None, "float32"
    if path.suffix == ".onnx":
        if engine is EngineName.TORCH:
            raise UserError(f"{path}: PyTorch runs .safetensors files; name that, or another --runtime.")
        opened = open_onnx(path)  # refuses what is not ours
        card, precision = opened.card, opened.precision
        graph = with_batch(onnx.load(path), 1)
        detector = Detector(card.spec)  # its shapes are what is counted
    else:
        detector, card = load_detector(path)
    image = example((card.spec.size.height, card.spec.size.width), pixels=True)
    return Subject(Deployed(detector).eval(), image, graph, "detector", None, card.spec, precision)


def _advise(subject: Subject, runtime: str, threads: int | None) -> list[Advice]:
    from leandet.advise import advise
    from leandet.cost.latency import Predictor
    from leandet.cost.profile import EngineName

    def progress(done: int, of: int) -> None:
        tell(f"{done} of {of} pieces measured")

    predictor = Predictor(EngineName(runtime), threads, progress)
    return advise(
        subject.module,
        subject.size,
        predictor,
        backbone=subject.backbone,
        inside=subject.inside,
        pixels=not subject.image.is_floating_point(),
        tell=tell,
    )


def _apply(subject: Subject, advice: Sequence[Advice], number: int, out: Path) -> None:
    """Write the spec of the detector that follows an advice."""
    from leandet import atomic
    from leandet.advise.apply import applied

    if number > len(advice):
        raise UserError(f"--apply {number}: there are {len(advice)} pieces of advice.")
    atomic.write_json(out, applied(subject.spec, advice[number - 1], inside=subject.inside).to_json())
    tell(f"spec: {out}, for advice {number}: {advice[number - 1].text}")


def _print_advice(advice: Sequence[Advice], *, asked: bool) -> None:
    for number, one in enumerate(advice, 1):
        typer.echo(f"{number}. {one.text}{'' if one.can_be_applied else ' Change the code: no spec can say it.'}")
    if asked and not advice:
        typer.echo("no advice: nothing that was tried gained when measured.")


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
        "ms",
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
