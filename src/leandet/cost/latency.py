"""A network's latency from a table of measured pieces, without building or running it as a whole.

The idea is that of the lookup tables of FBNet (arXiv 1812.03443, section 3.2) and ProxylessNAS (arXiv 1812.00332). An
entry here is what a runtime fuses (see `leandet.cost.pieces`), measured between stand-ins for its neighbours.

A processor that others share, or that grows warm, is at times half as fast as seconds before. So a known network takes
turns with every graph of pieces, call by call. What counts is measured while nothing slows that one, and is set right
by what is left of a difference to when the table began.

Between stand-ins a piece takes about a tenth longer than within a network. By how much, one network says that is
measured whole as well: `Predictor.share`.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from statistics import median

import torch
from torch import nn

from leandet import atomic, nets
from leandet.cache import cache_folder
from leandet.cost.bench_graph import GraphOfPieces
from leandet.cost.flow import Operation, Value
from leandet.cost.follow import flow
from leandet.cost.graph import Graph, to_onnx
from leandet.cost.pieces import Piece, Placed, Port, pieces
from leandet.cost.profile import EngineName, open_engine
from leandet.cost.steps import Engine, Measured, Yardstick
from leandet.errors import UserError
from leandet.machine import describe_machine, usable_cores

Milliseconds = float
NODE = re.compile(r"p(\d+)([a-z])(\d+)")
FORMAT = 6  # of the file; another number is another table
AT_ONCE = 24  # pieces in one graph: about as many as a small network has, and its caches are as warm
SECONDS = 1.0  # for each graph, half of it profiled
KEEP = 0.3  # share of the calls that count, the fastest: other programs disturb the rest
ENTERS = "ReorderInput"  # ONNX Runtime's step into the blocked layout
AGREE = 0.06  # two measurements of an entry that lie further apart call for a third
NOTHING = Piece(
    (Operation("Relu", (Value(0),), (1,)),), (Port(0, (1, 8), False, False),), (Port(1, (1, 8), False, False),), False
)
KNOWN = "known network"  # its entry in the table
KNOWN_SIZE = (112, 112)  # maps too large for the nearest cache: it is slowed by what slows a network
KNOWN_SECONDS = 0.3
PROBES = 5  # measurements of the known network alone, when the table begins; the fastest counts
WHOLE, WHOLE_SIZE = "mobilenet_v1_050", (224, 224)  # the network that is measured whole too; its entry has its name


def known_network() -> nn.Module:
    """One layer of each kind that light networks are made of: what it takes says how fast the machine is."""
    return nn.Sequential(
        nn.Conv2d(3, 32, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(32, 32, 3, padding=1, groups=32),
        nn.Conv2d(32, 64, 1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(64, 64, 1),
        nn.ReLU(),
    ).eval()


@dataclass(frozen=True, slots=True)
class Entry:
    """What a piece costs.

    Attributes:
        ms: its own steps, milliseconds.
        reorders: for each of its inputs, the step that brings it out of the runtime's blocked layout: 0 where the piece
            reads that, and paid once where several pieces do not.
        blocked: whether it answers in the blocked layout; nothing need be brought out of it otherwise.
        enters: the step that brings a plain answer into the blocked layout, for a reader who wants it there.
    """

    ms: Milliseconds
    reorders: tuple[Milliseconds, ...]
    blocked: bool = True
    enters: Milliseconds = 0.0

    @property
    def total(self) -> Milliseconds:
        """Everything."""
        return self.ms + sum(self.reorders)

    def times(self, by: float) -> Entry:
        """The same, so many times as slow."""
        return replace(self, ms=by * self.ms, reorders=tuple(by * ms for ms in self.reorders), enters=by * self.enters)


def total(placed: Sequence[Placed], entries: Sequence[Entry]) -> Milliseconds:
    """A network's latency from its pieces and their entries."""
    return sum(entry.ms for entry in entries) + sum(moves(placed, entries).values())


