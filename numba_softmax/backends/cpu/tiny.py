"""The kernel for rows that are no longer than a vector: lanes across the rows, which are transposed in registers."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numba import types

from ... import online
from ...lanewise import Vec, lanewise
from ...simd import first_lanes, lane, load, load_first, maximum, select, store, store_first, transpose
from .columns import make_strips
from .layout import STRIP, N, last_row_dim, last_row_steps, row_offsets, word
from .rows import make_scales
from .tiles import BOOL, VECTOR_BYTES, Spec, aligned_address, jit, lanes_of, own_format, release, stored


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
        vectors.append(select(keep, row if sign is None else row * sign, -online.INF))
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
def largest(vectors):
    """The largest number of each lane."""
    result = vectors[0]
    for vector in vectors[1:]:
        result = maximum(vector, result)
    return result


def make_tiny_rows(spec: Spec) -> Callable:
    """Rows of at most as many elements as a vector has lanes, contiguous each."""
    op, number, masked, scaled = spec.op, spec.number, spec.masked, spec.scaled
    own, lanes, scale_of = own_format(number), lanes_of(number), make_scales(spec)
    vec = Vec(number, lanes)
    x_format, y_format = stored(spec.x), stored(spec.y)
    strips = make_strips(spec._replace(x=number.name, y=number.name, masked=False), spec.narrow)
    kept_size, row_at, fold_tile, prepare_tile = strips.kept_size, strips.row_at, strips.fold_tile, strips.prepare_tile
    finish_tile, row_results = strips.finish_tile, strips.row_results
    reduces, masked_value = op.reduces, op.masked

    @jit
    def load_rows(x, w, x_step, w_step, n, width, tile, tile_step, room, scale):
        for c in range(0, width, lanes):
            sign = scale[0] if scaled else None
            mask = w + c * w_step if masked else None
            vectors = load_square(vec, x_format, x + c * x_step, x_step, mask, w_step, width - c, n, sign)
            store(own, room + c // lanes * kept_size, largest(vectors))
            store_each(own, tile + c // lanes * VECTOR_BYTES, tile_step, vectors)

    @jit
    def write_rows(y, w, y_step, w_step, n, width, tile, tile_step, room, scale):
        for c in range(0, width, lanes):
            at, kept = tile + c // lanes * VECTOR_BYTES, room + c // lanes * kept_size
            for j in range(n):
                store(own, at + j * tile_step, finish_tile(at + j * tile_step, kept, scale))
            mask = w + c * w_step if masked else None
            vectors = load_each(vec, own, at, tile_step)
            store_square(y_format, y + c * y_step, y_step, mask, w_step, width - c, n, vectors, masked_value)

    def tiny_rows(x, y, w, sign, factor, layout, first, last):
        """Strips first to last."""
        n, inner, vectors = word(layout, N), last_row_dim(layout), word(layout, STRIP)
        x_step, y_step, w_step = last_row_steps(layout)
        most = vectors * lanes
        strips = -(-inner // most)
        scale = scale_of(sign, factor)
        wide = online.widen_scale(scale)
        scratch = np.empty(vectors * (kept_size + lanes * VECTOR_BYTES) + VECTOR_BYTES, np.uint8)
        room = aligned_address(scratch)
        tile, tile_step = room + vectors * kept_size, vectors * VECTOR_BYTES
        for task in range(first, last):
            column = task % strips * most
            x_at, y_at, w_at = row_offsets(layout, task // strips * inner + column)
            width = min(most, inner - column)
            load_rows(x + x_at, w + w_at, x_step, w_step, n, width, tile, tile_step, room, scale)
            fold_tile(tile, n, -(-width // lanes), tile_step, room, row_at, scale)
            if reduces:
                for c in range(0, width, lanes):
                    results = row_results(room + c // lanes * kept_size, wide)
                    for i in range(min(lanes, width - c)):
                        store(y_format, y + y_at + (c + i) * y_step, lane(results, i))
            else:
                prepare_tile(-(-width // lanes), room)
                write_rows(y + y_at, w + w_at, y_step, w_step, n, width, tile, tile_step, room, scale)
        release(scratch)

    return tiny_rows
