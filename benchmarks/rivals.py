"""leandet's detectors beside others: photograph in, boxes out, in ONNX Runtime, in one run that takes turns.

Every detector is timed in three stages: before the network (letterbox, layout, scaling), the network, and after it
(decode, threshold, NMS where it needs one). Others' pre- and post-processing is written here in numpy and OpenCV, once
each, as well as it can be done without touching their graphs.

- torchvision's SSDLite320 with random weights, its NMS in its graph. Its score threshold is 0.05 instead of 0.001, at
  which random scores leave nothing to suppress: generous to it.
- The COCO models in `--peers`: yolox_nano.onnx (416 px) and FastestDet.onnx (352 px) have these sizes built in.
- YOLO26n and YOLO11n with random weights, exported by the `ultralytics` program (AGPL-3.0), which runs as a separate
  program in an environment of its own, named by `--ultralytics-python`; nothing of it is imported here. Left out, they
  are skipped. Such an environment may borrow the torch at hand:

      python -m venv yolo
      echo "SITE-PACKAGES OF THE TORCH AT HAND" > yolo/lib/python3.11/site-packages/borrowed.pth
      yolo/bin/pip install --no-deps ultralytics ultralytics-thop

- The AP of YOLO26n from scratch is given, not measured here: ultralytics 8.4.190, 320 px, batch 16, no pretrained
  weights, seed 0, its best epoch chosen on the test split (generous to it), its own evaluator. leandet's is what each
  model's card says; models are grouped by the name of their data.

Run: .venv/bin/python benchmarks/rivals.py runs/*/model.onnx --peers DIR --ultralytics-python yolo/bin/python
"""

from __future__ import annotations

import argparse
import os
import subprocess
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import onnx
import onnxruntime
import torch
from record import DOCS, fill, load, save, table

from leandet.atomic import write_text
from leandet.data.image import load_image
from leandet.detections import Detections
from leandet.engines import onnx_options, settle
from leandet.machine import busy_cores
from leandet.metrics import suppress
from leandet.preprocess import Image, Placement, Size, letterbox
from leandet.report.chart import Axis, Series, picture
from leandet.runtime import open_runtime
from leandet.runtime.photograph import photograph_like

SCORE = 0.25  # threshold of the others; leandet's answers are not thresholded, its hundred best come out
IOU = 0.6
ROUNDS = 12
PAGE = DOCS / "rivals.md"
YOLO_EXPORT = """
import shutil, sys
from ultralytics import YOLO
name, size, target, one_to_one = sys.argv[1], int(sys.argv[2]), sys.argv[3], sys.argv[4] == "1"
extra = {"nms": False} if one_to_one else {}
shutil.move(YOLO(f"{name}.yaml").export(format="onnx", imgsz=size, simplify=False, **extra), target)
"""

# YOLO26n from scratch, measured once (see above): data set, epochs, AP without NMS, AP of its other head with NMS.
GIVEN = {
    "bccd": {"epochs": 100, "ap": 0.549, "ap_with_nms": 0.565},
    "cards": {"epochs": 60, "ap": 0.385, "ap_with_nms": 0.464},
}


@dataclass
class Contender:
    """A detector in three stages, and the seconds that each call took in them.

    Attributes:
        name: for the table.
        size: height and width of its input in pixels.
        before: photograph -> inputs of the network, and where the photograph lies in them.
        network: inputs -> raw answer.
        after: raw answer and placement -> detections in the photograph's pixels.
        facts: what else is said of it.
    """

    name: str
    size: Size
    before: Callable[[Image], tuple[Any, Placement]]
    network: Callable[[Any], Any]
    after: Callable[[Any, Placement], Detections]
    facts: dict[str, Any] = field(default_factory=dict)
    times: list[tuple[float, float, float]] = field(default_factory=list)

    def call(self, image: Image) -> tuple[float, float, float]:
        """Seconds of the three stages for one photograph."""
        start = time.perf_counter()
        inputs, placement = self.before(image)
        ready = time.perf_counter()
        raw = self.network(inputs)
        answered = time.perf_counter()
        self.after(raw, placement)
        return ready - start, answered - ready, time.perf_counter() - answered

    def row(self) -> dict[str, Any]:
        """Medians in milliseconds."""
        stages = np.array(self.times) * 1e3
        before, network, after = (float(v) for v in np.median(stages, 0))
        whole = stages.sum(1)
        return {
            "name": self.name,
            "size": [self.size.height, self.size.width],
            "p50_ms": float(np.median(whole)),
            "p90_ms": float(np.percentile(whole, 90)),
            "before_ms": before,
            "network_ms": network,
            "after_ms": after,
            "calls": len(whole),
            **self.facts,
        }


