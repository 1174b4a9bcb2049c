"""The predictor: its arithmetic on tables made by hand, its pieces against PyTorch and the exporter."""

import math
from collections import Counter
from dataclasses import replace

import numpy as np
import onnxruntime
import pytest
import torch
from torch import nn

from leandet import nets
from leandet.compress.channels import analyse
from leandet.compress.latencies import Latencies
from leandet.compress.resize import empty, own_shapes, shapes
from leandet.cost.bench_graph import SOME, GraphOfPieces
from leandet.cost.count import count
from leandet.cost.flow import Flow, Value, Weight
from leandet.cost.follow import flow
from leandet.cost.graph import Graph, to_onnx
from leandet.cost.latency import NOTHING, WHOLE, WHOLE_SIZE, Entry, Predictor, Table, moves, shares, total, trace
from leandet.cost.pieces import Piece, Placed, pieces
from leandet.cost.profile import EngineName, open_engine
from leandet.cost.steps import Measured, Step, Yardstick, quiet_means, take_turns, undisturbed
from leandet.detector.detector import Detector
from leandet.detector.spec import Spec
from leandet.errors import UserError
from leandet.export.graph import Deployed
from leandet.preprocess import Size

SIDE = 64
NETWORKS = ("mobilenet_v3_small_075", "shufflenet_v2_x0_5", "shufflenet_v1_g3_x0_25", "squeezenet1_1")


