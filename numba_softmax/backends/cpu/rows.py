"""Kernels with lanes along the row: rows, long rows, and long rows that are shared out in chunks."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numba import float64

from ... import kernel_code, online
from ...expmath import INF
from ...lanewise import lanewise
from ...pairs import inverse, over
from ...simd import Stored, Vec, convert, fence, lane, like, load, splat, store, widen
from ...weights import block_state, widen_scale
from ..spec import Spec, make_scale, stored
from .layout import ROWS, N, make_gather, make_scatter, make_store_numbers, row_offsets, word
from .tiles import (
    AHEAD,
    BLOCK,
    VECTOR_BYTES,
    aligned_address,
    inlined,
    jit,
    lanes_of,
    make_tiles,
    own_format,
    release,
    weights_for,
)

kernel_code.register()

GROUP = 8
"""Blocks whose sums are finished together, with lanes across the blocks."""

CHUNK = GROUP * BLOCK
"""Elements whose state is made by one thread. The bits of a result depend on it, for every shape and layout alike.

The weights of rows up to this length are kept until their sum is known. Beyond, they are computed twice.
"""

GROUP_BYTES = 7 * 8 * GROUP
"""Scratch memory for the sums of a group and what is prepared from them."""

_FLOAT64 = Stored("float64")


class Group(NamedTuple):
    """Jitted functions over the sums of a group; see `make_group`."""

    clear: Callable
    keep_sums: Callable
    maximum_at: Callable
    finish_rows: Callable
    finish_blocks: Callable
    reduce_rows: Callable
    state_of_blocks: Callable
    prepared_at: Callable
    store_result: Callable


@functools.cache
def make_group(spec: Spec) -> Group:
    """The functions over the sums of up to `GROUP` blocks, which lie in scratch memory at ``room``.

    From a block's sums to what its weights are multiplied by it is a long way,
    one number after the other. The blocks of a group go it together.
    """
    op, number, two_parts, high_only = spec.op, spec.number, spec.two_parts, spec.high_only
    uses_weights, prepare, finish_row = op.uses_weights, op.prepare, op.finish_row
    y_format, row_numbers = stored(spec.y), spec.row_numbers
    unit_of = weights_for(spec).unit_of
    vec = Vec(float64, GROUP)
    m_at, total_at, lost_at, less_at, hi_at, lo_at, last_at = range(0, GROUP_BYTES, 8 * GROUP)

    def keep(at, value):
        store(_FLOAT64, at, widen(value))

    def get(at):
        return load(vec, _FLOAT64, at)

    @lanewise
    def clear(room):
        """All blocks empty."""
        zero = splat(vec, like(room, 0).cast(float64))
        store(_FLOAT64, room + total_at, zero)
        store(_FLOAT64, room + lost_at, zero)
        store(_FLOAT64, room + m_at, like(zero, -INF))
        store(_FLOAT64, room + less_at, like(zero, 1.0))

    @lanewise
    def keep_sums(room, i, m, sums):
        at = room + i * 8
        keep(at + m_at, m)
        keep(at + total_at, sums[0])
        if two_parts:
            keep(at + lost_at, sums[1])
        keep(at + less_at, sums[2])

    def totals(room):
        return get(room + total_at), (get(room + lost_at) if two_parts else None)

    def block_states(room, scale):
        m = get(room + m_at)
        return block_state(m, totals(room), get(room + less_at), unit_of(m, scale))

    def keep_prepared(room, prepared, last):
        hi, lo = prepared[:2]
        keep(room + hi_at, hi)
        keep(room + lo_at, lo)
        keep(room + last_at, last)

    @lanewise
    def finish_rows(room, scale):
        """Prepare rows of one block each."""
        if uses_weights:
            keep_prepared(room, prepare(number, inverse(*totals(room))), get(room + m_at))
        else:
            state = block_states(room, scale)
            keep_prepared(room, prepare(number, state), state[0])

    @lanewise
    def reduce_rows(room, scale):
        """The results of rows of one block each, for `store_result`."""
        numbers = finish_row(block_states(room, scale), widen_scale(scale))
        for k in range(row_numbers):
            keep(room + hi_at + k * 8 * GROUP, numbers[k])

    @lanewise
    def finish_blocks(room, scale):
        """Prepare the blocks of one row; the last number prepared is the maximum to weigh against."""
        wide = widen_scale(scale)
        state = online.merge_lanes(block_states(room, scale), wide)
        if uses_weights:
            m, share = online.shared(get(room + m_at), state, wide)
            keep_prepared(room, prepare(number, over(share, unit_of(m, scale))), m)
        else:
            keep_prepared(room, prepare(number, state), state[0])

    @lanewise
    def state_of_blocks(room, scale):
        """The state of one row's blocks."""
        state = online.merge_lanes(block_states(room, scale), widen_scale(scale))
        return tuple(None if v is None else lane(v, 0) for v in state)

    @lanewise
    def prepared_at(room, i):
        at = room + i * 8
        hi, lo, last = (convert(number, load(float64, _FLOAT64, at + k)) for k in (hi_at, lo_at, last_at))
        return hi, None if high_only else lo, last

    @lanewise
    def maximum_at(room, i):
        return load(float64, _FLOAT64, room + i * 8 + m_at)

    @lanewise
    def store_result(room, i, y, step):
        """Write the numbers of a row, `step` bytes apart."""
        for k in range(row_numbers):
            number = load(float64, _FLOAT64, room + (i + k * GROUP) * 8 + hi_at)
            store(y_format, y + step * k, number)

    return Group(
        clear,
        keep_sums,
        maximum_at,
        finish_rows,
        finish_blocks,
        reduce_rows,
        state_of_blocks,
        prepared_at,
        store_result,
    )


