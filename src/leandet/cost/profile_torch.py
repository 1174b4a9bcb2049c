"""Where PyTorch spends its time: a clock around every ATen operation, in the order in which the counter sees them."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from statistics import fmean
from typing import Any

import torch
from torch import Tensor, nn
from torch._ops import OpOverload

from leandet.cost.count import Counter, Row
from leandet.cost.layers import Layer
from leandet.cost.steps import QUIET_HALF, WARM_UP_CALLS, quiet_means, quietest, take_turns
from leandet.nets.mode import untouched


class TorchEngine:
    """PyTorch on the CPU, eager, channels last, as `leandet.runtime.torch` runs it.

    The clock stands in Python around each operation. What PyTorch itself does between two operations (about ten
    microseconds each) is in the whole network's time and in no layer's.

    Args:
        module: the network; its weights' memory format becomes channels last.
        example_input: (B, C, H, W).
        threads: threads for the whole process while it measures.
    """

    name = "torch"
    version = str(torch.__version__)

    def __init__(self, module: nn.Module, example_input: Tensor, threads: int) -> None:
        self.module = module.to(memory_format=torch.channels_last)
        self.example = example_input.contiguous(memory_format=torch.channels_last)
        self.threads = threads

    def measure(self, seconds: float) -> tuple[float, list[Layer], int]:
        """Time the network for about so many seconds.

        Returns:
            Mean milliseconds of a call in the quieter half of the calls, the layers, and the timed calls.
        """
        runs: list[_Clock] = []

        def profiled() -> None:
            clock = _Clock()
            with clock.following(self.module), clock:
                self.module(self.example)
            runs.append(clock)

        before = torch.get_num_threads()
        torch.set_num_threads(self.threads)
        try:
            with untouched(self.module):
                whole = take_turns(lambda: self.module(self.example), profiled, seconds, self.threads).whole
        finally:
            torch.set_num_threads(before)
        timed = zip(*(clock.milliseconds for clock in runs[WARM_UP_CALLS:]), strict=True)
        means = quiet_means(dict(enumerate(timed)), QUIET_HALF)
        layers = [_layer(row, means[place]) for place, row in enumerate(runs[0].rows)]
        return fmean(quietest(whole, QUIET_HALF)), layers, len(whole)


class _Clock(Counter):  # type: ignore[no-untyped-call]
    """The counter with a clock: `milliseconds[i]` is how long the operation of `rows[i]` took."""

    def __init__(self) -> None:
        super().__init__()
        self.milliseconds: list[float] = []
        self._last = 0.0

    def __torch_dispatch__(
        self,
        func: OpOverload,
        types: Iterable[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> object:
        """Run the operation, timed, and write its row."""
        before = len(self.rows)
        result = super().__torch_dispatch__(func, types, args, kwargs)
        if len(self.rows) > before:
            self.milliseconds.append(self._last)
        return result

    def run(self, func: OpOverload, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> object:
        """Run one operation between two looks at the clock."""
        start = time.perf_counter()
        result = super().run(func, args, kwargs)
        self._last = (time.perf_counter() - start) * 1e3
        return result


def _layer(row: Row, ms: float) -> Layer:
    return Layer(
        module=row.module,
        modules=(row.module,),
        operations=str(row.kind),
        kernel="aten",
        output=row.output,
        parameters=row.parameters,
        multiply_adds=row.multiply_adds,
        activations=row.activations,
        memory_access_bytes=row.memory_access_bytes,
        traffic_bytes=row.memory_access_bytes,
        ms=ms,
    )
