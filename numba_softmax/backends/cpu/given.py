"""Kernels for rows whose states are there: results of elements, each from itself and its row's state; and of states."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numba import float64, types

from ... import kernel_code, online
from ...expmath import rounded
from ...lanewise import Vec, lanewise
from ...pairs import over
from ...simd import Stored, convert, fence, lane, lanes_between, like, load, load_where, select, splat, store, with_lane
from ..spec import Spec, make_scale, stored
from .columns import make_edges, strips_in
from .layout import (
    ROWS,
    STRIP,
    N,
    last_row_dim,
    last_row_steps,
    make_gather,
    make_scatter,
    row_offsets,
    run_at,
    word,
)
from .rows import CHUNK
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

ELEMENTS_AT_ONCE = 16
"""Elements of a column that are finished before its neighbours' are: a strip of them fits the first cache."""

STATE_LANES = 8
"""Rows whose states are worked on at once."""

_FLOAT64 = Stored("float64")


def make_prepare(spec: Spec, v: types.Type) -> Callable:
    """A `lanewise` function: what the results of a row, or of a vector of rows, are made with, from their states.

    It is given the address of the states' first numbers, how many bytes further the second ones are, the
    mask of lanes to read, which is of no use for one row, and the scale. The maximum comes last.
    """
    op, number, high_only, three = spec.op, spec.number, spec.high_only, spec.state_numbers == 3
    unit_of = weights_for(spec).unit_of

    def read(address, there):
        return load_where(there, v, _FLOAT64, address) if isinstance(v, Vec) else load(v, _FLOAT64, address)

    @lanewise
    def prepare(states, plane, there, scale):
        m, rest = read(states, there), read(states + plane, there)
        rest_lo = like(rest, 0.0) if spec.two_parts else None
        if three:
            rest_lo = read(states + plane * 2, there)
        state = online.settled((m, rest, rest_lo))
        if not op.uses_weights:
            return op.prepare(number, state)
        hi, lo = op.prepare(number, over(online.share(state), unit_of(m, scale)))
        return hi, None if high_only else lo, convert(number, m)

    return prepare