class Block(nn.Module):
    """A residual block: its sum and activation belong to the convolution before them."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 8, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(8)
        self.second = nn.Conv2d(8, 8, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.norm(self.first(x)).relu()
        return (x + self.second(x)).relu()


def multiply_adds(found: Flow) -> int:
    """From the sizes of weights and outputs."""
    work = 0
    for operation in found.operations:
        if operation.op in {"Conv", "Gemm"}:
            weight, made = operation.inputs[1], found.shapes[operation.outputs[0]]
            assert isinstance(weight, Weight)
            work += math.prod(weight.shape) * math.prod(made[2:])
    return work


@pytest.mark.parametrize("name", NETWORKS)
def test_the_flow_does_the_networks_work_at_random_widths(name):
    network = nets.create(name).eval()
    structure = analyse(network, torch.zeros(1, 3, SIDE, SIDE))
    random = np.random.default_rng(0)
    kept = {g.name: int(random.integers(1, g.steps + 1)) for g in structure.groups}
    narrower = empty(network, structure.recording, shapes(own_shapes(network), structure, kept))
    wanted = count(narrower, torch.zeros(1, 3, SIDE, SIDE, device="meta")).multiply_adds
    found = flow(narrower, torch.zeros(1, 3, SIDE, SIDE))
    assert multiply_adds(found) == wanted
    assert sum(len(one.piece.operations) for one in pieces(found)) == len(found.operations)


@pytest.mark.parametrize("name", ["shufflenet_v2_x0_5", "mobilenet_v3_small_075"])
def test_any_widths_give_the_pieces_of_the_network_built_so(name, tmp_path, monkeypatch):
    monkeypatch.setenv("LEANDET_CACHE", str(tmp_path))
    network = nets.create(name).eval()
    structure = analyse(network, torch.zeros(1, 3, SIDE, SIDE))
    latencies = Latencies(Predictor(threads=1), network, structure, (SIDE, SIDE))
    assert set(latencies.groups) == {group.name for group in structure.groups}
    random = np.random.default_rng(1)
    kept = {g.name: int(random.integers(1, 2 * g.steps)) for g in structure.groups}  # narrower and wider ones
    narrower = empty(network, structure.recording, shapes(own_shapes(network), structure, kept))
    assert latencies.pieces(kept) == [one.piece for one in trace(narrower, (SIDE, SIDE))]
    with pytest.raises(UserError, match="can have 1 to"):
        latencies.predict({latencies.groups[0]: 0})


def test_the_flow_has_the_exporters_operators():
    network = nn.Sequential(Block(), nn.MaxPool2d(2), nn.Hardswish(), nn.AdaptiveAvgPool2d(1), nn.Flatten()).eval()
    exported = Counter(node.op_type for node in to_onnx(network, torch.zeros(1, 3, 8, 8)).graph.node)
    found = Counter(operation.op for operation in flow(network, torch.zeros(1, 3, 8, 8)).operations)
    assert found["Conv"] == exported["Conv"] == 2
    assert all(found[op] == exported[op] > 0 for op in ("Add", "Relu", "MaxPool"))


def test_what_a_runtime_fuses_is_one_piece():
    found = [one.piece for one in trace(Block(), (8, 8))]
    assert [[o.op for o in piece.operations] for piece in found] == [["Conv", "Relu"], ["Conv", "Add", "Relu"]]
    assert [port.computed for port in found[1].inputs] == [True]
    assert [len(one.reads) for one in trace(Block(), (8, 8))] == [1, 1]


@pytest.mark.parametrize("name", NETWORKS)
def test_a_piece_is_its_text_and_the_graph_of_pieces_computes_it(name):
    found = [one.piece for one in trace(nets.create(name), (SIDE, SIDE))]
    assert [Piece.parse(piece.text) for piece in found] == found
    session = onnxruntime.InferenceSession(GraphOfPieces(found).model.SerializeToString())
    feed = {value.name: np.ones(value.shape, np.float32) for value in session.get_inputs()}
    answers = session.run(None, feed)
    shapes_of = {output.name: answer.shape for output, answer in zip(session.get_outputs(), answers, strict=True)}
    assert all(np.isfinite(answer).all() for answer in answers)
    for index, piece in enumerate(found):
        for place, port in enumerate(piece.outputs):
            plain, read = shapes_of.get(f"p{index}v{port.number}"), shapes_of.get(f"p{index}o{place}q0v")
            end = shapes_of.get(f"p{index}q{place}v")
            assert plain == port.shape or end == (1, 1, 1, 1) or read == (1, SOME, 1, 1)


def test_a_whole_detector_is_known():
    detector = Deployed(Detector(Spec("shufflenet_v2_x0_5", 2, Size(64, 64), width=16)))
    found = trace(detector, (64, 64), pixels=True)
    assert {"TopK", "GatherElements", "Gather", "Cast"} <= {o.op for one in found for o in one.piece.operations}
    session = onnxruntime.InferenceSession(GraphOfPieces([one.piece for one in found]).model.SerializeToString())
    assert len(session.get_outputs()) >= 3  # boxes, scores, labels among them: the operators' types fit


def test_steps_go_to_their_pieces_and_the_rest_in_proportion():
    block = [one.piece for one in trace(Block(), (8, 8))]
    steps = (
        Step("a", "", ("p0i0",), None, 9.0),  # a stand-in
        Step("b", "", ("p0n0", "p0n1"), None, 1.0, blocked=True),
        Step("c", "", (), "p1i0", 2.0),  # brings the second piece its input
        Step("d", "", (), None, 1.0),  # a part of the next
        Step("d", "", ("p1n0",), None, 2.0),
        Step("e", "ReorderOutput", (), "p1n2", 4.0),  # for the stand-in that reads it
        Step("e", "ReorderInput", (), "p1n2", 0.5),
        Step("e", "ReorderOutput", (), "p1n0", 3.5),  # within
        Step("f", "", (), "p1o0", 1.0),  # after a stand-in
    )
    entries = shares(block, Measured(49.0, steps, 1), 1.0)  # but for the call, twice the steps' sum
    assert entries == [Entry(2.0, (0.0,)), Entry(13.0, (4.0,), blocked=False, enters=1.0)]


def test_a_reorder_is_paid_once_for_all_its_readers():
    piece = trace(Block(), (8, 8))[0].piece
    placed = [Placed(piece, (5,), ()), Placed(piece, (5,), ()), Placed(piece, (6,), ())]
    entries = [Entry(1.0, (0.5,)), Entry(2.0, (0.7,)), Entry(3.0, (0.1,))]
    assert total(placed, entries) == pytest.approx(6.0 + 0.7 + 0.1)


def test_a_layout_changes_where_maker_and_reader_disagree():
    piece = trace(Block(), (8, 8))[1].piece
    placed = [Placed(piece, (0,), (), (1,)), Placed(piece, (1,), (), (2,))]

    def with_maker(maker: Entry, reader: Entry) -> float:
        return total(placed, [maker, reader]) - maker.ms - reader.ms

    plain, blocked = Entry(1.0, (0.0,), blocked=False, enters=0.3), Entry(1.0, (0.0,))
    assert with_maker(blocked, Entry(1.0, (0.5,), blocked=False)) == pytest.approx(0.5)
    assert with_maker(plain, Entry(1.0, (0.5,), blocked=False)) == 0
    assert with_maker(blocked, blocked) == 0
    assert with_maker(plain, blocked) == pytest.approx(0.3)
    assert with_maker(plain, Entry(1.0, (0.5,))) == 0  # a blocked kernel that reads few channels plain


class Uneven(nn.Module):
    """Widths at which ONNX Runtime leaves its blocked layout and returns to it."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            *(nn.Conv2d(3, 57, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(57, 11, 1), nn.ReLU()),
            *(nn.Conv2d(11, 64, 3), nn.ReLU(), nn.Conv2d(64, 32, 1), nn.ReLU(), nn.Conv2d(32, 57, 1), nn.ReLU()),
            *(nn.Conv2d(57, 57, 1), nn.ReLU(), nn.Conv2d(57, 48, 3), nn.ReLU()),
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layers(x)


