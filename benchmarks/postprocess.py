"""What it costs to turn a network's answers into detections, as a picture holds from 1 to 1,000 objects.

leandet's decode (peak filter, best class, top-k, sigmoid) against NMS, class by class at IoU 0.6: ONNX's own operator,
torchvision's and OpenCV's. In leandet's all classes compete with each other, where nothing else is said; a training
chooses between that and class by class. Every object is answered by eight overlapping boxes over the score threshold,
as a network that needs NMS answers it; leandet's decode gets the same numbers. One thread, in turns. With `--model`,
instead what a detector's decode takes, all that it does after the head's nine maps, as a share of the rest (goal: under
3 %).

Run: .venv/bin/python benchmarks/postprocess.py --model runs/bccd/model.safetensors
"""

from __future__ import annotations

import argparse
import itertools
import time
from collections import defaultdict
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import cv2
import numpy as np
import onnx
import onnxruntime
import torch
from onnx import TensorProto, helper
from record import DOCS, fill, load, save, table
from torch import Tensor, nn
from torchvision.ops import batched_nms

from leandet.atomic import write_text
from leandet.detector.decode import choose, columns
from leandet.detector.detector import Detector
from leandet.detector.files import load_detector
from leandet.detector.head import WIDE, Maps, bars_of
from leandet.detector.spec import STEEPEST
from leandet.engines import onnx_options, settle
from leandet.export.graph import Deployed, deployable, easily_decoded
from leandet.exporter import IMAGES, exported
from leandet.report.chart import Axis, Series, picture

COUNTS = (1, 3, 10, 30, 100, 300, 1000)
COPIES = 8  # answers for each object
CLASSES = 80
THRESHOLD, IOU = 0.25, 0.6
CALLS, WARMUP = 10, 2  # of a detector in one turn
PAGE = DOCS / "postprocessing.md"
SHARES = ("detector", "classes", "competing")  # the first columns of its second table
STRIDES = (8, 16, 32)
Step = Callable[[], Any]
Way = Callable[[np.ndarray, np.ndarray], Step]  # logits (1, N, C) and boxes (1, N, 4) -> what is timed


def answers(objects: int, side: int) -> tuple[np.ndarray, np.ndarray]:
    """Logits (1, N, C) and boxes (1, N, 4) of all locations at strides 8, 16 and 32 of a square input."""
    count = sum((side // stride) ** 2 for stride in STRIDES)
    rng = np.random.default_rng(objects)
    logits = rng.normal(-7, 1, (1, count, CLASSES)).astype(np.float32)
    corner = rng.uniform(0, side - 40, (count, 2))
    boxes = np.concatenate([corner, corner + rng.uniform(10, 40, (count, 2))], 1)
    speaking = rng.permutation(count)[: objects * COPIES]
    owner = np.arange(len(speaking)) % objects
    labels, first = rng.integers(CLASSES, size=objects), boxes[speaking[:objects]]
    boxes[speaking] = first[owner] + rng.normal(0, 0.5, (len(speaking), 4))
    logits[0, speaking, labels[owner]] = rng.uniform(0, 3, len(speaking))
    return logits, boxes[None].astype(np.float32)


class Decode(nn.Module):
    """leandet's decode alone: the peak filter, and the best of what it leaves."""

    def __init__(self, k: int, classwise: bool) -> None:
        super().__init__()
        self.k, self.classwise = k, classwise

    def forward(self, fine: Tensor, middle: Tensor, coarse: Tensor, boxes: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Maps of logits (1, C, h, w) at three levels, and boxes (1, N, 4) -> boxes, scores, labels."""
        levels = [fine, middle, coarse]
        # All boxes are wide, the dearest case; made of an input, for a graph that knew them would do less.
        bars = [bars_of(level[:, :4] - level[:, :4] + 2 * WIDE) for level in levels]
        used = Maps(levels, [], [], bars).peaks(STEEPEST, self.classwise)
        heights = columns(used.heights)[:, 0] if used.heights else None
        scores, labels, places = choose(columns(used.classes), self.k, heights)
        return boxes.gather(1, places[..., None].expand(-1, -1, 4)), scores, labels


def levels_of(logits: np.ndarray, side: int) -> list[np.ndarray]:
    """Logits (1, N, C) as maps (1, C, h, w), as a head answers them."""
    ends = np.cumsum([(side // stride) ** 2 for stride in STRIDES])[:-1]
    parts = zip(np.split(logits, ends, 1), STRIDES, strict=True)
    return [np.ascontiguousarray(p.transpose(0, 2, 1)).reshape(1, -1, side // s, side // s) for p, s in parts]


def in_graph(k: int, side: int, classwise: bool) -> Way:
    """The decode of leandet, in ONNX Runtime."""
    names = ["fine", "middle", "coarse", "boxes"]
    logits, boxes = answers(1, side)
    inputs = tuple(torch.from_numpy(array) for array in (*levels_of(logits, side), boxes))
    program = torch.onnx.export(Decode(k, classwise).eval(), inputs, dynamo=True, verbose=False, input_names=names)
    assert program is not None
    content = program.model_proto.SerializeToString()
    session = onnxruntime.InferenceSession(content, onnx_options(1), providers=["CPUExecutionProvider"])

    def way(logits: np.ndarray, boxes: np.ndarray) -> Step:
        return partial(session.run, None, dict(zip(names, (*levels_of(logits, side), boxes), strict=True)))

    return way


def directly(run: Callable[[np.ndarray, np.ndarray], Any]) -> Way:
    """What takes logits and boxes as they are."""
    return lambda logits, boxes: partial(run, logits, boxes)


def onnx_nms(most: int) -> Way:
    """Sigmoid, then ONNX's NonMaxSuppression, which works class by class."""
    floats = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, None, None]) for name in ("logits", "boxes")]
    chosen = helper.make_tensor_value_info("chosen", TensorProto.INT64, [None, 3])
    constants = [
        helper.make_tensor("most", TensorProto.INT64, [], [most]),
        helper.make_tensor("iou", TensorProto.FLOAT, [], [IOU]),
        helper.make_tensor("threshold", TensorProto.FLOAT, [], [THRESHOLD]),
    ]
    nodes = [
        helper.make_node("Sigmoid", ["logits"], ["p"]),
        helper.make_node("Transpose", ["p"], ["scores"], perm=[0, 2, 1]),
        helper.make_node("NonMaxSuppression", ["boxes", "scores", "most", "iou", "threshold"], ["chosen"]),
    ]
    graph = helper.make_graph(nodes, "nms", floats, [chosen], constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    onnx.checker.check_model(model)
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), onnx_options(1), providers=["CPUExecutionProvider"]
    )
    return directly(lambda logits, boxes: session.run(None, {"logits": logits, "boxes": boxes}))