def make_rows(spec: Spec) -> Callable:
    """The kernel for contiguous rows of at most a chunk.

    Rows of one block go in groups, longer ones one by one. While the blocks of
    a group are read, the results of the group before are written: the memory
    is kept busy in both directions, and the way from sums to results is over
    when they are wanted.
    """
    op, number = spec.op, spec.number
    scale_of = make_scale(spec)
    block_maximum, block_sums, finish_block, finish_and_sum, _ = make_tiles(spec, stored(spec.x))
    group, finish_row = make_group(spec), op.finish_row
    clear, keep_sums, maximum_at, finish_rows, finish_blocks, reduce_rows = group[:6]
    state_of_blocks, prepared_at, store_result = group[6:]
    uses_weights, reduces, streaming = op.uses_weights, op.reduces, spec.streaming
    own, x_format, y_format = own_format(number), stored(spec.x), stored(spec.y)
    store_numbers = make_store_numbers(y_format, spec.row_numbers)
    size, x_size, y_size, lanes, weights_at = own.bytes, x_format.bytes, y_format.bytes, lanes_of(number), GROUP_BYTES

    @inlined
    def weights_of(room, n, i, start):
        """Where the weights of row `i` of a group are kept, from element `start` on."""
        return room + weights_at + i * (-(-n // lanes) * VECTOR_BYTES) + start * size

    @jit
    def write_rows(x, y, w, layout, room, begin, first, last, scale):
        """The results of rows first to last of the group that began with row `begin`."""
        n = word(layout, N)
        for row in range(first, last):
            x_at, y_at, w_at = row_offsets(layout, row)
            for start in range(0, n, BLOCK):
                z = weights_of(room, n, row - begin, start) if uses_weights else x + x_at + start * x_size
                prepared, count = prepared_at(room, row - begin + start // BLOCK), min(BLOCK, n - start)
                finish_block(z, w + w_at + start, y + y_at + start * y_size, count, prepared, scale)

    @jit
    def weigh_again(x, w, room, n, scale, ahead):
        """The weights of those blocks of a row that are to be weighed against another maximum than their own."""
        for start in range(0, n, BLOCK):
            i = start // BLOCK
            m = prepared_at(room, i)[2]
            if m != maximum_at(room, i):
                weights = weights_of(room, n, 0, start)
                block_sums(x + start * x_size, w + start, weights, min(BLOCK, n - start), m, scale, ahead)

    def rows(x, y, w, states, sign, factor, layout, first, last):
        n = word(layout, N)
        scale = scale_of(sign, factor)
        members = max(1, min(GROUP, BLOCK // max(n, 1)))
        ahead = max(AHEAD, min(n, BLOCK) * x_size)
        scratch = np.empty(weights_of(VECTOR_BYTES, n, members if uses_weights else 0, 0), np.uint8)
        room = aligned_address(scratch)
        clear(room)
        for begin in range(first, last, members):
            end = min(last, begin + members)
            for row in range(begin, end):
                x_at, _, w_at = row_offsets(layout, row)
                xz_at, yz_at, wz_at = row_offsets(layout, max(first, row - members))
                for start in range(0, max(n, 1), BLOCK):
                    i, count = row - begin + start // BLOCK, min(BLOCK, n - start)
                    xb, wb, weights = x + x_at + start * x_size, w + w_at + start, 0
                    if uses_weights:
                        weights = weights_of(room, n, row - begin, start)
                    m = block_maximum(xb, wb, count, scale)
                    if reduces or begin == first:
                        sums = block_sums(xb, wb, weights, count, m, scale, ahead)
                    else:
                        z = weights if uses_weights else x + xz_at + start * x_size
                        sums = finish_and_sum(
                            z, w + wz_at + start, y + yz_at + start * y_size, prepared_at(room, i),
                            xb, wb, weights, count, m, scale, ahead,
                        )  # fmt: skip
                    keep_sums(room, i, m, sums)
            if reduces:
                if n <= BLOCK:
                    reduce_rows(room, scale)
                    for row in range(begin, end):
                        store_result(room, row - begin, y + row_offsets(layout, row)[1], word(layout, ROWS) * y_size)
                else:
                    numbers = finish_row(state_of_blocks(room, scale), widen_scale(scale))
                    store_numbers(y + row_offsets(layout, begin)[1], layout, numbers)
            else:
                if begin > first:
                    write_rows(x, y, w, layout, room, begin - members, end - members, begin, scale)
                if n <= BLOCK:
                    finish_rows(room, scale)
                else:
                    finish_blocks(room, scale)
                    if uses_weights:
                        x_at, _, w_at = row_offsets(layout, begin)
                        weigh_again(x + x_at, w + w_at, room, n, scale, ahead)
        if not reduces and first < last:
            begin = first + (last - first - 1) // members * members
            write_rows(x, y, w, layout, room, begin, begin, last, scale)
        if streaming:
            fence(y)
        release(scratch)

    return rows


def make_chunks(spec: Spec, gathered: bool) -> tuple[int, Callable, Callable]:
    """The size of scratch memory, and jitted functions to fold and to write a part of a row, block by block.

    Scratch memory holds the sums of a group and, for a gathered row, one block
    each of elements, mask and results.
    """
    op, number, masked = spec.op, spec.number, spec.masked
    own, y_format = own_format(number), stored(spec.y)
    x_format = own if gathered else stored(spec.x)
    gather, scatter = make_gather(stored(spec.x), number, masked), make_scatter(y_format)
    block_maximum, block_sums, _, _, rewrite_block = make_tiles(spec, x_format)
    clear, keep_sums, _, finish_rows, _, _, state_of_blocks, prepared_at, _ = make_group(spec)
    uses_weights, prepare, high_only = op.uses_weights, op.prepare, spec.high_only
    unit_of = weights_for(spec).unit_of
    size, x_size, y_size = own.bytes, x_format.bytes, y_format.bytes
    x_block_at = GROUP_BYTES
    w_block_at = x_block_at + BLOCK * size
    y_block_at = w_block_at + BLOCK
    scratch_size = VECTOR_BYTES + (y_block_at + BLOCK * y_size if gathered else GROUP_BYTES)

    @inlined
    def block_at(x, w, layout, room, start, count, there):
        if gathered:
            if not there:
                gather(x, w, layout, start, count, room + x_block_at, room + w_block_at)
            return room + x_block_at, room + w_block_at
        return x + start * x_size, w + start

    @jit
    def fold(x, w, layout, room, start, stop, scale):
        """The state of elements start to stop, which are at most a chunk."""
        clear(room)
        for at in range(start, stop, BLOCK):
            count = min(BLOCK, stop - at)
            xb, wb = block_at(x, w, layout, room, at, count, False)
            m = block_maximum(xb, wb, count, scale)
            keep_sums(room, (at - start) // BLOCK, m, block_sums(xb, wb, 0, count, m, scale, BLOCK * x_size))
        return state_of_blocks(room, scale)

    @jit
    def write(x, y, w, layout, room, start, stop, state, scale):
        """The results of elements start to stop."""
        wide = widen_scale(scale)
        there = word(layout, N) <= BLOCK  # where `fold` has just gathered it: such rows are not split
        for at in range(start, stop, BLOCK):
            count = min(BLOCK, stop - at)
            xb, wb = block_at(x, w, layout, room, at, count, there)
            m = number(state[0])
            if uses_weights and there:  # as all rows of one block: to the last bit
                finish_rows(room, scale)
                prepared = prepared_at(room, 0)
            elif uses_weights:
                m, share = online.shared(widen(block_maximum(xb, wb, count, scale)), state, wide)
                factor = prepare(number, over(share, unit_of(m, scale)))
                prepared = factor[0], (None if high_only else factor[1]), number(m)
                m = prepared[2]
            else:
                prepared = prepare(number, state)
            if gathered:
                rewrite_block(xb, wb, room + y_block_at, count, m, prepared, scale, 0)
                scatter(room + y_block_at, y, layout, at, count)
            else:
                rewrite_block(xb, wb, y + at * y_size, count, m, prepared, scale, BLOCK * x_size)

    return scratch_size, fold, write


def make_long_rows(spec: Spec, gathered: bool) -> Callable:
    """The kernel for rows of any length; gathered: of any strides. One thread folds a row and writes it."""
    op, scale_of = spec.op, make_scale(spec)
    scratch_size, fold, write = make_chunks(spec, gathered)
    reduces, finish_row, streaming = op.reduces, op.finish_row, spec.streaming
    store_numbers = make_store_numbers(stored(spec.y), spec.row_numbers)

    def long_rows(x, y, w, states, sign, factor, layout, first, last):
        n = word(layout, N)
        scale = scale_of(sign, factor)
        wide = widen_scale(scale)
        scratch = np.empty(scratch_size, np.uint8)
        room = aligned_address(scratch)
        for row in range(first, last):
            x_at, y_at, w_at = row_offsets(layout, row)
            state = fold(x + x_at, w + w_at, layout, room, 0, min(n, CHUNK), scale)
            for start in range(CHUNK, n, CHUNK):
                part = fold(x + x_at, w + w_at, layout, room, start, min(n, start + CHUNK), scale)
                state = online.merge(state, part, wide)
            if reduces:
                store_numbers(y + y_at, layout, finish_row(state, wide))
            else:
                write(x + x_at, y + y_at, w + w_at, layout, room, 0, n, state, scale)
        if streaming:
            fence(y)
        release(scratch)

    return long_rows


def make_split_rows(spec: Spec, gathered: bool) -> tuple[Callable, Callable, Callable]:
    """Few long rows: threads fold chunks into `states`, one merges them, threads write chunks."""
    op, scale_of = spec.op, make_scale(spec)
    scratch_size, fold, write = make_chunks(spec, gathered)
    reduces, finish_row, streaming, two_parts = op.reduces, op.finish_row, spec.streaming, spec.two_parts
    store_numbers = make_store_numbers(stored(spec.y), spec.row_numbers)

    @inlined
    def state_at(states, i):
        return states[i, 0], states[i, 1], (states[i, 2] if two_parts else None)

    @inlined
    def keep_state(states, i, state):
        states[i, 0] = state[0]
        states[i, 1] = state[1]
        if two_parts:
            states[i, 2] = state[2]

    @jit
    def fold_chunks(x, w, sign, factor, layout, states, first, last):
        n = word(layout, N)
        chunks = -(-n // CHUNK)
        scratch = np.empty(scratch_size, np.uint8)
        room = aligned_address(scratch)
        for task in range(first, last):
            row, start = task // chunks, task % chunks * CHUNK
            x_at, _, w_at = row_offsets(layout, row)
            stop = min(n, start + CHUNK)
            keep_state(states, task, fold(x + x_at, w + w_at, layout, room, start, stop, scale_of(sign, factor)))
        release(scratch)

    @jit
    def merge_chunks(y, sign, factor, layout, states):
        """Leaves the state of each row with its first chunk."""
        rows, chunks = word(layout, ROWS), -(-word(layout, N) // CHUNK)
        wide = widen_scale(scale_of(sign, factor))
        for row in range(rows):
            state = state_at(states, row * chunks)
            for c in range(row * chunks + 1, (row + 1) * chunks):
                state = online.merge(state, state_at(states, c), wide)
            keep_state(states, row * chunks, state)
            if reduces:
                store_numbers(y + row_offsets(layout, row)[1], layout, finish_row(state, wide))

    @jit
    def write_chunks(x, y, w, sign, factor, layout, states, first, last):
        """The last chunk first: it is the one that the caches are most likely to hold still."""
        n = word(layout, N)
        chunks = -(-n // CHUNK)
        scratch = np.empty(scratch_size, np.uint8)
        room = aligned_address(scratch)
        for task in range(last - 1, first - 1, -1):
            row, start = task // chunks, task % chunks * CHUNK
            x_at, y_at, w_at = row_offsets(layout, row)
            state = state_at(states, row * chunks)
            stop = min(n, start + CHUNK)
            write(x + x_at, y + y_at, w + w_at, layout, room, start, stop, state, scale_of(sign, factor))
        if streaming:
            fence(y)
        release(scratch)

    return fold_chunks, merge_chunks, write_chunks
