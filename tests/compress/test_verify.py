"""Masked equals cut, group by group, on networks of every kind."""

import sys
from dataclasses import dataclass

import pytest
import torch
import torchvision
from torch import Tensor, nn

from leandet import nets
from leandet.compress import prune, recalibrate, verify
from leandet.compress.cut import cut
from leandet.detector.detector import Detector
from leandet.detector.spec import Spec
from leandet.errors import UserError
from leandet.nets.blocks import conv_bn, shuffle
from leandet.preprocess import Size

SIDE = 64


def lively(network: nn.Module, inputs: Tensor) -> nn.Module:
    torch.manual_seed(0)
    for part in network.modules():
        if isinstance(part, nn.BatchNorm2d):
            nn.init.uniform_(part.weight, 0.5, 1.5)
            nn.init.normal_(part.bias, std=0.2)
    return recalibrate(network, [inputs])


def proven(network: nn.Module, inputs: Tensor, groups: int | None = None) -> None:
    report = verify(lively(network, inputs), inputs[:1])
    assert report.reasons == {}
    assert report.exact == report.groups > 0
    assert report.worst_relative_error < 1e-6
    assert all(check.change > 1e-9 for check in report.checks), "a proof on dead channels says nothing"
    if groups is not None:
        assert report.groups == groups


