"""What idle threads should do between two layers: sleep, or spin for the next piece of work (docs/decisions/0013).

Untrained detectors in ONNX Runtime with one thread, with two that sleep and with two that spin, in turns; then the same
beside another program that keeps one core busy.

Run: .venv/bin/python benchmarks/spinning.py
"""

from __future__ import annotations

import multiprocessing
from typing import Any

import numpy as np
import onnxruntime
import torch
from record import DOCS, fill, save, table
from timing import Call, in_turns

from leandet.card import Card
from leandet.detector.detector import Detector
from leandet.detector.spec import Spec
from leandet.engines import onnx_options
from leandet.export.formats import to_onnx
from leandet.export.graph import folded
from leandet.exporter import IMAGES
from leandet.preprocess import Size

NAME = "spinning"
DETECTORS = (
    ("mobilenet_v2", Size(128, 160)),
    ("shufflenet_v2_x0_5", Size(128, 160)),
    ("shufflenet_v2_x0_5", Size(256, 320)),
)
WAYS = ((1, False), (2, False), (2, True))  # threads, and whether they spin
SECONDS = 6.0  # for each


def calls(backbone: str, size: Size) -> list[Call]:
    """A detector's call in each of the ways."""
    torch.manual_seed(0)
    spec = Spec(backbone, 3, size, 96)
    content = to_onnx(folded(Detector(spec)), Card(("a", "b", "c"), spec))
    feed = {IMAGES: np.random.default_rng(0).integers(0, 256, (1, 3, size.height, size.width), np.uint8)}

    def call(threads: int, spinning: bool) -> Call:
        options = onnx_options(threads, spinning=spinning)
        session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
        return lambda: session.run(None, feed)

    return [call(*way) for way in WAYS]


def burn() -> None:
    """Keep a core busy."""
    while True:
        pass


def main() -> None:
    """Measure both, write the decision's table."""
    contenders = [calls(*one) for one in DETECTORS]
    rows: list[dict[str, Any]] = []
    for beside in (False, True):
        other = multiprocessing.Process(target=burn, daemon=True)
        if beside:
            other.start()
        for (backbone, size), ways in zip(DETECTORS, contenders, strict=True):
            ms = in_turns(ways, max(threads for threads, _ in WAYS), seconds=SECONDS)
            rows.append({"backbone": backbone, "size": [size.height, size.width], "beside_another": beside, "ms": ms})
        if beside:
            other.kill()
    save(NAME, {"ways": WAYS, "rows": rows})
    text = table(
        ["detector", "beside another program", "1 thread, ms", "2 that sleep, ms", "2 that spin, ms"],
        [
            [
                f"{row['backbone']}, {row['size'][1]}x{row['size'][0]} px",
                "yes" if row["beside_another"] else "no",
                *(f"{one:.2f}" for one in row["ms"]),
            ]
            for row in rows
        ],
    )
    print(text)
    fill(DOCS / "decisions" / "0013-idle-threads-spin.md", NAME, text)


if __name__ == "__main__":
    main()
