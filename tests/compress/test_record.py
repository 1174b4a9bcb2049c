"""Copies with other tensors in them, against `copy.deepcopy`; and what stops a recording."""

import copy
from collections import defaultdict

import pytest
import torch
from torch import nn

from leandet.compress.record import clone, on_meta, record
from leandet.errors import UserError


class Odd(nn.Module):
    """One layer in two places, an empty container, a layer that is left out, and things of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 3, 1)
        self.again = nn.Sequential(self.first, nn.BatchNorm2d(3), nn.Sequential())
        self.missing = None
        self.register_module("none", None)
        self.seen = defaultdict(list)
        self.order = [self.first, {"widths": [1, 2]}]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.seen["calls"].append(len(x))
        return self.again(self.order[0](x))


def test_a_copy_is_what_deepcopy_makes():
    torch.manual_seed(0)
    network = Odd()
    made, wanted = clone(network, lambda _, tensor: tensor.detach().clone()), copy.deepcopy(network)
    own = {id(part) for part in network.modules()}
    assert not any(id(part) in own for part in made.modules())
    assert made.again[0] is made.first is made.order[0]
    assert list(vars(made)) == list(vars(wanted))
    assert [type(part) for part in made.modules()] == [type(part) for part in wanted.modules()]
    x = torch.randn(2, 3, 4, 4)
    assert torch.equal(made(x), wanted(x))
    assert made.seen == {"calls": [2]}
    assert network.seen == {}
    made.order[1]["widths"].append(3)
    assert network.order[1] == {"widths": [1, 2]}


def test_tensors_are_those_that_were_made():
    network = Odd()
    made = clone(network, lambda name, tensor: torch.full_like(tensor, len(name)))
    named = [*made.named_parameters(), *made.named_buffers()]  # a shared one by its first name
    assert all(bool((tensor == len(name)).all()) for name, tensor in named)
    assert all(isinstance(p, nn.Parameter) for p in made.parameters())
    assert not any(p is q for p, q in zip(made.parameters(), network.parameters(), strict=True))


@pytest.mark.parametrize("tracks", [False, True])
def test_a_batch_norm_of_another_width_stops_a_recording(tracks):
    network = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(5, track_running_stats=tracks)).eval()
    with pytest.raises(UserError, match=r"module 1: .* should contain 4 elements not 5\."):
        record(on_meta(network), torch.zeros(1, 3, 8, 8))
