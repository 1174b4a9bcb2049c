"""What machine a figure was measured on: a latency without its machine means nothing."""

from __future__ import annotations

import os
import platform
import time
from importlib import metadata
from pathlib import Path

# Each name that a reader knows, and the distributions that can provide it.
_DISTRIBUTIONS = {
    "leandet": ("leandet",),
    "numpy": ("numpy",),
    "onnxruntime": ("onnxruntime", "onnxruntime-gpu"),
    "opencv": ("opencv-python-headless", "opencv-python", "opencv-contrib-python-headless", "opencv-contrib-python"),
    "torch": ("torch",),
    "openvino": ("openvino",),
    "nncf": ("nncf",),
    "ncnn": ("ncnn",),
    "litert": ("ai-edge-litert",),
}

AVX512_BLOCK, OTHER_BLOCK = 16, 8
UNINSTALLED = "source"  # leandet's version where it is run from a checkout that was never installed
BUSY_CORES = 0.25  # other programs using more than this much of a core disturb a measurement


def describe_machine() -> dict[str, object]:
    """The machine and the software, as a plain object that goes beside every measured figure.

    Returns:
        `{cpu, architecture, cores, usable_cores, memory_bytes, os, load_average_1min, versions}`. `cores` counts the
        machine's logical cores and `usable_cores` those this process may run on; `load_average_1min` is in runnable
        processes; what the platform cannot tell is null. `versions` maps python, leandet and the libraries that
        decide a figure to their versions; one that is not installed is left out.
    """
    return {
        "cpu": _cpu_model(),
        "architecture": platform.machine(),
        "cores": os.cpu_count(),
        "usable_cores": usable_cores(),
        "memory_bytes": _memory_bytes(),
        "os": platform.platform(),
        "load_average_1min": load_average(),
        "versions": versions(),
    }


def versions() -> dict[str, str]:
    """Versions of python and of the libraries that decide a figure; those not installed are left out."""
    found = {"python": platform.python_version(), "leandet": UNINSTALLED}
    for name, distributions in _DISTRIBUTIONS.items():
        for distribution in distributions:
            try:
                found[name] = metadata.version(distribution)
            except metadata.PackageNotFoundError:
                continue
            break
    return found


def usable_cores() -> int:
    """Logical cores on which this process may run, at least 1."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def channel_block() -> int:
    """Channels that ONNX Runtime computes at once on this machine; a part of a block takes as long as a whole one.

    Known of x86 processors; others are taken for those with the smaller block.
    """
    import torch

    return AVX512_BLOCK if torch.backends.cpu.get_cpu_capability() == "AVX512" else OTHER_BLOCK


def lacks_int8_dot() -> bool:
    """Whether this is an x86 processor without VNNI: its 16-bit sums of 8-bit products overflow with 8-bit weights."""
    if platform.machine().lower() not in {"x86_64", "amd64"}:
        return False
    try:
        words = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").split()
    except OSError:
        return False  # not known: taken to have it
    return not {"avx512_vnni", "avx_vnni"} & set(words)


def load_average() -> float | None:
    """Runnable processes over the last minute, or None where the platform does not say."""
    try:
        return round(os.getloadavg()[0], 2)
    except (AttributeError, OSError):
        return None


def busy_cores(seconds: float = 0.3) -> float | None:
    """How many cores' worth of work all processes do while this one sleeps, or None where the platform does not say.

    Args:
        seconds: how long to watch.
    """
    before = _cpu_ticks()
    if before is None:
        return load_average()
    time.sleep(seconds)
    after = _cpu_ticks()
    if after is None or after[1] <= before[1]:
        return load_average()
    return (after[0] - before[0]) / (after[1] - before[1]) * (os.cpu_count() or 1)


def is_busy() -> bool:
    """Whether other programs work so much that times measured now would be too long."""
    return (busy_cores() or 0.0) > BUSY_CORES


def _cpu_ticks() -> tuple[int, int] | None:
    """Ticks that all cores spent working, and in total, since the machine started."""
    try:
        first = Path("/proc/stat").read_text(encoding="utf-8").splitlines()[0].split()
        ticks = [int(value) for value in first[1:9]]
    except (OSError, ValueError, IndexError):
        return None
    if len(ticks) < 5:
        return None
    return sum(ticks) - ticks[3] - ticks[4], sum(ticks)  # the fourth is idle, the fifth waits for disks


def _cpu_model() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        lines = []
    fields = {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in lines)}
    # x86 writes "model name"; small ARM boards only name the board.
    return fields.get("model name") or fields.get("Model") or platform.processor() or platform.machine() or "unknown"


def _memory_bytes() -> int | None:
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, OSError, ValueError):
        return None