def scaled(size: Size, factor: float, *, flip: bool) -> Callable[[Image], tuple[Any, Placement]]:
    """Letterbox, then float32 (1, 3, H, W) times `factor`; BGR where `flip`."""

    def before(image: Image) -> tuple[Any, Placement]:
        boxed, where = letterbox(image, size)
        blob = cv2.dnn.blobFromImage(boxed, factor, swapRB=flip)
        return blob, where

    return before


def session_of(content: bytes, threads: int) -> onnxruntime.InferenceSession:
    """ONNX Runtime on the CPU, asked as leandet asks it."""
    return onnxruntime.InferenceSession(content, onnx_options(threads), providers=["CPUExecutionProvider"])


def plain(session: onnxruntime.InferenceSession) -> Callable[[Any], Any]:
    """Run a graph of one input."""
    name = session.get_inputs()[0].name
    return lambda inputs: session.run(None, {name: inputs})


def ours(path: Path, threads: int) -> Contender:
    """A detector that leandet exported."""
    runtime = open_runtime(path, threads)

    def before(image: Image) -> tuple[Any, Placement]:
        inputs, placements = runtime.prepare([image])
        return inputs, placements[0]

    card = runtime.card
    told = card.provenance
    facts = {"ap": card.metrics.get("ap"), **{key: told.get(key) for key in ("data", "epochs", "images")}}
    precision = ", INT8" if told.get("precision") == "int8" else ""
    start = "from nothing" if told.get("backbone_weights") == "none" else "from ImageNet"
    return Contender(
        f"leandet {card.spec.backbone}, width {card.spec.width}{precision}, {start}, {told.get('images')} pictures",
        card.spec.size,
        before,
        runtime.run_network,
        lambda raw, where: runtime.finish(raw, [where])[0],
        {**facts, "family": "leandet", "nms": False, "bytes": path.stat().st_size},
    )


def best_of(boxes: Any, scores: Any, where: Placement, labels: Any = None) -> Detections:
    """Threshold at 0.25, NMS class by class, back to the photograph; scores (N, C), or (N,) with labels."""
    if labels is None:
        labels = scores.argmax(1)
        scores = scores[np.arange(len(scores)), labels]
    kept = np.flatnonzero(scores > SCORE)
    order = kept[np.argsort(-scores[kept])]
    found = Detections(where.undo(boxes[order]), scores[order].astype(np.float32), labels[order].astype(np.int64))
    return suppress(found, IOU)


def from_centre(centre: Any, sides: Any) -> Any:
    """Centres and sides (N, 2) -> xyxy (N, 4)."""
    return np.concatenate([centre - sides / 2, centre + sides / 2], 1)


def ssdlite(threads: int, folder: Path) -> Contender:
    """The SSDLite320-MobileNetV3 of torchvision for COCO's classes, random weights, NMS in the graph."""
    from torchvision.models.detection import ssdlite320_mobilenet_v3_large

    path = folder / "ssdlite320.onnx"
    if not path.is_file():
        torch.manual_seed(0)
        network = ssdlite320_mobilenet_v3_large(weights=None, weights_backbone=None, score_thresh=0.05).eval()
        torch.onnx.export(network, (torch.rand(1, 3, 320, 320),), str(path), dynamo=False, opset_version=17)
    size = Size(320, 320)
    session = session_of(path.read_bytes(), threads)

    def after(raw: Any, where: Placement) -> Detections:
        boxes, scores, labels = raw
        return Detections(where.undo(boxes), scores, labels)

    facts = {"family": "torchvision", "nms": True, "bytes": path.stat().st_size}
    return Contender("SSDLite320-MobileNetV3", size, scaled(size, 1 / 255, flip=False), plain(session), after, facts)


