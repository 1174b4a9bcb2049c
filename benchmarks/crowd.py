"""Crowds: does suppressing neighbours lose true ones? Recall over how much objects overlap, with and without NMS.

Pictures of 100 to 140 shapes of one class that hide each other (`leandet.data.scene.CROWD`). Two detectors of one
network and schedule: leandet's recipe, which answers once for each object, and the same network trained one-to-many
(task-aligned, ten locations an object), which needs an NMS. Both are measured with a class-wise NMS at IoU 0.5, 0.6
and 0.7, and leandet's as it is, with the fall that its training chose and with others. AP counts 300 detections an
image; recall is the share of objects found at IoU 0.5 among as many detections as the picture has objects, by the IoU
of an object with its nearest neighbour.

Run: .venv/bin/python benchmarks/crowd.py --epochs 60
"""

from __future__ import annotations

import argparse
import tempfile
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from record import DOCS, fill, load, save, table

from leandet.atomic import write_text
from leandet.data.read import read
from leandet.data.sample import Dataset, Sample
from leandet.data.scene import CROWD
from leandet.data.shapes import draw_shapes
from leandet.detections import Detections
from leandet.detector.detector import Detector
from leandet.detector.spec import Spec
from leandet.learn.assign_by_quality import TaskAligned
from leandet.learn.peaks import FALLS
from leandet.learn.recipe import Recipe
from leandet.learn.train import train
from leandet.learn.validation import found, validation_loader
from leandet.metrics import overlaps, score, suppress
from leandet.preprocess import Size
from leandet.report.chart import Axis, Series, picture

MOST = 300  # detections an image that count
CANDIDATES = 1000  # boxes before an NMS
EDGES = (0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.8)
NMS = (0.5, 0.6, 0.7)
PAGE = DOCS / "crowds.md"


def trained(asked: argparse.Namespace, dataset: Dataset, name: str, recipe: Recipe) -> Detector:
    """A detector of one recipe, its last averaged weights; a training cut short goes on."""
    torch.manual_seed(recipe.seed)
    size = Size(asked.side, asked.side)
    spec = Spec(asked.backbone, len(dataset.classes), size, asked.width, detections=MOST)
    detector = Detector(spec)
    splits = dataset.splits
    scratch = asked.scratch / f"{name}-{asked.side}-{recipe.epochs}-{asked.width}"
    train(detector, splits["train"], splits["val"], dataset.classes, recipe, scratch, resume=True)
    return detector


@torch.inference_mode()
def detect(detector: Detector, samples: Sequence[Sample], fall: float) -> list[Detections]:
    """The thousand best boxes of each sample, original pixels, its scores falling as `Spec.fall` says."""
    detector.spec = replace(detector.spec, fall=fall)
    batches = validation_loader(samples, detector.spec.size, 8)
    return [one for batch in batches for one in found(detector(batch.images), batch.placements, CANDIDATES)]


def recalled(sample: Sample, detections: Detections) -> np.ndarray:
    """Which objects (M,) are found at IoU 0.5, best score first, each detection for one object."""
    taken = np.zeros(len(sample.boxes), bool)
    best = detections[: len(sample.boxes)]
    iou = overlaps(best.boxes, sample.boxes) * (best.labels[:, None] == sample.labels)
    for row in iou:
        free = np.where(taken, 0, row)
        if free.max() > 0.5:
            taken[int(free.argmax())] = True
    return taken


def by_overlap(samples: Sequence[Sample], detections: Sequence[Detections]) -> list[dict[str, Any]]:
    """Recall of the objects in each range of overlap with their nearest neighbour."""
    hits: dict[int, list[bool]] = defaultdict(list)
    for sample, answer in zip(samples, detections, strict=True):
        near = overlaps(sample.boxes, sample.boxes)
        np.fill_diagonal(near, 0)
        ranges = np.digitize(near.max(1), EDGES[1:-1])
        for index, hit in zip(ranges, recalled(sample, answer), strict=True):
            hits[int(index)].append(bool(hit))
    return [
        {"from": EDGES[i], "to": EDGES[i + 1], "objects": len(hits[i]), "recall": float(np.mean(hits[i]))}
        for i in sorted(hits)
    ]