def noise(side: int = SIDE) -> Tensor:
    return torch.randn(4, 3, side, side, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(
    "name",
    [
        "alexnet",
        "squeezenet1_1",
        "squeezenet1_0_complex",
        "mobilenet_v1_025",
        "mobilenet_v2_035",
        "mobilenet_v3_small",
        "shufflenet_v1_g3_x0_25",
        "shufflenet_v1_g8_x0_25",
        "shufflenet_v2_x0_5",
    ],
)
def test_seed_backbones(name):
    proven(nets.create(name, num_classes=10), noise())


def test_resnet():
    proven(torchvision.models.resnet18(weights=None, num_classes=10), noise(), groups=12)


@pytest.mark.parametrize("name", [pytest.param("mobilenet_v2_035", marks=pytest.mark.slow), "shufflenet_v2_x0_5"])
def test_detectors(name):
    torch.manual_seed(0)
    detector = Detector(Spec(name, 3, Size(SIDE, SIDE), width=16))
    pictures = torch.randint(0, 256, (4, 3, SIDE, SIDE), dtype=torch.uint8)
    proven(detector, pictures)


def test_what_the_network_returns_stays_as_wide_even_where_it_is_read_again():
    """A backbone's features are its outputs, and the input of its next stage."""
    backbone = nets.backbone("mobilenet_v1_025")
    channels = [tap.channels for tap in backbone.taps]
    pruned = prune(backbone, noise()[:1], 0.5)
    assert isinstance(pruned, nets.Backbone)
    assert [tap.channels for tap in pruned.taps] == channels
    assert len(pruned.get_submodule("conv_stem").weight) == 4


class Chunk(nn.Module):
    """A C2f-like block: halves, one of which goes through bottlenecks, all put together."""

    def __init__(self, width: int = 16) -> None:
        super().__init__()
        self.enter = conv_bn(3, 2 * width, activation=nn.SiLU)
        self.blocks = nn.ModuleList(conv_bn(width, width, 3, activation=nn.SiLU) for _ in range(2))
        self.leave = conv_bn(4 * width, 12, activation=nn.SiLU)
        self.head = nn.Conv2d(12, 5, 1)

    def forward(self, x: Tensor) -> Tensor:
        parts = list(self.enter(x).chunk(2, 1))
        for block in self.blocks:
            parts.append(parts[-1] + block(parts[-1]))
        return self.head(self.leave(torch.cat(parts, 1)))


class Shared(nn.Module):
    """One head for two levels, whose outputs are put in one list."""

    def __init__(self) -> None:
        super().__init__()
        self.fine, self.coarse = conv_bn(3, 8, 3, stride=2), conv_bn(8, 8, 3, stride=2)
        self.head = nn.Sequential(conv_bn(8, 12, 3, activation=nn.ReLU), nn.Conv2d(12, 5, 1))

    def forward(self, x: Tensor) -> Tensor:
        fine = self.fine(x)
        return torch.cat([self.head(level).flatten(2) for level in (fine, self.coarse(fine))], 2)


class Halves(nn.Module):
    """Two halves that differ in nothing but the function between the same two layers."""

    def __init__(self) -> None:
        super().__init__()
        self.enter, self.leave = nn.Conv2d(3, 16, 1), nn.Conv2d(16, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        left, right = self.enter(x).chunk(2, 1)
        return self.leave(torch.cat([left.relu(), right.tanh()], 1))


class Gates(nn.Module):
    """A gate for each channel, one for all of them, a transposed and a depthwise convolution with a multiplier."""

    def __init__(self) -> None:
        super().__init__()
        self.enter, self.wide = conv_bn(3, 12), nn.Conv2d(12, 24, 3, padding=1, groups=12)
        self.squeeze, self.excite = nn.Conv2d(24, 6, 1), nn.Conv2d(6, 24, 1)
        self.place = nn.Conv2d(24, 1, 1)
        self.up = nn.ConvTranspose2d(24, 8, 2, 2)
        self.out = nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.wide(self.enter(x))
        x = x * self.excite(self.squeeze(x.mean((2, 3), keepdim=True)).relu()).sigmoid() * self.place(x).sigmoid()
        return self.out(self.up(x).permute(0, 2, 3, 1))


@pytest.mark.parametrize("network", [Chunk, Shared, Halves, Gates])
def test_ways_that_channels_flow(network):
    torch.manual_seed(0)
    proven(network(), noise(8))


class Written(nn.Module):
    """A width written into the code."""

    def __init__(self) -> None:
        super().__init__()
        self.enter, self.leave = nn.Conv2d(3, 8, 1), nn.Conv2d(8, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.leave(self.enter(x).view(len(x), 2, 4, 8, 8).flatten(1, 2))


class Mixed(nn.Module):
    """A norm over channels, which cutting would change."""

    def __init__(self) -> None:
        super().__init__()
        self.enter, self.norm, self.middle, self.leave = (
            nn.Conv2d(3, 8, 1),
            nn.GroupNorm(1, 8),
            nn.Conv2d(8, 6, 1),
            nn.Conv2d(6, 4, 1),
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.leave(self.middle(self.norm(self.enter(x))))


def test_a_width_in_the_code_is_skipped_with_its_line():
    report = verify(Written(), noise(8)[:1])
    assert (report.groups, report.exact, report.skipped) == (1, 0, 1)
    assert "test_verify.py" in report.reasons["enter"]


def test_what_mixes_channels_is_skipped_by_name():
    report = verify(Mixed(), noise(8)[:1])
    assert (report.groups, report.exact, report.skipped) == (2, 1, 1)
    assert "group_norm in norm" in report.reasons["enter"]


class Scaled(nn.Module):
    """A factor without a dimension, as ReZero and temperatures have."""

    def __init__(self) -> None:
        super().__init__()
        self.enter, self.leave = nn.Conv2d(3, 8, 1), nn.Conv2d(8, 4, 1)
        self.factor = nn.Parameter(torch.tensor(0.7))
        self.register_buffer("temperature", torch.tensor(3.0))

    def forward(self, x: Tensor) -> Tensor:
        return self.leave(self.enter(x).relu() * self.factor / self.temperature)


class Shifted(nn.Module):
    """A parameter that lies along the channels; of one channel its shape does not say along which dimension."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.enter, self.leave = nn.Conv2d(3, channels, 1), nn.Conv2d(channels, 4, 1)
        self.shift = nn.Parameter(torch.linspace(1, 2, channels).reshape(1, -1, 1, 1))  # alive after the ReLU

    def forward(self, x: Tensor) -> Tensor:
        return self.leave((self.enter(x) + self.shift).relu())


@pytest.mark.parametrize("network", [Scaled(), Shifted(2), Shifted(3), Shifted(8)], ids=["0d", "2", "3", "8"])
def test_parameters_that_layers_do_not_own(network):
    proven(network, noise(8), 1)
    smaller = prune(network, noise(8)[:1], 0.9)
    assert smaller(noise(8)).shape == (4, 4, 8, 8)
    assert smaller.enter.out_channels == 1


@dataclass
class Answer:
    logits: Tensor


class Answers(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.enter, self.leave = nn.Conv2d(3, 8, 1), nn.Conv2d(8, 4, 1)

    def forward(self, x: Tensor) -> Answer:
        return Answer(self.leave(self.enter(x)))


def test_an_answer_that_cannot_be_seen_is_no_proof():
    with pytest.raises(UserError, match="an object of Answer, in which no tensor can be seen: let it return tensors"):
        verify(Answers(), noise(8))


def test_a_network_without_weights_has_no_groups():
    report = verify(nn.Sequential(nn.MaxPool2d(2), nn.ReLU()), noise(8))
    assert (report.groups, report.together) == (0, None)


def test_the_proof_can_fail(monkeypatch):
    """A cut that takes another channel than the mask says is seen."""

    def wrong(module, chosen):
        network = cut(module, chosen)
        weight = network.get_submodule("blocks.0.0").weight
        with torch.no_grad():
            weight.copy_(weight.flip(0))
        return network

    torch.manual_seed(0)
    network = Chunk()
    assert verify(network, noise(8)).worst_relative_error < 1e-6
    monkeypatch.setattr(sys.modules[verify.__module__], "cut", wrong)
    report = verify(network, noise(8))
    assert report.checks
    assert report.exact == 0
    assert report.together is not None
    assert not report.together.exact


def test_shuffled_channels_are_followed_like_any_others():
    class Unit(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.enter, self.grouped, self.leave = (
                nn.Conv2d(3, 12, 1),
                nn.Conv2d(12, 18, 1, groups=3),
                nn.Conv2d(18, 4, 1),
            )

        def forward(self, x: Tensor) -> Tensor:
            return self.leave(shuffle(self.grouped(shuffle(self.enter(x), 3)), 3))

    torch.manual_seed(0)
    proven(Unit(), noise(8), groups=2)
