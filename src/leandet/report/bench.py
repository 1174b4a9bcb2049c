"""The picture of a measurement: every model's accuracy, or its speed, against its latency, as a file of its own."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from leandet.atomic import write_text
from leandet.report.chart import Axis, Series, picture
from leandet.runtime.bench import BenchRow


def write_bench_chart(rows: Sequence[BenchRow], path: Path) -> None:
    """Draw the rows into an SVG file: one dot for each, one colour for each engine and precision, p50 ms across.

    Up is AP where every row has one, else images in a second.

    Raises:
        UserError: if the disk refuses.
    """
    accuracies = [row.ap for row in rows if row.ap is not None]
    known = len(accuracies) == len(rows)
    heights = [100 * ap for ap in accuracies] if known else [row.images_per_s for row in rows]
    kinds: dict[str, list[tuple[tuple[float, float], str]]] = {}
    for row, height in zip(rows, heights, strict=True):
        kind = f"{row.runtime} {row.precision}"
        kinds.setdefault(kind, []).append(((row.p50_ms, height), f"{row.model}: {kind}"))
    series = [
        Series(kind, [point for point, _ in found], joined=False, names=[name for _, name in found])
        for kind, found in kinds.items()
    ]
    up = Axis("AP %" if known else "images/s", from_zero=not known)
    across = Axis("p50 ms, photograph in, boxes out", from_zero=True)
    write_text(path, picture("Models side by side", series, across, up))
