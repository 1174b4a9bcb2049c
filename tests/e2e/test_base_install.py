"""The base install, in a clean virtual environment: detectors run, torch is not there."""

import json
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

from leandet.card import Card
from leandet.detector.detector import Detector
from leandet.detector.spec import Spec
from leandet.export import export
from leandet.preprocess import Size

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def clean(tmp_path_factory):
    """A virtual environment with the base install; its bin folder."""
    folder = tmp_path_factory.mktemp("clean") / "venv"
    subprocess.run([sys.executable, "-m", "venv", folder], check=True)
    done = subprocess.run(
        [folder / "bin/python", "-m", "pip", "install", "--quiet", str(ROOT)],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        pytest.skip(f"the base install needs a package index: {done.stderr.strip().splitlines()[-1]}")
    return folder / "bin"


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    spec = Spec("mobilenet_v1_025", 2, Size(64, 64), width=16)
    path = tmp_path_factory.mktemp("model") / "model.onnx"
    images = np.random.default_rng(0).integers(0, 256, (2, 3, 64, 64), np.uint8)
    export(Detector(spec).eval(), Card(("cat", "dog"), spec), path, images)
    return path


def test_detect_runs_without_torch(clean, model, tmp_path):
    picture = tmp_path / "a.jpg"
    cv2.imwrite(str(picture), np.full((90, 120, 3), 127, np.uint8))
    out = tmp_path / "out"
    command = [clean / "leandet", "detect", model, picture, "--save", out, "--threshold", "0", "--json"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert json.loads(done.stdout)["images"] == 1
    (record,) = json.loads((out / "detections.json").read_text())
    assert len(record["detections"]) > 0
    assert cv2.imread(str(out / record["drawn"])).shape == (90, 120, 3)


def test_no_heavy_package_is_installed(clean):
    listed = subprocess.run(
        [clean / "python", "-m", "pip", "list", "--format=json"], capture_output=True, text=True, check=True
    )
    names = {entry["name"].lower() for entry in json.loads(listed.stdout)}
    assert not names & {"torch", "torchvision", "lightning", "safetensors", "faster-coco-eval"}


def test_what_needs_torch_says_how_to_get_it(clean, tmp_path):
    done = subprocess.run(
        [clean / "leandet", "build", "--demo", "--out", tmp_path / "x"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert "leandet[train]" in done.stderr
    assert "Traceback" not in done.stderr
