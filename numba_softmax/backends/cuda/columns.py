"""The kernels with threads across rows that are neighbours in memory: the axis is not the last one.

A vector has an element each of several rows. The threads of a block stand side by side across
rows, and in some ranks along them; those of a column of ranks meet in shared memory. Where fewer
rows are neighbours than a block has threads across, several groups of them stand side by side.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from numba import int32, int64

from ... import kernel_code, online
from ...lanewise import Value, Vec, lanewise
from ...pairs import add_sums
from ...simd import from_memory, larger, like, select
from ..spec import Spec, make_scale
from . import device
from .rows import end_of, make_first_state, quotient_up
from .tiles import STATE_NUMBERS, Geometry, Part, Scale, State, Sums, Tile

kernel_code.register()


class Strip(Tile):
    """The functions over a thread's part of some columns; `thread` is its rank along them."""

    def __init__(self, spec: Spec, geometry: Geometry) -> None:
        super().__init__(spec, geometry)
        self.summed = 1

    def begin(
        self, rows: Value, n: Value, chunk: Value, dims: tuple[Value, ...]
    ) -> tuple[Value, tuple[Value, ...], Value, Value, Value, Value]:
        """What this thread works on.

        Gives the number of the chunk, where the thread's columns begin in x,
        result and mask, the number of the first one as a row and how many there
        are (less than none beyond the last), and the thread's rank and its
        place in the rank.
        """
        g = self.geometry
        side_by_side = g.across // g.groups
        inner, width = dims[4 * (g.row_dims - 1)], side_by_side * g.elements
        rank, column = device.quotient_and_rest(device.thread_of(n), g.across)
        group, place = device.quotient_and_rest(column, side_by_side)
        block, c = device.quotient_and_rest(device.block_of(n).cast(int64), quotient_up(n, chunk))
        outer, strip = device.quotient_and_rest(block, quotient_up(inner, like(inner, width)))
        outer = outer * g.groups + group.cast(int64)
        first = strip * width + (place * g.elements).cast(int64)
        sizes = self.x_format.bytes, self.y_format.bytes, 1
        starts = self.offsets(dims, 0, g.row_dims - 1, outer)
        at = tuple(start + first * size for start, size in zip(starts, sizes, strict=True))
        columns = select(first + g.elements < inner, g.elements, inner - first)
        columns = select(outer * inner < rows, columns, 0).cast(int32)
        return c, at, outer * inner + first, columns, rank, column

    def place(self, k: int, thread: Value, start: Value, stop: Any) -> tuple[Value, Value]:
        """The position of a thread's vector `k`, and how many columns are there; `stop` has both their numbers."""
        end, columns = stop
        position = start + (thread + self.geometry.threads * k).cast(start.type)
        return position, select(position < end, columns, 0)

    def placed_again(self, parts: list[Part]) -> list[Part]:
        """The parts as they are: here, a count is one of columns."""
        return parts

    def element_offsets(self, dims: tuple[Value, ...], position: Value) -> tuple[Value, Value, Value]:
        """Where an element of a column lies, from the column's beginning on: in x, result and mask."""
        return self.offsets(dims, self.geometry.row_dims, 1, position.cast(int64))

    def _of_all_ranks(self, vectors: dict[str, Value], rank: Value, column: Value) -> list[list[Value]]:
        """The vectors of each rank of this thread's columns, by way of shared memory; each name serves once.

        They lie there in pieces of 16 bytes: longer ones would have threads meet in the same banks.
        """
        g, piece = self.geometry, min(self.geometry.elements, device.WIDEST // self.own.bytes)
        pieces = range(g.elements // piece)
        rooms = [device.shared_memory(rank, name, self.number, g.threads * g.across * g.elements) for name in vectors]

        def place(i: int, r: Value) -> Value:
            return ((r + i * g.threads) * g.across + column) * piece

        for room, v in zip(rooms, vectors.values(), strict=True):
            for i in pieces:
                device.write_shared(room, place(i, rank), device.lanes_of(v, i * piece, piece))
        device.barrier(rank)
        t = Vec(self.number, piece)
        ranks = (device.integer(rank, r) for r in range(g.threads))
        return [
            [device.side_by_side([device.read_shared(t, room, place(i, r)) for i in pieces]) for room in rooms]
            for r in ranks
        ]

    def maximum_of_ranks(self, m: Value, rank: Value, column: Value) -> Value:
        """The maxima of columns, in each of their threads."""
        if self.geometry.threads > 1:
            (m,), *others = self._of_all_ranks({"maxima": m}, rank, column)
            for (other,) in others:
                m = larger(m, other)
        return m

    def sums_of_ranks(self, sums: Sums, rank: Value, column: Value) -> Sums:
        """The sums of columns, in each of their threads, added in the order of ranks."""
        if self.geometry.threads > 1:
            vectors = {name: v for name, v in sums._asdict().items() if v is not None}
            first, *others = (dict(zip(vectors, vs, strict=True)) for vs in self._of_all_ranks(vectors, rank, column))
            sums = Sums(first["total"], first.get("lost"), first.get("ones"))
            for other in others:
                total, lost = add_sums(sums.total, sums.lost, other["total"], other.get("lost"))
                sums = Sums(total, lost, None if sums.ones is None else sums.ones + other["ones"])
        return sums

    def merge_ranks(self, state: State, rank: Value, column: Value, scale: Scale) -> State:
        """The states of columns from those of their threads, in each of them."""
        if self.geometry.threads == 1:
            return state
        m = self.maximum_of_ranks(state[0], rank, column)
        return online.joined(m, *self.sums_of_ranks(Sums(*online.against(state, m, scale)), rank, column))

    def _state_places(self, states: Value, rows: Value, c: Value, row: Value) -> list[Value]:
        """Where the numbers of the states of columns of a chunk are in temporary memory."""
        first = c.cast(int64) * STATE_NUMBERS
        return [states + ((first + i) * rows + row) * self.own.bytes for i in range(3 if self.two_parts else 2)]

    def load_states(self, states: Value, rows: Value, c: Value, row: Value, columns: Value) -> State:
        """The states of a thread's columns in a chunk."""
        raws = (
            device.load_raw(self.vec, self.own, place, columns, self.own.bytes, True)
            for place in self._state_places(states, rows, c, row)
        )
        return self.state_of([from_memory(raw, self.own, self.vec) for raw in raws])

    def store_states(self, states: Value, state: State, rows: Value, c: Value, row: Value, count: Value) -> None:
        """Leave the states of the first columns of a thread for a chunk."""
        numbers = (v for v in state if v is not None)
        for place, v in zip(self._state_places(states, rows, c, row), numbers, strict=True):
            device.store_raw(self.own, place, v, count, self.own.bytes, True, False)

    def store_columns(self, y: Value, rows: Value, state: State, scale: Scale, rank: Value, columns: Value) -> None:
        """Write the first numbers of each column, as many as there is room for, in the threads of the first rank."""
        g, count = self.geometry, select(rank == 0, columns, 0)
        for k, numbers in enumerate(self.spec.op.finish_row(state, scale)[: self.spec.row_numbers]):
            place = y + rows * (k * self.y_format.bytes)
            device.store_raw(self.y_format, place, numbers, count, g.widths[1], g.ragged, g.bfloat16)


def make_columns(spec: Spec, geometry: Geometry) -> Callable:
    """The kernel for columns that fit the registers of their threads: each element is read once."""
    strip, scale_of = Strip(spec, geometry), make_scale(spec)

    @lanewise
    def compute(x, y, w, sign, factor, rows, n, dims):
        scale = scale_of(sign, factor)
        _, (x_at, y_at, w_at), _, columns, rank, column = strip.begin(rows, n, n, dims)
        parts = strip.load(x + x_at, w + w_at, dims, rank, like(rank, 0), (n.cast(int32), columns))
        values = [strip.values(part, scale) for part in parts]
        m = strip.maximum_of_ranks(strip.maximum(values), rank, column)
        sums, weights, unit = strip.sums(values, m, scale)
        sums = strip.sums_of_ranks(sums, rank, column)
        if strip.keeps_weights:
            strip.store_all(y + y_at, dims, rank, parts, strip.results_of_weights(weights, sums))
            return
        state = strip.state(m, sums, unit)
        if spec.op.reduces:
            strip.store_columns(y + y_at, rows, state, scale, rank, columns)
        else:
            strip.store_all(y + y_at, dims, rank, parts, strip.results(values, state, scale))

    def columns_kernel(x, y, w, states, sign, factor, rows, n, chunk, dims):
        compute(x, y, w, sign, factor, rows, n, dims)

    return columns_kernel


def make_fold_columns(spec: Spec, geometry: Geometry) -> Callable:
    """The kernel that leaves the states of chunks of columns in temporary memory; a block has a strip of a chunk."""
    strip, size = Strip(spec, geometry), geometry.threads * geometry.vectors
    scale_of, first_state = make_scale(spec), make_first_state(strip)

    @lanewise
    def begin(x, w, rows, n, chunk, dims):
        c, (x_at, _, w_at), row, columns, rank, column = strip.begin(rows, n, chunk, dims)
        start = c * chunk
        return x + x_at, w + w_at, start, end_of(start, n, chunk), c, row, columns, rank, column

    @lanewise
    def fold_tile(state, x, w, start, stop, columns, sign, factor, dims, rank):
        return strip.fold(state, strip.load(x, w, dims, rank, start, (stop, columns)), scale_of(sign, factor))[0]

    @lanewise
    def end(state, states, sign, factor, rows, c, row, columns, rank, column):
        state = strip.merge_ranks(state, rank, column, scale_of(sign, factor))
        strip.store_states(states, state, rows, c, row, select(rank == 0, columns, 0))

    def fold_columns(x, y, w, states, sign, factor, rows, n, chunk, dims):
        x, w, start, stop, c, row, columns, rank, column = begin(x, w, rows, n, chunk, dims)
        state = first_state(sign)
        while start < stop:
            state = fold_tile(state, x, w, start, stop, columns, sign, factor, dims, rank)
            start += size
        end(state, states, sign, factor, rows, c, row, columns, rank, column)

    return fold_columns


def make_finish_columns(spec: Spec, geometry: Geometry) -> Callable:
    """The kernel that merges the states of chunks of columns; a block then writes a strip of a chunk, or of results."""
    strip, size, reduces = Strip(spec, geometry), geometry.threads * geometry.vectors, spec.op.reduces
    scale_of, first_state, threads = make_scale(spec), make_first_state(strip), geometry.threads

    @lanewise
    def begin(x, y, w, rows, n, chunk, dims):
        c, (x_at, y_at, w_at), row, columns, rank, column = strip.begin(rows, n, n if reduces else chunk, dims)
        start = c * chunk
        chunks = quotient_up(n, chunk).cast(int32)
        return x + x_at, y + y_at, w + w_at, start, end_of(start, n, chunk), chunks, row, columns, rank, column

    @lanewise
    def fold_state(state, states, sign, factor, rows, c, row, columns):
        return online.merge(state, strip.load_states(states, rows, c, row, columns), scale_of(sign, factor))

    @lanewise
    def merge(state, y, sign, factor, rows, columns, rank, column):
        scale = scale_of(sign, factor)
        state = strip.merge_ranks(state, rank, column, scale)
        if reduces:
            strip.store_columns(y, rows, state, scale, rank, columns)
        return state

    @lanewise
    def write_tile(state, x, y, w, start, stop, columns, sign, factor, dims, rank):
        parts = strip.load(x, w, dims, rank, start, (stop, columns))
        strip.store_results(y, dims, rank, parts, state, scale_of(sign, factor))

    def finish_columns(x, y, w, states, sign, factor, rows, n, chunk, dims):
        x, y, w, start, stop, chunks, row, columns, rank, column = begin(x, y, w, rows, n, chunk, dims)
        state = first_state(sign)
        for c in range(rank, chunks, threads):
            state = fold_state(state, states, sign, factor, rows, c, row, columns)
        state = merge(state, y, sign, factor, rows, columns, rank, column)
        if not reduces:
            while start < stop:
                write_tile(state, x, y, w, start, stop, columns, sign, factor, dims, rank)
                start += size

    return finish_columns
