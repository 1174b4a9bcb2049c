"""The survey of a build to a budget: how long each backbone takes on this machine, and which are worth training.

Latency does not depend on what the weights are, so the survey measures untrained detectors. Pruning takes two fifths of
a detector's multiply-adds at a small loss, so what exceeds the budget by what these take may still end within it. It
takes no layer away, so what a layer costs however narrow it is stays.
"""

from __future__ import annotations

import math
import time
from collections import defaultdict
from collections.abc import Callable
from dataclasses import asdict, astuple, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from leandet import nets
from leandet.atomic import write_json
from leandet.card import Card
from leandet.data.sample import evenly
from leandet.detector.detector import Detector
from leandet.detector.spec import STRIDE, Spec
from leandet.errors import UserError
from leandet.export.stopwatch import Stopwatch
from leandet.nets.weights import TorchvisionWeights
from leandet.pipeline.options import Architecture, input_size
from leandet.pipeline.stages import Work, begin, weights_file
from leandet.preprocess import Size
from leandet.quantize.rounded import rounded
from leandet.runtime.bench import BenchRow, bench
from leandet.search.finalists import AIM
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
ROUNDED = 0.99  # of its accuracy that a detector has in 8 bit, by experience
SURVEY_SECONDS, PHOTOGRAPHS = 2.0, 32
SURVEY = "survey.json"


def budget_of(work: Work) -> Budget:
    """The build's budget."""
    return Budget(work.options.budget_ms or 0.0, work.options.max_bytes)


@dataclass(frozen=True, slots=True)
class Surveyed:
    """A network's latency in one precision as a line over the input's area, and its file.

    What a photograph takes to become an input is not in it.

    Attributes:
        backbone: a name of `leandet.nets`.
        base_ms, ms_for_pixel: network and boxes take base + slope * pixels.
        bytes: of the file, whatever the input.
        top1: of the backbone's weights on ImageNet, per cent.
        int8: whether it was measured in 8 bit.
    """

    backbone: str
    base_ms: float
    ms_for_pixel: float
    bytes: int
    top1: float
    int8: bool = False

    def ms(self, pixels: int) -> float:
        """Of an input of so many pixels."""
        return self.base_ms + self.ms_for_pixel * pixels

    def pruned_ms(self, pixels: int) -> float:
        """The same with `KEPT` of the multiply-adds."""
        return self.base_ms + KEPT * self.ms_for_pixel * pixels

    def worth(self, side: int) -> float:
        """As `worth`, at an input of so many pixels on its longer side."""
        return _worth(self.top1, side, self.int8)


