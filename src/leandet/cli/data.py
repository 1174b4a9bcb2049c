"""`leandet data`: check, convert, split and show labelled images."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from leandet.cli.arguments import Json, Seed
from leandet.data.layout import Layout

if TYPE_CHECKING:
    from rich.console import Console

    from leandet.data.report import Report
    from leandet.data.sample import Dataset

data_app = typer.Typer(help="Check, convert, split and look at labelled images.", no_args_is_help=True)

Data = Annotated[Path, typer.Argument(help="A folder, a COCO .json or a YOLO data.yaml.", show_default=False)]
Out = Annotated[Path, typer.Option("--out", help="The folder to write.", show_default=False)]
Threads = Annotated[
    int | None, typer.Option("--threads", min=1, help="Pictures decoded at a time.", show_default=False)
]

_SHOWN = 20  # problems printed for a person; --json has them all


@data_app.command("check")
def check_data(data: Data, as_json: Json = False, threads: Threads = None) -> None:
    """Say what is in a data set, what is wrong with it and on how many images it trains."""
    _, report = _read(data, make_splits=True, threads=threads)
    _print_report(_console(), report)
    if as_json:
        _print_json(report.to_json())


@data_app.command("convert")
def convert_data(
    data: Data,
    to: Annotated[Layout, typer.Option("--to", help="The layout to write.", show_default=False)],
    out: Out,
    as_json: Json = False,
) -> None:
    """Write a data set in another layout; splits stay as they are."""
    from leandet.data.convert import convert

    dataset, report = _read(data, make_splits=False)
    convert(dataset, to, out)
    _print_written(dataset, report, out, to, as_json=as_json)


@data_app.command("split")
def split_data(
    data: Data,
    out: Out,
    val_fraction: Annotated[float, typer.Option("--val-fraction", help="Part of all images for val.")] = 0.2,
    test_fraction: Annotated[float, typer.Option("--test-fraction", help="Part of all images for test.")] = 0.0,
    seed: Seed = 0,
    as_json: Json = False,
) -> None:
    """Divide a data set anew into train, val and test, and write it in COCO layout."""
    from leandet.data.convert import convert
    from leandet.data.image import file_digest
    from leandet.data.split import resplit

    dataset, report = _read(data, make_splits=False)
    divided = resplit(dataset, lambda sample: file_digest(sample.image), val_fraction, test_fraction, seed)
    convert(divided, Layout.COCO, out)
    _print_written(divided, report, out, Layout.COCO, as_json=as_json)


@data_app.command("show")
def show_data(
    data: Data,
    out: Out,
    count: Annotated[int, typer.Option("--count", min=1, help="How many pictures.")] = 16,
    split: Annotated[str, typer.Option("--split", help="train, val or test.")] = "train",
    seed: Seed = 0,
    as_json: Json = False,
) -> None:
    """Write pictures with their labels drawn on them."""
    from leandet.data.show import show

    dataset, _ = _read(data, make_splits=True)
    written = show(dataset, out, count, split, seed)
    _console().print(f"{len(written)} pictures in {out}", markup=False)
    if as_json:
        _print_json({"out": str(out), "pictures": [str(path) for path in written]})


def _read(data: Path, *, make_splits: bool, threads: int | None = None) -> tuple[Dataset, Report]:
    from leandet.data.read import read

    with _console().status("checking images"):
        return read(data, make_splits=make_splits, threads=threads)


def _console() -> Console:
    from rich.console import Console

    return Console(stderr=True, soft_wrap=True, highlight=False)


def _print_report(console: Console, report: Report) -> None:
    from rich.table import Table

    problems = report.problems.kept
    for problem in problems[:_SHOWN]:
        console.print(f"{problem.severity.value}: {problem}", markup=False)
    if len(problems) > _SHOWN:
        console.print(f"... and {sum(report.problems.counts.values()) - _SHOWN} more (all with --json)", markup=False)
    table = Table("class", *report.splits)
    for name in report.classes:
        table.add_row(_literal(name), *(str(count.per_class[name]) for count in report.splits.values()))
    console.print(table)
    for line in report.summary():
        console.print(line, markup=False)


def _literal(text: str) -> str:
    from rich.markup import escape

    return escape(text)


def _print_written(dataset: Dataset, report: Report, out: Path, layout: Layout, *, as_json: bool) -> None:
    counts = {name: len(samples) for name, samples in dataset.splits.items()}
    console = _console()
    for problem in report.problems.kept[:_SHOWN]:
        console.print(f"{problem.severity.value}: {problem}", markup=False)
    sizes = ", ".join(f"{name} {count}" for name, count in counts.items())
    total = f"{report.used} of {report.images} images"
    console.print(f"wrote {total} in {layout.value.upper()} layout to {out}: {sizes}", markup=False)
    if as_json:
        _print_json(
            {"out": str(out), "layout": layout.value, "images": counts, "left_out": report.images - report.used}
        )


def _print_json(content: object) -> None:
    import json

    typer.echo(json.dumps(content, ensure_ascii=False, allow_nan=False))
