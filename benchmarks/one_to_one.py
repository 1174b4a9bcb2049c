"""Which assignment removes NMS? One network, data and schedule; every assigner trains the detector alone.

Each assigner is the only one (no auxiliary branch), decides what learns to score, and is measured as it is and after a
class-wise NMS at IoU 0.6 of its thousand best boxes. A cell is one assigner, data set and seed; it is written to
`benchmarks/results/one_to_one/` when it is done, and not run again while its settings stay the same. A cell of the
default settings takes about three minutes on two quiet cores.

Run: .venv/bin/python benchmarks/one_to_one.py --data DIR --weights shufflenet_v2_x0_5.safetensors --seeds 0 1
"""

from __future__ import annotations

import argparse
import math
import tempfile
import time
from collections import defaultdict
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import mean
from typing import Any

import torch
from record import DOCS, RESULTS, fill, load, save, table

from leandet.atomic import write_text
from leandet.data.read import read
from leandet.data.sample import Dataset, Sample
from leandet.data.shapes import draw_shapes
from leandet.detections import Detections
from leandet.detector.detector import Detector
from leandet.detector.spec import HeadStyle, Spec
from leandet.learn.assign import Assigner, MinimumCost
from leandet.learn.assign_by_place import BestAnchor, BoxOverlap, NearestCentre, ScaleRange
from leandet.learn.assign_by_quality import HighestQuality, Hungarian, TaskAligned
from leandet.learn.recipe import Recipe
from leandet.learn.train import train
from leandet.learn.validation import found, validation_loader
from leandet.metrics import score, suppress
from leandet.nets.weights import load_weights
from leandet.pipeline.options import input_size
from leandet.report.chart import Axis, Series, picture

FORMS = (".3f", ".3f", "+.3f", ".1f")  # of the table's last columns
MANY = 1000  # boxes before an NMS, as detectors that need one keep; 100 are measured
FOLDER = "one_to_one"
PAGE = DOCS / "one-to-one.md"


@dataclass(frozen=True)
class Rival:
    """One row of the ablation.

    Attributes:
        text: for the table.
        assign: the assigner.
        knows: what it looks at: place alone, the predicted box too, or the class as well.
        matches: locations for an object: "one" or "many".
    """

    text: str
    assign: Assigner
    knows: str
    matches: str


EVERYWHERE = math.inf  # the paper's: no prior on the place
RIVALS = {
    "faster_rcnn": Rival("Faster R-CNN: anchor IoU 0.7", BoxOverlap.faster_rcnn(), "place", "many"),
    "ssd": Rival("SSD: prior box IoU 0.5", BoxOverlap.ssd(), "place", "many"),
    "retinanet": Rival("RetinaNet: anchor IoU 0.5", BoxOverlap.retinanet(), "place", "many"),
    "fcos": Rival("FCOS: scale range, near the centre", ScaleRange(), "place", "many"),
    "centre": Rival("CenterNet: nearest centre", NearestCentre(), "place", "one"),
    "yolo": Rival("YOLOv3: best anchor", BestAnchor(), "place", "one"),
    "boxes": Rival("OneNet without class cost", MinimumCost(classification=0, radius=EVERYWHERE), "box", "one"),
    "onenet": Rival("OneNet: class, L1 and GIoU cost", MinimumCost(radius=EVERYWHERE), "class", "one"),
    "hungarian": Rival("the same, Hungarian", Hungarian(MinimumCost(radius=EVERYWHERE)), "class", "one"),
    "prior": Rival("leandet: the same, near the object", MinimumCost(), "class", "one"),
    "poto": Rival("POTO: p^.2 IoU^.8", HighestQuality(), "class", "one"),
    "task": Rival("TOOD: p^.5 IoU^6, best 10", TaskAligned(), "class", "many"),
}


def judged(dataset: Dataset) -> tuple[Sample, ...]:
    """The test split where there is one, else the one that training does not see."""
    return dataset.splits[dataset.judging]


def settings(asked: argparse.Namespace, dataset: Dataset) -> dict[str, Any]:
    """What a cell's figures depend on beside its assigner and seed."""
    return {
        "data": dataset.root.name,
        "images": len(dataset.splits["train"]),
        "backbone": asked.backbone,
        "head": asked.head,
        "weights": asked.weights.name if asked.weights else "none",
        "width": asked.width,
        "size": asked.size,
        "epochs": asked.epochs,
        "batch": asked.batch,
    }


def build(asked: argparse.Namespace, dataset: Dataset, seed: int) -> Detector:
    """The network that every assigner of a seed begins with."""
    torch.manual_seed(seed)
    style = HeadStyle(asked.head)
    size = input_size(dataset.splits["train"], asked.size)
    detector = Detector(Spec(asked.backbone, len(dataset.classes), size, asked.width, style.strides, head=style))
    if asked.weights:
        load_weights(detector.backbone, asked.weights)
    return detector


@torch.inference_mode()
def detect(detector: Detector, samples: tuple[Sample, ...], k: int) -> list[Detections]:
    """The k best boxes of each sample in original pixels, scored over 0.001; of what every location says for itself."""
    detector.eval()
    batches = validation_loader(samples, detector.spec.size, 16)
    return [one for batch in batches for one in found(detector.every_location(batch.images), batch.placements, k)]


