"""The detector: backbone, neck and head, from pixels to predictions."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import Tensor, nn

from leandet import nets
from leandet.compress.narrow import narrow
from leandet.detector.decode import Predictions, boxes_at, choose, columns, flatten, locations, pick, to_boxes
from leandet.detector.head import Maps
from leandet.detector.pixels import Normalise
from leandet.detector.spec import Spec
from leandet.detector.styles import STYLES

# Share of a step's statistics in batch-norm's running ones. MobileNetV3 brings .01, made for ImageNet's many steps:
# after a few hundred on a person's images, it would be used with the statistics of weights long gone.
MOMENTUM = 0.1


class Detector(nn.Module):
    """A one-to-one dense detector: each object is claimed by one location, so the output needs no NMS.

    Normalisation travels with the network: its input is pixels.

    Args:
        spec: what to build. Weights are random until loaded.
    """

    def __init__(self, spec: Spec) -> None:
        super().__init__()
        self.spec = spec
        style = STYLES[spec.head]
        self.pixels: nn.Module = Normalise()
        self.backbone = nets.backbone(spec.backbone, fine=style.fine)
        self.neck = style.neck([tap.channels for tap in self.backbone.taps], spec)
        self.head = style.head(spec)
        for module in self.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.momentum = MOMENTUM
        if spec.kept:
            narrow(self, torch.zeros(1, 3, spec.size.height, spec.size.width, device="meta"), spec.kept)

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return next(self.parameters()).device

    def remember(self, widths: Mapping[str, int]) -> None:
        """Write the widths of cut channel groups, by name, into the spec."""
        self.spec = replace(self.spec, kept={**self.spec.kept, **widths})

    def features(self, images: Tensor) -> list[Tensor]:
        """Images (B, 3, H, W), RGB, uint8 or float in 0..255 -> neck features (B, width, H / s, W / s) by level."""
        mixed: list[Tensor] = self.neck(self.backbone(self.pixels(images)))
        return mixed

    def predict(self, maps: Maps) -> Predictions:
        """The head's maps -> predictions at every location."""
        points, strides = locations(maps.classes, self.spec.levels)
        distances = STYLES[self.spec.head].reach(flatten(maps.sides))
        return Predictions(maps.logits(), to_boxes(distances, points, strides), points, strides)

    def best(self, maps: Maps, k: int) -> tuple[Tensor, Tensor, Tensor]:
        """The head's maps -> the best k of what `predict` makes of them, with boxes made for these alone.

        Args:
            maps: of B images.
            k: at most this many; as many as there are locations where they are fewer.

        Returns:
            boxes (B, k, 4) xyxy in pixels, scores (B, k) in [0, 1] descending, labels (B, k) int64.
        """
        if maps.heights:
            scores, labels, places = choose(columns(maps.classes), k, columns(maps.heights)[:, 0])
        else:
            scores, labels, places = choose(maps.logits_by_class(), k)
        points, strides = locations(maps.classes, self.spec.levels)
        distances = STYLES[self.spec.head].reach(pick(columns(maps.sides), places).transpose(1, 2))
        return boxes_at(places, distances, points, strides), scores, labels

    def every_location(self, images: Tensor) -> Predictions:
        """Images as `forward` takes them -> what each location says for itself, as losses see it."""
        return self.predict(self.head(self.features(images)))

    def forward(self, images: Tensor) -> Predictions:
        """Images (B, 3, H, W), RGB, uint8 or float in 0..255, H and W multiples of 32 -> predictions, as used.

        Locations that are beside a surer one have been lowered: see `Maps.peaks`.
        """
        maps: Maps = self.head(self.features(images))
        return self.predict(maps.peaks(self.spec.fall, self.spec.classwise))

    def detect(self, images: Tensor, k: int) -> tuple[Tensor, Tensor, Tensor]:
        """Images as `forward` takes them -> the best k of what it answers, as `best` returns them."""
        maps: Maps = self.head(self.features(images))
        return self.best(maps.peaks(self.spec.fall, self.spec.classwise), k)
