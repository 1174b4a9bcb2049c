"""The search as a whole: space, clock, trials, finalists measured, the winner fine-tuned and saved."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from optuna.study import Study

from leandet.atomic import write_json, write_text
from leandet.card import Card
from leandet.data.sample import Dataset, evenly
from leandet.detector.detector import Detector
from leandet.detector.files import load_detector, save_detector
from leandet.errors import UserError
from leandet.evaluate import best_threshold, check_classes, evaluate
from leandet.export.stopwatch import Stopwatch
from leandet.learn.distill import taught
from leandet.learn.recipe import Recipe
from leandet.learn.train import Outcome, train
from leandet.machine import OTHER_BLOCK, channel_block, describe_machine
from leandet.quantize.rounded import rounded
from leandet.report.chart import Axis, Series, picture
from leandet.runtime import open_runtime
from leandet.runtime.torch import TorchRuntime
from leandet.search.finalists import SAFE, Tell, settle
from leandet.search.judge import Judge, channel_moments, channel_worth
from leandet.search.latency import Clock, Pace, wind
from leandet.search.request import JudgedBy, Request
from leandet.search.scene import Scene
from leandet.search.space import Candidate, Space
from leandet.search.strategies import STRATEGIES
from leandet.search.study import (
    CLOCK,
    SETTLED,
    SUPERNET,
    Trialled,
    Worker,
    finished,
    front,
    judged,
    open_study,
    storing,
)
from leandet.search.supernet import Supernet

MODEL, FRONT, CHART = "model.safetensors", "front.json", "front.svg"
TUNING, SUPERNETS = "training", "supernet"  # folders, with what they depend on in their names
TIMED_SECONDS, TIMED_IMAGES = 3.0, 32


@dataclass(frozen=True, slots=True)
class Found:
    """What a search found.

    Attributes:
        path: the winner, an ordinary model file.
        ap: the winner's AP on the validation split: over all of it where it was to be fine-tuned, else on the judged
            images.
        epochs: of its fine-tuning; 0 where there was none, or where it lost and was taken back.
        p50_ms: measured, the whole path.
        whole_p50_ms: the uncut detector's, measured in turns with it.
        winner: its trial.
        trials: all that were judged.
        results: the content of `front.json`.
    """

    path: Path
    ap: float
    epochs: int
    p50_ms: float
    whole_p50_ms: float
    winner: Trialled
    trials: list[Trialled]
    results: dict[str, Any]


@storing()
def search(
    request: Request, dataset: Dataset, tell: Tell | None = None, run: Callable[[Worker], None] = Worker.run
) -> Found:
    """Find the most accurate structure within a budget, by cutting a trained detector.

    Run again with the same request, it goes on from the trials that are finished; run twice at once with one storage,
    the two share the trials.

    Args:
        request: see `Request`.
        dataset: of the detector's classes; `train` measures batch-norms and trains what is trained, `val` judges,
            `test` is never looked at.
        tell: takes one line of progress at a time.
        run: sees to it that the worker's study gets its trials; by default this process runs them.

    Raises:
        UserError: if the model does not fit the data, nothing can be cut, the storage holds another search or is judged
            by another worker's supernet, the supernet cannot be trained or its files are damaged, the storage fails,
            or the budget cannot be met (it says what the fastest takes).
        KeyboardInterrupt: after Ctrl-C; run it again to go on.
    """
    say = tell or (lambda line: None)
    deadline = time.monotonic() + (float("inf") if request.seconds is None else request.seconds)
    detector, card = load_detector(request.model)
    check_classes(open_runtime(request.model, request.threads), dataset.classes, str(dataset.root))
    if request.threads:
        torch.set_num_threads(request.threads)
    try:
        request.out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"the folder {request.out} cannot be made ({error.strerror}): choose another --out.") from error
    study = open_study(request.url, _identity(request, dataset))
    say("finding the channel groups and what their channels are worth")
    space = space_of(request, detector, dataset)
    judge = Judge(space, dataset)
    photographs = tuple(sample.image for sample in evenly(dataset.splits["val"], TIMED_IMAGES))
    finish = rounded(photographs) if request.int8 else None
    stopwatch = Stopwatch(card, photographs, request.threads, TIMED_SECONDS, request.to, finish)
    scene = Scene(space, _clock(study, space, stopwatch, request, say), request.budget)
    pace = Pace(stopwatch, space.detector, scene.clock.whole_ms)
    # Where the whole detector is safely within the budget nothing need be cut: it is the one trial.
    must_cut = replace(scene, budget=request.budget.part(SAFE)).over(space.whole)
    wanted = request.trials if must_cut else 1
    if request.judge is JudgedBy.SUPERNET and must_cut:
        deadline += _train_supernet(request, study, space, card, dataset, say)

    def told(number: int, trial: Trialled) -> None:
        say(_line(number, wanted, trial))

    known = study.user_attrs.get(SETTLED, {})
    # It was interrupted while it fine-tuned the winner, or is done; one that its time had stopped goes on.
    if known.get("wanted") == wanted and (known.get("finished", 0) >= wanted or not (request.out / MODEL).is_file()):
        outcome = _Outcome.from_json(known, judged(study, scene.over))
        settled = outcome.winner.candidate
        made = space.detector if settled == space.whole else judge.calibrated(settled)
    else:
        how = request.how if must_cut else STRATEGIES["uniform"]  # whose one point is the whole
        run(Worker(study, scene, how, judge, wanted, request.seed, deadline, told))
        trials = judged(study, scene.over)
        winner, made, p50_ms = settle(scene, judge, pace, trials, say)
        outcome = _Outcome(trials, winner, p50_ms, pace.whole_ms)
        study.set_user_attr(SETTLED, {"wanted": wanted, "finished": finished(study), **outcome.to_json()})
    return _finish(request, dataset, card, space, made, outcome, say)


def space_of(request: Request, detector: Detector, dataset: Dataset) -> Space:
    """What may be chosen, the detector's channels ordered by worth; a supernet's order never changes.

    Raises:
        UserError: if nothing can be cut.
    """
    training = dataset.splits["train"]
    if request.judge is JudgedBy.SUPERNET:  # whose weights have learned to be cut
        return Space(detector, supernet_of(request, dataset).worth(detector, dataset), request.smaller_inputs)
    worth = channel_worth(detector, training, request.seed)
    return Space(detector, worth, request.smaller_inputs, channel_moments(detector, training))


def supernet_of(request: Request, dataset: Dataset) -> Supernet:
    """The supernet of a request: in a folder of its own for each model, data, seed and length of training."""
    folder = request.out / f"{SUPERNETS}-{_fingerprint(request, dataset)}-{request.supernet_epochs}x{request.batch}"
    return Supernet(folder, request.supernet_epochs, request.batch, request.seed)


def _fingerprint(request: Request, dataset: Dataset, *more: object) -> str:
    """A short name that is another one for each model, data, seed and what else counts; JSON values."""
    parts = [_digest(request.model), dataset.root.name, request.seed, *more]
    return hashlib.blake2b(json.dumps(parts).encode(), digest_size=6).hexdigest()


def _train_supernet(request: Request, study: Study, space: Space, card: Card, dataset: Dataset, say: Tell) -> float:
    """Make the space's detector the supernet by which the study judges; returns the seconds that it took.

    Raises:
        UserError: if another worker's supernet judges this study.
    """
    start, own = time.monotonic(), supernet_of(request, dataset)
    known = study.user_attrs.get(SUPERNET)
    if known is None or own.finished:
        if not own.finished:
            say(f"training the supernet, {own.epochs} epochs")
        own.train(space, card.classes, dataset)
        known = study.user_attrs.get(SUPERNET) or own.digest  # perhaps another worker was faster
        study.set_user_attr(SUPERNET, known)
    if not own.finished or own.digest != known:
        raise UserError(
            f"another worker's supernet judges the trials of this storage: replace the folder {own.folder} by the one "
            "of that name in its --out, and start again."
        )
    return time.monotonic() - start


def _digest(path: Path) -> str:
    return hashlib.blake2b(path.read_bytes(), digest_size=16).hexdigest()


def _identity(request: Request, dataset: Dataset) -> dict[str, Any]:
    supernet = request.judge is JudgedBy.SUPERNET
    own = [request.supernet_epochs, request.batch] if supernet else ["the nearer of two cuts"]
    block = channel_block()  # levels mean other widths where it is another
    return {
        "model": _digest(request.model),
        "data": dataset.root.name,
        "budget": [request.budget.ms, request.budget.bytes],
        "strategy": request.strategy,
        "smaller_inputs": request.smaller_inputs,
        "clock": "sizes",  # what it knows; one that was wound before it knew them is another search
        "target": [request.to, request.threads, *(["int8"] if request.int8 else [])],
        "seed": request.seed,
        "judge": [request.judge.value, *own],
        **({"block": block} if block != OTHER_BLOCK else {}),
    }


def _line(number: int, wanted: int, trial: Trialled) -> str:
    met = "" if trial.met else ", over the budget"
    return (
        f"trial {number} of {wanted}: AP {100 * trial.ap:.1f} % at about {trial.latency_ms:.2f} ms{met}, "
        f"{trial.seconds:.1f} s"
    )


def _clock(study: Study, space: Space, stopwatch: Stopwatch, request: Request, say: Tell) -> Clock:
    """The study's clock: wound by its first worker, set right by measuring uniform pruning to the budget.

    Raises:
        UserError: if the budget cannot be met.
    """
    if (known := study.user_attrs.get(CLOCK)) is not None:
        return Clock.from_json(known)
    say("measuring the detector's layers")
    clock, budget = wind(space, stopwatch, request.looks_ms), request.budget
    say(f"the whole detector takes {clock.whole_ms:.2f} ms at the machine's usual speed")
    pace = Pace(stopwatch, space.detector, clock.whole_ms)
    if Scene(space, clock, budget).over(space.whole):
        for _ in range(2):
            scene = Scene(space, clock, budget)
            candidate = space.fit(space.even(), scene.over, grow=True)
            measured = pace(space.cut(candidate))[0]
            say(f"uniform pruning takes {measured.p50_ms:.2f} ms, by its layers {scene.ms(candidate):.2f} ms")
            clock = clock.corrected(space, candidate, measured)
    fastest = space.narrowest()
    if Scene(space, clock, budget).over(fastest):
        measured = pace(space.cut(fastest))[0]
        if budget.excess(measured.p50_ms, measured.bytes) > 0:
            raise UserError(
                f"the budget cannot be met with this detector: its narrowest structure, "
                f"{fastest.size.width}x{fastest.size.height} px, takes {measured.p50_ms:.2f} ms and "
                f"{measured.bytes / 1e6:.2f} MB: allow more, or begin with a faster backbone or a smaller input."
            )
    known = study.user_attrs.get(CLOCK)  # perhaps another worker was faster
    if known is None:
        study.set_user_attr(CLOCK, clock.to_json())
    return clock if known is None else Clock.from_json(known)


@dataclass(frozen=True, slots=True)
class _Outcome:
    trials: list[Trialled]
    winner: Trialled
    p50_ms: float
    whole_ms: float

    def to_json(self) -> dict[str, Any]:
        """The decision, without the trials, which the study has."""
        winner = {**asdict(self.winner), "candidate": self.winner.candidate.key}
        return {"winner": winner, "p50_ms": self.p50_ms, "whole_ms": self.whole_ms}

    @classmethod
    def from_json(cls, value: Mapping[str, Any], trials: list[Trialled]) -> _Outcome:
        """Read what `to_json` wrote."""
        winner = {**value["winner"], "candidate": Candidate.parse(value["winner"]["candidate"])}
        return cls(trials, Trialled(**winner), value["p50_ms"], value["whole_ms"])


def _finish(
    request: Request, dataset: Dataset, card: Card, space: Space, made: Detector, outcome: _Outcome, say: Tell
) -> Found:
    """Fine-tune, save the winner, write the front."""
    cut = made.spec != space.detector.spec
    ap, epochs = outcome.winner.ap, 0
    if request.epochs and cut:
        ap, epochs = _tuned(request, dataset, card, made, outcome.winner.candidate, say)
    provenance = {**card.provenance, "search": request.strategy, "search_trials": str(len(outcome.trials))}
    if request.judge is JudgedBy.SUPERNET and cut:
        provenance["search_supernet_epochs"] = str(request.supernet_epochs)
    if epochs:
        provenance["search_epochs"] = str(epochs)
    path = request.out / MODEL
    own = Card(card.classes, made.spec, {"val_ap": ap}, provenance)
    own.metrics["threshold"] = best_threshold(TorchRuntime(made.eval(), own, request.threads), dataset)
    save_detector(made, own, path)
    results = _results(request, space, path, ap, epochs, outcome)
    write_json(request.out / FRONT, results)
    write_text(request.out / CHART, _chart(request, outcome))
    return Found(path, ap, epochs, outcome.p50_ms, outcome.whole_ms, outcome.winner, outcome.trials, results)


def _tuned(
    request: Request, dataset: Dataset, card: Card, made: Detector, candidate: Candidate, say: Tell
) -> tuple[float, int]:
    """Fine-tune the winner in place, and take that back where it lost: a few epochs may not make up for their rate.

    Returns:
        AP on all of `val`, and the epochs that count.
    """
    spec, state = made.spec, {name: value.clone() for name, value in made.state_dict().items()}
    runtime = TorchRuntime(made.eval(), Card(card.classes, spec, {}, {}), request.threads)
    before = evaluate(runtime, dataset.splits["val"], card.classes)[0].ap
    say(f"fine-tuning the winner, {request.epochs} epochs")
    tuned = tune(request, dataset, made, _tuning_folder(request, dataset, candidate))
    after = tuned.best_ap
    if made.spec.fall != spec.fall:  # chosen for fewer duplicates, at some AP
        after = tuned.ap_by_fall.get(spec.fall, after)
    if after >= before:
        return tuned.best_ap, tuned.epochs
    say(f"it had an AP of {100 * before:.1f} % before and has {100 * after:.1f} % now: it stays as it was before")
    made.spec = spec
    made.load_state_dict(state)
    return before, 0


def _tuning_folder(request: Request, dataset: Dataset, candidate: Candidate) -> Path:
    """Another one for each model, data, judge, seed and structure: no training goes on from another search's."""
    judge = [request.judge.value]
    if request.judge is JudgedBy.SUPERNET:
        judge.append(supernet_of(request, dataset).digest)
    name = _fingerprint(request, dataset, judge, candidate.key)
    return request.out / f"{TUNING}-{name}-{request.epochs}x{request.batch}"


