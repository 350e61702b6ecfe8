"""The kernel for rows with few neighbours beside them: several groups of such rows side by side in a tile.

    memory    group 0   element 0   [ a0 b0 c0 ]          tile   element 0   [ a0 b0 c0 d0 e0 f0 ... ]
                        element 1   [ a1 b1 c1 ]                 element 1   [ a1 b1 c1 d1 e1 f1 ... ]
              group 1   element 0   [ d0 e0 f0 ]                   ...
                        element 1   [ d1 e1 f1 ]

Numbers of rows are collected as well, in a line of float64 for each. The tile is then computed by `strips`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from numba import float64, types

from .... import kernel_code
from ....math.expmath import INF
from ....math.lanewise import Value, Vec, lanewise
from ....math.memory import load_first, store_first
from ....math.simd import like, maximum, select, splat
from ...spec import Spec, make_scale
from ..basics import BOOL, FLOAT64, VECTOR_BYTES, aligned_address, inlined, jit, lanes_of, own_format, release
from ..edges import make_edges
from ..layout import STRIP, N, make_places, word
from ..strips import kept_for, make_memory, make_strips, tiles_of

kernel_code.register()


def make_packed_columns(spec: Spec) -> Callable:
    """The kernel."""
    lanes, scale_of, kept, tiles = lanes_of(spec.number), make_scale(spec), kept_for(spec), tiles_of(spec)
    places, pack, unpack = make_places(len(spec.operands)), _make_pack(spec), _make_unpack(spec)
    find_maxima = _make_maxima(spec)
    row_at, last_row_dim, element_strides = places.row_at, places.last_row_dim, places.element_strides
    lines, load_group, store_group, _, _ = _make_lines(spec)
    fold_tile, finish_tile = make_strips(spec, False).fold_tile, _make_finish(spec)
    sums_bytes, kept_bytes, state_at, size = kept.sums_bytes, kept.nbytes, kept.row_at, own_format(spec.number).bytes

    def packed_columns(addresses, sign, factor, layout, first, last):
        """Compute groups of neighbours first to last."""
        n, inner, vectors, scale = word(layout, N), last_row_dim(layout), word(layout, STRIP), scale_of(sign, factor)
        most, strides, step = vectors * lanes // inner, element_strides(layout), vectors * VECTOR_BYTES
        nbytes = sums_bytes + vectors * (kept_bytes + lines * 8 * lanes + tiles * n * VECTOR_BYTES)
        buffer = np.empty(VECTOR_BYTES + nbytes, np.uint8)
        room = aligned_address(buffer) + sums_bytes
        line, width = room + vectors * kept_bytes, vectors * lanes
        scratch = room, line + lines * 8 * width, step, n * step
        for begin in range(first, last, most):
            end = min(last, begin + most)
            there = -(-(end - begin) * inner // lanes)
            for group in range(begin, end):
                at, i = row_at(addresses, layout, group * inner), (group - begin) * inner
                pack(at, strides, n, inner, i * size, scratch, scale)
                load_group(at, layout, inner, line + i * 8, width)
            find_maxima(n, there, scratch)
            fold_tile(scratch, n, there, state_at, (0, 0, 0, 0), scale)
            finish_tile(n, there, line, width, scratch, scale)
            for group in range(begin, end):
                at, i = row_at(addresses, layout, group * inner), (group - begin) * inner
                unpack(at, strides, n, inner, i * size, scratch)
                store_group(at, layout, inner, line + i * 8, width)
        release(buffer)

    return packed_columns


def _make_pack(spec: Spec) -> Callable:
    """A jitted function: copies a group's elements to the tiles, -inf where masked, from byte `offset` of a line on."""
    own, vec, moved = own_format(spec.number), Vec(spec.number, lanes_of(spec.number)), make_edges(spec).moved
    lanes, size = lanes_of(spec.number), own.bytes

    @lanewise
    def copy(at, count, to, apart, scale):
        keep = load_first(vec.of(types.boolean), BOOL, at[spec.mask], count) if spec.masked else None
        for k, i in enumerate(spec.element_inputs):
            v = load_first(vec, spec.formats[i], at[i], count)
            if k == 0 and spec.scaled:
                v = v * scale[0]
            if keep is not None:
                v = select(keep, v, -INF if k == 0 else 0.0)
            store_first(own, to + apart * k, v, count)

    @jit
    def pack(at, strides, n, inner, offset, scratch, scale):
        _, tile, step, apart = scratch
        for j in range(n):
            for c in range(0, inner, lanes):
                copy(moved(at, strides, j, c), min(lanes, inner - c), tile + offset + j * step + c * size, apart, scale)

    return pack


