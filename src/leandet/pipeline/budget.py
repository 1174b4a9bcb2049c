"""What a build does for a budget in milliseconds, after its survey: scout before the training, and search after it."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import astuple, dataclass, replace
from statistics import median
from typing import Any

import torch

from leandet.atomic import write_json
from leandet.data.loader import training_loader
from leandet.data.sample import evenly
from leandet.detector.files import load_detector, save_detector
from leandet.detector.spec import STRIDE
from leandet.learn.loss import Criterion
from leandet.learn.processes import Processes
from leandet.pipeline.options import Architecture, default_epochs
from leandet.pipeline.stages import Work, begin, describe, file_name, teach
from leandet.pipeline.survey import SMALLEST, SURVEY_SECONDS, budget_of, stopwatch, worth
from leandet.search import Request, search

TRIALS = 64
# Of the time allowed; the rest is for measuring and exporting.
SCOUTING, TRAINING, SEARCHING, TUNING = 0.12, 0.50, 0.13, 0.20
SPARED = 0.85  # to the training where nothing is to be cut: the machine may turn out slower than it was
ENOUGH = 1 / 3  # of a whole training's epochs: less, and a faster detector that is trained more would be better
SCOUT_EPOCHS = 0.1  # of a whole training's epochs
LEAST_SCOUTING = 5  # epochs that scouts are trained for before they are compared
STEPS = 6  # of a training that say how long an epoch takes
SCOUT_EVALUATIONS = 2
BESIDE = 2  # epochs take as long as all else in a scout: it is measured, settled and timed
PACE_EPOCHS = 3  # of a scout that is alone: it only says how long an epoch takes
LEAST_SEARCH = 180.0  # seconds: setting up and some trials
CLOCK, FINALS = 3, 14  # exports with a measurement that the search's start needs, and all that comes after its trials
QUANTIZING = 6  # exports with a measurement take as long as quantising and judging what comes of it
SMALLER_INPUTS = 2  # that the search may choose
SCOUTS, PACE, SEARCH = "scouts", "pace.json", "search"


def remaining_seconds(work: Work) -> float:
    """Of the time allowed, what the finished stages left; infinite where none was set."""
    if work.options.seconds is None:
        return float("inf")
    spent = sum(float(row["seconds"]) for row in work.done.values())
    return max(0.0, work.options.seconds - spent)


def _measuring_later(work: Work) -> float:
    """What the exports and measurements after the scouts will take, in seconds."""
    return measuring_seconds(work, CLOCK + FINALS + (QUANTIZING if work.options.int8 else 0))


def measuring_seconds(work: Work, times: int) -> float:
    """What so many exports with a measurement will take, by those of the survey."""
    return times * float(work.done["survey"]["seconds_for_measurement"])


@dataclass(frozen=True, slots=True)
class Pace:
    """What scouts there are: chosen once, so that a resume treats all alike.

    Attributes:
        scouts: the most promising first.
        epochs: that each is trained for.
        uncut: whether they meet the budget as they are, the time being too short to train a detector and then cut it.
    """

    scouts: list[Architecture]
    epochs: int
    uncut: bool


def _training_share(*, uncut: bool) -> float:
    """Of what is left of the time, but for measuring."""
    return SPARED if uncut else TRAINING / (TRAINING + SEARCHING + TUNING)


def _pace(work: Work, whole: int) -> Pace:
    """As kept by an interrupted build, or by the time that there is."""
    note = work.path(SCOUTS) / PACE
    if work.resume and note.is_file():
        try:
            known = json.loads(note.read_text(encoding="utf-8"))
            return Pace([Architecture(*one) for one in known["scouts"]], int(known["epochs"]), bool(known["uncut"]))
        except (ValueError, TypeError, KeyError):
            pass  # not whole: measured again
    scouting, survey = SCOUTING * (work.options.seconds or float("inf")), work.done["survey"]
    shortlist, others = ([Architecture(*one) for one in survey.get(name, [])] for name in ("shortlist", "uncut"))
    seconds, uncut = _seconds(work, shortlist), False
    if work.options.seconds is not None:
        left = remaining_seconds(work) - scouting - _measuring_later(work)
        uncut = bool(others) and _training_share(uncut=False) * left < whole * seconds[shortlist[0]]
        if uncut:
            seconds = _seconds(work, others)
        if work.options.size is None:
            training = _training_share(uncut=uncut) * left
            able = [learnable(architecture, each, training, whole) for architecture, each in seconds.items()]
            seconds = _seconds(work, sorted(able, key=worth, reverse=True), seconds)
    count, epochs = paced(list(seconds.values()), scouting, whole)
    pace = Pace(list(seconds)[:count], epochs, uncut)
    write_json(note, {"scouts": [list(astuple(one)) for one in pace.scouts], "epochs": epochs, "uncut": uncut})
    return pace


def _seconds(
    work: Work, architectures: Sequence[Architecture], known: Mapping[Architecture, float] | None = None
) -> dict[Architecture, float]:
    """What an epoch of each takes, measured where it is not known."""
    before = known or {}
    return {one: before[one] if one in before else seconds_for_epoch(work, one) for one in architectures}


def learnable(architecture: Architecture, seconds: float, allowed: float, whole: int) -> Architecture:
    """The architecture, at the largest input up to its own at which there is time for it to learn.

    What is trained for a tenth of the epochs is worth less than a faster one that is trained, whatever the budget of
    milliseconds would allow. An epoch takes nearly as the input's area.

    Args:
        architecture: as the budget allows it.
        seconds: that an epoch of it takes.
        allowed: seconds for the training.
        whole: epochs of a whole training.
    """
    enough = max(1.0, ENOUGH * whole)
    ratio = math.sqrt(max(0.0, allowed) / seconds / enough)
    if ratio >= 1:
        return architecture
    side = max(SMALLEST, int(architecture.side * ratio) // STRIDE * STRIDE)
    return replace(architecture, side=min(architecture.side, side))


def paced(seconds: Sequence[float], allowed: float, whole: int) -> tuple[int, int]:
    """How many scouts, the most promising first, and for how many epochs each.

    Fewer scouts rather than scouts that learn too little to be told apart.

    Args:
        seconds: that an epoch of each would take.
        allowed: seconds for all of them; may be infinite.
        whole: epochs of a whole training.
    """
    wanted = max(1, round(SCOUT_EPOCHS * whole))
    least = min(LEAST_SCOUTING, wanted)
    able = [count for count in range(2, len(seconds) + 1) if allowed >= (least + BESIDE) * sum(seconds[:count])]
    if not able:
        return 1, max(1, round(min(PACE_EPOCHS, whole, allowed / seconds[0] - BESIDE)))
    count = max(able)
    return count, max(1, int(min(wanted, allowed / sum(seconds[:count]) - BESIDE)))


class Scout:
    """Trains the shortlist for a tenth of the epochs, chooses the best on `val`, and plans by the time that is left.

    Where the time is too short for a whole training and a cut, what meets the budget uncut; where it is shorter still,
    at smaller inputs, at which it can learn, and fewer scouts. A single one is trained for a few epochs, which say how
    long one takes.
    """

    name = "scout"

    def run(self, work: Work) -> dict[str, Any]:
        """Train the scouts, choose."""
        start = time.perf_counter()
        whole = work.options.epochs or default_epochs(len(work.dataset.splits["train"]))
        pace = _pace(work, whole)
        scouts = [_scouted(work, architecture, pace.epochs) for architecture in pace.scouts]
        best = max(range(len(scouts)), key=lambda place: scouts[place]["ap"])
        speed = scouts[best]["seconds_for_epoch"]
        left = remaining_seconds(work) - (time.perf_counter() - start) - _measuring_later(work)
        return {
            "path": f"stages/{self.name}.json",
            "architecture": list(astuple(pace.scouts[best])),
            "epochs": int(max(1, min(whole, _training_share(uncut=pace.uncut) * left / speed))),
            "seconds_for_epoch": speed,
            "looks_ms": scouts[best].get("looks_ms", []),
            "candidates": scouts,
        }


def seconds_for_epoch(work: Work, architecture: Architecture) -> float:
    """A first guess: by the median of some training steps, pictures made beside them as in a training."""
    detector, _ = begin(work, architecture)
    samples, batch = work.dataset.splits["train"], work.options.batch
    if work.options.threads:
        torch.set_num_threads(work.options.threads)
    few = evenly(samples, batch * STEPS)
    loaders = Processes.here().loaders
    loader = training_loader(few, detector.spec.size, batch=batch, seed=0, mosaic_until=1, workers=loaders)
    detector.to(Processes.here().device).train().to(memory_format=torch.channels_last)
    criterion, steps = Criterion(), []
    start = time.perf_counter()
    for pictures, targets in loader:
        images = pictures.to(detector.device).contiguous(memory_format=torch.channels_last)
        criterion(detector, images, targets.to(detector.device)).total.backward()
        steps.append(time.perf_counter() - start)
        start = time.perf_counter()
    return max(1e-6, median(steps[1:] or steps) * max(1, len(samples) // batch))  # the first warms up


def _scouted(work: Work, architecture: Architecture, epochs: int) -> dict[str, Any]:
    """Train a scout, or read what it reached before the build was interrupted."""
    precision = "-int8" if architecture.int8 else ""
    folder = work.path(SCOUTS) / f"{file_name(architecture.backbone)}-{architecture.side}{precision}"
    note = folder / "scout.json"
    if work.resume and note.is_file():
        known: dict[str, Any] = json.loads(note.read_text(encoding="utf-8"))
        return known
    detector, _ = begin(work, architecture)
    watch = stopwatch(work, detector.spec, SURVEY_SECONDS, architecture.int8)
    looks = [watch(detector).rows[0]]
    outcome = teach(work, detector, epochs, folder, SCOUT_EVALUATIONS)
    looks += watch(detector).rows  # a minute later a shared machine's speed may be another
    row = max(looks, key=lambda look: look.p50_ms)
    found = {
        "name": f"{architecture}, {outcome.epochs} epochs",
        "stage": "scout",
        "ap": outcome.best_ap,
        "p50_ms": row.p50_ms,
        "bytes": row.bytes,
        "size": list(row.size),
        "parameters": sum(p.numel() for p in detector.parameters()),
        "seconds": outcome.seconds,
        "seconds_for_epoch": outcome.seconds / max(1, outcome.epochs),
        "looks_ms": [look.p50_ms for look in looks],
    }
    write_json(note, found)
    return found


class Search:
    """Cuts the trained detector to the budget: the best structure that a search finds, measured and fine-tuned."""

    name = "search"

    def run(self, work: Work) -> dict[str, Any]:
        """Search, fine-tune, describe the winner."""
        options = work.options
        later = measuring_seconds(work, FINALS + (QUANTIZING if options.int8 else 0))
        left = max(0.0, remaining_seconds(work) - later)
        share = SEARCHING / (SEARCHING + TUNING)
        whole = options.epochs or default_epochs(len(work.dataset.splits["train"]))
        most = whole if options.seconds else max(1, whole // 2)  # without a limit, half of a training
        tuning = (1 - share) * left / work.done["scout"]["seconds_for_epoch"]
        request = Request(
            work.latest,
            work.path(SEARCH),
            budget_of(work),
            trials=TRIALS,
            seconds=None if left == float("inf") else max(LEAST_SEARCH, share * left),
            smaller_inputs=SMALLER_INPUTS,
            epochs=int(max(1, min(most, tuning))),
            batch=options.batch,
            seed=options.seed,
            threads=options.threads,
            to=options.target,
            int8=work.architecture.int8,
            looks_ms=tuple(work.done["scout"].get("looks_ms", ())),
        )
        found = search(request, work.dataset, work.tell)
        detector, card = load_detector(found.path)
        described = describe(work, found.path, detector)
        save_detector(detector, card.judged(described, described["split"]), found.path)
        trials = [
            {"name": f"search trial {row['trial']}", "stage": self.name, "p50_ms": row["latency_ms"], **row}
            for row in found.results["trials"]
        ]
        return {**described, "searched_ap": found.winner.ap, "epochs_tuned": found.epochs, "candidates": trials}
