"""Where PyTorch spends its time: its profiler's events inside ranges that hooks open for each module."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from statistics import median
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.profiler import record_function
from torch.profiler import ProfilerActivity, profile

from leandet.cost.count import Kind, Row
from leandet.cost.layers import Layer
from leandet.cost.steps import WARM_UP_CALLS, take_turns
from leandet.nets.mode import untouched

RANGE = "leandet:"  # begins the name of a module's range
_KIND_OF = (  # the start of an operation's name in the profiler, and the counted kinds that it may be
    ("aten::conv", {Kind.CONV, Kind.POINTWISE, Kind.DEPTHWISE, Kind.GROUPED}),
    ("aten::linear", {Kind.LINEAR, Kind.MATMUL}),
    ("aten::addmm", {Kind.LINEAR}),
    ("aten::batch_norm", {Kind.NORM}),
    ("aten::cat", {Kind.CONCAT}),
    ("aten::mean", {Kind.REDUCE}),
    ("aten::sum", {Kind.REDUCE}),
    ("aten::max_pool", {Kind.POOL}),
    ("aten::avg_pool", {Kind.POOL}),
    ("aten::adaptive", {Kind.POOL, Kind.REDUCE}),
    ("aten::upsample", {Kind.RESIZE}),
    ("aten::flatten", {Kind.COPY}),
    ("aten::reshape", {Kind.COPY}),
    ("aten::contiguous", {Kind.COPY}),
    ("aten::clone", {Kind.COPY}),
    ("aten::to", {Kind.COPY}),
)


class TorchEngine:
    """PyTorch on the CPU, eager, channels last, as `leandet.runtime.torch` runs it.

    Args:
        module: the network; its weights' memory format becomes channels last.
        example_input: (B, C, H, W).
        rows: the counter's, for the same module and input.
        threads: threads for the whole process while it measures.
    """

    name = "torch"
    version = str(torch.__version__)

    def __init__(self, module: nn.Module, example_input: Tensor, rows: Sequence[Row], threads: int) -> None:
        self.module = module.to(memory_format=torch.channels_last)
        self.example = example_input.contiguous(memory_format=torch.channels_last)
        self.rows = rows
        self.threads = threads

    def measure(self, seconds: float) -> tuple[float, list[Layer], int]:
        """Time the network for about so many seconds.

        Returns:
            Median milliseconds of a call, the layers, and the timed calls.
        """
        runs: list[list[_Operation]] = []

        def profiled() -> None:
            with profile(activities=[ProfilerActivity.CPU]) as found, _ranges(self.module):
                self.module(self.example)
            runs.append(_operations(found.events()))

        before = torch.get_num_threads()
        torch.set_num_threads(self.threads)
        try:
            with untouched(self.module), torch.inference_mode():
                whole, _ = take_turns(lambda: self.module(self.example), profiled, seconds)
        finally:
            torch.set_num_threads(before)
        layers = _layers(runs[WARM_UP_CALLS:], self.rows)
        return median(whole), layers, len(whole)


class _Operation:
    """One operation of one run: the module whose range it lies in, its name and its microseconds."""

    def __init__(self, module: str, name: str, microseconds: float) -> None:
        self.module, self.name, self.microseconds = module, name, microseconds


@contextmanager
def _ranges(module: nn.Module) -> Iterator[None]:
    """Open a profiler range around each module's forward, named after it."""
    handles = []
    open_ranges: list[Any] = []

    def enter(name: str) -> Callable[[nn.Module, Any], None]:
        def hook(*_: object) -> None:
            one = record_function(RANGE + name)
            one.__enter__()
            open_ranges.append(one)

        return hook

    def leave(*_: object) -> None:
        open_ranges.pop().__exit__(None, None, None)

    for name, part in module.named_modules():
        handles.append(part.register_forward_pre_hook(enter(name)))
        handles.append(part.register_forward_hook(leave, always_call=True))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _operations(events: Any) -> list[_Operation]:
    """The outermost operations in the order in which they began, each with the range around it."""
    found = []
    for event in events:
        parent = event.cpu_parent
        if event.name.startswith(RANGE) or parent is None or not parent.name.startswith(RANGE):
            continue
        found.append((event.time_range.start, _Operation(parent.name.removeprefix(RANGE), event.name, event.cpu_time_total)))
    return [operation for _, operation in sorted(found, key=lambda pair: pair[0])]


def _layers(runs: Sequence[list[_Operation]], rows: Sequence[Row]) -> list[Layer]:
    """One layer for each operation that every run made, in order, with the rows of its module that fit its kind."""
    waiting: dict[str, list[Row]] = defaultdict(list)
    for row in rows:
        waiting[row.module].append(row)
    layers = []
    for index, operation in enumerate(runs[0]):
        own = _claim(waiting[operation.module], operation.name)
        ms = median(run[index].microseconds for run in runs) / 1e3
        layers.append(_layer(operation, own, ms))
    left = [row for module in waiting.values() for row in module]
    return [*layers, *([_layer(_Operation("", "folded away", 0), left, 0.0)] if left else [])]


def _claim(rows: list[Row], name: str) -> list[Row]:
    kinds = next((kinds for start, kinds in _KIND_OF if name.startswith(start)), {Kind.ELEMENTWISE, Kind.OTHER})
    for row in rows:
        if row.kind in kinds:
            rows.remove(row)
            return [row]
    return []


def _layer(operation: _Operation, rows: Sequence[Row], ms: float) -> Layer:
    traffic = sum(row.memory_access_bytes for row in rows)
    return Layer(
        module=operation.module,
        modules=(operation.module,),
        operations=str(rows[0].kind) if len(rows) == 1 else operation.name.removeprefix("aten::"),
        kernel=operation.name,
        output=rows[-1].output if rows else (),
        parameters=sum(row.parameters for row in rows),
        multiply_adds=sum(row.multiply_adds for row in rows),
        activations=sum(row.activations for row in rows),
        memory_access_bytes=traffic,
        traffic_bytes=traffic,
        ms=ms,
    )
