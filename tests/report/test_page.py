"""The report stands alone, escapes what comes from outside, and never stumbles over what is missing."""

from __future__ import annotations

import math
import re
from html.parser import HTMLParser
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest

from leandet.errors import UserError
from leandet.report import page
from leandet.report.chart import Axis, Series, draw, picture
from leandet.report.figures import change, kilobytes, milliseconds, plain, seconds
from leandet.report.page import CurvePoint, Picture, write_report
from leandet.report.view import look

VOID = {"meta", "img", "br", "hr", "link", "input"}

RESULTS: dict[str, object] = {
    "data": {
        "layout": "coco",
        "splits": {"train": {"images": 400, "boxes": 1600, "per_class": {"disc": 900, "<script>": 700}}, "val": 100},
        "problems": [{"source": "a.json:3", "message": "2 boxes lie outside"}, "train/7.jpg cannot be decoded"],
    },
    "budget_ms": 4.0,
    "met": True,
    "chosen": {
        "path": "runs/my demo/model.onnx",
        "ap": 0.834,
        "p50_ms": 3.12,
        "bytes": 1_044_000,
        "ap50": 0.97,
        "ap75": 0.9,
        "ap_with_nms": 0.835,
        "duplicates_per_100": 0.8,
        "per_class": {"disc": 0.9, "<script>alert(1)</script>": 0.5},
    },
    "stages": [
        {
            "name": "train",
            "ap": 0.84,
            "p50_ms": 10.0,
            "bytes": 8e6,
            "parameters": 2_000_000,
            "multiply_adds": 8e8,
            "seconds": 512,
        },
        {
            "name": "prune",
            "ap": 0.82,
            "p50_ms": 6.1,
            "bytes": 4e6,
            "parameters": 1_000_000,
            "multiply_adds": 4e8,
            "seconds": 9,
        },
    ],
    "candidates": [{"name": "width 0.5", "path": "runs/my demo/model.onnx", "ap": 0.834, "p50_ms": 3.12}],
    "machine": {"cpu": "A & B <9>", "threads": 1, "flags": ["avx2", "fma"]},
    "versions": {"python": "3.12.3"},
}
CURVES = [
    CurvePoint(e, {"loss": 5 / (e + 1), "loss_giou": 2 / (e + 1), "val_ap": e / 10, "lr": 1e-3}) for e in range(8)
]