def moves(placed: Sequence[Placed], entries: Sequence[Entry]) -> dict[int, Milliseconds]:
    """What a change of each value's layout costs, by the network's number of the value; 0 where it changes none.

    It does where the piece that makes it and one that reads it disagree: once, for all its readers.
    """
    makers = {value: entry for one, entry in zip(placed, entries, strict=True) for value in one.makes}
    found: dict[int, Milliseconds] = {}
    for one, entry in zip(placed, entries, strict=True):
        for value, port, out in zip(one.reads, one.piece.inputs, entry.reorders, strict=True):
            maker = makers.get(value)
            if maker is None or maker.blocked:
                ms = out
            else:
                ms = maker.enters if entry.blocked and port.computed and not out else 0.0
            found[value] = max(found.get(value, 0.0), ms)
    return found


class Table:
    """Measured pieces by text, kept in a file; the machine, runtime and threads are in its name.

    Args:
        key: what the entries hold for, such as processor, runtime and threads.
    """

    def __init__(self, key: Sequence[object]) -> None:
        self._key = [FORMAT, *key]
        name = hashlib.sha256(json.dumps(self._key).encode()).hexdigest()[:16]
        self.path = cache_folder() / f"latency-{name}.json"
        self._entries = self._read()

    def __len__(self) -> int:
        return len(self._entries)

    def __contains__(self, text: str) -> bool:
        return text in self._entries

    def __getitem__(self, text: str) -> Entry:
        return self._entries[text]

    def add(self, found: Mapping[str, Entry]) -> None:
        """Take entries in and write the file, with what others wrote into it meanwhile.

        Raises:
            UserError: if the cache folder cannot be written.
        """
        self._entries = {**self._read(), **self._entries, **found}
        entries = {
            text: [int(e.blocked), *(round(ms, 6) for ms in (e.ms, e.enters, *e.reorders))]
            for text, e in self._entries.items()
        }
        atomic.write_json(self.path, {"key": self._key, "entries": entries})

    def _read(self) -> dict[str, Entry]:
        try:
            found = json.loads(self.path.read_text(encoding="utf-8"))
            if found["key"] == self._key:
                entries = found["entries"].items()
                return {
                    text: Entry(float(ms), tuple(map(float, moves)), bool(blocked), float(enters))
                    for text, (blocked, ms, enters, *moves) in entries
                }
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            pass  # not measured yet, or damaged: measure
        return {}


