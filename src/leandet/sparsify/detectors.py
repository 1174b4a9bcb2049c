"""The survey's flow for a detector: a trained one, its small weights cut, trained on, written small, and measured."""

from __future__ import annotations

import copy
import tempfile
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save

from leandet.atomic import staged, write_json
from leandet.card import Card
from leandet.data.sample import Dataset, Sample
from leandet.detector.detector import Detector
from leandet.detector.files import load_detector, save_detector
from leandet.errors import UserError
from leandet.evaluate import best_threshold, check_classes, evaluate
from leandet.export import export
from leandet.learn.distill import taught
from leandet.learn.loss import Guide
from leandet.learn.masking import Masking
from leandet.learn.recipe import TUNING_RATE, Recipe
from leandet.learn.train import LAST, train
from leandet.metrics import Scores
from leandet.quantize.quantize import calibration_images
from leandet.request import check_request
from leandet.runtime import open_runtime
from leandet.runtime.bench import BenchReport, bench
from leandet.sparsify.masking import Plan, apply, rewind, share_of_zeros
from leandet.sparsify.patterns import Masks
from leandet.sparsify.schedule import Ramp
from leandet.sparsify.scores import Movement
from leandet.sparsify.sharing import share

EPOCHS, RAMP = 40, 0.5
PARITY_IMAGES, BENCH_IMAGES, BENCH_SECONDS = 8, 32, 4.0
BACKBONE_RATE = 0.1  # the figures of docs/sparsity.md; what channels' cuts want (`Recipe.after_cut`) is not tried here
SAME = 0.05  # two latencies that differ by less are the same
REQUEST = "sparsify.json"
Tell = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Tuning:
    """How a cut detector is trained on.

    Attributes:
        epochs: passes over the training split; 0 leaves the weights as they were cut.
        batch: images a step.
        learning_rate: the peak, below that of a first training; the recipe's own after a rewind.
        ramp: share of the epochs over which the zeros grow; 0 cuts at once.
        distill: weight of a teacher's answers beside the labels; 0 for the labels alone.
        teacher: a `.safetensors` detector; None for the dense one.
        seed: of order and views.
    """

    epochs: int = EPOCHS
    batch: int = 16
    learning_rate: float = TUNING_RATE
    ramp: float = RAMP
    distill: float = 1.0
    teacher: Path | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        if self.epochs < 0:
            raise UserError(f"epochs must be at least 0, not {self.epochs}.")
        if not 0 <= self.ramp < 1:
            raise UserError(f"the ramp must be a share of the epochs from 0 to below 1, not {self.ramp:g}.")

    @property
    def ramp_epochs(self) -> Ramp:
        """The ramp, ending before the last epoch."""
        return Ramp(min(round(self.ramp * self.epochs), max(0, self.epochs - 1)))

    def recipe(self, *, rewound: bool) -> Recipe:
        """Training's settings; never stopped early, since accuracy falls while zeros grow."""
        if rewound:
            return Recipe(epochs=self.epochs, batch=self.batch, patience=0, seed=self.seed)
        recipe = Recipe.after_cut(self.epochs, self.batch, self.seed, self.learning_rate)
        return replace(recipe, patience=0, warmup_epochs=1.0, backbone_rate=BACKBONE_RATE)

    def to_json(self) -> dict[str, Any]:
        """A plain object of the attributes."""
        return {**asdict(self), "teacher": None if self.teacher is None else str(self.teacher)}


@dataclass(frozen=True, slots=True)
class Outcome:
    """What sparsity gave, measured.

    Attributes:
        path: the sparse file.
        split, images: on which AP was measured, and its size.
        dense_ap, masked_ap, ap: average precision (fractions) of the given detector, of it cut without training (None
            where the choice is made in training), and of the sparse file.
        cut: names of the weights with zeros in them.
        emptied: those of them that hold nothing else.
        sparsity: share of zeros in these weights.
        zeros: share of zeros in all parameters and buffers.
        parameters, nonzero: numbers in the model, and those that are not zero.
        bytes, dense_bytes: of the sparse file, and of the same weights written plainly.
        p50_ms, dense_p50_ms: photograph in, boxes out, both in ONNX Runtime, measured in turns.
        threads: for one call.
        warnings: what may have disturbed the times.
    """

    path: Path
    split: str
    images: int
    dense_ap: float
    masked_ap: float | None
    ap: float
    cut: tuple[str, ...]
    emptied: tuple[str, ...]
    sparsity: float
    zeros: float
    parameters: int
    nonzero: int
    bytes: int
    dense_bytes: int
    p50_ms: float
    dense_p50_ms: float
    threads: int
    warnings: tuple[str, ...]

    @property
    def times_smaller(self) -> float:
        """Of the file."""
        return self.dense_bytes / self.bytes

    @property
    def latency(self) -> str:
        """What the zeros did to the latency, in one sentence."""
        return latency_sentence(self.dense_p50_ms, self.p50_ms)

    def to_json(self) -> dict[str, Any]:
        """A plain object of the attributes, `times_smaller` and `latency`."""
        return {**asdict(self), "path": str(self.path), "times_smaller": self.times_smaller, "latency": self.latency}


