"""Post-training INT8 with an honest gate: a file that is slower or worse than its float32 self is not handed over."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from leandet.atomic import staged
from leandet.card import Card
from leandet.data.image import load_image
from leandet.data.sample import Dataset, Sample, evenly
from leandet.errors import UserError
from leandet.evaluate import best_threshold, check_classes, evaluate
from leandet.export.formats import read_onnx_with_openvino, replace_card, save_openvino
from leandet.machine import lacks_int8_dot
from leandet.metrics import Scores
from leandet.preprocess import Size, letterbox
from leandet.quantize.qdq import Calibration, Images, OnnxQuantizer
from leandet.runtime import model_bytes, open_runtime
from leandet.runtime.bench import BenchReport, bench
from leandet.runtime.runtime import Runtime

MAX_DROP = 0.005
CALIBRATION_IMAGES = 64
SENSITIVITY_IMAGES = 4
CHOOSING_IMAGES = 300  # AP of the candidates is measured on so many; the last judgement is on the whole split
BENCH_SECONDS, BENCH_IMAGES = 4.0, 32
Tell = Callable[[str], None]


class Quantizer(Protocol):
    """Writes 8-bit versions of one model for one engine."""

    def write(self, path: Path, card: Card, calibration: Calibration, keep: Sequence[str] = ()) -> None:
        """Write a model and its card, with the layers `keep` left in float32."""
        ...


@dataclass(frozen=True, slots=True)
class Tuned:
    """A detector fine-tuned for 8 bit.

    Attributes:
        model: its float32 `.onnx`.
        ranges: for each layer, the lowest and highest value of what it reads, as learned.
        epochs: of fine-tuning.
    """

    model: Path
    ranges: dict[str, tuple[float, float]]
    epochs: int


@dataclass(frozen=True, slots=True)
class Quantized:
    """What quantising gave, measured.

    Attributes:
        path: the 8-bit model, or where it would be.
        accepted: whether the gate let it through; `path` is there only then, or when forced.
        reasons: why not, one clause each; empty if accepted.
        split, images: the split on which both models were judged, and its size.
        ap, float_ap: average precision, fractions.
        p50_ms, float_p50_ms: photograph in, boxes out, measured in turns.
        bytes, float_bytes: sizes of the two models.
        calibration: `percentile` or `minmax`; calibration_images: from the training split.
        kept: layers left in float32.
        choosing: for each candidate tried, its calibration, kept layers and AP on the choosing split.
        runtime, threads: the engine.
        warnings: what may have disturbed the measurement of time.
    """

    path: Path
    accepted: bool
    reasons: tuple[str, ...]
    split: str
    images: int
    ap: float
    float_ap: float
    p50_ms: float
    float_p50_ms: float
    bytes: int
    float_bytes: int
    calibration: str
    calibration_images: int
    kept: tuple[str, ...]
    choosing: tuple[dict[str, Any], ...]
    runtime: str
    threads: int
    warnings: tuple[str, ...]

    @property
    def speedup(self) -> float:
        """Times faster than float32."""
        return self.float_p50_ms / self.p50_ms

    def to_json(self) -> dict[str, Any]:
        """A plain object of the attributes and `speedup`."""
        return {**asdict(self), "path": str(self.path), "speedup": self.speedup}

    def summary(self) -> str:
        """The figures in one line."""
        return (
            f"AP {100 * self.float_ap:.1f} -> {100 * self.ap:.1f} % on {self.images} images of {self.split}, "
            f"{self.float_p50_ms:.2f} -> {self.p50_ms:.2f} ms ({self.speedup:.2f}x), "
            f"{self.float_bytes / 1e6:.2f} -> {self.bytes / 1e6:.2f} MB, {len(self.kept)} layers kept in float32"
        )


@dataclass(frozen=True, slots=True)
class _Candidate:
    path: Path
    calibration: Calibration
    keep: tuple[str, ...]
    ap: float


def quantize(
    model: Path,
    dataset: Dataset,
    out: Path,
    *,
    max_drop: float = MAX_DROP,
    force: bool = False,
    threads: int | None = None,
    seconds: float = BENCH_SECONDS,
    tuned: Tuned | None = None,
    tell: Tell | None = None,
) -> Quantized:
    """Quantise an exported detector to INT8 for the engine that `out` names.

    Calibration images come from `train`. Candidates are compared on `val`: every layer in 8 bit first, then with the
    1, 2, 4, ... most sensitive layers left in float32, until the loss is within `max_drop` or half of the layers are
    kept. The candidate and the float32 model are then judged on `test` (on `val` where there is none), and timed in
    turns.

    Args:
        model: the `.onnx` file of `leandet export`, float32.
        dataset: labelled images of the same classes.
        out: `.onnx` or `.openvino`; written only if the 8-bit model is faster, on a machine quiet enough to tell, and
            loses at most `max_drop`.
        max_drop: average precision that may be lost, a fraction from 0 to 1.
        force: write it all the same.
        threads: of both engines; None for all usable cores.
        seconds: measured time for each of the two.
        tuned: the model fine-tuned for 8 bit (`leandet.quantize.aware`), quantised in its place and judged against it.
            Its learned ranges are ONNX Runtime's; OpenVINO's are estimated anew.
        tell: takes one line of progress at a time.

    Raises:
        UserError: if an argument is out of range, the model is no float32 ONNX file, the classes differ, or the disk
            refuses. A refusal by the gate is no error: see `Quantized.accepted`.
    """
    if not 0 <= max_drop <= 1:
        raise UserError(f"the allowed loss must be from 0 to 1, not {max_drop:g}: 0.005 is half a point of AP.")
    say = tell or (lambda line: None)
    source = _source(model, dataset, threads)
    images = calibration_images(dataset.splits["train"], source.card.spec.size)
    split = dataset.judging
    with tempfile.TemporaryDirectory(prefix="leandet-") as scratch:
        base = Path(scratch) / f"float{out.suffix}"
        begin = model if tuned is None else tuned.model
        # A training ends by choosing how scores compete, and its graph does as it chose.
        own = source.card if tuned is None else replace(source.card, spec=open_runtime(begin, threads).card.spec)
        learned = {} if tuned is None else tuned.ranges
        onnx_quantizer = OnnxQuantizer(begin, images, reduce_range=lacks_int8_dot(), learned=learned)
        _lay(model, base, source.card)
        quantizer = _quantizer(begin, out, onnx_quantizer)
        search = _Search(quantizer, onnx_quantizer, base, own, dataset, threads, say)
        best, tried = search.run(max_drop)
        say(f"judging on {len(dataset.splits[split])} images of {split}")
        before, after = (
            evaluate(open_runtime(path, threads), dataset.splits[split], dataset.classes)[0]
            for path in (base, best.path)
        )
        pictures = [sample.image for sample in search.samples[:BENCH_IMAGES]]
        times = bench([base, best.path], threads, pictures, seconds=seconds, warn=say)
        provenance = {
            "calibration": f"{best.calibration.value}, {len(images)} images of train",
            "fine_tuned": "no" if tuned is None else f"{tuned.epochs} epochs",
        }
        card = _card(own, best, after, split, provenance)
        card.metrics["threshold"] = best_threshold(open_runtime(best.path, threads), dataset, after.threshold)
        replace_card(best.path, card)
        judged = _Judged(split, before, after, times)
        result = _result(out, best, tried, judged, _reasons(judged, max_drop), len(images))
        if result.accepted or force:
            with staged(out) as draft:
                shutil.move(best.path, draft)
        return result


def _source(model: Path, dataset: Dataset, threads: int | None) -> Runtime:
    """The float32 model, opened; refuses another kind, and one of other classes."""
    source = open_runtime(model, threads)
    check_classes(source, dataset.classes, str(dataset.root))
    if source.name != "onnxruntime" or source.precision != "float32":
        raise UserError(
            f"{model}: quantising begins with a float32 .onnx file, not with {source.precision} for {source.name}."
        )
    return source


def refusal(result: Quantized) -> str:
    """The sentence that says what the gate found.

    To be used where `result.accepted` is false.
    """
    return f"{result.path} was refused: {' and '.join(result.reasons)} ({result.summary()}); --force writes it anyway."


def calibration_images(samples: Sequence[Sample], size: Size, count: int = CALIBRATION_IMAGES) -> Images:
    """Evenly spaced images of a split, letterboxed: each uint8 (1, 3, height, width) RGB."""
    return [
        np.ascontiguousarray(letterbox(load_image(sample.image), size)[0].transpose(2, 0, 1)[None])
        for sample in evenly(samples, count)
    ]


def _lay(model: Path, base: Path, card: Card) -> None:
    """Lay the float32 model, for the engine that `base` names, at `base`."""
    if base.suffix == ".onnx":
        shutil.copyfile(model, base)
    elif base.suffix == ".openvino":
        save_openvino(read_onnx_with_openvino(model.read_bytes()), card, base)
    else:
        raise UserError(f"INT8 is written for .onnx and .openvino, not for {base.suffix or 'a name without a suffix'}.")


def _quantizer(model: Path, out: Path, onnx_quantizer: OnnxQuantizer) -> Quantizer:
    """What writes `model` in 8 bit for the engine that `out` names."""
    if out.suffix == ".onnx":
        return onnx_quantizer
    from leandet.quantize.openvino_int8 import OpenVinoQuantizer

    return OpenVinoQuantizer(model, onnx_quantizer.images, onnx_quantizer.layers)


@dataclass(frozen=True, slots=True)
class _Search:
    """Looks for the candidate that loses little, keeping as few layers as possible in float32."""

    quantizer: Quantizer
    layers: OnnxQuantizer
    base: Path
    card: Card
    dataset: Dataset
    threads: int | None
    say: Tell

    @property
    def samples(self) -> Sequence[Sample]:
        """The images on which candidates are compared."""
        return evenly(self.dataset.splits["val"], CHOOSING_IMAGES)

    def run(self, max_drop: float) -> tuple[_Candidate, list[dict[str, Any]]]:
        """The candidate, and what was tried."""
        wanted = self._ap(self.base)
        self.say(f"float32: AP {100 * wanted:.2f} % on {len(self.samples)} images of val")
        candidates = [self._try(calibration, ()) for calibration in Calibration]
        best = max(candidates, key=lambda candidate: candidate.ap)
        if wanted - best.ap > max_drop:
            candidates += self._keeping(best.calibration, wanted - max_drop)
            best = max(candidates, key=lambda candidate: (candidate.ap >= wanted - max_drop, candidate.ap))
        tried = [{"calibration": c.calibration.value, "kept": len(c.keep), "ap": c.ap} for c in candidates]
        return best, [{"calibration": "float32", "kept": len(self.layers.layers), "ap": wanted}, *tried]

    def _keeping(self, calibration: Calibration, enough: float) -> list[_Candidate]:
        self.say(f"measuring the sensitivity of {len(self.layers.layers)} layers")
        sensitivities = self.layers.sensitivities(calibration, self.layers.images[:SENSITIVITY_IMAGES])
        candidates: list[_Candidate] = []
        count = 1
        while count <= len(sensitivities) // 2 and not (candidates and candidates[-1].ap >= enough):
            candidates.append(self._try(calibration, tuple(list(sensitivities)[:count])))
            count *= 2
        return candidates

    def _try(self, calibration: Calibration, keep: tuple[str, ...]) -> _Candidate:
        path = self.base.with_stem(f"{calibration.value}-{len(keep)}")
        self.quantizer.write(path, self.card, calibration, keep)
        candidate = _Candidate(path, calibration, keep, self._ap(path))
        self.say(f"int8, {calibration.value}, {len(keep)} layers in float32: AP {100 * candidate.ap:.2f} %")
        return candidate

    def _ap(self, path: Path) -> float:
        return evaluate(open_runtime(path, self.threads), self.samples, self.dataset.classes)[0].ap


@dataclass(frozen=True, slots=True)
class _Judged:
    """Both models' accuracy on the judged split, float32 first, and their times."""

    split: str
    before: Scores
    after: Scores
    times: BenchReport


