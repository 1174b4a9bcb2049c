"""A network as ONNX's operations: what each computes, and who reads whose output."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

Shape = tuple[int, ...]
Attribute = int | float | str | tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Value:
    """A tensor that depends on the input: its number."""

    number: int


@dataclass(frozen=True, slots=True)
class Weight:
    """A tensor that does not: parameters, and what is computed from them alone. Its numbers do not matter."""

    shape: Shape


@dataclass(frozen=True, slots=True)
class Constant:
    """Numbers that decide what an operator does, such as a new shape."""

    numbers: tuple[int, ...] | tuple[float, ...]


Operand = Value | Weight | Constant


@dataclass(frozen=True, slots=True)
class Operation:
    """One ONNX operator.

    Attributes:
        op: its name.
        inputs: what it reads.
        outputs: numbers of the values that it makes.
        attributes: ONNX's, by name.
    """

    op: str
    inputs: tuple[Operand, ...]
    outputs: tuple[int, ...]
    attributes: tuple[tuple[str, Attribute], ...] = ()


@dataclass(frozen=True, slots=True)
class Flow:
    """A network's operations.

    Attributes:
        operations: in the order in which they run.
        modules: the innermost module in which each runs.
        shapes: of each value.
        integer: values that hold whole numbers: pixels, labels, indices.
        inputs, outputs: values that the network is given and that it answers.
    """

    operations: tuple[Operation, ...]
    modules: tuple[str, ...]
    shapes: Mapping[int, Shape]
    integer: frozenset[int]
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