def figures(dataset: Dataset, samples: Sequence[Sample], answers: Sequence[Detections]) -> dict[str, Any]:
    """AP, duplicates and recall of one way of decoding."""
    kept = [answer[:MOST] for answer in answers]
    scores = score(samples, kept, dataset.classes, MOST)
    return {
        "ap": scores.ap,
        "ap50": scores.ap50,
        "duplicates_per_100": scores.duplicates_per_100,
        "recall": by_overlap(samples, kept),
    }


def page(results: dict[str, Any]) -> None:
    """Fill the table and the chart of `docs/crowds.md`."""
    rows = results["rows"]
    spans = [f"{span['from']:.1f} to {span['to']:.1f}" for span in rows[0]["recall"]]
    text = table(
        ["detector", "AP", "AP50", "duplicates a 100 objects", *(f"recall, overlap {span}" for span in spans)],
        [
            [row["name"], f"{row['ap']:.3f}", f"{row['ap50']:.3f}", f"{row['duplicates_per_100']:.1f}"]
            + [f"{span['recall']:.3f}" for span in row["recall"]]
            for row in rows
        ],
    )
    fill(PAGE, "crowds", text)
    shown = [row for row in rows if any(word in row["name"] for word in ("as trained", "fall 8", "no fall", "NMS 0.6"))]
    series = [
        Series(row["name"], [((span["from"] + span["to"]) / 2, span["recall"]) for span in row["recall"]])
        for row in shown
    ]
    chart = picture(
        "Objects found in a crowd", series, Axis("IoU with the nearest neighbour"), Axis("recall", from_zero=True)
    )
    write_text(DOCS / "images" / "crowds.svg", chart)


def main() -> None:
    """Train both, measure every way of decoding, save, fill the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backbone", default="shufflenet_v2_x0_5")
    parser.add_argument("--width", type=int, default=64, help="channels of neck and head")
    parser.add_argument("--side", type=int, default=320, help="of pictures and input, px")
    parser.add_argument("--train", type=int, default=300, help="pictures to train on")
    parser.add_argument("--val", type=int, default=60, help="pictures to judge by")
    parser.add_argument("--epochs", type=int, default=60)
    parser.add_argument("--batch", type=int, default=16, help="images a step")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--scratch", type=Path, default=Path(tempfile.gettempdir()) / "leandet-crowd")
    parser.add_argument("--page-only", action="store_true", help="fill the page from the results at hand")
    asked = parser.parse_args()
    if asked.page_only:
        page(load("crowd"))
        return
    torch.set_num_threads(asked.threads)
    pictures = draw_shapes(
        asked.scratch / "crowds", train=asked.train, val=asked.val, side=asked.side, seed=asked.seed, scene=CROWD
    )
    dataset, _ = read(pictures)
    samples = dataset.splits["val"]
    start = Recipe.from_nothing(asked.epochs, asked.batch, asked.seed)
    recipe = replace(start, evaluations=1, patience=0)
    many = replace(recipe, auxiliary=0.0, settling=0.0, assign=TaskAligned())
    rows = []
    for name, chosen in (("one-to-one", recipe), ("one-to-many", many)):
        detector = trained(asked, dataset, name, chosen)
        detector.eval()
        chosen_fall = detector.spec.fall
        answers = detect(detector, samples, 0.0)
        ways = {}
        if name == "one-to-one":
            falls = {f"{name}, fall {fall:g}": fall for fall in FALLS if fall not in (0, chosen_fall)}
            ways = {f"{name}, as trained (fall {chosen_fall:g})": detect(detector, samples, chosen_fall)}
            ways |= {title: detect(detector, samples, fall) for title, fall in falls.items()}
            ways[f"{name}, no fall"] = answers
        ways |= {f"{name}, NMS {iou}": [suppress(answer, iou) for answer in answers] for iou in NMS}
        for title, decoded in ways.items():
            rows.append({"name": title, **figures(dataset, samples, decoded)})
            print(f"{title}: AP {rows[-1]['ap']:.3f}", flush=True)
    keys = ("backbone", "width", "side", "train", "val", "epochs", "batch", "seed")
    objects = float(np.mean([len(sample.boxes) for sample in samples]))
    save("crowd", {**{key: getattr(asked, key) for key in keys}, "objects_an_image": objects, "rows": rows})
    page(load("crowd"))


if __name__ == "__main__":
    main()
