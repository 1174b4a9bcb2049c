"""The picture of a measurement: every model's accuracy, or its speed, against its latency, as a file of its own."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from leandet.atomic import write_text
from leandet.report.chart import Axis, Series, draw
from leandet.runtime.bench import BenchRow

# What the report's style sheet does for charts within it; colours that show on white and on black alike.
STYLE = (
    "text{fill:#656b73;font:11px sans-serif}.grid{stroke:#e3e4e1}.axis{stroke:#656b73}circle{stroke:#fff}"
    "circle.s0{fill:#2b62b5}circle.s1{fill:#d0702b}circle.s2{fill:#2c8f68}"
    "circle.s3{fill:#8a56b0}circle.s4{fill:#a98a1c}circle.s5{fill:#b8486a}"
)


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
    picture = str(draw("latency of each model", series, Axis("p50 ms, photograph in, boxes out", from_zero=True), up))
    opened = picture.replace("<svg ", '<svg xmlns="http://www.w3.org/2000/svg" ', 1)
    legend = "".join(
        f'<circle class="s{index % 6}" cx="330" cy="{22 + 14 * index}" r="4"/>'
        f'<text x="338" y="{26 + 14 * index}">{kind}</text>'
        for index, kind in enumerate(kinds)
    )
    body = opened.partition(">")
    write_text(path, f"{body[0]}><style>{STYLE}</style>{body[2].removesuffix('</svg>')}{legend}</svg>\n")
