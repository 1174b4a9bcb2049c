"""`leandet search`: structures under a latency budget."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from leandet.cli.arguments import WORKERS_WHERE, Json, Ray, Seed, Threads, Workers, one_of, tell
from leandet.cli.quantities import duration, milliseconds, size_in_bytes
from leandet.errors import UserError

if TYPE_CHECKING:
    from leandet.search import Found


def search_command(
    model: Annotated[Path, typer.Argument(help="A trained .safetensors detector.")],
    data: Annotated[Path, typer.Option(help="Labelled images: train measures batch-norms and trains, val judges.")],
    budget: Annotated[str, typer.Option(help="Latency to meet, photograph in, boxes out, such as 4ms.")],
    max_size: Annotated[str | None, typer.Option(help="Largest file, such as 1MB.")] = None,
    trials: Annotated[int, typer.Option(min=1, help="Candidates to judge in all, earlier runs included.")] = 64,
    time: Annotated[
        str | None,
        typer.Option(help="Start no trial after so long, such as 30m; a supernet's training is not counted."),
    ] = None,
    strategy: Annotated[
        str, typer.Option(help="evolution, annealing, netadapt, amc, nsga2, tpe; to compare with: random, uniform.")
    ] = "evolution",
    storage: Annotated[
        str | None,
        typer.Option(help="Database URL of the study, to share it between workers; a file in --out if left out."),
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Folder for the results; runs/search-MODEL if left out.")] = None,
    smaller_inputs: Annotated[int, typer.Option(min=0, max=8, help="Input sizes below the model's to try.")] = 1,
    judge: Annotated[
        str,
        typer.Option(
            help="What candidates are cut from: recalibrate (the detector as it is), supernet (trained on for it)."
        ),
    ] = "recalibrate",
    supernet_epochs: Annotated[
        int, typer.Option(min=1, help="Epochs that the supernet is trained, if it judges.")
    ] = 30,
    epochs: Annotated[int, typer.Option(min=0, help="Epochs of fine-tuning for the winner; 0 for none.")] = 0,
    batch: Annotated[int, typer.Option(min=1, max=4096, help="Images in a step of either training.")] = 16,
    target: Annotated[str, typer.Option(help="Where it will run: onnx, openvino, ncnn or litert.")] = "onnx",
    int8: Annotated[
        bool, typer.Option("--int8", help="It will be quantised: measure what candidates take in 8 bit, for onnx.")
    ] = False,
    ray: Ray = None,
    workers: Workers = None,
    seed: Seed = 0,
    threads: Threads = None,
    as_json: Json = False,
) -> None:
    """Find the most accurate structure within a latency budget, cut from a trained detector.

    Candidates are not trained before they are judged; the winner is, for --epochs, unless it loses by that.
    """
    if workers is not None and ray is None:
        raise UserError(WORKERS_WHERE)
    limit = milliseconds(budget)
    largest = None if max_size is None else size_in_bytes(max_size)
    seconds = None if time is None else duration(time)
    from leandet.data.read import read
    from leandet.search import JudgedBy, Request, search
    from leandet.search.latency import Budget

    request = Request(
        model,
        out or Path("runs") / f"search-{model.stem}",
        Budget(limit, largest),
        trials=trials,
        seconds=seconds,
        strategy=strategy,
        storage=storage,
        smaller_inputs=smaller_inputs,
        judge=JudgedBy(one_of("--judge", judge, list(JudgedBy))),
        supernet_epochs=supernet_epochs,
        epochs=epochs,
        batch=batch,
        seed=seed,
        threads=threads,
        to=target,
        int8=int8,
    )
    dataset, _ = read(data)
    if ray is not None:
        from leandet.cluster.search import Hands, search_on_ray

        found = search_on_ray(request, dataset, Hands(ray, workers, threads or 1), tell)
    else:
        found = search(request, dataset, tell)
    if as_json:
        typer.echo(json.dumps(found.results))
    else:
        _print(found)
        if int8:
            typer.echo("it is in float32 still: next `leandet export`, then `leandet quantize --max-drop 0.02`")


def _print(found: Found) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(
        title=f"The front of {len(found.trials)} structures, AP before fine-tuning",
        title_style="",
        box=None,
        pad_edge=False,
    )
    table.add_column("trial", justify="right")
    for name in ("input px", "AP %", "about ms", "params M", "madds M"):
        table.add_column(name, justify="right", no_wrap=True)
    for row in found.results["front"]:
        table.add_row(str(row["trial"]), *_cells(row))
    Console().print(table)
    chosen = found.results["chosen"]
    typer.echo(
        f"trial {found.winner.number}: AP {100 * found.ap:.1f} % on val, {found.p50_ms:.2f} ms measured within "
        f"{found.results['budget_ms']:g} ms (the whole detector: {found.whole_p50_ms:.2f} ms), "
        f"{chosen['parameters'] / 1e6:.2f} M parameters\nmodel: {found.path}"
    )


def _cells(row: dict[str, Any]) -> list[str]:
    return [
        f"{row['size'][1]}x{row['size'][0]}",
        f"{100 * row['ap']:.1f}",
        f"{row['latency_ms']:.2f}",
        f"{row['parameters'] / 1e6:.2f}",
        f"{row['multiply_adds'] / 1e6:.0f}",
    ]
