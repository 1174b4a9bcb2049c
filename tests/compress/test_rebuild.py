"""A sample of `benchmarks/exactness.py rebuild`: pruned by a criterion, saved, the same in a fresh process."""

import importlib.util
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "exactness.py"


@pytest.fixture(scope="module")
def exactness():
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(SCRIPT.parent)
        yield read_script()


def read_script():
    spec = importlib.util.spec_from_file_location("exactness", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(
    ("backbone", "criteria"),
    [
        pytest.param("mobilenet_v2_035", ["l1", "bn-scale", "taylor"], marks=pytest.mark.slow),
        ("shufflenet_v2_x0_5", ["fpgm", "mean-activation", "random"]),
        pytest.param("squeezenet1_1", ["l2", "lamp", "apoz"], marks=pytest.mark.slow),
    ],
)
def test_pruned_by_each_criterion_it_is_rebuilt_in_a_fresh_process(exactness, backbone, criteria):
    rows = list(exactness.rebuilt(backbone, criteria, [0.7, 0.5]))
    assert [(row["criterion"], row["target"]) for row in rows] == [(c, s) for c in criteria for s in (0.7, 0.5)]
    for row in rows:
        assert row["multiply_adds"] <= row["target"]
        assert row["multiply_adds"] > row["target"] - 0.15
        assert row["relative_error"] < 1e-5


def test_the_oracle_can_be_asked_and_the_table_made(exactness):
    proof = exactness.proof(exactness.Chunk)
    assert proof["exact"] == proof["groups"] == 2  # the halves with all that is added to them; what leaves
    assert proof["least_change"] > 1e-9
    results = {
        "verify": {"chunk block": proof},
        "torch_pruning": {"chunk block": {"layers": 5, "exact": 0, "wrong": 0}},
    }
    results["torch_pruning"]["chunk block"]["crashed"] = 5
    assert "| chunk block | 2 of 2 | 0 |" in exactness.page(results)
    assert "0 of 5 exact, 5 crashed" in exactness.page(results)
