import json
import sys
from pathlib import Path

import pytest
import torch

from leandet.card import Card
from leandet.cli import app
from leandet.cli.sparsify import _print_outcome, shared_bits
from leandet.compress import recalibrate
from leandet.data.shapes import CLASSES, draw_shapes
from leandet.detector.detector import Detector
from leandet.detector.files import save_detector
from leandet.detector.spec import Spec
from leandet.errors import UserError
from leandet.preprocess import Size
from leandet.sparsify.detectors import Outcome


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return draw_shapes(tmp_path_factory.mktemp("shapes") / "data", train=8, val=4, side=64)


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    torch.manual_seed(0)
    detector = Detector(Spec("mobilenet_v1_025", len(CLASSES), Size(64, 64), width=16))
    recalibrate(detector, [torch.randint(0, 256, (8, 3, 64, 64), dtype=torch.uint8)])
    path = tmp_path_factory.mktemp("model") / "model.safetensors"
    save_detector(detector, Card(CLASSES, detector.spec), path)
    return path


@pytest.fixture
def leandet(monkeypatch, capsys):
    def call(*arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["leandet", *map(str, arguments)])
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            app.main()
        printed = capsys.readouterr()
        return int(ended.value.code or 0), printed.out, printed.err

    return call


@pytest.mark.slow
def test_the_file_it_writes_is_opened_by_the_other_verbs(leandet, data, model, tmp_path):
    out = tmp_path / "sparse.safetensors"
    arguments = ["--pattern", "2:4", "--epochs", 0, "--out", out, "--share", "8bit", "--threads", 1, "--json"]
    code, printed, _ = leandet("sparsify", model, "--data", data, *arguments)
    assert code == 0
    figures = json.loads(printed)
    assert figures["sparsity"] == 0.5
    assert figures["bytes"] == out.stat().st_size
    assert {"dense_ap", "masked_ap", "ap", "dense_bytes", "p50_ms", "dense_p50_ms", "latency"} <= set(figures)
    code, printed, _ = leandet("eval", out, data, "--threads", 1, "--json")
    assert code == 0
    assert json.loads(printed)["ap"] == figures["ap"]


def test_the_figures_for_a_person(capsys):
    figures = {"split": "test", "images": 72, "dense_ap": 0.481, "masked_ap": 0.2, "ap": 0.476, "threads": 1}
    figures |= {"sparsity": 0.9, "zeros": 0.82, "parameters": 2_000_000, "nonzero": 360_000, "warnings": ()}
    figures |= {"bytes": 1_300_000, "dense_bytes": 8_800_000, "p50_ms": 10.1, "dense_p50_ms": 10.0}
    _print_outcome(Outcome(path=Path("a.safetensors"), cut=("a.weight", "b.weight"), emptied=("b.weight",), **figures))
    assert capsys.readouterr().out.splitlines() == [
        "a.safetensors: 1.30 MB, 6.8 times smaller than 8.80 MB",
        "AP 47.6 % on 72 images of test: 48.1 % dense, 20.0 % cut and not trained",
        "90.0 % zeros in 2 weights, 82.0 % of all 2.00 million numbers",
        "The zeros changed nothing in ONNX Runtime, which multiplies by them as by any number: "
        "10.00 ms dense, 10.10 ms sparse.",
        "nothing is left of b.weight: try --criterion lamp or --layerwise.",
    ]


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ([], "give a sparsity"),
        (["--sparsity", 1.5], "sparsity must be"),
        (["--pattern", "4:2"], "0 < n < m"),
        (["--pattern", "1x4"], "give a sparsity"),
        (["--pattern", "2:4", "--sparsity", 0.9], "2:4 means a sparsity of 0.5"),
        (["--sparsity", 0.5, "--criterion", "best"], "--criterion must be one of"),
        (["--sparsity", 0.5, "--share", "9bit"], "--share must be"),
        (["--sparsity", 0.5, "--exclude", "nothing"], "nothing can be excluded by 'nothing'"),
        (["--sparsity", 0.5, "--criterion", "movement", "--epochs", 0], "movement chooses while it trains"),
        (["--sparsity", 0.5, "--rewind", "missing.safetensors", "--epochs", 0], "missing.safetensors"),
    ],
)
def test_one_sentence_for_bad_wishes(leandet, data, model, tmp_path, arguments, sentence):
    code, printed, error = leandet(
        "sparsify", model, "--data", data, "--out", tmp_path / "a.safetensors", "--threads", 1, *arguments
    )
    assert code == 2
    assert printed == ""
    assert sentence in error.splitlines()[-1]
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("text", "bits"), [("8bit", 8), ("8", 8), ("4 bits", 4)])
def test_shared_bits(text, bits):
    assert shared_bits(text) == bits


@pytest.mark.parametrize("text", ["", "0", "9bit", "8byte", "-1"])
def test_shared_bits_that_are_none(text):
    with pytest.raises(UserError, match="--share"):
        shared_bits(text)
