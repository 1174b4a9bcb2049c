"""Channels filled up to the blocks in which a runtime computes, where a part of a block costs more than a whole one.

ONNX Runtime lays the channels of a convolution out in blocks: 16 on x86 processors with AVX-512, 8 on others. A
convolution with 24 channels computes 32, but a pooling after it takes whole blocks only, so the map is laid out anew
before and after: a tenth of a ShuffleNetV2 detector's time, whose first convolution is such a one. With eight filters
of zeros more nothing is laid out anew, and what is computed stays the same, for whoever reads the new channels has
zeros for them.

Channels in no multiple of four are not laid out in blocks at all, and a depthwise convolution outside of them is slow:
58 channels, as ShuffleNetV2 1x has, take nine times as long as 64.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import onnx
from onnx import helper

from leandet.export.surgery import constant_of, is_constant, readers_of, store

LAID_OUT = 4  # channels come in multiples of so many where they are laid out in blocks
POOLS = {"MaxPool", "AveragePool"}
SINGLE = {"Relu", "Clip", "LeakyRelu", "HardSwish", "HardSigmoid", *POOLS}  # one channel in, the same channel out


def fill_blocks(graph: onnx.GraphProto, size: int, depthwise: int = LAID_OUT) -> None:
    """Fill up the channels that poolings and depthwise convolutions read, in place, where that saves time.

    Nothing is done where a maker or reader of these channels cannot be given zeros.

    Args:
        graph: float32, as exported; each node's operator as the exporter writes it.
        size: channels in a block.
        depthwise: what the channels of a depthwise convolution have to be a multiple of, a divisor of `size`.
    """
    makers = {output: node for node in graph.node for output in node.output}
    for reader in list(graph.node):
        if reader.op_type in POOLS:
            multiple = size
        elif reader.op_type == "Conv" and _groups(reader) > 1:
            multiple = depthwise
        else:
            continue
        source = makers.get(reader.input[0])
        while source is not None and source.op_type in SINGLE:
            source = makers.get(source.input[0])
        if source is None or source.op_type != "Conv" or _groups(source) != 1:
            continue
        if not is_constant(graph, source.input[1]):
            continue
        have = len(constant_of(graph, source.input[1]))
        if have % multiple and (change := _followed(graph, source)) is not None:
            change.apply(graph, have, size - have % size)


@dataclass(slots=True)
class _Change:
    """Weights to be lengthened with zeros, each along one axis, and depthwise convolutions to be widened."""

    weights: list[tuple[str, int]] = field(default_factory=list)
    depthwise: list[onnx.NodeProto] = field(default_factory=list)
    values: list[str] = field(default_factory=list)

    def apply(self, graph: onnx.GraphProto, have: int, more: int) -> None:
        """Add `more` channels to the `have` that there are."""
        for name, axis in self.weights:
            weight = constant_of(graph, name)
            store(graph, name, np.pad(weight, [(0, more if i == axis else 0) for i in range(weight.ndim)]))
        for node in self.depthwise:
            kept = [a for a in node.attribute if a.name != "group"]
            del node.attribute[:]
            node.attribute.extend([*kept, helper.make_attribute("group", have + more)])
        for info in [info for info in graph.value_info if info.name in self.values]:
            graph.value_info.remove(info)  # its shape is another now


def _followed(graph: onnx.GraphProto, maker: onnx.NodeProto) -> _Change | None:
    """What has to change so that a convolution makes more channels; None where a reader cannot be given zeros."""
    change = _Change()
    change.weights += [(name, 0) for name in maker.input[1:]]
    waiting = [maker.output[0]]
    answers = {output.name for output in graph.output}
    while waiting:
        value = waiting.pop()
        if value in answers:
            return None
        change.values.append(value)
        for node in readers_of(graph, value):
            if node.op_type in SINGLE:
                waiting.append(node.output[0])
            elif node.op_type != "Conv" or not is_constant(graph, node.input[1]):
                return None
            elif _groups(node) == 1:
                change.weights.append((node.input[1], 1))
            elif _groups(node) == len(constant_of(graph, node.input[1])):
                change.weights += [(name, 0) for name in node.input[1:]]
                change.depthwise.append(node)
                waiting.append(node.output[0])
            else:
                return None
    names = [name for name, _ in change.weights]
    shared = len(set(names)) < len(names) or any(len(readers_of(graph, name)) > 1 for name in names)
    return None if shared or not all(is_constant(graph, name) for name in names) else change


def _groups(convolution: onnx.NodeProto) -> int:
    return next((int(a.i) for a in convolution.attribute if a.name == "group"), 1)
