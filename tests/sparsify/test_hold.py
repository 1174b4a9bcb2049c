"""Masks hold through real steps of real optimisers."""

import pytest
import torch
from torch import nn

from leandet.errors import UserError
from leandet.sparsify import Hold, Ramp, sparsify

OPTIMISERS = {
    "adamw": lambda p: torch.optim.AdamW(p, 0.05, weight_decay=0.1),
    "adamw fused": lambda p: torch.optim.AdamW(p, 0.05, weight_decay=0.1, fused=True),
    "amsgrad": lambda p: torch.optim.Adam(p, 0.05, weight_decay=0.1, amsgrad=True),
    "nesterov": lambda p: torch.optim.SGD(p, 0.05, momentum=0.9, weight_decay=0.1, nesterov=True),
    "rmsprop": lambda p: torch.optim.RMSprop(p, 0.01, momentum=0.9, centered=True, weight_decay=0.1),
    "adagrad": lambda p: torch.optim.Adagrad(p, 0.05, weight_decay=0.1),
}


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(4, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.Linear(32, 4))


def steps(module: nn.Module, optimizer: torch.optim.Optimizer, count: int) -> None:
    generator = torch.Generator().manual_seed(1)
    for _ in range(count):
        x = torch.randn(8, 4, 4, 4, generator=generator)
        optimizer.zero_grad()
        (module(x) - x.mean((1, 2))).square().sum().backward()
        nn.utils.clip_grad_norm_(module.parameters(), 10)
        optimizer.step()


def tensors_of(module: nn.Module, optimizer: torch.optim.Optimizer, name: str) -> list[torch.Tensor]:
    weight = module.get_parameter(name)
    return [weight.detach(), *(t for t in optimizer.state[weight].values() if t.shape == weight.shape)]


@pytest.mark.parametrize("make", OPTIMISERS.values(), ids=OPTIMISERS)
def test_masks_that_come_late_hold_exactly_momentum_included(make):
    module = network()
    optimizer = make(module.parameters())
    steps(module, optimizer, 5)  # momentum has gathered everywhere
    masks = sparsify(module, 0.7).masks
    trained = {name: parameter.detach().clone() for name, parameter in module.named_parameters()}
    with Hold(module, masks, [optimizer]) as hold:
        steps(module, optimizer, 5)
        tighter = sparsify(module, 0.9).masks
        assert all(not (tighter[name] & ~mask).any() for name, mask in masks.items())
        hold.tighten(tighter, [optimizer])
        steps(module, optimizer, 5)
    for name, mask in tighter.items():
        found = tensors_of(module, optimizer, name)
        assert len(found) > 1
        for tensor in found:
            assert (tensor[~mask] == 0).all()
            assert not torch.signbit(tensor[~mask]).any()
        assert (found[0][mask] != 0).all()
        assert not torch.equal(found[0][mask], trained[name][mask])


def test_without_a_hold_momentum_brings_cut_weights_back():
    module = network()
    optimizer = OPTIMISERS["adamw"](module.parameters())
    steps(module, optimizer, 5)
    masks = sparsify(module, 0.7).masks
    with torch.no_grad():
        for name, mask in masks.items():
            module.get_parameter(name).mul_(mask)
    steps(module, optimizer, 1)
    assert any((module.get_parameter(name)[~mask] != 0).any() for name, mask in masks.items())


def test_cut_weights_do_not_count_when_gradients_are_clipped():
    module = network()
    masks = sparsify(module, 0.9).masks
    with Hold(module, masks):
        module(torch.randn(8, 4, 4, 4)).square().sum().backward()
    for name, mask in masks.items():
        gradient = module.get_parameter(name).grad
        assert (gradient[~mask] == 0).all()
        assert (gradient[mask] != 0).any()


def test_an_overflow_leaves_no_nan():
    layer = nn.Linear(4, 2)
    masks = {"weight": torch.tensor([[True, False, True, False]] * 2)}
    with Hold(layer, masks):
        (layer(torch.ones(1, 4)) * torch.inf).sum().backward()
    assert (layer.weight.grad[~masks["weight"]] == 0).all()


def test_a_release_lets_weights_learn_again():
    layer = nn.Linear(4, 2)
    hold = Hold(layer, {"weight": torch.zeros(2, 4, dtype=torch.bool)})
    hold.release()
    layer(torch.ones(1, 4)).sum().backward()
    assert (layer.weight.grad == 1).all()


def test_the_ramp_is_the_papers_cubic():
    ramp = Ramp(4)
    assert [ramp.done(epoch) for epoch in range(6)] == [0.0, 1 - 0.75**3, 1 - 0.5**3, 1 - 0.25**3, 1.0, 1.0]
    assert Ramp(0).done(0) == 1.0
    with pytest.raises(UserError, match="at least 0"):
        Ramp(-1)
