"""Where ONNX Runtime spends its time: its profiler's events, traced back to the nodes of the graph that it got."""

from __future__ import annotations

import json
import tempfile
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from math import nan
from pathlib import Path
from statistics import fmean, median
from typing import Any

import numpy as np
import onnx
import onnxruntime

from leandet.cost.graph import Graph, Node
from leandet.cost.steps import (
    QUIET_HALF,
    WARM_UP_CALLS,
    Call,
    Measured,
    Step,
    Yardstick,
    clock_for,
    quiet_means,
    random_input,
    take_turns,
)
from leandet.engines import onnx_options

BLOCKED = "com.microsoft.nchwc"  # the domain of its kernels in that layout
NCHWC = "_nchwc"  # ONNX Runtime names a convolution in its blocked layout after the tensor that it made, plus this
REORDERS = ("ReorderInput", "ReorderOutput")
KERNEL, CALL = "_kernel_time", "model_run"  # what the profiler calls an operation and a whole call
CHAIN, CHAIN_CALLS = 128, 60
MAX_COLD = 2.0  # times that an event may cost of what it costs in the chain
LEAST_OWN = 0.1  # of a recorded time is the operation's own at least: one that ran cannot have taken nothing


class OnnxEngine:
    """ONNX Runtime on the CPU, as `leandet.runtime.onnx` opens it.

    Args:
        graph: the network; every size fixed.
        threads: threads for one call.
    """

    name = "onnxruntime"
    version = str(onnxruntime.__version__)

    def __init__(self, graph: Graph, threads: int) -> None:
        self.graph = graph
        self.threads = threads

    def open(self) -> Call:
        """See `Engine.open`."""
        return self._call(open_session(self.graph.model.SerializeToString(), onnx_options(self.threads)))

    def measure(self, seconds: float, keep: float = QUIET_HALF, beside: Yardstick | None = None) -> Measured:
        """See `Engine.measure`."""
        content = self.graph.model.SerializeToString()
        with tempfile.TemporaryDirectory(prefix="leandet-profile-") as folder:
            optimised = Path(folder) / "optimised.onnx"
            profiling = onnx_options(self.threads)
            profiling.optimized_model_filepath = str(optimised)
            profiling.enable_profiling = True
            profiling.profile_file_prefix = str(Path(folder) / "events")
            profiled = open_session(content, profiling)
            turns = take_turns(self.open(), self._call(profiled), seconds, self.threads, beside)
            events = json.loads(Path(profiled.end_profiling()).read_text(encoding="utf-8"))
            plan = onnx.load(optimised, load_external_data=False)
        found = kernel_times(events, skip=WARM_UP_CALLS, keep=keep, quiet=turns.quiet)
        whole_ms, profiled_ms = (
            quiet_means({None: times}, keep, turns.quiet)[None] for times in (turns.whole, turns.profiled)
        )
        extra = profiled_ms - whole_ms
        own = event_cost(self.threads).here(extra / max(1, len(found)))
        durations = {name: max(LEAST_OWN * ms, ms - own) for name, ms in found.items()}
        steps = [
            Step(
                node.name,
                node.op_type,
                *self._trace(node, known),
                durations[node.name],
                blocked=node.domain == BLOCKED,
            )
            for known in [_Tracer(self.graph, plan)]
            for node in plan.graph.node
            if node.name in durations
        ]
        beside_ms = nan if turns.quiet is None else fmean(turns.beside[call] for call in turns.quiet)
        return Measured(whole_ms, tuple(steps), len(turns.whole), beside_ms)

    def _call(self, session: onnxruntime.InferenceSession) -> Call:
        feed = {
            value.name: random_input(value.shape, onnx.helper.tensor_dtype_to_np_dtype(elem).type)
            for value, elem in zip(session.get_inputs(), self._element_types(), strict=True)
        }
        return lambda: session.run(None, feed)

    def _element_types(self) -> list[int]:
        return [v.type.tensor_type.elem_type for v in self.graph.model.graph.input if v.name in self.graph.inputs]

    @staticmethod
    def _trace(node: onnx.NodeProto, tracer: _Tracer) -> tuple[tuple[str, ...], str | None]:
        if node.op_type in REORDERS:
            return (), tracer.near(node)
        return tracer.anchors(node), None


def open_session(content: bytes, options: onnxruntime.SessionOptions) -> onnxruntime.InferenceSession:
    """A session on the CPU."""
    return onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])


def kernel_times(
    events: list[dict[str, Any]], skip: int, keep: float = QUIET_HALF, quiet: Sequence[int] | None = None
) -> dict[str, float]:
    """Mean milliseconds of each node over the calls after the first `skip`, of which some count: see `quiet_means`.

    A node inside another's subgraph may run any number of times in a call; its time lies in that of the node around it.
    """
    found: dict[str, list[float]] = defaultdict(list)
    for event in events:
        if event.get("cat") == "Node" and event["name"].endswith(KERNEL):
            found[event["name"].removesuffix(KERNEL)].append((event["dur"] + 0.5) / 1e3)  # cut to whole microseconds
    calls = sum(event["name"] == CALL for event in events)
    return quiet_means({name: times[skip:] for name, times in found.items() if len(times) == calls}, keep, quiet)


