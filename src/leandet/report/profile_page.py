"""A profile as one HTML file that needs nothing else: where the time goes, and how near each layer is to the roof."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from itertools import groupby
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup

from leandet import atomic
from leandet.report import figures
from leandet.report.chart import Axis, Series, draw

KINDS = ("1x1 conv", "depthwise conv", "conv", "element-wise and data movement")  # each has a colour
MOVEMENT = len(KINDS) - 1
LEAST_LABELLED = 4.0  # percent of the bar that a label needs


@dataclass(frozen=True, slots=True)
class Slice:
    """A part of the bar: `start` and `width` in percent of the whole, `kind` the place in `KINDS`."""

    name: str
    start: float
    width: float
    told: str
    kind: int

    @property
    def label(self) -> str:
        """The name where there is room for it."""
        return self.name if self.width >= LEAST_LABELLED else ""


def write_profile(found: Mapping[str, Any], model: str, out: Path) -> Path:
    """Write a profile's page.

    Args:
        found: the profile as an object, see `leandet.cost.profile.Profile.to_json`.
        model: what was profiled, for the heading.
        out: the file; replaced whole, or not at all.

    Returns:
        The file written.

    Raises:
        UserError: if it cannot be written there.
    """
    # Always escaped: module names and paths come from outside.
    environment = jinja2.Environment(
        autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=jinja2.StrictUndefined
    )
    source = resources.files("leandet.report").joinpath("profile.html.j2").read_text(encoding="utf-8")
    layers = [layer for layer in found["layers"] if layer["ms"] > 0]
    page = environment.from_string(source).render(
        model=model,
        found=found,
        figures=figures,
        kinds=KINDS,
        roofline=roofline_chart(found, layers),
        bars=[_blocks(layers), _bar(layers)],
        layers=sorted(layers, key=lambda layer: layer["ms"], reverse=True),
    )
    atomic.write_text(out, page)
    return out


def roofline_chart(found: Mapping[str, Any], layers: Sequence[Mapping[str, Any]]) -> Markup:
    """Achieved speed of every layer that computes against its arithmetic intensity, beneath the machine's limits."""
    computing = [layer for layer in layers if layer["gflops"] > 0 and layer["intensity"] > 0]
    if not computing:
        return Markup("")
    series = [
        Series(
            kind,
            [(layer["intensity"], layer["gflops"]) for layer in computing if _kind(layer) == place],
            joined=False,
            names=[_told(layer) for layer in computing if _kind(layer) == place],
        )
        for place, kind in enumerate(KINDS)
    ]
    widest = max(layer["intensity"] for layer in computing)
    least = min(layer["intensity"] for layer in computing)
    peak = found["peak_gflops"]
    for speed in (found["bandwidth_gb_s"], max(one["gb_s"] for one in found["bandwidths"])):
        ridge = peak / speed  # here the slope of memory meets the ceiling of arithmetic
        start = min(least, ridge / 2)
        points = [(start, speed * start), (ridge, peak), (max(widest, 2 * ridge), peak)]
        series.append(Series("roof", points))
    across = Axis("arithmetic intensity, FLOP/byte", powers=True)
    return draw("Roofline", series, across, Axis("achieved, GFLOP/s", powers=True))


def _kind(layer: Mapping[str, Any]) -> int:
    """Which colour a layer has: that of its convolution or product."""
    words = layer["operations"].split(" + ")
    for place in (0, 1):
        if KINDS[place] in words:
            return place
    return KINDS.index("conv") if layer["multiply_adds"] else MOVEMENT


def _told(layer: Mapping[str, Any]) -> str:
    name = layer["module"] or "(network)"
    return f"{name}: {layer['operations']}, {layer['ms']:.3f} ms, {100 * layer['share']:.1f} %"


def _bar(layers: Sequence[Mapping[str, Any]]) -> list[Slice]:
    """Every layer in the order in which they run, as wide as its time."""
    total, start, slices = sum(layer["ms"] for layer in layers), 0.0, []
    for layer in layers:
        width = 100 * layer["ms"] / total
        name = layer["module"].removeprefix(layer["block"]).lstrip(".") or layer["operations"]
        slices.append(Slice(name, start, width, _told(layer), _kind(layer)))
        start += width
    return slices


def _blocks(layers: Sequence[Mapping[str, Any]]) -> list[Slice]:
    """The blocks in which they lie: neighbours of one block are one part."""
    total, start, slices = sum(layer["ms"] for layer in layers), 0.0, []
    for block, inside in groupby(layers, key=lambda layer: str(layer["block"])):
        ms = sum(layer["ms"] for layer in inside)
        width = 100 * ms / total
        name = block or "(network)"
        slices.append(Slice(name, start, width, f"{name}: {ms:.3f} ms, {width:.1f} %", MOVEMENT))
        start += width
    return slices
