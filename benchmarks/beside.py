"""Many trainings beside each other on one GPU: the detectors of several studies.

Detectors to cut, their halves and their sparse forms; small ones with and without a teacher; and, beside YOLO26n's
figures, detectors trained from nothing.

A light network leaves a large GPU idle between its kernels, so many trainings run beside each other, each in a process
of its own. What is finished is not done again, what was interrupted goes on, and at
the deadline everything stops. Latency cannot be measured on a machine so busy: `--collect` takes over the accuracies
alone, on the machine whose latency is asked for, and `benchmarks/pruning.py --again` times the pruned detectors there.

Run: python benchmarks/beside.py DATA --out runs/beside --weights FOLDER --slots 14 --minutes 13 [--only 'cards-*']
     python benchmarks/beside.py DATA --out runs/beside --collect
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from fnmatch import fnmatchcase
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

import pruning
import record
import sparsity
import torch

from leandet.atomic import write_json
from leandet.compress import Quantity, Target
from leandet.cost.count import count
from leandet.data.read import read
from leandet.data.sample import Dataset
from leandet.detector.files import load_detector
from leandet.evaluate import evaluate
from leandet.machine import describe_machine
from leandet.pipeline import Options, Pruning, Remaining, prune_detector, train_only
from leandet.runtime import open_runtime
from leandet.sparsify.detectors import Tuning, sparsify_detector

MODEL, DONE, LOG = "model.safetensors", "done.json", "log.txt"
DATA = ("bccd", "cards")
SEEDS = (0, 1)
BACKBONES = {"mobilenet_v2": True, "shufflenet_v2_x1_0": False}  # whether there are ImageNet weights
SPARSE = ("unstructured-90", "2of4", "1x4-50")
STUDENT = ("shufflenet_v2_x0_5", 64)  # 0.31 M parameters
FROM_NOTHING = (
    ("shufflenet_v2_x1_0", 96),
    ("mobilenet_v2", 96),
    ("shufflenet_v2_x0_5", 64),
    ("shufflenet_v2_x0_5", 56),
    ("shufflenet_v2_x0_5", 48),
    ("mobilenet_v1_025", 64),
)
EPOCHS = {"bccd": 100, "cards": 60}  # YOLO26n's
SHARES = {0.5: 60, 0.4: 80}  # of the multiply-adds that a cut leaves, and the epochs of fine-tuning after it
FIGURES = ("ap", "ap50", "ap_with_nms", "duplicates_per_100", "parameters", "multiply_adds", "split", "trained_on")


@dataclass(frozen=True)
class Job:
    """One training: its name, what it does in its folder, and the jobs whose models it needs."""

    name: str
    run: Callable[[Path], dict[str, Any]]
    needs: frozenset[str] = field(default_factory=frozenset)


@dataclass(frozen=True)
class Training:
    """One detector: on what, of what, and how."""

    data: str
    backbone: str
    imagenet: bool
    width: int = 96
    epochs: int | None = None
    seed: int = 0
    teacher: str | None = None

    def run(self, asked: argparse.Namespace, out: Path) -> dict[str, Any]:
        """Train it."""
        options = Options(
            asked.data / self.data,
            out,
            self.backbone,
            str(asked.weights) if self.imagenet else "none",
            320,
            self.width,
            self.epochs,
            seed=self.seed,
            threads=1,
            teacher=None if self.teacher is None else asked.out / self.teacher / MODEL,
        )
        return train_only(options, resume=(out / "build.json").is_file(), tell=say)


def prune(asked: argparse.Namespace, cell: pruning.Cell, base: str, out: Path) -> dict[str, Any]:
    """A part of a detector."""
    goal = Remaining(Target(Quantity.MULTIPLY_ADDS, cell.remaining))
    how = Pruning(goal, criterion=cell.criterion, epochs=SHARES[cell.remaining], threads=1)
    begun = out / "model.pruning" / "prune.json"
    dataset, _ = read(asked.data / cell.data)
    return prune_detector(asked.out / base / MODEL, dataset, out / MODEL, how, resume=begun.is_file(), tell=say)


def sparsify(asked: argparse.Namespace, data: str, base: str, name: str, out: Path) -> dict[str, Any]:
    """A detector with zeros; where the case has one, the shared file too."""
    cases = {case.name: case for case in sparsity.cases()}
    dataset, _ = read(asked.data / data)
    tuning = Tuning(40, ramp=0.4)
    begun = (out / "model-training").exists()
    model = asked.out / base / MODEL
    found = sparsify_detector(
        model, dataset, out / MODEL, cases[name].plan, tuning, threads=1, seconds=0.1, resume=begun, tell=say
    )
    rows = {name: sparsity.row_of(found, cases[name], tuning)}
    for case in cases.values():
        if case.of == name:
            untrained = Tuning(0, ramp=0.4)
            path = out / f"{case.name}.safetensors"
            shared = sparsify_detector(
                out / MODEL, dataset, path, case.plan, untrained, bits=case.bits, threads=1, seconds=0.1, tell=say
            )
            rows[case.name] = sparsity.row_of(shared, case, untrained)
    return rows


def cuts() -> Iterator[pruning.Cell]:
    """What is cut, and how far."""
    for share, data, backbone in product(SHARES, DATA, BACKBONES):
        yield pruning.Cell(data, backbone, "taylor", share)


def uncut() -> dict[str, Training]:
    """Detectors that are cut or teach."""
    return {f"{d}-{b}": Training(d, b, imagenet) for d, (b, imagenet) in product(DATA, BACKBONES.items())}


def students() -> dict[str, Training]:
    """Small detectors, with and without a teacher."""
    backbone, width = STUDENT
    return {
        f"{data}-student-{'taught' if taught else 'alone'}-{seed}": Training(
            data, backbone, True, width, seed=seed, teacher=f"{data}-mobilenet_v2" if taught else None
        )
        for taught, data, seed in product((False, True), DATA, SEEDS)
    }


def from_nothing() -> dict[str, Training]:
    """Detectors that see no other pictures than the data's."""
    return {
        f"nothing-{data}-{backbone}-w{width}-{seed}": Training(data, backbone, False, width, EPOCHS[data], seed)
        for seed, data, (backbone, width) in product(SEEDS, DATA, FROM_NOTHING)
    }


