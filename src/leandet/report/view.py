"""From results and curves to what the template lays out. Whatever is missing or odd becomes a dash or is left out."""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from markupsafe import Markup

from leandet.report import figures
from leandet.report.chart import Axis, Series, draw

_MOST_CANDIDATES = 60  # a search may try thousands; the page shows the most accurate


@dataclass(frozen=True, slots=True)
class CurvePoint:
    """What was measured in one epoch of training.

    Attributes:
        epoch: counted as the trainer counts.
        values: name to number. `lr` or `learning_rate`, perhaps after a `/` or with a suffix, is the learning rate; a
            name with the word `ap` (as in `val_ap`, `val/ap50`) is an AP as a fraction; `seconds`, `time` and `epoch`
            are left out; all others are taken for the loss and its parts.
    """

    epoch: int
    values: dict[str, float]


@dataclass(frozen=True, slots=True)
class Fact:
    """A name, its value, and a note beneath it; `tone` is `good`, `bad` or empty."""

    name: str
    value: str
    note: str = ""
    tone: str = ""


@dataclass(frozen=True, slots=True)
class Cell:
    """One figure of a table and its change from the row before."""

    heading: str
    text: str
    change: figures.Change | None = None


@dataclass(frozen=True, slots=True)
class Row:
    """A table's line: what it is about, its figures, and whether it is the one chosen."""

    name: str
    cells: list[Cell]
    chosen: bool = False


@dataclass(frozen=True, slots=True)
class Bar:
    """A class's AP, `width` of it from 0 to 100, and its boxes in each split."""

    name: str
    text: str
    width: float


@dataclass(frozen=True, slots=True)
class Curves:
    """A chart, its heading, and the names of its series in the order of their colours."""

    heading: str
    svg: Markup
    names: list[str]


@dataclass(frozen=True, slots=True)
class DataView:
    """The data's facts, a table of images and boxes for each split and class, and the problems found."""

    facts: list[Fact]
    splits: list[str]
    rows: list[tuple[str, list[str]]]
    problems: list[str]
    problems_known: bool


@dataclass(frozen=True, slots=True)
class View:
    """Everything that the page shows but the pictures."""

    title: str
    subtitle: str
    verdict: Fact | None
    facts: list[Fact]
    command: str
    tradeoff: Curves | None
    stages: list[Row]
    candidates: list[Row]
    candidates_left_out: int
    curves: list[Curves]
    classes: list[Bar]
    data: DataView | None
    machine: list[Fact] = field(default_factory=list)
    versions: list[Fact] = field(default_factory=list)


# heading, key in results.json, how it is written; whether a change is in per cent (None: no change is shown)
_Column = tuple[str, str, Callable[[object], str], bool | None]
_COLUMNS: tuple[_Column, ...] = (
    ("AP", "ap", figures.precision, False),
    ("p50, ms", "p50_ms", figures.milliseconds, True),
    ("Size, kB", "bytes", figures.kilobytes, True),
    ("Parameters", "parameters", figures.whole, True),
    ("Multiply-adds, M", "multiply_adds", figures.millions, True),
    ("Took", "seconds", figures.seconds, None),
)


def look(results: Mapping[str, object], curves: Sequence[CurvePoint]) -> View:
    """The page's content.

    Args:
        results: the content of `results.json`.
        curves: one point for each epoch, in any order.
    """
    chosen = _mapping(results.get("chosen"))
    stages, candidates = _mappings(results.get("stages")), _mappings(results.get("candidates"))
    candidates.sort(key=lambda c: figures.number(c.get("ap")) or 0.0, reverse=True)
    budget = figures.number(results.get("budget_ms"))
    per_class = _mapping(chosen.get("per_class"))
    path = str(chosen.get("path") or "model.onnx")
    return View(
        title=f"AP {figures.precision(chosen.get('ap'))} in {figures.milliseconds(chosen.get('p50_ms'))} ms",
        subtitle=_subtitle(per_class),
        verdict=_verdict(budget, results.get("met"), chosen.get("p50_ms")),
        facts=_headline(chosen, _mapping(results.get("machine"))),
        command=f"leandet detect {shlex.quote(path)} photo.jpg --save found/",
        tradeoff=_tradeoff(stages, candidates, chosen, budget),
        stages=_table(stages, changes=True),
        candidates=_table(candidates[:_MOST_CANDIDATES], changes=False, chosen=chosen.get("path")),
        candidates_left_out=max(0, len(candidates) - _MOST_CANDIDATES),
        curves=_training(curves),
        classes=[_bar(name, ap) for name, ap in per_class.items()],
        data=_data(_mapping(results.get("data"))),
        machine=_facts(_machine(results.get("machine"))),
        versions=_facts(results.get("versions")),
    )


