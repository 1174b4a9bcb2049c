"""What zeros cost a trained detector: AP, file size and latency, for each way to place them.

Each case is one training and one JSON file; a study that was interrupted goes on where it was, finished cases included.

Run: .venv/bin/python benchmarks/sparsity.py MODEL.safetensors --data DATA --name bccd-mobilenet_v2 [--epochs 40]
"""

from __future__ import annotations

import argparse
import sys
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import record

from leandet.data.read import read
from leandet.data.sample import Dataset
from leandet.sparsify import Blocks, Movement, NofM, Plan, Random, Scope, magnitude
from leandet.sparsify.detectors import Outcome, Tuning, sparsify_detector

WORK = record.ROOT / "runs" / "sparsity"


@dataclass(frozen=True)
class Case:
    """One way to make zeros: a file name, what is cut, bits of shared values; `of` an earlier case: not trained."""

    name: str
    plan: Plan
    bits: int | None = None
    of: str | None = None


def cases() -> list[Case]:
    """The goals first, then what they are compared with."""
    return [
        Case("unstructured-90", Plan(0.9)),
        Case("unstructured-90-shared", Plan(0.9), bits=8, of="unstructured-90"),
        Case("2of4", Plan(0.5, NofM(2, 4))),
        Case("1x4-50", Plan(0.5, Blocks(4))),
        Case("unstructured-90-magnitude", Plan(0.9, scorer=magnitude)),
        Case("unstructured-90-layerwise", Plan(0.9, scorer=magnitude, scope=Scope.UNIFORM)),
        Case("unstructured-90-movement", Plan(0.9, scorer=Movement())),
        Case("unstructured-90-random", Plan(0.9, scorer=Random())),
    ]


def measure(
    case: Case, name: str, model: Path, dataset: Dataset, tuning: Tuning, folder: Path, threads: int | None
) -> None:
    """Run a case unless its result is there; models and checkpoints stay in `folder`."""
    if record.load(result_of(name, case.name)):
        return
    out = folder / f"{case.name}.safetensors"
    if case.of is not None:
        model, tuning = folder / f"{case.of}.safetensors", replace(tuning, epochs=0)
    start = time.perf_counter()
    outcome = sparsify_detector(
        model,
        dataset,
        out,
        case.plan,
        tuning,
        bits=case.bits,
        threads=threads,
        resume=out.with_name(f"{out.stem}-training").exists(),
        tell=lambda line: print(f"  {line}", file=sys.stderr, flush=True),
    )
    seconds = round(time.perf_counter() - start, 1)
    record.save(result_of(name, case.name), {**row_of(outcome, case, tuning), "seconds": seconds})


def row_of(outcome: Outcome, case: Case, tuning: Tuning) -> dict[str, Any]:
    """What is kept of a case."""
    row = {**outcome.to_json(), "plan": str(case.plan), "shared_bits": case.bits, "path": outcome.path.name}
    del row["latency"]  # in words
    row |= {"epochs": tuning.epochs, "ramp": tuning.ramp, "learning_rate": tuning.learning_rate}
    return row | {"distill": tuning.distill}


def result_of(name: str, case: str) -> str:
    """The name of a case's file in `results/`, of the detector of that name."""
    return f"sparsity/{name}-{case}"


def page() -> str:
    """All results at hand, in Markdown."""
    rows, order = [], [case.name for case in cases()]
    found = [path.stem for path in (record.RESULTS / "sparsity").glob("*.json")]
    known = [
        next((stem.removesuffix(f"-{name}"), name) for name in order if stem.endswith(f"-{name}")) for stem in found
    ]
    for detector, name in sorted(known, key=lambda one: (one[0], order.index(one[1]))):
        row = record.load(result_of(detector, name))
        shared = row["shared_bits"] is not None
        cut = "" if row["masked_ap"] is None or shared else f"{100 * row['masked_ap']:.1f} %"
        dense = "" if shared else f"{100 * row['dense_ap']:.1f} %"  # what is shared is the sparse one
        size = f"{row['bytes'] / 1e6:.2f} MB"
        rows.append([detector.replace("-", ", ", 1), name, dense, cut, f"{100 * row['ap']:.1f} %", size])
        rows[-1].append(f"{row['times_smaller']:.1f}x")
    return record.table(["detector", "zeros", "AP dense", "cut", "trained", "file", "smaller"], rows)


def main() -> None:
    """Run every case that has no result yet, then print the table and fill that of docs/sparsity.md."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", type=Path)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--name", required=True, help="of the detector, such as bccd-mobilenet_v2")
    parser.add_argument("--epochs", type=int, default=40)
    parser.add_argument("--learning-rate", type=float, default=5e-3)
    parser.add_argument("--ramp", type=float, default=0.5)
    parser.add_argument("--distill", type=float, default=1.0, help="weight of the dense detector's answers")
    parser.add_argument("--out", type=Path, default=WORK, help="folder for models and checkpoints")
    parser.add_argument("--threads", type=int)
    parser.add_argument("--only", nargs="*", help="names of cases")
    arguments = parser.parse_args()
    dataset, _ = read(arguments.data)
    tuning = Tuning(
        arguments.epochs, learning_rate=arguments.learning_rate, ramp=arguments.ramp, distill=arguments.distill
    )
    for case in cases():
        if not arguments.only or case.name in arguments.only:
            measure(case, arguments.name, arguments.model, dataset, tuning, arguments.out, arguments.threads)
    print(page())
    record.fill(record.DOCS / "sparsity.md", "cases", page())


if __name__ == "__main__":
    main()
