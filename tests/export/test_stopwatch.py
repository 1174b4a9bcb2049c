"""A stopwatch exports a structure once, whatever the weights, and leaves nothing behind."""

import dataclasses
import gc
import tempfile

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


def test_a_structure_is_exported_once_and_timed_as_often_as_asked(monkeypatch, tmp_path, picture_file):
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(scratch))
    suffix, write = stopwatch.WRITERS["onnx"]
    written = []

    def counted(detector, card, path):
        written.append(path.name)
        write(detector, card, path)

    monkeypatch.setitem(stopwatch.WRITERS, "onnx", (suffix, counted))
    spec = Spec("mobilenet_v1_025", 2, Size(32, 32), width=8, levels=(32,))
    first, second = Detector(spec), Detector(spec)
    assert not torch.equal(first.head.classify[0][0][0][0].weight, second.head.classify[0][0][0][0].weight)
    larger = Detector(dataclasses.replace(spec, size=Size(256, 256)))
    watch = Stopwatch(Card(("a", "b"), spec, {}, {}), (picture_file,), 1, 0.1)
    rows = watch(first, larger, second).rows
    assert [row.size for row in rows] == [(32, 32), (256, 256), (32, 32)]
    assert rows[1].p50_ms > max(rows[0].p50_ms, rows[2].p50_ms)
    assert [row.size for row in watch(larger).rows] == [(256, 256)]
    assert written == ["0.onnx", "1.onnx"]
    assert list(scratch.glob("leandet-*"))
    before = cv2.getNumThreads()
    asked = []
    monkeypatch.setattr(cv2, "setNumThreads", asked.append)
    assert watch.preparing_ms(Size(2048, 2048)) > watch.preparing_ms(Size(32, 32)) > 0
    assert asked == [1, before] * 2  # the engine's, and as it was
    finished = []
    watch_finished = dataclasses.replace(watch, finish=lambda path, card: finished.append(card.spec), drafts=watch)
    assert watch_finished.file(second).read_bytes() == watch.file(first).read_bytes()
    assert watch_finished.file(first).parent != watch.file(first).parent
    assert written == ["0.onnx", "1.onnx"]
    assert finished == [spec]
    del watch, watch_finished
    gc.collect()
    assert not list(scratch.glob("leandet-*"))
