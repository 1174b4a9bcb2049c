"""The stages of a build, each adding to the work so far; `plan.py` says which of them a build has."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch

from leandet.card import Card
from leandet.cost.count import count
from leandet.data.image import load_image
from leandet.data.sample import Dataset, Sample
from leandet.detector.detector import Detector
from leandet.detector.files import load_detector, save_detector
from leandet.detector.spec import STEEPEST, Spec
from leandet.errors import UserError
from leandet.evaluate import best_threshold, evaluate
from leandet.export import SUFFIXES, export
from leandet.learn.distill import Distillation, load_teacher
from leandet.learn.processes import Processes
from leandet.learn.recipe import Recipe
from leandet.learn.train import Outcome, train
from leandet.machine import versions
from leandet.nets.weights import DEFAULT, load_weights
from leandet.pipeline.options import Architecture, Options, default_epochs, detections, input_size
from leandet.preprocess import letterbox
from leandet.quantize.quantize import MAX_DROP, quantize
from leandet.runtime import open_runtime
from leandet.runtime.bench import bench

PARITY_IMAGES = 8
BENCH_SECONDS = 6.0
PLANNED_DROP = 0.02  # AP, a fraction, that 8 bit may cost where the budget was planned with it
AGAIN = 2  # more measurements for a file that is over its budget
MODEL, ONNX, INT8, CHECKPOINTS = "model.safetensors", "model.onnx", "model-int8.onnx", "training"
WEIGHTS = ".safetensors"


@dataclass(frozen=True, slots=True)
class Work:
    """What every stage may use: the request, the checked data, the results of the stages before, and a line to say."""

    options: Options
    dataset: Dataset
    resume: bool
    done: dict[str, dict[str, Any]] = field(default_factory=dict)
    tell: Callable[[str], None] = lambda line: None

    @property
    def judged(self) -> tuple[str, tuple[Sample, ...]]:
        """Name and samples of the split that the figures are measured on."""
        name = self.dataset.judging
        return name, self.dataset.splits[name]

    def path(self, name: str) -> Path:
        """A file of this build."""
        return self.options.out / name

    @property
    def latest(self) -> Path:
        """The newest model that can be trained, cut or exported: a `.safetensors` file."""
        made = (str(row.get("path", "")) for row in reversed(self.done.values()))
        return self.path(next(path for path in made if path.endswith(WEIGHTS)))

    @property
    def architecture(self) -> Architecture:
        """What is trained: as a stage before chose it, or as the options say."""
        chosen = next((row["architecture"] for row in self.done.values() if "architecture" in row), None)
        return self.options.architecture if chosen is None else Architecture(*chosen)

    def spec(self, architecture: Architecture) -> Spec:
        """Of a detector for the data's classes, whose input and number of answers suit the training pictures."""
        training, classes = self.dataset.splits["train"], len(self.dataset.classes)
        size, most = input_size(training, architecture.side), detections(training)
        return Spec(architecture.backbone, classes, size, self.options.width, detections=most)

    @property
    def epochs(self) -> int:
        """Of the training: as the time allows, at most as many as asked; else as asked, or by the number of images."""
        planned = next((row["epochs"] for row in self.done.values() if "epochs" in row), None)
        return planned or self.options.epochs or default_epochs(len(self.dataset.splits["train"]))


class Stage(Protocol):
    """One step of a build.

    `run` writes its files into the build's folder and returns a plain object, kept for a resume.

    A stage that makes a model names its file under `path` and describes it by the keys of `describe`.
    """

    name: str

    def run(self, work: Work) -> dict[str, Any]:
        """Do the step."""
        ...


def describe(work: Work, path: Path, detector: Detector) -> dict[str, Any]:
    """Accuracy, latency and cost of a model file.

    Returns:
        `{path, ap, ap50, ..., split, p50_ms, p90_ms, bytes, parameters, multiply_adds, runtime, threads}`; the path is
        relative to the build's folder.
    """
    runtime = open_runtime(path, work.options.threads)
    split, samples = work.judged
    scores, _ = evaluate(runtime, samples, work.dataset.classes)
    size = detector.spec.size
    cost = count(detector, torch.zeros(1, 3, size.height, size.width))
    return {
        "path": str(path.relative_to(work.options.out)),
        "split": split,
        **scores.to_json(),
        **timed(work, path),
        "parameters": cost.parameters,
        "multiply_adds": cost.multiply_adds,
        "runtime": runtime.name,
        "threads": runtime.threads,
    }


