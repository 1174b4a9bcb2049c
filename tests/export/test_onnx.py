import copy
import json

import numpy as np
import onnx
import onnxruntime
import pytest
import torch

from leandet.card import CARD_KEY
from leandet.detections import Detections
from leandet.detector.decode import top_k
from leandet.detector.detector import Detector
from leandet.detector.spec import STEEPEST
from leandet.errors import UserError
from leandet.export import BOX_TOLERANCE, SCORE_TOLERANCE, SURE, compare, export, formats
from leandet.learn.loss import Criterion
from leandet.runtime import RawOutput, open_runtime
from leandet.runtime.onnx import OnnxRuntime

from .conftest import SIZE, pictures

CLOSE = 1e-4 * (1 + 2 * STEEPEST)  # scores: what lowers one for its neighbour multiplies the rounding of both


@pytest.fixture(scope="module")
def exported(detector, card, tmp_path_factory):
    path = tmp_path_factory.mktemp("export") / "model.onnx"
    return path, export(detector, card, path, pictures(2))


def torch_says(detector: Detector, images: np.ndarray) -> RawOutput:
    """PyTorch's answer in double precision, so that only the file's own rounding is left between the two."""
    with torch.inference_mode():
        predictions = copy.deepcopy(detector).double()(torch.from_numpy(images))
        return RawOutput(*(t.numpy() for t in top_k(predictions.logits, predictions.boxes)))


@pytest.mark.parametrize("batch", [1, 2, 3, 5])
def test_onnx_answers_as_pytorch_does_whatever_the_batch(detector, exported, batch):
    path, _ = exported
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    images = pictures(batch, seed=batch)
    wanted = torch_says(detector, images)
    if batch > 1:
        assert np.abs(wanted.boxes[0] - wanted.boxes[1]).max() > 1  # the pictures do matter
    boxes, scores, labels = session.run(["boxes", "scores", "labels"], {"images": images})
    assert (wanted.scores > SURE).any()
    assert wanted.scores[0].std() > 0.05
    np.testing.assert_allclose(scores, wanted.scores, atol=CLOSE)
    # Equals may change places, so detections are looked up by content, in both directions; those that tie with the
    # last place may fall out of the hundred.
    for image in range(batch):
        one = RawOutput(boxes[image], scores[image], labels[image])
        other = RawOutput(wanted.boxes[image], wanted.scores[image], wanted.labels[image])
        assert unanswered(one, other) == unanswered(other, one) == 0


def unanswered(these: RawOutput | Detections, those: RawOutput | Detections) -> int:
    """How many of one image's detections have no twin among the others."""
    near = (np.abs(these.boxes[:, None] - those.boxes[None]) < 1e-2).all(-1)
    near &= np.abs(these.scores[:, None] - those.scores[None]) < CLOSE
    near &= these.labels[:, None] == those.labels[None]
    return int((~near.any(1) & (these.scores > these.scores[-1] + CLOSE)).sum())


def test_the_runtimes_agree_on_a_photograph(detector, card, exported, tmp_path):
    from leandet.detector.files import save_detector

    save_detector(detector, card, tmp_path / "model.safetensors")
    photo = np.random.default_rng(7).integers(0, 256, (50, 130, 3), np.uint8)
    found, wanted = (open_runtime(p, 1)(photo) for p in (exported[0], tmp_path / "model.safetensors"))
    np.testing.assert_allclose(found.scores, wanted.scores, rtol=0, atol=SCORE_TOLERANCE)  # what an export promises
    assert len(found) == len(wanted) > 0
    assert unanswered(found, wanted) == unanswered(wanted, found) == 0


def test_the_card_crosses_the_bridge(card, exported):
    assert open_runtime(exported[0]).card == card


def names(graph: onnx.GraphProto) -> set[str]:
    """Operators and everything named, subgraphs included."""
    found = {tensor.name for tensor in graph.initializer}
    for node in graph.node:
        found |= {node.op_type, node.name, *node.input, *node.output}
        for attribute in node.attribute:
            for inner in (attribute.g, *attribute.graphs):
                found |= names(inner)
    return found