def make_given_rows(spec: Spec, gathered: bool) -> Callable:
    """The kernel for elements of a row side by side; gathered: anywhere. A task is a chunk of a row."""
    own, y_format = own_format(spec.number), stored(spec.y)
    x_format = own if gathered else stored(spec.x)
    gather, scatter = make_gather(stored(spec.x), spec.number, spec.masked), make_scatter(y_format)
    rewrite_block = make_tiles(spec, x_format).rewrite_block
    prepare, scale_of, streaming = make_prepare(spec, float64), make_scale(spec), spec.streaming
    x_size, y_size = x_format.bytes, y_format.bytes
    w_block_at = BLOCK * own.bytes
    y_block_at = w_block_at + BLOCK
    scratch_size = VECTOR_BYTES + (y_block_at + BLOCK * y_size if gathered else 0)

    def given_rows(x, y, w, states, sign, factor, layout, first, last):
        rows, n, scale = word(layout, ROWS), word(layout, N), scale_of(sign, factor)
        chunks = -(-n // CHUNK)
        scratch = np.empty(scratch_size, np.uint8)
        room = aligned_address(scratch)
        for task in range(first, last):
            row, start = task // chunks, task % chunks * CHUNK
            stop = min(n, start + CHUNK)
            x_at, y_at, w_at = row_offsets(layout, row)
            prepared = prepare(states + 8 * row, 8 * rows, True, scale)
            xr, yr, wr, m = x + x_at, y + y_at, w + w_at, prepared[2]
            if gathered:
                for at in range(start, stop, BLOCK):
                    count = min(BLOCK, stop - at)
                    gather(xr, wr, layout, at, count, room, room + w_block_at)
                    rewrite_block(room, room + w_block_at, room + y_block_at, count, m, prepared, scale, 0)
                    scatter(room + y_block_at, yr, layout, at, count)
            else:
                ahead = max(AHEAD, n * x_size)
                xb, wb, yb = xr + start * x_size, wr + start, yr + start * y_size
                rewrite_block(xb, wb, yb, stop - start, m, prepared, scale, min(ahead, BLOCK * x_size))
        if streaming:
            fence(y)
        release(scratch)

    return given_rows


def make_given_columns(spec: Spec) -> Callable:
    """The kernel for rows whose neighbours lie beside them. A task is a chunk of a strip."""
    op, number, lanes = spec.op, spec.number, lanes_of(spec.number)
    x_format, y_format, own = stored(spec.x), stored(spec.y), own_format(spec.number)
    x_size, y_size, vec = x_format.bytes, y_format.bytes, Vec(number, lanes)
    read, write, _ = make_edges(spec, x_format, y_format, spec.masked)
    frame_of, weigh, _ = weights_for(spec)
    prepare, finish, count_strips = make_prepare(spec, Vec(float64, lanes)), op.finish, inlined(strips_in)
    scale_of = make_scale(spec)
    high_only, streaming, uses_weights = spec.high_only, spec.streaming, op.uses_weights
    hi_at, lo_at, m_at, kept_size = 0, VECTOR_BYTES, 2 * VECTOR_BYTES, 3 * VECTOR_BYTES

    @jit
    def prepare_strip(states, rows, begin, end, room, scale):
        """Prepare the rows of a strip, the states of whose first row, which need not be one, are at `states`."""
        for c in range(0, end, lanes):
            prepared = prepare(states + 8 * c, 8 * rows, lanes_between(vec, begin - c, end - c), scale)
            kept = room + c // lanes * kept_size
            store(own, kept + hi_at, prepared[0])
            if not high_only:
                store(own, kept + lo_at, prepared[1])
            store(own, kept + m_at, prepared[2])

    @inlined
    def finish_strip(x, y, w, x_step, y_step, w_step, count, begin, end, room, scale, past_caches):
        for first in range(0, count, ELEMENTS_AT_ONCE):
            last = min(count, first + ELEMENTS_AT_ONCE)
            for c in range(0, end, lanes):
                kept = room + c // lanes * kept_size
                m = load(vec, own, kept + m_at)
                lo = None if high_only else load(vec, own, kept + lo_at)
                prepared, frame = (load(vec, own, kept + hi_at), lo, m), frame_of(m, scale)[0]
                for j in range(first, last):
                    wj = w + j * w_step + c
                    v = read(x + j * x_step + c * x_size, wj, begin - c, end - c, scale)
                    if uses_weights:
                        v = rounded(weigh(v, frame, scale))
                    v = finish(v, prepared, scale)
                    write(y + j * y_step + c * y_size, wj, v, begin - c, end - c, past_caches)

    def given_columns(x, y, w, states, sign, factor, layout, first, last):
        rows, n, inner, vectors = word(layout, ROWS), word(layout, N), last_row_dim(layout), word(layout, STRIP)
        strips, chunks, scale = count_strips(inner, vectors, lanes, streaming), -(-n // CHUNK), scale_of(sign, factor)
        scratch = np.empty(VECTOR_BYTES + vectors * kept_size, np.uint8)
        room = aligned_address(scratch)
        _, (x_step, y_step, w_step), _ = run_at(layout, 0)
        for task in range(first, last):
            index, chunk = task // chunks, task % chunks
            outer, start = index // strips * inner, chunk * CHUNK
            x_at, y_at, w_at = row_offsets(layout, outer)
            row = index % strips * vectors * lanes
            if streaming:
                row -= (y + y_at) % (lanes * y_size) // y_size
            begin, end, count = max(0, -row), min(vectors * lanes, inner - row), min(CHUNK, n - start)
            if begin < end:
                xs, ys = x + x_at + row * x_size + start * x_step, y + y_at + row * y_size + start * y_step
                ws = w + w_at + row + start * w_step
                prepare_strip(states + 8 * (outer + row), rows, begin, end, room, scale)
                if streaming and ys % (lanes * y_size) == 0 and y_step % (lanes * y_size) == 0:
                    finish_strip(xs, ys, ws, x_step, y_step, w_step, count, begin, end, room, scale, True)
                else:
                    finish_strip(xs, ys, ws, x_step, y_step, w_step, count, begin, end, room, scale, False)
        if streaming:
            fence(y)
        release(scratch)

    return given_columns


@lanewise
def load_apart(v, stored, address, step, count):
    """The vector of `count` numbers, one or more, that lie `step` apart; lanes beyond the last repeat the first."""
    result = splat(v, load(v.element, stored, address))
    for i in range(1, v.lanes):
        result = with_lane(result, i, load(v.element, stored, address + select(count > i, step * i, 0)))
    return result


def make_states(spec: Spec) -> Callable:
    """The kernel for states in place of elements: the op's numbers of each, or of its merger with that at `y`."""
    op, y_format, row_numbers, numbers = spec.op, stored(spec.y), spec.row_numbers, spec.numbers_read
    y_size, finish_row, merges = y_format.bytes, op.finish_row, op.merges
    vec, scale_of = Vec(float64, STATE_LANES), make_scale(spec._replace(wide=True))  # as states, in float64

    @inlined
    def load_states(states, plane, step, count):
        m = load_apart(vec, _FLOAT64, states, step, count) if numbers > 0 else splat(vec, 0.0)
        rest = load_apart(vec, _FLOAT64, states + plane, step, count) if numbers > 1 else None
        return m, rest, (load_apart(vec, _FLOAT64, states + 2 * plane, step, count) if numbers > 2 else None)

    def states_kernel(x, y, w, states, sign, factor, layout, first, last):
        rows, inner = word(layout, ROWS), last_row_dim(layout)
        x_step, y_step, _ = last_row_steps(layout)
        scale = scale_of(sign, factor)
        strips = -(-inner // STATE_LANES)
        for task in range(first, last):
            row = task % strips * STATE_LANES
            x_at, y_at, _ = row_offsets(layout, task // strips * inner + row)
            count = min(STATE_LANES, inner - row)
            state = load_states(x + x_at, 8 * rows, x_step, count)
            if merges:
                state = online.merge(load_states(y + y_at, 8 * rows, y_step, count), state, scale)
            results = finish_row(state, scale)
            for k in range(row_numbers):
                for i in range(count):
                    store(y_format, y + y_at + k * rows * y_size + i * y_step, lane(results[k], i))

    return states_kernel
