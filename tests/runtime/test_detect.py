import json
from pathlib import Path

import cv2
import numpy as np
import pytest
from rich.console import Console

from leandet.detections import Detections
from leandet.errors import UserError
from leandet.runtime import open_runtime
from leandet.runtime.detect import detect

CLASSES = ("corner", "red")


def _save(path: Path, image: np.ndarray) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    assert cv2.imwrite(str(path), image[..., ::-1])
    return path


def _one(image: np.ndarray) -> Detections:
    return Detections(np.array([[1, 2, 30, 40]], np.float32), np.array([0.8], np.float32), np.array([1]))


def test_pictures_and_json(make_onnx, picture, tmp_path):
    photo = _save(tmp_path / "in/a.png", picture(96, 144, (30, 15, 90, 60)))
    out = tmp_path / "deep/out"
    summary = detect(open_runtime(make_onnx()), CLASSES, [photo], out, 0.3)
    assert (summary.images, summary.detections, summary.skipped) == (1, 1, [])
    (record,) = json.loads((out / "detections.json").read_text())
    assert (record["image"], record["width"], record["height"]) == (str(photo), 144, 96)
    (found,) = record["detections"]
    assert (found["name"], found["label"]) == ("red", 1)
    np.testing.assert_allclose(found["box"], [30, 15, 90, 60], atol=1.5)
    drawn = cv2.imread(str(out / record["drawn"]))
    assert drawn.shape == (96, 144, 3)
    assert sorted(p.name for p in out.iterdir()) == ["a.jpg", "detections.json"]


def test_same_names_from_different_folders(picture, tmp_path):
    photos = [
        _save(tmp_path / name, picture(40, 50, (5, 5, 20, 20))) for name in ("x/a.png", "y/a.png", "y/A.jpg", "z/a.jpg")
    ]
    detect(_one, CLASSES, photos, tmp_path / "out", 0.0)
    records = json.loads((tmp_path / "out/detections.json").read_text())
    assert [r["drawn"] for r in records] == ["a.jpg", "a_2.jpg", "A_3.jpg", "a_4.jpg"]
    assert all((tmp_path / "out" / r["drawn"]).is_file() for r in records)


def test_unreadable_images_are_reported_and_skipped(picture, tmp_path, capsys):
    good = _save(tmp_path / "good.png", picture(40, 50, (5, 5, 20, 20)))
    bad = tmp_path / "bad[bold].png"
    bad.write_bytes(b"not an image")
    summary = detect(_one, CLASSES, [bad, good], tmp_path / "out", 0.3, console=Console(stderr=True))
    assert summary.images == 1
    assert [item.image for item in summary.skipped] == [bad]
    said = capsys.readouterr()
    assert said.out == ""
    assert "bad[bold].png" in said.err


def test_none_readable_is_the_users_error_and_writes_nothing(tmp_path):
    bad = tmp_path / "bad.png"
    bad.write_bytes(b"not an image")
    with pytest.raises(UserError, match="none of the 1 images could be read"):
        detect(_one, CLASSES, [bad], tmp_path / "out", 0.3)
    assert not (tmp_path / "out").exists()


def test_an_interrupted_run_keeps_what_is_finished(picture, tmp_path):
    photos = [_save(tmp_path / f"{i}.png", picture(40, 50, (5, 5, 20, 20))) for i in range(3)]
    calls = []

    def interrupted(image):
        calls.append(image)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return _one(image)

    with pytest.raises(KeyboardInterrupt):
        detect(interrupted, CLASSES, photos, tmp_path / "out", 0.3)
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["0.jpg", "detections.json"]
    assert len(json.loads((tmp_path / "out/detections.json").read_text())) == 1


def test_originals_and_earlier_drawings_are_left_alone(picture, tmp_path):
    photo = _save(tmp_path / "a.jpg", picture(40, 50, (5, 5, 20, 20)))
    before = photo.read_bytes()
    with pytest.raises(UserError, match="save them in another folder"):
        detect(_one, CLASSES, [photo], tmp_path, 0.3)
    assert photo.read_bytes() == before
    out = tmp_path / "out"
    detect(_one, CLASSES, [photo], out, 0.3)
    assert detect(_one, CLASSES, [photo, out / "a.jpg"], out, 0.3).images == 1


@pytest.mark.parametrize("threshold", [-0.1, 1.1, float("nan")])
def test_threshold_out_of_range(tmp_path, threshold):
    with pytest.raises(UserError, match="threshold must be from 0 to 1"):
        detect(_one, CLASSES, [tmp_path / "a.png"], tmp_path / "out", threshold)


def test_out_that_cannot_be_a_folder(picture, tmp_path):
    photo = _save(tmp_path / "in/a.png", picture(40, 50, (5, 5, 20, 20)))
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="is a file"):
        detect(_one, CLASSES, [photo], tmp_path / "file", 0.3)
    with pytest.raises(UserError, match="cannot be written"):
        detect(_one, CLASSES, [photo], tmp_path / "file/below", 0.3)


def test_no_images(tmp_path):
    with pytest.raises(UserError, match="no images were given"):
        detect(_one, CLASSES, [], tmp_path / "out", 0.3)
