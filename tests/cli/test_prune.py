"""`leandet prune` as a person calls it."""

import json
import sys

import pytest
import torch

from leandet.card import Card
from leandet.cli import app
from leandet.data.shapes import CLASSES, draw_shapes
from leandet.detector.detector import Detector
from leandet.detector.files import load_detector, save_detector
from leandet.detector.spec import Spec
from leandet.pipeline import prune
from leandet.preprocess import Size


@pytest.fixture
def leandet(monkeypatch, capsys):
    """The command line as a person calls it: exit code, standard output, standard error."""

    def call(*arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["leandet", *map(str, arguments)])
        monkeypatch.setattr(prune, "BENCH_SECONDS", 0.1)
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            app.main()
        printed = capsys.readouterr()
        return int(ended.value.code or 0), printed.out, printed.err

    return call


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """A model and labelled images."""
    root = tmp_path_factory.mktemp("files")
    torch.manual_seed(0)
    detector = Detector(Spec("mobilenet_v1_025", len(CLASSES), Size(64, 64), width=16))
    save_detector(detector, Card(CLASSES, detector.spec), root / "m.safetensors")
    return root / "m.safetensors", draw_shapes(root / "shapes", train=4, val=2, side=96)


def test_it_says_what_it_did_and_leaves_a_model(leandet, files, tmp_path):
    model, data = files
    out = tmp_path / "p.safetensors"
    arguments = ("prune", model, "--data", data, "--ratio", 0.5, "--epochs", 0, "--align", 1, "--scope", "uniform")
    rules = ("--rule", "neck.*=0.25", "--exclude", "head.*", "--threads", 1, "--out", out)
    code, printed, err = leandet(*arguments, *rules, "--json")
    assert code == 0, err
    result = json.loads(printed)
    assert result["path"] == str(out)
    assert result["after"]["multiply_adds"] < result["before"]["multiply_adds"]
    kept = load_detector(out)[0].spec.kept
    assert kept["neck.reduce.0.0"] == 12
    assert not [name for name in kept if name.startswith("head.")]
    code, printed, err = leandet(*arguments, *rules, "--resume")
    assert code == 0, err
    assert "recalibrated" in printed
    assert "p50" in printed
    assert "ms (" in printed


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ((), "either --to 50%, --to 4ms or --ratio 0.3"),
        (("--to", "50%", "--ratio", "0.3"), "either --to 50%, --to 4ms or --ratio 0.3"),
        (("--to", "0%"), "above 0 up to 1, not 0.0"),
        (("--to", "150%"), "above 0 up to 1, not 1.5"),
        (("--to", "0.5"), "a share such as 50% or a latency such as 4ms, not '0.5'"),
        (("--to", "0ms"), "--to must be a time above 0 such as 8ms, not '0ms'"),
        (("--to", "50%", "--of", "watts"), "--of must be one of multiply-adds, parameters, channels, latency, not"),
        (("--to", "100%", "--of", "latency"), "above 0 and below 1, not 1.0"),
        (("--to", "1%", "--of", "latency"), "0.01 of the uncut p50 cannot be reached"),
        (("--ratio", "1.5"), "from 0 to below 1, not 1.5"),
        (("--to", "50%", "--scope", "local"), "--scope must be one of uniform, global, not 'local'"),
        (("--to", "50%", "--schedule", "slow"), "--schedule must be one of linear, agp, not 'slow'"),
        (("--to", "50%", "--criterion", "l0"), "the criterion must be one of l1, l2"),
        (("--to", "50%", "--rule", "neck.*"), "--rule must be LAYERS=RATIO"),
        (("--to", "50%", "--rule", "neck.*=2"), "from 0 to below 1, not 2.0"),
        (("--to", "50%", "--exclude", "Linear"), "for Linear matches no layer that can be cut: their types are Conv2d"),
    ],
)
def test_one_sentence_says_what_is_wrong(leandet, files, tmp_path, arguments, said):
    model, data = files
    code, out, err = leandet("prune", model, "--data", data, "--out", tmp_path / "p.safetensors", *arguments)
    assert (code, out) == (2, "")
    assert "Traceback" not in err
    assert said in err.splitlines()[-1]
    assert not (tmp_path / "p.safetensors").exists()
