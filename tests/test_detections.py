import json

import numpy as np
import pytest

from leandet.detections import Detections
from leandet.errors import UserError


def _some() -> Detections:
    boxes = np.arange(12, dtype=np.float32).reshape(3, 4)
    return Detections(boxes, np.array([0.9, 0.5, 0.1], np.float32), np.array([1, 0, 1]))


def test_empty():
    empty = Detections.empty()
    assert len(empty) == 0
    assert empty.boxes.shape == (0, 4)
    assert empty.to_json([]) == []
    assert len(empty.above(0)) == 0


def test_indexing_as_numpy_does():
    some = _some()
    assert some[1].scores.tolist() == [0.5]
    assert len(some[np.int64(-1)]) == 1
    assert some[:2].labels.tolist() == [1, 0]
    assert some[some.labels == 1].boxes.tolist() == [[0, 1, 2, 3], [8, 9, 10, 11]]
    assert some[np.array([2, 0])].labels.tolist() == [1, 1]


def test_above_keeps_the_threshold_itself():
    assert len(_some().above(0.5)) == 2
    assert len(_some().above(1)) == 0


def test_to_json_is_plain_and_names_the_classes():
    value = json.loads(json.dumps(_some().to_json(["cat", "dog"])))
    assert value[0] == {"box": [0, 1, 2, 3], "score": 0.9, "label": 1, "name": "dog"}


def test_a_label_without_a_name():
    with pytest.raises(UserError, match="names 1 classes"):
        _some().to_json(["cat"])


@pytest.mark.parametrize(("boxes", "scores", "labels"), [((2, 4), 3, 3), ((3, 5), 3, 3), ((3, 4), 3, 2), ((3,), 3, 3)])
def test_shapes_must_agree(boxes, scores, labels):
    with pytest.raises(ValueError, match="must agree"):
        Detections(np.zeros(boxes, np.float32), np.zeros(scores, np.float32), np.zeros(labels, np.int64))