class _Reader(HTMLParser):
    """Checks that tags close in order; gathers addresses and text."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.addresses: list[str] = []
        self.tags: set[str] = set()
        self.text: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        assert len(dict(attrs)) == len(attrs)
        self.addresses += [value or "" for name, value in attrs if name in ("src", "href", "srcset", "data", "action")]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text.append(data)


def _read(path: Path) -> tuple[_Reader, str]:
    source = path.read_text(encoding="utf-8")
    reader = _Reader()
    reader.feed(source)
    reader.close()
    assert not reader.open
    return reader, re.sub(r"\s+", " ", " ".join(reader.text))


def _picture(side: int = 32, title: str = "val/1.jpg") -> Picture:
    image = np.random.default_rng(0).integers(0, 256, (side, side, 3), dtype=np.uint8)
    return Picture(title, image, image[:, ::-1])


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_report(RESULTS, CURVES, [_picture()] * 3, tmp_path_factory.mktemp("report") / "report.html")


def test_it_stands_alone(report: Path) -> None:
    reader, _ = _read(report)
    assert len(reader.addresses) == 6
    assert all(address.startswith("data:image/jpeg;base64,") for address in reader.addresses)
    source = report.read_text()
    assert not re.search(r"https?:|@import|url\(", source)
    assert not reader.tags & {"script", "link", "iframe", "object"}


def test_names_from_outside_are_escaped(report: Path) -> None:
    reader, text = _read(report)
    assert "script" not in reader.tags
    assert "<script>alert(1)</script>" in text
    assert "A & B <9>" in text


def test_it_says_what_was_measured(report: Path) -> None:
    _, text = _read(report)
    for told in (
        "AP 0.834 in 3.12 ms",
        "Budget met",
        "3.12 of 4.00 ms",
        "A & B <9>, 1 thread",
        "+0.001 against none",
        "leandet detect 'runs/my demo/model.onnx' photo.jpg --save found/",
        "2,000,000",
        "−0.020",
        "−39 %",
        "8 min 32 s",
        "a.json:3: 2 boxes lie outside",
        "train/7.jpg cannot be decoded",
        "chosen",
        "loss_giou",
        "Learning rate",
    ):
        assert told in text, told


@pytest.mark.parametrize(
    "results",
    [
        {},
        dict.fromkeys(RESULTS),
        {"chosen": dict.fromkeys(("path", "ap", "p50_ms", "bytes", "per_class")), "stages": [{}], "candidates": [{}]},
        {
            "chosen": {"ap": math.nan, "p50_ms": "fast", "bytes": math.inf},
            "stages": [{"name": "train", "ap": 0.1}, {"ap": None}],
        },
        {"data": "here", "stages": "none", "machine": "a laptop", "versions": [], "budget_ms": 3, "met": None},
        {"data": {"splits": {"train": None}, "problems": 3}, "budget_ms": 3.0, "met": False},
        {"stages": [{"p50_ms": 0, "ap": 0.5}, {"p50_ms": 0, "ap": 0.5}]},
    ],
)
def test_missing_fields_are_dashes(results: dict[str, object], tmp_path: Path) -> None:
    _, text = _read(write_report(results, [], [], tmp_path / "report.html"))
    assert "–" in text
    assert not re.search(r"\b(nan|inf|None)\b", text)


@pytest.mark.parametrize(
    "values", [{}, {"loss": math.nan}, {"loss": 1.0}, {"loss": 0.0, "lr": 0.0}, {"val/ap": -1.0, "map50": 0.2}]
)
@pytest.mark.parametrize("epochs", [1, 2])
def test_curves_of_any_kind(values: dict[str, float], epochs: int, tmp_path: Path) -> None:
    source = write_report({}, [CurvePoint(e, values) for e in range(epochs)], [], tmp_path / "r.html").read_text()
    assert not re.search(r"\bnan\b|\binf\b", source)


def test_a_folder_gets_report_html_and_nothing_else(tmp_path: Path) -> None:
    assert write_report({}, [], [], tmp_path) == tmp_path / "report.html"
    write_report({"budget_ms": 1.0, "met": False}, [], [], tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["report.html"]
    assert "not met" in (tmp_path / "report.html").read_text()


def test_it_stays_small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(page, "_MOST_BYTES", 200_000)
    out = write_report({}, [], [_picture(700)] * 6, tmp_path / "report.html")
    assert out.stat().st_size < 230_000
    assert "more would have made this page too large" in out.read_text()


def test_a_place_that_refuses(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot be written"):
        write_report({}, [], [], tmp_path / "file" / "report.html")


@pytest.mark.parametrize(
    "values", [[0.0], [1e-9, 2e-9], [5.0, 5.0], [-3.0, 4.0], [0.0003, 0.001], [1, 1e6], [99.9, 100.0]]
)
@pytest.mark.parametrize("whole", [True, False])
def test_charts_keep_inside_their_frame(values: list[float], whole: bool) -> None:
    svg = draw("t", [Series("a", list(enumerate(values)))], Axis("x", whole=whole), Axis("y", from_zero=whole))
    for x, y in re.findall(r"([\d.e+-]+),([\d.e+-]+)(?=[ \"])", svg.split("<polyline")[-1]):
        assert 0 <= float(x) <= 440
        assert 0 <= float(y) <= 260
    ticks = re.findall(r'text-anchor="end">([^<]*)<', svg)
    assert 2 <= len(ticks) <= 9
    assert len(set(ticks)) == len(ticks)


def test_ticks_of_nearly_equal_values_have_few_digits() -> None:
    svg = draw("t", [Series("a", [(15.8, 0.58053887), (53.0, 0.58053870)])], Axis("ms"), Axis("AP"))
    ticks = re.findall(r'text-anchor="end">([^<]*)<', svg)
    assert 2 <= len(ticks) <= 9
    assert max(map(len, ticks)) <= 5
    assert float(ticks[0]) < 0.5805 < float(ticks[-1])


def test_a_chart_in_a_file_of_its_own_needs_no_page() -> None:
    svg = picture("a < b", [Series("one & two", [(0, 1), (2, 3)], joined=False)], Axis("x, M"), Axis("y, ms"))
    root = ElementTree.fromstring(svg)
    texts = [text.text for text in root.iter("{http://www.w3.org/2000/svg}text")]
    assert {"a < b", "one & two", "x, M", "y, ms"} <= set(texts)
    assert "circle.s0{fill:" in svg


@pytest.mark.parametrize(("name", "across"), [("short", 3), ("one-to-one, no peak filter", 2)])
def test_a_legend_leaves_room_for_its_names(name: str, across: int) -> None:
    svg = picture("a", [Series(f"{i} {name}", [(0, 1), (2, 3)]) for i in range(4)], Axis("x"), Axis("y"))
    labels = re.findall(r'class="label" x="(\d+)" y="(\d+)">\d', svg)
    assert sum(top == labels[0][1] for _, top in labels) == across
    apart = int(labels[1][0]) - int(labels[0][0])
    assert apart > 6 * len(f"0 {name}")  # about six pixels a letter


def test_figures() -> None:
    assert [milliseconds(v) for v in (0.843, 3.126, 31.26, 312.6, None)] == ["0.84", "3.13", "31.3", "313", "–"]
    assert [seconds(v) for v in (0.44, 59.6, 425, 7800, "x")] == [
        "0.4 s",
        "1 min 00 s",
        "7 min 05 s",
        "2 h 10 min",
        "–",
    ]
    assert kilobytes(1_044_000) == "1,044"
    assert [plain(v) for v in (None, True, 12345, 0.5, "x")] == ["–", "yes", "12,345", "0.5", "x"]
    better, worse, same = (change(a, b, relative=r) for a, b, r in ((5, 10, True), (0.1, 0.2, False), (3, 3, True)))
    assert better is not None
    assert worse is not None
    assert same is not None
    assert (better.text, better.tone) == ("−50 %", "better")
    assert (worse.text, worse.tone) == ("−0.100", "worse")
    assert same.tone == "same"
    assert change(1, 0, relative=True) is None


def test_two_engines_latencies_are_no_step(tmp_path: Path) -> None:
    """A build measures training's result in PyTorch, and the export where it will run."""
    stages = [
        {"name": "train", "runtime": "torch", "ap": 0.84, "p50_ms": 777.0},
        {"name": "export", "runtime": "onnxruntime", "ap": 0.84, "p50_ms": 111.0},
        {"name": "quantize", "runtime": "onnxruntime", "ap": 0.84, "p50_ms": 55.5},
    ]
    path = write_report({"stages": stages, "chosen": stages[-1], "budget_ms": 60.0}, CURVES, [], tmp_path)
    _, text = _read(path)
    assert "train, torch" in text
    assert "export, onnxruntime" in text
    assert "−86 %" not in text
    assert "−50 %" in text
    chart = look({"stages": stages, "chosen": stages[-1]}, CURVES).tradeoff
    assert chart is not None
    assert "777" not in chart.svg
    assert "111" in chart.svg
    alone = {"stages": stages[:2], "chosen": stages[1]}  # one latency where it runs: no chart to look at
    assert look(alone, CURVES).tradeoff is None
