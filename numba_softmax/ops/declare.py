"""Declarations of ops: their operands, their fold, and what their results are made of.

All functions of an op are `lanewise`: they run once, while a kernel is compiled, on `Value` objects. So they choose by
`simd.select`, not by ``if``, and compute with the functions of `numba_softmax.math`. `number` is the type to compute
in; `scale` is None or as in `numba_softmax.math.weights`. An element that is masked or beyond the row's end does not
count: a fold reads it as -inf, and its numbers in `others` as 0; its result is replaced.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, NamedTuple

from .. import kernel_code
from ..math.folds import Fold

kernel_code.register()

Per = Literal["element", "row"]

Kind = Literal["number", "mask", "state"]
"""A mask says which elements count. A state is the result of a row's fold, stored in float64 to outlive a call."""


class Operand(NamedTuple):
    """An array that a kernel reads or writes: one number for each element, or some for each row."""

    name: str
    per: Per = "element"
    kind: Kind = "number"
    read: bool = True
    written: bool = False
    format: str = ""  # in memory: a name of `Stored`, with ">" before it for swapped bytes; "" if not known yet
    numbers: int = 1  # of a row; one number's values for all rows lie together
    masked: float = 0.0  # of results: where the mask is False


class Elements(NamedTuple):
    """Results for each element: made from the row's softmax, or from its elements."""

    of_softmax: bool  # if True, the fold must sum all weights, as `ALL` does
    prepare: Callable | None = None  # (number, state, row) -> the `numbers` numbers that `finish` needs of a row
    finish: Callable | None = None  # (v, others, prepared, scale) -> a tuple of results; None: they are the softmax
    numbers: int = 0


class Op(NamedTuple):
    """An operation.

    `row` has a tuple of numbers for each operand that is read once a row, and `state` is a tuple too: on the CPU
    in float64, on CUDA in the type to compute in. A row without a weight, masked or of -inf alone, has a `rest` of -1.
    """

    name: str
    operands: tuple[Operand, ...]  # `X`, which is folded, then the other inputs, then the results
    fold: Fold
    elements: Elements | None = None
    rows: Callable | None = None  # (state, row, scale) -> results of a row: for each operand a tuple of its numbers
    takes_scale: bool = True  # False if the scale changes nothing

    def __hash__(self) -> int:
        return hash(self.name)  # in a third of the time that all of it would take

    @property
    def inputs(self) -> tuple[Operand, ...]:
        """The operands that are read, except for mask and states."""
        return tuple(o for o in self.operands if o.read and o.kind == "number")

    @property
    def results(self) -> tuple[Operand, ...]:
        """The operands that are written."""
        return tuple(o for o in self.operands if o.written)

    @property
    def reduces(self) -> bool:
        """True if all results are numbers for rows, not for elements."""
        return self.elements is None


X = Operand("x")
WHERE = Operand("where", kind="mask")
STATE = Operand("state", "row", "state", format="float64", numbers=0)


def result(masked: float) -> Operand:
    """A result for each element; `masked` is that of masked elements."""
    return Operand("out", read=False, written=True, masked=masked)


def row_result(name: str = "out") -> Operand:
    """A result for each row."""
    return Operand(name, "row", read=False, written=True)