def latency_sentence(dense_ms: float, sparse_ms: float) -> str:
    """What zeros did to the latency in ONNX Runtime, which multiplies by them as by any number."""
    times = f"{dense_ms:.2f} ms dense, {sparse_ms:.2f} ms sparse"
    if abs(sparse_ms / dense_ms - 1) <= SAME:
        return f"The zeros changed nothing in ONNX Runtime, which multiplies by them as by any number: {times}."
    change = "less" if sparse_ms < dense_ms else "more"
    return f"ONNX Runtime took {abs(sparse_ms / dense_ms - 1):.0%} {change} time with the zeros: {times}."


def sparsify_detector(
    model: Path,
    dataset: Dataset,
    out: Path,
    plan: Plan,
    tuning: Tuning,
    *,
    bits: int | None = None,
    early: Path | None = None,
    threads: int | None = None,
    seconds: float = BENCH_SECONDS,
    resume: bool = False,
    tell: Tell | None = None,
) -> Outcome:
    """Cut a trained detector's least weights, train the rest, write the sparse file and measure it.

    Training lives in a folder beside `out` and can be resumed.

    Args:
        model: a `.safetensors` detector.
        dataset: labelled images of the same classes: `train` teaches, `val` chooses the epoch, `test` judges (`val`
            where there is none).
        out: the new `.safetensors` file, in the sparse form.
        plan: what to cut.
        tuning: how to train on.
        bits: 1 to 8 to let weights share 2^bits values after training; None leaves them as they are.
        early: a detector file of the same architecture from the start of its training, for a Lottery Ticket: the rest
            goes back to these weights.
        threads: of training and of the measured engines; None for all usable cores.
        seconds: measured time for each of the two models.
        resume: go on with an interrupted call of the same arguments.
        tell: takes one line of progress at a time.

    Raises:
        UserError: if a file, the data or an argument does not allow it, or the disk refuses.
        KeyboardInterrupt: after Ctrl-C; the call can be resumed.
    """
    say = tell or (lambda line: None)
    if out.suffix != ".safetensors" or out.resolve() == model.resolve():
        raise UserError(f"--out {out} must be another file than the model and end in .safetensors.")
    work = _Work(model, dataset, plan, tuning, threads, say)
    detector, card = load_detector(model)
    first = None if early is None else load_detector(early)[0]
    guide = taught(model, tuning.teacher, tuning.distill, card.classes, card.spec.levels) if tuning.epochs else None
    plan.weights(detector)  # what cannot be cut is said before anything is written
    dense = work.ap(model)
    folder = out.with_name(f"{out.stem}-training")
    _check_folder(folder, work, bits, early, resume=resume)
    say(f"dense: AP {100 * dense.ap:.1f} % on {dense.images} images of {work.split}")
    masked = work.masked_ap(detector, card)
    if threads:
        torch.set_num_threads(threads)
    if tuning.epochs:
        say(f"training for {tuning.epochs} epochs, all zeros there after {tuning.ramp_epochs.epochs}")
    tune(detector, dataset, plan, tuning, folder, early=first, guide=guide, resume=resume)
    card = replace(card, spec=detector.spec)  # whose fall is chosen at the end of a training
    if bits is not None:
        detector = share(detector, bits)
    with staged(out) as draft:
        scores = work.write(detector, card, draft, bits)
        size = draft.stat().st_size
        say(f"sparse: AP {100 * scores.ap:.1f} %; measuring latency")
        times = work.times(load_detector(model)[0], detector, card, seconds)
    state, weights = detector.state_dict(), plan.weights(detector)
    return Outcome(
        path=out,
        split=work.split,
        images=scores.images,
        dense_ap=dense.ap,
        masked_ap=masked,
        ap=scores.ap,
        cut=tuple(weights),
        emptied=tuple(name for name, weight in weights.items() if not weight.any()),
        sparsity=share_of_zeros(weights),
        zeros=share_of_zeros(state),
        parameters=sum(tensor.numel() for tensor in state.values()),
        nonzero=sum(int(torch.count_nonzero(tensor)) for tensor in state.values()),
        bytes=size,
        dense_bytes=len(save({name: tensor.contiguous() for name, tensor in state.items()})),
        p50_ms=times.rows[1].p50_ms,
        dense_p50_ms=times.rows[0].p50_ms,
        threads=times.rows[0].threads,
        warnings=tuple(times.warnings),
    )


