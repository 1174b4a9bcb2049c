"""The profile against the modules themselves: every layer under its own name, every count in exactly one layer."""

from functools import cache

import numpy as np
import onnx
import pytest
import torch
from torch import nn

from leandet import nets
from leandet.cost.count import count
from leandet.cost.graph import Graph, common, to_onnx
from leandet.cost.layers import REORDER, layers_of
from leandet.cost.profile import EngineName, block_of, example, profile
from leandet.cost.profile_onnx import OnnxEngine, kernel_times

SIDE = 64
FIGURES = ("parameters", "multiply_adds", "activations", "memory_access_bytes")
NETWORKS = ("mobilenet_v3_small", "squeezenet1_0_complex")


@cache
def exported(name: str) -> onnx.ModelProto:
    return to_onnx(nets.create(name).eval(), torch.zeros(1, 3, SIDE, SIDE))


def multiply_adds_by_module(network: nn.Module, image: torch.Tensor) -> dict[str, int]:
    """By hooks on each convolution and linear layer, from shapes alone: independent of the counter and of the graph."""
    found: dict[str, int] = {}

    def hook(name: str):
        def add(module: nn.Module, _: object, output: torch.Tensor) -> None:
            found[name] = output.numel() * module.weight[0].numel()

        return add

    handles = [
        part.register_forward_hook(hook(name))
        for name, part in network.named_modules()
        if isinstance(part, nn.Conv2d | nn.Linear)
    ]
    with torch.no_grad():
        network(image)
    for handle in handles:
        handle.remove()
    return found


@pytest.mark.parametrize("engine", EngineName)
@pytest.mark.parametrize("name", NETWORKS)
def test_every_weighted_layer_stands_under_its_name_with_its_own_cost(engine, name):
    if engine is EngineName.OPENVINO:
        pytest.importorskip("openvino")
    network, image = nets.create(name).eval(), torch.zeros(1, 3, SIDE, SIDE)
    wanted = multiply_adds_by_module(network, image)
    found = profile(network, image, engine, threads=1, seconds=0.05, graph=exported(name))
    weighted = [layer for layer in found.layers if layer.multiply_adds]
    assert {layer.module: layer.multiply_adds for layer in weighted} == wanted
    assert len(weighted) == len(wanted)
    assert all(layer.ms > 0 for layer in weighted)


@pytest.mark.parametrize("name", NETWORKS)
def test_the_sums_are_the_counters(name):
    network, image = nets.create(name).eval(), torch.zeros(1, 3, SIDE, SIDE)
    cost = count(network, image)
    graph = Graph(exported(name))
    layers = layers_of(graph, cost.rows, OnnxEngine(graph, 1).measure(0.05).steps)
    for figure in FIGURES:
        assert sum(getattr(layer, figure) for layer in layers) == getattr(cost, figure)


def test_a_fused_step_names_what_is_in_it_and_moves_only_its_ends():
    network = nn.Sequential(nn.Conv2d(16, 32, 1, bias=False), nn.BatchNorm2d(32), nn.ReLU()).eval()
    nn.init.uniform_(network[1].bias, 1, 2)  # so that the folded bias is real
    found = profile(network, torch.zeros(1, 16, 8, 8), threads=1, seconds=0.05)
    (layer,) = [layer for layer in found.layers if layer.multiply_adds]
    assert (layer.module, layer.operations) == ("0", "1x1 conv + batch norm + Relu")
    assert set(layer.modules) == {"0", "1", "2"}
    assert layer.output == (1, 32, 8, 8)
    assert layer.multiply_adds == 64 * 16 * 32
    assert layer.traffic_bytes == 4 * (64 * 16 + 16 * 32 + 32 + 64 * 32)
    assert layer.parameters == 16 * 32 + 64
    # the counter's own convention: conv, batch-norm and ReLU each by itself
    conv, norm, relu = 64 * 16 + 16 * 32 + 64 * 32, 2 * 64 * 32 + 4 * 32, 2 * 64 * 32
    assert layer.memory_access_bytes == 4 * (conv + norm + relu)
    assert layer.intensity == pytest.approx(2 * layer.multiply_adds / layer.traffic_bytes)
    reorders = [one for one in found.layers if one.operations == REORDER]
    assert sum(one.multiply_adds + one.parameters for one in reorders) == 0