def test_the_file_is_whole_checked_and_free_of_nms_and_of_what_only_trains(detector, exported):
    path, _ = exported
    assert [p.name for p in path.parent.iterdir()] == [path.name]  # no weights beside it
    model = onnx.load(path)
    onnx.checker.check_model(model, full_check=True)
    found = names(model.graph)
    for function in model.functions:
        found |= {node.op_type for node in function.node}
    assert "Conv" in found
    assert not [n for n in found if "nonmax" in n.lower() or "nms" in n.lower()]
    assert not [n for n in found if "auxiliary" in n or "criterion" in n or "tower" in n]
    assert "BatchNormalization" not in found  # all folded, also where a convolution serves several levels
    parameters = sum(int(np.prod(t.dims)) for t in model.graph.initializer)
    own = sum(p.numel() for p in detector.parameters()) + sum(b.numel() for b in detector.buffers())
    locations = sum((SIZE.height // s) * (SIZE.width // s) for s in (8, 16, 32))
    assert parameters <= own + 3 * locations + 100
    assert not list(Criterion().parameters())  # training adds no weights of its own


def test_inputs_and_outputs_are_the_contracts(exported):
    graph = onnx.load(exported[0]).graph
    (images,) = graph.input
    assert images.name == "images"
    assert images.type.tensor_type.elem_type == onnx.TensorProto.UINT8
    assert [d.dim_value for d in images.type.tensor_type.shape.dim[1:]] == [3, SIZE.height, SIZE.width]
    assert images.type.tensor_type.shape.dim[0].dim_param
    assert [o.name for o in graph.output] == ["boxes", "scores", "labels"]


def test_the_measured_difference_is_small_and_over_many_detections(exported):
    _, parity = exported
    assert parity.compared >= 20
    assert 0 <= parity.boxes < BOX_TOLERANCE
    assert 0 <= parity.scores < SCORE_TOLERANCE


def perturbed(raw: RawOutput, **changes: np.ndarray) -> RawOutput:
    return RawOutput(*(changes.get(name, getattr(raw, name)) for name in RawOutput._fields))


def test_compare_finds_what_was_moved(detector):
    wanted = torch_says(detector, pictures(3))
    same = compare(wanted, wanted)
    assert (same.boxes, same.scores) == (0, 0)
    assert same.compared == sum(int(((row > SURE) & (row > row[-1] + SCORE_TOLERANCE)).sum()) for row in wanted.scores)
    assert same.compared > 100

    boxes = wanted.boxes.copy()
    boxes[1, 4, 2] += 0.25
    moved = compare(wanted, perturbed(wanted, boxes=boxes))
    assert moved.boxes == pytest.approx(0.25, abs=1e-5)
    assert moved.scores == 0

    scores = wanted.scores.copy()
    scores[2, 0] -= 0.125
    assert compare(wanted, perturbed(wanted, scores=scores)).scores == pytest.approx(0.125)

    # Every score too high, every score too low: also where all then lie beyond the other's last.
    for by in (0.2, -0.2, 0.9, -0.9):
        assert compare(wanted, perturbed(wanted, scores=wanted.scores + np.float32(by))).scores > SCORE_TOLERANCE

    labels = np.full_like(wanted.labels, 9)
    assert compare(wanted, perturbed(wanted, labels=labels)).boxes == float("inf")

    order = np.arange(wanted.scores.shape[1])[::-1]
    shuffled = RawOutput(wanted.boxes[:, order], wanted.scores[:, order], wanted.labels[:, order])
    assert compare(wanted, shuffled).boxes == 0  # order among equals is not a difference


@pytest.mark.parametrize("name", ["boxes", "scores"])
@pytest.mark.parametrize("share", [1.0, 0.01])
def test_compare_takes_no_nan_for_agreement(detector, name, share):
    wanted = torch_says(detector, pictures(2))
    spoilt = getattr(wanted, name).copy()
    spoilt[0, : max(1, int(share * spoilt.shape[1]))] = np.nan
    found = compare(wanted, perturbed(wanted, **{name: spoilt}))
    assert not (found.boxes <= BOX_TOLERANCE and found.scores <= SCORE_TOLERANCE)


@pytest.mark.parametrize("spoil", ["boxes", "scores", "labels"])
def test_a_graph_that_differs_is_not_written(detector, card, exported, tmp_path, monkeypatch, spoil):
    graph = exported[0].read_bytes()
    monkeypatch.setattr(formats, "to_onnx", lambda *arguments: graph)  # what it gave before: it takes seconds
    run = OnnxRuntime.run_network

    def other(runtime: OnnxRuntime, images: np.ndarray) -> RawOutput:
        raw = run(runtime, images)
        value = getattr(raw, spoil)
        return perturbed(raw, **{spoil: value + (1 if spoil == "labels" else value.dtype.type(0.2))})

    monkeypatch.setattr(OnnxRuntime, "run_network", other)
    path = tmp_path / "model.onnx"
    path.write_bytes(b"what was there before")
    with pytest.raises(UserError, match="was not written"):
        export(detector, card, path, pictures(2))
    assert path.read_bytes() == b"what was there before"
    assert [p.name for p in tmp_path.iterdir()] == ["model.onnx"]


def test_the_metadata_is_one_line_of_json(exported, card):
    (entry,) = [m for m in onnx.load(exported[0]).metadata_props if m.key == CARD_KEY]
    assert json.loads(entry.value)["classes"] == list(card.classes)
