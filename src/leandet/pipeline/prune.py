"""Prunes a trained detector with data: cut, batch-norms measured anew, fine-tuned, once or step by step.

Each point on the way is a whole model file with its figures beside it, so an interrupted pruning goes on from the last.
"""

from __future__ import annotations

import contextlib
import copy
import json
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from itertools import islice
from pathlib import Path
from typing import Any, cast

import torch
from torch import nn

from leandet.atomic import write_json
from leandet.card import Card
from leandet.compress import Moments, Rule, Schedule, Scope, recalibrate, shrink
from leandet.compress.prune import Pruned
from leandet.cost.count import count
from leandet.data.sample import Dataset
from leandet.detector.detector import Detector
from leandet.detector.files import load_detector, save_detector
from leandet.errors import UserError
from leandet.evaluate import best_threshold, check_classes, evaluate
from leandet.export.stopwatch import Stopwatch
from leandet.learn.distill import answered, nearest, taught
from leandet.learn.loss import Guide
from leandet.learn.recipe import TUNING_RATE, Recipe
from leandet.learn.train import LAST, train
from leandet.machine import channel_block
from leandet.pipeline.goal import Goal, Uncut
from leandet.pipeline.options import default_epochs
from leandet.pipeline.scoring import CRITERIA, Pictures
from leandet.request import check_request
from leandet.runtime import open_runtime
from leandet.runtime.torch import TorchRuntime

REQUEST, SUFFIX, BEFORE = "prune.json", ".pruning", "before"
BENCH_SECONDS, BENCH_IMAGES = 4.0, 32
COMPARED = 4  # batches of training images that say which of two cuts is nearer to what was cut
Tell = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Pruning:
    """How a detector is pruned; the same words as on the command line.

    Attributes:
        goal: how far.
        criterion: what a channel is worth, a name of `CRITERIA`.
        scope: whether every group loses the same share, or the cut falls where channels are worth least.
        rules: for layers by name or type; the later ones win.
        align: keep multiples of so many channels, for kernels compute in blocks, and a part of one saves no time; None
            for this machine's.
        steps: cuts, with fine-tuning after each.
        schedule: how the cut is spread over the steps.
        epochs: of fine-tuning after the last cut; None for half of what training from nothing takes; 0 for none.
        between: epochs after each earlier cut; None for a fifth of `epochs`.
        sparse_epochs: epochs of training with the scale penalty before the first cut.
        scale_penalty: weight of the batch-norms' absolute scales in the loss during those and between cuts (Slim).
        learning_rate: peak of the fine-tuning.
        batch: images a training step.
        distill: weight of a teacher's answers beside the labels while fine-tuning; 0 for the labels alone.
        teacher: a `.safetensors` detector; None for the uncut one.
        seed: of everything random.
        threads: of training and of the measured runtime; None for all usable cores.
    """

    goal: Goal
    criterion: str = "taylor"
    scope: Scope = Scope.GLOBAL
    rules: tuple[Rule, ...] = ()
    align: int | None = None
    steps: int = 1
    schedule: Schedule = Schedule.AGP
    epochs: int | None = None
    between: int | None = None
    sparse_epochs: int = 0
    scale_penalty: float = 0.0
    learning_rate: float = TUNING_RATE
    batch: int = 16
    distill: float = 1.0
    teacher: Path | None = None
    seed: int = 0
    threads: int | None = None

    def __post_init__(self) -> None:
        if self.criterion not in CRITERIA:
            raise UserError(f"the criterion must be one of {', '.join(CRITERIA)}, not {self.criterion!r}.")
        if self.steps < 1:
            raise UserError(f"steps must be at least 1, not {self.steps}.")
        if self.sparse_epochs and not self.scale_penalty:
            raise UserError("epochs of sparse training need a scale_penalty above 0, such as 1e-4.")
        self.recipe(1)

    def recipe(self, epochs: int, *, sparse: bool = False) -> Recipe:
        """Of a fine-tuning of so many epochs."""
        recipe = Recipe.after_cut(epochs, self.batch, self.seed, self.learning_rate)
        return replace(recipe, scale_penalty=self.scale_penalty) if sparse else recipe

    def to_json(self) -> dict[str, Any]:
        """A plain object that says all of it."""
        rules = [asdict(rule) | {"kind": rule.kind.__name__} for rule in self.rules]
        plain = {"goal": str(self.goal), "rules": rules, "scope": self.scope.value, "schedule": self.schedule.value}
        teacher = None if self.teacher is None else str(self.teacher)
        names = [name for name in self.__slots__ if name not in plain]
        return plain | {name: getattr(self, name) for name in names} | {"teacher": teacher}


