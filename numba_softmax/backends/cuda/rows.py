"""The kernels with threads along the row: a row in registers; and rows in chunks, however long.

A kernel's parameters, after the addresses of elements, results and mask, and that of
temporary memory: the scale's sign and factor, the numbers of rows and of elements in a row,
the elements of a chunk; then four numbers a dimension, as in `layout.Dim`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from numba import int32, int64

from ... import kernel_code, online
from ...lanewise import Value, lanewise
from ...simd import like, raw_type, select
from ..spec import Spec, make_scale
from . import device
from .tiles import Geometry, Part, Scale, State, Tile

kernel_code.register()


def make_first_state(tile: Tile) -> Callable:
    """A `lanewise` function: the state of nothing; it is given any number."""

    @lanewise
    def first_state(v):
        return tile.first_state(v)

    return first_state


def make_rows(spec: Spec, geometry: Geometry) -> Callable:
    """The kernel for rows that fit the registers of their threads: each element is read once."""
    tile, scale_of = Tile(spec, geometry), make_scale(spec)
    threads, lanes = geometry.threads, geometry.lanes

    @lanewise
    def compute(x, y, w, sign, factor, rows, n, dims):
        scale = scale_of(sign, factor)
        row_in_block, thread = device.quotient_and_rest(device.thread_of(n), threads)
        row = device.block_of(n).cast(int64) * geometry.rows + row_in_block.cast(int64)
        x_at, y_at, w_at = tile.row_offsets(dims, row)
        stop = select(row < rows, n, 0).cast(int32)
        parts = tile.load(x + x_at, w + w_at, dims, thread, like(thread, 0), stop)
        values = [tile.values(part, scale) for part in parts]
        m = tile.maximum_of_lanes(tile.maximum(values), lanes)
        sums, weights, unit = tile.sums(values, m, scale)
        sums = tile.sums_of_lanes(sums, lanes)
        if tile.keeps_weights and geometry.warps == 1:
            tile.store_all(y + y_at, dims, thread, parts, tile.results_of_weights(weights, sums))
            return
        state = tile.merge_warps(tile.state(m, sums, unit), row_in_block, thread, scale)
        if spec.op.reduces:
            here = (row < rows) & (thread == 0)
            tile.store_numbers(y + y_at, rows, spec.op.finish_row(state, scale), here)
            return
        if tile.keeps_weights:
            results = tile.rescaled_results(weights, m, unit, state, scale)
        else:
            results = tile.results(values, state, scale)
        tile.store_all(y + y_at, dims, thread, parts, results)

    def rows_kernel(x, y, w, states, sign, factor, rows, n, chunk, dims):
        compute(x, y, w, sign, factor, rows, n, dims)

    return rows_kernel


def make_staged_rows(spec: Spec, geometry: Geometry) -> Callable:
    """The kernel for rows that fit shared memory: a block has a row, and each element is read once.

    A thread reads no more of shared memory than it has written: there is nothing to wait for.
    """
    stage, size, reduces = Stage(spec, geometry), geometry.tile, spec.op.reduces
    scale_of, first_state = make_scale(spec), make_first_state(stage)

    @lanewise
    def begin(x, y, w, n, dims):
        x_at, y_at, w_at = stage.row_offsets(dims, device.block_of(n).cast(int64))
        return x + x_at, y + y_at, w + w_at, n.cast(int32)

    @lanewise
    def fold_tile(state, x, w, start, n, sign, factor, dims, thread):
        parts = stage.load(x, w, dims, thread, start, n)
        state, weights, *frame = stage.fold(state, parts, scale_of(sign, factor))
        if not reduces:
            stage.keep(parts, weights, frame, thread, start, n)
        return state

    @lanewise
    def write_tile(state, y, w, start, n, sign, factor, dims, thread):
        parts = stage.load_masks(w, dims, thread, start, n)
        stage.store_all(
            y, dims, thread, parts, stage.kept_results(parts, state, thread, start, n, scale_of(sign, factor))
        )

    @lanewise
    def merge(state, y, sign, factor, rows, thread):
        scale = scale_of(sign, factor)
        state = stage.merge_threads(state, thread, scale)
        if reduces:
            stage.store_numbers(y, rows, spec.op.finish_row(state, scale), thread == 0)
        return state

    def staged_rows(x, y, w, states, sign, factor, rows, n, chunk, dims):
        thread = device.thread_of(n)
        x, y, w, stop = begin(x, y, w, n, dims)
        state = first_state(sign)
        for start in range(int32(0), stop, int32(size)):
            state = fold_tile(state, x, w, start, stop, sign, factor, dims, thread)
        state = merge(state, y, sign, factor, rows, thread)
        if not reduces:
            for start in range(int32(0), stop, int32(size)):
                write_tile(state, y, w, start, stop, sign, factor, dims, thread)

    return staged_rows


class Stage(Tile):
    """The functions over a thread's part of a row, of which it keeps in shared memory what results are made of.

    That is the weights, with the maxima they were taken against and their units, or else the elements.
    """

    def __init__(self, spec: Spec, geometry: Geometry) -> None:
        super().__init__(spec, geometry)
        number = spec.number if self.keeps_weights else raw_type(self.vec, self.x_format).element
        self.kept = self.vec.of(number)

    def room(self, n: int) -> int:
        """The bytes of shared memory for a row of `n` elements."""
        tiles = -(-n // self.geometry.tile)
        frames = 2 * self.geometry.threads * self.own.bytes if self.keeps_weights else 0
        return tiles * (self.geometry.tile * self.kept.element.bitwidth // 8 + frames)

    def keep(
        self, parts: list[Part], weights: list[Value], frame: list[Any], thread: Value, start: Value, stop: Value
    ) -> None:
        """Keep a thread's part of the tile that begins at `start`; `frame` is the weights' maximum and unit."""
        room = device.dynamic_shared_memory(thread)
        vectors: list[Value] = weights if self.keeps_weights else [part.raw for part in parts]
        for k, v in enumerate(vectors):
            device.write_shared(room, self._place(k, thread, start), v)
        if self.keeps_weights:
            for place, number in zip(self._places_of_frame(thread, start, stop), frame, strict=True):
                device.write_shared(room, place, number)

    def kept_results(
        self, parts: list[Part], state: State, thread: Value, start: Value, stop: Value, scale: Scale
    ) -> list[Value]:
        """The results of what `keep` has kept."""
        room = device.dynamic_shared_memory(thread)
        vectors = [device.read_shared(self.kept, room, self._place(k, thread, start)) for k in range(len(parts))]
        if self.keeps_weights:
            places = self._places_of_frame(thread, start, stop)
            m, unit = (device.read_shared(self.number, room, place) for place in places)
            return self.rescaled_results(vectors, m, unit, state, scale)
        parts = [part._replace(raw=raw) for part, raw in zip(parts, vectors, strict=True)]
        return self.results([self.values(part, scale) for part in parts], state, scale)

    def _place(self, k: int, thread: Value, start: Value) -> Value:
        """Where in shared memory vector `k` lies, in bytes: those that a warp reads at once are neighbours."""
        g = self.geometry
        return (start + (thread + g.threads * k) * g.elements) * (self.kept.element.bitwidth // 8)

    def _places_of_frame(self, thread: Value, start: Value, stop: Value) -> tuple[Value, Value]:
        """The places of maximum and unit of a thread's part of a tile: behind all vectors."""
        tile, threads, number_bytes = self.geometry.tile, self.geometry.threads, self.own.bytes
        tiles, index = quotient_up(stop, like(stop, tile)), device.quotient_and_rest(start, tile)[0]
        first = (tiles * tile + index * (2 * threads) + thread) * number_bytes
        return first, first + threads * number_bytes


