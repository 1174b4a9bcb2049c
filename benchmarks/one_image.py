"""Where the time of one image goes: JPEG decode, letterbox, network, boxes.

    python benchmarks/one_image.py MODEL [--image FILE] [--threads N] [--seconds S]

Without --image, the drawn 640x480 picture is encoded as a JPEG of quality 90. Steps are timed in turns, so that a slow
moment strikes all alike. Prints a table and writes one JSON object with --json FILE.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import cv2
import numpy as np

from leandet.data.image import decode_image
from leandet.machine import busy_cores, describe_machine
from leandet.runtime import open_runtime
from leandet.runtime.photograph import photograph_like

GOAL = 0.25  # share of the time that may be spent outside the network


def measure(model: Path, data: bytes, threads: int | None, seconds: float) -> dict[str, object]:
    """Medians of each step, ms."""
    runtime = open_runtime(model, threads)
    cv2.setNumThreads(runtime.threads)
    rows: list[list[float]] = []
    end = time.perf_counter() + seconds
    while len(rows) < 20 or time.perf_counter() < end:
        marks = [time.perf_counter()]
        image = decode_image(data, "image")
        marks.append(time.perf_counter())
        inputs, placements = runtime.prepare([image])
        marks.append(time.perf_counter())
        raw = runtime.run_network(inputs)
        marks.append(time.perf_counter())
        runtime.finish(raw, placements)
        marks.append(time.perf_counter())
        rows.append(list(np.diff(marks) * 1000))
    decode, letterbox, network, boxes = np.median(rows[len(rows) // 10 :], axis=0).round(3).tolist()
    total = decode + letterbox + network + boxes
    return {
        "model": model.name,
        "runtime": runtime.name,
        "precision": runtime.precision,
        "threads": runtime.threads,
        "input": str(runtime.card.spec.size),
        "picture": "x".join(str(side) for side in image.shape[1::-1]),
        "decode_ms": decode,
        "letterbox_ms": letterbox,
        "network_ms": network,
        "boxes_ms": boxes,
        "not_network": round(1 - network / total, 3),
        "busy_cores": busy_cores(),
        "machine": describe_machine(),
    }


def main() -> None:
    """Measure each model and print its steps."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", type=Path, nargs="+")
    parser.add_argument("--image", type=Path)
    parser.add_argument("--threads", type=int)
    parser.add_argument("--seconds", type=float, default=5.0)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    if options.image:
        data = options.image.read_bytes()
    else:
        data = cv2.imencode(".jpg", photograph_like()[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 90])[1].tobytes()
    found = [measure(model, data, options.threads, options.seconds) for model in options.models]
    for row in found:
        steps = ", ".join(f"{name} {row[f'{name}_ms']:.2f} ms" for name in ("decode", "letterbox", "network", "boxes"))
        verdict = "within" if row["not_network"] <= GOAL else "over"
        engine = f"{row['runtime']} {row['precision']}, {row['threads']} threads"
        print(f"{row['model']} ({engine}, {row['input']} px): {steps}")
        print(f"  not network: {100 * row['not_network']:.0f} %, {verdict} the goal of {100 * GOAL:.0f} %")
    if options.json:
        options.json.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
