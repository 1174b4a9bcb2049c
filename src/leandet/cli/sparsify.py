"""`leandet sparsify`: zeros in a detector, and the small file that they make."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from leandet.cli.arguments import Distill, Json, OtherTeacher, Seed, Threads, tell
from leandet.errors import UserError

if TYPE_CHECKING:
    from leandet.sparsify.detectors import Outcome
    from leandet.sparsify.scores import Scorer

CRITERIA = ("lamp", "magnitude", "movement", "random")


def shared_bits(text: str) -> int:
    """`8bit` or `8`, as a number.

    Raises:
        UserError: if it is none from 1 to 8.
    """
    match = re.fullmatch(r"([1-8])\s*(bits?)?", text.strip())
    if match is None:
        raise UserError(f"--share must be from 1bit to 8bit, not {text!r}.")
    return int(match[1])


def sparsify_command(
    model: Annotated[Path, typer.Argument(help="A trained .safetensors detector.")],
    data: Annotated[Path, typer.Option(help="Labelled images: train teaches, val chooses, test judges.")],
    sparsity: Annotated[float | None, typer.Option(help="Share of zeros, such as 0.9; n:m says its own.")] = None,
    pattern: Annotated[str | None, typer.Option(help="2:4, 4:8 or 1x4; any single weight if left out.")] = None,
    criterion: Annotated[str, typer.Option(help="lamp, magnitude, movement or random.")] = "lamp",
    layerwise: Annotated[bool, typer.Option("--layerwise", help="The same share of zeros in every layer.")] = False,
    exclude: Annotated[list[str] | None, typer.Option(help="Layers that stay dense, such as 'head.*'.")] = None,
    epochs: Annotated[int, typer.Option(min=0, help="Passes over the training images; 0 only cuts.")] = 40,
    ramp: Annotated[float, typer.Option(help="Share of the epochs over which the zeros grow; 0 cuts at once.")] = 0.5,
    learning_rate: Annotated[float, typer.Option(help="Peak of the training after the cut.")] = 5e-3,
    batch: Annotated[int, typer.Option(min=1, max=4096, help="Images in a training step.")] = 16,
    distill: Distill = 1.0,
    teacher: OtherTeacher = None,
    rewind: Annotated[
        Path | None, typer.Option(help="The detector early in its training, for a Lottery Ticket.")
    ] = None,
    share: Annotated[str | None, typer.Option(help="Let weights share values, such as 8bit.")] = None,
    out: Annotated[Path | None, typer.Option(help="The new file; MODEL-sparse beside it if left out.")] = None,
    seed: Seed = 0,
    threads: Threads = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with the interrupted work on --out.")] = False,
    as_json: Json = False,
) -> None:
    """Cut a detector's least weights, train the rest, write a sparse file and say what it gained."""
    from leandet.data.read import read
    from leandet.sparsify import Plan, Scope, Unstructured
    from leandet.sparsify.detectors import Tuning, sparsify_detector
    from leandet.sparsify.masking import wanted
    from leandet.sparsify.patterns import parse_pattern

    shape = Unstructured() if pattern is None else parse_pattern(pattern)
    scope = Scope.UNIFORM if layerwise else Scope.GLOBAL
    plan = Plan(wanted(sparsity, shape), shape, _scorer(criterion, seed), scope, tuple(exclude or ()))
    result = sparsify_detector(
        model,
        read(data)[0],
        out or model.with_name(f"{model.stem}-sparse.safetensors"),
        plan,
        Tuning(epochs, batch, learning_rate, ramp, distill, teacher, seed),
        bits=None if share is None else shared_bits(share),
        early=rewind,
        threads=threads,
        resume=resume,
        tell=tell,
    )
    if as_json:
        typer.echo(json.dumps(result.to_json()))
    else:
        _print_outcome(result)


def _scorer(name: str, seed: int) -> Scorer:
    from leandet.sparsify import Movement, Random, lamp, magnitude

    if name not in CRITERIA:
        raise UserError(f"--criterion must be one of {', '.join(CRITERIA)}, not {name!r}.")
    scorers: dict[str, Scorer] = {"magnitude": magnitude, "lamp": lamp, "movement": Movement(), "random": Random(seed)}
    return scorers[name]


def _print_outcome(result: Outcome) -> None:
    masked = "" if result.masked_ap is None else f", {100 * result.masked_ap:.1f} % cut and not trained"
    typer.echo(
        f"{result.path}: {result.bytes / 1e6:.2f} MB, {result.times_smaller:.1f} times smaller than "
        f"{result.dense_bytes / 1e6:.2f} MB\n"
        f"AP {100 * result.ap:.1f} % on {result.images} images of {result.split}: {100 * result.dense_ap:.1f} % dense"
        f"{masked}\n"
        f"{100 * result.sparsity:.1f} % zeros in {len(result.cut)} weights, {100 * result.zeros:.1f} % of all "
        f"{result.parameters / 1e6:.2f} million numbers\n"
        f"{result.latency}"
    )
    if result.emptied:
        typer.echo(f"nothing is left of {', '.join(result.emptied)}: try --criterion lamp or --layerwise.")
