"""INT8 for ONNX Runtime: quantise and dequantise nodes around the convolutions of an exported graph.

Activations are unsigned 8-bit with one scale for a tensor, weights signed 8-bit with one scale for an output channel:
the only pairing that ONNX Runtime runs fast on x86, and depthwise convolutions lose too much accuracy with less
(Krishnamoorthi, arXiv 1806.08342, section 3.1.4).
The predictors take 8 bit and answer floats, for 8-bit answers would keep only 256 values; what follows them (sigmoid,
box decode, top-k) stays float32.
"""

from __future__ import annotations

import contextlib
import io
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from enum import Enum
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime
from onnxruntime.quantization import CalibrationDataReader, CalibrationMethod, QuantType
from onnxruntime.quantization.calibrate import TensorData, TensorsData, create_calibrator
from onnxruntime.quantization.qdq_quantizer import QDQQuantizer

from leandet.atomic import write_bytes
from leandet.card import Card
from leandet.export.blocks import fill_blocks
from leandet.export.formats import stamp
from leandet.loggers import ROOT, only_errors
from leandet.quantize.rewrite import (
    SHIFTED,
    SHIFTED_RANGE,
    enlarge_by_copying,
    multiply_answers,
    normalise_in_weights,
    read_pixels,
)
from leandet.runtime.onnx import INPUT

Images = Sequence[npt.NDArray[np.uint8]]  # each (1, 3, H, W) RGB, letterboxed

# Operators that have an 8-bit kernel and lie between convolutions; sigmoids and softmaxes are left out on purpose.
QUANTIZED = (
    *("Conv", "Gemm", "MatMul", "Add", "Mul", "Concat", "Relu", "Clip", "MaxPool", "AveragePool", "GlobalAveragePool"),
    *("Resize", "Reshape", "Transpose", "Split", "Pad", "Squeeze", "Unsqueeze"),
)
PERCENTILE = 99.99
BLOCK = 16  # channels that an 8-bit kernel takes at once; a depthwise convolution does the rest one by one
CHUNK = 2  # images whose activations are held at once while histograms are made: about 100 MB each


class Calibration(Enum):
    """How the range of an activation follows from what was seen."""

    PERCENTILE = "percentile"  # all but the outermost 0.01 %, which would waste the 256 steps on rare values
    MINMAX = "minmax"


class _Reader(CalibrationDataReader):  # type: ignore[misc]
    """Hands the images to ONNX Runtime one by one."""

    def __init__(self, images: Images) -> None:
        self._rest = iter(images)

    def get_next(self) -> dict[str, npt.NDArray[np.uint8]] | None:
        image = next(self._rest, None)
        return None if image is None else {INPUT: image}


