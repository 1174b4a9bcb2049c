"""What zeros cost a trained detector: AP, file size and latency, for each way to place them.

Each case is one training and one JSON file; a study that was interrupted goes on where it was, finished cases included.

Run: .venv/bin/python benchmarks/sparsity.py MODEL.safetensors --data DATA [--epochs 40]
"""

from __future__ import annotations

import argparse
import sys
import time
from dataclasses import dataclass, replace
from pathlib import Path

import record

from leandet.data.read import read
from leandet.data.sample import Dataset
from leandet.sparsify import Blocks, Movement, NofM, Plan, Random, Scope, magnitude
from leandet.sparsify.detectors import Tuning, sparsify_detector

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


def measure(case: Case, model: Path, dataset: Dataset, tuning: Tuning, folder: Path, threads: int | None) -> None:
    """Run a case unless its result is there; models and checkpoints stay in `folder`."""
    if record.load(result_of(case)):
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
    row = {**outcome.to_json(), "plan": str(case.plan), "shared_bits": case.bits, "path": out.name}
    row |= {"epochs": tuning.epochs, "ramp": tuning.ramp, "learning_rate": tuning.learning_rate}
    row |= {"distill": tuning.distill, "seconds": round(time.perf_counter() - start, 1)}
    record.save(result_of(case), row)


def result_of(case: Case) -> str:
    """The name of its file in `results/`."""
    return f"sparsity/{case.name}"


def main() -> None:
    """Run every case that has no result yet, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", type=Path)
    parser.add_argument("--data", type=Path, required=True)
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
    print(
        f"{'case':28} {'AP dense':>9} {'cut':>6} {'trained':>8} {'zeros':>6} {'kB':>7} {'smaller':>8} {'p50 ratio':>10}"
    )
    for case in cases():
        if arguments.only and case.name not in arguments.only:
            continue
        measure(case, arguments.model, dataset, tuning, arguments.out, arguments.threads)
        row = record.load(result_of(case))
        cut = "" if row["masked_ap"] is None else f"{100 * row['masked_ap']:.1f}"
        print(
            f"{case.name:28} {100 * row['dense_ap']:9.1f} {cut:>6} {100 * row['ap']:8.1f} {row['zeros']:6.1%} "
            f"{row['bytes'] / 1e3:7.0f} {row['times_smaller']:7.1f}x {row['p50_ms'] / row['dense_p50_ms']:10.2f}",
            flush=True,
        )


if __name__ == "__main__":
    main()
