"""Fine-tuning with the rounding of 8 bit in the forward pass, and lower bits simulated to see what they would cost."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from leandet.card import Card
from leandet.data.sample import Dataset
from leandet.detector.detector import Detector
from leandet.errors import UserError
from leandet.evaluate import check_classes, evaluate
from leandet.export import export
from leandet.export.graph import folded
from leandet.learn.recipe import Recipe
from leandet.learn.train import train
from leandet.machine import lacks_int8_dot
from leandet.quantize.fake import DorefaWeight, Int8Weight, Lsq, Range, attach, detach
from leandet.quantize.quantize import Tuned, calibration_images
from leandet.runtime.torch import TorchRuntime

OBSERVED = 16  # training images on which ranges start
# A trained detector is moved little: a hundredth of the rate from which it came, without mosaics, once around.
FINE = Recipe(learning_rate=1e-4, backbone_rate=1.0, warmup_epochs=0.5, mosaic_share=0.0, ema_decay=0.99, patience=0)


@dataclass(frozen=True, slots=True)
class Simulated:
    """Accuracy at a low number of bits. No engine of leandet runs it: nothing is faster or smaller yet.

    Attributes:
        method: `lsq` or `dorefa`.
        bits: of weights and activations; first convolution and predictors have 8, as in the papers.
        epochs: of fine-tuning.
        split, images: where both were measured.
        ap, float_ap: average precision, fractions.
    """

    method: str
    bits: int
    epochs: int
    split: str
    images: int
    ap: float
    float_ap: float

    def to_json(self) -> dict[str, Any]:
        """A plain object of the attributes, and `simulated: true`."""
        return {**asdict(self), "simulated": True}


def tune(detector: Detector, card: Card, dataset: Dataset, scratch: Path, *, epochs: int, seed: int = 0) -> Tuned:
    """Fine-tune with 8-bit weights and activations simulated, as ONNX Runtime's QDQ rounds them; write the result.

    Batch-norms are folded first, so that the weights trained are those that are rounded.

    Args:
        detector: trained; not changed.
        card: of it.
        dataset: trained on `train`, its best epoch chosen on `val`.
        scratch: folder for the checkpoints and the model.
        epochs: passes over the training split, at least 1.
        seed: of everything random.

    Raises:
        UserError: if the data or the disk do not allow it.
    """
    check_classes(TorchRuntime(detector, card), dataset.classes, str(dataset.root))
    copied = folded(detector)
    images = calibration_images(dataset.splits["train"], detector.spec.size, OBSERVED)
    steps = 64 if lacks_int8_dot() else 127  # the grid on which the writer rounds
    layers = attach(copied, lambda layer: (Int8Weight(steps), Range()), torch.from_numpy(np.concatenate(images)))
    _fine_tune(copied, dataset, scratch / "aware", epochs, seed)
    ranges = detach(layers)
    path = scratch / "tuned.onnx"
    export(copied, replace(card, spec=copied.spec), path, np.concatenate(images[:2]))
    return Tuned(path, ranges, epochs)


def simulate(
    detector: Detector,
    card: Card,
    dataset: Dataset,
    scratch: Path,
    *,
    method: str,
    bits: int,
    epochs: int,
    seed: int = 0,
) -> Simulated:
    """Fine-tune with few bits simulated, and measure.

    Args:
        detector: trained; changed in place.
        card: of it.
        dataset: trained on `train`, chosen on `val`, judged on `test` where there is one.
        scratch: folder for the checkpoints.
        method: `lsq` or `dorefa`.
        bits: 2 to 8.
        epochs: passes over the training split, at least 1.
        seed: of everything random.

    Raises:
        UserError: if the method or bits are none, or the data or the disk do not allow it.
    """
    if method not in METHODS:
        raise UserError(f"--simulate must be one of {', '.join(METHODS)}, not {method!r}.")
    if not 2 <= bits <= 8:
        raise UserError(f"bits must be from 2 to 8, not {bits}.")
    split = dataset.judging
    samples = dataset.splits[split]
    simulation = TorchRuntime(detector, card)
    check_classes(simulation, dataset.classes, str(dataset.root))
    before, _ = evaluate(simulation, samples, dataset.classes)
    images = calibration_images(dataset.splits["train"], detector.spec.size, OBSERVED)
    # The predictors alone have biases: every other convolution is followed by a norm.
    outer = {id(layer) for layer in detector.head.modules() if isinstance(layer, nn.Conv2d) and layer.bias is not None}
    quantizers = METHODS[method]

    def make(layer: nn.Conv2d) -> tuple[nn.Module, nn.Module]:
        return quantizers(8 if id(layer) in outer or layer.in_channels == 3 else bits)

    attach(detector, make, torch.from_numpy(np.concatenate(images)))
    _fine_tune(detector, dataset, scratch / "simulated", epochs, seed)
    after, _ = evaluate(TorchRuntime(detector, card), samples, dataset.classes)
    return Simulated(method, bits, epochs, split, after.images, after.ap, before.ap)


METHODS: dict[str, Callable[[int], tuple[nn.Module, nn.Module]]] = {
    "lsq": lambda bits: (Lsq(bits), Range(bits)),
    # The paper clips activations to [0, 1], within which its networks were trained; ours keep the range observed.
    "dorefa": lambda bits: (DorefaWeight(bits), Range(bits, learned=False)),
}


def _fine_tune(detector: Detector, dataset: Dataset, out: Path, epochs: int, seed: int) -> None:
    recipe = replace(FINE, epochs=epochs, evaluations=min(epochs, FINE.evaluations), seed=seed)
    train(detector, dataset.splits["train"], dataset.splits["val"], dataset.classes, recipe, out)
    detector.eval()