def run(asked: argparse.Namespace, dataset: Dataset, assign: Assigner, seed: int, scratch: Path) -> dict[str, Any]:
    """Train one cell and measure it."""
    make = Recipe if asked.weights else Recipe.from_nothing
    start = make(epochs=asked.epochs, batch=asked.batch, seed=seed)
    # Measured once, at the end: no cell gains by a choice among its epochs.
    recipe = replace(start, auxiliary=0.0, settling=0.0, assign=assign, evaluations=1, patience=0)
    detector = build(asked, dataset, seed)
    began = time.perf_counter()
    splits = dataset.splits
    train(detector, splits["train"], splits["val"], dataset.classes, recipe, scratch, resume=True)
    seconds = time.perf_counter() - began
    samples = judged(dataset)
    answers = detect(detector, samples, MANY)
    plain = score(samples, [d[:100] for d in answers], dataset.classes)
    suppressed = score(samples, [suppress(d)[:100] for d in answers], dataset.classes)
    return {
        "ap": plain.ap,
        "ap50": plain.ap50,
        "ap_with_nms": suppressed.ap,
        "ap50_with_nms": suppressed.ap50,
        "duplicates_per_100": plain.duplicates_per_100,
        "training_seconds": seconds,
    }


def cells() -> list[dict[str, Any]]:
    """Every cell at hand."""
    return [load(f"{FOLDER}/{path.stem}") for path in sorted((RESULTS / FOLDER).glob("*.json"))]


def page() -> None:
    """Fill the table and the chart of `docs/one-to-one.md` from the cells at hand."""
    groups: dict[tuple[str, ...], list[dict[str, Any]]] = defaultdict(list)
    for cell in cells():
        groups[cell["data"], cell["head"], cell["assigner"]].append(cell)
    order = {key: index for index, key in enumerate(RIVALS)}
    rows, points = [], defaultdict(list)
    for (data, head, key), group in sorted(groups.items(), key=lambda item: (*item[0][:2], order[item[0][2]])):
        rival = RIVALS[key]
        ap, with_nms, copies = (mean(c[name] for c in group) for name in ("ap", "ap_with_nms", "duplicates_per_100"))
        rows.append(
            [rival.text, data, head, rival.knows, rival.matches, str(len(group))]
            + [f"{value:{form}}" for value, form in zip((ap, with_nms, with_nms - ap, copies), FORMS, strict=True)]
        )
        points[rival.knows, rival.matches].append((copies, 100 * (with_nms - ap), f"{rival.text}, {data}"))
    headings = ["assignment", "data", "head", "knows", "locations an object", "seeds"]
    headings += ["AP", "AP with NMS", "NMS adds", "duplicates a 100 objects"]
    fill(PAGE, "one-to-one", table(headings, rows))
    series = [
        Series(f"{matches}, knows {knows}", [p[:2] for p in dots], joined=False, names=[p[2] for p in dots])
        for (knows, matches), dots in sorted(points.items())
    ]
    chart = picture(
        "What an NMS adds",
        series,
        Axis("duplicates for each 100 objects", from_zero=True),
        Axis("AP that an NMS adds, points", from_zero=True),
    )
    write_text(DOCS / "images" / "one-to-one.svg", chart)


def main() -> None:
    """Run the cells that are missing, then fill the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="labelled images; the embedded data if left out")
    parser.add_argument("--assigners", nargs="+", choices=RIVALS, default=list(RIVALS))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--backbone", default="shufflenet_v2_x0_5")
    parser.add_argument("--weights", type=Path, help="safetensors file for the backbone; random weights if left out")
    parser.add_argument("--head", choices=[style.value for style in HeadStyle], default="lean")
    parser.add_argument("--width", type=int, default=64, help="channels of neck and head")
    parser.add_argument("--size", type=int, default=224, help="longest side of the input, px")
    parser.add_argument("--epochs", type=int, default=40)
    parser.add_argument("--batch", type=int, default=16, help="images a step")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--scratch", type=Path, default=Path(tempfile.gettempdir()) / "leandet-one-to-one")
    parser.add_argument("--page-only", action="store_true", help="fill the page from the cells at hand")
    asked = parser.parse_args()
    if asked.page_only:
        page()
        return
    torch.set_num_threads(asked.threads)
    dataset, _ = read(asked.data or draw_shapes(asked.scratch / "shapes"))
    fixed = settings(asked, dataset)
    for seed in asked.seeds:
        for key in asked.assigners:
            name = f"{dataset.root.name}-{asked.head}-{key}-{seed}"
            wanted = {**fixed, "assigner": key, "seed": seed}
            known = load(f"{FOLDER}/{name}")
            if {k: known.get(k) for k in wanted} == wanted:
                continue
            scratch = asked.scratch / f"{name}-{asked.epochs}-{asked.size}-{asked.batch}-{asked.backbone}-{asked.width}"
            measured = run(asked, dataset, RIVALS[key].assign, seed, scratch)
            save(f"{FOLDER}/{name}", {**wanted, **measured})
            print(f"{name}: AP {measured['ap']:.3f}, with NMS {measured['ap_with_nms']:.3f}, "
                  f"{measured['duplicates_per_100']:.1f} duplicates a 100 objects", flush=True)  # fmt: skip
    page()


if __name__ == "__main__":
    main()
