"""The page of a profile: escaped, self-contained, its parts in proportion to their times."""

import re

import pytest

from leandet.report.chart import Axis, Series, draw
from leandet.report.profile_page import write_profile


def layer(module: str, operations: str, ms: float, multiply_adds: int = 0) -> dict[str, object]:
    return {
        "module": module,
        "block": ".".join(module.split(".")[:2]),
        "operations": operations,
        "output": [1, 8, 4, 4],
        "multiply_adds": multiply_adds,
        "traffic_bytes": 1000,
        "intensity": 2 * multiply_adds / 1000,
        "ms": ms,
        "share": ms / 4,
        "gflops": 2 * multiply_adds / (ms * 1e6) if ms else 0.0,
        "gb_s": 1.0,
        "bound": "memory",
        "roof_share": 0.5 if ms else None,
    }


FOUND = {
    "runtime": "onnxruntime",
    "version": "1",
    "threads": 1,
    "size": [64, 96],
    "parameters": 10**6,
    "multiply_adds": 10**7,
    "measured_ms": 4.1,
    "sum_of_layers_ms": 4.0,
    "peak_gflops": 100.0,
    "bandwidth_gb_s": 10.0,
    "bandwidths": [{"bytes": 1000, "gb_s": 50.0}, {"bytes": 10**6, "gb_s": 10.0}],
    "layers": [
        layer("a.0.x", "conv + Relu", 1.0, 10**6),
        layer("a.0.y", "depthwise conv", 1.0, 10**5),
        layer("a.1<script>", "1x1 conv", 2.0, 10**6),
        layer("b.0", "folded away", 0.0),
    ],
    "advice": [],
    "machine": {"cpu": "<b>cpu"},
}


@pytest.fixture
def page(tmp_path) -> str:
    return write_profile(FOUND, "m.onnx", tmp_path / "p.html").read_text(encoding="utf-8")


def test_what_comes_from_outside_is_escaped(page):
    assert "<script>" not in page
    assert "a.1&lt;script&gt;" in page
    assert "&lt;b&gt;cpu" in page
    assert not re.search(r"(src|href)=", page)


def test_the_bars_are_as_wide_as_the_times(page):
    found = re.findall(r'slice s(\d)" style="left:([\d.]+)%;width:([\d.]+)%', page)
    blocks, layers = found[:2], found[2:]
    assert [(start, width) for _, start, width in blocks] == [("0.000", "50.000"), ("50.000", "50.000")]
    assert layers == [("2", "0.000", "25.000"), ("1", "25.000", "25.000"), ("0", "50.000", "50.000")]


def test_every_layer_that_computes_is_in_the_roofline(page):
    assert page.count("<circle") == 3
    assert page.count("<polyline") == 2


def test_powers_of_ten_are_evenly_spaced():
    svg = draw("t", [Series("s", [(1, 1), (10, 1), (100, 1)])], Axis("x", powers=True), Axis("y", powers=True))
    ticks = [float(x) for x in re.findall(r'<text class="tick" x="([\d.]+)" y="\d+" text-anchor="middle"', svg)]
    assert len(ticks) == 3
    assert ticks[1] - ticks[0] == pytest.approx(ticks[2] - ticks[1])
    (points,) = re.findall(r'points="([^"]+)"', svg)
    assert [float(p.split(",")[0]) for p in points.split()] == ticks
