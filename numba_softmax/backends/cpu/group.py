"""The sums of up to `GROUP` blocks together, with lanes across the blocks.

Turning a block's sums into what its weights are multiplied by is a long chain of dependent steps; so those of up to 8
blocks are taken side by side, in one vector of float64. Scratch memory at `room` has a line of `GROUP` numbers for each
kind of number.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import NamedTuple

from numba import float64

from ... import kernel_code
from ...math import online
from ...math.expmath import INF
from ...math.folds import merge_lanes, only, present, restored
from ...math.lanewise import lanewise
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
    clear: Callable  # (room): all blocks are empty
    keep_sums: Callable  # (room, i, m, sums): those of block i
    keep_row: Callable  # (room, i, at, layout): the numbers of block i's row that are read
    prepare_rows: Callable  # (room, scale): of rows of one block each, what their results are made with
    prepare_blocks: Callable  # (room, scale): the same of the blocks of one row
    reduce_rows: Callable  # (room, scale): the numbers of rows of one block each, for `store_row`
    store_row: Callable  # (room, i, at, layout): writes them
    reduce_blocks: Callable  # (room, at, layout, scale): writes the numbers of the one row of all blocks
    state_of_blocks: Callable  # (room, scale) -> the state of the one row of all blocks
    finisher_at: Callable  # (room, i) -> what the results of block i are made with
    maximum_at: Callable  # (room, i) -> the block's own maximum
    against_at: Callable  # (room, i) -> the maximum that its weights are to be taken against


@functools.cache
def make_group(spec: Spec) -> Group:
    """The functions for a kernel's fold and results."""
    op, number, vec, fold = spec.op, spec.number, Vec(float64, GROUP), spec.op.fold
    finisher, unit_of, row_numbers = make_finisher(spec), weights_for(spec).unit_of, make_row_numbers(spec)
    counts = [spec.operands[i].numbers for i in spec.row_inputs]
    results = [spec.operands[i].numbers for i in spec.row_results]

    lines = iter(range(0, 1 << 16, LINE))
    m_at, against_at = next(lines), next(lines)
    sums_at = [next(lines) for there in present(fold.sums, spec.two_parts) if there]
    finisher_at = [next(lines) for _ in range(finisher.numbers)]
    inputs_at = [[next(lines) for _ in range(count)] for count in counts]
    results_at = [[next(lines) for _ in range(count)] for count in results]

    def keep(at, value):
        store(FLOAT64, at, widen(value))

    def get(at):
        return load(vec, FLOAT64, at)

    def number_at(room, i, line):
        return load(float64, FLOAT64, room + i * 8 + line)

    def sums_of(room):
        return restored(fold.sums, spec.two_parts, [get(room + line) for line in sums_at])

    def row_of(room):
        return tuple(tuple(get(room + line) for line in lines) for lines in inputs_at)

    def states_of(room, scale):
        m = get(room + m_at)
        return fold.block_state(m, sums_of(room), unit_of(m, scale))

    def keep_prepared(room, prepared):
        for line, value in zip(finisher_at, prepared, strict=True):
            keep(room + line, value)

    @lanewise
    def clear(room):
        zero = splat(vec, like(room, 0).cast(float64))
        store(FLOAT64, room + m_at, like(zero, -INF))
        for line in sums_at:
            store(FLOAT64, room + line, zero)

    @lanewise
    def keep_sums(room, i, m, sums):
        keep(room + i * 8 + m_at, m)
        for line, value in zip(sums_at, only(sums), strict=True):
            keep(room + i * 8 + line, value)

    @lanewise
    def keep_row(room, i, at, layout):
        for lines, numbers in zip(inputs_at, row_numbers.load(at, layout), strict=True):
            for line, value in zip(lines, numbers, strict=True):
                keep(room + i * 8 + line, value)

    @lanewise
    def prepare_rows(room, scale):
        share = inverse(*sums_of(room)[:2]) if spec.of_softmax else None
        keep_prepared(room, finisher.prepare(share, states_of(room, scale), row_of(room)))
        keep(room + against_at, get(room + m_at))

    @lanewise
    def prepare_blocks(room, scale):
        m, state = get(room + m_at), merge_lanes(fold, states_of(room, scale), widen_scale(scale))
        share = None
        if spec.of_softmax:
            m, share = online.rescaled_share(m, state, widen_scale(scale))
            share = over(share, unit_of(m, scale))
        keep_prepared(room, finisher.prepare(share, state, row_of(room)))
        keep(room + against_at, m)

    @lanewise
    def reduce_rows(room, scale):
        numbers = op.rows(states_of(room, scale), row_of(room), widen_scale(scale))
        for lines, values in zip(results_at, numbers, strict=True):
            for line, value in zip(lines, values, strict=False):
                keep(room + line, value)

    @lanewise
    def store_row(room, i, at, layout):
        numbers = tuple(tuple(number_at(room, i, line) for line in lines) for lines in results_at)
        row_numbers.store(at, layout, numbers)

    @lanewise
    def state_of_blocks(room, scale):
        state = merge_lanes(fold, states_of(room, scale), widen_scale(scale))
        return tuple(None if v is None else lane(v, 0) for v in state)

    @lanewise
    def reduce_blocks(room, at, layout, scale):
        state = state_of_blocks(room, scale)
        row_numbers.store(at, layout, op.rows(state, row_numbers.load(at, layout), widen_scale(scale)))

    @lanewise
    def finisher_of(room, i):
        return tuple(convert(number, number_at(room, i, line)) for line in finisher_at)

    @lanewise
    def maximum_of(room, i):
        return number_at(room, i, m_at)

    @lanewise
    def against_of(room, i):
        return convert(number, number_at(room, i, against_at))

    return Group(
        next(lines), clear, keep_sums, keep_row, prepare_rows, prepare_blocks, reduce_rows, store_row, reduce_blocks,
        state_of_blocks, finisher_of, maximum_of, against_of,
    )  # fmt: skip