def prune_detector(
    model: Path,
    dataset: Dataset,
    out: Path,
    pruning: Pruning,
    *,
    resume: bool = False,
    tell: Tell | None = None,
) -> dict[str, Any]:
    """Prune a detector and write it as an ordinary model file.

    Args:
        model: a `.safetensors` detector; left as it is.
        dataset: labelled images of its classes: `train` fine-tunes, `val` chooses the epoch, the judged split judges.
        out: the new `.safetensors` file; the steps on the way are kept beside it, in a folder of its name.
        pruning: how.
        resume: go on from the last finished point (and, within fine-tuning, from the last epoch).
        tell: takes one line of progress at a time.

    Returns:
        `{model, path, goal, criterion, points, before, after, p50_ms, before_p50_ms, ...}`; `points` has the accuracy
        and cost of the detector before, after each cut, recalibration and fine-tuning. Times are p50 in ONNX Runtime,
        measured in turns.

    Raises:
        UserError: if the model or an option does not fit, the goal cannot be reached, or the disk refuses.
        KeyboardInterrupt: after Ctrl-C; the pruning can be resumed.
    """
    if out.suffix != ".safetensors":
        raise UserError(f"{out}: a pruned detector ends in .safetensors: name it {out.with_suffix('.safetensors')}.")
    if out.resolve() == model.resolve():
        raise UserError(f"{out} is the model itself: name another file.")
    check_classes(open_runtime(model, pruning.threads), dataset.classes, str(dataset.root))
    detector, card = load_detector(model)
    guide = taught(model, pruning.teacher, pruning.distill, card.classes, card.spec.levels)
    folder = out.with_suffix(SUFFIX)
    pruning = replace(pruning, align=_align(pruning.align, folder / REQUEST, resume=resume))
    request = {"model": str(model), "data": str(dataset.root), **pruning.to_json()}
    notes = any(note.name not in (REQUEST, f"{BEFORE}.json") for note in folder.glob("*.json"))
    made = notes or any(folder.glob(f"*/{LAST}"))  # worth keeping
    check_request(folder / REQUEST, request, "pruning", resume=resume, made=made)
    if not resume:  # of another request, perhaps: what comes before any cut is not worth refusing for
        (folder / f"{BEFORE}.json").unlink(missing_ok=True)
    write_json(folder / REQUEST, request)
    if pruning.threads:
        torch.set_num_threads(pruning.threads)
    job = _Job(model, dataset, pruning, folder, resume, tell or (lambda line: None), card, guide)
    return {**request, **job.run(detector, out)}


def _align(asked: int | None, begun: Path, *, resume: bool) -> int:
    """What was asked for; otherwise what the interrupted pruning began with, or this machine's block."""
    if asked is not None:
        return asked
    if resume and begun.is_file():
        with contextlib.suppress(ValueError, OSError, AttributeError):  # `check_request` says what is wrong with it
            if isinstance(align := json.loads(begun.read_text(encoding="utf-8")).get("align"), int):
                return align
    return channel_block()


