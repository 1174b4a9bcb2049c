"""`leandet prune`: a trained detector cut, recalibrated and fine-tuned."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from leandet.cli.arguments import Distill, Json, OtherTeacher, ScalePenalty, Seed, Threads, one_of, tell
from leandet.cli.make import Batch, Resume
from leandet.cli.quantities import milliseconds
from leandet.errors import UserError

if TYPE_CHECKING:
    from leandet.compress import Rule
    from leandet.pipeline.goal import Goal

LATENCY = "latency"  # what is measured rather than counted, beside the quantities


def prune_command(
    model: Annotated[Path, typer.Argument(help="A .safetensors detector.")],
    data: Annotated[Path, typer.Option(help="Labelled images: train fine-tunes, val chooses, test judges.")],
    to: Annotated[
        str | None, typer.Option(help="What may remain: 50% (of --of), or a latency such as 4ms, measured here.")
    ] = None,
    of: Annotated[
        str,
        typer.Option(help="What --to's share is of: multiply-adds, parameters, channels or latency, measured here."),
    ] = "multiply-adds",
    ratio: Annotated[float | None, typer.Option(help="Instead of --to: share of the channels to cut, such as 0.3.")] = (
        None
    ),
    out: Annotated[Path | None, typer.Option(help="The new .safetensors file; MODEL-pruned if left out.")] = None,
    criterion: Annotated[
        str,
        typer.Option(
            help="What a channel is worth: l1, l2, fpgm, bn-scale, lamp, taylor, apoz, mean-activation or random."
        ),
    ] = "taylor",
    scope: Annotated[str, typer.Option(help="Share the cut out: global (where worth is least) or uniform.")] = "global",
    rule: Annotated[
        list[str] | None,
        typer.Option(help="LAYERS=RATIO: cut that share where layer names match (backbone.*) or of a type (Conv2d)."),
    ] = None,
    exclude: Annotated[list[str] | None, typer.Option(help="LAYERS: cut nothing there.")] = None,
    align: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Keep multiples of so many channels; if left out, of as many as this machine computes at once: "
            "16 with AVX-512, else 8.",
        ),
    ] = None,
    steps: Annotated[int, typer.Option(min=1, max=100, help="Cuts, with fine-tuning after each.")] = 1,
    schedule: Annotated[str, typer.Option(help="How the cut is spread over the steps: agp (cubic) or linear.")] = "agp",
    epochs: Annotated[
        int | None,
        typer.Option(min=0, help="Of fine-tuning after the last cut; by the number of images if left out, 0 for none."),
    ] = None,
    between: Annotated[
        int | None, typer.Option(min=0, help="Epochs after each earlier cut; a fifth of --epochs if left out.")
    ] = None,
    sparse_epochs: Annotated[int, typer.Option(min=0, help="Epochs with the scale penalty before the first cut.")] = 0,
    scale_penalty: ScalePenalty = 0.0,
    learning_rate: Annotated[float, typer.Option(help="Peak of the fine-tuning.")] = 5e-3,
    batch: Batch = 16,
    distill: Distill = 1.0,
    teacher: OtherTeacher = None,
    seed: Seed = 0,
    threads: Threads = None,
    resume: Resume = False,
    as_json: Json = False,
) -> None:
    """Cut a detector's channels out, measure its batch-norms anew, fine-tune it; the result is an ordinary model."""
    from leandet.compress import Schedule, Scope
    from leandet.data.read import read
    from leandet.pipeline.prune import Pruning, prune_detector

    pruning = Pruning(
        goal=_goal(to, of, ratio),
        criterion=criterion,
        scope=Scope(one_of("--scope", scope, [s.value for s in Scope])),
        rules=(*(_rule(text) for text in rule or ()), *(_excluded(text) for text in exclude or ())),
        align=align,
        steps=steps,
        schedule=Schedule(one_of("--schedule", schedule, [s.value for s in Schedule])),
        epochs=epochs,
        between=between,
        sparse_epochs=sparse_epochs,
        scale_penalty=scale_penalty,
        learning_rate=learning_rate,
        batch=batch,
        distill=distill,
        teacher=teacher,
        seed=seed,
        threads=threads,
    )
    dataset, _ = read(data)
    path = out or model.with_name(f"{model.stem}-pruned.safetensors")
    result = prune_detector(model, dataset, path, pruning, resume=resume, tell=tell)
    if as_json:
        typer.echo(json.dumps(result))
    else:
        _print_result(result)


def _goal(to: str | None, of: str, ratio: float | None) -> Goal:
    from leandet.compress import Quantity
    from leandet.pipeline.goal import Latency, Milliseconds, Ratio, remaining

    one_of("--of", of, [*(q.value for q in Quantity), LATENCY])
    if (to is None) == (ratio is None):
        raise UserError("say how far to prune: either --to 50%, --to 4ms or --ratio 0.3.")
    if ratio is not None:
        return Ratio(ratio)
    text = (to or "").strip()
    if (match := re.fullmatch(r"(\d+(?:\.\d+)?)\s*%", text)) is not None:
        share = float(match[1]) / 100
        return Latency(share) if of == LATENCY else remaining(share, Quantity(of))
    if not re.search(r"s$", text):  # a bare number could be either
        raise UserError(f"--to must be a share such as 50% or a latency such as 4ms, not {to!r}.")
    return Milliseconds(milliseconds(text, "--to"))


def _rule(text: str) -> Rule:
    layers, sign, number = text.partition("=")
    try:
        ratio = float(number)
    except ValueError:
        sign = ""
    if not (layers and sign):
        raise UserError(f"--rule must be LAYERS=RATIO such as 'backbone.*=0.3', not {text!r}.")
    return _of_layers(layers, ratio=ratio)


def _excluded(text: str) -> Rule:
    return _of_layers(text, exclude=True)


def _of_layers(text: str, ratio: float | None = None, *, exclude: bool = False) -> Rule:
    """A rule for a pattern of layer names, or for a type of layer where torch.nn has one of that name."""
    from torch import nn

    from leandet.compress import Rule

    kind = getattr(nn, text, None)
    if isinstance(kind, type) and issubclass(kind, nn.Module):
        return Rule(kind=kind, ratio=ratio, exclude=exclude)
    return Rule(text, ratio=ratio, exclude=exclude)


def _print_result(result: dict[str, Any]) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(title=f"AP on the {result['before']['split']} split", title_style="", box=None, pad_edge=False)
    table.add_column("point", no_wrap=True)
    for name in ("AP %", "AP50 %", "NMS AP %", "madds M", "params M", "kB"):
        table.add_column(name, justify="right", no_wrap=True)
    for row in result["points"]:
        table.add_row(
            row["name"],
            *(f"{100 * row[name]:.1f}" for name in ("ap", "ap50", "ap_with_nms")),
            f"{row['multiply_adds'] / 1e6:.0f}",
            f"{row['parameters'] / 1e6:.2f}",
            f"{row['bytes'] / 1e3:.0f}",
        )
    Console().print(table)
    before, after = result["before_p50_ms"], result["p50_ms"]
    typer.echo(f"ONNX Runtime, {result['threads']} threads: p50 {before:.2f} -> {after:.2f} ms ({after / before:.2f}x)")
    for warning in result["warnings"]:
        typer.echo(f"warning: {warning}")
    typer.echo(f"model: {result['path']}\ntry: leandet export {result['path']}")
