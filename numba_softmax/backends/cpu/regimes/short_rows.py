"""The kernel for short contiguous rows: 16 of them (8 in float64) are transposed at once, so that lanes run across.

    memory    row 0    [ a0 a1 a2 ... ]            tile    element 0   [ a0 b0 c0 ... ]
              row 1    [ b0 b1 b2 ... ]                    element 1   [ a1 b1 c1 ... ]
              row 2    [ c0 c1 c2 ... ]                      ...

The tile is then computed by `strips`, and results are transposed back.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numba import types

from .... import kernel_code
from ....math.expmath import INF
from ....math.lanewise import Vec, lanewise
from ....math.memory import load_first, store_first
from ....math.simd import first_lanes, like, maximum, select, splat, transpose
from ...spec import Spec, make_scale
from ..basics import BOOL, VECTOR_BYTES, aligned_address, inlined, jit, lanes_of, release
from ..edges import make_edges
from ..layout import STRIP, N, make_beyond, make_places, word
from ..strips import kept_for, make_memory, make_strips, tiles_of

kernel_code.register()


def make_short_rows(spec: Spec) -> Callable:
    """The kernel."""
    lanes, scale_of, kept, tiles = lanes_of(spec.number), make_scale(spec), kept_for(spec), tiles_of(spec)
    places, load_rows, write_rows = make_places(len(spec.operands)), _make_load(spec), _make_write(spec)
    row_at, last_row_dim, row_strides = places.row_at, places.last_row_dim, places.row_strides
    fold_tile, finish_strip, ask_early = make_strips(spec, True).fold_tile, _make_finish(spec), _make_ask(spec)
    sums_bytes, kept_bytes, state_at, writes_elements = kept.sums_bytes, kept.nbytes, kept.row_at, spec.writes_elements

    def short_rows(addresses, sign, factor, layout, first, last):
        """Compute strips first to last."""
        n, inner, vectors, scale = word(layout, N), last_row_dim(layout), word(layout, STRIP), scale_of(sign, factor)
        strides, most = row_strides(layout), vectors * lanes
        strips, step, apart = -(-inner // most), vectors * VECTOR_BYTES, -(-n // lanes) * most * VECTOR_BYTES
        buffer = np.empty(VECTOR_BYTES + sums_bytes + vectors * kept_bytes + tiles * apart, np.uint8)
        room = aligned_address(buffer) + sums_bytes
        scratch = room, room + vectors * kept_bytes, step, apart
        for task in range(first, last):
            row = task % strips * most
            at, width = row_at(addresses, layout, task // strips * inner + row), min(most, inner - row)
            load_rows(at, strides, n, width, scratch, scale)
            fold_tile(scratch, n, -(-width // lanes), state_at, ask_early(at, strides, most), scale)
            finish_strip(at, layout, n, width, scratch, scale)
            if writes_elements:
                write_rows(at, strides, n, width, scratch)
        release(buffer)

    return short_rows


def _make_ask(spec: Spec) -> Callable:
    """A `lanewise` function: addresses and strides to prefetch during a fold, of the next strip and of results."""
    x, lanes = spec.element_inputs[0], lanes_of(spec.number)
    y = (spec.element_results or spec.row_results)[0]

    @lanewise
    def ask_early(at, strides, most):
        vector = [like(at[x], lanes * spec.sizes[i]) for i in (x, y)]
        return at[x] + most * strides[x], vector[0], at[y], vector[1]

    return ask_early


def _make_load(spec: Spec) -> Callable:
    """A jitted function: transposes rows into the tiles, and finds the maximum of each."""
    lanes, memory, kept_bytes = lanes_of(spec.number), make_memory(spec), kept_for(spec).nbytes
    vec, beyond = Vec(spec.number, lanes), make_beyond(spec, spec.formats)
    put = memory.put

    @lanewise
    def load_square(at, strides, j, c, rows, count, tile, step, apart, scale, m):
        """Load elements from j on of rows from c on into the tiles; return the larger of `m` and their maxima."""
        at = tuple(a + c * stride for a, stride in zip(beyond(at, j), strides, strict=True))
        for k, i in enumerate(spec.element_inputs):
            vectors = _loaded(spec, vec, i, at, strides, rows, count, scale, k == 0)
            for e, v in enumerate(vectors):
                m = maximum(v, m) if k == 0 else m
                put(tile + apart * k + step * e, v)
        return m

    @jit
    def load_rows(at, strides, n, width, scratch, scale):
        room, tile, step, apart = scratch
        for c in range(0, width, lanes):
            m, there = splat(vec, -INF), tile + c // lanes * VECTOR_BYTES
            for j in range(0, n, lanes):
                m = load_square(
                    at, strides, j, c, width - c, min(lanes, n - j), there + j * step, step, apart, scale, m
                )
            put(room + c // lanes * kept_bytes, m)

    return load_rows


def _loaded(spec, vec, i, at, strides, rows, count, scale, folded):
    """An input of one row for each lane, transposed; missing and masked elements are -inf or 0."""
    vectors = []
    for k in range(vec.lanes):
        there = rows > k
        v = load_first(vec, spec.formats[i], at[i] + select(there, strides[i] * k, 0), count)
        keep = first_lanes(vec, count)
        if spec.masked:
            w = at[spec.mask] + select(there, strides[spec.mask] * k, 0)
            keep = load_first(vec.of(types.boolean), BOOL, w, count)
        if folded:
            v = select(keep, v * scale[0] if spec.scaled else v, -INF)
        elif spec.masked:
            v = select(keep, v, 0.0)
        vectors.append(v)
    return transpose(tuple(vectors))


def _make_finish(spec: Spec) -> Callable:
    """A jitted function: writes the numbers of a strip's rows, and results an element to the tiles."""
    strips, edges = make_strips(spec, True), make_edges(spec)
    load_rows, store_rows, prepare_rows = edges.load_rows, edges.store_rows, strips.prepare_rows
    numbers_of_rows, finish_column = strips.numbers_of_rows, strips.finish_column
    lanes, kept_bytes, writes_rows, writes_elements = (
        lanes_of(spec.number), kept_for(spec).nbytes, spec.writes_rows, spec.writes_elements
    )  # fmt: skip

    @inlined
    def finish_strip(at, layout, n, width, scratch, scale):
        room, tile, step, apart = scratch
        for c in range(0, width, lanes):
            kept = room + c // lanes * kept_bytes
            row = load_rows(at, layout, c, 0, width - c)
            if writes_rows:
                store_rows(at, layout, c, numbers_of_rows(kept, row, scale), 0, width - c)
            if writes_elements:
                prepare_rows(kept, row, scale)
                finish_column(tile + c // lanes * VECTOR_BYTES, n, step, apart, kept, scale)

    return finish_strip


def _make_write(spec: Spec) -> Callable:
    """A jitted function: writes the results of rows from the tiles."""
    lanes, memory, beyond = lanes_of(spec.number), make_memory(spec), make_beyond(spec, spec.formats)
    mask_vec = Vec(types.boolean, lanes)

    @lanewise
    def write_square(at, strides, j, c, rows, count, tile, step, apart):
        at = tuple(a + c * stride for a, stride in zip(beyond(at, j), strides, strict=True))
        for k, i in enumerate(spec.element_results):
            for r, v in enumerate(transpose(tuple(memory.get(tile + apart * k + step * e) for e in range(lanes)))):
                there = rows > r
                if spec.masked:
                    w = at[spec.mask] + select(there, strides[spec.mask] * r, 0)
                    v = select(load_first(mask_vec, BOOL, w, count), v, spec.operands[i].masked)
                store_first(spec.formats[i], at[i] + strides[i] * r, v, select(there, count, 0))

    @jit
    def write_rows(at, strides, n, width, scratch):
        _, tile, step, apart = scratch
        for c in range(0, width, lanes):
            for j in range(0, n, lanes):
                there = tile + c // lanes * VECTOR_BYTES + j * step
                write_square(at, strides, j, c, width - c, min(lanes, n - j), there, step, apart)

    return write_rows