class Predictor:
    """Predicts latencies on this machine; measures what it does not know yet.

    Args:
        runtime: ONNX Runtime or OpenVINO.
        threads: threads for one call; None for all cores that this process may use.
        tell: told how many of how many pieces are measured, while it measures.

    Raises:
        UserError: if the runtime is not installed, or is PyTorch, which fuses nothing and has no table.
    """

    def __init__(
        self,
        runtime: EngineName = EngineName.ONNX,
        threads: int | None = None,
        tell: Callable[[int, int], None] | None = None,
    ) -> None:
        if runtime is EngineName.TORCH:
            raise UserError("latencies are predicted for onnx and openvino, not for torch.")
        self.runtime = runtime
        self.threads = threads or usable_cores()
        self._tell = tell or (lambda done, of: None)
        self._least = float("inf")  # milliseconds that the known network took at best
        machine = describe_machine()
        version = self._engine([]).version
        self.table = Table([machine["cpu"], machine["usable_cores"], str(runtime), version, self.threads])

    def predict(self, module: nn.Module, size: tuple[int, int], *, pixels: bool = False) -> Milliseconds:
        """The latency of a call with one image.

        Args:
            module: a network of one input (1, 3, H, W); left as it was.
            size: H and W in pixels.
            pixels: whether it takes uint8 pixels instead of floats.

        Raises:
            UserError: if the module has an operation that is not known, or the table cannot be written.
        """
        return self.predict_pieces(trace(module, size, pixels=pixels))

    def predict_pieces(self, placed: Sequence[Placed]) -> Milliseconds:
        """The latency of a network in pieces."""
        return self.call_ms + total(placed, self.entries([one.piece.text for one in placed]))

    def yardstick(self) -> Yardstick:
        """The known network, opened anew, and what it took when the table began: predictions are of that speed."""
        return Yardstick(self._known.open(), self._origin)

    @property
    def call_ms(self) -> Milliseconds:
        """What a call costs that computes next to nothing."""
        if NOTHING.text not in self.table:
            self.table.add({NOTHING.text: Entry(self._engine([NOTHING]).measure(SECONDS, KEEP).whole_ms, ())})
        return self.table[NOTHING.text].ms

    def entries(self, texts: Sequence[str]) -> list[Entry]:
        """What some pieces cost within a network, measured where the table lacks them."""
        self.fill(texts)
        return [self.table[text].times(self.share) for text in texts]

    @cached_property
    def share(self) -> float:
        """What a piece takes within a network, as a share of what it takes between stand-ins."""
        network = nets.create(WHOLE).eval()
        if WHOLE not in self.table:
            graph = Graph(to_onnx(network, torch.zeros(1, 3, *WHOLE_SIZE)))
            whole = median(self._timed(open_engine(self.runtime, graph, self.threads)).whole_ms for _ in range(PROBES))
            self.table.add({WHOLE: Entry(whole, ())})
        placed = trace(network, WHOLE_SIZE)
        texts = [one.piece.text for one in placed]
        self.fill(texts)
        return (self.table[WHOLE].ms - self.call_ms) / total(placed, [self.table[text] for text in texts])

    def fill(self, texts: Iterable[str]) -> None:
        """Measure the pieces that the table lacks; kept after each graph of pieces, so that it can be interrupted."""
        missing = [text for text in dict.fromkeys(texts) if text not in self.table]
        for start in range(0, len(missing), AT_ONCE):
            some = missing[start : start + AT_ONCE]
            self._tell(start, len(missing))
            self.table.add(dict(zip(some, self.measure([Piece.parse(text) for text in some]), strict=True)))
        if missing:
            self._tell(len(missing), len(missing))

    def measure(self, some: Sequence[Piece]) -> list[Entry]:
        """Measure pieces side by side, twice, and again those on which the two disagree."""
        twice = list(zip(self._once(some), self._once(some), strict=True))
        unsure = [i for i, (a, b) in enumerate(twice) if abs(a.total - b.total) > AGREE * min(a.total, b.total)]
        entries = [min(pair, key=lambda entry: entry.total) for pair in twice]
        if unsure:
            for index, third in zip(unsure, self._once([some[i] for i in unsure]), strict=True):
                ranked = sorted((*twice[index], third), key=lambda entry: entry.total)
                entries[index] = ranked[1]
        return entries

    def measure_whole(self, modules: Sequence[nn.Module], size: tuple[int, int]) -> list[Milliseconds]:
        """Export whole networks and time them in turns; the smallest of three measurements counts.

        Args:
            modules: networks of one input (1, 3, H, W), in evaluation mode.
            size: H and W in pixels.
        """
        image = torch.zeros(1, 3, *size)
        engines = [open_engine(self.runtime, Graph(to_onnx(module, image)), self.threads) for module in modules]
        rounds = [[engine.measure(SECONDS, KEEP).whole_ms for engine in engines] for _ in range(3)]
        return [min(times) for times in zip(*rounds, strict=True)]

    def _once(self, some: Sequence[Piece]) -> list[Entry]:
        """Measure pieces; what they take at the speed that the table began with."""
        return shares(some, self._timed(self._engine(some)), self.call_ms)

    def _timed(self, engine: Engine) -> Measured:
        """A measurement at the speed that the table began with."""
        known = self.yardstick()
        self._least = min(self._least, known.ms)
        measured = engine.measure(SECONDS, KEEP, replace(known, ms=self._least))
        self._least = min(self._least, measured.beside_ms)
        by = known.ms / measured.beside_ms
        steps = tuple(replace(step, ms=by * step.ms) for step in measured.steps)
        return Measured(by * measured.whole_ms, steps, measured.calls, known.ms)

    @property
    def _origin(self) -> Milliseconds:
        """What a call of the known network took when the table began."""
        if KNOWN not in self.table:
            calls = [self._known.measure(KNOWN_SECONDS, KEEP).whole_ms for _ in range(PROBES)]
            self.table.add({KNOWN: Entry(min(calls), ())})
        return self.table[KNOWN].ms

    @cached_property
    def _known(self) -> Engine:
        with torch.device("meta"):
            network = known_network()
        return self._engine([placed.piece for placed in trace(network, KNOWN_SIZE)])

    def _engine(self, some: Sequence[Piece]) -> Engine:
        return open_engine(self.runtime, Graph(GraphOfPieces(some).model), self.threads)


