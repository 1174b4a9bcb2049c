"""Which changes make a network faster in a runtime: looked up in the table of pieces, then measured side by side."""

from __future__ import annotations

import dataclasses
import re
from collections import Counter
from collections.abc import Callable, Iterable, Sequence

import torch
from torch import nn

from leandet import nets
from leandet.advise.advice import Advice, Guideline
from leandet.advise.fragments import Fragments, fragments
from leandet.advise.widths import Proposal, Widths
from leandet.compress.channels import analyse
from leandet.compress.latencies import Latencies
from leandet.cost.count import count
from leandet.cost.flow import Operation, Value
from leandet.cost.latency import Milliseconds, Predictor, trace
from leandet.cost.pieces import Piece, Placed

LEAST_GAIN = 0.005  # of the network's time: less is noise
GROUPED = re.compile(r"(?<=_g)\d+(?=_)")  # the number of groups in a backbone's name
DEAR = {"HardSwish": "Relu"}  # activations, and cheaper ones in their place
MOST = 12  # proposals that are measured side by side, the most promising ones

Tell = Callable[[str], None]


def advise(
    module: nn.Module,
    size: tuple[int, int],
    predictor: Predictor,
    *,
    backbone: str | None = None,
    inside: str = "",
    pixels: bool = False,
    tell: Tell = lambda _: None,
) -> list[Advice]:
    """Advice for a network, the largest gain first; what gains nothing when measured is not given.

    Args:
        module: the whole network; left as it was.
        size: H and W of its input in pixels.
        predictor: measures in its runtime.
        backbone: its name, where another of its family may be built instead.
        inside: a submodule from inside of which modules are named, such as "detector".
        pixels: whether it takes uint8 pixels instead of floats.
        tell: told what is going on.

    Raises:
        UserError: if the module cannot be followed.
    """
    example = torch.empty(1, 3, *size, dtype=torch.uint8 if pixels else torch.float32, device="meta")
    structure = analyse(module, example)
    tell(f"following {len(structure.groups)} channel groups")
    latencies = Latencies(predictor, module, structure, size, pixels=pixels)
    network_ms = latencies.predict({})
    placed, work = trace(module, size, pixels=pixels), _work(module, example)
    found = [
        *_width_advice(latencies, Widths(module, structure), predictor, network_ms, tell),
        *_fragment_advice(fragments(placed), predictor, network_ms, work),
        *_elementwise_advice(placed, predictor, network_ms, work),
    ]
    if backbone is not None:
        found += _group_advice(backbone, size, predictor, tell)
    named = [advice.named_from(f"{inside}.") for advice in found] if inside else found
    return sorted(named, key=lambda advice: advice.gain, reverse=True)


def _work(module: nn.Module, example: torch.Tensor) -> int:
    return count(module, torch.zeros(example.shape, dtype=example.dtype)).multiply_adds


# ---------------------------------------------------------------- widths: G1 and alignment


def _width_advice(
    latencies: Latencies, widths: Widths, predictor: Predictor, network_ms: Milliseconds, tell: Tell
) -> list[Advice]:
    proposals = [p for p in widths.proposals() if set(p.steps) <= set(latencies.groups)]
    tell(f"trying {len(proposals)} other widths of the same multiply-adds")
    predicted = latencies.predict_all([p.steps for p in proposals])
    best: dict[tuple[Guideline, str], tuple[Milliseconds, Proposal]] = {}
    for ms, proposal in zip(predicted, proposals, strict=True):
        key = proposal.guideline, proposal.group
        if network_ms - ms >= LEAST_GAIN * network_ms and (key not in best or ms < best[key][0]):
            best[key] = ms, proposal
    found = []
    for _, proposal in sorted(best.values(), key=lambda pair: pair[0])[:MOST]:
        tell(f"measuring {proposal.group} side by side")
        before, after = side_by_side(predictor, latencies.pieces({}), latencies.pieces(proposal.steps))
        new, old = widths.widths(proposal.steps), widths.now(proposal.steps)
        change = ", ".join(f"{name} {old[name]} -> {width} channels" for name, width in new.items())
        work = (int(widths.multiply_adds), widths.cost(proposal.steps))
        found.append(Advice(proposal.guideline, proposal.group, change, before, after, network_ms, work, widths=new))
    return [advice for advice in found if advice.gain >= LEAST_GAIN]


def side_by_side(
    predictor: Predictor, before: Sequence[Piece], after: Sequence[Piece]
) -> tuple[Milliseconds, Milliseconds]:
    """Milliseconds of what differs between two networks, measured anew in one graph."""
    old, new = Counter(piece.text for piece in before), Counter(piece.text for piece in after)
    gone, come = old - new, new - old
    texts = [*gone, *come]
    entries = dict(zip(texts, predictor.measure([Piece.parse(text) for text in texts]), strict=True))

    def total(part: Counter[str]) -> Milliseconds:
        return sum(entries[text].total * times for text, times in part.items())

    return total(gone), total(come)


