"""`leandet detect` and `leandet bench`: the verbs that run a finished model."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from leandet.cli.arguments import WORKERS_WHERE, Json, Ray, Threads, Workers
from leandet.errors import UserError

if TYPE_CHECKING:
    from leandet.runtime.bench import BenchReport


def detect_command(
    model: Annotated[Path, typer.Argument(help="The model file: .onnx, or .safetensors where torch is installed.")],
    sources: Annotated[
        list[str],
        typer.Argument(help="Images, folders or patterns; or one video file, stream (rtsp://...) or camera number."),
    ],
    save: Annotated[Path, typer.Option(help="Folder for the drawn pictures and detections.json.")] = Path(
        "runs/detect"
    ),
    threshold: Annotated[
        float | None,
        typer.Option(
            min=0, max=1, help="Drop scores under this, 0 to 1; the best on the validation images if left out."
        ),
    ] = None,
    track: Annotated[bool, typer.Option("--track", help="Follow objects through a video (ByteTrack).")] = False,
    frames: Annotated[int | None, typer.Option(min=1, help="Stop after so many frames of a video.")] = None,
    ray: Ray = None,
    workers: Workers = None,
    threads: Threads = None,
    as_json: Json = False,
) -> None:
    """Detect objects in images or in one video: drawn pictures, or a drawn video, and the figures as JSON."""
    import cv2
    from rich.console import Console

    from leandet.runtime import open_runtime
    from leandet.runtime.detect import detect
    from leandet.runtime.frames import is_video
    from leandet.runtime.sources import find_images

    if any(is_video(source) for source in sources):
        if len(sources) > 1:
            raise UserError("a video, camera or stream is detected in alone: name it as the only source.")
        if ray is not None:
            raise UserError("--ray is for images: a video, camera or stream is detected in on one machine.")
        _detect_video(model, sources[0], save, threshold, track, frames, threads, as_json=as_json)
        return
    if track or frames:
        raise UserError("--track and --frames are for a video, camera or stream, not for images.")
    if workers is not None and ray is None:
        raise UserError(WORKERS_WHERE)
    images = find_images(sources)
    runtime = open_runtime(model, threads)
    threshold = runtime.card.threshold if threshold is None else threshold
    errors = Console(stderr=True)
    if ray is not None:
        from leandet.cluster.detect import detect_on_ray

        classes, each = runtime.card.classes, threads or 1
        summary = detect_on_ray(
            model, classes, images, save, threshold, ray, workers=workers, threads=each, console=errors
        )
    else:
        cv2.setNumThreads(runtime.threads)
        summary = detect(runtime, runtime.card.classes, images, save, threshold, console=errors)
    if as_json:
        typer.echo(json.dumps({"model": str(model), **summary.to_json()}))
        return
    skipped = f", {len(summary.skipped)} skipped" if summary.skipped else ""
    typer.echo(
        f"{summary.detections} objects scored over {summary.threshold:.2f} in {summary.images} images{skipped}, "
        f"{summary.seconds:.1f} s; "
        f"pictures and detections.json are in {save}"
    )


def _detect_video(
    model: Path,
    source: str,
    save: Path,
    threshold: float | None,
    track: bool,
    frames: int | None,
    threads: int | None,
    *,
    as_json: bool,
) -> None:
    import cv2

    from leandet.runtime import open_runtime
    from leandet.runtime.video import detect_video

    runtime = open_runtime(model, threads)
    cv2.setNumThreads(runtime.threads)
    threshold = runtime.card.threshold if threshold is None else threshold
    summary = detect_video(runtime, runtime.card.classes, source, save, threshold, track=track, most=frames)
    if as_json:
        typer.echo(json.dumps({"model": str(model), **summary.to_json()}))
        return
    followed = "" if summary.tracks is None else f" or on one of {summary.tracks} tracks"
    typer.echo(
        f"{summary.detections} objects scored over {summary.threshold:.2f}{followed} in {summary.frames} frames, "
        f"{summary.dropped} dropped, "
        f"{summary.seconds:.1f} s; the drawn video is {summary.video}, the figures are {summary.results}"
    )


def bench_command(
    models: Annotated[list[Path], typer.Argument(help="Model files, measured in turns.")],
    threads: Threads = None,
    seconds: Annotated[float, typer.Option(min=0.01, max=3600, help="Measured time for each model, in seconds.")] = 5.0,
    images: Annotated[
        list[str] | None,
        typer.Option(help="Image file, folder or pattern; may be repeated. A drawn 640x480 picture if left out."),
    ] = None,
    batch: Annotated[int, typer.Option(min=1, max=1024, help="Images in one call.")] = 1,
    batches: Annotated[
        str | None, typer.Option(help="Other numbers of images in a call to try for the most images/s, such as 4,16.")
    ] = None,
    data: Annotated[Path | None, typer.Option(help="Labelled images: AP is measured on test, else val.")] = None,
    chart: Annotated[Path | None, typer.Option(help="An .svg file to draw accuracy against latency into.")] = None,
    as_json: Json = False,
) -> None:
    """Measure models side by side on this machine: photograph in, boxes out, cold start and memory."""
    from rich.console import Console

    from leandet.runtime.bench import bench
    from leandet.runtime.sources import find_images

    if chart is not None and chart.suffix != ".svg":
        raise UserError(f"--chart {chart} must end in .svg.")
    errors = Console(stderr=True)
    measured = None if data is None else _accuracies(models, data, threads)  # first: mistakes show at once
    report = bench(
        models,
        threads,
        find_images(images) if images else None,
        seconds=seconds,
        batch=batch,
        batches=_numbers(batches),
        fresh=True,
        warn=lambda text: errors.print(f"warning: {text}", markup=False, highlight=False, soft_wrap=True),
    )
    if measured is not None:
        report = report.with_ap(measured)
    if chart is not None:
        from leandet.report.bench import write_bench_chart

        write_bench_chart(report.rows, chart)
    if as_json:
        typer.echo(json.dumps(report.to_json()))
    else:
        _print_table(report)


def _numbers(text: str | None) -> list[int]:
    """`4,16` -> [4, 16]."""
    try:
        return [int(part) for part in text.split(",")] if text else []
    except ValueError as error:
        raise UserError(f"--batches must be whole numbers such as 4,16, not {text!r}.") from error


def _accuracies(models: list[Path], data: Path, threads: int | None) -> list[float]:
    """Average precision of each model on the judged split, a fraction."""
    from leandet.data.read import read
    from leandet.evaluate import check_classes, evaluate
    from leandet.runtime import open_runtime

    dataset, _ = read(data)
    samples = dataset.splits[dataset.judging]
    found = []
    for model in models:
        runtime = open_runtime(model, threads)
        check_classes(runtime, dataset.classes, str(data))
        found.append(evaluate(runtime, samples, dataset.classes)[0].ap)
    return found


def _print_table(report: BenchReport) -> None:
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    first = report.rows[0]
    table = Table(
        title=f"{first.threads} threads, {first.batch} images in a call ({report.pictures}), {report.machine['cpu']}",
        title_style="",
        box=None,
        pad_edge=False,
    )
    table.add_column("model", overflow="fold")
    for name in ("input px", "engine", "p50/p90/p99 ms", "pre/net/post ms", "images/s", "best", "cold ms", "RAM MB"):
        table.add_column(name, justify="right", no_wrap=True)
    for name in ("file MB", "AP %"):
        table.add_column(name, justify="right", no_wrap=True)
    for row in report.rows:
        table.add_row(
            escape(row.model),
            f"{row.size[1]}x{row.size[0]}",
            escape(f"{row.runtime} {row.precision}"),
            f"{row.p50_ms:.2f}/{row.p90_ms:.2f}/{row.p99_ms:.2f}",
            f"{row.preprocess_p50_ms:.2f}/{row.network_p50_ms:.2f}/{row.postprocess_p50_ms:.2f}",
            f"{row.images_per_s:.1f}",
            "-" if row.best_batch is None else f"{row.best_images_per_s:.1f} at {row.best_batch}",
            "-" if row.cold_start_ms is None else f"{row.cold_start_ms:.0f}",
            "-" if row.peak_memory_bytes is None else f"{row.peak_memory_bytes / 1e6:.0f}",
            f"{row.bytes / 1e6:.2f}",
            "-" if row.ap is None else f"{100 * row.ap:.1f}",
        )
    console = Console()
    # A pipe or a log has no width of its own: do not fold what another program will read.
    Console(width=None if console.is_terminal else 200).print(table)
    versions = report.machine["versions"]
    if isinstance(versions, dict):
        typer.echo(", ".join(f"{name} {version}" for name, version in versions.items()))
