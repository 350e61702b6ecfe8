"""The kernel for an axis that is not last: rows are neighbours in memory, element by element.

A strip, some vectors wide, is computed down the rows' elements, a block at a time:

    element 0       [ row 0 ... 15 ][ row 16 ... 31 ]      read, and copied to the tile
    element 1       [      ...     ][      ...      ]
      ...
    element 8191    [      ...     ][      ...      ]      then folded there, and written from there

Rows of more than one block are read a second time to be written.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from .... import kernel_code
from ....math.expmath import INF
from ....math.lanewise import lanewise
from ....math.memory import fence, prefetch
from ....math.simd import Vec, maximum, splat
from ...spec import Spec, make_scale
from ..basics import BLOCK, CHUNK, GROUP, VECTOR_BYTES, aligned_address, inlined, jit, lanes_of, release
from ..edges import make_edges, make_strip_at
from ..layout import STRIP, N, make_places, word
from ..strips import kept_for, make_memory, make_strips, tiles_of

kernel_code.register()

AHEAD_ROWS = 16
"""Lines by which elements of a strip are prefetched ahead of their use."""


def make_columns(spec: Spec) -> Callable:
    """The kernel."""
    scale_of, streaming, kept, strip_at = make_scale(spec), spec.streaming, kept_for(spec), make_strip_at(spec)
    element_strides, compute_strip = make_places(len(spec.operands)).element_strides, _make_strip(spec)
    sums_bytes, kept_bytes, tiles = kept.sums_bytes, kept.nbytes, tiles_of(spec)

    def columns(addresses, sign, factor, layout, first, last):
        """Compute strips first to last."""
        n, vectors, scale = word(layout, N), word(layout, STRIP), scale_of(sign, factor)
        apart = vectors * min(n, BLOCK) * VECTOR_BYTES
        buffer = np.empty(VECTOR_BYTES + sums_bytes + vectors * kept_bytes + tiles * apart, np.uint8)
        room = aligned_address(buffer) + sums_bytes
        strides = element_strides(layout)
        for task in range(first, last):
            at, begin, end = strip_at(addresses, layout, task)
            if begin < end:
                compute_strip(at, strides, layout, begin, end, (room, room + vectors * kept_bytes, apart), scale)
        if streaming:
            fence(room)
        release(buffer)

    return columns


def _make_strip(spec: Spec) -> Callable:
    """A jitted function: computes a strip's rows from `begin`, which is within the first vector, to `end`.

    `at` are the addresses of its row 0, `places` those of what is kept of vectors and of the tiles, and a tile's bytes.
    """
    strips, edges, kept, lanes = make_strips(spec, False), make_edges(spec), kept_for(spec), lanes_of(spec.number)
    fold_tile, merge_blocks, prepare_rows = strips.fold_tile, strips.merge_blocks, strips.prepare_rows
    numbers_of_rows, numbers_of_long_rows = strips.numbers_of_rows, strips.numbers_of_long_rows
    moved, load_rows, store_rows = edges.moved, edges.load_rows, edges.store_rows
    load_block, weigh_block, write_block = _make_load(spec), _make_weigh(spec), _make_write(spec)
    writes_rows, writes_elements = spec.writes_rows, spec.writes_elements
    row_at, blocks_at, state_bytes, kept_bytes = kept.row_at, kept.blocks_at, kept.state_bytes, kept.nbytes

    @inlined
    def fold(at, strides, layout, begin, end, scratch, scale):
        n, vectors, room = word(layout, N), -(-end // lanes), scratch[0]
        for first in range(0, n, BLOCK):
            count, b = min(BLOCK, n - first), first % CHUNK // BLOCK
            load_block(moved(at, strides, first, 0), strides, count, begin, end, scratch, scale)
            state_at = blocks_at + b * state_bytes if n > BLOCK else row_at
            fold_tile(scratch, count, vectors, state_at, (0, 0, 0, 0), scale)
            if n > BLOCK and (b + 1 == GROUP or first + count == n):
                merge_blocks(b + 1, vectors, room, first < CHUNK, scale)

    @inlined
    def write_numbers(at, layout, begin, end, room, scale):
        for c in range(0, end, lanes):
            at_vector, row = room + c // lanes * kept_bytes, load_rows(at, layout, c, begin - c, end - c)
            if word(layout, N) <= BLOCK:
                numbers = numbers_of_rows(at_vector, row, scale)
            else:
                numbers = numbers_of_long_rows(at_vector, row, scale)
            store_rows(at, layout, c, numbers, begin - c, end - c)

    @jit
    def strip(at, strides, layout, begin, end, places, scale):
        n, (room, tile, apart) = word(layout, N), places
        scratch = room, tile, -(-end // lanes) * VECTOR_BYTES, apart
        fold(at, strides, layout, begin, end, scratch, scale)
        if writes_rows:
            write_numbers(at, layout, begin, end, room, scale)
        if writes_elements and n <= BLOCK:
            for c in range(0, end, lanes):
                prepare_rows(room + c // lanes * kept_bytes, load_rows(at, layout, c, begin - c, end - c), scale)
            write_block(at, strides, n, begin, end, scratch, scale)
        elif writes_elements:
            for first in range(0, n, BLOCK):
                count, block = min(BLOCK, n - first), moved(at, strides, first, 0)
                load_block(block, strides, count, begin, end, scratch, scale)
                weigh_block(block, layout, count, begin, end, scratch, scale)
                write_block(block, strides, count, begin, end, scratch, scale)

    return strip


def _make_load(spec: Spec) -> Callable:
    """A jitted function: copies a block of a strip to the tiles, and finds the maximum of each row."""
    edges, memory, lanes, kept_bytes = make_edges(spec), make_memory(spec), lanes_of(spec.number), kept_for(spec).nbytes
    moved, read, vec, x, get, put = (
        edges.moved,
        edges.read,
        Vec(spec.number, lanes),
        spec.element_inputs[0],
        memory.get,
        memory.put,
    )

    @lanewise
    def prefetch_ahead(at, strides):
        prefetch(at[x] + AHEAD_ROWS * strides[x])

    @lanewise
    def keep(inputs, tile, apart, maxima):
        for k, v in enumerate(inputs):
            put(tile + apart * k if k else tile, v)
        put(maxima, maximum(inputs[0], get(maxima)))

    @jit
    def load_block(at, strides, count, begin, end, scratch, scale):
        room, tile, _, apart = scratch
        for c in range(0, end, lanes):
            put(room + c // lanes * kept_bytes, splat(vec, -INF))
        for j in range(count):
            for c in range(0, end, lanes):
                vector = moved(at, strides, j, c)
                prefetch_ahead(vector, strides)
                keep(read(vector, begin - c, end - c, scale), tile, apart, room + c // lanes * kept_bytes)
                tile += VECTOR_BYTES

    return load_block


def _make_weigh(spec: Spec) -> Callable:
    """A jitted function: prepares one of several blocks of a strip, and exponentiates the elements in the tile."""
    prepare_block, load_rows = make_strips(spec, False).prepare_block, make_edges(spec).load_rows
    weigh_in_place, of_softmax = make_memory(spec).weigh_in_place, spec.of_softmax
    lanes, kept_bytes = lanes_of(spec.number), kept_for(spec).nbytes

    @jit
    def weigh_block(at, layout, count, begin, end, scratch, scale):
        room, tile, step, _ = scratch
        for c in range(0, end, lanes):
            row = load_rows(at, layout, c, begin - c, end - c)
            frame = prepare_block(room + c // lanes * kept_bytes, row, scale)
            if of_softmax:
                for j in range(count):
                    weigh_in_place(tile + c // lanes * VECTOR_BYTES + j * step, frame, scale)

    return weigh_block


def _make_write(spec: Spec) -> Callable:
    """A jitted function: writes the results of a block in each row of a strip."""
    edges, finish_vector = make_edges(spec), make_strips(spec, False).finish_vector
    moved, write, lanes, kept_bytes = edges.moved, edges.write, lanes_of(spec.number), kept_for(spec).nbytes
    y, streamed = (spec.element_results or (0,))[0], 0
    if spec.streaming:
        streamed = lanes * spec.sizes[y]

    def make_write_block(non_temporal):
        def write_block(at, strides, count, begin, end, scratch, scale):
            room, tile, _, apart = scratch
            for j in range(count):
                for c in range(0, end, lanes):
                    results = finish_vector(tile, apart, room + c // lanes * kept_bytes, scale)
                    tile += VECTOR_BYTES
                    write(moved(at, strides, j, c), results, begin - c, end - c, non_temporal)

        return jit(write_block)

    write_to_caches = make_write_block(False)
    if not spec.streaming:
        return write_to_caches
    write_by_streaming = make_write_block(True)

    @lanewise
    def result_of(addresses):
        return addresses[y]

    @jit
    def write_block(at, strides, count, begin, end, scratch, scale):
        if result_of(at) % streamed == 0 and result_of(strides) % streamed == 0:
            write_by_streaming(at, strides, count, begin, end, scratch, scale)
        else:
            write_to_caches(at, strides, count, begin, end, scratch, scale)

    return write_block