@dataclass(frozen=True, slots=True)
class EventCost:
    """What recording an event costs, in milliseconds (about two microseconds).

    Half of a small network's operations are shorter than that.

    Attributes:
        inside: added to the time that the event records.
        whole: added to the call.
    """

    inside: float
    whole: float

    def here(self, whole: float) -> float:
        """What is added inside an event of a network where an event costs `whole`, whose caches are colder."""
        if self.whole <= 0:
            return self.inside
        return self.inside * min(MAX_COLD, max(1.0, whole / self.whole))


@cache
def event_cost(threads: int) -> EventCost:
    """Measured on a chain of tiny operations, whose real time is what a link adds to an unprofiled call."""
    clock = clock_for(threads)
    short, long = (_chain(links).SerializeToString() for links in (CHAIN // 4, CHAIN))
    feed = {"x": np.zeros((1, 1), np.float32)}
    sessions = [open_session(model, _unoptimised(threads)) for model in (short, long)]
    with tempfile.TemporaryDirectory(prefix="leandet-profile-") as folder:
        options = _unoptimised(threads)
        options.enable_profiling = True
        options.profile_file_prefix = str(Path(folder) / "events")
        profiled = open_session(long, options)
        runs = [sessions[0], sessions[1], profiled]
        times: list[list[float]] = [[] for _ in runs]
        for _ in range(CHAIN_CALLS):
            for session, kept in zip(runs, times, strict=True):
                start = clock()
                session.run(None, feed)
                kept.append((clock() - start) * 1e3)
        events = json.loads(Path(profiled.end_profiling()).read_text(encoding="utf-8"))
    few, many, recorded = (median(one) for one in times)
    link = (many - few) / (CHAIN - CHAIN // 4)
    inside = median(kernel_times(events, skip=CHAIN_CALLS // 4).values()) - link
    return EventCost(max(0.0, inside), max(0.0, (recorded - many) / CHAIN))


def _unoptimised(threads: int) -> onnxruntime.SessionOptions:
    options = onnx_options(threads, spinning=False)  # nothing in the chain is worth a second thread
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    return options


def _chain(links: int) -> onnx.ModelProto:
    helper = onnx.helper
    nodes = [helper.make_node("Neg", [f"t{i}" if i else "x"], [f"t{i + 1}"], name=f"n{i}") for i in range(links)]
    ends = [helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [1, 1]) for name in ("x", f"t{links}")]
    graph = helper.make_graph(nodes, "chain", ends[:1], ends[1:])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)


class _Tracer:
    """From the optimised plan back to the graph.

    The plan keeps the names of tensors in the plain layout. Those in the blocked layout are new, but the convolution
    that makes one is named after the tensor that it replaced; what was fused into it later stands in its attributes.
    """

    def __init__(self, graph: Graph, plan: onnx.ModelProto) -> None:
        self.graph = graph
        self._alias: dict[str, str] = {}
        for node in plan.graph.node:
            if node.op_type == "ReorderInput":
                self._learn(node.output[0], node.input[0])
            elif node.op_type not in REORDERS:
                self._learn_outputs(node)
        for node in plan.graph.node:
            if node.op_type == "ReorderOutput":  # the surest: the plain tensor that the blocked one becomes
                self._alias[node.input[0]] = node.output[0]

    def _learn(self, token: str, tensor: str) -> None:
        self._alias[token] = self._alias.get(tensor, tensor)

    def _learn_outputs(self, node: onnx.NodeProto) -> None:
        same = self.graph.nodes.get(node.name)
        for index, output in enumerate(node.output):
            if output in self.graph.producer:
                continue
            if node.name.endswith(NCHWC):
                self._alias[output] = self._after_fusion(node.name.removesuffix(NCHWC), node)
            elif same is not None and index < len(same.outputs):
                self._alias[output] = same.outputs[index]

    def _after_fusion(self, tensor: str, node: onnx.NodeProto) -> str:
        """The tensor after what was fused behind a convolution: a sum, then an activation."""
        if node.op_type == "Conv" and len(node.input) > 3 and node.input[3]:
            tensor = self._step_over(tensor, {"Add"})
        activation = next((a.s.decode() for a in node.attribute if a.name == "activation"), "")
        made_by = self.graph.producer.get(tensor)
        if activation and (made_by is None or made_by.op != activation):
            tensor = self._step_over(tensor, {activation, *_SPELLED.get(activation, ())})
        return tensor

    def _step_over(self, tensor: str, ops: set[str]) -> str:
        users = [user for user in self.graph.consumers.get(tensor, []) if user.op in ops]
        return users[0].outputs[0] if users else tensor

    def _node_of(self, tensor: str) -> Node | None:
        return self.graph.producer.get(self._alias.get(tensor, tensor))

    def anchors(self, node: onnx.NodeProto) -> tuple[str, ...]:
        """Nodes of the graph that make this step's outputs."""
        made = [self._node_of(name) for name in node.output if name]
        return tuple(dict.fromkeys(one.name for one in made if one is not None))

    def near(self, node: onnx.NodeProto) -> str | None:
        """The node of the graph whose output a reorder moves."""
        found = self._node_of(node.input[0])
        return found.name if found else None


# Activations that the graph may still spell with another operator than the kernel's attribute.
_SPELLED: dict[str, tuple[str, ...]] = {"Relu": ("Clip",), "Clip": ("Relu",), "HardSigmoid": ("Clip",)}