def _mapping(value: object) -> dict[str, object]:
    return {str(key): item for key, item in value.items()} if isinstance(value, Mapping) else {}


def _mappings(value: object) -> list[dict[str, object]]:
    return [_mapping(item) for item in value if isinstance(item, Mapping)] if isinstance(value, list | tuple) else []


# ---------------------------------------------------------------- headline


def _subtitle(per_class: dict[str, object]) -> str:
    names = list(per_class)
    if not names:
        return "An NMS-free object detector."
    shown = ", ".join(names[:8]) + (f" and {len(names) - 8} more" if len(names) > 8 else "")
    return f"An NMS-free object detector of {len(names)} {'class' if len(names) == 1 else 'classes'}: {shown}."


def _verdict(budget: float | None, met: object, spent: object) -> Fact | None:
    if budget is None:
        return None
    note = f"{figures.milliseconds(spent)} of {figures.milliseconds(budget)} ms"
    if not isinstance(met, bool):
        return Fact("Budget", "unknown whether met", note)
    return Fact("Budget", "met" if met else "not met", note, "good" if met else "bad")


def _headline(chosen: dict[str, object], machine: dict[str, object]) -> list[Fact]:
    name = next((str(machine[k]) for k in ("cpu", "processor", "model", "name", "machine") if machine.get(k)), "")
    threads = figures.number(chosen.get("threads") or machine.get("threads"))
    where = [name, "" if threads is None else f"{threads:.0f} {'thread' if threads == 1 else 'threads'}"]
    with_nms = figures.change(chosen.get("ap_with_nms"), chosen.get("ap"), relative=False)
    return [
        Fact(
            "AP through the runtime",
            figures.precision(chosen.get("ap")),
            f"AP50 {figures.precision(chosen.get('ap50'))}, AP75 {figures.precision(chosen.get('ap75'))}",
        ),
        Fact(
            "AP with NMS added",
            figures.precision(chosen.get("ap_with_nms")),
            f"{with_nms.text} against none" if with_nms else "",
        ),
        Fact("Duplicates for 100 objects", _one_place(chosen.get("duplicates_per_100")), "without NMS"),
        Fact(
            "Latency, p50",
            f"{figures.milliseconds(chosen.get('p50_ms'))} ms",
            ", ".join(part for part in where if part),
        ),
        Fact("File size", f"{figures.kilobytes(chosen.get('bytes'))} kB"),
    ]


def _one_place(value: object) -> str:
    known = figures.number(value)
    return figures.NOTHING if known is None else f"{known:.1f}"


# ---------------------------------------------------------------- tables


def _table(rows: list[dict[str, object]], *, changes: bool, chosen: object = None) -> list[Row]:
    """Rows of the known columns; a column that no row knows is left out of candidates but not of stages."""
    columns = [c for c in _COLUMNS if changes or any(figures.number(row.get(c[1])) is not None for row in rows)]
    made = []
    for index, row in enumerate(rows):
        before = dict(rows[index - 1]) if changes and index else {}
        if before.get("runtime") != row.get("runtime"):
            before.pop("p50_ms", None)  # two engines, not a step
        cells = [
            Cell(
                heading,
                write(row.get(key)),
                None if relative is None else figures.change(row.get(key), before.get(key), relative=relative),
            )
            for heading, key, write, relative in columns
        ]
        name = _row_name(row, index)
        made.append(Row(name, cells, chosen is not None and row.get("path") == chosen))
    return made


def _row_name(row: dict[str, object], index: int) -> str:
    name = next((str(row[key]) for key in ("name", "path") if row.get(key)), f"number {index + 1}")
    return f"{name}, {row['runtime']}" if row.get("runtime") else name


def _bar(name: str, ap: object) -> Bar:
    return Bar(name, figures.precision(ap), round(100 * min(1.0, max(0.0, figures.number(ap) or 0.0)), 1))


def _facts(value: object) -> list[Fact]:
    if isinstance(value, Mapping):
        return [Fact(key.replace("_", " "), _flat(item)) for key, item in _mapping(value).items()]
    return [Fact("", str(value))] if value else []


def _machine(value: object) -> object:
    """The machine as described, its memory readable and the versions left to their own list."""
    known = _mapping(value)
    memory = figures.number(known.get("memory_bytes"))
    if memory is not None:
        known["memory_bytes"] = f"{memory / 2**30:.1f} GiB"
    return {k.replace("_bytes", ""): v for k, v in known.items() if k != "versions"} or value


def _flat(value: object) -> str:
    """Any value as one line."""
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {_flat(item)}" for key, item in value.items()) or figures.NOTHING
    if isinstance(value, list | tuple):
        return ", ".join(_flat(item) for item in value) or figures.NOTHING
    return figures.plain(value)


