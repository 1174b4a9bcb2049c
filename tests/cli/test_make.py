import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from leandet import pipeline
from leandet.card import Card
from leandet.cli import app, deploy, make
from leandet.cli.quantities import milliseconds
from leandet.compress import recalibrate
from leandet.data.shapes import CLASSES, draw_shapes
from leandet.detector.detector import Detector
from leandet.detector.files import save_detector
from leandet.detector.spec import Spec
from leandet.errors import UserError
from leandet.preprocess import Size
from leandet.runtime import open_runtime


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def leandet(monkeypatch, capsys):
    """The command line as a person calls it: exit code, standard output, standard error."""

    def call(*arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["leandet", *map(str, arguments)])
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            app.main()
        printed = capsys.readouterr()
        return int(ended.value.code or 0), printed.out, printed.err

    return call


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """A detector with scores and boxes that depend on the picture, untrained."""
    torch.manual_seed(0)
    detector = Detector(Spec("mobilenet_v1_025", len(CLASSES), Size(64, 64), width=16))
    generator = np.random.default_rng(0)
    with torch.no_grad():
        for tower in detector.head.classify:
            tower[-1].weight.normal_(std=0.5)
    views = [cv2.resize(generator.integers(0, 256, (6, 8, 3), np.uint8), (64, 64)) for _ in range(16)]
    detector = recalibrate(detector, [torch.from_numpy(np.stack(views).transpose(0, 3, 1, 2))])
    path = tmp_path_factory.mktemp("model") / "model.safetensors"
    save_detector(detector, Card(CLASSES, detector.spec), path)
    return path


@pytest.fixture(scope="module")
def shapes(tmp_path_factory):
    return draw_shapes(tmp_path_factory.mktemp("shapes"), train=4, val=2, side=96)


@pytest.fixture(scope="module")
def labelled(model, tmp_path_factory):
    """Pictures labelled with what the detector nearly finds in them, so that its AP is neither 0 nor 1."""
    root, rng = tmp_path_factory.mktemp("labelled"), np.random.default_rng(1)
    runtime = open_runtime(model, 1)
    images, annotations = [], []
    (root / "val").mkdir()
    for index in range(8):
        picture = cv2.resize(rng.integers(0, 256, (6, 8, 3), np.uint8), (128, 96), interpolation=cv2.INTER_CUBIC)
        cv2.imwrite(str(root / "val" / f"{index}.png"), picture[..., ::-1])
        images.append({"id": index, "file_name": f"{index}.png", "width": 128, "height": 96})
        found = runtime(picture)
        for rank in rng.choice(40, 8, replace=False):
            x1, y1, x2, y2 = (float(v) for v in found.boxes[rank] + rng.normal(0, 2, 4))
            x1, y1, x2, y2 = max(x1, 0), max(y1, 0), min(x2, 128), min(y2, 96)
            box = [x1, y1, x2 - x1, y2 - y1]
            if min(box[2:]) < 4:
                continue
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": index,
                    "category_id": int(found.labels[rank]) + 1,
                    "bbox": box,
                    "area": box[2] * box[3],
                    "iscrowd": 0,
                }
            )
    categories = [{"id": i, "name": name} for i, name in enumerate(CLASSES, 1)]
    (root / "annotations").mkdir()
    (root / "annotations" / "instances_val.json").write_text(
        json.dumps({"images": images, "annotations": annotations, "categories": categories})
    )
    return root


@pytest.fixture(scope="module")
def exported(model, tmp_path_factory):
    path = tmp_path_factory.mktemp("exported") / "model.onnx"
    deploy.export_command(model, out=path, as_json=True)
    return path


def refused(result: tuple[int, str, str], said: str) -> None:
    code, out, err = result
    assert "Traceback" not in err
    assert (code, out) == (2, ""), err
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    assert err.endswith(".\n")
    assert re.search(said, err), err


def test_missing_data(leandet, tmp_path, model):
    refused(leandet("build", tmp_path / "nowhere", "--out", tmp_path / "out"), "nowhere")
    refused(leandet("train", tmp_path / "nowhere", "--out", tmp_path / "out2"), "nowhere")
    refused(leandet("eval", model, tmp_path / "nowhere"), "nowhere")


def test_missing_data_begins_no_folder(leandet, tmp_path):
    for verb in ("build", "train"):
        leandet(verb, tmp_path / "nowhere", "--out", tmp_path / verb)
    assert list(tmp_path.iterdir()) == []


def test_data_or_demo_but_not_both_or_neither(leandet, shapes):
    refused(leandet("build"), "--demo")
    refused(leandet("build", shapes, "--demo"), "--demo")


