"""Kernels for rows whose states are there: results of elements, each from itself and its row's state; and of states.

Such states are float64 in memory, whatever their rows are computed in.
"""

from __future__ import annotations

from collections.abc import Callable

from numba import float64, int32, int64

from ... import kernel_code, online
from ...lanewise import Value, Vec, lanewise
from ...pairs import in_two_parts
from ...simd import Stored, convert, from_memory, lane, like, select
from ..spec import Spec, make_scale
from . import device
from .columns import Strip
from .rows import end_of, quotient_up
from .tiles import Geometry, State, Tile

kernel_code.register()

_FLOAT64 = Stored("float64")


def load_numbers(
    spec: Spec, elements: int, states: Value, plane: Value, count: Value, width: int = _FLOAT64.bytes
) -> list[Value]:
    """The numbers of the states of `count` rows, as vectors; `plane` bytes lie between first and second numbers."""
    v = Vec(float64, elements)
    raws = (
        device.load_raw(v, _FLOAT64, states + plane * k, count, width, elements > 1) for k in range(spec.numbers_read)
    )
    return [from_memory(raw, _FLOAT64, v) for raw in raws]


def state_to_finish(tile: Tile, numbers: list[Value]) -> State:
    """The state with these numbers, in the type to compute in, as results are made from it."""
    m, rest, *rest_lo = numbers if tile.geometry.across > 1 else [lane(number, 0) for number in numbers]
    hi, lo = in_two_parts(tile.number, (rest, rest_lo[0] if rest_lo else None))
    return online.settled((convert(tile.number, m), hi, lo if tile.two_parts else None))


def make_given_rows(spec: Spec, geometry: Geometry) -> Callable:
    """The kernel for threads along rows: a tile of each of some rows to a block."""
    tile, scale_of = Tile(spec, geometry), make_scale(spec)

    @lanewise
    def compute(x, y, w, states, sign, factor, rows, n, dims):
        row_in_block, thread = device.quotient_and_rest(device.thread_of(n), geometry.threads)
        tiles = quotient_up(n, like(n, geometry.tile))
        group, index = device.quotient_and_rest(device.block_of(n).cast(int64), tiles)
        row = group * geometry.rows + row_in_block.cast(int64)
        x_at, y_at, w_at = tile.row_offsets(dims, row)
        numbers = load_numbers(spec, 1, states + row * 8, rows * 8, (row < rows).cast(int32))
        start = index * geometry.tile
        stop = select(row < rows, end_of(start, n, like(n, geometry.tile)), start)
        parts = tile.load(x + x_at, w + w_at, dims, thread, start, stop)
        tile.store_results(y + y_at, dims, thread, parts, state_to_finish(tile, numbers), scale_of(sign, factor))

    def given_rows(x, y, w, states, sign, factor, rows, n, chunk, dims):
        compute(x, y, w, states, sign, factor, rows, n, dims)

    return given_rows


def make_given_columns(spec: Spec, geometry: Geometry) -> Callable:
    """The kernel for threads across rows that are neighbours in memory."""
    strip, scale_of = Strip(spec, geometry), make_scale(spec)

    @lanewise
    def compute(x, y, w, states, sign, factor, rows, n, chunk, dims):
        c, (x_at, y_at, w_at), row, columns, rank, _ = strip.begin(rows, n, chunk, dims)
        numbers = load_numbers(spec, geometry.elements, states + row * 8, rows * 8, columns)
        start = c * chunk
        parts = strip.load(x + x_at, w + w_at, dims, rank, start, (end_of(start, n, chunk), columns))
        strip.store_results(y + y_at, dims, rank, parts, state_to_finish(strip, numbers), scale_of(sign, factor))

    def given_columns(x, y, w, states, sign, factor, rows, n, chunk, dims):
        compute(x, y, w, states, sign, factor, rows, n, chunk, dims)

    return given_columns


def make_states(spec: Spec, geometry: Geometry) -> Callable:
    """The kernel for states in place of elements: the op's numbers of each, or of its merger with that at `y`.

    A thread has a row.
    """
    tile, op = Tile(spec, geometry), spec.op
    scale_of = make_scale(spec._replace(wide=True))  # as states, in float64

    @lanewise
    def compute(x, y, sign, factor, rows, dims):
        scale = scale_of(sign, factor)
        row = device.block_of(rows).cast(int64) * geometry.threads + device.thread_of(rows).cast(int64)
        here = row < rows
        x_at, y_at, _ = tile.row_offsets(dims, row)

        def state_at(states: Value, width: int) -> State:
            numbers = [lane(v, 0) for v in load_numbers(spec, 1, states, rows * 8, here.cast(int32), width)]
            m, rest, rest_lo = (*(numbers or [convert(float64, rows)]), None, None)[:3]
            return m, rest, rest_lo

        state = state_at(x + x_at, geometry.widths[0])
        if op.merges:
            state = online.merge(state_at(y + y_at, geometry.widths[1]), state, scale)
        tile.store_numbers(y + y_at, rows, op.finish_row(state, scale), here)

    def states(x, y, w, states, sign, factor, rows, n, chunk, dims):
        compute(x, y, sign, factor, rows, dims)

    return states
