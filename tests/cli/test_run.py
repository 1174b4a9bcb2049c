import importlib.util
import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

import cv2
import pytest
import typer
from typer.testing import CliRunner

from leandet.card import Card
from leandet.cli.run import bench_command, detect_command
from leandet.detector.detector import Detector
from leandet.detector.files import save_detector
from leandet.detector.spec import Spec
from leandet.errors import UserError
from leandet.preprocess import Size

# The red detector of the runtime tests; importlib mode puts no test folder on the path.
_spec = importlib.util.spec_from_file_location("red", Path(__file__).parents[1] / "runtime" / "conftest.py")
red = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(red)

app = typer.Typer()
app.command("detect")(detect_command)
app.command("bench")(bench_command)


@pytest.fixture
def model(tmp_path):
    size = Size(64, 96)
    return red.write_onnx(tmp_path / "red.onnx", red.red_graph(size), red.red_card(size).dump())


@pytest.fixture
def photo(tmp_path):
    path = tmp_path / "photos" / "a.png"
    path.parent.mkdir()
    cv2.imwrite(str(path), red.red_picture(80, 120, (30, 15, 90, 60))[..., ::-1])
    return path


def _run(*arguments: object):
    return CliRunner().invoke(app, [str(a) for a in arguments])


def test_detect_prints_one_json_object(model, photo, tmp_path):
    result = _run("detect", model, photo.parent, "--save", tmp_path / "out", "--threads", 1, "--json")
    assert result.exit_code == 0, result.output
    value = json.loads(result.stdout)
    assert (value["images"], value["detections"], value["skipped"]) == (1, 1, [])
    assert Path(value["results"]).is_file()


def test_detect_says_what_it_did(model, photo, tmp_path):
    result = _run("detect", model, photo, "--save", tmp_path / "out", "--threshold", 0)
    assert result.exit_code == 0, result.output
    assert "2 objects scored over 0.00 in 1 images" in result.stdout


def test_detect_cuts_where_the_model_says(photo, tmp_path):
    size = Size(64, 96)
    for threshold, objects in ((0.05, 2), (0.5, 1), (0.95, 0)):
        card = replace(red.red_card(size), metrics={"threshold": threshold})
        model = red.write_onnx(tmp_path / "own.onnx", red.red_graph(size), card.dump())
        result = _run("detect", model, photo, "--save", tmp_path / "out", "--json")
        assert (json.loads(result.stdout)["detections"], json.loads(result.stdout)["threshold"]) == (objects, threshold)


def test_detect_refuses_a_bad_threshold_and_a_missing_model(model, photo, tmp_path):
    assert _run("detect", model, photo, "--threshold", 1.5).exit_code == 2
    result = _run("detect", tmp_path / "none.onnx", photo, "--save", tmp_path / "out")
    assert isinstance(result.exception, UserError)
    assert not (tmp_path / "out").exists()


def test_detect_runs_safetensors_too(photo, tmp_path):
    spec = Spec("mobilenet_v1_025", 1, Size(64, 64), width=16)
    path = tmp_path / "m.safetensors"
    save_detector(Detector(spec), Card(("thing",), spec), path)
    result = _run("detect", path, photo, "--save", tmp_path / "out", "--threshold", 0, "--threads", 2, "--json")
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["detections"] > 0


def test_bench_prints_one_json_object(model, photo):
    result = _run("bench", model, "--threads", 1, "--seconds", 0.01, "--images", photo.parent, "--json")
    assert result.exit_code == 0, result.output
    value = json.loads(result.stdout)
    assert value["rows"][0]["model"] == str(model)
    assert value["machine"]["cpu"]


def test_bench_prints_a_table_with_units(model):
    result = _run("bench", model, "--threads", 1, "--seconds", 0.01)
    assert result.exit_code == 0, result.output
    assert "ms" in result.stdout
    assert "MB" in result.stdout


def test_bench_draws_a_chart(model, tmp_path):
    chart = tmp_path / "chart.svg"
    result = _run("bench", model, model, "--threads", 1, "--seconds", 0.01, "--chart", chart, "--batches", "2")
    assert result.exit_code == 0, result.output
    picture = ElementTree.fromstring(chart.read_text())
    dots = [one for one in picture.iter("{http://www.w3.org/2000/svg}circle") if len(one)]
    assert len(dots) == 2
    for options in (["--chart", tmp_path / "chart.png"], ["--batches", "many"]):
        assert isinstance(_run("bench", model, *options).exception, UserError)


BLOCKED = """
import sys

TRAINING = {"torch", "torchvision", "lightning", "timm", "onnx", "safetensors", "faster_coco_eval"}

class Block:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in TRAINING:
            raise ImportError(f"{name} is not part of the edge world")

sys.meta_path.insert(0, Block())
from pathlib import Path
import leandet.runtime
from leandet.cli.run import bench_command, detect_command
model, photo, out = sys.argv[1:]
detect_command(Path(model), [photo], save=Path(out), as_json=True)
bench_command([Path(model)], threads=1, seconds=0.01, as_json=True)
assert not TRAINING & set(sys.modules), TRAINING & set(sys.modules)
"""


def test_the_edge_world_imports_no_torch(model, photo, tmp_path):
    command = [sys.executable, "-c", BLOCKED, str(model), str(photo), str(tmp_path / "out")]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stderr
    detected, measured = (json.loads(line) for line in done.stdout.splitlines())
    assert detected["detections"] == 1
    assert len(measured["rows"]) == 1


def test_python_runs_the_command_line_too(tmp_path):
    command = [sys.executable, "-m", "leandet", "detect", str(tmp_path / "none.onnx"), str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 2
    assert done.stderr.startswith("error: ")
    assert "Traceback" not in done.stderr
