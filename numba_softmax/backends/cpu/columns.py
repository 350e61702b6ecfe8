"""The kernel with lanes across rows, for an axis that is not last: neighbours in memory belong to neighbouring rows.

A strip of some vectors side by side goes down the rows' elements. Each lane
does for its row, in the same order, what `tiles` does with lanes along the row,
so the bits are the same: element ``j`` of a block goes to the sum ``j`` modulo
lanes, and those sums are added in halves.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numba import float64, types

from ... import online
from ...expmath import float_format, two_sum
from ...simd import (
    Stored,
    Vec,
    load,
    load_first,
    maximum,
    select,
    splat,
    store,
    store_first,
    widen,
)
from .layout import N, last_row_dim, row_offsets, run_at, word
from .rows import CHUNK, make_scales
from .tiles import BLOCK, BOOL, VECTOR_BYTES, Spec, aligned_address, inlined, jit, lanes_of, own_format, release, stored

STRIP = 8
"""Vectors side by side in a strip."""


def make_columns(spec: Spec) -> Callable:
    """Rows whose elements lie one step apart, beside their neighbours; the last row dimension is contiguous."""
    op, number, masked, scaled = spec.op, spec.number, spec.masked, spec.scaled
    lanes, scale_of = lanes_of(number), make_scales(spec)
    vec, wide_vec, wide_size, in_float32 = Vec(number, lanes), Vec(float64, lanes), 8 * lanes, number is not float64
    mask_vec = vec.of(types.boolean)
    own, own_wide = own_format(number), Stored("float64")
    x_format, y_format = stored(spec.x), stored(spec.y)
    x_size, y_size = x_format.bytes, y_format.bytes
    uses_weights, reduces, masked_value = op.uses_weights, op.reduces, op.masked
    prepare, finish, finish_row = op.prepare, op.finish, op.finish_row
    weight = online.narrow_weight if spec.narrow else online.weight
    up = float_format(number).up
    start, down = up if uses_weights else 0.0, 1.0 / up

    # What a vector of a strip keeps in scratch memory, by offset: vectors of the compute type,
    # then the sums of a block, then vectors of float64.
    m_at, shift_at, ties_at, hi_at, lo_at, last_at = range(0, 6 * VECTOR_BYTES, VECTOR_BYTES)
    total_at = 6 * VECTOR_BYTES
    lost_at = total_at + lanes * VECTOR_BYTES
    chunk_at = lost_at + lanes * VECTOR_BYTES
    row_at = chunk_at + 3 * wide_size
    shrink_at = row_at + 3 * wide_size
    sums_at = shrink_at + 2 * wide_size
    kept_size = sums_at + 2 * lanes * wide_size

    @inlined
    def get(at):
        return load(vec, own, at)

    @inlined
    def put(at, v):
        store(own, at, v)

    @inlined
    def put_result(at, v, width):
        if width >= lanes:
            store(y_format, at, v)
        else:
            store_first(y_format, at, v, width)

    @inlined
    def get_state(at):
        step = 8 * lanes
        return (
            load(wide_vec, own_wide, at),
            load(wide_vec, own_wide, at + step),
            load(wide_vec, own_wide, at + 2 * step),
        )

    @inlined
    def put_state(at, state):
        store(own_wide, at, state[0])
        store(own_wide, at + wide_size, state[1])
        store(own_wide, at + 2 * wide_size, state[2])

    @inlined
    def mask_at(w, width):
        return load(mask_vec, BOOL, w) if width >= lanes else load_first(mask_vec, BOOL, w, width)

    @inlined
    def read(x, w, width, scale):
        """A vector across rows, -inf where masked; lanes beyond `width` are of no account."""
        v = load(vec, x_format, x) if width >= lanes else load_first(vec, x_format, x, width)
        if scaled:
            v = v * scale[0]
        if masked:
            v = select(mask_at(w, width), v, -online.INF)
        return v

    @jit
    def block_maxima(x, w, x_step, w_step, count, width, room, scale):
        """The maximum of a block in each row of a strip."""
        for c in range(0, width, lanes):
            put(room + c // lanes * kept_size + m_at, splat(vec, -online.INF))
        for j in range(count):
            for c in range(0, width, lanes):
                at = room + c // lanes * kept_size + m_at
                v = read(x + j * x_step + c * x_size, w + j * w_step + c, width - c, scale)
                put(at, maximum(v, get(at)))
        for c in range(0, width, lanes):
            kept = room + c // lanes * kept_size
            put(kept + shift_at, online.shift_of(get(kept + m_at)))

    @inlined
    def sums_of(count):
        """How many sums a block needs, a power of two: the others, for as many lanes along a row, would be 0."""
        sums = 1
        while sums < min(count, lanes):
            sums *= 2
        return sums

    @jit
    def fold_block(x, w, x_step, w_step, count, width, room, scale):
        """Add up the weights of a block in each row of a strip."""
        for c in range(0, width, lanes):
            kept = room + c // lanes * kept_size
            put(kept + ties_at, splat(vec, 0.0))
            for slot in range(0, sums_of(count) * VECTOR_BYTES, VECTOR_BYTES):
                put(kept + total_at + slot, splat(vec, start))
                put(kept + lost_at + slot, splat(vec, 0.0))
        for j in range(count):
            slot = j % lanes * VECTOR_BYTES
            for c in range(0, width, lanes):
                kept = room + c // lanes * kept_size
                at = kept + slot
                v = read(x + j * x_step + c * x_size, w + j * w_step + c, width - c, scale)
                e = weight(v, get(kept + shift_at), scale)
                if masked:
                    e = select(mask_at(w + j * w_step + c, width - c), e, 0.0)
                if uses_weights:
                    total, lost = online.add_weight(get(at + total_at), get(at + lost_at), e)
                else:
                    total, lost, ties = online.add_other(
                        get(at + total_at), get(at + lost_at), get(kept + ties_at), e, v, get(kept + shift_at)
                    )
                    put(kept + ties_at, ties)
                put(at + total_at, total)
                put(at + lost_at, lost)

    @inlined
    def get_sum(at):
        """A sum over a block, as `online.lane_sums` gives it."""
        lost = None if in_float32 else load(wide_vec, own_wide, at + wide_size)
        return load(wide_vec, own_wide, at), lost

    @inlined
    def put_sum(at, total):
        store(own_wide, at, total[0])
        if not in_float32:
            store(own_wide, at + wide_size, total[1])

    @inlined
    def put_shrinkage(kept, shrink):
        store(own_wide, kept + shrink_at, shrink[0])
        store(own_wide, kept + shrink_at + wide_size, shrink[1])

    @inlined
    def get_shrinkage(kept):
        return load(wide_vec, own_wide, kept + shrink_at), load(wide_vec, own_wide, kept + shrink_at + wide_size)

    @jit
    def block_state(kept, count, scale):
        """The states of a block from the sums that `fold_block` left."""
        for k in range(sums_of(count)):
            slot = k * VECTOR_BYTES
            total, error = two_sum(get(kept + total_at + slot), splat(vec, -start))
            put_sum(kept + sums_at + 2 * k * wide_size, online.lane_sums(total, get(kept + lost_at + slot) + error))
        half = sums_of(count) // 2
        while half:
            for k in range(half):
                at = kept + sums_at + 2 * k * wide_size
                total, lost = get_sum(at)
                other, other_lost = get_sum(at + 2 * half * wide_size)
                put_sum(at, online.add_sums(total, lost, other, other_lost))
            half //= 2
        total = load(wide_vec, own_wide, kept + sums_at) * down
        lost = splat(wide_vec, 0.0) if in_float32 else load(wide_vec, own_wide, kept + sums_at + wide_size) * down
        less = splat(wide_vec, 1.0) if uses_weights else 1.0 - widen(get(kept + ties_at))
        return online.block_state(widen(get(kept + m_at)), total, lost, less)

    @jit
    def write_block(x, y, w, x_step, y_step, w_step, count, width, room, scale):
        """The results of a block in each row of a strip, by the states of the rows."""
        for c in range(0, width, lanes):
            kept = room + c // lanes * kept_size
            state = get_state(kept + row_at)
            prepared = prepare(number, get_shrinkage(kept), state)
            put(kept + hi_at, prepared[0])
            put(kept + lo_at, prepared[1])
            put(kept + last_at, prepared[2])
        for j in range(count):
            for c in range(0, width, lanes):
                kept = room + c // lanes * kept_size
                v = read(x + j * x_step + c * x_size, w + j * w_step + c, width - c, scale)
                if uses_weights:
                    v = weight(v, get(kept + shift_at), scale) * get(kept + last_at)
                v = finish(v, (get(kept + hi_at), get(kept + lo_at), get(kept + last_at)), scale)
                if masked:
                    v = select(mask_at(w + j * w_step + c, width - c), v, masked_value)
                put_result(y + j * y_step + c * y_size, v, width - c)

    @jit
    def fold_strip(x, w, x_step, w_step, n, width, room, scale):
        """Leave the state of each row of a strip in scratch memory."""
        wide = online.widen_scale(scale)
        for start in range(0, n, CHUNK):
            stop = min(n, start + CHUNK)
            for at in range(start, stop, BLOCK):
                count = min(BLOCK, stop - at)
                xb, wb = x + at * x_step, w + at * w_step
                block_maxima(xb, wb, x_step, w_step, count, width, room, scale)
                fold_block(xb, wb, x_step, w_step, count, width, room, scale)
                for c in range(0, width, lanes):
                    kept = room + c // lanes * kept_size
                    state = block_state(kept, count, scale)
                    if at > start:
                        state = online.merge(get_state(kept + chunk_at), state, wide)
                    put_state(kept + chunk_at, state)
            for c in range(0, width, lanes):
                kept = room + c // lanes * kept_size
                state = get_state(kept + chunk_at)
                if start > 0:
                    state = online.merge(get_state(kept + row_at), state, wide)
                put_state(kept + row_at, state)

    def columns(x, y, w, sign, factor, layout, first, last):
        """Strips first to last."""
        n, inner = word(layout, N), last_row_dim(layout)
        strips = -(-inner // (STRIP * lanes))
        scale = scale_of(sign, factor)
        wide = online.widen_scale(scale)
        scratch = np.empty(STRIP * kept_size + VECTOR_BYTES, np.uint8)
        room = aligned_address(scratch)
        _, (x_step, y_step, w_step), _ = run_at(layout, 0)
        for task in range(first, last):
            column = task % strips * STRIP * lanes
            x_at, y_at, w_at = row_offsets(layout, task // strips * inner + column)
            xs, ys, ws, width = x + x_at, y + y_at, w + w_at, min(STRIP * lanes, inner - column)
            fold_strip(xs, ws, x_step, w_step, n, width, room, scale)
            if reduces:
                for c in range(0, width, lanes):
                    result = finish_row(get_state(room + c // lanes * kept_size + row_at), wide)
                    put_result(ys + c * y_size, result, width - c)
            else:
                for at in range(0, n, BLOCK):
                    count = min(BLOCK, n - at)
                    xb, wb = xs + at * x_step, ws + at * w_step
                    if n > BLOCK and uses_weights:
                        block_maxima(xb, wb, x_step, w_step, count, width, room, scale)
                    for c in range(0, width, lanes):
                        kept = room + c // lanes * kept_size
                        shrink = splat(wide_vec, 1.0), splat(wide_vec, 0.0)
                        if n > BLOCK:
                            shrink = online.shrinkage(widen(get(kept + m_at)), get_state(kept + row_at)[0], wide)
                        put_shrinkage(kept, shrink)
                    write_block(xb, ys + at * y_step, wb, x_step, y_step, w_step, count, width, room, scale)
        release(scratch)

    return columns
