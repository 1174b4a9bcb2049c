"""Follows a network, operation by operation, and writes it down in ONNX's words.

The network runs once on the meta device, so this takes a fraction of a second at any widths; an export takes many.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch._ops import OpOverload
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from leandet.cost.flow import Flow, Value
from leandet.cost.onnx_operators import WRITERS, Notes
from leandet.errors import UserError
from leandet.nets.mode import untouched


def flow(module: nn.Module, example_input: Tensor) -> Flow:
    """Follow a network once in evaluation mode, batch-norms folded into the convolutions before them.

    Args:
        module: the network, left as it was.
        example_input: its argument; only shape and type matter.

    Raises:
        UserError: if it has an operation that is not known here.
    """
    on_meta = copy.deepcopy(module).to("meta")
    notes = Notes()
    image = torch.empty_like(example_input, device="meta")
    start = notes.value(image)
    _keep_track(on_meta, notes)
    with untouched(on_meta), torch.device("meta"), _Follower(notes):
        answer = on_meta(image)
    ends = [notes.operand(leaf) for leaf in tree_leaves(answer) if isinstance(leaf, Tensor)]
    return Flow(
        tuple(notes.operations),
        tuple(notes.modules),
        notes.shapes,
        frozenset(notes.integer),
        (start.number,),
        tuple(end.number for end in ends if isinstance(end, Value)),
    )


def _keep_track(module: nn.Module, notes: Notes) -> None:
    """Say which part of a module runs, by hooks that stay: it is a copy that nobody else uses."""
    stack = [""]

    def enter(name: str) -> None:
        stack.append(name)
        notes.module = name

    def leave(*_: object) -> None:  # whatever a hook returns would replace the module's output
        stack.pop()
        notes.module = stack[-1]

    for name, part in module.named_modules():
        part.register_forward_pre_hook(lambda *_, name=name: enter(name))
        part.register_forward_hook(leave)


class _Follower(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Sees every ATen operation and notes the ONNX operators that stand for it."""

    def __init__(self, notes: Notes) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._notes = notes

    def __torch_dispatch__(
        self,
        func: OpOverload,
        types: Iterable[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """Run the operation and write it down, unless it reads no value."""
        named = dict(kwargs or {})
        result = func(*args, **named)
        tensors = [leaf for leaf in tree_leaves((args, named)) if isinstance(leaf, Tensor)]
        if any(self._notes.knows(tensor) for tensor in tensors):
            write = WRITERS.get(func.overloadpacket)
            if write is None:
                raise UserError(f"the latency of {func.overloadpacket} cannot be predicted yet: measure the network.")
            write(self._notes, args, named, result)
        return result
