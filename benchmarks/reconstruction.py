"""What a cut detector is worth before any fine-tuning: cut alone, and with its layers making up for what they lost.

Both with batch-norms measured anew; AP on `val`. The table is in docs/pruning.md.

    python benchmarks/reconstruction.py MODEL.safetensors ... --data ../shared/data/bccd
    python benchmarks/reconstruction.py --table  # Markdown of what is there, into docs/pruning.md
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import torch
from record import DOCS, fill, load, save, table

from leandet.compress import Moments, Quantity, Scope, Target, recalibrate, shrink
from leandet.data.read import read
from leandet.data.sample import Dataset
from leandet.detector.files import load_detector
from leandet.evaluate import evaluate
from leandet.machine import channel_block
from leandet.pipeline.scoring import CRITERIA, Pictures
from leandet.runtime.torch import TorchRuntime

NAME = "reconstruction"
SHARES = (0.75, 0.5, 0.35)  # of the multiply-adds


def judged(path: Path, dataset: Dataset, threads: int | None) -> list[dict[str, Any]]:
    """A detector's rows: each share and scope, with and without reconstruction."""
    detector, card = load_detector(path)
    pictures = Pictures(dataset.splits["train"], detector.spec.size, batch=16, seed=0)
    worth, moments = CRITERIA["taylor"](detector, pictures), Moments.measure(detector, pictures.plain())
    example = torch.zeros(1, 3, detector.spec.size.height, detector.spec.size.width)

    def ap(share: float, scope: Scope, known: Moments | None) -> float:
        target = Target(Quantity.MULTIPLY_ADDS, share)
        made = shrink(detector, example, criterion=worth, target=target, scope=scope, align=channel_block())
        cut = made.module if known is None else made.reconstructed(detector, known)
        recalibrate(cut, pictures.plain())
        scores, _ = evaluate(TorchRuntime(cut, card, threads), dataset.splits["val"], card.classes)
        return scores.ap

    rows = []
    for share in SHARES:
        for scope in Scope:
            row = {"model": path.parent.name, "backbone": detector.spec.backbone, "share": share, "scope": scope.value}
            rows.append({**row, "cut": ap(share, scope, None), "reconstructed": ap(share, scope, moments)})
            print(rows[-1], flush=True)
    return rows


def page(results: dict[str, Any]) -> str:
    """The table of docs/pruning.md: cut alone, then reconstructed."""
    lines = []
    for key in sorted(results):
        rows = {(row["share"], row["scope"]): row for row in results[key]}
        for scope in Scope:
            cells = [rows[share, scope.value] for share in SHARES]
            lines.append(
                [key, scope.value, *(f"{100 * c['cut']:.1f} -> {100 * c['reconstructed']:.1f} %" for c in cells)]
            )
    return table(["detector", "shared out", *(f"{share:.0%} left" for share in SHARES)], lines)


def main() -> None:
    """Judge what is named, keep it, write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", type=Path, nargs="*")
    parser.add_argument("--data", type=Path)
    parser.add_argument("--threads", type=int, default=None)
    parser.add_argument("--table", action="store_true", help="write the page from what is there")
    asked = parser.parse_args()
    results: dict[str, Any] = load(NAME).get("rows", {})
    if not asked.table:
        if not asked.models or asked.data is None:
            parser.error("name the models and their --data, or --table")
        if asked.threads:
            torch.set_num_threads(asked.threads)
        dataset, _ = read(asked.data)
        for path in asked.models:
            rows = judged(path, dataset, asked.threads)
            results[f"{dataset.root.name}, {rows[0]['backbone']}"] = rows
            save(NAME, {"rows": results})
    text = page(results)
    print(text)
    fill(DOCS / "pruning.md", NAME, text)


if __name__ == "__main__":
    main()