class OnnxQuantizer:
    """Writes 8-bit versions of one exported ONNX detector.

    A *layer* is one weight tensor that may be in 8 bit; where levels share it, it is one layer of several nodes.

    Args:
        model: the float32 file of `leandet export`.
        images: calibration images, each uint8 (1, 3, H, W) RGB letterboxed.
        learned: for some layers, the lowest and highest value of what they read, to be taken instead of those seen.
        reduce_range: use 7 bits of each weight, for x86 processors without VNNI, whose 16-bit sums overflow.
    """

    def __init__(
        self,
        model: Path,
        images: Images,
        *,
        reduce_range: bool,
        learned: Mapping[str, tuple[float, float]] | None = None,
    ) -> None:
        whole = onnx.load(model)
        fill_blocks(whole.graph, BLOCK, BLOCK)
        self._model = onnx.shape_inference.infer_shapes(whole)
        self.images = images
        self._reduce_range = reduce_range
        self._ranges: dict[Calibration, TensorsData] = {}
        for index, node in enumerate(self._model.graph.node):
            node.name = node.name or f"node_{index}"
        graph = self._model.graph
        needed = before_decode(graph)
        self._ends = _ends(graph, needed)
        answering = {node.name for node in graph.node if set(node.output) & set(self._ends)}
        normalise_in_weights(graph)
        self._nodes = (needed - answering) | multiply_answers(graph, answering)
        self._nodes &= {node.name for node in graph.node}  # without the normalisation
        self._shapes = _shapes(graph)
        self.layers = _layers(graph, self._nodes)
        self._fixed = {**_read_ranges(graph, self.layers, learned or {}), SHIFTED: SHIFTED_RANGE}

    def write(self, path: Path, card: Card, calibration: Calibration, keep: Iterable[str] = ()) -> None:
        """Write the 8-bit model with its card.

        Args:
            path: of the new file.
            card: stored with it.
            calibration: how ranges are chosen; measured on the images at its first use.
            keep: layers left in float32.
        """
        model = self._quantized(calibration, self._nodes - self._nodes_of(keep))
        stamp(model, card)
        write_bytes(path, model.SerializeToString())

    def sensitivities(self, calibration: Calibration, images: Images) -> dict[str, float]:
        """How much each layer, the only one in 8 bit, disturbs what the last convolutions answer.

        Returns:
            For each layer the mean over those answers' channels of |8-bit - float32|^2 / |float32|^2, worst first.
        """
        wanted = _answers(self._model, self._ends, images)
        found = {}
        for layer, nodes in self.layers.items():
            answers = _answers(self._quantized(calibration, nodes), self._ends, images)
            found[layer] = float(np.mean([_error(a, w) for a, w in zip(answers, wanted, strict=True)]))
        return dict(sorted(found.items(), key=lambda item: -item[1]))

    def _nodes_of(self, layers: Iterable[str]) -> set[str]:
        return {node for layer in layers for node in self.layers[layer]}

    def _quantized(self, calibration: Calibration, nodes: Iterable[str]) -> onnx.ModelProto:
        copied = onnx.ModelProto()
        copied.CopyFrom(self._model)
        quantizer = QDQQuantizer(
            copied,
            True,  # per_channel
            self._reduce_range,
            QuantType.QInt8,
            QuantType.QUInt8,
            self._ranges_of(calibration),
            sorted(nodes),
            [],
            list(QUANTIZED),
            {"QDQOpTypePerChannelSupportToAxis": {"MatMul": 1}, "OpTypesToExcludeOutputQuantization": ["MatMul"]},
        )
        with only_errors(ROOT):  # where a channel's weights are all but zero it says that the bias was clipped
            quantizer.quantize_model()
        model: onnx.ModelProto = quantizer.model.model
        read_pixels(model.graph)
        enlarge_by_copying(model.graph, self._shapes)
        return model

    def _ranges_of(self, calibration: Calibration) -> TensorsData:
        """Lowest and highest value of every tensor, measured once for each way of calibrating."""
        if calibration not in self._ranges:
            method = {"percentile": CalibrationMethod.Percentile, "minmax": CalibrationMethod.MinMax}[calibration.value]
            options = {"percentile": PERCENTILE} if calibration is Calibration.PERCENTILE else {}
            # The calibrators print what they do; standard output belongs to `--json`.
            with tempfile.TemporaryDirectory() as scratch, contextlib.redirect_stdout(io.StringIO()):
                file = Path(scratch) / "model.onnx"
                onnx.save(_until(self._model, self._ends), file)
                calibrator = create_calibrator(
                    file,
                    list(QUANTIZED),
                    augmented_model_path=str(Path(scratch) / "augmented.onnx"),
                    calibrate_method=method,
                    providers=["CPUExecutionProvider"],
                    extra_options=options,
                )
                for start in range(0, len(self.images), CHUNK):
                    calibrator.collect_data(_Reader(self.images[start : start + CHUNK]))
                ranges = calibrator.compute_data()
            for tensor, bounds in self._fixed.items():
                if tensor in ranges:
                    low, high = (np.array(bound, np.float32) for bound in bounds)
                    ranges[tensor] = TensorData(lowest=low, highest=high)
            self._ranges[calibration] = ranges
        return self._ranges[calibration]


