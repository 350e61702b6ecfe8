"""Second-pass kernels: they make results of elements whose rows' states are given, and results of states alone.

Given states are float64 in memory, whatever type their rows are computed in.
"""

from __future__ import annotations

from collections.abc import Callable

from numba import int64

from .... import kernel_code
from ....math import online
from ....math.folds import from_stored
from ....math.lanewise import lanewise
from ....math.simd import like, select
from ...spec import Spec, make_scale
from .. import device
from ..access import Access, Line
from ..folding import Scale, State
from ..geometry import Geometry
from ..results import Known
from .chunks import end_of
from .columns import Strip
from .rows import Tile, quotient_up

kernel_code.register()


def known_of(tile: Tile | Strip, line: Line, scale: Scale) -> Known:
    """The given state of a line, in the form for `Results`, and the line's other numbers to read."""
    access, folding = tile.access, tile.folding
    numbers, *row = (access.row_numbers(line, i) for i in access.spec.row_reads)
    state = from_stored(folding.fold, folding.number, folding.two_parts, numbers)
    return Known(online.nan_if_infinite(state), tuple(row), scale)


def make_given_rows(spec: Spec, geometry: Geometry) -> Callable:
    """The kernel for threads along rows: a block has one tile of each of its rows."""
    tile, scale_of = Tile(spec, geometry), make_scale(spec)

    @lanewise
    def compute(addresses, scale, rows, n, dims):
        row_in_block, thread = device.quotient_and_rest(device.thread_of(n), geometry.threads)
        tiles = quotient_up(n, like(n, geometry.tile))
        group, index = device.quotient_and_rest(device.block_of(n).cast(int64), tiles)
        row = group * geometry.rows_per_block + row_in_block.cast(int64)
        line = tile.access.line(addresses, dims, rows, row, thread)
        start = index * geometry.tile
        stop = select(row < rows, end_of(start, n, like(n, geometry.tile)), start)
        tile.results.load_and_store(line, start, stop, known_of(tile, line, scale))

    def given_rows(addresses, workspace, sign, factor, rows, n, chunk, dims):
        compute(addresses, scale_of(sign, factor), rows, n, dims)

    return given_rows


def make_given_columns(spec: Spec, geometry: Geometry) -> Callable:
    """The kernel for threads across rows that are neighbours in memory."""
    strip, scale_of = Strip(spec, geometry), make_scale(spec)

    @lanewise
    def compute(addresses, scale, rows, n, chunk, dims):
        line, place = strip.access.begin(addresses, dims, rows, n, chunk)
        start = place.chunk * chunk
        strip.results.load_and_store(line, start, end_of(start, n, chunk), known_of(strip, line, scale))

    def given_columns(addresses, workspace, sign, factor, rows, n, chunk, dims):
        compute(addresses, scale_of(sign, factor), rows, n, chunk, dims)

    return given_columns


def make_states(spec: Spec, geometry: Geometry) -> Callable:
    """The kernel for rows without elements: an op's numbers, from a row's state and other numbers; a row a thread."""
    access, fold, scale_of = Access(spec, geometry), spec.op.fold, make_scale(spec)
    counts = [o.numbers for o in spec.operands if o.kind == "state"]
    two_parts = len(fold.state) in counts  # then all of a state's numbers are stored

    def state_of(line: Line) -> State:
        if spec.state is not None:
            return from_stored(fold, spec.number, two_parts, access.row_numbers(line, spec.state))
        zero = like(line.at(0).cast(spec.number), 0.0)
        return fold.identity(zero, zero if two_parts else None)

    @lanewise
    def compute(addresses, scale, rows, dims):
        row = device.block_of(rows).cast(int64) * geometry.threads + device.thread_of(rows).cast(int64)
        line = access.line(addresses, dims, rows, row, device.thread_of(rows))
        access.store_row(line, spec.op.rows(state_of(line), access.row_inputs(line), scale), row < rows)

    def states(addresses, workspace, sign, factor, rows, n, chunk, dims):
        compute(addresses, scale_of(sign, factor), rows, dims)

    return states
