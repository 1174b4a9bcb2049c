"""A detector on any backbone learns eight pictures by heart, or something in it cannot learn.

One small network of each paper is tried, of three papers by `make test-all` alone. LEANDET_SWEEP=1 tries every name of
the table and wants each to take less than a minute: run by hand on a quiet machine, for how long a step takes says
nothing of a network on others.
"""

import math
import os
import time

import pytest
import torch

from leandet import nets
from leandet.data.batch import Batch, Targets
from leandet.data.read import read
from leandet.data.shapes import draw_shapes
from leandet.detector.detector import Detector
from leandet.detector.spec import Spec
from leandet.learn.loss import Criterion
from leandet.learn.validation import ValidationSet, found
from leandet.metrics import score
from leandet.preprocess import Size

SIZE = Size(128, 128)
WANTED_AP = 0.9
SWEEP = bool(os.environ.get("LEANDET_SWEEP"))
LIMIT = 60.0 if SWEEP else math.inf  # seconds of one core; a network that learns needs a third of it
STEPS, WARM_UP, EACH = 200, 20, 25  # EACH: steps between two measurements
RATE = 1e-2
SMALL = [
    "squeezenet1_1",
    pytest.param("mobilenet_v1_025", marks=pytest.mark.slow),
    pytest.param("mobilenet_v2_035", marks=pytest.mark.slow),
    "mobilenet_v3_small_075",
    pytest.param("shufflenet_v1_g3_x0_25", marks=pytest.mark.slow),
    "shufflenet_v2_x0_5",
]
NAMES = list(nets.TABLE) if SWEEP else SMALL


@pytest.fixture(scope="module")
def eight(tmp_path_factory: pytest.TempPathFactory):
    dataset, _ = read(draw_shapes(tmp_path_factory.mktemp("shapes") / "data", train=8, val=2, side=128), seed=0)
    samples = dataset.splits["train"]
    shown = [ValidationSet(samples, SIZE)[i] for i in range(len(samples))]
    boxes = [torch.from_numpy(item.placement.apply(one.boxes)) for one, item in zip(samples, shown, strict=True)]
    labels = [torch.from_numpy(sample.labels) for sample in samples]
    batch = Batch(torch.stack([item.image for item in shown]), Targets.pad(boxes, labels))
    return samples, batch, [item.placement for item in shown], dataset.classes


@pytest.mark.parametrize("name", NAMES)
def test_learns_eight_pictures_by_heart(name: str, eight, record_property):
    samples, batch, placements, classes = eight
    torch.manual_seed(0)
    detector = Detector(Spec(name, len(classes), SIZE, width=48)).to(memory_format=torch.channels_last)
    images = batch.images.contiguous(memory_format=torch.channels_last)
    criterion = Criterion()
    optimizer = torch.optim.AdamW(detector.parameters(), lr=RATE, weight_decay=0.0)
    start, ap = time.process_time(), 0.0
    for step in range(1, STEPS + 1):
        detector.train()
        for group in optimizer.param_groups:
            group["lr"] = RATE * min(1, step / WARM_UP) * (1 + math.cos(math.pi * step / STEPS)) / 2
        optimizer.zero_grad()
        criterion(detector, images, batch.targets).total.backward()
        torch.nn.utils.clip_grad_norm_(detector.parameters(), 10.0)
        optimizer.step()
        if step % EACH:
            continue
        detector.eval()
        with torch.inference_mode():
            ap = score(samples, found(detector(images), placements), classes).ap
        seconds = time.process_time() - start
        if ap > WANTED_AP or seconds > LIMIT:
            break
    record_property("seconds", round(seconds, 1))
    assert ap > WANTED_AP, f"AP {ap:.3f} after {step} steps and {seconds:.0f} s"
