"""What is exported: the detector with its norms in its convolutions, the best chosen inside the graph or outside."""

from __future__ import annotations

import copy
from typing import cast

from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from leandet.detector.decode import Predictions
from leandet.detector.detector import Detector
from leandet.detector.head import Head
from leandet.detector.pixels import Centre, Normalise
from leandet.export.direct import unshuffle
from leandet.export.head import DeployedHead

CHANNELS = 3  # red, green, blue
PLAIN = (nn.Conv2d, nn.ConvTranspose2d)  # not their children, which may make something else of their weights first


class Deployed(nn.Module):
    """The whole path: uint8 pixels in, the best detections out."""

    def __init__(self, detector: Detector) -> None:
        super().__init__()
        self.detector, self.k = detector, detector.spec.detections

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """uint8 (B, 3, H, W) RGB -> boxes (B, k, 4) xyxy px, scores (B, k) descending, labels (B, k) int64."""
        return self.detector.detect(images, self.k)


class Everywhere(nn.Module):
    """For engines without a top-k: what every location says, decoded; the host chooses (`leandet.runtime.topk`)."""

    def __init__(self, detector: Detector) -> None:
        super().__init__()
        self.detector = detector

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Pixels (B, 3, H, W) RGB in 0..255 -> logits (B, N, C), boxes (B, N, 4) xyxy px."""
        predictions: Predictions = self.detector(images)
        return predictions.logits, predictions.boxes


class ChannelsLast(nn.Module):
    """Takes pixels as (B, H, W, 3), the order in which pictures lie in memory and in which LiteRT computes."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """Pixels (B, H, W, 3) RGB in 0..255 -> what the inner module answers."""
        answer: tuple[Tensor, ...] = self.inner(images.permute(0, 3, 1, 2))
        return answer


def plain(module: nn.Module) -> bool:
    """Whether all its convolutions use their weights as they are."""
    return all(type(part) in PLAIN for part in module.modules() if isinstance(part, PLAIN))


def folded(detector: Detector) -> Detector:
    """A copy in evaluation mode whose batch-norms are part of the convolutions before them.

    Exporters fold them too, but not where one convolution serves several levels. A batch-norm that does
    not directly follow a convolution in an `nn.Sequential` stays.
    """
    copied = copy.deepcopy(detector).eval()
    for module in copied.modules():
        if not isinstance(module, nn.Sequential):
            continue
        for index in range(len(module) - 1):
            convolution, norm = module[index], module[index + 1]
            if isinstance(convolution, PLAIN) and plain(convolution) and type(norm) is nn.BatchNorm2d:
                transposed = isinstance(convolution, nn.ConvTranspose2d)
                module[index] = fuse_conv_bn_eval(convolution, norm, transpose=transposed)
                module[index + 1] = nn.Identity()
    return copied


def deployable(detector: Detector) -> Detector:
    """As `folded`, and the first convolution divides by the pixels' deviation: one pass over the image less.

    The mean cannot go into the convolution too: it pads with zeros, which here stand for the mean. A backbone that
    reads the image with more than one convolution keeps its division, and so does one whose own kind of convolution may
    make something else of its weights first. ShuffleNetV2 loses its shuffles: see `unshuffle`.
    """
    copied = folded(detector)
    unshuffle(copied)
    stems = [m for m in copied.backbone.modules() if isinstance(m, nn.Conv2d) and m.in_channels == CHANNELS]
    if len(stems) == 1 and plain(stems[0]) and stems[0].groups == 1 and isinstance(copied.pixels, Normalise):
        stems[0].weight = nn.Parameter(stems[0].weight.detach() / copied.pixels.std)
        copied.pixels = Centre()
    return copied


def easily_decoded(detector: Detector) -> Detector:
    """A copy whose head answers what the decode would compute of its answers: see `DeployedHead`.

    For engines that choose the best in the graph. A detector without a peak filter, or with a head of another kind, is
    returned as it is.
    """
    if type(detector.head) is not Head or not detector.spec.fall or not plain(detector.head):
        return detector
    copied = copy.deepcopy(detector)
    copied.head = DeployedHead(cast(Head, copied.head))
    return copied