def make_fold_chunks(spec: Spec, geometry: Geometry) -> Callable:
    """The kernel that leaves the state of each chunk of each row in temporary memory; a block has a chunk."""
    tile, size = Tile(spec, geometry), geometry.tile
    scale_of, first_state = make_scale(spec), make_first_state(tile)

    @lanewise
    def begin(x, w, n, chunk, dims, block):
        row, start = _chunk_of(block, n, chunk)
        x_at, _, w_at = tile.row_offsets(dims, row)
        return x + x_at, w + w_at, start, end_of(start, n, chunk)

    @lanewise
    def fold_tile(state, x, w, start, stop, sign, factor, dims, thread):
        return tile.fold(state, tile.load(x, w, dims, thread, start, stop), scale_of(sign, factor))[0]

    @lanewise
    def end(state, states, sign, factor, block, thread):
        state = tile.merge_threads(state, thread, scale_of(sign, factor))
        tile.store_state(states, block, state, thread == 0)

    def fold_chunks(x, y, w, states, sign, factor, rows, n, chunk, dims):
        block, thread = device.block_of(n), device.thread_of(n)
        x, w, start, stop = begin(x, w, n, chunk, dims, block)
        state = first_state(sign)
        while start < stop:
            state = fold_tile(state, x, w, start, stop, sign, factor, dims, thread)
            start += size
        end(state, states, sign, factor, block, thread)

    return fold_chunks


