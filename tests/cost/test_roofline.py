"""The machine's limits: measured once, kept, and applied as the roofline's formula says."""

import numpy as np
import pytest
import torch

from leandet.cost import roofline as rooms
from leandet.cost.roofline import Roofline, bandwidths, roofline


def test_the_bound_is_the_slower_of_the_two():
    roof = Roofline(100.0, ((1000, 50.0), (1_000_000, 10.0)), "onnxruntime", 1)
    assert roof.bandwidth_gb_s == 10.0
    assert roof.bandwidth_for(1000) == 50.0
    assert roof.bandwidth_for(1001) == roof.bandwidth_for(10**9) == 10.0
    # 2 x 10^6 operations at 10^11 a second: 0.02 ms; 10^5 bytes at 10^10 a second: 0.01 ms
    assert roof.best_ms(10**6, 10**5) == (pytest.approx(0.02), "compute")
    assert roof.best_ms(10**5, 10**5) == (pytest.approx(0.01), "memory")


def test_bandwidth_is_what_a_copy_reaches():
    speeds = dict(bandwidths(1))
    largest = max(speeds)
    source, target = np.ones(largest // 8, np.float32), np.empty(largest // 8, np.float32)
    best = min(_seconds(lambda: np.copyto(target, source)) for _ in range(7))
    assert speeds[largest] == pytest.approx(largest / best / 1e9, rel=0.6)


def _seconds(call) -> float:
    import time

    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def test_measured_once_and_again_when_damaged(tmp_path, monkeypatch):
    monkeypatch.setenv("LEANDET_CACHE", str(tmp_path))
    monkeypatch.setattr(rooms, "SECONDS", 0.01)
    first = roofline("onnxruntime", "1", 1)
    assert first.peak_gflops > 1
    (path,) = tmp_path.iterdir()
    monkeypatch.setattr(rooms, "is_busy", lambda: True)
    assert roofline("onnxruntime", "1", 1) == first
    roofline("onnxruntime", "2", 1)
    assert len(list(tmp_path.iterdir())) == 2  # another version is another figure
    path.write_text("{", encoding="utf-8")
    assert roofline("onnxruntime", "1", 1).peak_gflops > 1
    assert path.read_text(encoding="utf-8").startswith("{\n")


def test_the_threads_of_torch_are_left_as_they_were(monkeypatch):
    asked = []
    monkeypatch.setattr(torch, "set_num_threads", asked.append)
    with rooms._product_torch(3) as product:
        product()
    assert asked == [3, torch.get_num_threads()]


def test_what_a_busy_machine_gave_is_measured_again_once_it_is_quiet(tmp_path, monkeypatch):
    monkeypatch.setenv("LEANDET_CACHE", str(tmp_path))
    monkeypatch.setattr(rooms, "SECONDS", 0.01)
    peaks = iter([10.0, 20.0, 30.0])
    monkeypatch.setattr(rooms, "_peak", lambda runtime, threads: next(peaks))
    monkeypatch.setattr(rooms, "is_busy", lambda: True)
    assert roofline("torch", "1", 1).peak_gflops == 10
    assert roofline("torch", "1", 1).peak_gflops == 10  # no better now
    monkeypatch.setattr(rooms, "is_busy", lambda: False)
    assert roofline("torch", "1", 1).peak_gflops == 20
    monkeypatch.setattr(rooms, "is_busy", lambda: True)
    assert roofline("torch", "1", 1).peak_gflops == 20  # measured in quiet: it stays
