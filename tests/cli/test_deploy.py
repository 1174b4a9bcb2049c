"""Arguments of `export` and `quantize` that contradict each other are refused before anything is read."""

import pytest
from typer.testing import CliRunner

from leandet.cli.app import app
from leandet.errors import UserError


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--bits", "4"], "--bits goes with --simulate"),
        (["--simulate", "lsq", "--force"], "leave out --out and --force"),
        (["--simulate", "lsq", "--out", "a.onnx"], "leave out --out and --force"),
        (["--to", "ncnn"], "onnx or openvino"),
        (["--out", "a.xml"], "must end in .onnx"),
    ],
)
def test_what_quantize_cannot_do(arguments, says, tmp_path):
    model = tmp_path / "none.safetensors"
    result = CliRunner().invoke(app, ["quantize", str(model), "--data", str(tmp_path / "none"), *arguments])
    assert isinstance(result.exception, UserError)
    assert says in str(result.exception)
