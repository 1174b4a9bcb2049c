"""Trained from nothing, cut and trained on, in as many epochs as YOLO26n had: does a large start help a small end?

For each data set and seed one detector is trained for three fifths of the epochs; copies of it are cut to several
shares of its multiply-adds and trained on for the other two fifths. What is there is not done again, and what was
interrupted goes on. The models lie in `--out` for `benchmarks/rivals.py`, which times them beside YOLO26n.

Run: .venv/bin/python benchmarks/cut_from_nothing.py ../shared/data --out runs/cut --remaining 0.35 0.5
"""

from __future__ import annotations

import argparse
from itertools import product
from pathlib import Path
from typing import Any

from beside import EPOCHS
from record import DOCS, fill, load, save, table

from leandet.atomic import write_json
from leandet.compress import Quantity, Target
from leandet.data.read import read
from leandet.pipeline import Options, Pruning, Remaining, prune_detector, train_only

NAME, MARK = "cut_from_nothing", "cut from nothing"
WHOLE = 0.6  # share of the epochs before the cut
FIGURES = ("ap", "ap50", "ap_with_nms", "duplicates_per_100", "parameters", "multiply_adds", "split")


def whole(asked: argparse.Namespace, data: str, seed: int) -> Path:
    """The detector before it is cut."""
    out: Path = asked.out / f"{data}-{asked.backbone}-w{asked.width}-{seed}"
    note = out / "trained.json"
    if not note.is_file():
        options = Options(
            asked.root / data,
            out,
            asked.backbone,
            "none",
            asked.size,
            asked.width,
            round(WHOLE * EPOCHS[data]),
            seed=seed,
            threads=asked.threads,
        )
        write_json(note, train_only(options, resume=(out / "build.json").is_file(), tell=print))
    return out / "model.safetensors"


def cut(asked: argparse.Namespace, data: str, seed: int, share: float) -> dict[str, Any]:
    """One share of one detector, trained on."""
    model = whole(asked, data, seed)
    epochs = EPOCHS[data] - round(WHOLE * EPOCHS[data])
    goal = Remaining(Target(Quantity.MULTIPLY_ADDS, share))
    how = Pruning(goal, epochs=epochs, seed=seed, threads=asked.threads)
    out = model.parent / f"cut-{share:g}.safetensors"
    begun = (out.with_suffix(".pruning") / "prune.json").is_file()
    dataset, _ = read(asked.root / data)
    found = prune_detector(model, dataset, out, how, resume=begun, tell=print)
    figures = {point: {key: found[point][key] for key in FIGURES} for point in ("before", "after")}
    return {
        **{"data": data, "backbone": asked.backbone, "width": asked.width, "seed": seed, "remaining": share},
        **{"epochs": EPOCHS[data], "epochs_before": EPOCHS[data] - epochs, "machine": found["machine"]},
        **figures,
    }


def page(rows: list[dict[str, Any]]) -> str:
    """A line for each detector and share, with every seed's AP."""
    groups: dict[tuple[str, ...], list[dict[str, Any]]] = {}
    for row in rows:
        name = f"{row['backbone']}, width {row['width']}"
        groups.setdefault((row["data"], name, f"{row['remaining']:.0%}"), []).append(row)
    lines = []
    for (data, name, share), group in sorted(groups.items()):
        before, after = (", ".join(f"{100 * row[point]['ap']:.1f} %" for row in group) for point in ("before", "after"))
        tax = max((row["after"]["ap_with_nms"] - row["after"]["ap"] for row in group), key=abs)
        cost = f"{group[0]['after']['multiply_adds'] / 1e6:.0f} M"
        lines.append([name, data, share, cost, before, after, f"{100 * tax:+.2f}"])
    headings = ["whole detector", "data", "multiply-adds left", "left", "AP whole", "AP in the end"]
    return table([*headings, "an NMS adds, points"], lines)


def main() -> None:
    """See the module."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("root", type=Path, help="folder that holds the data sets")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--data", nargs="+", choices=list(EPOCHS), default=list(EPOCHS))
    parser.add_argument("--backbone", default="shufflenet_v2_x1_0")
    parser.add_argument("--width", type=int, default=96)
    parser.add_argument("--remaining", type=float, nargs="+", default=[0.35, 0.5])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1])
    parser.add_argument("--size", type=int, default=320)
    parser.add_argument("--threads", type=int, default=2)
    asked = parser.parse_args()
    rows: list[dict[str, Any]] = load(NAME).get("rows", [])
    for seed, data, share in product(asked.seeds, asked.data, asked.remaining):
        key = {"data": data, "backbone": asked.backbone, "width": asked.width, "seed": seed, "remaining": share}
        if not any(key.items() <= row.items() for row in rows):
            rows.append(cut(asked, data, seed, share))
            save(NAME, {"rows": rows})
    fill(DOCS / "rivals.md", MARK, page(rows))


if __name__ == "__main__":
    main()
