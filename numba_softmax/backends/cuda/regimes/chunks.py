"""The kernels for rows of any length, in chunks, with threads along them; a block has a chunk."""

from __future__ import annotations

from collections.abc import Callable

from numba import int32, int64

from .... import kernel_code
from ....math.folds import merge_states, only, present
from ....math.lanewise import Value, Vec, lanewise
from ....math.memory import Stored, from_memory
from ....math.simd import lane, like, select, splat
from ...spec import Spec, make_scale
from .. import device, global_memory
from ..access import Line
from ..folding import Folding, State
from ..geometry import Geometry
from ..results import Known
from .rows import Tile, quotient_up

kernel_code.register()


class Workspace:
    """The states of chunks in temporary memory, where the numbers of one are neighbours."""

    def __init__(self, folding: Folding) -> None:
        self._folding, self._stored = folding, Stored(folding.number.name)

    def load(self, workspace: Value, index: Value) -> State:
        """The state of chunk number `index`."""
        v, size, one = Vec(self._folding.number, 1), self._stored.bytes, device.integer(index, 1)
        raws = (
            global_memory.load_raw(v, self._stored, place, one, size, False) for place in self._places(workspace, index)
        )
        return self._folding.restored([lane(from_memory(raw, self._stored, v), 0) for raw in raws])

    def store(self, workspace: Value, index: Value, state: State, here: Value) -> None:
        """Store the state of a chunk, in the thread where `here` is true."""
        v, size, count = Vec(self._folding.number, 1), self._stored.bytes, here.cast(int32)
        for place, number in zip(self._places(workspace, index), only(state), strict=True):
            global_memory.store_raw(self._stored, place, splat(v, number), count, size, False, False)

    def _places(self, workspace: Value, index: Value) -> list[Value]:
        size, there = self._stored.bytes, present(self._folding.fold.state, self._folding.two_parts)
        first = workspace + index.cast(int64) * (len(there) * size)
        return [first + i * size for i in range(sum(there))]


def make_fold_chunks(spec: Spec, geometry: Geometry) -> Callable:
    """The kernel that stores the state of each chunk of each row in temporary memory."""
    tile, size, scale_of = Tile(spec, geometry), geometry.tile, make_scale(spec)
    access, folding, workspace_of = tile.access, tile.folding, Workspace(tile.folding)

    @lanewise
    def begin(addresses, rows, n, chunk, dims):
        row, start = _chunk_of(device.block_of(n), n, chunk)
        line = access.line(addresses, dims, rows, row, device.thread_of(n))
        return line.placed(), folding.first_state(rows), start, end_of(start, n, chunk)

    @lanewise
    def fold_tile(state, line, start, stop, scale):
        parts = access.load(Line(*line), start, stop)
        return folding.folded(state, access.elements(parts, scale), scale)[0]

    @lanewise
    def end(state, line, scale, workspace):
        thread = Line(*line).thread
        state = tile.warps.merge(state, thread, scale)
        workspace_of.store(workspace, device.block_of(thread), state, thread == 0)

    def fold_chunks(addresses, workspace, sign, factor, rows, n, chunk, dims):
        scale = scale_of(sign, factor)
        line, state, start, stop = begin(addresses, rows, n, chunk, dims)
        while start < stop:
            state = fold_tile(state, line, start, stop, scale)
            start += size
        end(state, line, scale, workspace)

    return fold_chunks


def make_finish_chunks(spec: Spec, geometry: Geometry) -> Callable:
    """The kernel that merges the states of a row's chunks; a block then writes a chunk.

    The block of the first chunk also writes the row's own results. Without results an element, each row has one block.
    The last chunk comes first: it is the one most likely to be in the cache still.
    """
    tile, size, threads, scale_of = Tile(spec, geometry), geometry.tile, geometry.threads, make_scale(spec)
    access, folding, results, workspace_of = tile.access, tile.folding, tile.results, Workspace(tile.folding)
    of_elements = results.of_elements

    @lanewise
    def begin(addresses, rows, n, chunk, dims):
        block, chunks = device.block_of(n).cast(int64), quotient_up(n, chunk)
        if of_elements:
            row, start = _chunk_of(rows * chunks - 1 - block, n, chunk)
        else:
            row, start = block, like(block, 0)
        line = access.line(addresses, dims, rows, row, device.thread_of(n))
        chunk_states = row * chunks, chunks.cast(int32)
        return line.placed(), folding.first_state(rows), chunk_states, start, end_of(start, n, chunk)

    @lanewise
    def fold_state(state, workspace, index, scale):
        return merge_states(folding.fold, state, workspace_of.load(workspace, index), scale)

    @lanewise
    def merge(state, line, scale, start):
        line = Line(*line)
        known = Known(tile.warps.merge(state, line.thread, scale), access.row_inputs(line), scale)
        here = line.thread == 0
        results.store_row(line, known, here & (start == 0) if of_elements else here)
        return known

    @lanewise
    def write_tile(known, line, start, stop):
        results.load_and_store(Line(*line), start, stop, Known(*known))

    def finish_chunks(addresses, workspace, sign, factor, rows, n, chunk, dims):
        scale = scale_of(sign, factor)
        thread = device.thread_of(n)
        line, state, (first, chunks), start, stop = begin(addresses, rows, n, chunk, dims)
        for i in range(thread, chunks, threads):
            state = fold_state(state, workspace, first + i, scale)
        known = merge(state, line, scale, start)
        if of_elements:
            while start < stop:
                write_tile(known, line, start, stop)
                start += size

    return finish_chunks


def _chunk_of(index: Value, n: Value, chunk: Value) -> tuple[Value, Value]:
    """The row of a chunk, and the chunk's first element in it."""
    row, c = device.quotient_and_rest(index.cast(int64), quotient_up(n, chunk))
    return row, c * chunk


def end_of(start: Value, n: Value, chunk: Value) -> Value:
    """The end of a chunk that begins at `start`."""
    end = start + chunk
    return select(n < end, n, end)
