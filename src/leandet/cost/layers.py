"""The lines of a profile: each step of the engine with what the counter says of the operations inside it."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from leandet.cost.count import LEARNT, Kind, Row
from leandet.cost.graph import Graph, Node, common
from leandet.cost.steps import Step

REORDER = "layout reorder"
UNSEEN = "folded away"

# Which counted operations an ONNX operator may stand for; an operator that is not here stands for any element-wise one.
_LEARNT = LEARNT | {Kind.MATMUL, Kind.NORM}  # a batch-norm folded into the weights before it
_STANDS_FOR: dict[str, frozenset[Kind]] = {
    **dict.fromkeys(("Conv", "Gemm", "MatMul", "QLinearConv", "ConvInteger", "QLinearMatMul"), frozenset(_LEARNT)),
    "BatchNormalization": frozenset({Kind.NORM}),
    "Concat": frozenset({Kind.CONCAT}),
    **dict.fromkeys(
        ("MaxPool", "AveragePool", "GlobalAveragePool", "GlobalMaxPool"), frozenset({Kind.POOL, Kind.REDUCE})
    ),
    **dict.fromkeys(("ReduceMean", "ReduceSum", "ReduceMax"), frozenset({Kind.POOL, Kind.REDUCE})),
    **dict.fromkeys(("Reshape", "Transpose", "Identity", "Cast", "Expand"), frozenset({Kind.COPY})),
    "Resize": frozenset({Kind.RESIZE}),
    **dict.fromkeys(("Split", "Slice", "Shape", "Constant", "Flatten", "Squeeze", "Unsqueeze"), frozenset()),
    **dict.fromkeys(
        ("TopK", "ArgMax", "Gather", "GatherElements", "GatherND", "ScatterND", "Range"), frozenset({Kind.OTHER})
    ),
}
_ELSE = frozenset({Kind.ELEMENTWISE})


@dataclass(frozen=True, slots=True)
class Layer:
    """One step that a runtime ran, which may fuse several operations, or move data between two layouts.

    Attributes:
        module: the module whose weights it applies, else the one whose code it is; "" for the whole network's own code.
        modules: every module that has an operation in it.
        operations: what it does, in order, such as "1x1 conv + batch norm + Relu".
        kernel: the runtime's own word for what it runs.
        output: shape of its output, () where it is not known.
        parameters, multiply_adds, activations, memory_access_bytes: the counter's sums over its operations.
        traffic_bytes: bytes that the fused step must read and write, its inner tensors left out; of the types that the
            runtime's graph holds, so that an 8-bit tensor counts a quarter of a float32 one.
        ms: mean milliseconds over the quieter half of the calls.
    """

    module: str
    modules: tuple[str, ...]
    operations: str
    kernel: str
    output: tuple[int, ...]
    parameters: int
    multiply_adds: int
    activations: int
    memory_access_bytes: int
    traffic_bytes: int
    ms: float

    @property
    def intensity(self) -> float:
        """Arithmetic intensity: floating-point operations for each byte of traffic (two for a multiply-add)."""
        return 2 * self.multiply_adds / self.traffic_bytes if self.traffic_bytes else 0.0

    @property
    def gflops(self) -> float:
        """10^9 floating-point operations a second that it reached; a multiply-add is two."""
        return 2 * self.multiply_adds / (self.ms * 1e6) if self.ms else 0.0

    @property
    def gb_s(self) -> float:
        """10^9 bytes of traffic a second that it reached."""
        return self.traffic_bytes / (self.ms * 1e6) if self.ms else 0.0


def layers_of(graph: Graph, rows: Sequence[Row], steps: Sequence[Step]) -> list[Layer]:
    """Join what an engine ran with what was counted.

    Every row of the counter lands in exactly one layer, so the layers' sums are the counter's. Operations that the
    runtime or the exporter folded away are in a last layer without time.

    Args:
        graph: what the engine was given.
        rows: the counter's, for the same module and input.
        steps: the engine's, in order.
    """
    inside = _inside(graph, steps)
    claims = _Claims(rows)
    claimed = {name: claims.take(node, graph) for name, node in graph.nodes.items()}
    homes = {name: index for index, names in enumerate(inside) for name in names}
    parts: list[list[Row]] = [[row for name in names for row in claimed[name]] for names in inside]
    leftover = claims.left([row for name, found in claimed.items() if name not in homes for row in found])
    made = [
        _reorder(graph, step) if not step.anchors else _layer(graph, step, names, own)
        for step, names, own in zip(steps, inside, parts, strict=True)
    ]
    if leftover:
        made.append(_unseen(leftover))
    return made


def _inside(graph: Graph, steps: Sequence[Step]) -> list[list[str]]:
    """For each step the graph's nodes in it: its anchors, and back from them whatever no other step makes."""
    owner: dict[str, int] = {}
    for index, step in enumerate(steps):
        for name in step.anchors:
            owner.setdefault(name, index)
    groups: list[list[str]] = [[] for _ in steps]
    for index, step in enumerate(steps):
        waiting = [name for name in step.anchors if owner[name] == index]
        while waiting:
            name = waiting.pop()
            groups[index].append(name)
            for tensor in graph.nodes[name].inputs:
                before = graph.producer.get(tensor)
                if before is not None and before.name not in owner:
                    owner[before.name] = index
                    waiting.append(before.name)
    order = {name: place for place, name in enumerate(graph.nodes)}
    return [sorted(names, key=order.__getitem__) for names in groups]


