"""The running average of the weights against PyTorch's own, which collects the tensors anew at each step."""

import copy
from types import SimpleNamespace

import pytest
import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel

from leandet.learn.callbacks import Average, Averaging

DECAY = 0.9


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 2, 1))


def wanted_of(module):
    def average(old, new, count):
        share = 1 - min(DECAY, (1 + int(count)) / (10 + int(count)))
        for one, other in zip(old, new, strict=True):
            one.copy_(one + share * (other - one) if one.is_floating_point() else other)

    return AveragedModel(module, multi_avg_fn=average, use_buffers=True)


def step(module):
    """Weights, running statistics and the batch-norm's counter all move."""
    module(torch.randn(2, 3, 8, 8)).square().mean().backward()
    with torch.no_grad():
        for weight in module.parameters():
            weight.sub_(0.1 * weight.grad + 0.01)
            weight.grad = None


def test_it_averages_as_pytorch_does():
    module = network()
    found, wanted = Average(module, torch.device("cpu"), DECAY), wanted_of(module)
    for _ in range(200):  # past the step from which the decay no longer grows
        step(module)
        found.update_parameters(module)
        wanted.update_parameters(module)
    assert found.state_dict().keys() == wanted.state_dict().keys()
    for name, tensor in wanted.state_dict().items():
        torch.testing.assert_close(found.state_dict()[name], tensor)
    assert not torch.allclose(found.module[0].weight, module[0].weight)
    assert int(found.module[1].num_batches_tracked) == 200


@pytest.mark.parametrize("before", [0, 3])
def test_weights_put_into_it_are_averaged_on(before):
    """As after a resume: loaded before the first update of this process, or between two."""
    module = network()
    found, wanted = Average(module, torch.device("cpu"), DECAY), wanted_of(module)
    for _ in range(before):
        step(module)
        found.update_parameters(module)
    kept = copy.deepcopy(wanted.state_dict())
    kept["n_averaged"].fill_(50)
    found.load_state_dict(kept)
    wanted.load_state_dict(kept)
    for _ in range(3):
        step(module)
        found.update_parameters(module)
        wanted.update_parameters(module)
    for name, tensor in wanted.state_dict().items():
        torch.testing.assert_close(found.state_dict()[name], tensor)


def test_it_lies_where_the_module_will_be_trained():
    """When Lightning calls `setup`, the module has not been moved to the accelerator yet."""
    trainer = SimpleNamespace(strategy=SimpleNamespace(root_device=torch.device("meta")))
    averaging = Averaging(DECAY)
    averaging.setup(trainer, network(), "fit")
    assert {tensor.device.type for tensor in averaging.averaged.state_dict().values()} == {"meta"}
