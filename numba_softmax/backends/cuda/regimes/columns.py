"""The kernels with threads across rows that are neighbours in memory: the axis is not the last one.

A vector has an element each of several rows. The threads of a block stand side by side across
rows, and in several ranks along them; those of a column exchange their numbers in shared memory.
Where fewer rows are neighbours than a block has threads across, several groups of rows stand
side by side.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from numba import float64, int32, int64

from .... import kernel_code
from ....math.folds import Names, added, contributions, merge_states, only, present
from ....math.lanewise import Value, Vec, lanewise
from ....math.memory import Stored, from_memory
from ....math.simd import larger, like, select, with_lane
from ...spec import Spec, make_scale
from .. import device, global_memory
from ..access import Access, Line, Numbers, Part
from ..folding import Folding, Scale, State, Sums
from ..geometry import Geometry
from ..results import Known, Results
from .chunks import end_of
from .rows import quotient_up

kernel_code.register()


class Place(NamedTuple):
    """The chunk, row and column of a thread."""

    chunk: Value  # the number of the chunk
    row: Value  # the number of its first column as a row
    column: Value  # the thread's number in its rank


class ColumnAccess(Access):
    """Loads and stores of threads across rows: a line is some columns, and `thread` is the rank along them."""

    def begin(
        self, addresses: tuple[Value, ...], dims: tuple[Value, ...], rows: Value, n: Value, chunk: Value
    ) -> tuple[Line, Place]:
        """The line and the place that this thread computes."""
        g, each = self.geometry, 1 + len(self.formats)
        side_by_side = g.across // g.groups
        inner, *steps = dims[each * (g.row_dims - 1) : each * g.row_dims]
        width = side_by_side * g.elements
        rank, column = device.quotient_and_rest(device.thread_of(n), g.across)
        group, place = device.quotient_and_rest(column, side_by_side)
        block, c = device.quotient_and_rest(device.block_of(n).cast(int64), quotient_up(n, chunk))
        outer, strip = device.quotient_and_rest(block, quotient_up(inner, like(inner, width)))
        outer = outer * g.groups + group.cast(int64)
        first = strip * width + (place * g.elements).cast(int64)
        of_outer = self._offsets(dims, 0, g.row_dims - 1, outer)
        starts = tuple(
            start + first * (step if self._apart(i) else size)
            for i, (start, step, size) in enumerate(zip(of_outer, steps, self.sizes, strict=True))
        )
        columns = select(first + g.elements < inner, g.elements, inner - first)
        columns = select(outer * inner < rows, columns, 0).cast(int32)
        return Line(addresses, starts, dims, rows, columns, rank), Place(c, outer * inner + first, column)

    def _apart(self, i: int) -> bool:
        return bool(self.geometry.apart) and self.geometry.apart[i]

    def _place(self, line: Line, k: int, start: Value, stop: Value) -> tuple[Value, Value]:
        """The position of a thread's vector `k`, and the number of columns present."""
        position = start + (line.thread + self.geometry.threads * k).cast(start.type)
        return position, select(position < stop, line.here, 0)

    def _placed_again(self, parts: list[Part]) -> list[Part]:
        """The parts unchanged: their counts are of columns here."""
        return parts

    def _row_number(self, line: Line, i: int, address: Value) -> Value:
        """The numbers of a thread's columns, as a vector."""
        g, stored, v = self.geometry, self.formats[i], Vec(float64, self.geometry.elements)
        if not self._apart(i):
            return global_memory.numbers(
                v, global_memory.load_raw(v, stored, address, line.here, g.widths[i], g.ragged), stored
            )
        step = line.dims[(1 + len(self.formats)) * (g.row_dims - 1) + 1 + i]
        numbers = like(address, 0).cast(v)
        for k in range(g.elements):
            of_column = line._replace(here=line.here - k)
            numbers = with_lane(numbers, k, super()._row_number(of_column, i, address + step * k))
        return numbers

    def store_row(self, line: Line, results: tuple[Numbers, ...], here: Value) -> None:
        """Write the results of columns; only the first ones, if an operand has fewer."""
        g, count = self.geometry, select(here, line.here, 0)
        for i, numbers in zip(self.spec.row_results, results, strict=True):
            for address, v in zip(self._planes(line, i, self.formats[i]), numbers, strict=False):
                global_memory.store_raw(self.formats[i], address, v, count, g.widths[i], g.ragged, g.bfloat16)


