"""How fast a detector trains, and what the assignment costs: goals 3 % of a step, and 1.5 times YOLO26n's images/s.

Both trainings run on the same drawn batch (16 images, 320 px, 30 boxes each), in turns, each in a process of its own so
that neither's memory disturbs the other. YOLO26n is trained by the `ultralytics` program (AGPL-3.0), in an environment
of its own that is named by `--ultralytics-python`; without it that part is skipped. Nothing of it is imported here.

Run: .venv/bin/python benchmarks/training_speed.py --threads 2 --ultralytics-python /path/to/venv/bin/python
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path
from statistics import median
from typing import Any

import torch
from record import save

from leandet.data.batch import Targets
from leandet.detector.decode import Predictions
from leandet.detector.detector import Detector
from leandet.detector.spec import Spec
from leandet.learn.assign import Matches, Pairs
from leandet.learn.loss import Criterion
from leandet.learn.memory import keep_freed_memory
from leandet.preprocess import Size

CLASSES = 20
WARM_UP = 2

# Run by the other program's Python: its own network, loss and optimiser on random pictures and boxes.
YOLO = """
import json, sys, time
import torch
from ultralytics import YOLO
from ultralytics.cfg import get_cfg
from ultralytics.utils import DEFAULT_CFG
batch, size, boxes, steps, threads = map(int, sys.argv[1:6])
torch.set_num_threads(threads)
torch.manual_seed(0)
model = YOLO("yolo26n.yaml").model.train()
model.args = get_cfg(DEFAULT_CFG)
for parameter in model.parameters():
    parameter.requires_grad_(parameter.is_floating_point())
optimiser = torch.optim.AdamW(model.parameters(), lr=1e-4)
centre = torch.rand(batch * boxes, 2) * 0.6 + 0.2
data = {
    "img": torch.rand(batch, 3, size, size),
    "batch_idx": torch.arange(batch).repeat_interleave(boxes).float(),
    "cls": torch.randint(20, (batch * boxes, 1)).float(),
    "bboxes": torch.cat([centre, torch.rand(batch * boxes, 2) * 0.3 + 0.05], 1),
}
seconds = []
for step in range(steps + 2):
    start = time.perf_counter()
    optimiser.zero_grad()
    loss, _ = model(data)
    loss.sum().backward()
    optimiser.step()
    seconds.append(time.perf_counter() - start)
print("RESULT " + json.dumps({"step_seconds": seconds[2:]}))
"""


class Timed(Criterion):
    """The loss, with a clock on its assignment."""

    seconds = 0.0

    def one_to_one(self, predictions: Predictions, targets: Targets) -> tuple[Matches, Pairs | None]:
        """As the loss's own."""
        start = time.perf_counter()
        found = super().one_to_one(predictions, targets)
        self.seconds += time.perf_counter() - start
        return found

    def one_to_many(self, predictions: Predictions, targets: Targets, pairs: Pairs | None) -> Matches:
        """As the loss's own."""
        start = time.perf_counter()
        found = super().one_to_many(predictions, targets, pairs)
        self.seconds += time.perf_counter() - start
        return found


def drawn(batch: int, size: int, boxes: int) -> tuple[torch.Tensor, Targets]:
    """Random pictures, and boxes of 5 to 35 % of the side."""
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (batch, 3, size, size), dtype=torch.uint8, generator=generator)
    centre = torch.rand(batch, boxes, 2, generator=generator) * 0.6 + 0.2
    half = (torch.rand(batch, boxes, 2, generator=generator) * 0.3 + 0.05) / 2
    corners = torch.cat([centre - half, centre + half], 2) * size
    labels = torch.randint(CLASSES, (batch, boxes), generator=generator)
    return images, Targets(corners, labels, torch.ones(batch, boxes, dtype=torch.bool))


