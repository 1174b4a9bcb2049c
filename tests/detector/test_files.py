import json
import struct

import pytest
import torch
from safetensors.torch import load_file, save_file

import leandet
from leandet.card import CARD_KEY, Card
from leandet.compress import recalibrate
from leandet.detector.detector import Detector
from leandet.detector.files import load_detector, read_card, save_detector
from leandet.detector.spec import Spec
from leandet.errors import UserError
from leandet.preprocess import Size

CLASSES = ("a", "b", "ü")


@pytest.fixture(scope="module")
def detector():
    torch.manual_seed(0)
    made = Detector(Spec("mobilenet_v2_035", 3, Size(64, 96), width=16))
    return recalibrate(made, [torch.randint(0, 256, (4, 3, 64, 96), dtype=torch.uint8)])


@pytest.fixture(scope="module")
def card(detector):
    return Card(CLASSES, detector.spec, {"ap": 0.5}, {"seed": "0"})


@pytest.fixture
def path(detector, card, tmp_path):
    save_detector(detector, card, tmp_path / "deep" / "model.safetensors")
    return tmp_path / "deep" / "model.safetensors"


@torch.inference_mode()
def test_a_saved_detector_answers_as_before(detector, card, path):
    loaded, found = load_detector(path)
    assert found == card == read_card(path)
    assert not loaded.training
    images = torch.randint(0, 256, (2, 3, 64, 96), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))
    for a, b, c in zip(detector(images), loaded(images), leandet.load(str(path))(images), strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=0)
        torch.testing.assert_close(a, c, rtol=0, atol=0)


def test_the_file_is_plain_safetensors_and_nothing_is_pickled(path, detector):
    data = path.read_bytes()
    (length,) = struct.unpack("<Q", data[:8])
    header = json.loads(data[8 : 8 + length])
    assert set(header.pop("__metadata__")) == {CARD_KEY}
    assert set(header) == set(detector.state_dict())
    assert len(data) == 8 + length + max(entry["data_offsets"][1] for entry in header.values())


@pytest.mark.parametrize("kept", [0.0, 0.001, 0.3, 0.9, 0.9999])
def test_a_truncated_file(path, kept):
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * kept)])
    with pytest.raises(UserError, match="not a whole safetensors file") as caught:
        load_detector(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("content", [b"hello", b"\x80\x04.", b"\xff" * 64, struct.pack("<Q", 2) + b"\xff\xff"])
def test_a_foreign_file(tmp_path, content):
    path = tmp_path / "foreign.safetensors"
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"foreign\.safetensors"):
        load_detector(path)


def test_a_missing_file_and_a_folder(tmp_path):
    for path in (tmp_path / "none.safetensors", tmp_path):
        with pytest.raises(UserError, match="there is no such file"):
            load_detector(path)


def test_safetensors_that_leandet_did_not_write(tmp_path):
    path = tmp_path / "foreign.safetensors"
    for metadata in (None, {"format": "pt"}):
        save_file({"weight": torch.zeros(3)}, path, metadata)
        with pytest.raises(UserError, match="no leandet card"):
            load_detector(path)


def rewrite(path, card, change):
    tensors = load_file(path)
    change(tensors)
    save_file(tensors, path, {CARD_KEY: card.dump()})


def test_a_tensor_of_another_shape(path, card):
    rewrite(path, card, lambda t: t.update({"head.regress.0.2.bias": torch.ones(2)}))
    with pytest.raises(UserError, match=r"'head\.regress\.0\.2\.bias' has shape \[2\], its card says \[4\]"):
        load_detector(path)


def test_a_tensor_too_few_and_one_too_many(path, card):
    rewrite(path, card, lambda t: t.pop("head.regress.0.2.bias"))
    with pytest.raises(UserError, match=r"'head\.regress\.0\.2\.bias' does not belong"):
        load_detector(path)
    rewrite(path, card, lambda t: t.update({"head.regress.0.2.bias": torch.ones(4), "extra": torch.ones(1)}))
    with pytest.raises(UserError, match="'extra' does not belong"):
        load_detector(path)


def test_a_backbone_that_this_version_does_not_know(path, card, detector):
    text = card.dump().replace("mobilenet_v2_035", "mobilenet_v9")
    save_file(load_file(path), path, {CARD_KEY: text})
    with pytest.raises(UserError, match="mobilenet_v9"):
        load_detector(path)


def test_a_disk_that_refuses_leaves_no_part_of_a_file(detector, card, tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(UserError, match="cannot be written"):
        save_detector(detector, card, tmp_path / "file" / "model.safetensors")
    assert [p.name for p in tmp_path.iterdir()] == ["file"]
