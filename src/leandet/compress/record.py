"""Copies of a module with other tensors in it, and the run on labels."""

from __future__ import annotations

import copy
import traceback
from collections.abc import Callable
from dataclasses import is_dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves, tree_map

from leandet.compress.operations import find
from leandet.compress.trace import Recording, Tracer
from leandet.errors import UserError
from leandet.nets.mode import untouched

Inputs = Tensor | tuple[Any, ...]


def names_of(module: nn.Module) -> dict[int, str]:
    """Identity of each parameter and buffer -> its name; a shared one has its first name."""
    named = [*module.named_parameters(), *module.named_buffers()]
    return {id(tensor): name for name, tensor in named}


def clone(module: nn.Module, make: Callable[[str, Tensor], Tensor]) -> nn.Module:
    """A copy of the module whose parameters and buffers are what `make` returns for their name and tensor.

    Raises:
        UserError: if the module cannot be copied.
    """
    memo: dict[int, Any] = {}
    buffers = {id(b) for b in module.buffers()}
    with torch.no_grad():
        for name, tensor in [*module.named_parameters(), *module.named_buffers()]:
            made = make(name, tensor)
            memo[id(tensor)] = made if id(tensor) in buffers else nn.Parameter(made, tensor.requires_grad)
    try:
        return _copied(module, memo)
    except (RuntimeError, TypeError, ValueError) as error:
        raise UserError(f"the network cannot be copied ({error}): remove hooks and parametrisations first.") from error


def _copied(module: nn.Module, memo: dict[int, Any]) -> nn.Module:
    """As `copy.deepcopy`, without its walk through every module's dozen empty dictionaries of hooks."""
    if (known := memo.get(id(module))) is not None:
        return known  # type: ignore[no-any-return]
    if hasattr(module, "__deepcopy__"):
        return copy.deepcopy(module, memo)
    made = module.__new__(type(module))
    memo[id(module)] = made
    state: dict[str, Any] = {}
    for name, value in vars(module).items():
        if name == "_modules":
            parts = ((key, part if part is None else _copied(part, memo)) for key, part in value.items())
            state[name] = type(value)(parts)
        elif isinstance(value, dict) and not value:
            state[name] = memo.setdefault(id(value), value.copy())
        else:
            state[name] = copy.deepcopy(value, memo)
    made.__setstate__(state)  # type: ignore[no-untyped-call]
    return made


def on_meta(module: nn.Module) -> nn.Module:
    """A copy without numbers."""
    return clone(module, lambda _, tensor: torch.empty_like(tensor, device="meta"))


def record(module: nn.Module, example_input: Inputs, before: Recording | None = None) -> Recording:
    """Run the module once on labels.

    Args:
        module: on the meta device.
        example_input: its argument or arguments; only their shapes matter.
        before: what was recorded at the whole widths, where the module has others; see `Tracer`.

    Raises:
        UserError: if the module does not run on the meta device (it says where), or no tensors are seen in its answer.
    """
    arguments = example_input if isinstance(example_input, tuple) else (example_input,)
    arguments = tree_map(_to_meta, arguments)
    tracer = Tracer(names_of(module), before, find)
    try:
        with untouched(module), tracer.following(module), torch.device("meta"), tracer:
            outputs = module(*arguments)
    except Exception as error:  # a network's own code fails in any way it likes
        raise UserError(f"the network cannot be followed: {_where(error, tracer)}.") from error
    _check_outputs(outputs)
    tracer.finish(outputs)
    return tracer.recording


def _check_outputs(outputs: Any) -> None:
    """What cannot be seen can neither be kept as wide as it is nor compared."""
    leaves = tree_leaves(outputs)
    hidden = [type(leaf).__name__ for leaf in leaves if is_dataclass(leaf)]
    if hidden or not any(isinstance(leaf, Tensor) for leaf in leaves):
        what = f"an object of {hidden[0]}, in which no tensor" if hidden else "no tensor that"
        raise UserError(f"the network's answer is {what} can be seen: let it return tensors, tuples, lists or dicts.")


def _to_meta(value: Any) -> Any:
    return value.detach().to("meta") if isinstance(value, Tensor) else value


def _where(error: Exception, tracer: Tracer) -> str:
    """The last line of the network's own code that ran, its module and the error."""
    frames = [f for f in traceback.extract_tb(error.__traceback__) if "/torch/" not in f.filename]
    own = [f for f in frames if Path(f.filename).parent != Path(__file__).parent]
    place = f"{own[-1].filename}:{own[-1].lineno}, " if own else ""
    first = (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(".")
    return f"{place}module {tracer.failed or '(the whole)'}: {first}"