def yolox(path: Path, threads: int) -> Contender:
    """YOLOX-Nano: (1, N, 85) of centre, log side, objectness and classes, undecoded."""
    size = Size(416, 416)
    grids, strides = [], []
    for stride in (8, 16, 32):
        y, x = np.mgrid[: size.height // stride, : size.width // stride]
        grids.append(np.stack([x, y], -1).reshape(-1, 2))
        strides.append(np.full((len(grids[-1]), 1), stride))
    grid, stride = np.concatenate(grids).astype(np.float32), np.concatenate(strides).astype(np.float32)

    def after(raw: Any, where: Placement) -> Detections:
        answer = raw[0][0]
        boxes = from_centre((answer[:, :2] + grid) * stride, np.exp(answer[:, 2:4]) * stride)
        return best_of(boxes, answer[:, 4:5] * answer[:, 5:], where)

    facts = {"family": "YOLOX", "nms": True, "bytes": path.stat().st_size}
    session = session_of(path.read_bytes(), threads)
    return Contender("YOLOX-Nano", size, scaled(size, 1.0, flip=True), plain(session), after, facts)


def fastestdet(path: Path, threads: int) -> Contender:
    """FastestDet: (1, 85, 22, 22) of objectness, offsets, sides and classes."""
    size = Size(352, 352)

    def after(raw: Any, where: Placement) -> Detections:
        answer = raw[0][0]
        rows, columns = answer.shape[1:]
        y, x = np.mgrid[:rows, :columns]
        answer = answer.reshape(len(answer), -1).T
        cell = np.array([size.width / columns, size.height / rows])
        centre = (np.tanh(answer[:, 1:3]) + np.stack([x.ravel(), y.ravel()], 1)) * cell
        sides = np.array([size.width, size.height]) / (1 + np.exp(-answer[:, 3:5]))
        scores = answer[:, :1] ** 0.6 * answer[:, 5:] ** 0.4
        return best_of(from_centre(centre, sides).astype(np.float32), scores, where)

    facts = {"family": "FastestDet", "nms": True, "bytes": path.stat().st_size}
    session = session_of(path.read_bytes(), threads)
    return Contender("FastestDet", size, scaled(size, 1 / 255, flip=True), plain(session), after, facts)


def yolo(name: str, size: int, threads: int, python: Path, folder: Path, *, one_to_one: bool) -> Contender:
    """A YOLO that the ultralytics program exports, random weights; its end-to-end head or the one that needs NMS."""
    path = folder / f"{name}-{size}-{'one-to-one' if one_to_one else 'nms'}.onnx"
    if not path.is_file():
        words = [str(python.absolute()), "-c", YOLO_EXPORT, name, str(size), str(path), str(int(one_to_one))]
        outside = {"YOLO_AUTOINSTALL": "False", "YOLO_CONFIG_DIR": str(folder)}
        done = subprocess.run(
            words, cwd=folder, env={**os.environ, **outside}, capture_output=True, text=True, check=False
        )
        if done.returncode or not path.is_file():
            raise SystemExit(f"{python} could not export {name}:\n{done.stderr[-2000:]}")
    onnx.checker.check_model(path)
    side = Size(size, size)

    def suppressed(raw: Any, where: Placement) -> Detections:
        answer = raw[0][0].T  # (N, 4 + C): centre, sides, class scores
        return best_of(from_centre(answer[:, :2], answer[:, 2:4]), answer[:, 4:], where)

    def chosen(raw: Any, where: Placement) -> Detections:
        answer = raw[0][0]  # (300, 6): xyxy, score, class
        answer = answer[answer[:, 4] > SCORE]
        return Detections(where.undo(answer[:, :4]), answer[:, 4], answer[:, 5].astype(np.int64))

    title = {"yolo26n": "YOLO26n", "yolo11n": "YOLO11n"}[name] + ("" if one_to_one else " + NMS")
    facts = {"family": "ultralytics", "nms": not one_to_one, "bytes": path.stat().st_size}
    session = session_of(path.read_bytes(), threads)
    after = chosen if one_to_one else suppressed
    return Contender(title, side, scaled(side, 1 / 255, flip=False), plain(session), after, facts)


def gather(asked: argparse.Namespace) -> list[Contender]:
    """Everyone who can be measured here; who cannot is named with the reason."""
    asked.graphs.mkdir(parents=True, exist_ok=True)
    contenders = [ours(path, asked.threads) for path in asked.models]
    contenders.append(ssdlite(asked.threads, asked.graphs))
    for file, make in (("yolox_nano.onnx", yolox), ("FastestDet.onnx", fastestdet)):
        path = asked.peers / file if asked.peers else None
        if path and path.is_file():
            contenders.append(make(path, asked.threads))
        else:
            print(f"{file} is skipped: name the folder that holds it with --peers.")
    if asked.ultralytics_python:
        for name, one_to_one in (("yolo26n", True), ("yolo26n", False), ("yolo11n", False)):
            contenders.append(
                yolo(name, asked.size, asked.threads, asked.ultralytics_python, asked.graphs, one_to_one=one_to_one)
            )
    else:
        print("YOLO26n and YOLO11n are skipped: name a Python that has ultralytics with --ultralytics-python.")
    return contenders


def measure(contenders: list[Contender], images: list[Image], seconds: float, threads: int) -> None:
    """Take turns, so that a slow moment strikes all alike; the order moves on each round."""
    order = list(contenders)
    for turn in range(ROUNDS + 1):
        for contender in order:
            settle(threads)
            contender.call(images[0])  # untimed: brings its weights back into the caches
            end = time.perf_counter() + seconds / ROUNDS
            calls = 0
            while calls == 0 or time.perf_counter() < end:
                times = contender.call(images[calls % len(images)])
                calls += 1
                if turn:
                    contender.times.append(times)
        order.append(order.pop(0))
        print(f"round {turn} of {ROUNDS}", flush=True)


def label(name: str) -> str:
    """The network alone, for a point of the chart."""
    return ", ".join(part for part in name.removeprefix("leandet ").split(", ") if " " not in part or "width" in part)


def page(results: dict[str, Any]) -> None:
    """Fill the tables and charts of `docs/rivals.md`."""
    rows = sorted(results["rows"], key=lambda row: row["p50_ms"])
    text = table(
        ["detector", "input, px", "whole p50, ms", "before, ms", "network, ms", "after, ms", "NMS", "AP (its data)"],
        [
            [
                row["name"],
                f"{row['size'][1]}x{row['size'][0]}",
                *(f"{row[key]:.2f}" for key in ("p50_ms", "before_ms", "network_ms", "after_ms")),
                "yes" if row["nms"] else "no",
                f"{row['ap']:.3f} ({row['data']})" if row.get("ap") is not None else "",
            ]
            for row in rows
        ],
    )
    fill(PAGE, "latency", text)
    for data, given in GIVEN.items():
        mine = [row for row in rows if row.get("data") == data and row.get("ap") is not None]
        timed = {row["name"]: row["p50_ms"] for row in rows}
        points = [(f"leandet, {r['images']} pictures", r["p50_ms"], r["ap"], label(r["name"])) for r in mine]
        for name, key in (("YOLO26n", "ap"), ("YOLO26n + NMS", "ap_with_nms")):
            if name in timed:
                points.append((name, timed[name], given[key], f"{name}, {given['epochs']} epochs"))
        series = []
        for name in dict.fromkeys(point[0] for point in points):
            own = [point for point in points if point[0] == name]
            series.append(Series(name, [p[1:3] for p in own], joined=False, names=[p[3] for p in own]))
        if mine:
            chart = picture(f"{data}: accuracy and latency", series, Axis("p50, ms", from_zero=True), Axis("AP"))
            write_text(DOCS / "images" / f"rivals-{data}.svg", chart)


def main() -> None:
    """Measure, save, fill the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", type=Path, nargs="*", help="leandet's .onnx files")
    parser.add_argument("--peers", type=Path, help="folder with yolox_nano.onnx and FastestDet.onnx")
    parser.add_argument("--ultralytics-python", type=Path, help="the Python of an environment that has ultralytics")
    parser.add_argument("--size", type=int, default=320, help="side of the YOLOs' input, px")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--seconds", type=float, default=10.0, help="measured time for each detector")
    parser.add_argument("--images", type=Path, nargs="*", help="photographs; one drawn picture if left out")
    parser.add_argument("--graphs", type=Path, default=Path(tempfile.gettempdir()) / "leandet-rivals")
    parser.add_argument("--page-only", action="store_true", help="fill the page from the results at hand")
    asked = parser.parse_args()
    if not asked.page_only:
        contenders = gather(asked)
        images = [load_image(path) for path in asked.images[:64]] if asked.images else [photograph_like()]
        busy = busy_cores()
        cv2.setNumThreads(asked.threads)
        measure(contenders, images, asked.seconds, asked.threads)
        rows = [contender.row() for contender in contenders]
        fixed = {"threads": asked.threads, "photographs": len(images), "busy_cores_before": busy, "given": GIVEN}
        save("rivals", {**fixed, "rows": rows})
    page(load("rivals"))


if __name__ == "__main__":
    main()
