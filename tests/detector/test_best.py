"""The best of a head's maps, in PyTorch and in ONNX Runtime, against a decode that goes from location to location."""

import itertools
import math
from dataclasses import replace
from functools import cache

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from leandet.compress import recalibrate
from leandet.detector.detector import Detector
from leandet.detector.head import WIDE, Maps
from leandet.detector.spec import STEEPEST, HeadStyle, Spec
from leandet.export.graph import Deployed, easily_decoded
from leandet.exporter import IMAGES, exported
from leandet.preprocess import Size

SIZE = Size(64, 96)
LEVELS = {HeadStyle.LEAN: (8, 16, 32), HeadStyle.ONENET_CENTRE: (4,), HeadStyle.ONENET_FCOS: (8, 16, 32, 64, 128)}


@cache
def tiny(style: HeadStyle = HeadStyle.LEAN, classes: int = 3, detections: int = 100) -> Detector:
    torch.manual_seed(0)
    spec = Spec("mobilenet_v2_035", classes, SIZE, 8, LEVELS[style], head=style, detections=detections)
    return Detector(spec).eval()


def shapes(style: HeadStyle) -> list[tuple[int, int]]:
    return [(math.ceil(SIZE.height / s), math.ceil(SIZE.width / s)) for s in LEVELS[style]]


def random_maps(style: HeadStyle, classes: int, batch: int, seed: int, steps: int) -> Maps:
    """Whole steps, so that sums are exact and equals are many where there are few of them."""
    random = np.random.default_rng(seed)

    def level(channels: int, height: int, width: int) -> torch.Tensor:
        values = random.integers(-steps, steps + 1, (batch, channels, height, width)) / 4
        return torch.from_numpy(values.astype(np.float32))

    sizes = shapes(style)
    chosen = [level(1, *size) for size in sizes] if style is HeadStyle.LEAN else []
    return Maps([level(classes, *size) for size in sizes], chosen, [level(4, *size) for size in sizes])


def said(style: HeadStyle, maps: Maps, image: int, classwise: bool) -> list[tuple[float, int, tuple[float, ...]]]:
    """Of every location of one image: score as used, best class, box; worked out one at a time, by `math`."""
    found = []
    lists = [[kind[image].tolist() for kind in level] for level in zip(maps.classes, maps.sides, strict=True)]
    chosen = [level[image, 0].tolist() for level in maps.chosen]
    grid = shapes(style)

    def raw(level: int, c: int, y: int, x: int) -> float:
        return lists[level][0][c][y][x] + (chosen[level][y][x] if chosen else 0.0)

    def wide(level: int, y: int, x: int) -> bool:
        return sum(lists[level][1][n][y][x] for n in range(4)) / 4 >= WIDE

    def around(level: int, rows: range, columns: range) -> list[tuple[int, int, int]]:
        height, width = grid[level]
        return [(level, v, u) for v in rows for u in columns if 0 <= v < height and 0 <= u < width]

    def rivals(level: int, y: int, x: int) -> list[tuple[int, int, int]]:
        """Itself and whoever is in its reach."""
        reached = around(level, range(y - 1, y + 2), range(x - 1, x + 2))
        if wide(level, y, x):
            v, u = y // 2, x // 2
            if level + 1 < len(grid):
                reached += around(level + 1, range(v - 1, v + 2), range(u - 1, u + 2))
                far = around(level, range(2 * v - 2, 2 * v + 4), range(2 * u - 2, 2 * u + 4))
            else:
                far = around(level, range(y - 2, y + 3), range(x - 2, x + 3))
            reached += [one for one in far if wide(*one)]
        if level:
            v, u = 2 * y, 2 * x
            reached += [one for one in around(level - 1, range(v - 2, v + 4), range(u - 2, u + 4)) if wide(*one)]
        return reached

    for level, stride in enumerate(LEVELS[style]):
        for y, x in itertools.product(range(grid[level][0]), range(grid[level][1])):
            logits = []
            reached = rivals(level, y, x) if chosen else []
            kinds = range(len(lists[level][0]))
            for c in kinds:
                own, rivalling = raw(level, c, y, x), [c] if classwise else kinds
                best = max(raw(level, rival, y, x) for rival in rivalling)
                highest = max(
                    (raw(at, r, v, u) for (at, v, u), r in itertools.product(reached, rivalling)), default=best
                )
                logits.append(own - STEEPEST * (highest - best))
            left, top, right, bottom = (stride * reach(style, lists[level][1][n][y][x]) for n in range(4))
            centre = ((x + 0.5) * stride, (y + 0.5) * stride)
            box = (centre[0] - left, centre[1] - top, centre[0] + right, centre[1] + bottom)
            found.append(((1 + math.tanh(max(logits) / 2)) / 2, logits.index(max(logits)), box))
    return found


def reach(style: HeadStyle, value: float) -> float:
    return math.log1p(math.exp(value)) if style is HeadStyle.LEAN else max(0.0, value)


def check(style: HeadStyle, maps: Maps, k: int, answer: list[np.ndarray], classwise: bool = True) -> None:
    """Each answer is a location's, none is given twice, no better one is left out; equals come in any order."""
    boxes, scores, labels = answer
    locations = sum(height * width for height, width in shapes(style))
    assert boxes.shape == (len(scores), min(k, locations), 4)
    assert labels.dtype == np.int64
    for image in range(len(scores)):
        wanted = said(style, maps, image, classwise)
        best = sorted((score for score, _, _ in wanted), reverse=True)[:k]
        np.testing.assert_allclose(scores[image], best, rtol=1e-5, atol=1e-7)
        values, kinds, places = (np.array(part) for part in zip(*wanted, strict=True))
        free = np.ones(len(wanted), bool)
        for box, score, label in zip(boxes[image], scores[image], labels[image], strict=True):
            near = (np.abs(places - box).max(1) < 1e-3) & (np.abs(values - score) < 1e-5) & (kinds == label) & free
            assert near.any()
            free[near.argmax()] = False


