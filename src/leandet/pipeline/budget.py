"""What a build does for a budget in milliseconds: survey, scout, and search around the training.

Latency does not depend on what the weights are, so the survey measures untrained detectors. Pruning takes two fifths of
a detector's multiply-adds at a small loss, so what exceeds the budget by what these take may still end within it. It
takes no layer away, so what a layer costs however narrow it is stays.
"""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from leandet import nets
from leandet.atomic import write_json
from leandet.card import Card
from leandet.data.loader import training_loader
from leandet.data.sample import evenly
from leandet.detector.detector import Detector
from leandet.detector.files import load_detector, save_detector
from leandet.detector.spec import STRIDE, Spec
from leandet.errors import UserError
from leandet.export.stopwatch import Stopwatch
from leandet.learn.loss import Criterion
from leandet.nets.weights import TorchvisionWeights
from leandet.pipeline.options import Architecture, default_epochs, input_size
from leandet.pipeline.stages import Work, begin, describe, file_name, teach, weights_file
from leandet.search import Request, search
from leandet.search.latency import Budget

BACKBONES = (
    "mobilenet_v3_large",
    "mobilenet_v2",
    "shufflenet_v2_x1_5",
    "shufflenet_v2_x1_0",
    "mobilenet_v3_small",
    "shufflenet_v2_x0_5",
    "squeezenet1_1",
)
SIDES = (160, 320)  # measured; a detector's time is very nearly a line over the input's area
SMALLEST, LARGEST = 96, 512
KEPT = 0.6  # of the multiply-adds: what pruning leaves at a small loss
FARTHEST = 4.0  # times the budget: what pruning can bring within it at all
SHORTLIST = 3
UNKNOWN_TOP1 = 60.0  # per cent, of a backbone without published weights
# MobileNetV1 at 224 px, per cent, as its authors state in tensorflow/models.
PUBLISHED_TOP1 = {"mobilenet_v1": 70.9, "mobilenet_v1_075": 68.4, "mobilenet_v1_050": 63.3, "mobilenet_v1_025": 49.8}
SURVEY_SECONDS, PHOTOGRAPHS = 2.0, 32
TRIALS = 64
# Of the time allowed; the rest is for measuring and exporting.
SCOUTING, TRAINING, SEARCHING, TUNING = 0.12, 0.50, 0.13, 0.20
SCOUT_EPOCHS = 0.1  # of a whole training's epochs
LEAST_SCOUTING = 5  # epochs that scouts are trained for before they are compared
STEPS = 4  # of a training that say how long an epoch takes; the first warms up
SCOUT_EVALUATIONS = 2  # each costs about half an epoch
PACE_EPOCHS = 3  # of a scout that is alone: it only says how long an epoch takes
LEAST_SEARCH = 180.0  # seconds: setting up and some trials
CLOCK, FINALS = 3, 14  # exports with a measurement that the search's start needs, and all that comes after its trials
SMALLER_INPUTS = 2  # that the search may choose
SURVEY, SCOUTS, PACE, SEARCH = "survey.json", "scouts", "pace.json", "search"


def budget_of(work: Work) -> Budget:
    """The build's budget."""
    return Budget(work.options.budget_ms or 0.0, work.options.max_bytes)


def remaining_seconds(work: Work) -> float:
    """Of the time allowed, what the finished stages left; infinite where none was set."""
    if work.options.seconds is None:
        return float("inf")
    spent = sum(float(row["seconds"]) for row in work.done.values())
    return max(0.0, work.options.seconds - spent)


def measuring_seconds(work: Work, times: int) -> float:
    """What so many exports with a measurement will take, by those of the survey."""
    return times * float(work.done["survey"]["seconds_for_measurement"])


@dataclass(frozen=True, slots=True)
class Surveyed:
    """A backbone's latency as a line over the input's area, and its file.

    Attributes:
        backbone: a name of `leandet.nets`.
        base_ms, ms_for_pixel: p50 = base + slope * pixels.
        bytes: of the file, whatever the input.
        top1: of the backbone's weights on ImageNet, per cent.
    """

    backbone: str
    base_ms: float
    ms_for_pixel: float
    bytes: int
    top1: float

    def ms(self, pixels: int) -> float:
        """p50 at an input of so many pixels."""
        return self.base_ms + self.ms_for_pixel * pixels

    def pruned_ms(self, pixels: int) -> float:
        """The same with `KEPT` of the multiply-adds."""
        return self.base_ms + KEPT * self.ms_for_pixel * pixels


class Survey:
    """Measures untrained detectors of every backbone, and shortlists some by a rule.

    Of each backbone the largest input at which three fifths of the multiply-adds would meet the budget; of these the
    three that rank best by ImageNet top-1 accuracy times the square root of the input's longer side.
    """

    name = "survey"

    def run(self, work: Work) -> dict[str, Any]:
        """Measure, choose, write `survey.json`."""
        names = [work.options.backbone] if work.options.backbone else _available(work)
        start = time.perf_counter()
        found, measured = _measure(work, names)
        each = (time.perf_counter() - start) / len(measured)
        shortlist = shortlisted(work, found)
        write_json(work.path(SURVEY), {"backbones": [asdict(one) for one in found], "measured": measured})
        return {
            "path": SURVEY,
            "shortlist": [[a.backbone, a.side] for a in shortlist],
            "seconds_for_measurement": each,
            "candidates": measured,
        }