def trace(module: nn.Module, size: tuple[int, int], *, pixels: bool = False) -> tuple[Placed, ...]:
    """A network's pieces for one image; see `Predictor.predict`."""
    kind = torch.uint8 if pixels else torch.float32
    return pieces(flow(module, torch.empty(1, 3, *size, dtype=kind, device="meta")))


def shares(some: Sequence[Piece], measured: Measured, call_ms: Milliseconds) -> list[Entry]:
    """Hand the steps of a graph of pieces out to the pieces; those of the stand-ins are nobody's.

    So is what brings a piece's answer out of the blocked layout for a stand-in that reads it plain: in a network the
    reader's own entry has that.

    A step that the graph does not name is a part of the next one that it does, as where a runtime writes Hardswish in
    two. What a whole call takes longer than its steps and an empty call, between one step and the next, is theirs in
    proportion.
    """
    scale = max(0.0, measured.whole_ms - call_ms) / sum(step.ms for step in measured.steps)
    own, enters, blocked = [0.0] * len(some), [0.0] * len(some), [False] * len(some)
    reorders = [[0.0] * len(piece.inputs) for piece in some]
    borders = [_border(piece) for piece in some]
    waiting = 0.0
    for step in measured.steps:
        places = [_place(name) for name in step.anchors or (step.near,) if name is not None]
        if not places:
            waiting += step.ms
            continue
        ms, waiting = (step.ms + waiting) * scale, 0.0
        index, part, place = places[0]
        if not step.anchors and part == "n" and place in borders[index]:
            enters[index] += ms if step.kernel == ENTERS else 0.0
        elif inside := {index for index, part, _ in places if part == "n"}:
            for mine in inside:
                own[mine] += ms
                blocked[mine] |= step.blocked
        elif not step.anchors and part == "i":
            reorders[index][place] += ms
    return [
        Entry(own[n], tuple(reorders[n]), blocked[n] or _passes_on(piece, reorders[n]), enters[n])
        for n, piece in enumerate(some)
    ]


def _border(piece: Piece) -> set[int]:
    """Places of the operations whose answers leave the piece."""
    ends = {port.number for port in piece.outputs}
    return {place for place, operation in enumerate(piece.operations) if ends & set(operation.outputs)}


def _passes_on(piece: Piece, reorders: Sequence[Milliseconds]) -> bool:
    """Whether a piece whose steps do not say so works in the layout that it reads, and that is the blocked one."""
    return not piece.computes and any(port.computed for port in piece.inputs) and not any(reorders)


def _place(node: str) -> tuple[int, str, int]:
    """`p3n0` -> piece 3, part "n", place 0; the end of a stand-in, such as `p3o0q0`, counts as the stand-in."""
    found = NODE.match(node)
    if found is None:
        raise ValueError(f"{node} is no node of a graph of pieces")
    return int(found[1]), found[2], int(found[3])
