"""The verbs that make and judge a detector: build, train, eval, export."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from leandet.cli.arguments import Json, ScalePenalty, Seed, Teacher, Threads, tell
from leandet.cli.quantities import duration, milliseconds, size_in_bytes
from leandet.errors import UserError

if TYPE_CHECKING:
    from leandet.pipeline import Result

Data = Annotated[Path, typer.Argument(help="Labelled images: a folder or file in COCO, VOC or YOLO layout.")]
Backbone = Annotated[str, typer.Option(help="A name from `leandet nets`.")]
WEIGHTS_HELP = "The backbone's start: imagenet, none, a safetensors file, or a folder with NAME.safetensors of each."
Weights = Annotated[str, typer.Option(help=WEIGHTS_HELP)]
Side = Annotated[int, typer.Option(help="Longest side of the network's input in pixels, a multiple of 32.")]
Width = Annotated[int, typer.Option(help="Channels of neck and head.")]
Epochs = Annotated[
    int | None, typer.Option(help="Passes over the training images; chosen by their number if left out.", min=1)
]
Batch = Annotated[int, typer.Option(min=1, max=4096, help="Images in a training step.")]
Resume = Annotated[bool, typer.Option("--resume", help="Go on with the interrupted work in --out.")]
Split = Annotated[str | None, typer.Option(help="Which split: train, val or test; test if there is one, else val.")]

WEIGHTS, WIDTH = "imagenet", 96
# MobileNetV1 0.5x learns the shapes in far fewer steps than ShuffleNetV2 0.5x. 600 pictures leave AP two points lower,
# and drawing one takes no longer than two training steps on it (docs/decisions/0004).
DEMO_IMAGES, DEMO_SIZE, DEMO_WIDTH, DEMO_EPOCHS = 1000, 128, 64, 30
DEMO_BACKBONE = "mobilenet_v1_050"


def build_command(
    data: Annotated[
        Path | None, typer.Argument(help="Labelled images: a folder or file in COCO, VOC or YOLO layout.")
    ] = None,
    demo: Annotated[
        bool, typer.Option("--demo", help="Use the embedded data, drawn in code, and a small network if none is named.")
    ] = False,
    budget: Annotated[
        str | None,
        typer.Option(
            help="Latency to meet, photograph in, boxes out, such as 8ms; chooses backbone, input and widths."
        ),
    ] = None,
    time: Annotated[str | None, typer.Option(help="Time allowed for a build to a budget, such as 2h or 90m.")] = None,
    max_size: Annotated[str | None, typer.Option(help="Largest file of a build to a budget, such as 1MB.")] = None,
    target: Annotated[str, typer.Option(help="Where it will run: onnx, openvino, ncnn or litert.")] = "onnx",
    out: Annotated[Path | None, typer.Option(help="Folder for all results; runs/NAME if left out.")] = None,
    backbone: Annotated[
        str | None, typer.Option(help="A name from `leandet nets`; by the budget, or mobilenet_v2, if left out.")
    ] = None,
    weights: Annotated[
        str | None,
        typer.Option(help=f"{WEIGHTS_HELP} Left out, it is imagenet."),
    ] = None,
    size: Annotated[
        int | None,
        typer.Option(help="Longest side of the input in pixels, a multiple of 32; by the budget, or 320, if left out."),
    ] = None,
    width: Annotated[int | None, typer.Option(help="Channels of neck and head; 96 if left out.")] = None,
    epochs: Epochs = None,
    batch: Batch = 16,
    seed: Seed = 0,
    threads: Threads = None,
    teacher: Teacher = None,
    prune: Annotated[
        float | None, typer.Option(help="Share of the multiply-adds to cut out after training, such as 0.5.")
    ] = None,
    int8: Annotated[
        bool,
        typer.Option(
            "--int8",
            help="Quantise too; the INT8 file is chosen if it is faster and as accurate. A budget counts on it.",
        ),
    ] = False,
    resume: Resume = False,
    as_json: Json = False,
) -> None:
    """From labelled images to an NMS-free detector: check, train, export, measure, report."""
    if (data is None) != demo:
        raise UserError("name the folder of labelled images, or give --demo (not both).")
    out = out or Path("runs") / ("demo" if data is None else data.resolve().stem)
    from leandet.pipeline import Options, build

    if demo:
        backbone, weights = backbone or DEMO_BACKBONE, weights or "none"
        size = DEMO_SIZE if size is None else size
        width = DEMO_WIDTH if width is None else width
        epochs = epochs or DEMO_EPOCHS
    options = Options(
        data or out / "data",
        out,
        backbone,
        weights or WEIGHTS,
        size,
        WIDTH if width is None else width,
        epochs,
        batch,
        seed,
        threads,
        None if budget is None else milliseconds(budget),
        prune,
        int8,
        teacher,
        max_bytes=None if max_size is None else size_in_bytes(max_size),
        seconds=None if time is None else duration(time),
        target=target,
    )
    if demo:
        from leandet.data.shapes import draw_shapes

        draw_shapes(options.data, train=DEMO_IMAGES)
    result = build(options, resume=resume, tell=tell)
    if as_json:
        typer.echo(json.dumps(result.results))
    else:
        _print_result(result)
    if result.results["met"] is False:
        raise UserError(missed(result.results))


def missed(results: dict[str, Any]) -> str:
    """The sentence for a budget that the result does not meet."""
    chosen, largest = results["chosen"], results["options"]["max_bytes"]
    if chosen["p50_ms"] <= results["budget_ms"]:
        return f"the file has {chosen['bytes']:,} bytes, more than the {largest:,} allowed: allow more."
    return (
        f"the budget of {results['budget_ms']:g} ms was not met: what was chosen takes {chosen['p50_ms']:.2f} ms; "
        "allow more, or measure it again on a quiet machine with --resume."
    )


def _print_result(result: Result) -> None:
    from rich.console import Console
    from rich.table import Table

    results = result.results
    table = Table(title=f"AP on the {results['chosen']['split']} split", title_style="", box=None, pad_edge=False)
    table.add_column("stage, measured in", no_wrap=True)
    for name in ("AP %", "AP50 %", "NMS AP %", "p50 ms", "kB", "params M", "madds M", "took s"):
        table.add_column(name.replace(" ", "\n"), justify="right", no_wrap=True)  # within 80 characters
    for row in results["stages"]:
        table.add_row(
            f"{row['name']}, {row['runtime']}",
            *(f"{100 * row[name]:.1f}" for name in ("ap", "ap50", "ap_with_nms")),
            f"{row['p50_ms']:.2f}",
            f"{row['bytes'] / 1e3:.0f}",
            f"{row['parameters'] / 1e6:.2f}",
            f"{row['multiply_adds'] / 1e6:.0f}",
            f"{row['seconds']:.0f}",
        )
    console = Console()
    console.print(table)
    for row in results["stages"]:
        if (tried := row.get("int8")) and not tried["accepted"]:
            typer.echo(f"INT8 was refused: {' and '.join(tried['reasons'])}")
    if results["budget_ms"] is not None:
        verdict = "meets" if results["met"] else "misses"
        typer.echo(f"{results['chosen']['p50_ms']:.2f} ms {verdict} the budget of {results['budget_ms']:g} ms")
    model = result.out / results["chosen"]["path"]
    typer.echo(f"report: {result.out / 'report.html'}\nmodel: {model}\ntry: leandet detect {model} YOUR_PICTURES")


def train_command(
    data: Data,
    out: Annotated[Path, typer.Option(help="Folder for the model, checkpoints and logs.")],
    backbone: Backbone = "mobilenet_v2",
    weights: Weights = WEIGHTS,
    size: Side = 320,
    width: Width = WIDTH,
    epochs: Epochs = None,
    batch: Batch = 16,
    seed: Seed = 0,
    threads: Threads = None,
    teacher: Teacher = None,
    scale_penalty: ScalePenalty = 0.0,
    resume: Resume = False,
    as_json: Json = False,
) -> None:
    """Train a detector and save it as model.safetensors."""
    from leandet.pipeline import Options, train_only

    options = Options(
        data,
        out,
        backbone,
        weights,
        size,
        width,
        epochs,
        batch,
        seed,
        threads,
        teacher=teacher,
        scale_penalty=scale_penalty,
    )
    row = train_only(options, resume=resume, tell=tell)
    if as_json:
        typer.echo(json.dumps(row))
    else:
        typer.echo(f"AP {100 * row['ap']:.1f} % on the {row['split']} split; {out / row['path']}")


def eval_command(
    model: Annotated[Path, typer.Argument(help="A model file: .onnx or .safetensors.")],
    data: Data,
    split: Split = None,
    threads: Threads = None,
    as_json: Json = False,
) -> None:
    """Measure a detector's accuracy: COCO AP in original pixels, with and without NMS."""
    from leandet.data.read import read
    from leandet.evaluate import check_classes, evaluate
    from leandet.runtime import open_runtime

    runtime = open_runtime(model, threads)
    dataset, _ = read(data, make_splits=split is None)
    name = split or dataset.judging
    samples = dataset.splits.get(name) or (read(data)[0].splits.get(name) if split else None)  # as found, else as made
    if not samples:
        raise UserError(f"{data} has no {name} split: it has {', '.join(k for k, v in dataset.splits.items() if v)}.")
    check_classes(runtime, dataset.classes, str(data))
    scores, _ = evaluate(runtime, samples, dataset.classes)
    figures = {**scores.to_json(), "split": name, "runtime": runtime.name}
    if as_json:
        typer.echo(json.dumps(figures))
    else:
        _print_scores(figures)