def make_finish_chunks(spec: Spec, geometry: Geometry) -> Callable:
    """The kernel that merges the states of a row's chunks; a block then writes a chunk, or the row's one result.

    The last chunk comes first: it is the one that the cache is most likely to hold still.
    """
    tile, size, threads, reduces = Tile(spec, geometry), geometry.tile, geometry.threads, spec.op.reduces
    scale_of, first_state = make_scale(spec), make_first_state(tile)

    @lanewise
    def begin(x, y, w, rows, n, chunk, dims, block):
        if reduces:
            row = block.cast(int64)
            start = like(row, 0)
        else:
            row, start = _chunk_of(rows * quotient_up(n, chunk) - 1 - block.cast(int64), n, chunk)
        x_at, y_at, w_at = tile.row_offsets(dims, row)
        chunks = quotient_up(n, chunk)
        return x + x_at, y + y_at, w + w_at, row * chunks, chunks.cast(int32), start, end_of(start, n, chunk)

    @lanewise
    def fold_state(state, states, i, sign, factor):
        return online.merge(state, tile.load_state(states, i), scale_of(sign, factor))

    @lanewise
    def merge(state, sign, factor, thread):
        return tile.merge_threads(state, thread, scale_of(sign, factor))

    @lanewise
    def write_tile(state, x, y, w, start, stop, sign, factor, dims, thread):
        parts = tile.load(x, w, dims, thread, start, stop)
        tile.store_results(y, dims, thread, parts, state, scale_of(sign, factor))

    @lanewise
    def write_row(state, y, sign, factor, rows, thread):
        tile.store_numbers(y, rows, spec.op.finish_row(state, scale_of(sign, factor)), thread == 0)

    def finish_chunks(x, y, w, states, sign, factor, rows, n, chunk, dims):
        thread = device.thread_of(n)
        x, y, w, first, chunks, start, stop = begin(x, y, w, rows, n, chunk, dims, device.block_of(n))
        state = first_state(sign)
        for i in range(thread, chunks, threads):
            state = fold_state(state, states, first + i, sign, factor)
        state = merge(state, sign, factor, thread)
        if reduces:
            write_row(state, y, sign, factor, rows, thread)
        else:
            while start < stop:
                write_tile(state, x, y, w, start, stop, sign, factor, dims, thread)
                start += size

    return finish_chunks


def quotient_up(a: Value, b: Value) -> Value:
    """``a / b`` rounded up."""
    return device.quotient_and_rest(a + b - 1, b)[0]


def _chunk_of(index: Value, n: Value, chunk: Value) -> tuple[Value, Value]:
    """The row of a chunk, and where in it the chunk begins."""
    row, c = device.quotient_and_rest(index.cast(int64), quotient_up(n, chunk))
    return row, c * chunk


def end_of(start: Value, n: Value, chunk: Value) -> Value:
    """Where the chunk ends."""
    end = start + chunk
    return select(n < end, n, end)
