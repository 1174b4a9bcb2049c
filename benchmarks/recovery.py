"""How a pruned detector is best fine-tuned: short runs from one cut, each with another recipe; resumable.

The backbone's rate, mosaics and what the uncut detector teaches are varied; docs/pruning.md has the table, and which of
them `Recipe.after_cut` took.

    python benchmarks/recovery.py MODEL.safetensors HALF.pruning/recalibrated.safetensors --data ../shared/data/bccd
    python benchmarks/recovery.py MODEL CUT --data DATA --table  # Markdown of what is there, into docs/pruning.md
"""

from __future__ import annotations

import argparse
import tempfile
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from record import DOCS, fill, load, save, table

from leandet.card import Card
from leandet.data.read import read
from leandet.data.sample import Dataset
from leandet.detector.files import load_detector
from leandet.evaluate import evaluate
from leandet.learn.distill import taught
from leandet.learn.recipe import Recipe
from leandet.learn.train import train
from leandet.runtime.torch import TorchRuntime

NAME = "recovery"
BATCH = 16


@dataclass(frozen=True, slots=True)
class Case:
    """A way to fine-tune; the attributes are the recipe's, `distill` the weight of the uncut detector's answers."""

    backbone_rate: float
    mosaic_share: float
    distill: float
    learning_rate: float = 5e-3

    def recipe(self, epochs: int, seed: int) -> Recipe:
        """Measured three times, without the epochs for the choice alone."""
        recipe = Recipe.after_cut(epochs, BATCH, seed, self.learning_rate)
        varied = replace(recipe, backbone_rate=self.backbone_rate, mosaic_share=self.mosaic_share)
        return replace(varied, settling=0.0, evaluations=3, patience=0)


CASES = (
    Case(1.0, 0.8, 0.0),
    Case(1.0, 0.8, 1.0),
    Case(0.3, 0.8, 1.0),
    Case(0.3, 0.8, 1.0, learning_rate=2e-3),
    Case(0.1, 0.8, 1.0),
    Case(0.1, 0.0, 0.0),
    Case(0.1, 0.0, 1.0),
    Case(0.1, 0.0, 4.0),
)


def run(case: Case, dataset: Dataset, arguments: argparse.Namespace) -> dict[str, Any]:
    """Fine-tune by one recipe; AP on `val`, which chose the epoch, and on the judged split."""
    detector, card = load_detector(arguments.cut)
    guide = taught(arguments.model, None, case.distill, card.classes, card.spec.levels)
    with tempfile.TemporaryDirectory(prefix="leandet-") as scratch:
        outcome = train(
            detector,
            dataset.splits["train"],
            dataset.splits["val"],
            card.classes,
            case.recipe(arguments.epochs, arguments.seed),
            Path(scratch),
            guide=guide,
        )
    runtime = TorchRuntime(detector, Card(card.classes, detector.spec), arguments.threads)
    scores, _ = evaluate(runtime, dataset.splits[dataset.judging], card.classes)
    return {"val_ap": outcome.best_ap, "ap": scores.ap, "split": dataset.judging}


def page(rows: list[dict[str, Any]]) -> str:
    """The table of docs/pruning.md."""
    return table(
        ["learning rate", "backbone's share of it", "epochs with mosaics", "teacher's weight", "AP, val", "AP, test"],
        [
            [
                *(f"{row['learning_rate']:g}", f"{row['backbone_rate']:g}", f"{row['mosaic_share']:.0%}"),
                *(f"{row['distill']:g}", f"{100 * row['val_ap']:.1f} %", f"{100 * row['ap']:.1f} %"),
            ]
            for row in rows
        ],
    )


def main() -> None:
    """See the module."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path, help="the uncut detector")
    parser.add_argument("cut", type=Path, help="the same, pruned and recalibrated")
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int)
    parser.add_argument("--table", action="store_true", help="write what is there into the page")
    arguments = parser.parse_args()
    rows: list[dict[str, Any]] = load(NAME).get("rows", [])
    if not arguments.table:
        if arguments.threads:
            torch.set_num_threads(arguments.threads)
        dataset, _ = read(arguments.data)
        for case in CASES:
            key = {"data": arguments.data.name, "epochs": arguments.epochs, "seed": arguments.seed, **asdict(case)}
            if not any(key.items() <= row.items() for row in rows):
                rows.append({**key, **run(case, dataset, arguments)})
                save(NAME, {"rows": rows})
    text = page(rows)
    print(text)
    fill(DOCS / "pruning.md", "recovery", text)


if __name__ == "__main__":
    main()