class _Claims:
    """The counter's rows, handed out to the graph's nodes: of the same module, kind and, if possible, shape."""

    def __init__(self, rows: Sequence[Row]) -> None:
        self._rows: dict[str, list[Row]] = defaultdict(list)
        for row in rows:
            self._rows[row.module].append(row)

    def take(self, node: Node, graph: Graph) -> list[Row]:
        """The rows that a node stands for, at most one of each module; they are not handed out again."""
        kinds = _STANDS_FOR.get(node.op, _ELSE)
        shape = graph.shape(node.outputs[0]) if node.outputs else ()
        taken = []
        for module in node.modules:
            rows = self._rows[module]
            fitting = [row for row in rows if row.kind in kinds]
            best = next((row for row in fitting if row.output == shape), fitting[0] if fitting else None)
            if best is not None:
                rows.remove(best)
                taken.append(best)
        return taken

    def left(self, unplaced: Iterable[Row]) -> list[Row]:
        """The rows that nobody took, and those of nodes that no step holds."""
        return [*unplaced, *(row for rows in self._rows.values() for row in rows)]


def _layer(graph: Graph, step: Step, names: list[str], rows: list[Row]) -> Layer:
    nodes = [graph.nodes[name] for name in names]
    modules = tuple(dict.fromkeys(module for node in nodes for module in node.modules))
    weighted = [owner for node in nodes for owner in node.owners]
    output = graph.shape(nodes[-1].outputs[0]) if nodes else ()
    module = weighted[0] if weighted else common(modules)
    return _summed(rows, module, modules, _words(nodes, rows), step, output, graph.traffic(names))


def _summed(
    rows: Sequence[Row],
    module: str,
    modules: tuple[str, ...],
    operations: str,
    step: Step,
    output: tuple[int, ...],
    traffic: int,
) -> Layer:
    return Layer(
        module=module,
        modules=modules,
        operations=operations,
        kernel=step.kernel,
        output=output,
        parameters=sum(row.parameters for row in rows),
        multiply_adds=sum(row.multiply_adds for row in rows),
        activations=sum(row.activations for row in rows),
        memory_access_bytes=sum(row.memory_access_bytes for row in rows),
        traffic_bytes=traffic,
        ms=step.ms,
    )


def _words(nodes: Sequence[Node], rows: Sequence[Row]) -> str:
    """What the nodes do: the counter's word where it has one that says more, else ONNX's."""
    convs = [str(row.kind) for row in rows if row.kind in LEARNT]
    words = []
    for node in nodes:
        words.append(convs.pop(0) if node.op in {"Conv", "Gemm"} and convs else node.op)
        if node.op == "Conv" and any(row.kind is Kind.NORM for row in rows):
            words.append(str(Kind.NORM))
    return " + ".join(words)


def _reorder(graph: Graph, step: Step) -> Layer:
    node = graph.nodes.get(step.near or "")
    tensor = node.outputs[0] if node else graph.inputs[0]
    module = next(iter(node.owners or node.modules), "") if node else ""
    return _summed((), module, (), REORDER, step, graph.shape(tensor), 2 * graph.bytes_of(tensor))


def _unseen(rows: Sequence[Row]) -> Layer:
    modules = tuple(dict.fromkeys(row.module for row in rows))
    return _summed(rows, common(modules), modules, UNSEEN, Step("", "", (), None, 0.0), (), 0)
