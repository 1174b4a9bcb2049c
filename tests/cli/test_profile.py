"""`leandet profile`, from the command line."""

import json
import re

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from leandet import nets
from leandet.card import Card
from leandet.cli.app import app
from leandet.cost.count import count
from leandet.detector.detector import Detector
from leandet.detector.files import save_detector
from leandet.detector.spec import Spec
from leandet.errors import UserError
from leandet.export import export
from leandet.export.graph import Deployed
from leandet.preprocess import Size


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory, monkeypatch):
    monkeypatch.setenv("LEANDET_CACHE", str(tmp_path_factory.getbasetemp() / "leandet-cache"))


def run(*arguments: str) -> str:
    result = CliRunner().invoke(app, ["profile", *arguments, "--threads", "1", "--seconds", "0.1"])
    if result.exception is not None:
        raise result.exception
    return result.stdout


def test_the_json_object_of_a_backbone():
    found = json.loads(run("shufflenet_v2_x0_5", "--size", "64", "--json"))
    cost = count(nets.create("shufflenet_v2_x0_5"), torch.zeros(1, 3, 64, 64))
    for figure in ("parameters", "multiply_adds", "memory_access_bytes"):
        assert found[figure] == getattr(cost, figure) == sum(layer[figure] for layer in found["layers"])
    assert found["sum_of_layers_ms"] == pytest.approx(sum(layer["ms"] for layer in found["layers"]), rel=1e-2)
    assert sum(block["share"] for block in found["blocks"]) == pytest.approx(1, abs=0.01)
    assert min(found[k] for k in ("measured_ms", "peak_gflops", "bandwidth_gb_s")) > 0
    assert found["threads"] == 1
    assert {layer["bound"] for layer in found["layers"]} <= {"compute", "memory"}


def test_the_table_of_a_backbone():
    table = run("mobilenet_v1_025", "--size", "64")
    assert "depthwise conv + batch norm" in table
    assert "ms measured" in table


def test_the_page_stands_alone(tmp_path):
    run("mobilenet_v1_025", "--size", "64", "--html", str(tmp_path / "page.html"))
    page = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert page.startswith("<!DOCTYPE html>")
    assert "<svg" in page
    assert "mobilenet_v1_025" in page


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("detector")
    spec = Spec("shufflenet_v2_x0_5", 2, Size(64, 96), width=16)
    detector = Detector(spec).eval()
    card = Card(("a", "b"), spec)
    save_detector(detector, card, folder / "model.safetensors")
    pictures = np.random.default_rng(0).integers(0, 256, (2, 3, 64, 96), np.uint8)
    export(detector, card, folder / "model.onnx", pictures)
    return folder, count(Deployed(detector), torch.zeros(1, 3, 64, 96, dtype=torch.uint8))


@pytest.mark.parametrize("name", ["model.onnx", pytest.param("model.safetensors", marks=pytest.mark.slow)])
def test_a_detector_is_named_from_inside(files, name):
    folder, cost = files
    found = json.loads(run(str(folder / name), "--json"))
    assert found["size"] == [64, 96]
    assert found["multiply_adds"] == cost.multiply_adds
    assert found["parameters"] == cost.parameters
    modules = {layer["module"] for layer in found["layers"] if layer["multiply_adds"]}
    assert {"backbone.stage2.0.branch1.0", "neck.reduce.0.0", "head.classify.0.2"} <= modules
    named = re.compile(r"head\.classify\.\d\.2")
    towers = [layer for layer in found["layers"] if named.fullmatch(layer["module"]) and layer["multiply_adds"]]
    assert sorted(layer["output"][2:] for layer in towers) == [[2, 3], [4, 6], [8, 12]]


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["mobilenet_v2", "--runtime", "tvm"], "--runtime must be one of onnx, openvino, torch"),
        (["mobilenet_v2", "--size", "8"], "--size must be from 64 to 4096 px"),
        (["mobilenet_v9"], "no network is called 'mobilenet_v9'"),
        (["missing.onnx"], "there is no such file"),
        (["missing.safetensors"], "there is no such file"),
        (["m.onnx", "--size", "64"], "--size is for backbones"),
    ],
)
def test_a_mistake_gets_a_sentence(arguments, sentence):
    with pytest.raises(UserError, match=sentence):
        run(*arguments)