def _reasons(judged: _Judged, max_drop: float) -> tuple[str, ...]:
    """Why the gate stays shut, one clause each; empty if it opens."""
    reasons = []
    if (lost := judged.before.ap - judged.after.ap) > max_drop:
        reasons.append(f"it loses {lost:.4f} AP, more than {max_drop:g}")
    before, after = judged.times.rows
    if after.p50_ms >= before.p50_ms:
        reasons.append(f"it is not faster, {after.p50_ms:.2f} ms instead of {before.p50_ms:.2f} ms")
    reasons += [f"its time cannot be judged ({warning.rstrip('.')})" for warning in judged.times.warnings]
    return tuple(reasons)


def _result(
    out: Path,
    best: _Candidate,
    tried: Sequence[dict[str, Any]],
    judged: _Judged,
    reasons: tuple[str, ...],
    calibrated_on: int,
) -> Quantized:
    before, after = judged.times.rows
    return Quantized(
        path=out,
        accepted=not reasons,
        reasons=reasons,
        split=judged.split,
        images=judged.before.images,
        ap=judged.after.ap,
        float_ap=judged.before.ap,
        p50_ms=after.p50_ms,
        float_p50_ms=before.p50_ms,
        bytes=model_bytes(best.path),
        float_bytes=before.bytes,
        calibration=best.calibration.value,
        calibration_images=calibrated_on,
        kept=best.keep,
        choosing=tuple(tried),
        runtime=after.runtime,
        threads=after.threads,
        warnings=tuple(judged.times.warnings),
    )


def _card(card: Card, best: _Candidate, scores: Scores, split: str, how: dict[str, str]) -> Card:
    """The 8-bit model's own figures in place of its source's."""
    provenance = {
        **card.provenance,
        "precision": "int8",
        **how,
        "float32_layers": ", ".join(best.keep) or "none",
    }
    return Card(card.classes, card.spec, {}, provenance).judged(scores.to_json(), split)
