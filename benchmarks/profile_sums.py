"""Whether the layers' times make up the whole network's, for every seed backbone, and how long a profile takes.

Run: .venv/bin/python benchmarks/profile_sums.py [--runtimes onnx openvino] [--threads 1] [--size 224]

The goals: within 10 %, below 30 s. The JSON is written after each backbone; an interrupted run goes on from it.
"""

from __future__ import annotations

import argparse
import sys
import time
from typing import Any

import record
import torch

from leandet import nets
from leandet.cost.profile import EngineName, example, profile

SEEDS = (
    *("alexnet", "squeezenet1_0", "squeezenet1_1", "mobilenet_v1", "mobilenet_v2", "mobilenet_v3_large"),
    *("mobilenet_v3_small", "shufflenet_v1_g3_x1_0", "shufflenet_v2_x0_5", "shufflenet_v2_x1_0"),
)
WITHIN, BELOW_S = 0.10, 30.0
NAME = "profile_sums"


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


def measure(arguments: argparse.Namespace) -> list[dict[str, Any]]:
    """What the JSON lacks, then all that was asked for."""
    settings = {"threads": arguments.threads, "size": arguments.size}
    before = record.load(NAME)
    rows: list[dict[str, Any]] = before["rows"] if before.get("settings") == settings else []
    wanted = [(runtime, name) for runtime in arguments.runtimes for name in arguments.backbones]
    done = {(row["runtime"], row["backbone"]) for row in rows}
    for runtime, name in wanted:
        if (runtime, name) not in done:
            rows.append(one(name, runtime, arguments))
            record.save(NAME, {"settings": settings, "rows": rows})
            print(f"{len(rows)} of {len(wanted)}: {name} on {runtime}", file=sys.stderr, flush=True)
    return rows


def main() -> None:
    """Every backbone on every runtime; then the table of docs/profiling.md is written anew."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runtimes", nargs="+", choices=["onnx", "openvino"], default=["onnx", "openvino"])
    parser.add_argument("--backbones", nargs="+", default=list(SEEDS))
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--size", type=int, default=224)
    text = record.table(
        ["backbone", "runtime", "whole, ms", "layers, ms", "off", "profile took, s"],
        [
            [
                *(row["backbone"], row["runtime"], f"{row['measured_ms']:.3f}", f"{row['sum_of_layers_ms']:.3f}"),
                f"{row['off']:+.1%}{'' if abs(row['off']) <= WITHIN else ' (misses)'}",
                f"{row['profile_took_s']:.1f}{'' if row['profile_took_s'] <= BELOW_S else ' (misses)'}",
            ]
            for row in measure(parser.parse_args())
        ],
    )
    print(text)
    record.fill(record.DOCS / "profiling.md", "sums", text)


if __name__ == "__main__":
    main()
