"""Searched structures against uniform pruning and chance, at equal measured latency and equal fine-tuning.

For each strategy and seed: search within the budget, measure, fine-tune, judge on the test split; then all winners are
measured once more in turns. And EagleEye's claim: over twelve candidates, how well a judge's AP ranks AP after
fine-tuning, for candidates cut from the trained detector and for the same cut from a supernet (--judges). What is
finished is kept in --out, so the command can be repeated until it is done. The searches must run where the latency is
asked for; the fine-tunings may run elsewhere, beside each other on a GPU, say, if --out is carried there and back.

Run: .venv/bin/python benchmarks/search.py MODEL --data DATA --budget 4 --epochs 30 --threads 2
     with both judges: ... --judges recalibrate supernet --supernet-epochs 30
     the searches first: ... --searches-only; one training: ... --only evolution-0 (or ranking-3, supernet-0); then all
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Callable
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
from record import DOCS, fill, load, save, table
from scipy.stats import spearmanr

from leandet.atomic import write_bytes, write_json
from leandet.data.read import read
from leandet.data.sample import Dataset, evenly
from leandet.detector.files import load_detector
from leandet.evaluate import evaluate
from leandet.export.stopwatch import Stopwatch
from leandet.learn.callbacks import CURVES
from leandet.runtime import open_runtime
from leandet.runtime.bench import share
from leandet.search import JudgedBy, Request, search
from leandet.search.judge import Judge
from leandet.search.latency import Budget
from leandet.search.run import space_of, supernet_of, tune
from leandet.search.space import Space
from leandet.search.study import CLOCK, Trialled, judged, open_study
from leandet.search.supernet import TRAINING, WEIGHTS, WORTH

RANKED = 12
TIMES, TIMED_SECONDS = 3, 4.0  # measurements of all winners, and seconds of each in one
WORKERS = (1, 10, 1_000)


def once(path: Path, make: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """What `make` returned before, or returns now."""
    if not path.is_file():
        write_json(path, make())
    known: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return known


def name_of(strategy: str, seed: int, judge: JudgedBy) -> str:
    """Of a contender, for its folder and its file."""
    return f"{strategy}-{seed}" if judge is JudgedBy.RECALIBRATE else f"{strategy}-{judge}-{seed}"


def request_of(
    arguments: argparse.Namespace, strategy: str, seed: int, judge: JudgedBy = JudgedBy.RECALIBRATE
) -> Request:
    """The search of one strategy, seed and judge; its study lies in its own folder."""
    return Request(
        arguments.model,
        arguments.out / name_of(strategy, seed, judge),
        Budget(arguments.budget),
        trials=1 if strategy == "uniform" else arguments.trials,
        strategy=strategy,
        smaller_inputs=0 if strategy == "uniform" else arguments.smaller_inputs,
        judge=judge,
        supernet_epochs=arguments.supernet_epochs,
        epochs=arguments.epochs,
        seed=seed,
        threads=arguments.threads,
    )


def with_supernet(arguments: argparse.Namespace, dataset: Dataset, request: Request) -> float:
    """Put the supernet of the request's seed, trained once for all strategies, where the request looks for it.

    Returns:
        Seconds that its training took.
    """
    own = supernet_of(request, dataset).folder
    shared = arguments.out / "supernets" / own.name
    detector, card = load_detector(arguments.model)
    net = replace(supernet_of(request, dataset), folder=shared)
    net.train(Space(detector, net.worth(detector, dataset), request.smaller_inputs), card.classes, dataset)
    own.mkdir(parents=True, exist_ok=True)
    for name in (WORTH, WEIGHTS):
        write_bytes(own / name, (shared / name).read_bytes())
    curves = json.loads((shared / TRAINING / CURVES).read_text(encoding="utf-8"))
    return float(sum(epoch["seconds"] for epoch in curves))


def share_clock(arguments: argparse.Namespace, request: Request) -> None:
    """Give a search the clock of those before it: the same budget in ms is then the same share of the whole's time."""
    for path in sorted(arguments.out.glob("*/study.db")):
        clock = open_study(f"sqlite:///{path}", identity=None).user_attrs.get(CLOCK)
        if clock is not None and path.parent != request.out:
            request.out.mkdir(parents=True, exist_ok=True)
            own = open_study(request.url, identity=None)
            if CLOCK not in own.user_attrs:
                own.set_user_attr(CLOCK, clock)
            return


