"""The sums of up to `GROUP` blocks together, with lanes across the blocks.

Turning a block's sums into the factor of its weights is a long serial dependency chain, so up to 8 blocks are processed
side by side, in one vector of float64. Scratch memory at `room` has a line of `GROUP` numbers for each kind of number.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

from numba import float64

from ... import kernel_code
from ...math import online
from ...math.expmath import INF
from ...math.folds import merge_lanes, only, present, restored
from ...math.lanewise import Value, lanewise
from ...math.memory import load, store
from ...math.pairs import inverse, over
from ...math.simd import Vec, convert, lane, like, splat, widen
from ...math.weights import widen_scale
from ..spec import Spec, make_finisher
from .access import weights_for
from .basics import FLOAT64, GROUP
from .layout import make_row_numbers

kernel_code.register()

LINE = 8 * GROUP
"""Bytes of a line."""


class Group(NamedTuple):
    """`lanewise` functions over the sums of a group; see `make_group`."""

    nbytes: int  # of scratch memory
    clear: Callable  # (room): makes all blocks empty
    keep_sums: Callable  # (room, i, m, sums): stores those of block i
    keep_row: Callable  # (room, i, at, layout): stores the numbers that are read of block i's row
    prepare_rows: Callable  # (room, scale): prepares the finishers of rows of one block each
    prepare_blocks: Callable  # (room, scale): prepares those of the blocks of one row
    reduce_rows: Callable  # (room, scale): computes the numbers of rows of one block each, for `store_row`
    store_row: Callable  # (room, i, at, layout): writes them
    reduce_blocks: Callable  # (room, at, layout, scale): writes the numbers of the one row of all blocks
    state_of_blocks: Callable  # (room, scale) -> the state of the one row of all blocks
    finisher_at: Callable  # (room, i) -> the numbers of block i's finisher
    maximum_at: Callable  # (room, i) -> the block's own maximum
    against_at: Callable  # (room, i) -> the maximum to subtract in the block's weights


class _Memory:
    """The lines of a group: their offsets, and access to their numbers. It exists only while a kernel is compiled."""

    def __init__(self, spec: Spec) -> None:
        self.spec, self.fold, self.vec = spec, spec.op.fold, Vec(float64, GROUP)
        self.finisher, self.unit_of = make_finisher(spec), weights_for(spec).unit_of
        lines = iter(range(0, 1 << 16, LINE))
        self.m_at, self.against_at = next(lines), next(lines)
        self.sums_at = [next(lines) for there in present(self.fold.sums, spec.two_parts) if there]
        self.finisher_at = [next(lines) for _ in range(self.finisher.numbers)]
        self.inputs_at = [[next(lines) for _ in range(spec.operands[i].numbers)] for i in spec.row_inputs]
        self.results_at = [[next(lines) for _ in range(spec.operands[i].numbers)] for i in spec.row_results]
        self.nbytes = next(lines)

    def keep(self, at: Value, lines: Iterable[int], numbers: Iterable[Value]) -> None:
        """Store a number, or a vector of them, in each line."""
        for line, number in zip(lines, numbers, strict=False):
            store(FLOAT64, at + line, widen(number))

    def get(self, room: Value, lines: Iterable[int]) -> tuple[Value, ...]:
        """The vectors of all blocks' numbers."""
        return tuple(load(self.vec, FLOAT64, room + line) for line in lines)

    def get_one(self, room: Value, i: Value, lines: Iterable[int]) -> tuple[Value, ...]:
        """The numbers of a block."""
        return tuple(load(float64, FLOAT64, room + i * 8 + line) for line in lines)

    def maxima(self, room: Value) -> Value:
        """The blocks' maxima."""
        return self.get(room, [self.m_at])[0]

    def sums(self, room: Value) -> tuple[Any, ...]:
        """The sums of all blocks."""
        return restored(self.fold.sums, self.spec.two_parts, self.get(room, self.sums_at))

    def states(self, room: Value, scale: Any) -> tuple[Any, ...]:
        """The states of all blocks."""
        m = self.maxima(room)
        return self.fold.block_state(m, self.sums(room), self.unit_of(m, scale))

    def state(self, room: Value, scale: Any) -> tuple[Any, ...]:
        """The state of the one row of all blocks, in every lane."""
        return merge_lanes(self.fold, self.states(room, scale), widen_scale(scale))

    def row(self, room: Value) -> tuple[Any, ...]:
        """The numbers of all blocks' rows."""
        return tuple(self.get(room, lines) for lines in self.inputs_at)

    def prepare(self, room: Value, share: Any, state: Any) -> None:
        """Prepare the finishers of all blocks, and store their numbers."""
        self.keep(room, self.finisher_at, self.finisher.prepare(share, state, self.row(room)))


@functools.cache
def make_group(spec: Spec) -> Group:
    """The functions for a kernel's fold and results."""
    op, number, memory, row_numbers = spec.op, spec.number, _Memory(spec), make_row_numbers(spec)

    @lanewise
    def clear(room):
        zero = splat(memory.vec, like(room, 0).cast(float64))
        memory.keep(room, [memory.m_at], [like(zero, -INF)])
        memory.keep(room, memory.sums_at, [zero] * len(memory.sums_at))

    @lanewise
    def keep_sums(room, i, m, sums):
        memory.keep(room + i * 8, [memory.m_at, *memory.sums_at], [m, *only(sums)])

    @lanewise
    def keep_row(room, i, at, layout):
        for lines, numbers in zip(memory.inputs_at, row_numbers.load(at, layout), strict=True):
            memory.keep(room + i * 8, lines, numbers)

    @lanewise
    def prepare_rows(room, scale):
        share = inverse(*memory.sums(room)[:2]) if spec.of_softmax else None
        memory.prepare(room, share, memory.states(room, scale))
        memory.keep(room, [memory.against_at], [memory.maxima(room)])

    @lanewise
    def prepare_blocks(room, scale):
        m, state, share = memory.maxima(room), memory.state(room, scale), None
        if spec.of_softmax:
            m, share = online.rescaled_share(m, state, widen_scale(scale))
            share = over(share, memory.unit_of(m, scale))
        memory.prepare(room, share, state)
        memory.keep(room, [memory.against_at], [m])

    @lanewise
    def reduce_rows(room, scale):
        numbers = op.rows(memory.states(room, scale), memory.row(room), widen_scale(scale))
        for lines, values in zip(memory.results_at, numbers, strict=True):
            memory.keep(room, lines, values)

    @lanewise
    def store_row(room, i, at, layout):
        row_numbers.store(at, layout, [memory.get_one(room, i, lines) for lines in memory.results_at])

    @lanewise
    def state_of_blocks(room, scale):
        return tuple(None if v is None else lane(v, 0) for v in memory.state(room, scale))

    @lanewise
    def reduce_blocks(room, at, layout, scale):
        state = state_of_blocks(room, scale)
        row_numbers.store(at, layout, op.rows(state, row_numbers.load(at, layout), widen_scale(scale)))

    @lanewise
    def finisher_at(room, i):
        return tuple(convert(number, v) for v in memory.get_one(room, i, memory.finisher_at))

    @lanewise
    def maximum_at(room, i):
        return memory.get_one(room, i, [memory.m_at])[0]

    @lanewise
    def against_at(room, i):
        return convert(number, memory.get_one(room, i, [memory.against_at])[0])

    return Group(
        memory.nbytes, clear, keep_sums, keep_row, prepare_rows, prepare_blocks, reduce_rows, store_row, reduce_blocks,
        state_of_blocks, finisher_at, maximum_at, against_at,
    )  # fmt: skip
