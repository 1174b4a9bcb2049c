"""Every engine beside ONNX Runtime: it answers as PyTorch does, holds no NMS, and refuses what is not whole."""

import importlib.util
import shutil
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch

from leandet.compress import prune, recalibrate
from leandet.detector.decode import top_k
from leandet.detector.files import load_detector, save_detector
from leandet.errors import UserError
from leandet.export import BOX_TOLERANCE, SCORE_TOLERANCE, SUFFIXES, compare, export
from leandet.runtime import RawOutput, open_runtime

from .conftest import SIZE, pictures

NEEDS = {
    "onnx": ("onnxruntime",),
    "openvino": ("openvino",),
    "ncnn": ("ncnn", "pnnx"),
    "litert": ("ai_edge_litert", "litert_torch"),
}
# The command line's words for a suppression step, in any engine's file.
SUPPRESSIONS = (b"nonmaxsuppression", b"non_max_suppression", b"detectionoutput", b"yolov3detection", b"nms")


@pytest.fixture(scope="module", params=NEEDS)
def model(request, detector, card, tmp_path_factory):
    for module in NEEDS[request.param]:
        if importlib.util.find_spec(module) is None:
            pytest.skip(f"{module} is not installed")
    path = tmp_path_factory.mktemp(request.param) / f"model{SUFFIXES[request.param]}"
    return path, export(detector, card, path, pictures(2), request.param)


def files(path):
    return sorted(path.iterdir()) if path.is_dir() else [path]


def test_it_answers_as_pytorch_does(detector, model):
    path, parity = model
    assert parity.compared >= 20
    images = pictures(3, seed=1)
    with torch.inference_mode():
        predictions = detector(torch.from_numpy(images))
        wanted = RawOutput(*(t.numpy() for t in top_k(predictions.logits, predictions.boxes)))
    found = compare(wanted, open_runtime(path, 1).run_network(images))
    assert found.boxes < BOX_TOLERANCE
    assert found.scores < SCORE_TOLERANCE


def test_a_batch_answers_like_its_images_one_by_one(model):
    runtime = open_runtime(model[0], 1)
    images = pictures(3, seed=2)
    together = runtime.run_network(images)
    assert np.abs(together.boxes[0] - together.boxes[1]).max() > 1  # the pictures do matter
    for index in range(3):
        alone = runtime.run_network(images[index : index + 1])
        np.testing.assert_allclose(together.scores[index], alone.scores[0], atol=1e-5)
        np.testing.assert_allclose(together.boxes[index, :20], alone.boxes[0, :20], atol=1e-2)


def test_there_is_no_nms_in_any_file(model):
    for file in files(model[0]):
        content = file.read_bytes().lower()
        if file.suffix == ".bin":  # weights: any letters may occur in them
            continue
        for word in SUPPRESSIONS[:-1] if file.suffix in {".onnx", ".tflite"} else SUPPRESSIONS:
            assert word not in content, f"{file.name} holds {word!r}"


@pytest.fixture(scope="module")
def pruned(detector, card, tmp_path_factory):
    """Cut to six tenths, saved and read again, as a person does it."""
    small = prune(detector, torch.zeros(1, 3, SIZE.height, SIZE.width), 0.4)
    recalibrate(small, [torch.from_numpy(pictures(16, 100))])
    path = tmp_path_factory.mktemp("pruned") / "model.safetensors"
    save_detector(small, replace(card, spec=small.spec), path)
    return load_detector(path)


@pytest.mark.parametrize("to", NEEDS)
def test_a_pruned_detector_stays_exact(detector, pruned, tmp_path, to):
    for module in NEEDS[to]:
        pytest.importorskip(module)
    small, card = pruned
    count = [sum(p.numel() for p in network.parameters()) for network in (small, detector)]
    assert count[0] < 0.8 * count[1]
    path = tmp_path / f"model{SUFFIXES[to]}"
    parity = export(small, card, path, pictures(2), to)
    assert parity.compared >= 20
    assert parity.boxes < BOX_TOLERANCE
    assert parity.scores < SCORE_TOLERANCE
    for file in files(path):
        assert file.suffix == ".bin" or b"nonmaxsuppression" not in file.read_bytes().lower()
    assert open_runtime(path, 1).card.spec.kept == small.spec.kept != {}


def test_the_card_travels(model, card):
    runtime = open_runtime(model[0], 1)
    assert runtime.card == card
    assert runtime.card.spec.size == SIZE
    assert runtime.precision == "float32"
    assert runtime.version[0].isdigit()


def test_threads_out_of_range_are_refused(model):
    with pytest.raises(UserError, match="threads must be from 1"):
        open_runtime(model[0], 0)


def test_a_model_that_is_not_whole_is_refused(model, tmp_path):
    path = model[0]
    if not path.is_dir():
        broken = tmp_path / path.name
        broken.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
        with pytest.raises(UserError, match=r"export it again|copy or export"):
            open_runtime(broken, 1)
        return
    for file in files(path):
        broken = tmp_path / file.name / path.name
        shutil.copytree(path, broken)
        (broken / file.name).unlink()
        with pytest.raises(UserError, match=f"its file {file.name} is missing"):
            open_runtime(broken, 1)


def test_a_graph_file_of_another_kind_is_refused(model, tmp_path):
    path = model[0]
    if not path.is_dir():
        pytest.skip("the truncated file above is the same case")
    graph = next(file.name for file in files(path) if file.suffix in {".xml", ".param"})
    broken = tmp_path / path.name
    shutil.copytree(path, broken)
    (broken / graph).write_text("this is no graph\n")
    with pytest.raises(UserError, match="export"):
        open_runtime(broken, 1)


def test_somebody_elses_folder_is_not_overwritten(detector, card, model, tmp_path):
    path = model[0]
    if not path.is_dir():
        pytest.skip("a file, not a folder")
    place = tmp_path / path.name
    place.mkdir()
    (place / "thesis.txt").write_text("years of work")
    with pytest.raises(UserError, match=r"thesis.txt"):
        export(detector, card, place, pictures(2), path.suffix[1:])
    assert [file.name for file in place.iterdir()] == ["thesis.txt"]
    assert [folder.name for folder in tmp_path.iterdir()] == [place.name]


@pytest.mark.parametrize(
    ("to", "name", "said"), [("tvm", "a.tvm", "must be one of"), ("onnx", "a.ncnn", "must end in")]
)
def test_a_format_or_suffix_that_is_none(detector, card, tmp_path, to, name, said):
    with pytest.raises(UserError, match=said):
        export(detector, card, tmp_path / name, pictures(1), to)
    assert not list(tmp_path.iterdir())


def test_a_missing_engine_is_one_sentence(detector, card, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pnnx", None)  # as where it is not installed
    with pytest.raises(UserError, match=r"pip install 'leandet\[ncnn\]'"):
        export(detector, card, tmp_path / "a.ncnn", pictures(1), "ncnn")
    assert not list(tmp_path.iterdir())