@pytest.mark.parametrize(
    ("asked", "built"),
    [
        ((), (make.DEMO_BACKBONE, "none", make.DEMO_SIZE, make.DEMO_WIDTH, make.DEMO_EPOCHS)),
        (
            ("--backbone", "mobilenet_v2", "--weights", "imagenet", "--size", 64, "--width", 16, "--epochs", 2),
            ("mobilenet_v2", "imagenet", 64, 16, 2),
        ),
    ],
)
def test_the_demo_is_small_unless_asked_otherwise(leandet, tmp_path, monkeypatch, asked, built):
    seen = []

    def build(options, **_):
        seen.append(options)
        raise UserError("far enough.")

    monkeypatch.setattr(pipeline, "build", build)
    monkeypatch.setattr(make, "DEMO_IMAGES", 2)
    refused(leandet("build", "--demo", *asked, "--out", tmp_path / "demo"), "far enough")
    (options,) = seen
    assert (options.backbone, options.weights, options.size, options.width, options.epochs) == built
    assert (options.data / "shapes.json").is_file()


def test_nothing_is_drawn_for_a_demo_that_cannot_be(leandet, tmp_path):
    refused(leandet("build", "--demo", "--size", 100, "--out", tmp_path / "demo"), "not 100: try 96")
    assert not (tmp_path / "demo").exists()


@pytest.mark.parametrize("verb", ["build", "train"])
def test_a_size_that_is_no_multiple_of_32(leandet, shapes, tmp_path, verb):
    refused(leandet(verb, shapes, "--size", 300, "--out", tmp_path / "out"), "not 300: try 288")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("verb", ["build", "train"])
def test_a_width_of_nothing(leandet, shapes, tmp_path, verb):
    refused(
        leandet(verb, shapes, "--width", 0, "--out", tmp_path / "out"), "width must be from 8 to 4096 channels, not 0"
    )
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("budget", ["soon", "0ms", "-3ms", "8 minutes", "", "nan"])
def test_a_budget_that_is_no_time(leandet, shapes, tmp_path, budget):
    refused(leandet("build", shapes, f"--budget={budget}", "--out", tmp_path / "out"), "--budget must be a time")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(("text", "wanted"), [("8ms", 8), ("8", 8), (" 7.5 ms ", 7.5), ("0.01s", 10), ("1 s", 1000)])
def test_budgets_that_are_times(text, wanted):
    assert milliseconds(text) == pytest.approx(wanted)


@pytest.mark.parametrize("option", [("--weights", "none.safetensors"), ("--backbone", "mobilenet_v9")])
def test_weights_and_backbones_that_are_not_there(leandet, shapes, tmp_path, option):
    out = tmp_path / "out"
    code, printed, err = leandet("train", shapes, *option, "--out", out, "--size", 64)
    assert (code, printed) == (2, "")
    assert "Traceback" not in err
    assert option[1] in err.splitlines()[-1]


def test_a_used_folder(leandet, shapes, tmp_path):
    (tmp_path / "build.json").write_text("{}")
    (tmp_path / "stages").mkdir()
    (tmp_path / "stages" / "train.json").write_text("{}")
    refused(leandet("build", shapes, "--out", tmp_path), "already holds a build")
    refused(leandet("train", shapes, "--out", tmp_path), "already holds a build")
    refused(leandet("build", shapes, "--out", tmp_path, "--resume"), "begun with another")


def test_nothing_to_resume(leandet, shapes, tmp_path):
    refused(leandet("build", shapes, "--out", tmp_path / "out", "--resume"), "no build to resume")


def test_a_model_of_other_classes(leandet, labelled, tmp_path):
    detector = Detector(Spec("mobilenet_v1_025", 2, Size(64, 64), width=16))
    save_detector(detector, Card(("cat", "dog"), detector.spec), tmp_path / "pets.safetensors")
    refused(leandet("eval", tmp_path / "pets.safetensors", labelled, "--split", "val"), "classes are not those of")


def test_a_split_that_the_data_has_not(leandet, model, labelled):
    refused(leandet("eval", model, labelled, "--split", "test"), "no test split: it has val")


def test_a_made_split_can_be_named_and_a_found_one_stays_whole(leandet, exported, labelled, tmp_path):
    """Plain `eval` measures the `val` that is made of one pool; `--split val` must measure the same."""
    shutil.copytree(labelled / "val", tmp_path / "pool")
    shutil.copy(labelled / "annotations" / "instances_val.json", tmp_path / "pool" / "labels.json")
    figures = []
    pool, val = tmp_path / "pool", ["--split", "val"]
    for data, split in ((pool, []), (pool, val), (labelled, val)):
        code, out, err = leandet("eval", exported, data, *split, "--json")
        assert code == 0, err
        figures.append(json.loads(out))
    assert figures[0] == figures[1]
    assert [f["images"] for f in figures] == [2, 2, 8]


