"""Kernels with lanes along the row: short rows, long rows, and long rows that are shared out in chunks."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numba import float64

from ... import online
from ...simd import Stored, Vec, fence, load, store, widen
from .layout import ROWS, STREAM, N, make_gather, make_scatter, row_offsets, word
from .tiles import BLOCK, VECTOR_BYTES, Spec, aligned_address, inlined, jit, make_tiles, own_format, release, stored

CHUNK = 64 * BLOCK
"""Elements whose state is made by one thread. The bits of a result depend on it, for every shape and layout alike."""

KEPT = 32 * BLOCK
"""Up to this row length the weights of a row are kept until its sum is known; beyond, they are computed twice."""

GROUP = 8
"""At most so many short rows are finished together."""

_FLOAT64 = Stored("float64")


def make_scales(spec: Spec) -> Callable:
    """A jitted function: the scale as blocks take it, from its sign and its absolute value."""
    number, scaled = spec.number, spec.scaled

    @inlined
    def scale_of(sign, factor):
        if scaled:
            high = number(factor)
            return number(sign), high, number(factor - float64(high))
        return None

    return scale_of


def make_short_rows(spec: Spec) -> Callable:
    """The kernel for contiguous rows of at most a block, in groups.

    From a row's sum to its share it is a long way, one number after the other.
    A group of rows goes it together, with lanes across the rows.
    """
    op, number = spec.op, spec.number
    tiles, scale_of = make_tiles(spec, stored(spec.x)), make_scales(spec)
    block_maximum, block_sums, finish_block = tiles
    uses_weights, reduces, prepare, finish_row = op.uses_weights, op.reduces, op.prepare, op.finish_row
    own, y_format = own_format(number), stored(spec.y)
    in_place = own == y_format
    wide_group, group_size, size = Vec(float64, GROUP), 8 * GROUP, own.bytes
    m_at, total_at, lost_at, less_at, hi_at, lo_at, last_at = range(0, 7 * group_size, group_size)
    weights_at = 7 * group_size

    @inlined
    def keep(at, value):
        store(_FLOAT64, at, widen(value))

    @inlined
    def group(at):
        return load(wide_group, _FLOAT64, at)

    def short_rows(x, y, w, sign, factor, layout, first, last):
        n = word(layout, N)
        scale = scale_of(sign, factor)
        wide = online.widen_scale(scale)
        members = max(1, min(GROUP, BLOCK // max(n, 1)))
        scratch = np.zeros(
            VECTOR_BYTES + weights_at + (members * n * size if uses_weights and not in_place else 0), np.uint8
        )
        room = aligned_address(scratch)
        for begin in range(first, last, members):
            end = min(last, begin + members)
            for row in range(begin, end):
                x_at, _, w_at = row_offsets(layout, row)
                m = block_maximum(x + x_at, w + w_at, n, scale)
                keep(room + (row - begin) * 8 + m_at, m)
            for row in range(begin, end):
                x_at, y_at, w_at = row_offsets(layout, row)
                at = room + (row - begin) * 8
                weights = y + y_at if in_place else room + weights_at + (row - begin) * n * size
                m = number(load(float64, _FLOAT64, at + m_at))
                sums = block_sums(x + x_at, w + w_at, weights, n, m, scale)
                keep(at + total_at, sums[0])
                keep(at + lost_at, sums[1])
                keep(at + less_at, sums[2])
            state = online.block_state(
                group(room + m_at), group(room + total_at), group(room + lost_at), group(room + less_at)
            )
            if reduces:
                store(_FLOAT64, room + hi_at, finish_row(state, wide))
            else:
                prepared = prepare(number, None, state)
                store(_FLOAT64, room + hi_at, widen(prepared[0]))
                store(_FLOAT64, room + lo_at, widen(prepared[1]))
                store(_FLOAT64, room + last_at, widen(prepared[2]))
            for row in range(begin, end):
                x_at, y_at, w_at = row_offsets(layout, row)
                at = room + (row - begin) * 8
                hi = load(float64, _FLOAT64, at + hi_at)
                if reduces:
                    store(y_format, y + y_at, hi)
                else:
                    lo, last_one = load(float64, _FLOAT64, at + lo_at), load(float64, _FLOAT64, at + last_at)
                    source = x + x_at
                    if uses_weights:
                        source = y + y_at if in_place else room + weights_at + (row - begin) * n * size
                    prepared_row = number(hi), number(lo), number(last_one)
                    finish_block(source, w + w_at, y + y_at, n, prepared_row, scale, False)
        release(scratch)

    return short_rows


def make_chunks(spec: Spec, gathered: bool) -> tuple[Callable, Callable, Callable]:
    """Jitted functions: the size of scratch memory, and to fold and to write a part of a row, block by block.

    `scratch` holds the weights (of the whole row if it is `kept`, else of a
    block), the blocks' maxima, and for a gathered row one block each of
    elements, mask and results.
    """
    op, number, masked = spec.op, spec.number, spec.masked
    own, y_format = own_format(number), stored(spec.y)
    x_format = own if gathered else stored(spec.x)
    gather, scatter = make_gather(stored(spec.x), number, masked), make_scatter(y_format)
    block_maximum, block_sums, finish_block = make_tiles(spec, x_format)
    uses_weights, prepare = op.uses_weights, op.prepare
    size, x_size, y_size = own.bytes, x_format.bytes, y_format.bytes
    maxima_size = 8 * (KEPT // BLOCK)
    x_block_at = maxima_size
    w_block_at = x_block_at + BLOCK * size
    y_block_at = w_block_at + BLOCK
    weights_at = y_block_at + BLOCK * y_size if gathered else maxima_size

    @inlined
    def scratch_size(kept, n):
        return weights_at + size * (n if kept else BLOCK)

    @inlined
    def block_at(x, w, layout, scratch, start, count):
        if gathered:
            gather(x, w, layout, start, count, scratch + x_block_at, scratch + w_block_at)
            return scratch + x_block_at, scratch + w_block_at
        return x + start * x_size, w + start

    @jit
    def fold(x, w, layout, scratch, start, stop, kept, scale):
        """The state of elements start to stop, which begin a chunk."""
        wide = online.widen_scale(scale)
        state = online.identity(0.0)
        for at in range(start, stop, BLOCK):
            count = min(BLOCK, stop - at)
            xb, wb = block_at(x, w, layout, scratch, at, count)
            m = block_maximum(xb, wb, count, scale)
            weights = scratch + weights_at + (at * size if kept else 0)
            total, lost, less = block_sums(xb, wb, weights, count, m, scale)
            block = online.block_state(widen(m), total, lost, less)
            if kept:
                store(_FLOAT64, scratch + 8 * (at // BLOCK), widen(m))
            state = block if at == start else online.merge(state, block, wide)
        return state

    @jit
    def write(x, y, w, layout, scratch, start, stop, kept, state, scale):
        """The results of elements start to stop, which begin a block."""
        stream = word(layout, STREAM) != 0
        wide = online.widen_scale(scale)
        for at in range(start, stop, BLOCK):
            count = min(BLOCK, stop - at)
            if not kept or not uses_weights or (gathered and masked):
                xb, wb = block_at(x, w, layout, scratch, at, count)
            else:
                xb, wb = 0, w + at
            if uses_weights:
                source = scratch + weights_at + (at * size if kept else 0)
                if kept:
                    m = number(load(float64, _FLOAT64, scratch + 8 * (at // BLOCK)))
                else:
                    m = block_maximum(xb, wb, count, scale)
                    block_sums(xb, wb, source, count, m, scale)
                shrink = online.shrinkage(widen(m), state[0], wide)
            else:
                source, shrink = xb, (1.0, 0.0)
            prepared = prepare(number, shrink, state)
            if gathered:
                finish_block(source, wb, scratch + y_block_at, count, prepared, scale, False)
                scatter(scratch + y_block_at, y, layout, at, count)
            else:
                finish_block(source, wb, y + at * y_size, count, prepared, scale, stream)
        if stream:
            fence(y)

    return scratch_size, fold, write


def make_long_rows(spec: Spec, gathered: bool) -> Callable:
    """The kernel for rows of any length; gathered: of any strides. One thread folds a row and writes it."""
    op, scale_of = spec.op, make_scales(spec)
    scratch_size, fold, write = make_chunks(spec, gathered)
    uses_weights, reduces, finish_row = op.uses_weights, op.reduces, op.finish_row
    y_format = stored(spec.y)

    def long_rows(x, y, w, sign, factor, layout, first, last):
        n = word(layout, N)
        scale = scale_of(sign, factor)
        wide = online.widen_scale(scale)
        kept = uses_weights and n <= KEPT
        scratch = np.empty(scratch_size(kept, n) + VECTOR_BYTES, np.uint8)
        room = aligned_address(scratch)
        for row in range(first, last):
            x_at, y_at, w_at = row_offsets(layout, row)
            state = online.identity(0.0)
            for start in range(0, n, CHUNK):
                part = fold(x + x_at, w + w_at, layout, room, start, min(n, start + CHUNK), kept, scale)
                state = part if start == 0 else online.merge(state, part, wide)
            if reduces:
                store(y_format, y + y_at, finish_row(state, wide))
            else:
                write(x + x_at, y + y_at, w + w_at, layout, room, 0, n, kept, state, scale)
        release(scratch)

    return long_rows


def make_split_rows(spec: Spec, gathered: bool) -> tuple[Callable, Callable, Callable]:
    """Few long rows: threads fold chunks into `states`, one merges them, threads write chunks."""
    op, scale_of = spec.op, make_scales(spec)
    scratch_size, fold, write = make_chunks(spec, gathered)
    reduces, finish_row = op.reduces, op.finish_row
    y_format = stored(spec.y)

    @jit
    def room_for(n):
        return np.empty(scratch_size(False, n) + VECTOR_BYTES, np.uint8)

    @jit
    def fold_chunks(x, w, sign, factor, layout, states, first, last):
        n = word(layout, N)
        chunks = -(-n // CHUNK)
        scratch = room_for(n)
        room = aligned_address(scratch)
        for task in range(first, last):
            row, start = task // chunks, task % chunks * CHUNK
            x_at, _, w_at = row_offsets(layout, row)
            stop = min(n, start + CHUNK)
            state = fold(x + x_at, w + w_at, layout, room, start, stop, False, scale_of(sign, factor))
            states[task, 0], states[task, 1], states[task, 2] = state
        release(scratch)

    @jit
    def merge_chunks(y, sign, factor, layout, states):
        """Leaves the state of each row with its first chunk."""
        rows, chunks = word(layout, ROWS), -(-word(layout, N) // CHUNK)
        wide = online.widen_scale(scale_of(sign, factor))
        for row in range(rows):
            state = states[row * chunks, 0], states[row * chunks, 1], states[row * chunks, 2]
            for c in range(row * chunks + 1, (row + 1) * chunks):
                state = online.merge(state, (states[c, 0], states[c, 1], states[c, 2]), wide)
            states[row * chunks, 0], states[row * chunks, 1], states[row * chunks, 2] = state
            if reduces:
                store(y_format, y + row_offsets(layout, row)[1], finish_row(state, wide))

    @jit
    def write_chunks(x, y, w, sign, factor, layout, states, first, last):
        n = word(layout, N)
        chunks = -(-n // CHUNK)
        scratch = room_for(n)
        room = aligned_address(scratch)
        for task in range(first, last):
            row, start = task // chunks, task % chunks * CHUNK
            x_at, y_at, w_at = row_offsets(layout, row)
            r = row * chunks
            state = states[r, 0], states[r, 1], states[r, 2]
            stop = min(n, start + CHUNK)
            write(x + x_at, y + y_at, w + w_at, layout, room, start, stop, False, state, scale_of(sign, factor))
        release(scratch)

    return fold_chunks, merge_chunks, write_chunks