@dataclass(slots=True)
class _Job:
    """One pruning under way; `points` are the figures so far."""

    model: Path
    dataset: Dataset
    pruning: Pruning
    folder: Path
    resume: bool
    say: Tell
    card: Card
    guide: Guide | None
    points: list[dict[str, Any]] = field(default_factory=list)
    stopwatch: Stopwatch = field(init=False)

    def __post_init__(self) -> None:
        images = tuple(sample.image for sample in self.dataset.splits[self.dataset.judging][:BENCH_IMAGES])
        self.stopwatch = Stopwatch(self.card, images, self.pruning.threads, BENCH_SECONDS)

    def run(self, detector: Detector, out: Path) -> dict[str, Any]:
        """All points, the file and the times."""
        uncut = self._point(BEFORE, lambda: detector)
        steps, epochs = self.pruning.steps, self.pruning.sparse_epochs
        if (steps > 1 or epochs) and not self._known("sparse" if epochs else "1-cut"):
            self._cut(uncut, uncut, 0, steps)  # is the goal in reach at all? before hours of training
        if epochs:
            detector = self._point("sparse", lambda: self._tune(uncut, epochs, "sparse", sparse=True))
        for step in range(1, steps + 1):
            detector = self._step(uncut, detector, step)
        self.say("measuring both in ONNX Runtime")
        times = self.stopwatch(uncut, detector)
        before, after = times.rows
        card = self._card(detector, self.points[-1])
        runtime = TorchRuntime(detector, card, self.pruning.threads)
        card.metrics["threshold"] = best_threshold(runtime, self.dataset, self.points[-1].get("threshold"))
        save_detector(detector, card, out)
        return {
            "path": str(out),
            "before": self.points[0],
            "after": {**self.points[-1], "bytes": out.stat().st_size},
            "points": self.points,
            "before_p50_ms": before.p50_ms,
            "p50_ms": after.p50_ms,
            "threads": after.threads,
            "warnings": times.warnings,
            "machine": times.machine,
        }

    def _step(self, uncut: Detector, detector: Detector, step: int) -> Detector:
        """Cut, recalibrate, fine-tune."""
        pruning, name = self.pruning, f"{step}-" if self.pruning.steps > 1 else ""
        cut = self._point(f"{name}cut", lambda: self._nearer(detector, self._cut(uncut, detector, step - 1, step)))
        calm = self._point(f"{name}recalibrated", lambda: recalibrate(cut, self._pictures(cut).plain()))
        last = step == pruning.steps
        epochs = self._epochs(last=last)
        if not epochs:
            return calm
        return self._point(f"{name}tuned", lambda: self._tune(calm, epochs, f"{name}tuned", sparse=not last))

    def _nearer(self, detector: Detector, made: Pruned) -> Detector:
        """The cut, plain or with layers that make up for what they lost: which answers more like what was cut."""
        pictures = self._pictures(detector)
        rebuilt = made.reconstructed(detector, Moments.measure(detector, pictures.plain()))
        both = [_detector(made.module), _detector(rebuilt)]
        calm = [_detector(recalibrate(copy.deepcopy(one), pictures.plain())) for one in both]
        chosen = nearest(calm, [(i, answered(detector.eval(), i)) for i in islice(pictures.plain(), COMPARED)])
        self.say("the layers make up for what they lost" if chosen is calm[1] else "a plain cut is nearer")
        return both[calm.index(chosen)]

    def _epochs(self, *, last: bool) -> int:
        whole = self.pruning.epochs
        if whole is None:
            whole = max(1, default_epochs(len(self.dataset.splits["train"])) // 2)
        if last:
            return whole
        if self.pruning.between is not None:
            return self.pruning.between
        return max(1, whole // 5) if whole else 0

    def _pictures(self, detector: Detector) -> Pictures:
        return Pictures(
            self.dataset.splits["train"], detector.spec.size, batch=self.pruning.batch, seed=self.pruning.seed
        )

    def _timed(self, candidate: nn.Module) -> float:
        """A candidate's p50 in ms, told as it comes."""
        milliseconds = self.stopwatch(_detector(candidate)).rows[0].p50_ms
        self.say(f"a candidate takes {milliseconds:.2f} ms")
        return milliseconds

    def _beside(self, uncut: Detector, candidate: nn.Module) -> float:
        """A candidate's p50 as a share of the uncut detector's, told as it comes."""
        whole, part = self.stopwatch(uncut, _detector(candidate)).rows
        self.say(f"a candidate takes {part.p50_ms:.2f} ms of the uncut detector's {whole.p50_ms:.2f} ms")
        return part.p50_ms / whole.p50_ms

    def _cut(self, uncut: Detector, detector: Detector, before: int, after: int) -> Pruned:
        """From the share of the cut that is done after `before` steps to that after `after` steps."""
        pruning, size = self.pruning, detector.spec.size
        example = torch.zeros(1, 3, size.height, size.width)
        criterion = CRITERIA[pruning.criterion](detector, self._pictures(detector))
        done, was = (pruning.schedule.done(step, pruning.steps) for step in (after, before))
        # A rule's share is of the uncut channels, as a goal's is: each step cuts its part of what is left.
        rules = [
            rule if rule.ratio is None else replace(rule, ratio=1 - (1 - done * rule.ratio) / (1 - was * rule.ratio))
            for rule in pruning.rules
        ]
        place = Uncut(uncut, example, self._timed, lambda candidate: self._beside(uncut, candidate))
        aim = pruning.goal.aim(place, detector, done, was)
        return shrink(
            detector,
            example,
            aim.ratio,
            criterion,
            target=aim.target,
            scope=pruning.scope,
            rules=rules,
            align=cast(int, pruning.align),  # known since `prune_detector`
        )

    def _tune(self, detector: Detector, epochs: int, name: str, *, sparse: bool) -> Detector:
        """A copy, fine-tuned; `sparse` where a cut is still to come."""
        detector = copy.deepcopy(detector)
        outcome = train(
            detector,
            self.dataset.splits["train"],
            self.dataset.splits["val"],
            self.card.classes,
            self.pruning.recipe(epochs, sparse=sparse),
            self.folder / name,
            resume=self.resume,
            guide=self.guide,
        )
        self.card = replace(self.card, metrics={**self.card.metrics, "val_ap": outcome.best_ap})
        return detector

    def _known(self, name: str) -> bool:
        return self.resume and (self.folder / f"{name}.json").is_file()

    def _point(self, name: str, make: Callable[[], nn.Module]) -> Detector:
        """A detector that is made, judged and kept, or that was kept before."""
        path, note = self.folder / f"{name}.safetensors", self.folder / f"{name}.json"
        if self._known(name):
            try:
                figures, (detector, self.card) = json.loads(note.read_text(encoding="utf-8")), load_detector(path)
                self.points.append(figures)
            except (ValueError, UserError):
                self.say(f"{path} is not whole: it is made again")
            else:
                return detector
        detector = _detector(make())
        self.card = replace(self.card, spec=detector.spec)
        save_detector(detector, self.card, path)
        figures = self._figures(name, detector, path)
        own = {key: value for key, value in self.card.metrics.items() if key != "threshold"}  # measured at the end
        self.card = replace(self.card, metrics=own).judged(figures, figures["split"])
        save_detector(detector, self.card, path)
        write_json(note, figures)
        self.points.append(figures)
        self.say(
            f"{name}: AP {100 * figures['ap']:.1f} %, {figures['multiply_adds'] / 1e6:.0f} M multiply-adds, "
            f"{figures['parameters'] / 1e6:.2f} M parameters"
        )
        return detector

    def _figures(self, name: str, detector: Detector, path: Path) -> dict[str, Any]:
        """Accuracy through PyTorch and cost."""
        split = self.dataset.judging
        samples = self.dataset.splits[split]
        scores, _ = evaluate(open_runtime(path, self.pruning.threads), samples, self.card.classes)
        size = detector.spec.size
        cost = count(detector, torch.zeros(1, 3, size.height, size.width))
        return {
            "name": name,
            "split": split,
            **scores.to_json(),
            "bytes": path.stat().st_size,
            "parameters": cost.parameters,
            "multiply_adds": cost.multiply_adds,
        }

    def _card(self, detector: Detector, figures: dict[str, Any]) -> Card:
        pruning = self.pruning
        how = f"{pruning.goal}, {pruning.criterion}, {pruning.scope.value}, steps {pruning.steps}"
        told = {"pruned": how, "tuning_epochs": str(self._epochs(last=True))}
        if pruning.distill:
            told |= {"distill": f"{pruning.distill:g}", "teacher": (pruning.teacher or self.model).name}
        card = replace(self.card, spec=detector.spec, provenance={**self.card.provenance, **told})
        return card.judged(figures, figures["split"])


def _detector(module: nn.Module) -> Detector:
    """The same; pruning a detector makes no other module."""
    if not isinstance(module, Detector):
        raise TypeError(f"pruning a detector made a {type(module).__name__}")
    return module