def before_decode(graph: onnx.GraphProto) -> set[str]:
    """Names of the convolutions and of every node that a convolution depends on: all but the decode."""
    maker = {output: node for node in graph.node for output in node.output}
    found: set[str] = set()
    waiting = [node for node in graph.node if node.op_type == "Conv"]
    while waiting:
        node = waiting.pop()
        if node.name not in found:
            found.add(node.name)
            waiting += [maker[name] for name in node.input if name in maker]
    return found


def _ends(graph: onnx.GraphProto, nodes: set[str]) -> list[str]:
    """Tensors made by a convolution and read by the decode: the network's raw answers."""
    made = {output for node in graph.node if node.op_type == "Conv" for output in node.output}
    return sorted({name for node in graph.node if node.name not in nodes for name in node.input if name in made})


def _until(model: onnx.ModelProto, ends: Sequence[str]) -> onnx.ModelProto:
    """The part of a model that makes the tensors `ends`: what the decode makes of them needs no ranges."""
    made = onnx.ModelProto()
    made.CopyFrom(model)
    graph = made.graph
    maker = {output: index for index, node in enumerate(graph.node) for output in node.output}
    waiting, needed = list(ends), set[int]()
    while waiting:
        index = maker.get(waiting.pop())
        if index is not None and index not in needed:
            needed.add(index)
            waiting += graph.node[index].input
    kept = [node for index, node in enumerate(graph.node) if index in needed]
    read = {name for node in kept for name in node.input}
    del graph.node[:]
    graph.node.extend(kept)
    for constant in [constant for constant in graph.initializer if constant.name not in read]:
        graph.initializer.remove(constant)  # the decode's: engines warn of what nobody reads, one line each
    del graph.output[:]
    graph.output.extend(onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None) for name in ends)
    return made


def _layers(graph: onnx.GraphProto, quantizable: set[str]) -> dict[str, frozenset[str]]:
    layers: dict[str, set[str]] = {}
    for node in graph.node:
        if node.op_type in ("Conv", "MatMul") and node.name in quantizable:
            layers.setdefault(node.input[1].removeprefix("detector.").removesuffix(".weight"), set()).add(node.name)
    return {name: frozenset(nodes) for name, nodes in layers.items()}


def _read_ranges(
    graph: onnx.GraphProto, layers: Mapping[str, frozenset[str]], learned: Mapping[str, tuple[float, float]]
) -> dict[str, tuple[float, float]]:
    """The widest range learned by the layers that read a tensor, layout changes in between looked through."""
    moved = {node.output[0]: node.input[0] for node in graph.node if node.op_type == "Transpose"}
    found: dict[str, tuple[float, float]] = {}
    for layer, (low, high) in learned.items():
        for node in (node for node in graph.node if node.name in layers.get(layer, ())):
            tensor = moved.get(node.input[0], node.input[0])
            before = found.get(tensor, (low, high))
            found[tensor] = (min(low, before[0]), max(high, before[1]))
    return found


def _shapes(graph: onnx.GraphProto) -> dict[str, tuple[int, int, int]]:
    """Channels, height and width of every tensor that is a map (its batch may be of any size)."""
    sizes = {value.name: [d.dim_value for d in value.type.tensor_type.shape.dim] for value in graph.value_info}
    return {name: (size[1], size[2], size[3]) for name, size in sizes.items() if len(size) == 4 and all(size[1:])}


def _answers(model: onnx.ModelProto, ends: Sequence[str], images: Images) -> list[npt.NDArray[np.float32]]:
    """The tensors `ends` for all images, each stacked over them."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    content = _until(model, ends).SerializeToString()
    session: Any = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    answers = [session.run(list(ends), {INPUT: image}) for image in images]
    return [np.concatenate(parts) for parts in zip(*answers, strict=True)]


def _error(found: npt.NDArray[np.float32], wanted: npt.NDArray[np.float32]) -> float:
    """Channel by channel, for they are of very different sizes (`leandet.export.head`)."""
    axes = (0, *range(2, wanted.ndim))
    missed, size = np.square(found - wanted).sum(axes), np.square(wanted).sum(axes)
    return float(np.mean(missed / np.maximum(size, 1e-12)))