def tune(
    detector: Detector,
    dataset: Dataset,
    plan: Plan,
    tuning: Tuning,
    folder: Path,
    *,
    early: Detector | None = None,
    guide: Guide | None = None,
    resume: bool = False,
) -> None:
    """Cut a detector's least weights and train the rest, in place.

    Args:
        detector: trained.
        dataset: its `train` and `val` are used.
        plan, tuning: what to cut, and how to train on; without epochs the rest stays as it is.
        folder: for checkpoints and logs; not made without epochs.
        early: the same architecture early in its training: the rest goes back to these weights.
        guide: a teacher to learn from beside the labels.
        resume: go on from the folder's last checkpoint.

    Raises:
        UserError, KeyboardInterrupt: as `leandet.learn.train.train`.
    """
    masks: Masks | None = None
    if early is not None:
        masks = plan.masks(detector)
        rewind(detector, early.state_dict(), masks)
    if not tuning.epochs:
        apply(detector, masks or plan.masks(detector))
        return
    train(
        detector,
        dataset.splits["train"],
        dataset.splits["val"],
        dataset.classes,
        tuning.recipe(rewound=early is not None),
        folder,
        resume=resume,
        guide=guide,
        callbacks=[Masking(plan, tuning.ramp_epochs, masks)],
        choose_from=tuning.ramp_epochs.epochs,
    )


@dataclass(frozen=True, slots=True)
class _Work:
    """The steps of the flow, with what they share."""

    model: Path
    dataset: Dataset
    plan: Plan
    tuning: Tuning
    threads: int | None
    say: Tell

    @property
    def split(self) -> str:
        """On which AP is measured."""
        return self.dataset.judging

    @property
    def judged(self) -> tuple[Sample, ...]:
        """Its samples."""
        return self.dataset.splits[self.split]

    def ap(self, path: Path) -> Scores:
        """Of a model file, opened as anybody would open it."""
        runtime = open_runtime(path, self.threads)
        check_classes(runtime, self.dataset.classes, str(self.dataset.root))
        return evaluate(runtime, self.judged, self.dataset.classes)[0]

    def masked_ap(self, detector: Detector, card: Card) -> float | None:
        """AP of a copy that is cut and not trained; None where training makes the choice."""
        if isinstance(self.plan.scorer, Movement):
            return None
        cut = copy.deepcopy(detector)
        apply(cut, self.plan.masks(cut))
        with tempfile.TemporaryDirectory(prefix="leandet-") as scratch:
            path = Path(scratch) / "masked.safetensors"
            save_detector(cut, card, path)
            ap = self.ap(path).ap
        self.say(f"cut ({self.plan}), not trained: AP {100 * ap:.1f} %")
        return ap

    def write(self, detector: Detector, card: Card, draft: Path, bits: int | None) -> Scores:
        """The sparse file, with the AP that it has itself when opened."""
        provenance = {**card.provenance, "sparsity": str(self.plan), "sparse_epochs": str(self.tuning.epochs)}
        if self.tuning.epochs and self.tuning.distill:
            teacher = self.tuning.teacher or self.model
            provenance |= {"distill": f"{self.tuning.distill:g}", "teacher": teacher.name}
        if bits is not None:
            provenance["shared_values"] = f"{bits} bits"
        save_detector(detector, card, draft, sparse=True)
        scores = self.ap(draft)
        threshold = best_threshold(open_runtime(draft, self.threads), self.dataset, scores.threshold)
        own = Card(card.classes, card.spec, {**card.metrics, "threshold": threshold}, provenance)
        save_detector(detector, own.judged(scores.to_json(), self.split), draft, sparse=True)
        return scores

    def times(self, dense: Detector, sparse: Detector, card: Card, seconds: float) -> BenchReport:
        """Both in the stock runtime, in turns."""
        images = np.concatenate(calibration_images(self.judged, card.spec.size, PARITY_IMAGES))
        with tempfile.TemporaryDirectory(prefix="leandet-") as scratch:
            paths = [Path(scratch) / "dense.onnx", Path(scratch) / "sparse.onnx"]
            for path, detector in zip(paths, (dense, sparse), strict=True):
                export(detector, card, path, images)
            pictures = [sample.image for sample in self.judged[:BENCH_IMAGES]]
            return bench(paths, self.threads, pictures, seconds=seconds, warn=self.say)


def _check_folder(folder: Path, work: _Work, bits: int | None, early: Path | None, *, resume: bool) -> None:
    """A resumed call must be the same call; a new one must not fall upon another's training."""
    if isinstance(work.plan.scorer, Movement) and (early is not None or not work.tuning.ramp_epochs.epochs):
        raise UserError("movement chooses while it trains: give two epochs and a ramp at least, and no early weights.")
    if not work.tuning.epochs:
        return
    wanted = {
        "model": str(work.model),
        "data": str(work.dataset.root),
        "plan": str(work.plan),
        "bits": bits,
        "early": None if early is None else str(early),
        **work.tuning.to_json(),
    }
    check_request(folder / REQUEST, wanted, "training", resume=resume, made=(folder / LAST).is_file())
    write_json(folder / REQUEST, wanted)