class Survey:
    """Measures untrained detectors of every backbone, and shortlists some by a rule.

    Of each backbone the largest input at which three fifths of the multiply-adds would meet the budget; of these the
    three that rank best by ImageNet top-1 accuracy times the square root of the input's longer side. And the same for
    detectors that meet it whole, should there be no time to cut one. Where the build quantises, each backbone is
    measured in 8 bit too and goes on in the better precision.
    """

    name = "survey"

    def run(self, work: Work) -> dict[str, Any]:
        """Measure, choose, write `survey.json`."""
        names = [work.options.backbone] if work.options.backbone else _available(work)
        start = time.perf_counter()
        watches = {False: stopwatch(work, work.spec(work.options.architecture), SURVEY_SECONDS)}
        if work.options.int8:
            watches[True] = replace(watches[False], finish=rounded(watches[False].images), drafts=watches[False])
        found, measured = _measure(work, names, watches)
        each = (time.perf_counter() - start) / len(measured)
        places = Places.of(work, watches[False].preparing_ms)
        shortlist, uncut = shortlisted(places, found), fitting(places, found, uncut=True)
        write_json(work.path(SURVEY), {"backbones": [asdict(one) for one in found], "measured": measured})
        return {
            "path": SURVEY,
            "shortlist": [list(astuple(a)) for a in shortlist],
            "uncut": [list(astuple(a)) for a in uncut],
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


def _measure(
    work: Work, names: list[str], watches: dict[bool, Stopwatch]
) -> tuple[list[Surveyed], list[dict[str, Any]]]:
    """Every backbone at two inputs in every precision, in turns; and what was measured, as candidates."""
    sides = _sides(work.options.size)
    torch.manual_seed(work.options.seed)
    places = [Architecture(name, side, int8) for int8 in watches for name in names for side in sides]
    detectors = [Detector(work.spec(place)).eval() for place in places]
    files = [watches[place.int8].file(detector) for place, detector in zip(places, detectors, strict=True)]
    rows = bench(files, work.options.threads, watches[False].images, seconds=SURVEY_SECONDS).rows
    measured = [
        {
            "name": f"{place.backbone} at {row.size[1]}x{row.size[0]} px{', INT8' if place.int8 else ''}, untrained",
            "stage": "survey",
            "ap": None,
            "p50_ms": row.p50_ms,
            "bytes": row.bytes,
            "size": list(row.size),
            "parameters": sum(p.numel() for p in detector.parameters()),
        }
        for place, row, detector in zip(places, rows, detectors, strict=True)
    ]
    lines: dict[tuple[str, bool], list[BenchRow]] = defaultdict(list)
    for place, row in zip(places, rows, strict=True):
        lines[place.backbone, place.int8].append(row)
    return [_line(name, int8, own) for (name, int8), own in lines.items()], measured


def _sides(asked: int | None) -> tuple[int, int]:
    """The inputs at which networks are measured: two, for it is their slope that says what pruning can save."""
    if asked is None:
        return SIDES
    return asked // 2 // STRIDE * STRIDE or 2 * asked, asked


def _line(name: str, int8: bool, rows: list[BenchRow]) -> Surveyed:
    """A network's latency as a line through what was measured of it."""
    pixels = [float(row.size[0] * row.size[1]) for row in rows]
    taken = [row.p50_ms - row.preprocess_p50_ms for row in rows]
    slope, base = np.polyfit(pixels, taken, 1)
    return Surveyed(name, float(base), float(slope), rows[0].bytes, _top1(name), int8)


def stopwatch(work: Work, spec: Spec, seconds: float, int8: bool = False) -> Stopwatch:
    """What measures a build's detectors where they will run, on photographs of `val`."""
    photographs = tuple(sample.image for sample in evenly(work.dataset.splits["val"], PHOTOGRAPHS))
    card = Card(work.dataset.classes, spec, {}, {})
    finish = rounded(photographs) if int8 else None
    return Stopwatch(card, photographs, work.options.threads, seconds, work.options.target, finish)


def worth(architecture: Architecture) -> float:
    """What the most accurate has most of, by experience: ImageNet top-1 times the root of the input's longer side."""
    return _worth(_top1(architecture.backbone), architecture.side, architecture.int8)


def _worth(top1: float, side: int, int8: bool) -> float:
    return top1 * math.sqrt(side) * (ROUNDED if int8 else 1.0)


def _top1(name: str) -> float:
    if name in PUBLISHED_TOP1:
        return PUBLISHED_TOP1[name]
    weights = nets.TABLE[name].pretrained if name in nets.TABLE else None
    return weights.top1 if isinstance(weights, TorchvisionWeights) else UNKNOWN_TOP1


@dataclass(frozen=True, slots=True)
class Places:
    """The inputs that a build may choose, and what a budget leaves for a network at each.

    Attributes:
        budget: of the build.
        inputs: by the pixels of the longer side, ascending.
        left_ms: what is left of the budget when a photograph has become that input.
    """

    budget: Budget
    inputs: dict[int, Size]
    left_ms: dict[int, float]

    @classmethod
    def of(cls, work: Work, preparing: Callable[[Size], float]) -> Places:
        """A build's, given how many ms a photograph takes to become an input of a size."""
        budget, training = budget_of(work), work.dataset.splits["train"]
        largest = max(max(s.size.height, s.size.width) for s in training)
        limit = min(LARGEST, max(SMALLEST, -(-largest // STRIDE) * STRIDE))
        sides = [work.options.size] if work.options.size else list(range(SMALLEST, limit + 1, STRIDE))
        inputs = {side: input_size(training, side) for side in sides}
        return cls(budget, inputs, {side: budget.ms - preparing(size) for side, size in inputs.items()})

    def pixels(self, side: int) -> int:
        """Of the input."""
        return self.inputs[side].height * self.inputs[side].width

    def largest(self, one: Surveyed, *, uncut: bool) -> int | None:
        """The longer side of the largest input at which a network is in time, pruned or as it is."""

        def in_time(side: int) -> bool:
            pixels = self.pixels(side)
            return (one.ms(pixels) / AIM if uncut else one.pruned_ms(pixels)) <= self.left_ms[side]

        return max(filter(in_time, self.inputs), default=None)


def fitting(places: Places, found: list[Surveyed], *, uncut: bool = False) -> list[Architecture]:
    """The three that rank best of what meets the budget, pruned or as it is; the most promising first."""
    able = []
    for one in found:
        side, room = places.largest(one, uncut=uncut), 1.0 if uncut else KEPT**2  # parameters: widths squared
        small = places.budget.bytes is None or room * one.bytes <= places.budget.bytes
        if side is not None and small:
            able.append((one.worth(side), Architecture(one.backbone, side, one.int8)))
    ranked = [architecture for _, architecture in sorted(able, key=lambda pair: -pair[0])]
    firsts = [one for i, one in enumerate(ranked) if one.backbone not in {other.backbone for other in ranked[:i]}]
    return firsts[:SHORTLIST]


def shortlisted(places: Places, found: list[Surveyed]) -> list[Architecture]:
    """What is worth training, by the rule of `Survey`; the most promising first.

    Raises:
        UserError: if the fastest of all is too slow to be pruned to the budget; it says how fast that is. What is only
            too large goes on alone, the smallest file of all: the search says whether it can be cut so far.
    """
    if best := fitting(places, found):
        return best
    in_time = [(one.bytes, one, side) for one in found if (side := places.largest(one, uncut=False)) is not None]
    if in_time:
        _, one, side = min(in_time, key=lambda each: each[0])
        return [Architecture(one.backbone, side, one.int8)]
    least = min(places.inputs)
    fastest = min(found, key=lambda one: one.ms(places.pixels(least)))
    size, ms = places.inputs[least], fastest.ms(places.pixels(least)) + places.budget.ms - places.left_ms[least]
    if ms > FARTHEST * places.budget.ms:
        raise UserError(
            f"the budget of {places.budget.ms:g} ms cannot be met: the fastest found, {fastest.backbone} at "
            f"{size.width}x{size.height} px, takes {ms:.2f} ms before pruning."
        )
    return [Architecture(fastest.backbone, least, fastest.int8)]