def timed(work: Work, path: Path) -> dict[str, Any]:
    """`{p50_ms, p90_ms, bytes}` of a model file, photograph in, boxes out, in its own runtime."""
    photographs = [sample.image for sample in work.judged[1][:32]]
    row = bench([path], work.options.threads, photographs, seconds=BENCH_SECONDS).rows[0]
    return {"p50_ms": row.p50_ms, "p90_ms": row.p90_ms, "bytes": row.bytes}


class Train:
    """Trains the detector from pretrained backbone weights."""

    name = "train"

    def run(self, work: Work) -> dict[str, Any]:
        """Train, save `model.safetensors`, describe it."""
        options, dataset = work.options, work.dataset
        detector, source = begin(work, work.architecture)
        outcome = teach(work, detector, work.epochs, work.path(CHECKPOINTS))
        if not Processes.here().first:
            raise SystemExit(0)  # the first process measures and saves
        if line := _crowded(detector.spec.fall, outcome.ap_by_fall):
            work.tell(line)
        provenance = {
            "leandet": versions()["leandet"],
            "data": dataset.root.name,
            "images": str(len(dataset.splits["train"])),
            "epochs": str(outcome.epochs),
            "seed": str(options.seed),
            "backbone_weights": source,
            **({} if options.teacher is None else {"teacher": options.teacher.name}),
        }
        card = Card(dataset.classes, detector.spec, {"val_ap": outcome.best_ap}, provenance)
        path = work.path(MODEL)
        save_detector(detector, card, path)
        described = describe(work, path, detector)
        runtime = open_runtime(path, options.threads)
        card.metrics["threshold"] = best_threshold(runtime, dataset, described["threshold"])
        save_detector(detector, card.judged(described, described["split"]), path)
        described["bytes"] = path.stat().st_size  # with the figures in its card
        aps = {f"{fall:g}": ap for fall, ap in outcome.ap_by_fall.items()}
        # The figures by fall are class by class, whatever was chosen.
        falls = {"fall": detector.spec.fall, "classwise": detector.spec.classwise, "val_ap_by_fall": aps}
        return {**described, **falls, "training_seconds": outcome.seconds, "loading_share": outcome.loading_share}


def _crowded(fall: float, aps: dict[float, float]) -> str:
    """What is said where objects stand so close that the peak filter was made gentler; nothing elsewhere."""
    if fall not in aps or fall == STEEPEST:
        return ""
    return (
        f"objects stand close in these pictures: a score falls {fall:g} times, not {STEEPEST:g} times, what it lacks "
        f"to a surer neighbour's: AP {100 * aps[fall]:.1f} % on val instead of {100 * aps[STEEPEST]:.1f} %"
    )


def begin(work: Work, architecture: Architecture) -> tuple[Detector, str]:
    """An untrained detector, its backbone's weights loaded, and what they are.

    Raises:
        UserError: if there is no such backbone, or its weights cannot be had.
    """
    options = work.options
    torch.manual_seed(options.seed)
    detector = Detector(work.spec(architecture))
    return detector, load_backbone(detector, options.weights)


def teach(work: Work, detector: Detector, epochs: int, folder: Path, evaluations: int | None = None) -> Outcome:
    """Train a detector in place by the build's options; `evaluations` measurements of AP instead of the recipe's."""
    options, dataset = work.options, work.dataset
    make = Recipe.from_nothing if options.weights == "none" else Recipe
    recipe = replace(make(epochs=epochs, batch=options.batch, seed=options.seed), scale_penalty=options.scale_penalty)
    if evaluations is not None:
        recipe = replace(recipe, evaluations=evaluations)
    if options.threads:
        torch.set_num_threads(options.threads)
    return train(
        detector,
        dataset.splits["train"],
        dataset.splits["val"],
        dataset.classes,
        recipe,
        folder,
        resume=work.resume,
        guide=teaching(options, dataset.classes, detector.spec.levels),
    )


def teaching(options: Options, classes: tuple[str, ...], levels: tuple[int, ...]) -> Distillation | None:
    """What the options' teacher adds to the loss.

    Raises:
        UserError: if it cannot teach these classes.
    """
    return None if options.teacher is None else Distillation(load_teacher(options.teacher, classes, levels))