def _available(work: Work) -> list[str]:
    """The backbones that can be begun with: where weights are wanted they must be within reach."""
    if work.options.weights == "none":
        return list(BACKBONES)
    folder = Path(work.options.weights)
    if work.options.weights != "imagenet":
        names = [name for name in nets.TABLE if weights_file(folder, name).is_file()]
        if not names:
            raise UserError(
                f"--weights {folder}: a build that chooses the backbone needs a folder with NAME.safetensors of at "
                "least one network that `leandet nets` lists; put some there, or name the --backbone."
            )
        return names
    able, missing = [], {}
    for name in BACKBONES:
        try:
            begin(work, Architecture(name, SIDES[0]))
        except UserError as error:
            missing[name] = str(error)
        else:
            able.append(name)
    if not able:
        raise UserError(missing[BACKBONES[0]])
    if missing:
        work.tell(f"left out, for want of ImageNet weights (--weights none takes all): {', '.join(missing)}")
    return able


def _measure(work: Work, names: list[str]) -> tuple[list[Surveyed], list[dict[str, Any]]]:
    """Every backbone at two inputs, in turns; and what was measured, as candidates."""
    sides = [(work.options.size,)] * len(names) if work.options.size else [SIDES] * len(names)
    places = [(name, side) for name, pair in zip(names, sides, strict=True) for side in pair]
    torch.manual_seed(work.options.seed)
    detectors = [Detector(work.spec(Architecture(name, side))).eval() for name, side in places]
    rows = _stopwatch(work, detectors[0].spec, SURVEY_SECONDS)(*detectors).rows
    measured = [
        {
            "name": f"{name} at {row.size[1]}x{row.size[0]} px, untrained",
            "stage": "survey",
            "ap": None,
            "p50_ms": row.p50_ms,
            "bytes": row.bytes,
            "size": list(row.size),
            "parameters": sum(p.numel() for p in detector.parameters()),
        }
        for (name, _), row, detector in zip(places, rows, detectors, strict=True)
    ]
    found = []
    for name in names:
        own = [row for (other, _), row in zip(places, rows, strict=True) if other == name]
        pixels = [float(row.size[0] * row.size[1]) for row in own]
        slope, base = np.polyfit(pixels, [row.p50_ms for row in own], 1) if len(own) > 1 else (0.0, own[0].p50_ms)
        found.append(Surveyed(name, float(base), float(slope), own[0].bytes, _top1(name)))
    return found, measured


def _stopwatch(work: Work, spec: Spec, seconds: float) -> Stopwatch:
    photographs = tuple(sample.image for sample in evenly(work.dataset.splits["val"], PHOTOGRAPHS))
    card = Card(work.dataset.classes, spec, {}, {})
    return Stopwatch(card, photographs, work.options.threads, seconds, work.options.target)


def _top1(name: str) -> float:
    if name in PUBLISHED_TOP1:
        return PUBLISHED_TOP1[name]
    weights = nets.TABLE[name].pretrained if name in nets.TABLE else None
    return weights.top1 if isinstance(weights, TorchvisionWeights) else UNKNOWN_TOP1


