"""The whole flow on a detector."""

import json

import pytest
import torch

from leandet.card import Card
from leandet.compress import recalibrate
from leandet.data.read import read
from leandet.data.shapes import CLASSES, draw_shapes
from leandet.detector.detector import Detector
from leandet.detector.files import load_detector, save_detector
from leandet.detector.spec import Spec
from leandet.errors import UserError
from leandet.evaluate import evaluate
from leandet.preprocess import Size
from leandet.runtime import open_runtime
from leandet.sparsify import Blocks, Movement, NofM, Plan
from leandet.sparsify.detectors import REQUEST, Tuning, latency_sentence, sparsify_detector, tune
from leandet.sparsify.masking import share_of_zeros

SIZE = Size(64, 64)


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    return read(draw_shapes(tmp_path_factory.mktemp("drawn") / "data", train=8, val=4, side=64))[0]


def made(path, seed=0):
    torch.manual_seed(seed)
    detector = Detector(Spec("mobilenet_v1_025", len(CLASSES), SIZE, width=16))
    with torch.no_grad():
        for tower in detector.head.classify:
            tower[-1].weight.normal_(std=0.5)
    recalibrate(detector, [torch.randint(0, 256, (8, 3, 64, 64), dtype=torch.uint8)])
    save_detector(detector, Card(CLASSES, detector.spec, {"ap": 0.5}, {"seed": str(seed)}), path)
    return path


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return made(tmp_path_factory.mktemp("model") / "model.safetensors")


def test_cut_trained_shared_and_measured(dataset, model, tmp_path):
    out, plan = tmp_path / "sparse.safetensors", Plan(0.9)
    lines = []
    result = sparsify_detector(
        *(model, dataset, out, plan, Tuning(epochs=2, batch=4, ramp=0.5)),
        bits=6,
        threads=1,
        seconds=0.05,
        tell=lines.append,
    )
    detector, card = load_detector(out)
    assert result.sparsity == pytest.approx(0.9, abs=1e-3)
    assert result.emptied == ()
    assert result.bytes == out.stat().st_size
    assert result.times_smaller > 8
    assert result.nonzero == sum(int((t != 0).sum()) for t in detector.state_dict().values())
    weights = plan.weights(detector)
    assert sum(int((w == 0).sum()) for w in weights.values()) / sum(
        w.numel() for w in weights.values()
    ) == pytest.approx(result.sparsity)
    assert max(len(w[w != 0].unique()) for w in weights.values() if int((w != 0).sum()) >= 512) <= 64
    assert result.ap == evaluate(open_runtime(out, 1), dataset.splits["val"], CLASSES)[0].ap == card.metrics["ap"]
    assert result.dense_ap == evaluate(open_runtime(model, 1), dataset.splits["val"], CLASSES)[0].ap
    assert card.provenance["sparsity"] == "90 % unstructured by lamp, global"
    assert card.provenance["shared_values"] == "6 bits"
    assert (card.provenance["teacher"], card.provenance["distill"]) == ("model.safetensors", "1")
    curves = json.loads((tmp_path / "sparse-training" / "curves.json").read_text())
    assert all(row["loss/distillation"] > 0 for row in curves)
    assert result.p50_ms > 0
    assert json.loads(json.dumps(result.to_json()))["latency"] == result.latency
    assert any("after 1" in line for line in lines)
    with pytest.raises(UserError, match="add --resume"):
        sparsify_detector(model, dataset, out, plan, Tuning(epochs=2, batch=4))
    with pytest.raises(UserError, match="another batch"):
        sparsify_detector(model, dataset, out, plan, Tuning(epochs=2, batch=2), bits=6, resume=True)
    with pytest.raises(UserError, match="another distill"):
        sparsify_detector(model, dataset, out, plan, Tuning(epochs=2, batch=4, distill=0.5), bits=6, resume=True)
    (tmp_path / "sparse-training" / REQUEST).write_text("{")
    with pytest.raises(UserError, match="damaged"):
        sparsify_detector(model, dataset, out, plan, Tuning(epochs=2), resume=True)


@pytest.mark.parametrize("plan", [Plan(0.5, NofM(2, 4)), Plan(0.5, Blocks(4))], ids=str)
def test_without_training_the_cut_is_all(dataset, model, tmp_path, plan):
    detector, dense = load_detector(model)[0], load_detector(model)[0]
    tune(detector, dataset, plan, Tuning(epochs=0), tmp_path / "training")
    masks = plan.masks(dense)
    for name, tensor in detector.state_dict().items():
        wanted = dense.state_dict()[name]
        assert torch.equal(tensor, wanted * masks[name] if name in masks else wanted)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("epochs", [0, 1])
def test_a_lottery_ticket_starts_from_the_early_weights(dataset, model, tmp_path, epochs):
    early = load_detector(made(tmp_path / "early.safetensors", seed=1))[0]
    detector, plan = load_detector(model)[0], Plan(0.8)
    masks = plan.masks(detector)
    tune(detector, dataset, plan, Tuning(epochs, batch=4), tmp_path / "training", early=early)
    for name, tensor in detector.state_dict().items():
        if epochs == 0:
            wanted = early.state_dict()[name]
            assert torch.equal(tensor, wanted * masks[name] if name in masks else wanted)
        elif name in masks:
            assert torch.equal(tensor != 0, masks[name])


def test_movement_needs_training(dataset, model, tmp_path):
    for tuning in (Tuning(epochs=0), Tuning(epochs=1), Tuning(epochs=4, ramp=0)):
        with pytest.raises(UserError, match="movement chooses while it trains"):
            sparsify_detector(model, dataset, tmp_path / "a.safetensors", Plan(0.5, scorer=Movement()), tuning)
    assert not list(tmp_path.iterdir())


def test_a_name_that_would_overwrite_the_model_or_is_no_model(dataset, model, tmp_path):
    for out in (model, tmp_path / "a.onnx"):
        with pytest.raises(UserError, match="must be another file"):
            sparsify_detector(model, dataset, out, Plan(0.5), Tuning(epochs=0))


def test_a_sparse_model_can_be_cut_further(dataset, model, tmp_path):
    detector, card = load_detector(model)
    sizes = []
    for sparsity in (0.5, 0.8):
        tune(detector, dataset, Plan(sparsity), Tuning(epochs=0), tmp_path / "training")
        save_detector(detector, card, tmp_path / "a.safetensors", sparse=True)
        detector, card = load_detector(tmp_path / "a.safetensors")
        sizes.append((tmp_path / "a.safetensors").stat().st_size)
        assert share_of_zeros(Plan(sparsity).weights(detector)) == pytest.approx(sparsity, abs=1e-3)
    assert sizes[1] < sizes[0]


@pytest.mark.parametrize(
    ("dense", "sparse", "sentence"),
    [
        (10.0, 10.4, "changed nothing"),
        (10.0, 9.6, "changed nothing"),
        (10.0, 5.0, "50% less time"),
        (10.0, 12.0, "20% more time"),
    ],
)
def test_what_is_said_of_latency(dense, sparse, sentence):
    text = latency_sentence(dense, sparse)
    assert sentence in text
    assert f"{dense:.2f} ms dense, {sparse:.2f} ms sparse" in text


@pytest.mark.parametrize("change", [{"epochs": -1}, {"ramp": 1.0}, {"ramp": -0.1}])
def test_impossible_settings(change):
    with pytest.raises(UserError, match=next(iter(change))):
        Tuning(**change)
