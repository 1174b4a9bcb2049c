"""ShuffleNetV2's four guidelines (arXiv 1807.11164, tables 1 to 4) on this machine's runtimes.

Run: .venv/bin/python benchmarks/guidelines.py [--threads 1 2] [--columns arm gpu] [--widths 1 2 4]

The structures are the paper's: 10 blocks on 56x56 maps, one image a call. `arm` and `gpu` name the paper's column whose
channels are used. Everything of one table is timed in turns. The JSON is written after each table; an interrupted run
goes on from it; then the charts and tables of docs/guidelines.md are written anew.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import record
import torch
from timing import call, in_turns
from torch import Tensor, nn

from leandet import atomic
from leandet.cost.count import count
from leandet.cost.profile import EngineName
from leandet.report.chart import Axis, Series, picture

SIDE, BLOCKS = 56, 10
NAME = "guidelines"
RUNTIMES = {"onnx": "ONNX Runtime", "openvino": "OpenVINO", "torch": "PyTorch"}


def conv(inputs: int, outputs: int, kernel: int = 1, groups: int = 1) -> nn.Module:
    """A convolution with bias, as it is once its batch-norm is folded, and ReLU."""
    return nn.Sequential(nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2, groups=groups), nn.ReLU())


class Parallel(nn.Module):
    """Fragments side by side, summed."""

    def __init__(self, channels: int, fragments: int) -> None:
        super().__init__()
        self.fragments = nn.ModuleList(nn.Conv2d(channels, channels, 1) for _ in range(fragments))

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> the same."""
        return sum((fragment(x) for fragment in self.fragments[1:]), self.fragments[0](x)).relu()