def steps(asked: argparse.Namespace) -> dict[str, list[float]]:
    """Seconds of each step: whole, and in the assigners."""
    keep_freed_memory()
    torch.set_num_threads(asked.threads)
    torch.manual_seed(0)
    detector = Detector(Spec(asked.backbone, CLASSES, Size(asked.size, asked.size), asked.width)).train()
    detector.to(memory_format=torch.channels_last)
    criterion = Timed()
    optimiser = torch.optim.AdamW(detector.parameters(), fused=True)
    images, targets = drawn(asked.batch, asked.size, asked.boxes)
    images = images.contiguous(memory_format=torch.channels_last)
    whole, assigning = [], []
    for _ in range(asked.steps + WARM_UP):
        criterion.seconds = 0.0
        start = time.perf_counter()
        optimiser.zero_grad()
        criterion(detector, images, targets).total.backward()
        optimiser.step()
        whole.append(time.perf_counter() - start)
        assigning.append(criterion.seconds)
    return {"step_seconds": whole[WARM_UP:], "assign_seconds": assigning[WARM_UP:]}


def child(words: list[str]) -> dict[str, list[float]]:
    """A training in its own process; its figures are on the line that begins with RESULT."""
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    lines = [line for line in done.stdout.splitlines() if line.startswith("RESULT ")]
    if done.returncode or not lines:
        raise SystemExit(f"{words[0]} failed:\n{done.stderr[-2000:]}")
    found: dict[str, list[float]] = json.loads(lines[-1].removeprefix("RESULT "))
    return found


def summary(runs: list[dict[str, list[float]]], batch: int) -> dict[str, Any]:
    """Medians over the steps of all turns."""
    step = median(s for run in runs for s in run["step_seconds"])
    figures = {"step_ms": 1e3 * step, "images_per_s": batch / step}
    if "assign_seconds" in runs[0]:
        assign = median(s for run in runs for s in run["assign_seconds"])
        figures |= {"assign_ms": 1e3 * assign, "assign_share": assign / step}
    return figures


def main() -> None:
    """Measure in turns and save."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backbone", default="shufflenet_v2_x0_5")
    parser.add_argument("--width", type=int, default=64, help="channels of neck and head")
    parser.add_argument("--batch", type=int, default=16, help="images a step")
    parser.add_argument("--size", type=int, default=320, help="side of the input, px")
    parser.add_argument("--boxes", type=int, default=30, help="objects an image")
    parser.add_argument("--steps", type=int, default=8, help="timed steps a turn")
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--ultralytics-python", type=Path, help="the Python of an environment that has ultralytics")
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.child:
        print("RESULT " + json.dumps(steps(asked)))
        return
    numbers = [str(n) for n in (asked.batch, asked.size, asked.boxes, asked.steps, asked.threads)]
    programs = {"leandet": [sys.executable, *sys.argv, "--child"]}
    if asked.ultralytics_python:
        programs["YOLO26n"] = [str(asked.ultralytics_python), "-c", YOLO, *numbers]
    else:
        print("YOLO26n is skipped: name a Python that has ultralytics with --ultralytics-python.")
    runs: dict[str, list[dict[str, list[float]]]] = {name: [] for name in programs}
    for turn in range(asked.turns):
        for name, words in programs.items():
            runs[name].append(child(words))
            step = 1e3 * median(runs[name][-1]["step_seconds"])
            print(f"turn {turn + 1} of {asked.turns}, {name}: {step:.0f} ms a step", flush=True)
    rows = {name: summary(found, asked.batch) for name, found in runs.items()}
    if "YOLO26n" in rows:
        rows["leandet"]["times_yolo26n"] = rows["leandet"]["images_per_s"] / rows["YOLO26n"]["images_per_s"]
    keys = ("backbone", "width", "batch", "size", "boxes", "threads")
    save("training_speed", {**{key: getattr(asked, key) for key in keys}, "rows": rows})
    for name, row in rows.items():
        print(name, ", ".join(f"{key} {value:.3g}" for key, value in row.items()))


if __name__ == "__main__":
    main()
