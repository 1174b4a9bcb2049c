"""From nothing as YOLO26n was: on `train` and `val` of bccd together, the labels it had too.

`benchmarks/beside.py` keeps `val` for choosing the epoch, which leaves 205 of 292 pictures to learn from. Here all of
them are learned from; nothing is chosen on `test`. What is chosen on `val`, the epoch and the score at which `detect`
cuts, is chosen on pictures already seen, so the epoch is one of the last.

Run: python benchmarks/trainval.py DATA --out runs/trainval --network shufflenet_v2_x0_5 --width 64 --seed 0
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path
from typing import Any

import record
import torch
from beside import EPOCHS, judged

from leandet.data.read import read
from leandet.data.sample import Dataset
from leandet.detector.files import load_detector
from leandet.pipeline import Options
from leandet.pipeline.stages import MODEL, Train, Work

SIZES = ("ap_small", "ap_medium", "ap_large")
KEPT = ("ap", "ap50", *SIZES, "ap_with_nms", "duplicates_per_100", "parameters", "multiply_adds", "split")
PAGE = record.DOCS / "rivals.md"


def together(dataset: Dataset) -> Dataset:
    """The same data, of which `train` holds `val` too."""
    splits = dataset.splits
    return replace(dataset, splits={**splits, "train": splits["train"] + splits["val"]})


def trained(asked: argparse.Namespace) -> dict[str, Any]:
    """One training, gone on with where it was cut short, or as it lies there; its figures on `test`."""
    out = asked.out / name(asked)
    options = Options(
        asked.data / "bccd",
        out,
        asked.network,
        "none",
        320,
        asked.width,
        asked.epochs,
        seed=asked.seed,
        threads=asked.threads,
    )
    dataset = together(read(options.data)[0])
    if not asked.again:
        Train().run(Work(options, dataset, resume=True, tell=print))
    figures = judged(out / MODEL, dataset, asked.threads)
    images = int(load_detector(out / MODEL)[1].provenance["images"])
    request = {"backbone": asked.network, "width": asked.width, "seed": asked.seed, "epochs": asked.epochs}
    return {**request, "images": images, **{key: figures[key] for key in KEPT}}


def name(asked: argparse.Namespace) -> str:
    """Of a training's folder and row."""
    return f"{asked.network}-w{asked.width}-{asked.seed}"


def page() -> str:
    """Every detector, every seed's AP, in Markdown."""
    groups: dict[str, list[dict[str, Any]]] = {}
    for row in record.load("trainval")["rows"].values():
        groups.setdefault(f"{row['backbone']}, width {row['width']}", []).append(row)
    rows = []
    for detector, group in groups.items():
        aps = ", ".join(f"{100 * row['ap']:.1f} %" for row in group)
        tax = max((row["ap_with_nms"] - row["ap"] for row in group), key=abs)
        duplicates = ", ".join(f"{row['duplicates_per_100']:.1f}" for row in group)
        sizes = [f"{100 * sum(row[key] for row in group) / len(group):.1f} %" for key in SIZES]
        rows.append([detector, f"{group[0]['parameters'] / 1e6:.2f} M", aps, *sizes, f"{100 * tax:+.2f}", duplicates])
    headings = ["detector", "parameters", "AP, each seed", "small", "medium", "large", "an NMS adds, points"]
    return record.table([*headings, "duplicates in 100 objects"], rows)


def main() -> None:
    """Train one, keep its figures, fill the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, help="folder that holds the data sets")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--network", default="shufflenet_v2_x0_5")
    parser.add_argument("--width", type=int, default=64, help="channels of neck and head")
    parser.add_argument("--epochs", type=int, default=EPOCHS["bccd"])
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--again", action="store_true", help="measure what was trained before")
    asked = parser.parse_args()
    torch.set_num_threads(asked.threads)
    row = trained(asked)
    record.save("trainval", {"rows": {**record.load("trainval").get("rows", {}), name(asked): row}})
    record.fill(PAGE, "trainval", page())


if __name__ == "__main__":
    main()
