"""Kernels for short rows, and for narrow columns: rows that would fill few lanes are packed side by side in a tile.

The tile is that of `columns`, with lanes across rows. Short contiguous rows are
transposed in registers on the way to it and from it.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numba import types

from ... import kernel_code
from ...expmath import INF
from ...lanewise import Vec, lanewise
from ...simd import (
    convert,
    first_lanes,
    lane,
    load,
    load_first,
    maximum,
    select,
    splat,
    store,
    store_first,
    transpose,
)
from ..spec import Spec, make_scale, stored
from .columns import make_strips
from .layout import ROWS, STRIP, N, last_row_dim, last_row_steps, row_offsets, run_at, word
from .tiles import BOOL, VECTOR_BYTES, aligned_address, jit, lanes_of, own_format, release

kernel_code.register()


@lanewise
def load_square(v, stored, x, x_step, w, w_step, rows, count, sign):
    """As many rows as a `v` has lanes, transposed: the first `count` elements of each, less after `rows` rows.

    `w` is the address of the mask or None, `sign` a factor or None. What there
    is no element for, or a masked one, is -inf.
    """
    vectors = []
    for i in range(v.lanes):
        there = rows > i
        row = load_first(v, stored, x + select(there, x_step * i, 0), count)
        keep = first_lanes(v, count)
        if w is not None:
            keep = load_first(v.of(types.boolean), BOOL, w + select(there, w_step * i, 0), count)
        vectors.append(select(keep, row if sign is None else row * sign, -INF))
    return transpose(tuple(vectors))


@lanewise
def store_square(stored, y, y_step, w, w_step, rows, count, vectors, masked):
    """The transpose of vectors to as many rows, `masked` where `w` says so; see `load_square`."""
    for i, row in enumerate(transpose(vectors)):
        there = rows > i
        if w is not None:
            keep = load_first(row.type.of(types.boolean), BOOL, w + select(there, w_step * i, 0), count)
            row = select(keep, row, masked)
        store_first(stored, y + y_step * i, row, select(there, count, 0))


@lanewise
def load_each(v, stored, address, step):
    """As many vectors as each has lanes, `step` apart."""
    return tuple(load(v, stored, address + step * i) for i in range(v.lanes))


@lanewise
def store_each(stored, address, step, vectors):
    """The opposite of `load_each`."""
    for i, vector in enumerate(vectors):
        store(stored, address + step * i, vector)


@lanewise
def largest(vectors, m):
    """The largest number of each lane, in any of the vectors or `m`."""
    for vector in vectors:
        m = maximum(vector, m)
    return m


def make_short_rows(spec: Spec) -> Callable:
    """Short rows, contiguous each."""
    op, number, masked, scaled = spec.op, spec.number, spec.masked, spec.scaled
    own, lanes, scale_of = own_format(number), lanes_of(number), make_scale(spec)
    vec = Vec(number, lanes)
    x_format, y_format = stored(spec.x), stored(spec.y)
    x_size, y_size = x_format.bytes, y_format.bytes
    sums_size, kept_size, row_at, fold_tile, finish_tile, row_results, _ = make_strips(spec, own, own, False, True)
    reduces, masked_value, row_numbers = op.reduces, op.masked, spec.row_numbers

    @jit
    def load_rows(x, w, x_step, w_step, n, width, tile, step, room, scale):
        """Bring rows to the tile, lanes across them, and find the maximum of each."""
        sign = scale[0] if scaled else None
        for c in range(0, width, lanes):
            at, m = tile + c // lanes * VECTOR_BYTES, splat(vec, -INF)
            for j in range(0, n, lanes):
                mask = w + c * w_step + j if masked else None
                xj, count = x + c * x_step + j * x_size, min(lanes, n - j)
                vectors = load_square(vec, x_format, xj, x_step, mask, w_step, width - c, count, sign)
                m = largest(vectors, m)
                store_each(own, at + j * step, step, vectors)
            store(own, room + c // lanes * kept_size, m)

    @jit
    def write_rows(y, w, y_step, w_step, n, width, tile, step):
        """Write the results of rows from the tile."""
        for c in range(0, width, lanes):
            at = tile + c // lanes * VECTOR_BYTES
            for j in range(0, n, lanes):
                mask = w + c * w_step + j if masked else None
                yj, count = y + c * y_step + j * y_size, min(lanes, n - j)
                vectors = load_each(vec, own, at + j * step, step)
                store_square(y_format, yj, y_step, mask, w_step, width - c, count, vectors, masked_value)

    def short_rows(x, y, w, states, sign, factor, layout, first, last):
        """Strips first to last."""
        n, inner, vectors = word(layout, N), last_row_dim(layout), word(layout, STRIP)
        x_step, y_step, w_step = last_row_steps(layout)
        most = vectors * lanes
        strips = -(-inner // most)
        scale = scale_of(sign, factor)
        tile_size = -(-n // lanes) * most * VECTOR_BYTES
        scratch = np.empty(VECTOR_BYTES + sums_size + vectors * kept_size + tile_size, np.uint8)
        room = aligned_address(scratch) + sums_size
        tile, step = room + vectors * kept_size, vectors * VECTOR_BYTES
        for task in range(first, last):
            row = task % strips * most
            x_at, y_at, w_at = row_offsets(layout, task // strips * inner + row)
            width = min(most, inner - row)
            there = -(-width // lanes)
            load_rows(x + x_at, w + w_at, x_step, w_step, n, width, tile, step, room, scale)
            following, x_vector, y_vector = x + x_at + most * x_step, lanes * x_size, lanes * y_size
            fold_tile(tile, n, there, step, room, row_at, following, x_vector, y + y_at, y_vector, scale)
            if reduces:
                for c in range(there):
                    results = row_results(room + c * kept_size, scale)
                    for k in range(row_numbers):
                        yk = y + y_at + k * word(layout, ROWS) * y_size
                        for i in range(min(lanes, width - c * lanes)):
                            store(y_format, yk + (c * lanes + i) * y_step, lane(results[k], i))
            else:
                finish_tile(tile, n, there, step, room, scale)
                write_rows(y + y_at, w + w_at, y_step, w_step, n, width, tile, step)
        release(scratch)

    return short_rows


def make_packed_columns(spec: Spec) -> Callable:
    """Rows with few neighbours beside them: several such groups side by side. Not for ops that give states."""
    op, number, masked, scaled = spec.op, spec.number, spec.masked, spec.scaled
    own, lanes, scale_of = own_format(number), lanes_of(number), make_scale(spec)
    vec = Vec(number, lanes)
    mask_vec = vec.of(types.boolean)
    x_format, y_format = stored(spec.x), stored(spec.y)
    size, x_size, y_size = own.bytes, x_format.bytes, y_format.bytes
    sums_size, kept_size, row_at, fold_tile, finish_tile, row_results, _ = make_strips(spec, own, own, False, False)
    reduces, masked_value, masked_results = op.reduces, op.masked, masked and not op.reduces

    @jit
    def pack(x, w, x_step, w_step, n, inner, tile, step, scale):
        """Bring a group's elements to the tile, -inf where masked."""
        for j in range(n):
            for c in range(0, inner, lanes):
                count = min(lanes, inner - c)
                v = load_first(vec, x_format, x + j * x_step + c * x_size, count)
                if scaled:
                    v = v * scale[0]
                if masked:
                    v = select(load_first(mask_vec, BOOL, w + j * w_step + c, count), v, -INF)
                store_first(own, tile + j * step + c * size, v, count)

    @jit
    def unpack(y, w, y_step, w_step, n, inner, tile, step):
        """Write a group's results from the tile, or the first line of it for an op that reduces."""
        for j in range(n):
            for c in range(0, inner, lanes):
                count = min(lanes, inner - c)
                v = load_first(vec, own, tile + j * step + c * size, count)
                if masked_results:
                    v = select(load_first(mask_vec, BOOL, w + j * w_step + c, count), v, masked_value)
                store_first(y_format, y + j * y_step + c * y_size, v, count)

    @jit
    def find_maxima(tile, step, n, vectors, room):
        for c in range(vectors):
            m = splat(vec, -INF)
            for j in range(n):
                m = maximum(load(vec, own, tile + c * VECTOR_BYTES + j * step), m)
            store(own, room + c * kept_size, m)

    def packed_columns(x, y, w, states, sign, factor, layout, first, last):
        """Groups of neighbours first to last."""
        n, inner, vectors = word(layout, N), last_row_dim(layout), word(layout, STRIP)
        _, (x_step, y_step, w_step), _ = run_at(layout, 0)
        most = vectors * lanes // inner
        scale = scale_of(sign, factor)
        scratch = np.empty(VECTOR_BYTES + sums_size + vectors * (kept_size + n * VECTOR_BYTES), np.uint8)
        room = aligned_address(scratch) + sums_size
        tile, step = room + vectors * kept_size, vectors * VECTOR_BYTES
        for begin in range(first, last, most):
            end = min(last, begin + most)
            there = -(-(end - begin) * inner // lanes)
            for group in range(begin, end):
                x_at, _, w_at = row_offsets(layout, group * inner)
                at = tile + (group - begin) * inner * size
                pack(x + x_at, w + w_at, x_step, w_step, n, inner, at, step, scale)
            find_maxima(tile, step, n, there, room)
            fold_tile(tile, n, there, step, room, row_at, 0, 0, 0, 0, scale)
            if reduces:
                for c in range(there):
                    store(own, tile + c * VECTOR_BYTES, convert(number, row_results(room + c * kept_size, scale)[0]))
            else:
                finish_tile(tile, n, there, step, room, scale)
            for group in range(begin, end):
                _, y_at, w_at = row_offsets(layout, group * inner)
                at = tile + (group - begin) * inner * size
                unpack(y + y_at, w + w_at, y_step, w_step, 1 if reduces else n, inner, at, step)
        release(scratch)

    return packed_columns
