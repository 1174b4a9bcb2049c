import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st

from leandet.detector import decode
from leandet.runtime.topk import top_k


@given(st.integers(1, 3), st.integers(1, 40), st.integers(1, 5), st.integers(1, 50), st.integers(0, 10**6))
def test_numpy_chooses_what_the_graph_chooses(batch, count, classes, k, seed):
    random = np.random.default_rng(seed)
    logits = random.permutation(batch * count * classes).reshape(batch, count, classes).astype(np.float32) / 10 - 5
    boxes = random.uniform(0, 100, (batch, count, 4)).astype(np.float32)
    wanted = decode.top_k(torch.from_numpy(logits), torch.from_numpy(boxes), k)
    found = top_k(logits, boxes, k)
    np.testing.assert_array_equal(found.boxes, wanted[0].numpy())
    np.testing.assert_allclose(found.scores, wanted[1].numpy(), rtol=1e-6)
    np.testing.assert_array_equal(found.labels, wanted[2].numpy())


def test_extreme_logits_overflow_nowhere():
    found = top_k(np.array([[[1e4], [-1e4]]], np.float32), np.zeros((1, 2, 4), np.float32))
    np.testing.assert_array_equal(found.scores, [[1, 0]])