# ---------------------------------------------------------------- charts


def _tradeoff(
    stages: list[dict[str, object]],
    candidates: list[dict[str, object]],
    chosen: dict[str, object],
    budget: float | None,
) -> Curves | None:
    """AP against latency: the way through the stages, the candidates, what was chosen, the budget."""
    series = []
    for name, rows, joined in (
        ("stages", stages, True),
        ("candidates", candidates, False),
        ("chosen", [chosen], False),
    ):
        known = [
            ((ms, ap), f"{_row_name(row, i)}: AP {figures.precision(ap)}, {figures.milliseconds(ms)} ms")
            for i, row in enumerate(rows)
            if row.get("runtime") != "torch"  # another engine's latency, not the budget's
            and (ms := figures.number(row.get("p50_ms"))) is not None
            and (ap := figures.number(row.get("ap"))) is not None
        ]
        series.append(Series(name, [place for place, _ in known], joined, [text for _, text in known]))
    if len({place for one in series for place in one.points}) < 2:
        return None
    svg = draw("AP against latency", series, Axis("p50 latency, ms", from_zero=True), Axis("AP"), budget)
    return Curves("AP against latency", svg, [one.name if one.points else "" for one in series])


def _training(curves: Sequence[CurvePoint]) -> list[Curves]:
    """Loss, AP and learning rate against the epoch; a chart without points is left out."""
    groups: dict[str, dict[str, list[tuple[float, float]]]] = {"loss": {}, "ap": {}, "lr": {}}
    for point in sorted(curves, key=lambda p: p.epoch):
        for name, value in point.values.items():
            group, known = _group(name), figures.number(value)
            if group and known is not None:
                groups[group].setdefault(name, []).append((point.epoch, known))
    charts = []
    for group, heading, axis in (
        ("loss", "Loss", Axis("loss", from_zero=True)),
        ("ap", "AP on the validation split", Axis("AP", from_zero=True)),
        ("lr", "Learning rate", Axis("", from_zero=True)),
    ):
        # The whole before its parts, so that it always has the first colour.
        names = sorted(groups[group], key=lambda n: (n.split("/")[-1] not in ("loss", "train_loss", "ap", "val_ap"), n))
        svg = draw(heading, [Series(n, groups[group][n]) for n in names], Axis("epoch", whole=True), axis)
        if svg:
            charts.append(Curves(heading, svg, names))
    return charts


def _group(name: str) -> str:
    words = set(re.split(r"[^a-z0-9]+", name.lower()))
    if words & {"seconds", "time", "epoch", "step"}:
        return ""
    if "lr" in words or {"learning", "rate"} <= words:
        return "lr"
    return "ap" if any(re.fullmatch(r"m?ap\d*", word) for word in words) else "loss"


# ---------------------------------------------------------------- data


def _data(data: dict[str, object]) -> DataView | None:
    """The data's summary.

    Read from `splits` (`{name: {images, boxes, per_class: {class: boxes}}}`, or `{name: images}`), `problems` (texts,
    or objects with `message` or `text`) and any other plain values.
    """
    if not data:
        return None
    splits = _mapping(data.get("splits"))
    parts = {name: _mapping(value) or {"images": value} for name, value in splits.items()}
    counts = {name: _class_counts(part) for name, part in parts.items()}
    classes = list(dict.fromkeys(name for part in counts.values() for name in part))
    rows = [("images", [figures.whole(part.get("images")) for part in parts.values()])]
    rows.append(("boxes", [figures.whole(part.get("boxes")) for part in parts.values()]))
    rows += [(name, [figures.whole(part.get(name)) for part in counts.values()]) for name in classes]
    problems = data.get("problems")
    found = problems if isinstance(problems, list | tuple) else []
    plain = {k: v for k, v in data.items() if k not in ("splits", "problems", "classes")}
    facts = _facts({k: v for k, v in plain.items() if not isinstance(v, Mapping | list | tuple)})
    if figures.number(problems):
        facts.append(Fact("problems found", figures.whole(problems)))
    return DataView(
        facts, list(parts), rows if parts else [], [_problem(p) for p in found], isinstance(problems, list | tuple)
    )


def _class_counts(part: dict[str, object]) -> dict[str, object]:
    return next((_mapping(part[k]) for k in ("per_class", "boxes_per_class", "classes") if _mapping(part.get(k))), {})


def _problem(value: object) -> str:
    fields = _mapping(value)
    told = fields.get("message") or fields.get("text")
    if told is None:
        return _flat(value)
    where = fields.get("source") or fields.get("where")
    return f"{where}: {told}" if where else str(told)
