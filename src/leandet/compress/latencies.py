"""A network's latency at any widths of its channel groups, from a table of measured pieces and without building it."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from torch import nn

from leandet.compress.allocate import Kept
from leandet.compress.channels import WIDEST, Group, Structure
from leandet.compress.resize import empty, own_shapes, shapes
from leandet.cost.latency import Entry, Milliseconds, Predictor, total, trace
from leandet.cost.pieces import Piece, Placed
from leandet.errors import UserError

Numbers = npt.NDArray[np.int64]
WHOLE = re.compile(r"(?<![\w.-])-?\d+(?![\w.])")  # whole numbers of a piece's text, fractions and names left out


@dataclass(frozen=True, slots=True)
class _Slopes:
    """One piece at any widths: each whole number of its text grows evenly with each group's steps.

    Attributes:
        form: the text with a `%d` for each number.
        at_full: (numbers,) with every group whole.
        per_step: (numbers, groups) what a step of each group that matters here adds.
        groups: names of those groups.
    """

    form: str
    at_full: Numbers
    per_step: Numbers
    groups: tuple[str, ...]

    def text(self, removed: Sequence[int]) -> str:
        """The piece's text when those groups lose so many steps."""
        return self.form % tuple((self.at_full - self.per_step @ np.array(removed, np.int64)).tolist())


class Latencies:
    """Predicts a network's latency at any widths; a prediction of known pieces takes well below a millisecond.

    The network is followed once for each of its channel groups, one step narrower. Everything else follows, since every
    number of channels in a network is a sum over its groups.

    Args:
        predictor: its runtime and table.
        module: the whole network, on any device.
        structure: its channel groups, as `analyse` found them.
        size: H and W of its input in pixels.
        pixels: whether it takes uint8 pixels instead of floats.

    Raises:
        UserError: if the module has an operation that is not known.
    """

    def __init__(
        self,
        predictor: Predictor,
        module: nn.Module,
        structure: Structure,
        size: tuple[int, int],
        *,
        pixels: bool = False,
    ) -> None:
        def traced(kept: Kept) -> tuple[Placed, ...]:
            narrower = empty(module, structure.recording, shapes(own_shapes(module), structure, kept))
            return trace(narrower, size, pixels=pixels)

        self._predictor = predictor
        self._placed = traced({})
        self._steps = {group.name: group.steps for group in structure.groups}
        texts = {g.name: _less(traced, g) for g in structure.groups}
        self.groups = tuple(name for name, found in texts.items() if found is not None)
        self._slopes = [
            _slopes(one.piece.text, {name: texts[name][place] for name in self.groups})  # type: ignore[index]
            for place, one in enumerate(self._placed)
        ]
        self._known: list[dict[tuple[int, ...], Entry]] = [{} for _ in self._slopes]

    def predict(self, kept: Mapping[str, int]) -> Milliseconds:
        """The latency when the named groups have so many steps, more than now being wider; the others stay.

        Raises:
            UserError: if a group is none of `groups`, or cannot keep so many.
        """
        return self.predict_all([kept])[0]

    def predict_all(self, many: Sequence[Mapping[str, int]]) -> list[Milliseconds]:
        """As `predict` for many candidates: what the table lacks is measured side by side, which is much faster."""
        for kept in many:
            self._check(kept)
        self._learn(many)
        call, found = self._predictor.call_ms, []
        for kept in many:
            places = zip(self._slopes, self._known, strict=True)
            found.append(call + total(self._placed, [known[self._removed(slopes, kept)] for slopes, known in places]))
        return found

    def pieces(self, kept: Mapping[str, int]) -> list[Piece]:
        """The network's pieces at these widths."""
        self._check(kept)
        return [Piece.parse(slopes.text(self._removed(slopes, kept))) for slopes in self._slopes]

    def _learn(self, many: Sequence[Mapping[str, int]]) -> None:
        wanted: dict[tuple[int, tuple[int, ...]], str] = {}
        for place, (slopes, known) in enumerate(zip(self._slopes, self._known, strict=True)):
            for removed in {self._removed(slopes, kept) for kept in many}:
                if removed not in known:
                    wanted[place, removed] = slopes.text(removed)
        entries = self._predictor.entries(list(wanted.values()))
        for (place, removed), entry in zip(wanted, entries, strict=True):
            self._known[place][removed] = entry

    def _removed(self, slopes: _Slopes, kept: Mapping[str, int]) -> tuple[int, ...]:
        return tuple(self._steps[name] - kept.get(name, self._steps[name]) for name in slopes.groups)

    def _check(self, kept: Mapping[str, int]) -> None:
        for name, steps in kept.items():
            if name not in self.groups and steps != self._steps.get(name):
                raise UserError(f"the latency at another width of {name!r} cannot be predicted: no such group varies.")
            if not 1 <= steps <= WIDEST * self._steps[name]:
                raise UserError(f"group {name} can have 1 to {WIDEST * self._steps[name]} steps, not {steps}.")


def _less(traced: Callable[[Kept], tuple[Placed, ...]], group: Group) -> list[str] | None:
    """The pieces' texts with one step of a group gone; None where the network's own code holds it at its width."""
    try:
        return [one.piece.text for one in traced({group.name: group.steps - 1})]
    except (RuntimeError, ValueError):  # as torch and a network's own code refuse a shape
        return None


def _slopes(text: str, narrower: Mapping[str, str]) -> _Slopes:
    at_full, form = _numbers(text), WHOLE.sub("%d", text.replace("%", "%%"))
    columns = {name: at_full - _numbers(other) for name, other in narrower.items() if other != text}
    per_step = np.stack([*columns.values()], 1) if columns else np.zeros((len(at_full), 0), np.int64)
    return _Slopes(form, at_full, per_step, tuple(columns))


def _numbers(text: str) -> Numbers:
    return np.array([int(found) for found in WHOLE.findall(text)], np.int64)