def load_backbone(detector: Detector, weights: str) -> str:
    """Fill the backbone from `imagenet`, `none`, a safetensors file or a folder of them, each named after its backbone.

    Returns:
        What was used, for the card.

    Raises:
        UserError: if the weights cannot be had or do not fit.
    """
    if weights == "none":
        return "none"
    if weights == "imagenet":
        load_weights(detector.backbone, DEFAULT)
        return str(detector.backbone.pretrained)
    path = Path(weights)
    if path.is_dir():
        path = weights_file(path, detector.spec.backbone)
        if not path.is_file():
            raise UserError(
                f"--weights {weights}: the folder has no {path.name}; put it there, or choose another backbone."
            )
    if not path.is_file():
        raise UserError(f"--weights must be imagenet, none, a safetensors file or a folder of them, not {weights}.")
    load_weights(detector.backbone, path)
    return path.name


def weights_file(folder: Path, backbone: str) -> Path:
    """Where a folder of weights has a backbone's."""
    return folder / f"{file_name(backbone)}.safetensors"


def file_name(backbone: str) -> str:
    """A backbone's name as a part of a file's: `timm:NAME` holds what not every system allows there."""
    return backbone.replace(":", "-")


class Export:
    """Writes the deployable file and measures it where it will run."""

    name = "export"

    def run(self, work: Work) -> dict[str, Any]:
        """Export to the target with parity checked on real images, then describe the file."""
        detector, card = load_detector(work.latest)
        samples = work.dataset.splits["val"][:PARITY_IMAGES]
        pictures = [letterbox(load_image(s.image), detector.spec.size)[0].transpose(2, 0, 1) for s in samples]
        while len(pictures) < 2:
            pictures.append(pictures[0])
        target = work.options.target
        path = work.path(ONNX).with_suffix(SUFFIXES[target])
        parity = export(detector, card, path, np.stack(pictures), target)
        described = describe(work, path, detector)
        if not work.architecture.int8:  # else it is the file in 8 bit that has to meet the budget
            described = remeasured(work, path, described)
        return {**described, "parity_px": parity.boxes, "parity_score": parity.scores}


def remeasured(work: Work, path: Path, described: dict[str, Any]) -> dict[str, Any]:
    """What was measured of a file; where that is over the budget, measured again, twice at most, and the fastest taken.

    What disturbs a measurement only ever adds to it; the others stay on record.
    """
    measured = [described]
    while not work.options.in_time(measured[-1]["p50_ms"]) and len(measured) <= AGAIN:
        work.tell(f"measured {measured[-1]['p50_ms']:.2f} ms, over the budget: measuring again")
        measured.append(timed(work, path))
    fastest = min(measured, key=lambda row: float(row["p50_ms"]))
    return {**described, **fastest, "measured_p50_ms": [row["p50_ms"] for row in measured]}


class Quantize:
    """Tries INT8; what is slower or worse is refused, and the float32 file stays chosen.

    What was planned in 8 bit may lose more than what was not: in float32 it would not meet the budget.
    """

    name = "quantize"

    def run(self, work: Work) -> dict[str, Any]:
        """Quantise, and describe the 8-bit file, or the float32 one again with the reasons against the other."""
        path = work.path(INT8)
        threads = work.options.threads
        tried = quantize(
            work.path(ONNX),
            work.dataset,
            path,
            max_drop=PLANNED_DROP if work.architecture.int8 else MAX_DROP,
            threads=threads,
            seconds=BENCH_SECONDS,
            tell=work.tell,
        )
        if not tried.accepted:
            described = work.done["export"]
            if work.architecture.int8:  # else it was measured again there
                described = remeasured(work, work.path(ONNX), described)
            return {**described, "int8": tried.to_json()}
        detector, _ = load_detector(work.latest)
        described = remeasured(work, path, describe(work, path, detector))
        if not work.options.in_time(described["p50_ms"]) and work.options.in_time(work.done["export"]["p50_ms"]):
            described = work.done["export"]  # a hair faster in turns, and yet not within the budget as float32 was
        return {**described, "int8": tried.to_json()}


def run_stage(stage: Stage, work: Work) -> dict[str, Any]:
    """Run a stage and note its wall time in seconds, that of interrupted trainings included."""
    start = time.perf_counter()
    result = stage.run(work)
    sys.stderr.flush()
    seconds = max(time.perf_counter() - start, float(result.get("training_seconds", 0.0)))
    return {**result, "name": stage.name, "seconds": round(seconds, 2)}