def _print_scores(figures: dict[str, Any]) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(box=None, pad_edge=False, title_style="")
    table.title = f"{figures['images']} images of the {figures['split']} split, {figures['runtime']}"
    table.add_column("measure")
    table.add_column("value", justify="right")
    for name, label in (
        ("ap", "AP, IoU .50:.95"),
        ("ap50", "AP, IoU .50"),
        ("ap75", "AP, IoU .75"),
        ("ap_small", "AP, small (below 32x32 px)"),
        ("ap_medium", "AP, medium (to 96x96 px)"),
        ("ap_large", "AP, large"),
        ("ap_with_nms", "AP after an NMS, for comparison"),
    ):
        table.add_row(label, "-" if figures[name] < 0 else f"{100 * figures[name]:.1f} %")
    for name, ap in figures["per_class"].items():
        table.add_row(f"  AP of {name}", "-" if ap < 0 else f"{100 * ap:.1f} %")
    table.add_row("duplicates in 100 objects", f"{figures['duplicates_per_100']:.1f}")
    at = f"at score {figures['threshold']:.2f}, where F1 is highest"
    table.add_row(f"precision {at}", f"{100 * figures['precision']:.1f} %")
    table.add_row(f"recall {at}", f"{100 * figures['recall']:.1f} %")
    Console().print(table)
