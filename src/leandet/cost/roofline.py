"""The machine's two limits, measured: how fast it multiplies in a runtime, and how fast it moves bytes.

Roofline: an insightful visual performance model for multicore architectures (Williams, Waterman, Patterson, CACM 2009).
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from leandet import atomic
from leandet.cache import cache_folder
from leandet.cost.graph import Graph
from leandet.engines import onnx_options, openvino_core, openvino_settings
from leandet.machine import describe_machine, is_busy

SIDE = 1024  # of the square matrices whose product is the peak
COPIED = tuple(1 << power for power in range(17, 29, 2))  # bytes moved by a copy, both ways: 128 KiB to 128 MiB
SECONDS = 0.25  # for each figure


@dataclass(frozen=True, slots=True)
class Roofline:
    """What the machine can do with some threads.

    Attributes:
        peak_gflops: 10^9 float32 operations a second of the runtime's own product of two 1024x1024 matrices.
        bandwidths: (bytes, 10^9 bytes a second) of copies whose source and target together have so many bytes,
            ascending: what lies in a cache moves faster than what does not.
        runtime, threads: with which it was measured.
    """

    peak_gflops: float
    bandwidths: tuple[tuple[int, float], ...]
    runtime: str
    threads: int

    @property
    def bandwidth_gb_s(self) -> float:
        """Of main memory: of the largest copy."""
        return self.bandwidths[-1][1]

    def bandwidth_for(self, moved: float) -> float:
        """10^9 bytes a second for a step that moves so many bytes: of the next larger copy."""
        return next((speed for size, speed in self.bandwidths if size >= moved), self.bandwidth_gb_s)

    def best_ms(self, multiply_adds: int, moved: int) -> tuple[float, str]:
        """The least time that a step can take, in ms, and which limit sets it: "compute" or "memory"."""
        compute = 2 * multiply_adds / (self.peak_gflops * 1e6)
        memory = moved / (self.bandwidth_for(moved) * 1e6)
        return max(compute, memory), "compute" if compute > memory else "memory"

    def to_json(self) -> dict[str, object]:
        """A plain object with the attributes as keys."""
        return {name: getattr(self, name) for name in self.__slots__}


def roofline(runtime: str, version: str, threads: int) -> Roofline:
    """The machine's limits in a runtime, measured once (some seconds) and kept in the cache folder.

    Args:
        runtime: the name of an engine: onnxruntime, openvino or torch.
        version: the runtime's.
        threads: threads for one call.

    A cached figure counts for the same processor, runtime version and threads; one that was measured while other
    programs ran counts until they no longer do.

    Raises:
        UserError: if the cache folder cannot be written.
    """
    machine = describe_machine()
    key = [machine["cpu"], machine["usable_cores"], runtime, version, threads]
    name = hashlib.sha256(json.dumps(key).encode()).hexdigest()[:16]
    path = cache_folder() / f"roofline-{name}.json"
    known = _read(path, key, runtime, threads)
    if known is not None:
        return known
    busy = is_busy()
    limits = Roofline(_peak(runtime, threads), bandwidths(threads), runtime, threads)
    atomic.write_json(path, {"key": key, "busy": busy or is_busy(), **limits.to_json()})
    return limits


def _read(path: Path, key: list[object], runtime: str, threads: int) -> Roofline | None:
    """What was measured before; None where nothing was, or where the machine was busy then and no longer is."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        if found["key"] != key or (found["busy"] and not is_busy()):
            return None
        speeds = tuple((int(size), float(speed)) for size, speed in found["bandwidths"])
        return Roofline(float(found["peak_gflops"]), speeds, runtime, threads)
    except (OSError, ValueError, KeyError, TypeError):
        return None  # not measured yet, or by another version


def bandwidths(threads: int) -> tuple[tuple[int, float], ...]:
    """Speeds of copies of each size in `COPIED`, each thread copying its own part; reads and writes both count."""
    with ThreadPoolExecutor(threads) as pool:
        return tuple((size, _copy_speed(size, threads, pool)) for size in COPIED)


def _copy_speed(size: int, threads: int, pool: ThreadPoolExecutor) -> float:
    elements = max(1, size // 8 // threads)  # float32, half of the bytes read, half written
    repeats = max(1, (1 << 22) // size)  # a task long enough that starting it does not count

    def copy(pair: tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]) -> None:
        for _ in range(repeats):
            np.copyto(pair[0], pair[1])

    pairs = [(np.zeros(elements, np.float32), np.ones(elements, np.float32)) for _ in range(threads)]
    run: Callable[[], object]
    run = (lambda: copy(pairs[0])) if threads == 1 else (lambda: list(pool.map(copy, pairs)))
    return 8 * elements * threads * repeats / _time(run) / 1e9


def _time(run: Callable[[], object]) -> float:
    """Seconds of the fastest call: a limit is what the machine can do, not what others leave of it."""
    run()
    times: list[float] = []
    end = time.perf_counter() + SECONDS
    while len(times) < 5 or time.perf_counter() < end:
        start = time.perf_counter()
        run()
        times.append(time.perf_counter() - start)
    return min(times)


Product = AbstractContextManager[Callable[[], object]]  # a matrix product, ready to be timed while it is open


def _peak(runtime: str, threads: int) -> float:
    with _PRODUCTS[runtime](threads) as product:
        return 2 * SIDE**3 / _time(product) / 1e9


def _matrices() -> dict[str, np.ndarray[Any, Any]]:
    random = np.random.default_rng(0)
    return {name: random.standard_normal((SIDE, SIDE)).astype(np.float32) for name in "ab"}


def _product_graph() -> Graph:
    helper = onnx.helper
    a, b, c = (helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [SIDE, SIDE]) for name in "abc")
    graph = helper.make_graph([helper.make_node("MatMul", ["a", "b"], ["c"])], "product", [a, b], [c])
    return Graph(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9))


def _product_onnx(threads: int) -> Product:
    from leandet.cost.profile_onnx import open_session

    session, feed = open_session(_product_graph().model.SerializeToString(), onnx_options(threads)), _matrices()
    return nullcontext(lambda: session.run(None, feed))


def _product_openvino(threads: int) -> Product:
    core = openvino_core()
    model = core.read_model(_product_graph().model.SerializeToString())
    request, feed = core.compile_model(model, "CPU", openvino_settings(threads)).create_infer_request(), _matrices()
    return nullcontext(lambda: request.infer(feed))


@contextmanager
def _product_torch(threads: int) -> Iterator[Callable[[], object]]:
    import torch

    a, b = (torch.from_numpy(values) for values in _matrices().values())
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        yield lambda: torch.mm(a, b)
    finally:
        torch.set_num_threads(before)


_PRODUCTS: dict[str, Callable[[int], Product]] = {
    "onnxruntime": _product_onnx,
    "openvino": _product_openvino,
    "torch": _product_torch,
}