def speaking(logits: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Locations whose best class scores over the threshold, their scores and classes."""
    best = logits[0].max(1)
    kept = np.flatnonzero(best > np.log(THRESHOLD / (1 - THRESHOLD)))
    return kept, 1 / (1 + np.exp(-best[kept])), logits[0, kept].argmax(1)


def torchvision_nms(logits: np.ndarray, boxes: np.ndarray) -> Tensor:
    """A threshold, then torchvision's batched_nms."""
    kept, scores, labels = speaking(logits)
    return batched_nms(*(torch.from_numpy(a) for a in (boxes[0, kept], scores, labels)), IOU)


def opencv_nms(logits: np.ndarray, boxes: np.ndarray) -> Any:
    """A threshold, then OpenCV's NMSBoxesBatched."""
    kept, scores, labels = speaking(logits)
    corners = boxes[0, kept]
    corners[:, 2:] -= corners[:, :2]
    return cv2.dnn.NMSBoxesBatched(corners.tolist(), scores.tolist(), labels.tolist(), 0.0, IOU)


def timed(step: Step) -> float:
    """Milliseconds of one call."""
    start = time.perf_counter()
    step()
    return 1e3 * (time.perf_counter() - start)


def often(step: Step, threads: int) -> float:
    """Median milliseconds of calls one after another, once another network's threads are asleep."""
    settle(threads)
    return median([timed(step) for _ in range(CALLS)][WARMUP:])


def in_turns(steps: dict[str, Step], rounds: int) -> dict[str, float]:
    """Median milliseconds of each step, called one after another, round after round; the first round is not timed."""
    times: dict[str, list[float]] = defaultdict(list)
    for turn in range(rounds + 1):
        for name, step in steps.items():
            took = timed(step)
            if turn:
                times[name].append(took)
    return {name: median(found) for name, found in times.items()}


def growth(side: int, rounds: int) -> list[dict[str, Any]]:
    """Milliseconds of every way for every number of objects."""
    count = answers(1, side)[0].shape[1]
    ways: dict[str, Way] = {
        "leandet": in_graph(100, side, False),
        "leandet, best 1,000": in_graph(1000, side, False),
        "leandet, class by class": in_graph(100, side, True),
        "ONNX NMS": onnx_nms(1000),
        "torchvision NMS": directly(torchvision_nms),
        "OpenCV NMS": directly(opencv_nms),
    }
    rows = []
    for objects in COUNTS:
        if objects * COPIES > count:
            break
        given = answers(objects, side)
        measured = in_turns({name: way(*given) for name, way in ways.items()}, rounds)
        rows.append({"objects": objects, **measured})
        print(objects, ", ".join(f"{name} {ms:.3f} ms" for name, ms in measured.items()), flush=True)
    return rows


class Undecided(nn.Module):
    """The head's maps as they are: the same network without its decode, and without preparing for it."""

    def __init__(self, detector: Detector) -> None:
        super().__init__()
        self.detector = detector

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """Pixels (B, 3, H, W) -> the maps of `Maps`, one after another."""
        maps = self.detector.head(self.detector.features(images))
        return tuple(level for kind in maps for level in kind)


def bound(session: onnxruntime.InferenceSession, image: np.ndarray) -> Step:
    """One run of a session whose answers stay where they are: nine maps take longer to hand over than three answers."""
    binding = session.io_binding()
    binding.bind_cpu_input(IMAGES, image)
    for output in session.get_outputs():
        binding.bind_output(output.name)
    return partial(session.run_with_iobinding, binding)


def share(path: Path, classwise: bool, threads: int, rounds: int) -> dict[str, Any]:
    """What a detector's decode takes in ONNX Runtime, as a share of the rest: with it against without, in turns."""
    detector, _ = load_detector(path)
    detector.spec = replace(detector.spec, classwise=classwise)  # whatever its training chose
    size = detector.spec.size
    image = np.random.default_rng(0).integers(0, 256, (1, 3, size.height, size.width), np.uint8)
    detector = deployable(detector)
    steps = {}
    for name, module in (("whole", Deployed(easily_decoded(detector))), ("undecided", Undecided(detector))):
        content = exported(module.eval(), torch.from_numpy(image)).SerializeToString()
        session = onnxruntime.InferenceSession(content, onnx_options(threads), providers=["CPUExecutionProvider"])
        steps[name] = partial(often, bound(session, image), threads)
    pairs = [(steps["whole"](), steps["undecided"]()) for _ in range(rounds + 1)][1:]
    whole, undecided, decode = (median(found) for found in zip(*((w, u, w - u) for w, u in pairs), strict=True))
    return {"model": path.name, "backbone": detector.spec.backbone, "size": [size.height, size.width]} | {
        "threads": threads,
        "classes": detector.spec.classes,
        "classwise": classwise,
        "whole_ms": whole,
        "undecided_ms": undecided,
        "decode_ms": decode,
        "share": decode / undecided,
    }


def page(results: dict[str, Any]) -> None:
    """Fill the table and the chart of `docs/postprocessing.md`."""
    rows = results["rows"]
    names = [name for name in rows[0] if name != "objects"]
    text = table(
        ["objects", *(f"{name}, ms" for name in names)],
        [[f"{row['objects']:,}", *(f"{row[name]:.3f}" for name in names)] for row in rows],
    )
    fill(PAGE, "growth", text)
    series = [Series(name, [(row["objects"], row[name]) for row in rows], names=[name] * len(rows)) for name in names]
    chart = picture("Post-processing", series, Axis("objects", from_zero=True), Axis("ms", from_zero=True))
    write_text(DOCS / "images" / "postprocessing.svg", chart)
    shares = [
        [
            f"{s['backbone']}, {s['size'][1]}x{s['size'][0]} px",
            str(s["classes"]),
            "class by class" if s["classwise"] else "all",
            str(s["threads"]),
            f"{s['whole_ms']:.2f}",
            f"{1e3 * s['decode_ms']:.0f}",
            f"{100 * s['share']:.1f} %",
        ]
        for s in load("decode_share")["rows"]
    ]
    fill(PAGE, "share", table([*SHARES, "threads", "network with decode, ms", "decode, us", "its share"], shares))


def main() -> None:
    """Measure, save, fill the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--side", type=int, default=640, help="of the input, px; it decides the number of locations")
    parser.add_argument("--rounds", type=int, default=50)
    parser.add_argument("--model", type=Path, nargs="*", help="measure instead the decode's share of these detectors")
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2], help="of the detectors")
    parser.add_argument("--page-only", action="store_true", help="fill the page from the results at hand")
    asked = parser.parse_args()
    if not asked.page_only:
        torch.set_num_threads(1)
        cv2.setNumThreads(1)
        if asked.model:
            kinds = itertools.product(asked.model, asked.threads, (False, True))
            shares = [share(path, classwise, threads, asked.rounds) for path, threads, classwise in kinds]
            save("decode_share", {"rows": shares})
        else:
            rows = growth(asked.side, asked.rounds)
            fixed = {"side": asked.side, "classes": CLASSES, "copies": COPIES, "threshold": THRESHOLD, "iou": IOU}
            save("postprocess", {**fixed, "rows": rows})
    page(load("postprocess"))


if __name__ == "__main__":
    main()