def jobs(asked: argparse.Namespace) -> Iterator[Job]:
    """The uncut detectors, then what needs them, then the others."""
    for name, training in uncut().items():
        yield Job(name, partial(training.run, asked))
    for cell in cuts():
        base = f"{cell.data}-{cell.backbone}"
        yield Job(cell.key, partial(prune, asked, cell, base), frozenset({base}))
    for data, backbone, name in product(DATA, BACKBONES, SPARSE):
        base = f"{data}-{backbone}"
        yield Job(f"{base}-{name}", partial(sparsify, asked, data, base, name), frozenset({base}))
    for name, training in {**students(), **from_nothing()}.items():
        yield Job(name, partial(training.run, asked), frozenset({training.teacher} - {None}))


def say(line: str) -> None:
    """Into the job's log."""
    print(line, flush=True)


def child(job: Job, out: Path) -> int:
    """The job, in a process and a session of its own; 0 if it succeeded."""
    os.setsid()
    out.mkdir(parents=True, exist_ok=True)
    log = os.open(out / LOG, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(log, 1)
    os.dup2(log, 2)
    try:
        result = job.run(out)
        gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else None
        write_json(out / DONE, {**result, "trained_on": {**describe_machine(), "gpu": gpu}})
    except BaseException:  # noqa: BLE001 (whatever it was, the log has it)
        traceback.print_exc()
        return 1
    return 0


def work(asked: argparse.Namespace) -> None:
    """All jobs asked for, `slots` at once, until the deadline."""
    missing = [job for job in jobs(asked) if not (asked.out / job.name / DONE).is_file()]
    finished = {job.name for job in jobs(asked)} - {job.name for job in missing}
    waiting = [job for job in missing if any(fnmatchcase(job.name, pattern) for pattern in asked.only)]
    running: dict[int, Job] = {}
    end = time.monotonic() + 60 * asked.minutes
    while (waiting or running) and time.monotonic() < end:
        for job in [job for job in waiting if job.needs <= finished][: asked.slots - len(running)]:
            waiting.remove(job)
            if (pid := os.fork()) == 0:
                os._exit(child(job, asked.out / job.name))
            running[pid] = job
        pid, status = os.waitpid(-1, os.WNOHANG) if running else (0, 0)
        if pid in running:
            job = running.pop(pid)
            finished |= set() if status else {job.name}
            print(f"{job.name}: {'failed, see its ' + LOG if status else 'done'}", flush=True)
        elif not running:
            break  # what is left needs a job that failed
        else:
            time.sleep(0.5)
    for pid in running:
        with suppress(ProcessLookupError):  # one that has just begun has no session of its own yet
            os.killpg(pid, signal.SIGKILL)


def collect(asked: argparse.Namespace) -> None:
    """Into the studies' results what is finished and not there yet, without the times."""
    study = record.load("pruning")
    cells = study.setdefault("cells", {})
    for cell in cuts():
        base = f"{cell.data}-{cell.backbone}"
        if cell.key not in cells and (found := done(asked, cell.key)) is not None:
            names = {"data": cell.data, "backbone": cell.backbone, "model": base, "path": f"{cell.key}/{MODEL}"}
            times = {"before_p50_ms": None, "p50_ms": None, "warnings": []}
            cells[cell.key] = {"remaining": cell.remaining, **found, **names, **times}
            record.save("pruning", study)
    for data, backbone, name in product(DATA, BACKBONES, SPARSE):
        base = f"{data}-{backbone}"
        rows = done(asked, f"{base}-{name}") or {"trained_on": None}
        common = {"p50_ms": None, "dense_p50_ms": None, "trained_on": rows.pop("trained_on")}
        for case, row in rows.items():
            if not record.load(sparsity.result_of(base, case)):
                record.save(sparsity.result_of(base, case), {**row, **common})
    for name, made in (("students", students()), ("from_nothing", from_nothing())):
        new = {one: row for one in made if (row := figures(asked, one, made[one])) is not None}
        if new:
            record.save(name, {"rows": {**record.load(name).get("rows", {}), **new}})
    record.fill(record.DOCS / "rivals.md", "from nothing", page())
    record.fill(record.DOCS / "teachers.md", "students", taught_page())


def figures(asked: argparse.Namespace, name: str, training: Training) -> dict[str, Any] | None:
    """What is kept of a training; None where it is not finished."""
    found = done(asked, name) or measured(asked, name, training)
    return None if found is None else {**asdict(training), **{key: found[key] for key in FIGURES}}


def measured(asked: argparse.Namespace, name: str, training: Training) -> dict[str, Any] | None:
    """The figures of a detector that was saved just before everything stopped."""
    path = asked.out / name / MODEL
    if not path.is_file():
        return None
    return {**judged(path, read(asked.data / training.data)[0], 1), "trained_on": None}


def judged(path: Path, dataset: Dataset, threads: int) -> dict[str, Any]:
    """A trained detector's accuracy on the judging split, and its cost."""
    scores, _ = evaluate(open_runtime(path, threads), dataset.splits[dataset.judging], dataset.classes)
    detector, _ = load_detector(path)
    size = detector.spec.size
    cost = count(detector, torch.zeros(1, 3, size.height, size.width))
    costs = {"parameters": cost.parameters, "multiply_adds": cost.multiply_adds}
    return {**scores.to_json(), **costs, "split": dataset.judging}


def page() -> str:
    """The detectors from nothing, every seed's AP, in Markdown."""
    groups: dict[tuple[str, ...], list[dict[str, Any]]] = {}
    for row in record.load("from_nothing")["rows"].values():
        groups.setdefault((row["data"], f"{row['backbone']}, width {row['width']}"), []).append(row)
    rows = []
    for (data, detector), group in groups.items():
        aps = ", ".join(f"{100 * row['ap']:.1f} %" for row in group)
        tax = max((row["ap_with_nms"] - row["ap"] for row in group), key=abs)
        rows.append([detector, data, f"{group[0]['parameters'] / 1e6:.2f} M", aps, f"{100 * tax:+.2f}"])
    return record.table(["detector", "data", "parameters", "AP, each seed", "an NMS adds, points"], rows)


def taught_page() -> str:
    """The small detectors with and without a teacher, every seed's AP, in Markdown."""
    rows = record.load("students")["rows"].values()
    lines = []
    for data, teacher in product(DATA, (False, True)):
        group = [row for row in rows if row["data"] == data and (row["teacher"] is not None) == teacher]
        aps = ", ".join(f"{100 * row['ap']:.1f} %" for row in sorted(group, key=lambda row: row["seed"]))
        nms = ", ".join(f"{100 * row['ap_with_nms']:.1f} %" for row in sorted(group, key=lambda row: row["seed"]))
        lines.append([data, "MobileNetV2, width 96" if teacher else "none", aps, nms])
    return record.table(["data", "teacher", "AP, each seed", "AP after an NMS"], lines)


def done(asked: argparse.Namespace, name: str) -> dict[str, Any] | None:
    """What a job left."""
    path = asked.out / name / DONE
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None


def main() -> None:
    """See the module."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path, help="folder that holds the data sets")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--weights", type=Path, help="folder with mobilenet_v2.safetensors")
    parser.add_argument("--slots", type=int, default=14)
    parser.add_argument("--minutes", type=float, default=1e6, help="until all stop")
    parser.add_argument("--only", nargs="+", default=["*"], help="names of trainings, patterns as of a shell")
    parser.add_argument("--collect", action="store_true")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    if asked.collect:
        collect(asked)
    else:
        work(asked)


if __name__ == "__main__":
    sys.exit(main())
