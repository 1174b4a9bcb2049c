"""Where OpenVINO spends its time: its performance counters, traced back to the nodes of the graph that it was given."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from functools import partial
from math import nan
from statistics import fmean
from typing import Any

import onnx

from leandet.cost.graph import Graph
from leandet.cost.steps import (
    QUIET_HALF,
    ROUNDS,
    WARM_UP_CALLS,
    Call,
    Measured,
    Step,
    Yardstick,
    calls_a_round,
    clock_for,
    quiet_means,
    random_input,
    undisturbed,
)
from leandet.engines import openvino_core, openvino_settings

ORIGINAL = "originalLayersNames"  # the plan's note of the layers fused into a step
IN_TURN = 6  # calls
UNTRACED = frozenset({"Parameter", "Const", "Constant", "Input", "Output", "Result"})


class OpenvinoEngine:
    """OpenVINO on the CPU in float32, one stream, tuned for latency.

    Args:
        graph: the network; every size fixed.
        threads: threads for one call.
    """

    name = "openvino"

    def __init__(self, graph: Graph, threads: int) -> None:
        import openvino

        self.version = str(openvino.__version__).partition("-")[0]
        self.graph = graph
        self.threads = threads

    def open(self) -> Call:
        """See `Engine.open`."""
        return self._call(self._compile(openvino_settings(self.threads)))

    def measure(self, seconds: float, keep: float = QUIET_HALF, beside: Yardstick | None = None) -> Measured:
        """See `Engine.measure`."""
        whole, counting = self.open(), {**openvino_settings(self.threads), "PERF_COUNT": True}
        for _ in range(WARM_UP_CALLS):
            whole()
            if beside is not None:
                beside.call()
        calls = calls_a_round(whole, seconds, self.threads)
        timed = [(whole, calls)]
        if beside is not None:
            timed.append((beside.call, min(calls, calls_a_round(beside.call, seconds, self.threads))))
        rounds: dict[str | None, list[float]] = defaultdict(list)
        others: list[float] = []
        kinds: dict[str, str] = {}
        for _ in range(ROUNDS):
            # Compiled anew, as its counters know only the mean of all calls since then.
            request = self._compile(counting)
            ms, *other = self._round(timed, self._call(request), calls)
            rounds[None].append(ms)
            others += other
            for item in request.profiling_info:
                if item.node_type in UNTRACED:
                    continue
                # Cut to whole microseconds. A step shorter than one counts as run in some calls only, and is in all.
                rounds[item.node_name].append(item.real_time.total_seconds() * 1e3 + 0.0005)
                if item.status == item.Status.EXECUTED:
                    kinds[item.node_name] = f"{item.node_type} {item.exec_type}"
        quiet = None if beside is None else undisturbed(others, beside.ms)
        means = quiet_means(rounds, keep, quiet)
        steps = self._steps(request.get_compiled_model().get_runtime_model(), means, kinds)
        beside_ms = nan if quiet is None else fmean(others[place] for place in quiet)
        return Measured(means[None], tuple(steps), calls * ROUNDS, beside_ms)

    def _compile(self, settings: Mapping[str, Any]) -> Any:
        """The network, compiled anew, as an `openvino.InferRequest`."""
        core = openvino_core()
        model = core.read_model(self.graph.model.SerializeToString())
        return core.compile_model(model, "CPU", settings).create_infer_request()

    def _call(self, request: Any) -> Call:
        feed = {
            name: random_input(self.graph.shape(name), onnx.helper.tensor_dtype_to_np_dtype(elem).type)
            for name, elem in self._inputs()
        }
        return partial(request.infer, feed, share_inputs=True)

    def _round(self, timed: Sequence[tuple[Call, int]], counted: Call, calls: int) -> list[float]:
        """Mean milliseconds of so many calls each; few of each take turns: the machine's speed changes in seconds."""
        clock, taken = clock_for(self.threads), [0.0] * len(timed)
        for done in range(0, calls, IN_TURN):
            for place, (call, count) in enumerate(timed):
                if done >= count:
                    continue
                call()  # brings what it needs back into the caches
                start = clock()
                for _ in range(min(IN_TURN, count - done)):
                    call()
                taken[place] += clock() - start
            for _ in range(min(IN_TURN, calls - done)):
                counted()
        return [seconds / count * 1e3 for seconds, (_, count) in zip(taken, timed, strict=True)]

    def _inputs(self) -> list[tuple[str, int]]:
        values = self.graph.model.graph.input
        return [(v.name, v.type.tensor_type.elem_type) for v in values if v.name in self.graph.inputs]

    def _steps(self, plan: Any, times: Mapping[str | None, float], kinds: dict[str, str]) -> list[Step]:
        steps = []
        for op in plan.get_ordered_ops():
            name = op.get_friendly_name()
            if name not in kinds:
                continue
            anchors = self._anchors(op, name)
            near = None if anchors else self._before(op)
            steps.append(Step(name, kinds[name], anchors, near, times[name]))
        return steps

    def _before(self, op: Any) -> str | None:
        """The graph's node whose output an inserted step moves; None at the network's input."""
        for source in (value.get_source_output().get_node() for value in op.inputs()):
            if anchors := self._anchors(source, source.get_friendly_name()):
                return anchors[-1]
        return None

    def _anchors(self, op: Any, name: str) -> tuple[str, ...]:
        """The graph's nodes that a step names; the node of an output goes by the output's name."""
        found = []
        for text in _originals(op, name):
            made_by = self.graph.producer.get(text)
            if text in self.graph.nodes or made_by is not None:
                found.append(text if made_by is None else made_by.name)
        return tuple(dict.fromkeys(found))


def _originals(op: Any, name: str) -> list[str]:
    info = op.get_rt_info()
    text = info[ORIGINAL].astype(str) if ORIGINAL in info else name
    return [part.partition("/")[0] for part in text.split(",") if part]  # what follows a slash is OpenVINO's own split
