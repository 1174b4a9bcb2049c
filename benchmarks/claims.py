"""The survey's claims about light networks, each with the paper's figure beside ours.

Run: .venv/bin/python benchmarks/claims.py
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn

from leandet import nets
from leandet.cost.count import Cost, Kind, count
from leandet.nets.blocks import conv_bn
from leandet.nets.shufflenet_v1 import STAGE_2, ShuffleUnit


@dataclass(frozen=True)
class Claim:
    """One figure, in the paper's words and as measured, and the relative tolerance within which they agree."""

    text: str
    paper: float
    measured: float
    tolerance: float
    unit: str = ""

    @property
    def holds(self) -> bool:
        """Whether the measured figure lies within the tolerance."""
        return abs(self.measured - self.paper) <= self.tolerance * abs(self.paper)


def whole(name: str) -> Cost:
    """A network's cost at 224 px."""
    return count(nets.create(name), torch.zeros(1, 3, 224, 224))


def squeezenet() -> list[Claim]:
    """SqueezeNet (arXiv 1602.07360), title and table 3: sizes are float32 megabytes."""
    alex, squeeze = whole("alexnet").parameters, whole("squeezenet1_0").parameters
    full = whole("squeezenet1_0_complex").parameters
    return [
        Claim("SqueezeNet 1.0: times fewer parameters than AlexNet", 50, alex / squeeze, 0.05, "x"),
        # The 1x1 convolutions that figure 2 draws (fire 2, 4, 6, 8) give 6.1 to 6.4 MB, never the table's 7.7.
        Claim("SqueezeNet 1.0 with complex bypass: size", 7.7, 4 * full / 1e6, 0.01, "MB"),
    ]


def separable() -> list[Claim]:
    """MobileNets (arXiv 1704.04861), section 3.1: a separable convolution costs 1/N + 1/Dk^2 of the full one."""
    claims = []
    for inputs, outputs, side, kernel in ((32, 64, 112, 3), (512, 512, 14, 3), (256, 128, 28, 5)):
        image = torch.zeros(1, inputs, side, side)
        full = count(conv_bn(inputs, outputs, kernel), image).multiply_adds
        parts = nn.Sequential(conv_bn(inputs, inputs, kernel, groups=inputs), conv_bn(inputs, outputs))
        text = f"separable / full conv, {inputs} -> {outputs}, {kernel}x{kernel}"
        claims.append(Claim(text, 1 / outputs + 1 / kernel**2, count(parts, image).multiply_adds / full, 1e-9))
    return claims


def reworked_tail() -> list[Claim]:
    """MobileNetV3 (arXiv 1905.02244), section 5.1, figure 5: about 30 million multiply-adds fewer."""

    class Tail(nn.Module):
        """Figure 5, top: MobileNetV2's last block on 7x7 maps, its 1280 channels made before the pooling."""

        def __init__(self) -> None:
            super().__init__()
            self.maps = nn.Sequential(
                conv_bn(160, 960), conv_bn(960, 960, 3, groups=960), conv_bn(960, 320), conv_bn(320, 1280)
            )
            self.classifier = nn.Linear(1280, 1000)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.classifier(self.maps(x).mean((2, 3)))

    class Reworked(nn.Module):
        """Figure 5, bottom: the expansion to 960, pooled, then 1280 channels on one point."""

        def __init__(self) -> None:
            super().__init__()
            self.maps = conv_bn(160, 960)
            self.classifier = nn.Sequential(nn.Linear(960, 1280), nn.Linear(1280, 1000))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.classifier(self.maps(x).mean((2, 3)))

    image = torch.zeros(1, 160, 7, 7)
    before, after = count(Tail(), image).multiply_adds, count(Reworked(), image).multiply_adds
    return [Claim("MobileNetV3's tail saves, multiply-adds", 30, (before - after) / 1e6, 0.15, "M")]


def group_conv_and_shuffle() -> list[Claim]:
    """ShuffleNet (arXiv 1707.01083): section 3.2's formula for one unit, table 1's complexity, and the shuffle."""
    side, channels, middle, groups = 28, 240, 60, 3
    unit = count(ShuffleUnit(channels, channels, 1, groups, groups), torch.zeros(1, channels, side, side))
    formula = side * side * (2 * channels * middle / groups + 9 * middle)  # hw(2cm/g + 9m)
    shuffle = [row for row in unit.rows if row.kind is Kind.COPY]
    copied, computed = sum(row.memory_access_bytes for row in shuffle), sum(row.multiply_adds for row in shuffle)
    claims = [
        Claim("ShuffleNet unit, multiply-adds: hw(2cm/g + 9m)", formula / 1e6, unit.multiply_adds / 1e6, 1e-9, "M"),
        Claim("  its shuffle, multiply-adds", 0, computed / 1e6, 0, "M"),
        Claim("  its shuffle, memory: 2hwm floats", 8 * side * side * middle / 1e6, copied / 1e6, 1e-9, "MB"),
    ]
    for group, paper in zip(STAGE_2, (143, 140, 137, 133, 137), strict=True):
        measured = whole(f"shufflenet_v1_g{group}_x1_0").multiply_adds / 1e6
        claims.append(Claim(f"ShuffleNet 1x, g = {group}, multiply-adds", paper, measured, 0.015, "M"))
    return claims


def main() -> None:
    """Print every claim."""
    torch.set_num_threads(1)
    print(f"{'claim':70} {'paper':>10} {'measured':>10}")
    for family in (squeezenet, separable, reworked_tail, group_conv_and_shuffle):
        for claim in family():
            verdict = "" if claim.holds else f"  differs by {100 * (claim.measured / claim.paper - 1):+.0f} %"
            print(f"{claim.text:70} {claim.paper:10.4g} {claim.measured:10.4g} {claim.unit}{verdict}")


if __name__ == "__main__":
    main()
