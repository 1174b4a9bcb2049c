"""Runs the stages in order, remembers each, and writes the results and the report."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from leandet.atomic import write_json
from leandet.data.read import read
from leandet.data.report import Report
from leandet.detector.spec import LEVELS
from leandet.errors import UserError
from leandet.learn.callbacks import CURVES
from leandet.learn.distill import load_teacher
from leandet.learn.processes import Processes
from leandet.learn.train import LAST
from leandet.machine import describe_machine, versions
from leandet.pipeline.options import Options
from leandet.pipeline.pictures import pictures
from leandet.pipeline.plan import stages_of
from leandet.pipeline.stages import CHECKPOINTS, WEIGHTS, Export, Stage, Train, Work, run_stage
from leandet.report import CurvePoint, write_report
from leandet.request import check_request

REQUEST, RESULTS, REPORT, STAGE_NOTES = "build.json", "results.json", "report.html", "stages"


@dataclass(frozen=True, slots=True)
class Result:
    """A finished build.

    Attributes:
        out: its folder, with `model.onnx`, `model.safetensors`, `results.json` and `report.html`.
        results: the content of `results.json`.
    """

    out: Path
    results: dict[str, Any]


def build(options: Options, *, resume: bool = False, tell: Callable[[str], None] | None = None) -> Result:
    """Check, train, prune where asked, export, measure and report, each stage kept: an interrupted build can go on.

    With a budget, the build chooses what to train and cuts it to the budget (`leandet.pipeline.budget`).

    Args:
        options: what to build.
        resume: go on from the last finished stage (and, within training, from the last epoch) of `options.out`.
        tell: takes one line of progress at a time.

    Raises:
        UserError: if the data, the options or the folder do not allow it.
        KeyboardInterrupt: after Ctrl-C; the folder can be resumed.
    """
    if Processes.here().world > 1:
        raise UserError("a build is one process: run `leandet train` under torchrun or srun, and the rest without.")
    say = tell or (lambda line: None)
    work, report = _begin(options, resume, say)
    stages = stages_of(options)
    for number, stage in enumerate(stages, 1):
        say(f"stage {number} of {len(stages)}: {stage.name}")
        work.done[stage.name] = _finished(stage, work) or _run(stage, work)
    results = _results(work, report)
    write_json(options.out / RESULTS, results)
    say("writing the report")
    write_report(results, _curves(options.out), pictures(work, results["chosen"]["path"]), options.out / REPORT)
    return Result(options.out, results)


def train_only(options: Options, *, resume: bool = False, tell: Callable[[str], None] | None = None) -> dict[str, Any]:
    """The first stage of a build alone: check the data and train.

    Args:
        options, resume, tell: as for `build`.

    Returns:
        The stage's row: path, accuracy, latency through PyTorch and cost.

    Raises:
        UserError, KeyboardInterrupt: as for `build`.
    """
    work, _ = _begin(options, resume, tell or (lambda line: None))
    stage = Train()
    return _finished(stage, work) or _run(stage, work)


def _begin(options: Options, resume: bool, say: Callable[[str], None]) -> tuple[Work, Report]:
    made = (options.out / STAGE_NOTES).exists() or (options.out / CHECKPOINTS / LAST).is_file()
    check_request(options.out / REQUEST, options.to_json(), "build", resume=resume, made=made)
    dataset, report = read(options.data)
    if options.teacher is not None:
        load_teacher(options.teacher, dataset.classes, LEVELS)  # one that cannot teach is refused before any work
    write_json(options.out / REQUEST, options.to_json())
    for line in report.summary():
        say(line)
    return Work(options, dataset, resume, tell=say), report


def _stage_file(stage: Stage, work: Work) -> Path:
    return work.path(f"{STAGE_NOTES}/{stage.name}.json")


def _finished(stage: Stage, work: Work) -> dict[str, Any] | None:
    path = _stage_file(stage, work)
    if not (work.resume and path.is_file()):
        return None
    try:
        kept: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        deployable = "p50_ms" in kept and not kept["path"].endswith(WEIGHTS)
        due = stage.name != Export.name or not work.architecture.int8  # else the file in 8 bit has to be in time
        if deployable and due and not work.options.in_time(kept["p50_ms"]):
            return None  # what missed the budget, perhaps on a busy machine, is measured again
        return kept if work.path(kept["path"]).exists() else None
    except (ValueError, TypeError, KeyError):
        return None  # not whole: do the stage again


def _run(stage: Stage, work: Work) -> dict[str, Any]:
    result = run_stage(stage, work)
    write_json(_stage_file(stage, work), result)
    return result


def _results(work: Work, report: Report) -> dict[str, Any]:
    """`results.json`: names that others rely on (see the reference in `docs/`)."""
    rows = [{k: v for k, v in row.items() if k != "candidates"} for row in work.done.values() if "ap" in row]
    chosen = rows[-1]
    budget = work.options.budget_ms
    facts = report.to_json()
    return {
        "data": facts,
        "budget_ms": budget,
        "met": None if budget is None else work.options.meets(chosen["p50_ms"], chosen["bytes"]),
        "chosen": chosen,
        "stages": rows,
        "candidates": [candidate for row in work.done.values() for candidate in row.get("candidates", [])],
        "options": work.options.to_json(),
        "machine": {k: v for k, v in describe_machine().items() if k != "versions"} | {"threads": chosen["threads"]},
        "versions": versions(),
    }


def _curves(out: Path) -> list[CurvePoint]:
    rows: list[dict[str, float]] = json.loads((out / CHECKPOINTS / CURVES).read_text(encoding="utf-8"))
    return [CurvePoint(int(row["epoch"]), {k: v for k, v in row.items() if k != "epoch"}) for row in rows]