def test_layouts_change_as_often_as_in_the_whole_network(tmp_path, monkeypatch):
    monkeypatch.setenv("LEANDET_CACHE", str(tmp_path))
    monkeypatch.setattr("leandet.cost.latency.SECONDS", 0.05)
    network, predictor = Uneven().eval(), Predictor(threads=1)
    placed = trace(network, (SIDE, SIDE))
    charged = moves(placed, predictor.measure([one.piece for one in placed]))
    engine = open_engine(EngineName.ONNX, Graph(to_onnx(network, torch.zeros(1, 3, SIDE, SIDE))), 1)
    changes = [step for step in engine.measure(0.05).steps if step.kernel.startswith("Reorder")]
    assert sum(ms > 0 for ms in charged.values()) == len(changes)


def test_the_table_outlives_the_process_and_damage(tmp_path, monkeypatch):
    monkeypatch.setenv("LEANDET_CACHE", str(tmp_path))
    table, other = Table(["here", 1]), Table(["here", 1])
    table.add({"a": Entry(1.5, (0.25, 0.0), blocked=False, enters=0.125)})
    other.add({"b": Entry(2.0, ())})  # keeps what was written meanwhile
    again = Table(["here", 1])
    assert (again["a"], again["b"], len(again)) == (table["a"], Entry(2.0, ()), 2)
    assert "a" not in Table(["here", 2])
    table.path.write_text("{", encoding="utf-8")
    assert len(Table(["here", 1])) == 0


def test_predictions_are_sums_of_the_table_and_cost_no_measuring(tmp_path, monkeypatch):
    monkeypatch.setenv("LEANDET_CACHE", str(tmp_path))
    predictor = Predictor(threads=1)
    placed = trace(Block(), (8, 8))
    predictor.table.add({one.piece.text: Entry(float(i + 1), (0.0,)) for i, one in enumerate(placed)})
    predictor.table.add({NOTHING.text: Entry(0.5, ())})
    predictor.share = 0.9
    monkeypatch.setattr(predictor, "measure", lambda _: pytest.fail("measured what is known"))
    assert predictor.predict(Block(), (8, 8)) == pytest.approx(0.5 + 0.9 * 3)


def test_the_network_measured_whole_says_what_its_pieces_take_within_it(tmp_path, monkeypatch):
    monkeypatch.setenv("LEANDET_CACHE", str(tmp_path))
    predictor = Predictor(threads=1)
    placed = trace(nets.create(WHOLE), WHOLE_SIZE)
    predictor.table.add({one.piece.text: Entry(2.0, tuple(0.0 for _ in one.reads)) for one in placed})
    predictor.table.add({NOTHING.text: Entry(0.5, ()), WHOLE: Entry(0.5 + 1.8 * len(placed), ())})
    assert predictor.share == pytest.approx(0.9)
    assert predictor.predict(nets.create(WHOLE), WHOLE_SIZE) == pytest.approx(predictor.table[WHOLE].ms)


def test_measured_entries_are_positive(tmp_path, monkeypatch):
    monkeypatch.setenv("LEANDET_CACHE", str(tmp_path))
    monkeypatch.setattr("leandet.cost.latency.SECONDS", 0.01)
    told = []
    predictor = Predictor(threads=1, tell=lambda done, of: told.append((done, of)))
    predictor.share = 1.0
    assert 0 < predictor.predict(Block(), (16, 16)) < 1000
    assert told == [(0, 2), (2, 2)]
    assert all(predictor.table[one.piece.text].ms > 0 for one in trace(Block(), (16, 16)))


