"""Searched structures against uniform pruning and chance, at equal measured latency and equal fine-tuning.

For each strategy and seed: search within the budget, measure, fine-tune, judge on the test split; then all winners are
measured once more in turns. And EagleEye's claim: over twelve candidates, how well AP after recalibration alone ranks
AP after fine-tuning. What is finished is kept in --out, so the command can be repeated until it is done.

Run: .venv/bin/python benchmarks/search.py MODEL --data DATA --budget 4 --epochs 30 --threads 2
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from record import DOCS, fill, load, save, table

from leandet.atomic import write_json
from leandet.data.read import read
from leandet.data.sample import Dataset, evenly
from leandet.detector.files import load_detector
from leandet.evaluate import evaluate
from leandet.export.stopwatch import Stopwatch
from leandet.runtime import open_runtime
from leandet.search import Request, search
from leandet.search.judge import Judge, channel_worth
from leandet.search.latency import Budget
from leandet.search.run import tune
from leandet.search.space import Space
from leandet.search.study import judged, open_study

RANKED = 12
WORKERS = (1, 10, 1_000)


def once(path: Path, make: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """What `make` returned before, or returns now."""
    if not path.is_file():
        write_json(path, make())
    known: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return known


def request_of(arguments: argparse.Namespace, strategy: str, seed: int) -> Request:
    """The search of one strategy and seed; its study lies in its own folder."""
    return Request(
        arguments.model,
        arguments.out / f"{strategy}-{seed}",
        Budget(arguments.budget),
        trials=1 if strategy == "uniform" else arguments.trials,
        strategy=strategy,
        smaller_inputs=0 if strategy == "uniform" else arguments.smaller_inputs,
        epochs=arguments.epochs,
        seed=seed,
        threads=arguments.threads,
    )


def contender(arguments: argparse.Namespace, dataset: Dataset, strategy: str, seed: int) -> dict[str, Any]:
    """Search, fine-tune, judge."""
    request = request_of(arguments, strategy, seed)
    found = search(request, dataset, lambda line: print(f"{strategy} {seed}: {line}", flush=True))
    split = dataset.judging
    scores, _ = evaluate(open_runtime(found.path, arguments.threads), dataset.splits[split], dataset.classes)
    return {
        "strategy": strategy,
        "seed": seed,
        "path": str(found.path),
        "split": split,
        "ap": scores.ap,
        "ap50": scores.ap50,
        "val_ap": found.ap,
        "searched_ap": found.winner.ap,
        "searched_p50_ms": found.p50_ms,
        "trials": len(found.trials),
        "seconds_per_trial": found.results["seconds_per_trial"],
    }


def measured(arguments: argparse.Namespace, dataset: Dataset, rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The rows with the p50 of all winners measured in turns."""
    detectors = [load_detector(Path(row["path"])) for row in rows]
    photographs = tuple(sample.image for sample in evenly(dataset.splits["val"], 32))
    stopwatch = Stopwatch(detectors[0][1], photographs, arguments.threads, 10.0)
    times = stopwatch(*(detector for detector, _ in detectors)).rows
    return [{**row, "p50_ms": time.p50_ms} for row, time in zip(rows, times, strict=True)]


def ranking(arguments: argparse.Namespace, dataset: Dataset) -> dict[str, Any]:
    """Twelve structures of the random search, evenly spaced in AP: AP before and after fine-tuning, Spearman's rho."""
    request = request_of(arguments, "random", arguments.seeds[0])
    study = open_study(f"sqlite:///{request.out / 'study.db'}", identity=None)
    trials = sorted(judged(study, lambda candidate: False), key=lambda trial: trial.ap)
    chosen = [trials[i] for i in np.unique(np.linspace(0, len(trials) - 1, RANKED).round().astype(int))]
    detector, _ = load_detector(arguments.model)
    judge = Judge(
        Space(detector, channel_worth(detector, dataset.splits["train"], request.seed), request.smaller_inputs), dataset
    )

    def tuned(place: int) -> dict[str, Any]:
        made = judge.calibrated(chosen[place].candidate)
        ap = tune(request, dataset, made, arguments.out / f"ranking-{place}")
        return {"trial": chosen[place].number, "before": chosen[place].ap, "after": ap}

    rows = [once(arguments.out / f"ranking-{i}.json", lambda i=i: tuned(i)) for i in range(len(chosen))]
    ranks = [np.argsort(np.argsort([row[name] for row in rows])) for name in ("before", "after")]
    return {"candidates": rows, "spearman": float(np.corrcoef(*ranks)[0, 1])}


def planning(seconds: float) -> str:
    """What searches cost, from one trial's seconds on one worker."""

    def duration(trials: int, workers: int) -> str:
        hours = math.ceil(trials / workers) * seconds / 3600
        return f"{hours:.1f} h" if hours >= 1 else f"{60 * hours:.1f} min"

    rows = [
        [f"{trials:,} trials", *(duration(trials, n) for n in WORKERS), f"{trials * seconds / 3600:.1f} h"]
        for trials in (64, 1_000, 10_000)
    ]
    return table(["search", *(f"{n:,} worker{'s' if n > 1 else ''}" for n in WORKERS), "machine time"], rows)


def main() -> None:
    """Run what is missing, then write `benchmarks/results/search.json` and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", type=Path, help="a trained .safetensors detector")
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--budget", type=float, required=True, help="ms")
    parser.add_argument("--out", type=Path, default=Path("runs/search-benchmark"))
    parser.add_argument("--strategies", nargs="+", default=["uniform", "random", "evolution"])
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1])
    parser.add_argument("--trials", type=int, default=64)
    parser.add_argument("--smaller-inputs", type=int, default=1)
    parser.add_argument("--epochs", type=int, default=30)
    parser.add_argument("--threads", type=int, default=None)
    parser.add_argument("--no-ranking", action="store_true", help="leave the twelve fine-tunings out")
    arguments = parser.parse_args()
    dataset, _ = read(arguments.data)
    rows = [
        once(arguments.out / f"{strategy}-{seed}.json", lambda s=strategy, n=seed: contender(arguments, dataset, s, n))
        for seed in arguments.seeds
        for strategy in arguments.strategies
    ]
    result: dict[str, Any] = {"budget_ms": arguments.budget, "epochs": arguments.epochs}
    result["rows"] = measured(arguments, dataset, rows)
    if not arguments.no_ranking and "random" in arguments.strategies:
        result["ranking"] = ranking(arguments, dataset)
    save("search", {**load("search"), dataset.root.name: result})
    cells = [
        [
            f"{r['strategy']}, seed {r['seed']}",
            f"{100 * r['ap']:.1f}",
            f"{r['p50_ms']:.2f}",
            f"{r['seconds_per_trial']:.1f}",
        ]
        for r in result["rows"]
    ]
    searched = [r["seconds_per_trial"] for r in result["rows"] if r["trials"] > 1]
    if searched:
        fill(DOCS / "budget.md", f"cost {dataset.root.name}", planning(float(np.median(searched))))
    print(table(["strategy", "AP %", "p50 ms", "s per trial"], cells))
    if "ranking" in result:
        print(f"Spearman's rho of AP before and after fine-tuning: {result['ranking']['spearman']:.2f}")


if __name__ == "__main__":
    main()