class Bottleneck(nn.Module):
    """ResNet's: 1x1 to a quarter of the channels, 3x3, 1x1 back."""

    def __init__(self, channels: int, *, relu: bool, shortcut: bool) -> None:
        super().__init__()
        inner, self.shortcut = channels // 4, shortcut
        last = nn.ReLU if relu else nn.Identity
        self.body = nn.Sequential(
            *(nn.Conv2d(channels, inner, 1), last(), nn.Conv2d(inner, inner, 3, padding=1), last()),
            nn.Conv2d(inner, channels, 1),
        )
        self.last = last()

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> the same."""
        return self.last(x + self.body(x) if self.shortcut else self.body(x))


def ratio_block(channels: Sequence[int], times: int) -> nn.Module:
    """Guideline 1: c1 -> c2 -> c1."""
    first, second = (times * c for c in channels)
    return nn.Sequential(conv(first, second), conv(second, first))


def grouped_block(groups: int, channels: int, times: int) -> nn.Module:
    """Guideline 2: a pointwise group convolution; a width that the groups do not divide goes up (180 to 184)."""
    wide = -(-times * channels // groups) * groups
    return conv(wide, wide, groups=groups)


def series_block(fragments: int, channels: int, times: int) -> nn.Module:
    """Guideline 3: fragments one after the other, narrower by the root of their number."""
    narrow = round(times * channels / fragments**0.5)
    return nn.Sequential(*(conv(narrow, narrow) for _ in range(fragments)))


def parallel_block(fragments: int, channels: int, times: int) -> nn.Module:
    """Guideline 3: fragments side by side, narrower by the root of their number."""
    return Parallel(round(times * channels / fragments**0.5), fragments)


def bottleneck_block(extras: str, channels: int, times: int) -> nn.Module:
    """Guideline 4, with ReLU (r) and shortcut (s) or without."""
    return Bottleneck(times * channels, relu="r" in extras, shortcut="s" in extras)


@dataclass(frozen=True)
class Case:
    """One row of a table of the paper.

    Attributes:
        name: as printed there.
        make: from a width multiplier to a block, by column.
        paper: batches of 8 a second on a GTX 1080Ti and images a second on a Snapdragon 810, at widths x1, x2, x4.
    """

    name: str
    make: dict[str, Callable[[int], nn.Module]]
    paper: dict[str, tuple[float, float, float]]


def case(
    name: str,
    block: Callable[..., nn.Module],
    gpu_channels: Any,
    gpu: tuple[float, float, float],
    arm_channels: Any,
    arm: tuple[float, float, float],
) -> Case:
    """A row whose block takes channels and a multiplier."""
    makes = {"gpu": partial(block, gpu_channels), "arm": partial(block, arm_channels)}
    return Case(name, makes, {"gpu": gpu, "arm": arm})


def bottleneck(name: str, extras: str, gpu: tuple[float, float, float], arm: tuple[float, float, float]) -> Case:
    """A row of guideline 4: both columns have the same channels."""
    return case(name, partial(bottleneck_block, extras), 32, gpu, 32, arm)


TABLES: dict[str, tuple[str, list[Case]]] = {
    "G1": (
        "equal channel widths",
        [
            case("1:1", ratio_block, (128, 128), (1480, 723, 232), (32, 32), (76.2, 21.7, 5.3)),
            case("1:2", ratio_block, (90, 180), (1296, 586, 206), (22, 44), (72.9, 20.5, 5.1)),
            case("1:6", ratio_block, (52, 312), (876, 489, 189), (13, 78), (69.1, 17.9, 4.6)),
            case("1:12", ratio_block, (36, 432), (748, 392, 163), (9, 108), (57.6, 15.1, 4.4)),
        ],
    ),
    "G2": (
        "few groups",
        [
            case("g = 1", partial(grouped_block, 1), 128, (2451, 1289, 437), 64, (40.0, 10.2, 2.3)),
            case("g = 2", partial(grouped_block, 2), 180, (1725, 873, 341), 90, (35.0, 9.5, 2.2)),
            case("g = 4", partial(grouped_block, 4), 256, (1026, 644, 338), 128, (32.9, 8.7, 2.1)),
            case("g = 8", partial(grouped_block, 8), 360, (634, 445, 230), 180, (27.8, 7.5, 1.8)),
        ],
    ),
    "G3": (
        "few fragments",
        [
            case("1 fragment", partial(series_block, 1), 128, (2446, 1274, 434), 64, (40.2, 10.1, 2.3)),
            case("2 in series", partial(series_block, 2), 128, (1790, 909, 336), 64, (38.6, 10.1, 2.2)),
            case("4 in series", partial(series_block, 4), 128, (752, 745, 349), 64, (38.4, 10.1, 2.3)),
            case("2 in parallel", partial(parallel_block, 2), 128, (1537, 803, 320), 64, (33.4, 9.1, 2.2)),
            case("4 in parallel", partial(parallel_block, 4), 128, (691, 572, 292), 64, (35.0, 8.4, 2.1)),
        ],
    ),
    "G4": (
        "few element-wise operations",
        [
            bottleneck("ReLU, shortcut", "rs", (2427, 2066, 1436), (56.7, 16.9, 5.0)),
            bottleneck("ReLU", "r", (2647, 2256, 1735), (61.9, 18.8, 5.2)),
            bottleneck("shortcut", "s", (2672, 2121, 1458), (57.3, 18.2, 5.1)),
            bottleneck("neither", "", (2842, 2376, 1782), (66.3, 20.2, 5.4)),
        ],
    ),
}


def network(one: Case, column: str, times: int) -> tuple[nn.Module, tuple[int, ...]]:
    """Ten blocks, and the shape that they take and give."""
    body = nn.Sequential(*(one.make[column](times) for _ in range(BLOCKS))).eval()
    first = next(part for part in body.modules() if isinstance(part, nn.Conv2d))
    return body, (1, first.in_channels, SIDE, SIDE)


def measure(table: str, column: str, times: int, runtime: str, threads: int) -> list[dict[str, Any]]:
    """One table's rows, timed in turns."""
    torch.manual_seed(0)
    cases = TABLES[table][1]
    built = [network(one, column, times) for one in cases]
    work = [count(body, torch.zeros(shape)).multiply_adds for body, shape in built]
    calls = [call(body, shape, EngineName(runtime), threads) for body, shape in built]
    return [
        {"table": table, "column": column, "times": times, "runtime": runtime, "threads": threads}
        | {"case": one.name, "multiply_adds": adds, "ms": round(ms, 4), "images_per_s": round(1e3 / ms, 2)}
        for one, adds, ms in zip(cases, work, in_turns(calls, threads), strict=True)
    ]