def test_eight_bit_tensors_count_a_byte_each():
    info, node = onnx.helper.make_tensor_value_info, onnx.helper.make_node
    kinds, constant = onnx.TensorProto, onnx.numpy_helper.from_array
    graph = onnx.helper.make_graph(
        [
            node("DequantizeLinear", ["x", "scale"], ["x_float"], "from_8_bit"),
            node("Conv", ["x_float", "weight"], ["y_float"], "conv"),
            node("QuantizeLinear", ["y_float", "scale", "zero"], ["y"], "to_8_bit"),
        ],
        "fused",
        [info("x", kinds.UINT8, [1, 16, 8, 8])],
        [info("y", kinds.UINT8, [1, 32, 8, 8])],
        [
            constant(np.float32(0.1), "scale"),
            constant(np.uint8(0), "zero"),
            constant(np.zeros((32, 16, 1, 1), np.float32), "weight"),
        ],
        value_info=[info("x_float", kinds.FLOAT, [1, 16, 8, 8]), info("y_float", kinds.FLOAT, [1, 32, 8, 8])],
    )
    found = Graph(onnx.helper.make_model(graph))
    assert found.traffic(["from_8_bit", "conv", "to_8_bit"]) == 64 * 16 + 64 * 32 + 4 * 16 * 32
    assert found.traffic(["conv"]) == 4 * (64 * 16 + 64 * 32 + 16 * 32)


def test_the_residual_is_in_the_convolution_before_it():
    found = profile(nets.create("mobilenet_v2_035").eval(), torch.zeros(1, 3, SIDE, SIDE), threads=1, seconds=0.05)
    (layer,) = [layer for layer in found.layers if layer.module == "features.3.conv.2"]
    assert layer.operations == "1x1 conv + batch norm + Add"
    assert "features.3" in layer.modules


def test_a_head_shared_over_levels_has_a_layer_for_each():
    shared = nn.Conv2d(8, 8, 1)

    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.shared = shared

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            small = torch.nn.functional.max_pool2d(x, 2)
            return self.shared(x).flatten(2).sum(2) + self.shared(small).flatten(2).sum(2)

    found = profile(Twice().eval(), torch.zeros(1, 8, 8, 8), threads=1, seconds=0.05)
    twice = [layer for layer in found.layers if layer.module == "shared"]
    by_output = {layer.output: layer.multiply_adds for layer in twice if layer.multiply_adds}
    assert by_output == {(1, 8, 8, 8): 64 * 64, (1, 8, 4, 4): 16 * 64}


def test_the_layers_make_up_the_whole():
    # a shared machine disturbs: the tenth is shown by benchmarks on a quiet one
    network = nets.create("mobilenet_v2_035").eval()
    found = profile(network, example((160, 160), pixels=False), threads=1, seconds=1)
    assert found.sum_of_layers_ms == pytest.approx(found.measured_ms, rel=0.3)


def test_profiling_leaves_the_network_as_it_was():
    network = nets.create("squeezenet1_1").train()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    for engine in (EngineName.ONNX, EngineName.TORCH):
        profile(network, torch.randn(1, 3, SIDE, SIDE), engine, threads=1, seconds=0.05)
    assert network.training
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())


def test_times_are_means_over_the_quiet_calls_and_add_up():
    """Of five calls the first warms up and two are disturbed, each at another operation."""
    durations = {"a": (900, 3, 40, 4, 3), "b": (900, 7, 6, 7, 80), "inner": (1, 1)}
    events = [
        {"cat": "Node", "name": f"{name}_kernel_time", "dur": one} for name, all_ in durations.items() for one in all_
    ]
    events += [{"cat": "Session", "name": "model_run", "dur": 1}] * 5
    times = kernel_times(events, skip=1, keep=0.5)
    assert times == {"a": pytest.approx(4.0e-3), "b": pytest.approx(7.5e-3)}
    assert sum(times.values()) == pytest.approx((3 + 7 + 4 + 7 + 2) / 2 / 1e3)


def test_blocks_and_common_modules():
    assert block_of("features.3.conv.0") == "features.3"
    assert block_of("backbone.features.3.conv.0") == "backbone.features.3"
    assert block_of("") == ""
    assert common(["a.b.c", "a.b.d"]) == "a.b"
    assert common(["a.bc", "a.bd"]) == "a"
    assert common([]) == ""
