"""The cost counter against hand-computed figures and torch's own counter."""

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from leandet import nets
from leandet.cost.count import Kind, count

H = W = 8
HW = H * W


class Concat(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.cat([x, x], 1)


class Add(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + x


class Gate(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * x[:, :, :1, :1].expand_as(x)


class Shuffle(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.unflatten(1, (2, -1)).transpose(1, 2).flatten(1, 2)


# module, channels in, kind, parameters, multiply-adds, activations, elements of memory access; the map is 8x8
ONE_OF_EACH = [
    (nn.Conv2d(4, 6, 3, padding=1), 4, Kind.CONV, 6 * 36 + 6, HW * 6 * 36, 6 * HW, 4 * HW + 6 * 36 + 6 + 6 * HW),
    (nn.Conv2d(4, 6, 1, bias=False), 4, Kind.POINTWISE, 24, HW * 24, 6 * HW, 4 * HW + 24 + 6 * HW),
    (nn.Conv2d(4, 4, 3, 2, 1, groups=4, bias=False), 4, Kind.DEPTHWISE, 36, 16 * 36, 64, 4 * HW + 36 + 64),
    (nn.Conv2d(4, 6, 1, groups=2, bias=False), 4, Kind.GROUPED, 12, HW * 12, 6 * HW, 4 * HW + 12 + 6 * HW),
    (nn.MaxPool2d(2), 4, Kind.POOL, 0, 0, 0, 4 * HW + HW),
    (nn.AvgPool2d(2), 4, Kind.POOL, 0, 0, 0, 4 * HW + HW),
    (nn.ReLU(), 4, Kind.ELEMENTWISE, 0, 0, 0, 8 * HW),
    (nn.ReLU6(), 4, Kind.ELEMENTWISE, 0, 0, 0, 8 * HW),
    (nn.Hardswish(), 4, Kind.ELEMENTWISE, 0, 0, 0, 8 * HW),
    (nn.Hardsigmoid(), 4, Kind.ELEMENTWISE, 0, 0, 0, 8 * HW),
    (nn.BatchNorm2d(4), 4, Kind.NORM, 8, 0, 0, 8 * HW + 16),
    (nn.Upsample(scale_factor=2), 4, Kind.RESIZE, 0, 0, 0, 4 * HW + 16 * HW),
    (Concat(), 4, Kind.CONCAT, 0, 0, 0, 8 * HW + 8 * HW),
    (Add(), 4, Kind.ELEMENTWISE, 0, 0, 0, 12 * HW),
    (Gate(), 4, Kind.ELEMENTWISE, 0, 0, 0, 4 * HW + 4 + 4 * HW),  # the gate is read once
    (Shuffle(), 4, Kind.COPY, 0, 0, 0, 8 * HW),  # the transpose is free, its copy is not
]


@pytest.mark.parametrize(
    ("module", "channels", "kind", "parameters", "multiply_adds", "activations", "elements"),
    ONE_OF_EACH,
    ids=[f"{type(row[0]).__name__}-{row[2].name}" for row in ONE_OF_EACH],
)
def test_one_layer(module, channels, kind, parameters, multiply_adds, activations, elements):
    cost = count(module, torch.zeros(1, channels, H, W))
    (row,) = cost.rows
    assert row.kind is kind
    assert (row.parameters, row.multiply_adds, row.activations) == (parameters, multiply_adds, activations)
    assert row.memory_access_bytes == 4 * elements
    assert cost.parameters == parameters


def test_a_linear_layer_without_bias_is_one_too():
    (row,) = count(nn.Linear(5, 7, bias=False), torch.zeros(2, 5)).rows
    assert (row.kind, row.multiply_adds, row.activations, row.parameters) == (Kind.LINEAR, 2 * 5 * 7, 2 * 7, 5 * 7)


def test_a_linear_layer():
    (row,) = count(nn.Linear(5, 7), torch.zeros(2, 5)).rows
    assert (row.kind, row.output, row.parameters) == (Kind.LINEAR, (2, 7), 42)
    assert (row.multiply_adds, row.activations, row.memory_access_bytes) == (70, 14, 4 * (10 + 42 + 14))


def test_memory_of_a_pointwise_conv_is_the_papers_formula():
    # ShuffleNet V2, guideline 1: hw(c1 + c2) + c1 c2
    cost = count(nn.Conv2d(32, 128, 1, bias=False), torch.zeros(1, 32, 56, 56))
    assert cost.memory_access_bytes == 4 * (56 * 56 * (32 + 128) + 32 * 128)


@pytest.mark.parametrize("name", ["alexnet", "squeezenet1_0_complex", "mobilenet_v3_small", "shufflenet_v1_g3_x0_5"])
def test_multiply_adds_are_half_of_torchs_flops(name):
    network, image = nets.create(name).eval(), torch.zeros(1, 3, 97, 131)
    with FlopCounterMode(display=False) as flops, torch.no_grad():
        network(image)
    cost = count(network, image)
    assert cost.multiply_adds == flops.get_total_flops() // 2
    assert sum(row.parameters for row in cost.rows) == cost.parameters == sum(p.numel() for p in network.parameters())


def test_no_operation_of_a_table_network_is_unknown():
    for name in ("mobilenet_v3_small", "shufflenet_v1_g3_x0_25", "shufflenet_v2_x0_5", "squeezenet1_0_complex"):
        assert Kind.OTHER not in {row.kind for row in count(nets.create(name), torch.zeros(1, 3, 97, 131)).rows}


def test_rows_name_the_module_that_ran():
    network = nets.create("mobilenet_v2_035")
    rows = count(network, torch.zeros(1, 3, 64, 64)).rows
    assert (rows[0].module, rows[0].kind) == ("features.0.0", Kind.CONV)
    assert any(row.module == "features.3" and row.kind is Kind.ELEMENTWISE for row in rows)  # the residual
    assert rows[-1].module == "classifier.1"


def test_the_meta_device_gives_the_same_rows():
    real = count(nets.create("shufflenet_v2_x0_5"), torch.zeros(1, 3, 64, 64))
    with torch.device("meta"):
        shapes = count(nets.create("shufflenet_v2_x0_5"), torch.zeros(1, 3, 64, 64))
    assert real == shapes


def test_counting_leaves_no_trace():
    network = nets.create("mobilenet_v2_035").train()
    network.features[3].eval()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    count(network, torch.randn(2, 3, 64, 64))
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    assert network.training
    assert not network.features[3].conv.training
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in network.modules())


def test_a_failing_forward_leaves_no_trace():
    network = nn.Sequential(nn.Linear(3, 3), nn.Linear(4, 4))
    with pytest.raises(RuntimeError):
        count(network, torch.zeros(1, 3))
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in network.modules())
    assert network.training


def test_shared_weights_count_once():
    layer = nn.Linear(4, 4)
    cost = count(nn.Sequential(layer, layer), torch.zeros(1, 4))
    assert cost.parameters == sum(row.parameters for row in cost.rows) == 20
    assert cost.multiply_adds == 32
