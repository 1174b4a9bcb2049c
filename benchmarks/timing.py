"""What the benchmarks of latency share: a network as a call of a runtime, and calls timed in turns."""

from __future__ import annotations

import io
import warnings
from collections.abc import Callable, Mapping, Sequence
from statistics import median

import numpy as np
import torch
from torch import nn

from leandet.cost.profile import EngineName
from leandet.cost.steps import clock_for, quietest
from leandet.engines import onnx_options, openvino_core, openvino_settings, settle

Call = Callable[[], object]
KEEP = 1 / 3  # of a network's calls count, the fastest: other programs disturb the rest


def export(network: nn.Module, shape: Sequence[int]) -> bytes:
    """An ONNX file by PyTorch's TorchScript exporter, which takes a second where the newer one takes many."""
    content = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(network.eval(), (torch.zeros(*shape),), content, dynamo=False, input_names=["images"])
    return content.getvalue()


def call(network: nn.Module, shape: Sequence[int], runtime: EngineName, threads: int) -> Call:
    """One call of a network with an image of that shape; with PyTorch `threads` is for the process: see `in_turns`."""
    images = np.random.default_rng(0).standard_normal(tuple(shape)).astype(np.float32)
    if runtime is EngineName.TORCH:
        eager = network.eval().to(memory_format=torch.channels_last)
        tensor = torch.from_numpy(images).contiguous(memory_format=torch.channels_last)

        def run() -> object:
            with torch.inference_mode():
                return eager(tensor)

        return run
    return call_of(export(network, shape), {"images": images}, runtime, threads)


def call_of(content: bytes, feed: Mapping[str, np.ndarray], runtime: EngineName, threads: int) -> Call:
    """One call of an ONNX graph with these inputs in ONNX Runtime or OpenVINO."""
    if runtime is EngineName.ONNX:
        import onnxruntime

        session = onnxruntime.InferenceSession(content, onnx_options(threads), providers=["CPUExecutionProvider"])
        return lambda: session.run(None, feed)
    core = openvino_core()
    request = core.compile_model(core.read_model(content), "CPU", openvino_settings(threads)).create_infer_request()
    return lambda: request.infer(feed)


def in_turns(calls: Sequence[Call], threads: int, *, rounds: int = 12, seconds: float = 0.5) -> list[float]:
    """Milliseconds of each call: the median of the fastest third of its calls.

    Args:
        calls: what to time, in turns, so that a slow minute strikes all alike.
        threads: of one call; with one, other programs' share of the core does not count (see `clock_for`).
        rounds: turns.
        seconds: for each of the calls, altogether; at least two calls a turn.
    """
    clock, times = clock_for(threads), [[0.0] * 0 for _ in calls]
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        for _ in range(rounds):
            for run, kept in zip(calls, times, strict=True):
                settle(threads)
                run()  # brings its weights back into the caches
                end = clock() + seconds / rounds
                for done in range(1000):
                    start = clock()
                    run()
                    kept.append((clock() - start) * 1e3)
                    if done and clock() >= end:
                        break
    finally:
        torch.set_num_threads(before)
    return [median(quietest(kept, KEEP)) for kept in times]


def beside(calls: Sequence[Call], known: Call, threads: int, visits: int) -> list[list[tuple[float, float]]]:
    """What each call takes, and what a known one takes around it, in milliseconds, once for each visit.

    A visit is a call between two of the known one, which say how fast the machine was just then: the slower of them
    counts. All calls are visited in turns; each is warmed up by an untimed one.
    """
    clock, found = clock_for(threads), [[(0.0, 0.0)] * 0 for _ in calls]

    def timed(run: Call) -> float:
        settle(threads)
        run()
        start = clock()
        run()
        return (clock() - start) * 1e3

    for _ in range(visits):
        for run, kept in zip(calls, found, strict=True):
            before, own, after = timed(known), timed(run), timed(known)
            kept.append((own, max(before, after)))
    return found
