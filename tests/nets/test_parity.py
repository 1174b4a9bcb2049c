"""Same state dict, same output as the libraries that have the network."""

import pytest
import timm
import torch
import torchvision
from torch import nn

from leandet import nets

REFERENCES = {
    **{
        name: getattr(torchvision.models, name)
        for name in (
            "alexnet",
            "squeezenet1_0",
            "squeezenet1_1",
            "mobilenet_v2",
            "mobilenet_v3_large",
            "mobilenet_v3_small",
            "shufflenet_v2_x0_5",
            "shufflenet_v2_x1_0",
            "shufflenet_v2_x1_5",
            "shufflenet_v2_x2_0",
        )
    },
    **{
        f"mobilenet_v2_{width:03}": lambda width=width: torchvision.models.MobileNetV2(width_mult=width / 100)
        for width in (35, 50, 75, 140)
    },
    **{
        f"mobilenet_v1{suffix}": lambda scale=scale: timm.models.efficientnet._gen_mobilenet_v1(
            "mobilenetv1_100", channel_multiplier=scale
        )
        for suffix, scale in (("", 1.0), ("_075", 0.75), ("_050", 0.5), ("_025", 0.25))
    },
}


def randomise_norms(network: nn.Module) -> None:
    """Statistics that let an error in a batch-norm show."""
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, 0, 0.1)
            module.running_mean.normal_(0, 0.1)
            module.running_var.uniform_(0.5, 1.5)


@pytest.mark.parametrize("name", REFERENCES)
def test_outputs_equal(name):
    torch.manual_seed(0)
    reference, ours = REFERENCES[name]().eval(), nets.create(name).eval()
    randomise_norms(reference)
    ours.load_state_dict(reference.state_dict())
    image = torch.randn(2, 3, 97, 131)
    with torch.no_grad():
        wanted, got = reference(image), ours(image)
    assert (got - wanted).abs().max() < 1e-5 * wanted.abs().max()
    assert wanted.std() > 0


@pytest.mark.parametrize("name", ["mobilenet_v1_025", "mobilenet_v2", "mobilenet_v3_small", "shufflenet_v2_x0_5"])
def test_taps_are_the_classifiers_own_features(name):
    classifier = nets.create(name).eval()
    seen = []
    for step in classifier.steps():
        if step.path in classifier.taps:
            step.module.register_forward_hook(lambda _, __, output: seen.append(output))
    image = torch.randn(1, 3, 97, 131)
    classifier(image)
    trunk = nets.backbone(name).eval()
    trunk.load_state_dict({k: v for k, v in classifier.state_dict().items() if k in trunk.state_dict()})
    for wanted, got in zip(seen, trunk(image), strict=True):
        assert torch.equal(wanted, got)
