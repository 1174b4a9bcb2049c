"""Whether the layers' times make up the whole network's, for every seed backbone, and how long a profile takes.

Run: .venv/bin/python benchmarks/profile_sums.py [--runtimes onnx openvino] [--threads 1] [--size 224]

The goals: within 10 %, below 30 s. The JSON is written after each backbone; an interrupted run goes on from it.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

import torch

from leandet import atomic, nets
from leandet.cost.profile import EngineName, example, profile
from leandet.machine import describe_machine

SEEDS = (
    *("alexnet", "squeezenet1_0", "squeezenet1_1", "mobilenet_v1", "mobilenet_v2", "mobilenet_v3_large"),
    *("mobilenet_v3_small", "shufflenet_v1_g3_x1_0", "shufflenet_v2_x0_5", "shufflenet_v2_x1_0"),
)
WITHIN, BELOW_S = 0.10, 30.0
OUT = Path(__file__).parent / "results" / "profile_sums.json"


def one(name: str, runtime: str, arguments: argparse.Namespace) -> dict[str, Any]:
    """One backbone on one runtime."""
    torch.manual_seed(0)
    network = nets.create(name).eval()
    start = time.perf_counter()
    found = profile(network, example((arguments.size,) * 2, pixels=False), EngineName(runtime), arguments.threads)
    return {
        "backbone": name,
        "runtime": runtime,
        "measured_ms": round(found.measured_ms, 4),
        "sum_of_layers_ms": round(found.sum_of_layers_ms, 4),
        "off": round(found.sum_of_layers_ms / found.measured_ms - 1, 4),
        "profile_took_s": round(time.perf_counter() - start, 1),
    }


def main() -> None:
    """Every backbone on every runtime."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runtimes", nargs="+", choices=["onnx", "openvino"], default=["onnx", "openvino"])
    parser.add_argument("--backbones", nargs="+", default=list(SEEDS))
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--out", type=Path, default=OUT)
    arguments = parser.parse_args()
    settings = {"threads": arguments.threads, "size": arguments.size}
    rows: list[dict[str, Any]] = []
    if arguments.out.is_file():
        before = json.loads(arguments.out.read_text(encoding="utf-8"))
        rows = before["rows"] if before["settings"] == settings else []
    print(f"{'backbone':24} {'runtime':9} {'whole ms':>9} {'layers ms':>9} {'off':>7} {'took s':>7}")
    for runtime in arguments.runtimes:
        for name in arguments.backbones:
            row = next((r for r in rows if (r["backbone"], r["runtime"]) == (name, runtime)), None)
            if row is None:
                row = one(name, runtime, arguments)
                rows.append(row)
                atomic.write_json(arguments.out, {"settings": settings, "machine": describe_machine(), "rows": rows})
            fine = abs(row["off"]) <= WITHIN and row["profile_took_s"] <= BELOW_S
            print(
                f"{name:24} {runtime:9} {row['measured_ms']:9.3f} {row['sum_of_layers_ms']:9.3f} "
                f"{row['off']:>+7.1%} {row['profile_took_s']:>7.1f}{'' if fine else '  misses'}"
            )


if __name__ == "__main__":
    main()