def contender(
    arguments: argparse.Namespace, dataset: Dataset, strategy: str, seed: int, judge: JudgedBy
) -> dict[str, Any]:
    """Search, fine-tune, judge."""
    request = request_of(arguments, strategy, seed, judge)
    if judge is JudgedBy.SUPERNET:
        with_supernet(arguments, dataset, request)
    share_clock(arguments, request)
    found = search(request, dataset, lambda line: print(f"{name_of(strategy, seed, judge)}: {line}", flush=True))
    split = dataset.judging
    scores, _ = evaluate(open_runtime(found.path, arguments.threads), dataset.splits[split], dataset.classes)
    return {
        "strategy": strategy,
        "seed": seed,
        "judge": judge.value,
        "path": str(found.path),
        "split": split,
        "ap": scores.ap,
        "ap50": scores.ap50,
        "val_ap": found.ap,
        "epochs_tuned": found.epochs,
        "searched_ap": found.winner.ap,
        "searched_p50_ms": found.p50_ms,
        "trials": len(found.trials),
        "seconds_per_trial": found.results["seconds_per_trial"],
    }


def search_only(arguments: argparse.Namespace, dataset: Dataset, strategy: str, seed: int, judge: JudgedBy) -> None:
    """A contender's search without its fine-tuning; nothing where that is done."""
    request = replace(request_of(arguments, strategy, seed, judge), epochs=0)
    if not (request.out / "front.json").is_file():
        share_clock(arguments, request)
        search(request, dataset, lambda line: print(f"{name_of(strategy, seed, judge)}: {line}", flush=True))


def measured(arguments: argparse.Namespace, dataset: Dataset, rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The rows with the latency of all winners, measured in turns with the whole detector, and its part of that."""
    whole, card = load_detector(arguments.model)
    photographs = tuple(sample.image for sample in evenly(dataset.splits["val"], 32))
    stopwatch = Stopwatch(card, photographs, arguments.threads, TIMED_SECONDS)
    detectors = [load_detector(Path(row["path"]))[0] for row in rows]
    found = [stopwatch(whole, *detectors).rows for _ in range(TIMES)]
    told = []
    for place, row in enumerate(rows, 1):
        shares = [share(times[place], times[0]) for times in found]
        p50_ms = float(np.median([times[place].p50_ms for times in found]))
        told.append({**row, "p50_ms": p50_ms, "shares": shares, "share": float(np.median(shares))})
    return told


def structures(arguments: argparse.Namespace) -> list[Trialled]:
    """Twelve structures of the random search, evenly spaced in the AP that recalibration gives them."""
    study = open_study(
        f"sqlite:///{request_of(arguments, 'random', arguments.seeds[0]).out / 'study.db'}", identity=None
    )
    trials = sorted(judged(study, lambda candidate: False), key=lambda trial: trial.ap)
    return [trials[i] for i in np.unique(np.linspace(0, len(trials) - 1, RANKED).round().astype(int))]


def ranking(arguments: argparse.Namespace, dataset: Dataset, judge: JudgedBy) -> dict[str, Any]:
    """The twelve structures cut from what a judge cuts from: AP before and after fine-tuning, Spearman's rho."""
    chosen, request = structures(arguments), request_of(arguments, "random", arguments.seeds[0], judge)
    detector, card = load_detector(arguments.model)
    seconds = with_supernet(arguments, dataset, request) if judge is JudgedBy.SUPERNET else 0.0
    space = space_of(request, detector, dataset)
    if judge is JudgedBy.SUPERNET:
        supernet_of(request, dataset).train(space, card.classes, dataset)
    judged_by = Judge(space, dataset)
    name = "ranking" if judge is JudgedBy.RECALIBRATE else f"ranking-{judge}"

    def tuned(place: int) -> dict[str, Any]:
        made = judged_by.calibrated(chosen[place].candidate)
        before = judged_by.ap(made)
        ap = tune(request, dataset, made, arguments.out / f"{name}-{place}").best_ap
        return {"trial": chosen[place].number, "before": before, "after": ap}

    wanted = [i for i in range(len(chosen)) if asked(arguments, f"{name}-{i}")]
    rows = [once(arguments.out / f"{name}-{i}.json", lambda i=i: tuned(i)) for i in wanted]
    return {"candidates": rows, "spearman": spearman(rows, rows), "supernet_seconds": seconds}


def asked(arguments: argparse.Namespace, name: str) -> bool:
    """Whether a fine-tuning is to be done now."""
    return not arguments.only or name in arguments.only


def spearman(before: list[dict[str, Any]], after: list[dict[str, Any]]) -> float:
    """Spearman's rho of the AP before fine-tuning, in some rows, with that after it, in others of the same trials."""
    if len(before) < RANKED:
        return float("nan")
    return float(spearmanr([row["before"] for row in before], [row["after"] for row in after]).statistic)


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


def parsed() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path, help="a trained .safetensors detector")
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--budget", type=float, required=True, help="ms")
    parser.add_argument("--out", type=Path, default=Path("runs/search-benchmark"))
    parser.add_argument("--strategies", nargs="+", default=["uniform", "random", "evolution"])
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1])
    parser.add_argument("--trials", type=int, default=64)
    parser.add_argument("--smaller-inputs", type=int, default=1)
    parser.add_argument("--judges", nargs="+", type=JudgedBy, choices=list(JudgedBy), default=[JudgedBy.RECALIBRATE])
    parser.add_argument("--supernet-epochs", type=int, default=30)
    parser.add_argument("--epochs", type=int, default=30)
    parser.add_argument("--threads", type=int, default=None)
    parser.add_argument("--no-ranking", action="store_true", help="leave the twelve fine-tunings out")
    parser.add_argument("--searches-only", action="store_true", help="leave all fine-tunings out")
    parser.add_argument("--only", nargs="*", metavar="NAME", help="of all trainings these, and no table")
    return parser.parse_args()


