"""The kernels with threads along the row, which is in registers or in shared memory."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from numba import int32, int64

from .... import kernel_code
from ....math.lanewise import Value, lanewise
from ....math.memory import raw_type
from ....math.simd import like, select
from ...spec import Spec, make_scale
from .. import device
from ..access import Access, Line, Part
from ..folding import Folded, Folding
from ..geometry import Geometry
from ..results import Known, Results
from ..warps import Warps

kernel_code.register()


class Tile:
    """The functions over the part of a row that a thread has in registers."""

    def __init__(self, spec: Spec, geometry: Geometry) -> None:
        self.access, self.folding = Access(spec, geometry), Folding(spec, geometry)
        self.warps = Warps(self.folding, geometry)
        self.results = Results(spec, self.access, self.folding)


def make_rows(spec: Spec, geometry: Geometry) -> Callable:
    """The kernel for rows that fit the registers of their threads: each element is read once."""
    tile, scale_of = Tile(spec, geometry), make_scale(spec)
    access, folding, warps, results = tile.access, tile.folding, tile.warps, tile.results
    threads, lanes = geometry.threads, geometry.warp_threads

    @lanewise
    def compute(addresses, scale, rows, n, dims):
        row_in_block, thread = device.quotient_and_rest(device.thread_of(n), threads)
        row = device.block_of(n).cast(int64) * geometry.rows_per_block + row_in_block.cast(int64)
        line = access.line(addresses, dims, rows, row, thread)
        parts = access.load(line, like(thread, 0), select(row < rows, n, 0).cast(int32))
        elements = access.elements(parts, scale)
        m = warps.maximum(folding.maximum(elements), lanes)
        sums, folded = folding.sums(elements, m, scale)
        sums = warps.sums(sums, lanes)
        state = warps.merge_warps(folding.state(sums, folded), row_in_block, thread, scale)
        known = Known(state, access.row_inputs(line), scale)
        results.store_row(line, known, (row < rows) & (thread == 0))
        if not results.of_elements:
            return
        others = [element.others for element in elements]
        if not results.keeps_weights:
            access.store(line, parts, results.from_elements(elements, known))
        elif geometry.warps == 1:
            access.store(line, parts, results.from_weights(folded, others, sums, known))
        else:
            access.store(line, parts, results.from_far_weights(folded, others, known))

    def rows_kernel(addresses, workspace, sign, factor, rows, n, chunk, dims):
        compute(addresses, scale_of(sign, factor), rows, n, dims)

    return rows_kernel


class Stage(Tile):
    """The functions over a thread's part of a row, which is kept in shared memory until results are made of it.

    Kept are the weights, with the maxima that were subtracted and the units, or else the elements. Further operands
    are loaded again: if they were kept too, only shorter rows would fit.
    """

    def __init__(self, spec: Spec, geometry: Geometry) -> None:
        super().__init__(spec, geometry)
        self.geometry, self.number = geometry, spec.number
        self.number_bytes = spec.number.bitwidth // 8
        self.keeps_weights = self.results.keeps_weights
        self.loaded_again = spec.element_inputs[1:] if self.results.uses_others else ()
        vec = self.access.vec
        kept = spec.number if self.keeps_weights else raw_type(vec, spec.formats[spec.element_inputs[0]]).element
        self.kept = vec.of(kept)

    def room(self, n: int) -> int:
        """The bytes of shared memory for a row of `n` elements."""
        tiles = -(-n // self.geometry.tile)
        frames = 2 * self.geometry.threads * self.number_bytes if self.keeps_weights else 0
        return tiles * (self.geometry.tile * self.kept.element.bitwidth // 8 + frames)

    def keep(self, line: Line, parts: list[Part], folded: Folded, start: Value, stop: Value) -> None:
        """Keep a thread's part of the tile that begins at `start`."""
        room = device.dynamic_shared_memory(start)
        vectors: list[Value] = folded.weights if self.keeps_weights else [part.raws[0] for part in parts]
        for k, v in enumerate(vectors):
            device.write_shared(room, self._place(k, line.thread, start), v)
        if self.keeps_weights:
            frame: tuple[Any, ...] = folded.m, folded.unit
            for place, number in zip(self._places_of_frame(line.thread, start, stop), frame, strict=True):
                device.write_shared(room, place, number)

    def store_kept(self, line: Line, start: Value, stop: Value, known: Known) -> None:
        """Write the results of the part that `keep` has kept."""
        access, results, thread = self.access, self.results, line.thread
        parts = access.load(line, start, stop, self.loaded_again)
        room = device.dynamic_shared_memory(thread)
        vectors = [device.read_shared(self.kept, room, self._place(k, thread, start)) for k in range(len(parts))]
        if self.keeps_weights:
            places = self._places_of_frame(thread, start, stop)
            m, unit = (device.read_shared(self.number, room, place) for place in places)
            others = [access.others(part) for part in parts]
            access.store(line, parts, results.from_far_weights(Folded(vectors, m, unit), others, known))
        else:
            kept = [part._replace(raws=(raw, *part.raws[1:])) for part, raw in zip(parts, vectors, strict=True)]
            access.store(line, parts, results.from_elements(access.elements(kept, known.scale), known))

    def _place(self, k: int, thread: Value, start: Value) -> Value:
        """The offset in bytes of vector `k` in shared memory, where those that a warp reads at once are neighbours."""
        g = self.geometry
        return (start + (thread + g.threads * k) * g.elements) * (self.kept.element.bitwidth // 8)

    def _places_of_frame(self, thread: Value, start: Value, stop: Value) -> tuple[Value, Value]:
        """The offsets of maximum and unit of a thread's part of a tile: after all vectors."""
        tile, threads, number_bytes = self.geometry.tile, self.geometry.threads, self.number_bytes
        tiles, index = quotient_up(stop, like(stop, tile)), device.quotient_and_rest(start, tile)[0]
        first = (tiles * tile + index * (2 * threads) + thread) * number_bytes
        return first, first + threads * number_bytes


def make_staged_rows(spec: Spec, geometry: Geometry) -> Callable:
    """The kernel for rows that fit shared memory: a block has a row, and each element is read once.

    A thread reads no shared memory but what it has written itself, so it needs no barrier for that.
    """
    stage, size, scale_of = Stage(spec, geometry), geometry.tile, make_scale(spec)
    access, folding, results = stage.access, stage.folding, stage.results
    of_elements = results.of_elements

    @lanewise
    def begin(addresses, sign, factor, rows, n, dims):
        thread = device.thread_of(n)
        line = access.line(addresses, dims, rows, device.block_of(n).cast(int64), thread)
        return line.placed(), scale_of(sign, factor), folding.first_state(sign), n.cast(int32)

    @lanewise
    def fold_tile(state, line, start, stop, scale):
        line = Line(*line)
        parts = access.load(line, start, stop)
        state, folded = folding.folded(state, access.elements(parts, scale), scale)
        if of_elements:
            stage.keep(line, parts, folded, start, stop)
        return state

    @lanewise
    def end(state, line, scale):
        line = Line(*line)
        known = Known(stage.warps.merge(state, line.thread, scale), access.row_inputs(line), scale)
        results.store_row(line, known, line.thread == 0)
        return known

    @lanewise
    def write_tile(known, line, start, stop):
        stage.store_kept(Line(*line), start, stop, Known(*known))

    def staged_rows(addresses, workspace, sign, factor, rows, n, chunk, dims):
        line, scale, state, stop = begin(addresses, sign, factor, rows, n, dims)
        for start in range(int32(0), stop, int32(size)):
            state = fold_tile(state, line, start, stop, scale)
        known = end(state, line, scale)
        if of_elements:
            for start in range(int32(0), stop, int32(size)):
                write_tile(known, line, start, stop)

    return staged_rows


def quotient_up(a: Value, b: Value) -> Value:
    """``a / b`` rounded up."""
    return device.quotient_and_rest(a + b - 1, b)[0]
