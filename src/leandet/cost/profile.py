"""Where a network's time goes on a runtime, beside what each step costs on paper and what the machine could do."""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Any

import onnx
import torch
from torch import Tensor, nn

from leandet.cost.count import count
from leandet.cost.graph import Graph, to_onnx
from leandet.cost.layers import Layer, layers_of
from leandet.cost.profile_torch import TorchEngine
from leandet.cost.roofline import Roofline, roofline
from leandet.cost.steps import Engine
from leandet.errors import naming_extras
from leandet.machine import describe_machine, usable_cores

BLOCK_DEPTH = 2  # names in a block's name: features.3, stage2.0, head.classify; one more inside a detector's backbone
BACKBONE = "backbone"


class EngineName(StrEnum):
    """The runtimes that can be looked into; the value is the word on the command line."""

    ONNX = "onnx"
    OPENVINO = "openvino"
    TORCH = "torch"


@dataclass(frozen=True, slots=True)
class Profile:
    """A network's measured profile.

    Attributes:
        measured_ms: mean time of a whole call without any profiler over the quieter half of the calls, in milliseconds.
        layers: in the order in which they run; their costs sum to the counter's.
        roof: what the machine can do in this runtime with these threads.
        runtime, version, threads: with which it was measured.
        calls: timed calls.
        size: height and width of the input in pixels.
    """

    measured_ms: float
    layers: tuple[Layer, ...]
    roof: Roofline
    runtime: str
    version: str
    threads: int
    calls: int
    size: tuple[int, int]

    @property
    def sum_of_layers_ms(self) -> float:
        """Sum of the layers' times in milliseconds."""
        return sum(layer.ms for layer in self.layers)

    def total(self, name: str) -> int:
        """Sum of one of the counter's figures over the layers, such as "multiply_adds"."""
        return sum(getattr(layer, name) for layer in self.layers)

    def blocks(self) -> dict[str, list[Layer]]:
        """The layers by block, in the order in which the blocks first run; a block is named by two names."""
        found: dict[str, list[Layer]] = {}
        for layer in self.layers:
            found.setdefault(block_of(layer.module), []).append(layer)
        return found

    def to_json(self) -> dict[str, Any]:
        """A plain object; times in ms, `share` and `roof_share` as fractions.

        `roof_share` is the least time that the machine allows for the layer divided by the measured time.
        """
        total = self.sum_of_layers_ms
        return {
            "runtime": self.runtime,
            "version": self.version,
            "threads": self.threads,
            "size": list(self.size),
            "parameters": self.total("parameters"),
            "multiply_adds": self.total("multiply_adds"),
            "activations": self.total("activations"),
            "memory_access_bytes": self.total("memory_access_bytes"),
            "measured_ms": round(self.measured_ms, 4),
            "sum_of_layers_ms": round(total, 4),
            "peak_gflops": round(self.roof.peak_gflops, 2),
            "bandwidth_gb_s": round(self.roof.bandwidth_gb_s, 2),
            "bandwidths": [{"bytes": size, "gb_s": round(speed, 2)} for size, speed in self.roof.bandwidths],
            "calls": self.calls,
            "layers": [self._layer_json(layer, total) for layer in self.layers],
            "blocks": [
                {"block": name, "ms": round(ms, 4), "share": round(ms / total, 4) if total else 0.0}
                for name, layers in self.blocks().items()
                for ms in [sum(layer.ms for layer in layers)]
            ],
            "advice": [],
            "machine": describe_machine(),
        }

    def _layer_json(self, layer: Layer, total: float) -> dict[str, Any]:
        best, bound = self.roof.best_ms(layer.multiply_adds, layer.traffic_bytes)
        return {
            "module": layer.module,
            "block": block_of(layer.module),
            "modules": list(layer.modules),
            "operations": layer.operations,
            "kernel": layer.kernel,
            "output": list(layer.output),
            "parameters": layer.parameters,
            "multiply_adds": layer.multiply_adds,
            "activations": layer.activations,
            "memory_access_bytes": layer.memory_access_bytes,
            "traffic_bytes": layer.traffic_bytes,
            "intensity": round(layer.intensity, 3),
            "ms": round(layer.ms, 5),
            "share": round(layer.ms / total, 4) if total else 0.0,
            "gflops": round(layer.gflops, 3),
            "gb_s": round(layer.gb_s, 3),
            "bound": bound,
            "roof_share": round(best / layer.ms, 4) if layer.ms else None,
        }


def block_of(module: str) -> str:
    """`features.3.conv.0` -> `features.3`, `backbone.features.3.conv` -> `backbone.features.3`; "" stays ""."""
    names = module.split(".")
    return ".".join(names[: BLOCK_DEPTH + (names[0] == BACKBONE)])


def profile(
    module: nn.Module,
    example_input: Tensor,
    engine: EngineName = EngineName.ONNX,
    threads: int | None = None,
    *,
    seconds: float = 4.0,
    graph: onnx.ModelProto | None = None,
    inside: str = "",
) -> Profile:
    """Measure where a network's time goes.

    Args:
        module: the network, left as it was but for its memory format with PyTorch.
        example_input: (B, C, H, W), its sizes are those measured.
        engine: the runtime.
        threads: threads for one call; None for all cores that this process may use.
        seconds: time to measure for, half of it with the profiler off.
        graph: the network's graph where a file has one, every size fixed; exported from the module if left out.
        inside: a submodule from inside of which modules are named, such as "detector".

    Raises:
        UserError: if the runtime is not installed.
    """
    threads = threads or usable_cores()
    height, width = example_input.shape[-2:]
    runner: Engine | TorchEngine
    if engine is EngineName.TORCH:
        runner = TorchEngine(module, example_input, threads)
        whole_ms, layers, calls = runner.measure(seconds)
    else:
        rows = count(module, example_input).rows
        made = Graph(graph if graph is not None else to_onnx(module, example_input))
        runner = open_engine(engine, made, threads)
        measured = runner.measure(seconds)
        whole_ms, layers, calls = measured.whole_ms, layers_of(made, rows, measured.steps), measured.calls
    named = tuple(_named_from(layer, f"{inside}.") for layer in layers)
    roof = roofline(runner.name, runner.version, threads)
    return Profile(whole_ms, named, roof, runner.name, runner.version, threads, calls, (height, width))


def _named_from(layer: Layer, start: str) -> Layer:
    modules = tuple(name.removeprefix(start) for name in layer.modules)
    return replace(layer, module=layer.module.removeprefix(start), modules=modules)


def open_engine(engine: EngineName, graph: Graph, threads: int) -> Engine:
    """ONNX Runtime or OpenVINO with a graph.

    Raises:
        UserError: if OpenVINO is wanted and not installed.
    """
    if engine is EngineName.ONNX:
        from leandet.cost.profile_onnx import OnnxEngine

        return OnnxEngine(graph, threads)
    from leandet.cost.profile_openvino import OpenvinoEngine

    with naming_extras():
        return OpenvinoEngine(graph, threads)


def example(size: tuple[int, int], *, pixels: bool) -> Tensor:
    """One image to run on: uint8 (1, 3, H, W) pixels for a detector, else standard normal floats."""
    height, width = size
    random = torch.Generator().manual_seed(0)
    if pixels:
        return torch.randint(0, 256, (1, 3, height, width), dtype=torch.uint8, generator=random)
    return torch.randn(1, 3, height, width, generator=random)
