"""How an op is declared: its operands, its fold, and what its results are made of.

All functions of an op are `lanewise`: they run once, while a kernel is compiled, on `Value` objects. So they choose by
`simd.select`, not by ``if``, and compute with the functions of `numba_softmax.math`. `number` is the type to compute
in; `scale` is None or as in `numba_softmax.math.weights`. An element that is not to count, masked or beyond the row's
end, reads as -inf where it is folded, and as 0 in `others` there; its result is replaced.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, NamedTuple

from .. import kernel_code
from ..math.folds import Fold

kernel_code.register()

Per = Literal["element", "row"]

Kind = Literal["number", "mask", "state"]
"""A mask says which elements count. A state is what a fold has made of a row, as it outlives a call: in float64."""


class Operand(NamedTuple):
    """An array that a kernel reads or writes: one number for each element, or some for each row."""

    name: str
    per: Per = "element"
    kind: Kind = "number"
    read: bool = True
    written: bool = False
    format: str = ""  # in memory, a name of `Stored` after ">" for swapped bytes; "" until an array is there
    numbers: int = 1  # of a row, which lie as many numbers apart as there are rows
    masked: float = 0.0  # of results: where the mask is False


class Elements(NamedTuple):
    """Results an element: made of the row's softmax, or of its elements."""

    of_softmax: bool  # then the fold sums all weights, as `ALL` does
    prepare: Callable | None = None  # (number, state, row) -> what `finish` needs of a row, `numbers` numbers
    finish: Callable | None = None  # (v, others, prepared, scale) -> a tuple of results; None: they are the softmax
    numbers: int = 0


class Op(NamedTuple):
    """An operation.

    `row` are the numbers of the operands that are read a row, a tuple for each, and `state` is a tuple too: on the CPU
    in float64, on CUDA in the type to compute in. A row without a weight, masked or of -inf alone, has a `rest` of -1.
    """

    name: str
    operands: tuple[Operand, ...]  # `X`, which is folded, then what else is read, then results
    fold: Fold
    elements: Elements | None = None
    rows: Callable | None = None  # (state, row, scale) -> results a row: for each operand a tuple of numbers, or more
    takes_scale: bool = True  # whether the scale changes anything

    def __hash__(self) -> int:
        return hash(self.name)  # in a third of the time that all of it would take

    @property
    def inputs(self) -> tuple[Operand, ...]:
        """The operands, but for mask and states, that are read."""
        return tuple(o for o in self.operands if o.read and o.kind == "number")

    @property
    def results(self) -> tuple[Operand, ...]:
        """The operands that are written."""
        return tuple(o for o in self.operands if o.written)

    @property
    def reduces(self) -> bool:
        """Whether all results are numbers a row."""
        return self.elements is None


X = Operand("x")
WHERE = Operand("where", kind="mask")
STATE = Operand("state", "row", "state", format="float64", numbers=0)


def result(masked: float) -> Operand:
    """A result for each element, with what masked elements have."""
    return Operand("out", read=False, written=True, masked=masked)


def row_result(name: str = "out") -> Operand:
    """A result for each row."""
    return Operand(name, "row", read=False, written=True)