class Ranks:
    """Reductions, by way of shared memory, over the threads of the same columns, all of which get the result."""

    def __init__(self, folding: Folding, geometry: Geometry) -> None:
        self.folding, self.geometry = folding, geometry

    def maximum(self, m: Value, rank: Value, column: Value) -> Value:
        """The maxima of columns."""
        if self.geometry.threads > 1:
            (m,), *others = self._of_all(("maxima",), (m,), rank, column)
            for (other,) in others:
                m = larger(m, other)
        return m

    def sums(self, names: Names, sums: Sums, rank: Value, column: Value) -> Sums:
        """The sums of columns, added in the order of ranks."""
        if self.geometry.threads > 1:
            sums, *others = self._of_all(names, sums, rank, column)
            for other in others:
                sums = added(names, sums, other)
        return sums

    def merge(self, state: State, rank: Value, column: Value, scale: Scale) -> State:
        """The states of columns, merged from those of their threads."""
        if self.geometry.threads == 1:
            return state
        fold = self.folding.fold
        m = self.maximum(state[0], rank, column)
        return fold.state_of(m, *self.sums(contributions(fold), fold.rescaled(state, m, scale), rank, column))

    def _of_all(self, names: Names, vectors: Sums, rank: Value, column: Value) -> list[Sums]:
        """The vectors of each rank, by way of shared memory; each name is used once. Those that are None stay so.

        They are stored in pieces of 16 bytes: longer ones would cause bank conflicts.
        """
        g, number = self.geometry, self.folding.number
        piece = min(g.elements, global_memory.WIDEST // (number.bitwidth // 8))
        pieces, t = range(g.elements // piece), Vec(number, piece)
        rooms = [
            None if v is None else device.shared_memory(rank, name, number, g.threads * g.across * g.elements)
            for name, v in zip(names, vectors, strict=True)
        ]

        def place(i: int, r: Value) -> Value:
            return ((r + i * g.threads) * g.across + column) * piece

        for room, v in zip(rooms, vectors, strict=True):
            for i in pieces if room is not None else ():
                device.write_shared(room, place(i, rank), device.take_lanes(v, i * piece, piece))
        device.barrier(rank)
        ranks = (device.integer(rank, r) for r in range(g.threads))
        return [
            tuple(
                None
                if room is None
                else device.side_by_side([device.read_shared(t, room, place(i, r)) for i in pieces])
                for room in rooms
            )
            for r in ranks
        ]


class ColumnWorkspace:
    """The states of chunks of columns in temporary memory, where the same numbers of rows are neighbours."""

    def __init__(self, folding: Folding) -> None:
        self._folding, self._stored = folding, Stored(folding.number.name)

    def load(self, workspace: Value, line: Line, c: Value, row: Value) -> State:
        """The states of a thread's columns in a chunk."""
        vec, stored, size = self._folding.vec, self._stored, self._stored.bytes
        raws = (
            global_memory.load_raw(vec, stored, place, line.here, size, True)
            for place in self._places(workspace, line, c, row)
        )
        return self._folding.restored([from_memory(raw, stored, vec) for raw in raws])

    def store(self, workspace: Value, line: Line, place: Place, state: State) -> None:
        """Store the states of a thread's columns for a chunk, in the threads of the first rank."""
        count = select(line.thread == 0, line.here, 0)
        places = self._places(workspace, line, place.chunk, place.row)
        for to, v in zip(places, only(state), strict=True):
            global_memory.store_raw(self._stored, to, v, count, self._stored.bytes, True, False)

    def _places(self, workspace: Value, line: Line, c: Value, row: Value) -> list[Value]:
        there = present(self._folding.fold.state, self._folding.two_parts)
        first = c.cast(int64) * len(there)
        return [workspace + ((first + i) * line.rows + row) * self._stored.bytes for i in range(sum(there))]


class Strip:
    """The functions over a thread's part of some columns."""

    def __init__(self, spec: Spec, geometry: Geometry) -> None:
        self.access, self.folding = ColumnAccess(spec, geometry), Folding(spec, geometry)
        self.ranks, self.workspace = Ranks(self.folding, geometry), ColumnWorkspace(self.folding)
        self.results = Results(spec, self.access, self.folding)


def make_columns(spec: Spec, geometry: Geometry) -> Callable:
    """The kernel for columns that fit the registers of their threads: each element is read once."""
    strip, scale_of = Strip(spec, geometry), make_scale(spec)
    access, folding, ranks, results = strip.access, strip.folding, strip.ranks, strip.results

    @lanewise
    def compute(addresses, scale, rows, n, dims):
        line, place = access.begin(addresses, dims, rows, n, n)
        rank, column = line.thread, place.column
        parts = access.load(line, like(rank, 0), n.cast(int32))
        elements = access.elements(parts, scale)
        m = ranks.maximum(folding.maximum(elements), rank, column)
        sums, folded = folding.sums(elements, m, scale)
        sums = ranks.sums(folding.fold.sums, sums, rank, column)
        known = Known(folding.state(sums, folded), access.row_inputs(line), scale)
        results.store_row(line, known, rank == 0)
        if results.keeps_weights:
            others = [element.others for element in elements]
            access.store(line, parts, results.from_weights(folded, others, sums, known))
        elif results.of_elements:
            access.store(line, parts, results.from_elements(elements, known))

    def columns_kernel(addresses, workspace, sign, factor, rows, n, chunk, dims):
        compute(addresses, scale_of(sign, factor), rows, n, dims)

    return columns_kernel


def make_fold_columns(spec: Spec, geometry: Geometry) -> Callable:
    """The kernel that stores the states of chunks of columns in temporary memory; a block has a strip of a chunk."""
    strip, size, scale_of = Strip(spec, geometry), geometry.threads * geometry.vectors, make_scale(spec)
    access, folding = strip.access, strip.folding

    @lanewise
    def begin(addresses, rows, n, chunk, dims):
        line, place = access.begin(addresses, dims, rows, n, chunk)
        start = place.chunk * chunk
        return line, place, folding.first_state(rows), start, end_of(start, n, chunk)

    @lanewise
    def fold_tile(state, line, start, stop, scale):
        parts = access.load(Line(*line), start, stop)
        return folding.folded(state, access.elements(parts, scale), scale)[0]

    @lanewise
    def end(state, line, place, scale, workspace):
        line, place = Line(*line), Place(*place)
        state = strip.ranks.merge(state, line.thread, place.column, scale)
        strip.workspace.store(workspace, line, place, state)

    def fold_columns(addresses, workspace, sign, factor, rows, n, chunk, dims):
        scale = scale_of(sign, factor)
        line, place, state, start, stop = begin(addresses, rows, n, chunk, dims)
        while start < stop:
            state = fold_tile(state, line, start, stop, scale)
            start += size
        end(state, line, place, scale, workspace)

    return fold_columns


def make_finish_columns(spec: Spec, geometry: Geometry) -> Callable:
    """The kernel that merges the states of chunks of columns; a block then writes a strip of a chunk.

    Blocks of the first chunk also write the columns' own results. Without results an element, each strip has one block.
    """
    strip, size, scale_of = Strip(spec, geometry), geometry.threads * geometry.vectors, make_scale(spec)
    access, folding, results, threads = strip.access, strip.folding, strip.results, geometry.threads
    of_elements = results.of_elements

    @lanewise
    def begin(addresses, rows, n, chunk, dims):
        line, place = access.begin(addresses, dims, rows, n, chunk if of_elements else n)
        start = place.chunk * chunk
        ranks = line.thread, quotient_up(n, chunk).cast(int32)
        return line, place, folding.first_state(rows), ranks, start, end_of(start, n, chunk)

    @lanewise
    def fold_state(state, workspace, line, c, row, scale):
        return merge_states(folding.fold, state, strip.workspace.load(workspace, Line(*line), c, row), scale)

    @lanewise
    def merge(state, line, place, scale):
        line, place = Line(*line), Place(*place)
        merged = strip.ranks.merge(state, line.thread, place.column, scale)
        known = Known(merged, access.row_inputs(line), scale)
        here = line.thread == 0
        results.store_row(line, known, here & (place.chunk == 0) if of_elements else here)
        return known

    @lanewise
    def write_tile(known, line, start, stop):
        results.load_and_store(Line(*line), start, stop, Known(*known))

    def finish_columns(addresses, workspace, sign, factor, rows, n, chunk, dims):
        scale = scale_of(sign, factor)
        line, place, state, (own, chunks), start, stop = begin(addresses, rows, n, chunk, dims)
        for c in range(own, chunks, threads):
            state = fold_state(state, workspace, line, c, place[1], scale)
        known = merge(state, line, place, scale)
        if of_elements:
            while start < stop:
                write_tile(known, line, start, stop)
                start += size

    return finish_columns