def pieces(arguments: argparse.Namespace, dataset: Dataset) -> None:
    """The trainings of `--only` that are no contender's."""
    for seed in arguments.seeds:
        if asked(arguments, f"supernet-{seed}"):
            with_supernet(arguments, dataset, request_of(arguments, "random", seed, JudgedBy.SUPERNET))
    if any(name.startswith("ranking") for name in arguments.only):
        for judge in arguments.judges:
            ranking(arguments, dataset, judge)


def rankings(arguments: argparse.Namespace, dataset: Dataset) -> dict[str, Any]:
    """Of every judge that is asked for."""
    if arguments.no_ranking or "random" not in arguments.strategies or JudgedBy.RECALIBRATE not in arguments.judges:
        return {}
    found: dict[str, Any] = {"ranking": ranking(arguments, dataset, JudgedBy.RECALIBRATE)}
    if JudgedBy.SUPERNET in arguments.judges:
        found["supernet_epochs"] = arguments.supernet_epochs
        found["ranking_supernet"] = ranking(arguments, dataset, JudgedBy.SUPERNET)
        # Which judge foretells what fine-tuning makes of a structure cut from the trained detector?
        own, other = (found[name]["candidates"] for name in ("ranking_supernet", "ranking"))
        found["ranking_supernet"]["spearman_from_trained"] = spearman(own, other)
    return found


def page(result: dict[str, Any]) -> str:
    """The table of docs/budget.md."""
    rows = [
        [
            f"{row['strategy']}, seed {row['seed']}, {row['judge']}",
            f"{row['share']:.3f}",
            f"{100 * row['searched_ap']:.1f} %",
            f"{100 * row['val_ap']:.1f} %",
            f"{100 * row['ap']:.1f} %",
        ]
        for row in sorted(result["rows"], key=lambda row: (row["judge"], row["strategy"], row["seed"]))
    ]
    headings = ["strategy", "part of the whole's time", "judged", "fine-tuned, val", "fine-tuned, test"]
    return table(headings, rows)


def main() -> None:
    """Run what is missing, then write `benchmarks/results/search.json` and the tables of docs/budget.md."""
    arguments = parsed()
    dataset, _ = read(arguments.data)
    every = product(arguments.strategies, arguments.seeds, arguments.judges)
    contenders = [one for one in every if one[0] != "random" or one[1] == arguments.seeds[0]]  # the baseline, once
    if arguments.searches_only:
        for strategy, seed, judge in contenders:
            search_only(arguments, dataset, strategy, seed, judge)
        return
    rows = [
        once(
            arguments.out / f"{name_of(strategy, seed, judge)}.json",
            lambda s=strategy, n=seed, j=judge: contender(arguments, dataset, s, n, j),
        )
        for strategy, seed, judge in contenders
        if asked(arguments, name_of(strategy, seed, judge))
    ]
    if arguments.only:
        pieces(arguments, dataset)
        return
    result: dict[str, Any] = {"budget_ms": arguments.budget, "epochs": arguments.epochs}
    result |= {"rows": measured(arguments, dataset, rows), **rankings(arguments, dataset)}
    save("search", {**load("search"), dataset.root.name: result})
    searched = [row["seconds_per_trial"] for row in rows if row["trials"] > 1]
    if searched:
        fill(DOCS / "budget.md", f"cost {dataset.root.name}", planning(float(np.median(searched))))
    fill(DOCS / "budget.md", f"searched {dataset.root.name}", text := page(result))
    print(text)
    for name in ("ranking", "ranking_supernet"):
        if name in result:
            print(f"{name}: Spearman's rho of AP before and after fine-tuning {result[name]['spearman']:.2f}")


if __name__ == "__main__":
    main()