def _make_unpack(spec: Spec) -> Callable:
    """A jitted function: writes a group's results an element from the tiles."""
    own, vec, moved = own_format(spec.number), Vec(spec.number, lanes_of(spec.number)), make_edges(spec).moved
    lanes, size, writes_elements = lanes_of(spec.number), own.bytes, spec.writes_elements

    @lanewise
    def copy(at, count, there, apart):
        for k, i in enumerate(spec.element_results):
            v = load_first(vec, own, there + apart * k, count)
            if spec.masked:
                keep = load_first(vec.of(types.boolean), BOOL, at[spec.mask], count)
                v = select(keep, v, spec.operands[i].masked)
            store_first(spec.formats[i], at[i], v, count)

    @jit
    def unpack(at, strides, n, inner, offset, scratch):
        _, tile, step, apart = scratch
        for j in range(n if writes_elements else 0):
            for c in range(0, inner, lanes):
                copy(moved(at, strides, j, c), min(lanes, inner - c), tile + offset + j * step + c * size, apart)

    return unpack


class Lines(NamedTuple):
    """Lines of float64 for the numbers of the rows in a tile; a line has room for `width` rows."""

    how_many: int
    load_group: Callable  # (at, layout, inner, line, width): copies the numbers of a group's rows there
    store_group: Callable  # (at, layout, inner, line, width): writes those that are results
    get: Callable  # (line, width) -> the numbers of the rows of a vector
    put: Callable  # (line, width, numbers): stores those that are results


def _make_lines(spec: Spec) -> Lines:
    """The functions; `line` is the address of the first row in the first line."""
    edges, lanes, vec = make_edges(spec), lanes_of(spec.number), Vec(float64, lanes_of(spec.number))
    load_rows, store_rows = edges.load_rows, edges.store_rows
    counts = [spec.operands[i].numbers for i in (*spec.row_inputs, *spec.row_results)]
    firsts, inputs = [sum(counts[:i]) for i in range(len(counts))], len(spec.row_inputs)

    def places(line: Value, width: Value, which: range) -> list[list[Value]]:
        """The addresses of the numbers of some operands."""
        return [[line + width * (8 * (firsts[i] + k)) for k in range(counts[i])] for i in which]

    def keep(line: Value, width: Value, which: range, numbers: Any, count: Value) -> None:
        for addresses, values in zip(places(line, width, which), numbers, strict=True):
            for address, v in zip(addresses, values, strict=False):
                store_first(FLOAT64, address, v, count)

    def kept(line: Value, width: Value, which: range, count: Value) -> Any:
        addresses = places(line, width, which)
        return tuple(tuple(load_first(vec, FLOAT64, address, count) for address in one) for one in addresses)

    reads, writes, results = range(inputs), range(inputs, len(counts)), len(counts) - inputs

    @lanewise
    def keep_inputs(line, width, numbers, count):
        keep(line, width, reads, numbers, count)

    @lanewise
    def results_at(line, width, count):
        return kept(line, width, writes, count)

    @inlined
    def load_group(at, layout, inner, line, width):
        for c in range(0, inner if inputs else 0, lanes):
            keep_inputs(line + c * 8, width, load_rows(at, layout, c, 0, inner - c), inner - c)

    @inlined
    def store_group(at, layout, inner, line, width):
        for c in range(0, inner if results else 0, lanes):
            store_rows(at, layout, c, results_at(line + c * 8, width, inner - c), 0, inner - c)

    @lanewise
    def get(line, width):
        return kept(line, width, reads, like(line, lanes))

    @lanewise
    def put(line, width, numbers):
        keep(line, width, writes, numbers, like(line, lanes))

    return Lines(sum(counts), load_group, store_group, get, put)


def _make_maxima(spec: Spec) -> Callable:
    """A jitted function: finds the maxima of the rows in the first tile."""
    vec, kept_bytes, memory = Vec(spec.number, lanes_of(spec.number)), kept_for(spec).nbytes, make_memory(spec)
    get, put = memory.get, memory.put

    @jit
    def find_maxima(n, vectors, scratch):
        room, tile, step, _ = scratch
        for c in range(vectors):
            m = splat(vec, -INF)
            for j in range(n):
                m = maximum(get(tile + c * VECTOR_BYTES + j * step), m)
            put(room + c * kept_bytes, m)

    return find_maxima


def _make_finish(spec: Spec) -> Callable:
    """A jitted function: writes the results an element to the tiles, and numbers of rows to their lines."""
    strips, lines, lanes, kept_bytes = (
        make_strips(spec, False),
        _make_lines(spec),
        lanes_of(spec.number),
        kept_for(spec).nbytes,
    )
    prepare_rows, finish_column, numbers_of_rows = strips.prepare_rows, strips.finish_column, strips.numbers_of_rows
    get, put, writes_rows, writes_elements = lines.get, lines.put, spec.writes_rows, spec.writes_elements

    @inlined
    def finish_tile(n, vectors, line, width, scratch, scale):
        room, tile, step, apart = scratch
        for c in range(vectors):
            kept, there = room + c * kept_bytes, line + c * lanes * 8
            row = get(there, width)
            if writes_rows:
                put(there, width, numbers_of_rows(kept, row, scale))
            if writes_elements:
                prepare_rows(kept, row, scale)
                finish_column(tile + c * VECTOR_BYTES, n, step, apart, kept, scale)

    return finish_tile