def shortlisted(work: Work, found: list[Surveyed]) -> list[Architecture]:
    """What is worth training, by the rule of `Survey`; the most promising first.

    Raises:
        UserError: if the fastest of all is too slow to be pruned to the budget; it says how fast that is. What is only
            too large goes on alone, the smallest file of all: the search says whether it can be cut so far.
    """
    budget, training = budget_of(work), work.dataset.splits["train"]
    largest = max(max(s.size.height, s.size.width) for s in training)
    limit = min(LARGEST, max(SMALLEST, -(-largest // STRIDE) * STRIDE))
    sides = [work.options.size] if work.options.size else list(range(SMALLEST, limit + 1, STRIDE))

    def area(side: int) -> int:
        size = input_size(training, side)
        return size.height * size.width

    fitting, nearly = [], []
    for one in found:
        small = 1.0 if budget.bytes is None else budget.bytes / KEPT**2 / one.bytes  # parameters: widths squared
        able = [side for side in sides if one.pruned_ms(area(side)) <= budget.ms]
        if able and small >= 1:
            fitting.append((one.top1 * max(able) ** 0.5, Architecture(one.backbone, max(able))))
        elif able:
            nearly.append((small, Architecture(one.backbone, max(able))))
    if best := sorted(fitting, key=lambda pair: -pair[0])[:SHORTLIST] or sorted(nearly, key=lambda pair: -pair[0])[:1]:
        return [architecture for _, architecture in best]
    fastest = min(found, key=lambda one: one.ms(area(sides[0])))
    size, ms = input_size(training, sides[0]), fastest.ms(area(sides[0]))
    if ms > FARTHEST * budget.ms:
        raise UserError(
            f"the budget of {budget.ms:g} ms cannot be met: the fastest found, {fastest.backbone} at "
            f"{size.width}x{size.height} px, takes {ms:.2f} ms before pruning."
        )
    return [Architecture(fastest.backbone, sides[0])]


def _pace(work: Work, shortlist: list[Architecture], whole: int, allowed: float) -> tuple[int, int]:
    """How many of the shortlist are trained and for how many epochs: chosen once, so that a resume treats all alike."""
    note = work.path(SCOUTS) / PACE
    if work.resume and note.is_file():
        try:
            known = json.loads(note.read_text(encoding="utf-8"))
            return int(known["scouts"]), int(known["epochs"])
        except (ValueError, TypeError, KeyError):
            pass  # not whole: measured again
    seconds = [seconds_for_epoch(work, architecture) for architecture in shortlist]
    scouts, epochs = paced(seconds, allowed, whole)
    write_json(note, {"scouts": scouts, "epochs": epochs})
    return scouts, epochs


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
    able = [count for count in range(2, len(seconds) + 1) if allowed >= least * sum(seconds[:count])]
    if not able:
        return 1, max(1, round(min(PACE_EPOCHS, whole, allowed / seconds[0])))
    count = max(able)
    return count, max(1, int(min(wanted, allowed / sum(seconds[:count]))))


class Scout:
    """Trains the shortlist for a tenth of the epochs, chooses the best on `val`, and plans by the time that is left.

    Where the time is short, fewer of it. A single one is trained for a few epochs, which say how long one takes.
    """

    name = "scout"

    def run(self, work: Work) -> dict[str, Any]:
        """Train the scouts, choose."""
        start = time.perf_counter()
        shortlist = [Architecture(*pair) for pair in work.done["survey"]["shortlist"]]
        whole = work.options.epochs or default_epochs(len(work.dataset.splits["train"]))
        allowed = SCOUTING * (work.options.seconds or float("inf"))
        count, epochs = _pace(work, shortlist, whole, allowed)
        scouts = [_scouted(work, architecture, epochs) for architecture in shortlist[:count]]
        best = max(range(len(scouts)), key=lambda place: scouts[place]["ap"])
        speed = scouts[best]["seconds_for_epoch"]
        ahead = TRAINING + SEARCHING + TUNING
        left = remaining_seconds(work) - (time.perf_counter() - start) - measuring_seconds(work, CLOCK + FINALS)
        share = TRAINING / ahead * left / speed
        chosen = shortlist[best]
        return {
            "path": f"stages/{self.name}.json",
            "architecture": [chosen.backbone, chosen.side],
            "epochs": int(max(1, min(whole, share))),
            "seconds_for_epoch": speed,
            "candidates": scouts,
        }


def seconds_for_epoch(work: Work, architecture: Architecture) -> float:
    """A first guess: by the fastest of some training steps, for other programs only ever slow one down."""
    detector, _ = begin(work, architecture)
    samples, batch = work.dataset.splits["train"], work.options.batch
    if work.options.threads:
        torch.set_num_threads(work.options.threads)
    few = evenly(samples, batch)
    loader = training_loader(few, detector.spec.size, batch=batch, seed=0, mosaic_until=0, workers=0)
    images, targets = next(iter(loader))
    detector.train().to(memory_format=torch.channels_last)
    criterion, images = Criterion(), images.contiguous(memory_format=torch.channels_last)
    steps = []
    for _ in range(STEPS):
        start = time.perf_counter()
        criterion(detector, images, targets).total.backward()
        steps.append(time.perf_counter() - start)
    return max(1e-6, min(steps) * max(1, len(samples) // batch))


def _scouted(work: Work, architecture: Architecture, epochs: int) -> dict[str, Any]:
    """Train a scout, or read what it reached before the build was interrupted."""
    folder = work.path(SCOUTS) / f"{file_name(architecture.backbone)}-{architecture.side}"
    note = folder / "scout.json"
    if work.resume and note.is_file():
        known: dict[str, Any] = json.loads(note.read_text(encoding="utf-8"))
        return known
    detector, _ = begin(work, architecture)
    outcome = teach(work, detector, epochs, folder, SCOUT_EVALUATIONS)
    row = _stopwatch(work, detector.spec, SURVEY_SECONDS)(detector).rows[0]
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
    }
    write_json(note, found)
    return found


class Search:
    """Cuts the trained detector to the budget: the best structure that a search finds, measured and fine-tuned."""

    name = "search"

    def run(self, work: Work) -> dict[str, Any]:
        """Search, fine-tune, describe the winner."""
        options = work.options
        left = max(0.0, remaining_seconds(work) - measuring_seconds(work, FINALS))
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
        )
        found = search(request, work.dataset, work.tell)
        detector, card = load_detector(found.path)
        described = describe(work, found.path, detector)
        save_detector(detector, card.judged(described, described["split"]), found.path)
        trials = [
            {"name": f"search trial {row['trial']}", "stage": self.name, "p50_ms": row["latency_ms"], **row}
            for row in found.results["trials"]
        ]
        return {**described, "searched_ap": found.winner.ap, "epochs_tuned": request.epochs, "candidates": trials}