# ---------------------------------------------------------------- fragments: G3


def _fragment_advice(
    some: Sequence[Fragments], predictor: Predictor, network_ms: Milliseconds, work: int
) -> list[Advice]:
    """One convolution instead of several beside each other; the split behind it is part of what it costs."""
    found = []
    for one in some:
        before, after = side_by_side(predictor, [placed.piece for placed in one.placed], one.merged)
        modules = [placed.modules[0] for placed in one.placed]
        change = f"one convolution instead of {len(modules)}: {', '.join(modules)}"
        found.append(Advice(Guideline.FEW_FRAGMENTS, modules[0], change, before, after, network_ms, (work, work)))
    return [advice for advice in found if advice.gain >= LEAST_GAIN]


# ---------------------------------------------------------------- element-wise operations: G4


def _elementwise_advice(
    placed: Sequence[Placed], predictor: Predictor, network_ms: Milliseconds, work: int
) -> list[Advice]:
    """Cheaper activations, and no residual sums: what each kind costs altogether."""
    found = []
    for op, cheaper in DEAR.items():
        changed = [one for one in placed if any(o.op == op for o in one.piece.operations)]
        instead = [_swapped(one.piece, op, cheaper) for one in changed]
        words = f"{cheaper} instead of {op}"
        found += _one_elementwise(words, op, changed, instead, predictor, network_ms, work)
    sums = [one for one in placed if one.piece.computes and _is_sum(one.piece)]
    plain = [_without_sum(one.piece) for one in sums]
    found += _one_elementwise("no residual sum", "Add", sums, plain, predictor, network_ms, work)
    return found


def _one_elementwise(
    words: str,
    op: str,
    changed: Sequence[Placed],
    instead: Sequence[Piece],
    predictor: Predictor,
    network_ms: Milliseconds,
    work: int,
) -> list[Advice]:
    if not changed:
        return []
    before, after = side_by_side(predictor, [one.piece for one in changed], instead)
    modules = [m for one in changed for o, m in zip(one.piece.operations, one.modules, strict=True) if o.op == op]
    where = modules[0] if len(modules) == 1 else f"{modules[0]} and in {len(modules) - 1} more, to {modules[-1]}"
    advice = Advice(
        Guideline.FEW_ELEMENTWISE, modules[0], f"{words} in {where}", before, after, network_ms, (work, work)
    )
    return [advice] if advice.gain >= LEAST_GAIN else []


def _swapped(piece: Piece, op: str, cheaper: str) -> Piece:
    operations = tuple(Operation(cheaper, o.inputs, o.outputs) if o.op == op else o for o in piece.operations)
    return dataclasses.replace(piece, operations=operations)


def _is_sum(piece: Piece) -> bool:
    """Whether the piece adds a tensor that another one made to its own."""
    read = {port.number for port in piece.inputs}
    last = piece.operations[-1] if piece.operations[-1].op == "Add" else None
    return (
        last is not None
        and len(piece.inputs) > 1
        and any(isinstance(operand, Value) and operand.number in read for operand in last.inputs)
    )


def _without_sum(piece: Piece) -> Piece:
    """The piece that ends before its sum."""
    last, read = piece.operations[-1], {port.number for port in piece.inputs}
    own = next(o.number for o in last.inputs if isinstance(o, Value) and o.number not in read)
    rest = piece.operations[:-1]
    used = {i.number for o in rest for i in o.inputs if isinstance(i, Value)}
    outputs = tuple(dataclasses.replace(port, number=own) for port in piece.outputs)
    return Piece(rest, tuple(port for port in piece.inputs if port.number in used), outputs, piece.computes)


# ---------------------------------------------------------------- groups: G2


def _group_advice(backbone: str, size: tuple[int, int], predictor: Predictor, tell: Tell) -> Iterable[Advice]:
    """The same design with other numbers of groups: its paper gives them about the same multiply-adds.

    Every layer changes, so whole networks are measured: the best of those that the table of pieces promises.
    """
    siblings = {GROUPED.sub(str(g), backbone) for g in range(1, 9)} & set(nets.TABLE)
    if len(siblings) < 2:
        return []
    tell(f"trying {len(siblings) - 1} other numbers of groups")
    predicted = {name: predictor.predict(nets.create(name), size) for name in sorted(siblings)}
    best = min(predicted, key=predicted.__getitem__)
    if predicted[backbone] - predicted[best] < LEAST_GAIN * predicted[backbone]:
        return []
    tell(f"measuring {best} and {backbone} in turns")
    pair = [nets.create(name).eval() for name in (backbone, best)]
    before, after = predictor.measure_whole(pair, size)
    work, instead = (_work(network, torch.zeros(1, 3, *size)) for network in pair)
    change = f"build {best} instead of {backbone}"
    advice = Advice(Guideline.FEW_GROUPS, "(network)", change, before, after, before, (work, instead), backbone=best)
    return [advice] if advice.gain >= LEAST_GAIN else []
