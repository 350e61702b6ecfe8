"""Ops on states that outlive a call: they fold elements into states, merge states, and make results from them.

All public functions share one kind of state, so blocks are folded into it only once for all kinds of results.
"""

from __future__ import annotations

import functools
from collections.abc import Callable

from .. import kernel_code
from ..math import online
from ..math.folds import ALL, OTHERS, Fold, from_stored, merge_states, to_stored
from ..math.lanewise import lanewise
from ..math.simd import divide
from .declare import STATE, WHERE, Op, Operand, row_result

kernel_code.register()

MADE = STATE._replace(read=False, written=True)
MERGED = STATE._replace(name="merged", written=True)
NUMBER = Operand("number", "row", format="float64")


def lasting(fold: Fold) -> Fold:
    """The fold of states that outlive a call: its states are precise enough for all results."""
    return OTHERS if fold == ALL else fold


@functools.cache
def _give_state(fold: Fold) -> Callable:
    @lanewise
    def rows(state, row, scale):
        return (to_stored(fold, state),)

    return rows


@functools.cache
def folding(op: Op) -> Op:
    """The op that folds an op's elements into states."""
    fold = lasting(op.fold)
    elements = (o for o in op.inputs if o.per == "element")
    return Op(_name("fold", op), (*elements, WHERE, MADE), fold, rows=_give_state(fold))


@functools.cache
def identity(op: Op) -> Op:
    """The op that gives states of no elements."""
    fold = lasting(op.fold)
    return Op(_name("identity", op), (MADE,), fold, rows=_give_state(fold), takes_scale=False)


@functools.cache
def moving(op: Op) -> Op:
    """The op that copies states to memory where they lie in another order."""
    fold = lasting(op.fold)
    return Op(_name("move", op), (STATE, MADE), fold, rows=_give_state(fold), takes_scale=False)


@functools.cache
def _merge_with_state(fold: Fold) -> Callable:
    @lanewise
    def rows(state, row, scale):
        (numbers,) = row
        merged = from_stored(fold, state[0].type, state[2] is not None, numbers)
        return (to_stored(fold, merge_states(fold, merged, state, scale)),)

    return rows


@functools.cache
def merging(op: Op) -> Op:
    """The op that merges states into others."""
    fold = lasting(op.fold)
    return Op(_name("merge", op), (STATE, MERGED), fold, rows=_merge_with_state(fold))


@functools.cache
def finishing(op: Op) -> Op:
    """The op that gives an op's results for elements whose rows' states are given."""
    operands = [o for o in op.operands if not (o.written and o.per == "row")]
    return op._replace(operands=(*operands, STATE), rows=None)


@functools.cache
def reading(op: Op) -> Op:
    """The op that gives an op's results for rows whose states are given."""
    operands = (o for o in op.operands if o.per == "row")
    return op._replace(operands=(STATE, *operands), elements=None)


@functools.cache
def summing(op: Op) -> Op:
    """The op that gives the sums of states, in one part."""
    return Op(_name("l", op), (STATE, row_result()), lasting(op.fold), rows=finish_l, takes_scale=False)


def _name(name: str, op: Op) -> str:
    return name if lasting(op.fold) is OTHERS else f"{name} of {op.name}"


@lanewise
def finish_m(state, row, scale):
    """The maximum as an element of `x` is: a state keeps it with the scale's sign, and maybe halved."""
    ((m,),) = row
    return ((m if scale is None else divide(m, scale[0]),),)


@lanewise
def finish_copy(state, row, scale):
    """The number; with a scale, in the form in which a state keeps a maximum: the inverse of `finish_m`."""
    ((number,),) = row
    return ((number if scale is None else number * scale[0],),)


@lanewise
def finish_l(state, row, scale):
    """The sum, in one part."""
    l, l_lo = online.sum_of(state[1], state[2])
    return ((l if l_lo is None else l + l_lo,),)


NUMBER_OPS = {
    op.name: op
    for op in (
        Op("copy", (NUMBER, row_result()), OTHERS, rows=finish_copy),
        Op("m", (NUMBER, row_result()), OTHERS, rows=finish_m),
    )
}
"""The ops that read or write single numbers of states."""
