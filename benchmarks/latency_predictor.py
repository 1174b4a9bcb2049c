"""The latency predictor against whole networks that it has not measured: random widths of three backbones.

Run: .venv/bin/python benchmarks/latency_predictor.py [--runtime openvino] [--configurations 30] [--size 224]

Each whole network is exported by PyTorch's TorchScript exporter, which shares nothing with the predictor, and timed
beside the network that says how fast the machine is: half of the visits before its pieces are measured, half after, so
that both come from the same minutes. A shared machine slows networks of different kinds unequally, for minutes: with
all pieces first and all networks later, SqueezeNet was predicted 11 % too high on one day and 12 % too low on the next.
Interrupted, it goes on from table and JSON.
"""

from __future__ import annotations

import argparse
import sys
import time
from statistics import median
from typing import Any

import numpy as np
import record
import torch
from timing import beside, call_of, export

from leandet import nets
from leandet.compress.channels import Structure, analyse
from leandet.compress.latencies import Latencies
from leandet.compress.narrow import narrow
from leandet.cost.latency import Predictor
from leandet.cost.profile import EngineName
from leandet.cost.steps import ENOUGH, QUIET, undisturbed

BACKBONES = ("mobilenet_v2", "squeezenet1_1", "shufflenet_v2_x1_0")
LEAST = 0.4  # of a group's channels stay at least
SESSIONS, VISITS = 2, 40  # before and after its pieces a network is opened so often, and then called so often
MOST = 12  # sessions, where the machine is not quiet
NAME = "latency_predictor"


def random_kept(structure: Structure, seed: int) -> dict[str, int]:
    """Steps kept at random in each group."""
    random = np.random.default_rng(seed)
    return {g.name: int(random.integers(int(np.ceil(LEAST * g.steps)), g.steps + 1)) for g in structure.groups}


def ranks(values: list[float]) -> np.ndarray:
    """Place of each value in ascending order."""
    return np.argsort(np.argsort(values))


def compare(name: str, arguments: argparse.Namespace) -> dict[str, Any]:
    """Predict and measure the configurations of one backbone."""
    runtime, size = EngineName(arguments.runtime), arguments.size
    torch.manual_seed(0)
    network = nets.create(name).eval()
    image = torch.zeros(1, 3, size, size)
    structure = analyse(network, image)
    predictor = Predictor(runtime, arguments.threads, lambda done, of: tell(f"{name}: {done} of {of} pieces"))
    latencies = Latencies(predictor, network, structure, (size, size))
    configurations = [random_kept(structure, seed) for seed in range(arguments.configurations)]
    predicted, measured = [], []
    for kept in configurations:
        narrower = nets.create(name).eval()
        narrow(narrower, image, {g.name: g.at(kept[g.name]) for g in structure.groups})
        content = export(narrower, (1, 3, size, size))
        visits = visited(content, predictor, runtime, arguments)
        predicted.append(latencies.predict(kept))
        visits += visited(content, predictor, runtime, arguments)
        measured.append(at_first_speed(visits, predictor))
        tell(f"{name}: {len(measured)} of {len(configurations)}: {predicted[-1]:.3f} for {measured[-1]:.3f} ms")
    start = time.perf_counter()
    repeated = latencies.predict_all(configurations)
    each = (time.perf_counter() - start) / len(configurations)
    assert repeated == predicted
    ratios = [p / m for p, m in zip(predicted, measured, strict=True)]
    errors = [abs(ratio - 1) for ratio in ratios]
    return {
        "median_error": round(median(errors), 4),
        "worst_error": round(max(errors), 4),
        "share": round(predictor.share, 4),
        "bias": round(median(ratios) - 1, 4),
        "rank_correlation": round(float(np.corrcoef(ranks(predicted), ranks(measured))[0, 1]), 4),
        "predictions_per_s": round(1 / max(each, 1e-9)),
        "pieces_in_table": len(predictor.table),
        "predicted_ms": [round(ms, 4) for ms in predicted],
        "measured_ms": [round(ms, 4) for ms in measured],
    }


def visited(
    content: bytes, predictor: Predictor, runtime: EngineName, arguments: argparse.Namespace
) -> list[tuple[float, float]]:
    """Milliseconds of a graph's calls, and of the yardstick's around each.

    The graph is opened several times, and again while too few calls met a machine as fast as the table's: in a slow
    minute a network is slowed by other shares than the yardstick.
    """
    shape = (1, 3, arguments.size, arguments.size)
    feed = {"images": np.random.default_rng(0).standard_normal(shape).astype(np.float32)}
    visits: list[tuple[float, float]] = []
    for session in range(MOST):
        yardstick = predictor.yardstick()
        if session >= SESSIONS and sum(known <= QUIET * yardstick.ms for _, known in visits) >= ENOUGH:
            break
        run = call_of(content, feed, runtime, arguments.threads)
        visits += beside([run], yardstick.call, arguments.threads, VISITS)[0]
    return visits


def at_first_speed(visits: list[tuple[float, float]], predictor: Predictor) -> float:
    """Milliseconds of a graph while nothing slows the yardstick, at the speed that the table began with.

    A shared machine changes its speed within a second, by a third. So every call stands between two of the yardstick,
    and those count beside which these were quiet.
    """
    first = predictor.yardstick().ms
    quiet = undisturbed([known for _, known in visits], first)
    own, known = (sum(visits[visit][which] for visit in quiet) for which in (0, 1))
    return first * own / known


def tell(line: str) -> None:
    """Progress."""
    print(line, file=sys.stderr, flush=True)


def main() -> None:
    """Every backbone; the JSON is written after each, then the table of docs/profiling.md anew."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runtime", choices=["onnx", "openvino"], default="onnx")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--configurations", type=int, default=30)
    parser.add_argument("--backbones", nargs="+", default=list(BACKBONES))
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    settings = {k: v for k, v in vars(arguments).items() if k != "backbones"}
    rows: list[dict[str, Any]] = record.load(NAME).get("rows", [])
    for name in arguments.backbones:
        key = {"backbone": name, **settings}
        if not any(key.items() <= row.items() for row in rows):
            rows.append({**key, **compare(name, arguments)})
            record.save(NAME, {"rows": rows})
    text = record.table(
        [
            "backbone",
            "runtime",
            "threads",
            "median error",
            "worst",
            "bias",
            "rank correlation",
            "predictions/s",
        ],
        [
            [
                *(row["backbone"], row["runtime"], str(row["threads"]), f"{row['median_error']:.1%}"),
                *(
                    f"{row['worst_error']:.1%}",
                    f"{row['bias']:+.1%}",
                    f"{row['rank_correlation']:.3f}",
                ),
                f"{row['predictions_per_s']:,}",
            ]
            for row in rows
        ],
    )
    print(text)
    record.fill(record.DOCS / "profiling.md", "predictor", text)


if __name__ == "__main__":
    main()