def test_a_format_that_is_none(leandet, model):
    refused(leandet("export", model, "--to", "foo"), "--to must be one of onnx, .*, not 'foo'")


@pytest.mark.parametrize("kept", [0.0, 0.5, 0.99])
@pytest.mark.parametrize("suffix", [".onnx", ".safetensors"])
def test_a_truncated_model(leandet, model, exported, labelled, tmp_path, suffix, kept):
    content = (exported if suffix == ".onnx" else model).read_bytes()
    path = tmp_path / f"short{suffix}"
    path.write_bytes(content[: int(kept * len(content))])
    refused(leandet("eval", path, labelled, "--split", "val"), "short")
    if suffix == ".safetensors":
        refused(leandet("export", path), "short")
        assert not path.with_suffix(".onnx").exists()


def test_a_missing_model(leandet, labelled, tmp_path):
    for name in ("none.onnx", "none.safetensors"):
        refused(leandet("eval", tmp_path / name, labelled), "no such file")
    refused(leandet("export", tmp_path / "none.safetensors"), "no such file")
    refused(leandet("eval", labelled, labelled), "no engine runs")


def test_an_onnx_file_cannot_be_exported_again(leandet, exported):
    refused(leandet("export", exported), r"model\.onnx")


def test_pytorch_and_onnx_have_the_same_accuracy(leandet, model, exported, labelled):
    figures = []
    for path in (model, exported):
        code, out, err = leandet("eval", path, labelled, "--split", "val", "--threads", 1, "--json")
        assert code == 0, err
        figures.append(json.loads(out))
    one, other = figures
    assert 0.05 < one["ap"] < 0.95
    for name in ("ap", "ap50", "ap75", "ap_with_nms"):
        assert other[name] == pytest.approx(one[name], abs=0.002), name
    assert other["duplicates_per_100"] == pytest.approx(one["duplicates_per_100"], abs=2)
    assert (one["runtime"], other["runtime"]) == ("torch", "onnxruntime")
    assert one["images"] == other["images"] == 8
    assert set(one["per_class"]) == set(CLASSES)
    names = {"ap", "ap50", "ap75", "ap_small", "ap_medium", "ap_large", "ap_with_nms", "duplicates_per_100"}
    assert names | {"per_class", "images", "runtime"} <= set(one)


def test_eval_prints_a_table_for_people(leandet, exported, labelled):
    code, out, _ = leandet("eval", exported, labelled, "--split", "val")
    assert code == 0
    assert "AP, IoU .50:.95" in out
    assert all(name in out for name in CLASSES)


def test_export_says_how_far_it_is_from_pytorch(leandet, model, tmp_path):
    code, out, err = leandet("export", model, "--out", tmp_path / "deep" / "m.onnx", "--json")
    assert code == 0, err
    value = json.loads(out)
    assert value["path"] == str(tmp_path / "deep" / "m.onnx")
    assert value["parity_px"] < 0.1
    assert value["parity_score"] < 1e-3
    assert open_runtime(value["path"]).card == open_runtime(model).card


@pytest.mark.skipif(os.name != "posix", reason="the longest name is another elsewhere")
def test_a_path_that_the_system_refuses(leandet, exported, model):
    """As `leandet detect m.onnx "$(ls)"` gives it."""
    refused(leandet("detect", exported, "a" * 300), "aaa: File name too long")
    refused(leandet("eval", "a" * 300 + ".onnx", model), "File name too long")


@pytest.mark.skipif(sys.platform != "linux", reason="other systems have no such names")
def test_names_that_are_no_unicode_are_printed(labelled, tmp_path):
    folder = tmp_path / os.fsdecode(b"caf\xe9")
    shutil.copytree(labelled, folder)
    command = [sys.executable, "-m", "leandet.cli.app", "data", "check", folder, "--json"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["data"] == str(folder.resolve())


def test_an_interrupt_has_its_exit_code(leandet, monkeypatch, shapes, tmp_path):
    def interrupt(*arguments: object, **named: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(pipeline, "build", interrupt)
    code, _, err = leandet("build", shapes, "--out", tmp_path / "out")
    assert (code, err.splitlines()[-1]) == (130, "interrupted; what was finished is kept.")


def test_the_installed_command_itself(tmp_path):
    command = Path(sys.executable).with_name("leandet")
    result = subprocess.run(
        [command, "build", tmp_path / "nowhere", "--out", tmp_path / "out"],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    refused((result.returncode, result.stdout, result.stderr), "nowhere")
