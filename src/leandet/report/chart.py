"""Charts as inline SVG, from numbers alone: no library, no script, colours from the page's style sheet."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup

COLOURS = 6  # classes s0 to s5 in the page's style sheet
SAME = 1e-3  # share of a value by which others may differ and still be drawn as one: closer ticks need too many digits

_WIDTH, _HEIGHT = 440, 260  # small, so that the letters stay readable when a phone shrinks it
_LEFT, _RIGHT, _TOP, _BOTTOM = 62, 22, 12, 42  # right: half of the last tick's number

SHORT = 18  # letters of a name that leaves room for two more beside it in a legend
# A chart in a file of its own: width, height, both as shown, title's left, title, chart, legend. The page's colours.
_FILE = Markup(
    '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {0} {1}" width="{2}" height="{3}" font-family="sans-serif">'
    "<style>text{{fill:#656b73;font-size:11px}}.title{{font-size:13px;font-weight:600;fill:#1c1f23}}"
    ".grid{{stroke:#e3e4e1}}.axis{{stroke:#656b73}}.limit{{stroke:#b3261e;stroke-dasharray:5 4}}"
    "polyline{{fill:none;stroke-width:2}}circle{{stroke:#fff}}"
    "polyline.s0{{stroke:#2b62b5}}circle.s0{{fill:#2b62b5}}"
    "polyline.s1{{stroke:#d0702b}}circle.s1{{fill:#d0702b}}"
    "polyline.s2{{stroke:#2c8f68}}circle.s2{{fill:#2c8f68}}"
    "polyline.s3{{stroke:#8a56b0}}circle.s3{{fill:#8a56b0}}"
    "polyline.s4{{stroke:#a98a1c}}circle.s4{{fill:#a98a1c}}"
    "polyline.s5{{stroke:#b8486a}}circle.s5{{fill:#b8486a}}"
    '</style><rect width="{0}" height="{1}" fill="#fff"/><text class="title" x="{4}" y="18">{5}</text>{6}{7}</svg>\n'
)


@dataclass(frozen=True, slots=True)
class Series:
    """One curve.

    Attributes:
        name: for the legend.
        points: (x, y), all finite, in the order joined.
        joined: a line through the points; otherwise dots alone.
        names: one for each point, shown when pointed at; may be empty.
    """

    name: str
    points: Sequence[tuple[float, float]]
    joined: bool = True
    names: Sequence[str] = ()


@dataclass(frozen=True, slots=True)
class Axis:
    """What an axis shows.

    Attributes:
        label: quantity and unit.
        from_zero: whether it must begin at zero.
        whole: whether only whole numbers get a tick.
        powers: whether equal steps are equal ratios; every value must be above zero, and the powers of ten get ticks.
    """

    label: str
    from_zero: bool = False
    whole: bool = False
    powers: bool = False


@dataclass(frozen=True, slots=True)
class _Scale:
    """Numbers to pixels along one axis; `ticks` are what is written beside it."""

    low: float
    high: float
    start: float
    end: float
    ticks: tuple[float, ...]
    decimals: int
    powers: bool = False

    def __call__(self, value: float) -> float:
        if self.powers:
            value = math.log10(value)
        return self.start + (value - self.low) / (self.high - self.low) * (self.end - self.start)

    def written(self, tick: float) -> str:
        if self.powers:
            return f"{tick:,g}"
        return f"{tick:,.{self.decimals}f}".replace("-", "−")


def draw(title: str, series: Sequence[Series], x: Axis, y: Axis, limit: float | None = None) -> Markup:
    """An `<svg>` with axes, ticks and labels, safe to put into a page.

    Args:
        title: for screen readers.
        series: curves; the i-th has the style class `s{i % COLOURS}`.
        x: the axis across.
        y: the axis up.
        limit: an x to mark with an upright line, such as the budget.

    Returns:
        The element; empty where there are no points.
    """
    points = [point for one in series for point in one.points]
    if not points:
        return Markup("")
    across = [p[0] for p in points] + ([] if limit is None else [limit])
    horizontal = _scale(across, x, _LEFT, _WIDTH - _RIGHT)
    vertical = _scale([p[1] for p in points], y, _HEIGHT - _BOTTOM, _TOP)
    parts = [*_frame(horizontal, vertical, x, y)]
    if limit is not None:
        at = f"{horizontal(limit):.1f}"
        parts.append(
            Markup('<line class="limit" x1="{0}" x2="{0}" y1="{1}" y2="{2}"/>').format(at, _TOP, _HEIGHT - _BOTTOM)
        )
    for index, one in enumerate(series):
        parts += _curve(one, index, horizontal, vertical)
    return Markup('<svg class="chart" viewBox="0 0 {} {}" role="img" aria-label="{}">{}</svg>').format(
        _WIDTH, _HEIGHT, title, Markup("").join(parts)
    )


def picture(title: str, series: Sequence[Series], x: Axis, y: Axis, limit: float | None = None) -> Markup:
    """The chart of `draw` as an SVG file of its own: on white, with its style, title and legend inside.

    Args:
        title: written above.
        series, x, y, limit: as for `draw`.
    """
    head, line = 26, 16
    across = 3 if max(len(one.name) for one in series) <= SHORT else 2
    rows = [series[i : i + across] for i in range(0, len(series), across)]
    height = head + _HEIGHT + line * len(rows) + 6
    legend = [
        Markup('<circle class="s{}" cx="{}" cy="{}" r="4"/><text class="label" x="{}" y="{}">{}</text>').format(
            (across * row + column) % COLOURS, left, top - 4, left + 9, top, one.name
        )
        for row, names in enumerate(rows)
        for column, one in enumerate(names)
        for left, top in [(_LEFT + column * 384 // across, head + _HEIGHT + line * (row + 1) - 4)]
    ]
    chart = draw(title, series, x, y, limit).replace(
        "<svg ", Markup('<svg x="0" y="{}" width="{}" height="{}" ').format(head, _WIDTH, _HEIGHT), 1
    )
    return _FILE.format(_WIDTH, height, _WIDTH * 3 // 2, height * 3 // 2, _LEFT, title, chart, Markup("").join(legend))


def _scale(values: Sequence[float], axis: Axis, start: float, end: float) -> _Scale:
    """Round limits around the values, with four to seven ticks."""
    low, high = min(values), max(values)
    if axis.powers:
        first, last = math.floor(math.log10(low)), math.ceil(math.log10(high))
        last = max(last, first + 1)
        return _Scale(first, last, start, end, tuple(10.0**power for power in range(first, last + 1)), 0, powers=True)
    if axis.from_zero:
        low, high = min(low, 0.0), max(high, 0.0)
    if high - low <= abs(high) * SAME:
        room = 1.0 if axis.whole or high == 0 else abs(high) / 10
        low, high = low - (0 if axis.from_zero else room), high + room
    rough = (high - low) / 4
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(m * power for m in (1, 2, 2.5, 5, 10) if m * power >= rough * 0.999)
    if axis.whole:
        step = max(1.0, float(math.ceil(step)))
    else:
        low, high = math.floor(low / step + 1e-9) * step, math.ceil(high / step - 1e-9) * step
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    ticks = tuple(i * step for i in range(first, last + 1))
    return _Scale(low, high, start, end, ticks, _decimals(step))


def _decimals(step: float) -> int:
    """The fewest places that write the step exactly."""
    places = max(0, -math.floor(math.log10(step) + 1e-9))
    return places if math.isclose(round(step, places), step) else places + 1


def _frame(horizontal: _Scale, vertical: _Scale, x: Axis, y: Axis) -> list[Markup]:
    """Grid, ticks and labels."""
    bottom, middle = _HEIGHT - _BOTTOM, (_TOP + _HEIGHT - _BOTTOM) / 2
    parts = []
    for tick in vertical.ticks:
        at = vertical(tick)
        parts.append(
            Markup('<line class="grid" x1="{}" x2="{}" y1="{:.1f}" y2="{:.1f}"/>').format(
                _LEFT, _WIDTH - _RIGHT, at, at
            )
        )
        parts.append(
            Markup('<text class="tick" x="{}" y="{:.1f}" text-anchor="end">{}</text>').format(
                _LEFT - 6, at + 3.5, vertical.written(tick)
            )
        )
    parts.append(
        Markup('<line class="axis" x1="{}" x2="{}" y1="{}" y2="{}"/>').format(_LEFT, _WIDTH - _RIGHT, bottom, bottom)
    )
    parts += [
        Markup('<text class="tick" x="{:.1f}" y="{}" text-anchor="middle">{}</text>').format(
            horizontal(tick), bottom + 15, horizontal.written(tick)
        )
        for tick in horizontal.ticks
    ]
    parts.append(
        Markup('<text class="label" x="{}" y="{}" text-anchor="middle">{}</text>').format(
            (_LEFT + _WIDTH - _RIGHT) / 2, _HEIGHT - 6, x.label
        )
    )
    parts.append(
        Markup('<text class="label" transform="translate(11 {}) rotate(-90)" text-anchor="middle">{}</text>').format(
            middle, y.label
        )
    )
    return parts


def _curve(one: Series, index: int, horizontal: _Scale, vertical: _Scale) -> list[Markup]:
    places = [(horizontal(px), vertical(py)) for px, py in one.points]
    style = f"s{index % COLOURS}"
    parts = []
    if one.joined and len(places) > 1:
        path = " ".join(f"{px:.1f},{py:.1f}" for px, py in places)
        parts.append(Markup('<polyline class="{}" points="{}"/>').format(style, path))
    if one.names or not one.joined or len(places) == 1:
        names = one.names or [one.name] * len(places)
        parts += [
            Markup('<circle class="{}" cx="{:.1f}" cy="{:.1f}" r="4"><title>{}</title></circle>').format(
                style, px, py, name
            )
            for (px, py), name in zip(places, names, strict=True)
        ]
    return parts