@settings(max_examples=20)
@given(
    style=st.sampled_from(list(HeadStyle)),
    classes=st.integers(1, 4),
    batch=st.integers(1, 2),
    k=st.sampled_from([1, 7, 100, 1000]),
    steps=st.sampled_from([1, 3, 40]),
    seed=st.integers(0, 10**6),
    classwise=st.booleans(),
)
def test_best_is_what_every_location_says_sorted(style, classes, batch, k, steps, seed, classwise):
    maps = random_maps(style, classes, batch, seed, steps)
    answer = tiny(style).best(maps.peaks(STEEPEST, classwise), k)
    check(style, maps, k, [part.numpy() for part in answer], classwise)


@pytest.mark.parametrize("classwise", [True, False])
@torch.inference_mode()
def test_detect_is_forward_and_then_the_best(classwise):
    images = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (2, 3, SIZE.height, SIZE.width), np.uint8))
    detector = recalibrate(tiny(), [images])
    detector.spec = replace(detector.spec, classwise=classwise)
    for tower in detector.head.classify:
        tower[-1].weight.normal_(std=0.5)  # scores that differ
    predictions = detector(images)
    boxes, scores, labels = detector.detect(images, 5)
    best, order = predictions.logits.amax(2).sort(1, descending=True)
    assert best[:, :5].diff(dim=1).abs().min() > 1e-4  # no equals
    torch.testing.assert_close(scores, best[:, :5].sigmoid())
    for image, places in enumerate(order[:, :5]):
        torch.testing.assert_close(boxes[image], predictions.boxes[image, places])
        assert labels[image].tolist() == predictions.logits[image, places].argmax(1).tolist()


class FromMaps(torch.nn.Module):
    """The decode alone; its input is the maps, one after another in one tensor (B, classes + 1 + 4, N)."""

    def __init__(self, detector: Detector) -> None:
        super().__init__()
        self.detector = detector

    def forward(self, packed: torch.Tensor) -> tuple[torch.Tensor, ...]:
        spec, sizes = self.detector.spec, shapes(self.detector.spec.head)
        parts = packed.split([height * width for height, width in sizes], 2)
        maps = [part.unflatten(2, size) for part, size in zip(parts, sizes, strict=True)]
        split = [one.split([spec.classes, 1, 4], 1) for one in maps]
        whole = Maps(*(list(kind) for kind in zip(*split, strict=True)))
        return self.detector.best(whole.peaks(spec.fall, spec.classwise), spec.detections)


@cache
def session(classes: int, detections: int, classwise: bool) -> onnxruntime.InferenceSession:
    detector = tiny(HeadStyle.LEAN, classes, detections)
    detector.spec = replace(detector.spec, classwise=classwise)
    module = FromMaps(detector).eval()
    count = sum(height * width for height, width in shapes(HeadStyle.LEAN))
    batch = torch.export.Dim("batch", min=1, max=64)
    model = exported(module, torch.zeros(2, classes + 5, count), dynamic_shapes=({0: batch},))
    return onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])


@settings(max_examples=20)
@given(
    row=st.sampled_from([(1, 1000), (3, 20)]),
    batch=st.integers(1, 3),
    steps=st.sampled_from([1, 3, 40, 400]),
    seed=st.integers(0, 10**6),
    classwise=st.booleans(),
)
@example(row=(1, 1000), batch=2, steps=0, seed=0, classwise=True)  # all locations say the same
def test_the_graph_answers_so_too(row, batch, steps, seed, classwise):
    classes, k = row
    maps = random_maps(HeadStyle.LEAN, classes, batch, seed, steps)
    packed = torch.cat([torch.cat([m.flatten(2) for m in kind], 2) for kind in maps if kind], 1)
    answer = session(classes, k, classwise).run(None, {IMAGES: packed.numpy()})
    check(HeadStyle.LEAN, maps, k, answer, classwise)


@pytest.fixture(scope="module")
def graph() -> onnx.GraphProto:
    """A whole detector's, its shapes known."""
    model = exported(
        Deployed(easily_decoded(tiny(detections=10))).eval(),
        torch.zeros(1, 3, SIZE.height, SIZE.width, dtype=torch.uint8),
    )
    return onnx.shape_inference.infer_shapes(model, data_prop=True).graph


def after_the_maps(graph: onnx.GraphProto) -> list[onnx.NodeProto]:
    """What no convolution depends on."""
    maker = {name: node for node in graph.node for name in node.output}
    waiting = [node for node in graph.node if node.op_type == "Conv"]
    before = set()
    while waiting:
        node = waiting.pop()
        if node.output[0] not in before:
            before.add(node.output[0])
            waiting += [maker[name] for name in node.input if name in maker]
    return [node for node in graph.node if node.output[0] not in before]


def test_decode_is_few_operations_and_few_of_them_see_every_location(graph):
    """In a light detector an operation's call costs as much as its work, and so does what is done for 1,680 boxes."""
    decode = after_the_maps(graph)
    assert len(decode) <= 64
    size = {v.name: [d.dim_value for d in v.type.tensor_type.shape.dim] for v in [*graph.value_info, *graph.output]}
    assert all(output in size for node in decode for output in node.output)
    wide = {node.op_type for node in decode if math.prod(size[node.output[0]]) > 4 * 10}  # four sides of the chosen
    assert wide <= {
        "Add",
        "MaxPool",
        "Max",
        "Sub",
        "Mul",
        "Relu",
        "Resize",
        "Reshape",
        "Split",
        "Concat",
        "ReduceMax",
    }