def tune(request: Request, dataset: Dataset, detector: Detector, folder: Path) -> Outcome:
    """Fine-tune a cut detector in place, taught by the uncut one; interrupted, it goes on from `folder`."""
    recipe = Recipe.after_cut(request.epochs, request.batch, request.seed)
    training, validation = dataset.splits["train"], dataset.splits["val"]
    levels = detector.spec.levels
    guide = taught(request.model, None, 1.0, dataset.classes, levels)
    return train(detector, training, validation, dataset.classes, recipe, folder, resume=True, guide=guide)


def _results(request: Request, space: Space, path: Path, ap: float, epochs: int, outcome: _Outcome) -> dict[str, Any]:
    chosen = outcome.winner.to_json(space)
    return {
        "budget_ms": request.budget.ms,
        "budget_bytes": request.budget.bytes,
        "target": request.to,
        "int8": request.int8,
        "strategy": request.strategy,
        "judge": request.judge.value,
        "chosen": {
            **chosen,
            "path": str(path),
            "ap": ap,
            "searched_ap": outcome.winner.ap,
            "epochs_tuned": epochs,
            "p50_ms": outcome.p50_ms,
            "bytes": path.stat().st_size,
        },
        "whole_p50_ms": outcome.whole_ms,
        "front": [trial.to_json(space) for trial in front(outcome.trials)],
        "trials": [trial.to_json(space) for trial in outcome.trials],
        "seconds_per_trial": sum(t.seconds for t in outcome.trials) / max(1, len(outcome.trials)),
        "machine": describe_machine(),
    }


def _chart(request: Request, outcome: _Outcome) -> str:
    def points(trials: list[Trialled]) -> list[tuple[float, float]]:
        return [(t.latency_ms, t.ap) for t in trials]

    series = [
        Series("trials", points(outcome.trials), joined=False),
        Series("front", points(front(outcome.trials))),
        Series("chosen, measured", points([outcome.winner]), joined=False),
    ]
    title = "AP without fine-tuning, against latency"
    return str(picture(title, series, Axis("p50 latency, ms"), Axis("AP"), request.budget.ms))