class Slowed:
    """An engine on a machine that is so many times slower."""

    def __init__(self, engine, machine):
        self.engine, self.machine = engine, machine

    def open(self):
        return self.engine.open()

    def measure(self, seconds, keep, beside=None):
        found, by = self.engine.measure(seconds, keep, beside), self.machine.slower
        steps = tuple(replace(step, ms=by * step.ms) for step in found.steps)
        return Measured(by * found.whole_ms, steps, found.calls, by * found.beside_ms)


class Drifting(Predictor):
    """A predictor whose machine can be made slower."""

    slower = 1.0

    def _engine(self, some):
        engine = super()._engine(some)
        return Slowed(engine, self) if some else engine


def test_entries_measured_in_a_slow_minute_are_those_of_a_quick_one(tmp_path, monkeypatch):
    monkeypatch.setenv("LEANDET_CACHE", str(tmp_path))
    monkeypatch.setattr("leandet.cost.latency.SECONDS", 0.3)
    found = [one.piece for one in trace(nets.create("shufflenet_v2_x0_5"), (SIDE, SIDE)) if one.piece.computes][:6]
    predictor = Drifting(threads=1)
    quick = sum(entry.total for entry in predictor.measure(found))
    whole = predictor._engine(found).measure(0.1, 0.3).whole_ms
    predictor.slower = 4.0
    assert predictor._engine(found).measure(0.1, 0.3).whole_ms > 2 * whole
    assert quick / 1.6 < sum(entry.total for entry in predictor.measure(found)) < 1.6 * quick


def test_calls_beside_a_disturbed_yardstick_do_not_count():
    yardstick = [3.0, 4.0, 3.1, 3.9, 3.0, 4.1, 4.0, 3.2]
    assert undisturbed(yardstick, 3.0) == [0, 2, 4]
    assert undisturbed(yardstick, 2.0) == [0, 4]  # never quiet: the least disturbed quarter
    steps = {"a": [1.0, 9.0, 2.0, 9.0, 3.0, 9.0, 9.0, 9.0], "b": [0.5] * 8}
    assert quiet_means(steps, 0.1, [0, 2, 4]) == {"a": 2.0, "b": 0.5}


@pytest.mark.parametrize(("slow", "calls", "ms"), [(0, 48, 1.0), (198, 47 + 12, 1.0), (10**6, 96, 2.0)])
def test_measuring_waits_for_a_quiet_machine_but_not_for_ever(monkeypatch, slow, calls, ms):
    """The clock is made up: the first calls take 2 ms (198 of them fill 47 rounds), the others 1 ms."""
    made, now = 0, 0.0

    def call():
        nonlocal made, now
        made += 1
        now += 2e-3 if made <= slow else 1e-3

    monkeypatch.setattr("leandet.cost.steps.clock_for", lambda threads: lambda: now)
    turns = take_turns(call, call, 0.1, 1, Yardstick(call, 1.0))  # 3 or 6 calls fill a sixteenth of that time
    assert len(turns.whole) == len(turns.profiled) == len(turns.beside) == calls
    assert [turns.whole[place] for place in turns.quiet] == pytest.approx([ms] * len(turns.quiet))
    assert len(turns.quiet) >= 12


@pytest.mark.parametrize("threads", [1, 2])
def test_a_yardstick_is_timed_with_its_own_data_in_the_caches(monkeypatch, threads):
    """The clock is made up: whatever runs after something else takes twice as long."""
    now, last = 0.0, ""

    def run(name):
        nonlocal now, last
        now += 1e-3 if name == last else 2e-3
        last = name

    monkeypatch.setattr("leandet.cost.steps.clock_for", lambda threads: lambda: now)
    turns = take_turns(lambda: run("it"), lambda: run("it"), 0.1, threads, Yardstick(lambda: run("known"), 1.0))
    assert turns.beside == pytest.approx([1.0] * len(turns.whole))


def test_what_cannot_be_predicted_says_so():
    with pytest.raises(UserError, match="not for torch"):
        Predictor(EngineName.TORCH)

    class Odd(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x.cumsum(1)

    with pytest.raises(UserError, match=r"aten.cumsum cannot be predicted"):
        flow(Odd(), torch.zeros(1, 3, 8, 8))


def test_values_are_numbered_within_a_piece():
    for one in trace(nets.create("squeezenet1_1"), (SIDE, SIDE)):
        numbers = [i.number for o in one.piece.operations for i in o.inputs if isinstance(i, Value)]
        made = [n for o in one.piece.operations for n in o.outputs]
        assert set(numbers) <= set(range(len(one.reads) + len(made)))
