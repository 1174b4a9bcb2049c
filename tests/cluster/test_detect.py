"""Detection on Ray writes what detection here writes, and loses nothing with a worker."""

import importlib.util
import json
import os
import signal
import threading
import time
from pathlib import Path

import cv2
import numpy as np
import pytest

from leandet.cluster.detect import detect_on_ray
from leandet.errors import UserError
from leandet.preprocess import Size
from leandet.runtime import open_runtime
from leandet.runtime.detect import detect

# Ray warns of options of its own that nobody set.
pytestmark = pytest.mark.filterwarnings(r"ignore:.*:DeprecationWarning:ray\.")

# The red detector of the runtime tests; importlib mode puts no test folder on the path.
_spec = importlib.util.spec_from_file_location("red", Path(__file__).parents[1] / "runtime" / "conftest.py")
red = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(red)


@pytest.fixture
def model(tmp_path):
    size = Size(64, 96)
    return red.write_onnx(tmp_path / "red.onnx", red.red_graph(size), red.red_card(size).dump())


def draw(folder: Path, count: int, scale: int = 1) -> list[Path]:
    folder.mkdir(parents=True, exist_ok=True)
    random = np.random.default_rng(0)
    paths = []
    for index in range(count):
        x, y = (int(v) for v in random.integers(0, 60 * scale, 2))
        picture = red.red_picture(96 * scale, 144 * scale, (x, y, x + 30 * scale, y + 20 * scale))
        paths.append(folder / f"{index:03}.png")
        assert cv2.imwrite(str(paths[-1]), picture[..., ::-1])
    return paths


def results(out: Path) -> list[dict]:
    return json.loads((out / "detections.json").read_text())


def test_the_same_as_without_ray(model, ray_here, tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    paths = [path.relative_to(tmp_path) for path in draw(tmp_path / "photos", 40)]
    twin = Path("other") / "000.jpg"  # another picture of the same name
    twin.parent.mkdir()
    cv2.imwrite(str(twin), red.red_picture(50, 70, (5, 5, 30, 20))[..., ::-1])
    broken = Path("photos") / "broken.png"
    broken.write_bytes(b"not an image")
    images = sorted([*paths, twin, broken])
    here = detect(open_runtime(model, 1), red.CLASSES, images, Path("here"), 0.05)
    assert (here.images, len(here.skipped)) == (41, 1)
    said_here = capfd.readouterr()
    there = detect_on_ray(model, red.CLASSES, images, Path("there"), 0.05, ray_here.address)
    said_there = capfd.readouterr()
    assert results(Path("there")) == results(Path("here"))
    assert [record["image"] for record in results(Path("there"))] == [str(p) for p in images if p != broken]
    assert (there.images, there.detections, there.skipped) == (here.images, here.detections, here.skipped)
    assert said_there == said_here
    names = sorted(path.name for path in Path("here").iterdir())
    assert sorted(path.name for path in Path("there").iterdir()) == names
    assert all((Path("there") / name).read_bytes() == (Path("here") / name).read_bytes() for name in names)


def test_a_killed_worker_loses_and_doubles_nothing(model, ray_here, tmp_path):
    images = draw(tmp_path / "photos", 150, scale=8)
    out = tmp_path / "out"
    killed, stop = [], threading.Event()

    def kill() -> None:
        while not (killed or stop.is_set()):
            time.sleep(0.01)
            if out.is_dir() and len(list(out.iterdir())) >= 20:  # it has begun, and is far from its end
                for pid in ray_here.workers("ray::MapWorker")[:1]:
                    os.kill(pid, signal.SIGKILL)
                    killed.append((pid, len(list(out.glob("*.jpg")))))

    killer = threading.Thread(target=kill)
    killer.start()
    try:
        summary = detect_on_ray(model, red.CLASSES, images, out, 0.5, ray_here.address, workers=2)
    finally:
        stop.set()
        killer.join()
    assert killed
    assert killed[0][1] < len(images) - 16
    assert (summary.images, summary.skipped) == (150, [])
    assert [record["image"] for record in results(out)] == [str(path) for path in images]
    detect(open_runtime(model, 1), red.CLASSES, images, tmp_path / "here", 0.5)
    assert results(out) == results(tmp_path / "here")
    assert len(list(out.glob("*.jpg"))) == 150


def test_a_worker_that_cannot_open_the_model_is_one_sentence(ray_here, tmp_path):
    with pytest.raises(UserError, match=r"^the worker on .*red\.onnx"):
        detect_on_ray(tmp_path / "red.onnx", red.CLASSES, draw(tmp_path, 2), tmp_path / "out", 0.5, ray_here.address)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("address", "said"),
    [
        ("127.0.0.1:1", "no Ray cluster answers at 127.0.0.1:1"),
        ("nowhere", "the Ray cluster 'nowhere' cannot be used"),
        ("ray://127.0.0.1:1", "do not stream through ray://127.0.0.1:1"),
    ],
)
def test_a_wrong_address_is_one_sentence(model, tmp_path, address, said):
    with pytest.raises(UserError, match=said):
        detect_on_ray(model, red.CLASSES, draw(tmp_path, 1), tmp_path / "out", 0.5, address)
