"""The kernel with lanes across rows, for an axis that is not last: neighbours in memory belong to neighbouring rows.

A strip of some vectors side by side goes down the rows' elements. Its elements
are brought together in scratch memory, the tile, and weights replace them there:
elements that lie a power of two apart would drive each other out of the caches.
Each lane does for its row, in the same order, what `tiles` does with lanes
along the row, so the bits are the same: element ``j`` of a block goes to the
sum ``j`` modulo lanes, and those sums are added in halves.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numba import float64, types

from ... import kernel_code, online
from ...expmath import INF, float_format, rounded
from ...lanewise import lanewise
from ...pairs import add_sums, inverse, lane_sums, over, times
from ...simd import (
    Stored,
    Vec,
    convert,
    fence,
    lanes_between,
    load,
    load_where,
    maximum,
    prefetch,
    prefetch_to_write,
    select,
    splat,
    store,
    store_where,
    stream,
    widen,
)
from ...weights import block_state, shift_of, widen_scale
from ..spec import Spec, make_scale, stored
from .layout import ROWS, STRIP, N, last_row_dim, row_offsets, run_at, word
from .rows import CHUNK, GROUP
from .tiles import (
    BLOCK,
    BOOL,
    VECTOR_BYTES,
    aligned_address,
    inlined,
    jit,
    lanes_of,
    own_format,
    release,
    weights_for,
)

kernel_code.register()

AHEAD_ROWS = 16
"""How many rows of a strip before their use elements are asked for."""


class Edges(NamedTuple):
    """Jitted access to vectors of which the lanes from `begin` to `end` are part of a strip; see `make_edges`."""

    read: Callable
    write: Callable
    put: Callable


def make_edges(spec: Spec, x_format: Stored, y_format: Stored, masked: bool) -> Edges:
    """The functions for vectors of elements, of results with their mask, and of results without one."""
    number, scaled, masked_value = spec.number, spec.scaled, spec.op.masked
    lanes = lanes_of(number)
    vec = Vec(number, lanes)
    mask_vec = vec.of(types.boolean)

    @inlined
    def mask_at(w, begin, end):
        if begin > 0 or end < lanes:
            return load_where(lanes_between(vec, begin, end), mask_vec, BOOL, w)
        return load(mask_vec, BOOL, w)

    @inlined
    def read(x, w, begin, end, scale):
        if begin > 0 or end < lanes:
            v = load_where(lanes_between(vec, begin, end), vec, x_format, x)
        else:
            v = load(vec, x_format, x)
        if scaled:
            v = v * scale[0]
        if masked:
            v = select(mask_at(w, begin, end), v, -INF)
        return v

    @inlined
    def put(y, v, begin, end, past_caches):
        if begin > 0 or end < lanes:
            store_where(lanes_between(vec, begin, end), y_format, y, v)
        elif past_caches:
            stream(y_format, y, v)
        else:
            store(y_format, y, v)

    @inlined
    def write(y, w, v, begin, end, past_caches):
        if masked:
            v = select(mask_at(w, begin, end), v, masked_value)
        put(y, v, begin, end, past_caches)

    return Edges(read, write, put)


class Strips(NamedTuple):
    """Jitted functions over strips; see `make_strips`."""

    sums_size: int  # bytes of scratch memory before that for the strip's vectors
    kept_size: int  # bytes of it for each vector of a strip; they begin with the rows' maxima
    row_at: int  # where among them is the state of the rows
    fold_tile: Callable
    finish_tile: Callable
    row_results: Callable
    strip: Callable


def make_strips(spec: Spec, x_format: Stored, y_format: Stored, masked: bool, early: bool) -> Strips:
    """The functions for strips of elements and results in these formats.

    `room` is where they keep `kept_size` bytes for each vector. If `early`, the
    memory is asked for the next strip while one is folded.

    ``strip(x, y, w, x_step, y_step, w_step, rows, n, begin, end, tile, room, scale)``
    computes rows `begin` to `end` of a strip, where `begin` is less than a
    vector; addresses are those of row 0 of it, which need not be one, steps
    lead to the rows' next elements, `rows` is the number of all rows, and `tile`
    has room for a block of the strip.
    """
    op, number, two_parts, high_only = spec.op, spec.number, spec.two_parts, spec.high_only
    read, write, put_result = make_edges(spec, x_format, y_format, masked)
    lanes, streaming = lanes_of(number), spec.streaming
    vec, wide_vec, wide_size = Vec(number, lanes), Vec(float64, lanes), 8 * lanes
    own, own_wide = own_format(number), Stored("float64")
    x_size, y_size = x_format.bytes, y_format.bytes
    uses_weights, reduces, row_numbers = op.uses_weights, op.reduces, spec.row_numbers
    prepare, finish, finish_row = op.prepare, op.finish, op.finish_row
    frame_of, weigh, unit_of = weights_for(spec)
    down, (_, zero, add, closed, less) = 1.0 / float_format(number).up, op.fold

    # What a vector of a strip keeps, by offset: vectors of the compute type, then states in
    # float64, of the row and of a chunk's blocks. Before it all is room for the sums of a block.
    m_at, hi_at, lo_at, last_at = range(0, 4 * VECTOR_BYTES, VECTOR_BYTES)
    sums_size = 2 * lanes * wide_size
    state_size = 3 * wide_size
    row_at = 4 * VECTOR_BYTES
    states_at = row_at + state_size
    kept_size = states_at + GROUP * state_size

    @lanewise
    def get(at):
        return load(vec, own, at)

    @lanewise
    def put(at, v):
        store(own, at, v)

    @lanewise
    def get_wide(at):
        return load(wide_vec, own_wide, at)

    @lanewise
    def get_pair(at):
        return get_wide(at), (get_wide(at + wide_size) if two_parts else None)

    @lanewise
    def put_pair(at, pair):
        store(own_wide, at, pair[0])
        if two_parts:
            store(own_wide, at + wide_size, pair[1])

    @lanewise
    def get_numbers(at):
        rest = get_pair(at + wide_size)
        return get_wide(at), rest[0], rest[1]

    @lanewise
    def put_numbers(at, state):
        store(own_wide, at, state[0])
        put_pair(at + wide_size, (state[1], state[2]))

    @jit
    def load_block(x, w, x_step, w_step, count, begin, end, tile, room, scale):
        """Bring a block of a strip to the tile, -inf where masked, and find the maximum of each row."""
        for c in range(0, end, lanes):
            put(room + c // lanes * kept_size + m_at, splat(vec, -INF))
        for j in range(count):
            xj, wj = x + j * x_step, w + j * w_step
            for c in range(0, end, lanes):
                prefetch(xj + AHEAD_ROWS * x_step + c * x_size)
                v = read(xj + c * x_size, wj + c, begin - c, end - c, scale)
                put(tile, v)
                tile += VECTOR_BYTES
                at = room + c // lanes * kept_size + m_at
                put(at, maximum(v, get(at)))

    @lanewise
    def ask_early(j, ask, ask_step, result, result_step):
        if early:
            prefetch(ask + j * ask_step)
            if not reduces:
                prefetch_to_write(result + j * result_step)

    @lanewise
    def add_element(at, m, frame, scale, column):
        """Add the weights of the elements at `at` to a sum, and put them in place of these, if the op uses weights."""
        v = get(at)
        return add(column, weigh_in_place(at, frame, scale) if uses_weights else weigh(v, frame, scale), v, shift_of(m))

    @inlined
    def sum_column(tile, step, count, m, sums, ask, ask_step, result, result_step, scale):
        """Add up the weights of a block in the rows of one vector, into `sums`; return ties and unit."""
        (frame, unit), ties = frame_of(m, scale), splat(vec, 0.0)
        for slot in range(min(count, lanes)):
            if uses_weights and count <= lanes:  # a sum of one
                ask_early(slot, ask, ask_step, result, result_step)
                total, lost, _ = single_of_all(weigh_in_place(tile + slot * step, frame, scale))
            else:
                column = zero(vec, number(0.0))
                for j in range(slot, count, lanes):
                    ask_early(j, ask, ask_step, result, result_step)
                    column = add_element(tile + j * step, m, frame, scale, column)
                total, lost, more = closed(column)
                if not uses_weights:
                    ties = ties + more
            put_pair(sums + 2 * slot * wide_size, lane_sums(total, lost))
        return ties, unit

    @inlined
    def sum_in_halves(sums, count):
        """The sum of a block's sums; those that are not there would be 0 for as many lanes along a row."""
        there, half = min(count, lanes), lanes // 2
        while half:
            for k in range(there - half):
                at = sums + 2 * k * wide_size
                a, b = get_pair(at), get_pair(at + 2 * half * wide_size)
                put_pair(at, add_sums(a[0], a[1], b[0], b[1]))
            there = min(there, half)
            half //= 2
        return times(get_pair(sums), down)

    @jit
    def fold_tile(tile, count, vectors, step, room, state_at, ask, ask_step, result, result_step, scale):
        """Leave the states of a block's rows in scratch memory.

        Of an op that uses weights, leave maxima and sums in place of states, and the weights in the tile.
        If `early`, cache lines are asked for with each vector of elements: that
        at `ask`, the one `ask_step` further, and so on; and the same from
        `result` on, to write to.
        """
        sums = room - sums_size
        for c in range(vectors):
            kept = room + c * kept_size
            m = get(kept + m_at)
            at, asked, results = tile + c * VECTOR_BYTES, ask + c * count * ask_step, result + c * count * result_step
            ties, unit = sum_column(at, step, count, m, sums, asked, ask_step, results, result_step, scale)
            total, lost = sum_in_halves(sums, count)
            if uses_weights:
                put_numbers(kept + state_at, (widen(m), total, lost))
            else:
                put_numbers(kept + state_at, block_state(widen(m), (total, lost), less(m, widen(ties)), unit))

    @lanewise
    def state_of_sums(at, scale):
        """Put the state of a block in place of its maximum and sums."""
        m, total, lost = get_numbers(at)
        put_numbers(at, block_state(m, (total, lost), less(m, None), unit_of(m, scale)))

    @lanewise
    def merge_into(a, b, scale):
        """Merge the state at `b` into that at `a`."""
        put_numbers(a, online.merge(get_numbers(a), get_numbers(b), widen_scale(scale)))

    @jit
    def merge_blocks(blocks, vectors, room, first, scale):
        """The states of a chunk's blocks together, and with what came before the chunk."""
        for c in range(vectors):
            row, at = room + c * kept_size + row_at, room + c * kept_size + states_at
            if uses_weights:
                for k in range(blocks):
                    state_of_sums(at + k * state_size, scale)
            half = GROUP // 2
            while half:
                for k in range(min(half, blocks - half)):
                    merge_into(at + k * state_size, at + (k + half) * state_size, scale)
                half //= 2
            if first:
                put_numbers(row, get_numbers(at))
            else:
                merge_into(row, at, scale)

    @lanewise
    def put_prepared(kept, prepared):
        """Keep what results are made with, for weights without the maximum."""
        hi, lo, *last = prepared
        put(kept + hi_at, hi)
        put(kept + lo_at, lo)
        if last:
            put(kept + last_at, last[0])

    @lanewise
    def prepare_rows(kept):
        """Prepare the rows of a vector, of one block each."""
        state = get_numbers(kept + row_at)
        put_prepared(kept, prepare(number, inverse(*state[1:]) if uses_weights else state))

    @lanewise
    def prepare_block(kept, scale):
        """Prepare one of several blocks of the rows of a vector; gives the frame to weigh its elements in, or None."""
        state = get_numbers(kept + row_at)
        if not uses_weights:
            put_prepared(kept, prepare(number, state))
            return None
        m, share = online.shared(widen(get(kept + m_at)), state, widen_scale(scale))
        frame, unit = frame_of(convert(number, m), scale)
        put_prepared(kept, prepare(number, over(share, unit)))
        return frame

    @jit
    def weigh_block(tile, count, vectors, room, scale):
        """Prepare one of several blocks of a strip, and weigh the elements in the tile."""
        for c in range(vectors):
            frame = prepare_block(room + c * kept_size, scale)
            if uses_weights:
                for j in range(count):
                    weigh_in_place(tile + (j * vectors + c) * VECTOR_BYTES, frame, scale)

    @lanewise
    def weigh_in_place(at, frame, scale):
        """Put the rounded weights in place of the elements at `at`; gives the weights in parts."""
        e = weigh(get(at), frame, scale)
        put(at, rounded(e))
        return e

    @lanewise
    def finish_vector(at, kept, scale):
        """The results of the vector of the tile at `at`."""
        lo = None if high_only else get(kept + lo_at)
        last = get(kept + last_at) if not uses_weights else None
        return finish(get(at), (get(kept + hi_at), lo, last), scale)

    @jit
    def finish_tile(tile, count, vectors, step, room, scale):
        """Put the results of rows of one block in place of what is in the tile."""
        for c in range(vectors):
            kept = room + c * kept_size
            prepare_rows(kept)
            for j in range(count):
                at = tile + c * VECTOR_BYTES + j * step
                put(at, finish_vector(at, kept, scale))

    def make_write_block(past_caches):
        def write_block(y, w, y_step, w_step, count, begin, end, tile, room, scale):
            """The results of a block in each row of a strip."""
            for j in range(count):
                yj, wj = y + j * y_step, w + j * w_step
                for c in range(0, end, lanes):
                    v = finish_vector(tile, room + c // lanes * kept_size, scale)
                    tile += VECTOR_BYTES
                    write(yj + c * y_size, wj + c, v, begin - c, end - c, past_caches)

        return jit(write_block)

    write_to_caches = make_write_block(False)
    write_past_caches = make_write_block(True) if streaming else write_to_caches

    @jit
    def write_block(y, w, y_step, w_step, count, begin, end, tile, room, scale):
        if streaming and y % (lanes * y_size) == 0 and y_step % (lanes * y_size) == 0:
            write_past_caches(y, w, y_step, w_step, count, begin, end, tile, room, scale)
        else:
            write_to_caches(y, w, y_step, w_step, count, begin, end, tile, room, scale)

    @lanewise
    def row_results(kept, scale):
        """The results of an op that reduces, for the rows of one vector."""
        return finish_row(get_numbers(kept + row_at), widen_scale(scale))

    @jit
    def strip(x, y, w, x_step, y_step, w_step, rows, n, begin, end, tile, room, scale):
        vectors = -(-end // lanes)
        for at in range(0, n, BLOCK):
            count = min(BLOCK, n - at)
            load_block(x + at * x_step, w + at * w_step, x_step, w_step, count, begin, end, tile, room, scale)
            b = at % CHUNK // BLOCK
            state_at = states_at + b * state_size if n > BLOCK else row_at
            fold_tile(tile, count, vectors, vectors * VECTOR_BYTES, room, state_at, 0, 0, 0, 0, scale)
            if n > BLOCK and (b + 1 == GROUP or at + count == n):
                merge_blocks(b + 1, vectors, room, at < CHUNK, scale)
        if reduces:
            for c in range(0, end, lanes):
                results = row_results(room + c // lanes * kept_size, scale)
                for k in range(row_numbers):
                    put_result(y + (k * rows + c) * y_size, results[k], begin - c, end - c, False)
        elif n <= BLOCK:
            for c in range(vectors):
                prepare_rows(room + c * kept_size)
            write_block(y, w, y_step, w_step, n, begin, end, tile, room, scale)
        else:
            for at in range(0, n, BLOCK):
                count = min(BLOCK, n - at)
                xb, wb = x + at * x_step, w + at * w_step
                load_block(xb, wb, x_step, w_step, count, begin, end, tile, room, scale)
                weigh_block(tile, count, vectors, room, scale)
                write_block(y + at * y_step, wb, y_step, w_step, count, begin, end, tile, room, scale)

    return Strips(sums_size, kept_size, row_at, fold_tile, finish_tile, row_results, strip)


def strips_in(inner: int, strip: int, lanes: int, streaming: bool) -> int:
    """How many strips of so many vectors cover `inner` rows; streamed ones begin at a whole vector of memory."""
    return -(-(inner + (lanes - 1 if streaming else 0)) // (strip * lanes))


def make_columns(spec: Spec) -> Callable:
    """Rows whose elements lie one step apart, beside their neighbours; the last row dimension is contiguous."""
    lanes, scale_of, streaming = lanes_of(spec.number), make_scale(spec), spec.streaming
    x_format, y_format, count_strips = stored(spec.x), stored(spec.y), inlined(strips_in)
    x_size, y_size = x_format.bytes, y_format.bytes
    sums_size, kept_size, _, _, _, _, strip = make_strips(spec, x_format, y_format, spec.masked, False)

    def columns(x, y, w, states, sign, factor, layout, first, last):
        """Strips first to last."""
        rows, n, inner, vectors = word(layout, ROWS), word(layout, N), last_row_dim(layout), word(layout, STRIP)
        strips = count_strips(inner, vectors, lanes, streaming)
        scale = scale_of(sign, factor)
        scratch = np.empty(VECTOR_BYTES + sums_size + vectors * (kept_size + min(n, BLOCK) * VECTOR_BYTES), np.uint8)
        room = aligned_address(scratch) + sums_size
        tile = room + vectors * kept_size
        _, (x_step, y_step, w_step), _ = run_at(layout, 0)
        for task in range(first, last):
            x_at, y_at, w_at = row_offsets(layout, task // strips * inner)
            row = task % strips * vectors * lanes
            if streaming:
                row -= (y + y_at) % (lanes * y_size) // y_size
            begin, end = max(0, -row), min(vectors * lanes, inner - row)
            xs, ys, ws = x + x_at + row * x_size, y + y_at + row * y_size, w + w_at + row
            if begin < end:
                strip(xs, ys, ws, x_step, y_step, w_step, rows, n, begin, end, tile, room, scale)
        if streaming:
            fence(y)
        release(scratch)

    return columns