def run(arguments: argparse.Namespace) -> dict[str, Any]:
    """Measure what the JSON lacks."""
    found = record.load(NAME) or {"rows": []}
    done = {tuple(row[k] for k in ("table", "column", "times", "runtime", "threads")) for row in found["rows"]}
    wanted = [
        (table, column, times, runtime, threads)
        for threads in arguments.threads
        for runtime in RUNTIMES
        for column in arguments.columns
        for times in arguments.widths
        for table in TABLES
        if not (table == "G4" and column == "gpu" and "arm" in arguments.columns)  # the same channels
    ]
    for place, key in enumerate(wanted):
        if key in done:
            continue
        print(f"{place + 1} of {len(wanted)}: {' '.join(map(str, key))}", file=sys.stderr, flush=True)
        found["rows"] += measure(*key)
        record.save(NAME, found)
    return found


def relative(rows: Sequence[dict[str, Any]], **wanted: Any) -> list[float]:
    """Speeds of a table's rows as a share of its first row's."""
    own = [row["images_per_s"] for row in rows if all(row[k] == v for k, v in wanted.items())]
    return [speed / own[0] for speed in own]


def columns_of(table: str, rows: Sequence[dict[str, Any]], column: str, threads: int) -> dict[str, list[float]]:
    """Relative speeds at width x1, the paper's two columns first."""
    cases = TABLES[table][1]
    found = {
        "paper, GPU": [one.paper["gpu"][0] / cases[0].paper["gpu"][0] for one in cases],
        "paper, ARM": [one.paper["arm"][0] / cases[0].paper["arm"][0] for one in cases],
    }
    for runtime, name in RUNTIMES.items():
        key = {"table": table, "column": column, "times": 1, "runtime": runtime, "threads": threads}
        if any(all(row[k] == v for k, v in key.items()) for row in rows):
            found[name] = relative(rows, **key)
    return found


def chart(table: str, speeds: dict[str, list[float]]) -> str:
    """An SVG file: one line for each column, the table's rows from left to right."""
    what, cases = TABLES[table]
    across = Axis(", ".join(f"{i}: {one.name}" for i, one in enumerate(cases, 1)), whole=True)
    series = [Series(name, list(enumerate(values, 1))) for name, values in speeds.items()]
    return str(picture(f"{table}: {what}", series, across, Axis("speed relative to the first", from_zero=True)))


def write_docs(rows: Sequence[dict[str, Any]]) -> None:
    """Charts beside docs/guidelines.md, tables in it."""
    for table, (what, cases) in TABLES.items():
        column, parts = "arm" if table == "G4" else "gpu", []
        for threads in sorted({row["threads"] for row in rows}):
            speeds = columns_of(table, rows, column, threads)
            if threads == 1:
                name = f"guideline-{table.lower()}.svg"
                atomic.write_text(record.DOCS / "images" / name, chart(table, speeds))
                parts.append(f"![{table}, {what}, one thread](images/{name})")
            figures = [[one.name, *(f"{v[place]:.2f}" for v in speeds.values())] for place, one in enumerate(cases)]
            parts.append(record.table([f"{threads} thread{'s' * (threads > 1)}", *speeds], figures))
        record.fill(record.DOCS / "guidelines.md", table, "\n\n".join(parts))


def main() -> None:
    """Measure, then print speeds relative to each table's first row."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--columns", nargs="+", choices=["arm", "gpu"], default=["arm", "gpu"])
    parser.add_argument("--widths", type=int, nargs="+", choices=[1, 2, 4], default=[1, 2, 4])
    arguments = parser.parse_args()
    found = run(arguments)
    for table, (what, cases) in TABLES.items():
        for threads in arguments.threads:
            column = "arm" if table == "G4" or "gpu" not in arguments.columns else "gpu"
            print(f"\n{table}, {what}: speed relative to the first, {threads} thread{'s' * (threads > 1)}")
            speeds = columns_of(table, found["rows"], column, threads)
            print(f"{'':16}" + "".join(f"{name:>14}" for name in speeds))
            for place, one in enumerate(cases):
                print(f"{one.name:16}" + "".join(f"{values[place]:>14.2f}" for values in speeds.values()))
    write_docs(found["rows"])


if __name__ == "__main__":
    main()
