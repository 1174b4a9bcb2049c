import json

import cv2
import numpy as np
import pytest

from leandet.errors import UserError
from leandet.machine import busy_cores, describe_machine
from leandet.preprocess import Size
from leandet.runtime import bench as bench_module
from leandet.runtime.bench import bench
from leandet.runtime.fresh import measure_fresh
from leandet.runtime.photograph import photograph_like

KEYS = {
    *(
        "model",
        "runtime",
        "precision",
        "threads",
        "batch",
        "size",
        "p10_ms",
        "p50_ms",
        "p90_ms",
        "p99_ms",
        "images_per_s",
    ),
    *("bytes", "ap", "preprocess_p50_ms", "network_p50_ms", "postprocess_p50_ms"),
}


def test_two_models_in_turns(make_onnx):
    paths = [make_onnx("small.onnx", Size(32, 32)), make_onnx("large.onnx", Size(1280, 1280))]
    threads_before = cv2.getNumThreads()
    value = json.loads(json.dumps(bench(paths, threads=1, seconds=0.05, batch=2).to_json()))
    assert cv2.getNumThreads() == threads_before
    assert {"machine", "rows"} <= set(value)
    small, large = value["rows"]
    assert set(small) >= KEYS
    assert (small["model"], small["size"], small["threads"], small["batch"]) == (str(paths[0]), [32, 32], 1, 2)
    assert small["bytes"] == paths[0].stat().st_size
    assert small["ap"] == 0.5
    assert small["calls"] >= bench_module.ROUNDS
    assert len(small["turns_ms"]) == bench_module.ROUNDS
    assert small["p10_ms"] <= np.median(small["turns_ms"]) <= small["p90_ms"]
    assert small["p10_ms"] <= small["p50_ms"] <= small["p90_ms"] <= small["p99_ms"]
    assert small["p50_ms"] < large["p50_ms"]
    assert small["images_per_s"] > 0
    assert all(small[f"{stage}_p50_ms"] > 0 for stage in ("preprocess", "network", "postprocess"))


def test_other_batches_and_a_process_of_its_own(make_onnx):
    value = json.loads(json.dumps(bench([make_onnx()], threads=1, seconds=0.02, batches=(2, 3), fresh=True).to_json()))
    row = value["rows"][0]
    assert row["batch"] == 1
    assert row["best_batch"] in {1, 2, 3}
    assert row["best_images_per_s"] >= row["images_per_s"]
    assert row["cold_start_ms"] > row["p50_ms"]  # the engine's import alone takes longer than a call
    assert 20e6 < row["peak_memory_bytes"] < 1e9


def test_memory_is_the_models_own_not_the_measuring_process_s(make_onnx):
    ballast = np.ones(100_000_000)  # 800 MB, resident
    peak = measure_fresh(make_onnx(), 1).peak_memory_bytes
    assert ballast.nbytes > 700e6 > peak


def test_a_model_that_does_not_open_in_a_process_of_its_own(tmp_path):
    with pytest.raises(UserError, match="no such file"):
        measure_fresh(tmp_path / "none.onnx", 1)


def test_own_images(make_onnx, picture, tmp_path):
    photo = tmp_path / "a.png"
    cv2.imwrite(str(photo), picture(40, 50, (5, 5, 20, 20)))
    report = bench([make_onnx()], threads=1, images=[photo], seconds=0.01)
    assert report.pictures == "1 photographs"


def test_a_busy_machine_is_said_at_once(make_onnx, monkeypatch):
    monkeypatch.setattr(bench_module, "busy_cores", lambda: 1.5)
    told = []
    report = bench([make_onnx()], threads=1, seconds=0.01, warn=told.append)
    assert told == report.warnings
    assert "1.5 cores" in told[0]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"seconds": 0}, "seconds must"),
        ({"seconds": float("nan")}, "seconds must"),
        ({"batch": 0}, "batch must"),
        ({"batches": (4, 2000)}, "batch must"),
        ({"threads": 0}, "threads must"),
        ({"images": []}, "no images"),
    ],
)
def test_arguments_out_of_range(make_onnx, arguments, said):
    with pytest.raises(UserError, match=said):
        bench([make_onnx()], **arguments)


def test_no_models():
    with pytest.raises(UserError, match="no models"):
        bench([])


def test_the_drawn_picture_is_always_the_same():
    picture = photograph_like()
    assert picture.shape == (480, 640, 3)
    assert picture.std() > 20
    np.testing.assert_array_equal(picture, photograph_like())


def test_the_machine_describes_itself():
    machine = describe_machine()
    assert json.loads(json.dumps(machine)) == machine
    assert machine["cpu"]
    assert {"python", "numpy", "onnxruntime", "opencv", "leandet"} <= set(machine["versions"])
    busy = busy_cores(0.05)
    assert busy is None or busy >= 0
