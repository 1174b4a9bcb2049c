"""Every backbone's features at 320 px: parameters, multiply-adds, memory access, and latency in ONNX Runtime.

The networks are measured in turns, so that a slow minute strikes all alike; run it on a quiet machine. It takes about
ten minutes, most of them for exporting; exported graphs are kept in --graphs for the next run.

Run: .venv/bin/python benchmarks/backbones.py --threads 2
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections import defaultdict
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import onnx
import torch
from record import DOCS, fill, load, save, table

from leandet import nets
from leandet.atomic import write_text
from leandet.cost.count import count
from leandet.cost.profile_onnx import open_session
from leandet.engines import onnx_options, settle
from leandet.exporter import IMAGES, exported
from leandet.report.chart import Axis, Series, picture

ROUNDS, CALLS = 12, 6


def graph(name: str, size: int, folder: Path) -> bytes:
    """The ONNX graph of a backbone's features, made once."""
    path = folder / f"{name}-{size}.onnx"
    if not path.is_file():
        model = exported(nets.backbone(name).eval(), torch.zeros(1, 3, size, size))
        folder.mkdir(parents=True, exist_ok=True)
        onnx.save(model, path)
    return path.read_bytes()


def costs(name: str, size: int) -> dict[str, Any]:
    """What the counter says of the whole classifier and of the part that a detector keeps."""
    image = torch.zeros(1, 3, size, size)
    whole = count(nets.create(name), image)
    features = nets.backbone(name)
    kept = count(features, image)
    return {
        "name": name,
        "source": nets.TABLE[name].source,
        "classifier_parameters": whole.parameters,
        "classifier_multiply_adds": whole.multiply_adds,
        "parameters": kept.parameters,
        "multiply_adds": kept.multiply_adds,
        "memory_access_bytes": kept.memory_access_bytes,
        "channels": [tap.channels for tap in features.taps],
    }


def latencies(names: list[str], size: int, threads: int, folder: Path) -> dict[str, float]:
    """Median milliseconds of each network, measured in turns."""
    image = np.random.default_rng(0).standard_normal((1, 3, size, size), np.float32)
    sessions = {name: open_session(graph(name, size, folder), onnx_options(threads)) for name in names}
    times: dict[str, list[float]] = defaultdict(list)
    for turn in range(ROUNDS + 1):
        for name, session in sessions.items():
            settle(threads)
            for _ in range(CALLS):
                start = time.perf_counter()
                session.run(None, {IMAGES: image})
                if turn:  # the first round warms up
                    times[name].append((time.perf_counter() - start) * 1e3)
        print(f"round {turn} of {ROUNDS}", flush=True)
    return {name: median(kept) for name, kept in times.items()}


def page(results: dict[str, Any]) -> None:
    """Fill the table and the charts of `docs/choosing-a-backbone.md`."""
    rows = sorted(results["rows"], key=lambda row: row["p50_ms"])
    text = table(
        [
            "backbone",
            "p50, ms",
            "multiply-adds, M",
            "memory access, MB",
            "parameters, M",
            "dropped, M",
            "channels at 8, 16, 32",
        ],
        [
            [
                f"`{row['name']}`",
                f"{row['p50_ms']:.2f}",
                f"{row['multiply_adds'] / 1e6:.0f}",
                f"{row['memory_access_bytes'] / 1e6:.1f}",
                f"{row['parameters'] / 1e6:.2f}",
                f"{(row['classifier_parameters'] - row['parameters']) / 1e6:.2f}",
                ", ".join(map(str, row["channels"])),
            ]
            for row in rows
        ],
    )
    fill(DOCS / "choosing-a-backbone.md", "backbones", text)
    families: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for row in rows:
        if row["name"] != "alexnet":  # so far to the right that the others would share a corner
            families[row["source"].split(",")[0]].append(row)
    for key, scale, label in (
        ("multiply_adds", 1e6, "multiply-adds, M"),
        ("memory_access_bytes", 1e6, "memory access, MB"),
    ):
        series = [
            Series(
                family, [(r[key] / scale, r["p50_ms"]) for r in found], joined=False, names=[r["name"] for r in found]
            )
            for family, found in families.items()
        ]
        chart = picture(
            f"Latency against {label}", series, Axis(label, from_zero=True), Axis("p50, ms", from_zero=True)
        )
        write_text(DOCS / "images" / f"backbones-{key.replace('_', '-')}.svg", chart)


def main() -> None:
    """Measure, save, and fill the page."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", type=int, default=320, help="side of the input, px")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--graphs", type=Path, default=Path(tempfile.gettempdir()) / "leandet-backbone-graphs")
    parser.add_argument("--page-only", action="store_true", help="fill the page from the results at hand")
    asked = parser.parse_args()
    if not asked.page_only:
        names = list(nets.TABLE)
        rows = [costs(name, asked.size) for name in names]
        measured = latencies(names, asked.size, asked.threads, asked.graphs)
        rows = [{**row, "p50_ms": measured[row["name"]]} for row in rows]
        save("backbones", {"size": asked.size, "threads": asked.threads, "rows": rows})
    page(load("backbones"))


if __name__ == "__main__":
    main()
