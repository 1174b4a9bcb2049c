"""A stopwatch exports a structure once, whatever the weights, and leaves nothing behind."""

import dataclasses
import gc

import cv2
import numpy as np
import pytest
import torch

from leandet.card import Card
from leandet.detector.detector import Detector
from leandet.detector.spec import Spec
from leandet.export import stopwatch
from leandet.export.stopwatch import Stopwatch
from leandet.preprocess import Size


@pytest.fixture
def picture_file(tmp_path):
    path = tmp_path / "picture.png"
    cv2.imwrite(str(path), np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8))
    return path


def test_a_structure_is_exported_once(monkeypatch, tmp_path):
    monkeypatch.setattr(stopwatch.tempfile, "mkdtemp", lambda prefix: str((tmp_path / prefix).resolve()))
    (tmp_path / "leandet-").mkdir()
    suffix, write = stopwatch.WRITERS["onnx"]
    written = []

    def counted(detector, card, path):
        written.append(path.name)
        write(detector, card, path)

    monkeypatch.setitem(stopwatch.WRITERS, "onnx", (suffix, counted))
    spec = Spec("mobilenet_v1_025", 2, Size(32, 32), width=8, levels=(32,))
    first, second = Detector(spec), Detector(spec)
    assert not torch.equal(first.head.classify[0][0][0][0].weight, second.head.classify[0][0][0][0].weight)
    larger = Detector(dataclasses.replace(spec, size=Size(64, 32)))
    watch = Stopwatch(Card(("a", "b"), spec, {}, {}), (), 1, 0.02)
    monkeypatch.setattr(stopwatch, "bench", lambda paths, *_, **__: paths)
    assert [path.name for path in watch(first, larger, second)] == ["0.onnx", "1.onnx", "0.onnx"]
    assert [path.name for path in watch(larger)] == ["1.onnx"]
    assert written == ["0.onnx", "1.onnx"]
    del watch
    gc.collect()
    assert not (tmp_path / "leandet-").exists()


def test_a_slower_detector_takes_longer(picture_file):
    spec = Spec("mobilenet_v1_025", 2, Size(32, 32), width=8, levels=(32,))
    small, large = Detector(spec), Detector(dataclasses.replace(spec, size=Size(256, 256)))
    rows = Stopwatch(Card(("a", "b"), spec, {}, {}), (picture_file,), 1, 0.1)(large, small).rows
    assert rows[0].p50_ms > rows[1].p50_ms
    assert [row.size for row in rows] == [(256, 256), (32, 32)]
