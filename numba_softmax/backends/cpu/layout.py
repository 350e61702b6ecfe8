"""The layout of a problem as kernels read it: a table of int64 words in memory.

Words: the number of rows, the length of a row, the number of row dimensions and
of reduced dimensions, the vectors in a strip; then four words a dimension, row
dimensions first: its size and the steps, in bytes, of x, of the result and of
the mask.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numba import int64, types, uint8

from ... import kernel_code
from ...call.layout import Layout
from ...lanewise import lanewise
from ...simd import Stored, load, store
from .tiles import inlined, jit

kernel_code.register()

ROWS, N, ROW_DIMS, REDUCED_DIMS, STRIP = range(5)
TABLE, DIM = 5, 4
"""Words before the dimensions, and of each of those."""

_INT64, _BYTE = Stored("int64"), Stored("uint8")


def layout_words(layout: Layout, strip: int) -> np.ndarray:
    """The table for a layout. It must live as long as a kernel reads it."""
    header = [layout.rows, layout.n, len(layout.row_dims), len(layout.reduced_dims), strip]
    dims = [word for dim in (*layout.row_dims, *layout.reduced_dims) for word in dim]
    return np.array(header + dims, dtype=np.int64)


def words_of_one_row(n, x_step, y_step):
    """The table for a row of that length, its elements and results so many bytes apart; for jitted code too."""
    return (1, n, 1, 1, 0, 1, 0, 0, 0, n, x_step, y_step, 0)


@lanewise
def word(layout, i):
    return load(int64, _INT64, layout + 8 * i)


@inlined
def offsets(layout, first_dim, dims, index):
    """Where the element of that number in C order over some dimensions lies: in x, result and mask."""
    x, y, w = 0, 0, 0
    at = TABLE + DIM * (first_dim + dims - 1)
    for _ in range(dims - 1):
        size = word(layout, at)
        rest = index // size
        i = index - rest * size
        x += i * word(layout, at + 1)
        y += i * word(layout, at + 2)
        w += i * word(layout, at + 3)
        index = rest
        at -= DIM
    x += index * word(layout, at + 1)  # no division for the outermost dimension, mostly the only one
    y += index * word(layout, at + 2)
    w += index * word(layout, at + 3)
    return x, y, w


@inlined
def row_offsets(layout, row):
    return offsets(layout, 0, word(layout, ROW_DIMS), row)


@inlined
def run_at(layout, position):
    """The run of equally spaced elements of a row that starts at `position`.

    Returns the three offsets, the three steps and the run's length.
    """
    rows, dims = word(layout, ROW_DIMS), word(layout, REDUCED_DIMS)
    last = TABLE + DIM * (rows + dims - 1)
    size = word(layout, last)
    steps = word(layout, last + 1), word(layout, last + 2), word(layout, last + 3)
    return offsets(layout, rows, dims, position), steps, size - position % size


@lanewise
def last_row_dim(layout):
    """The size of the last row dimension."""
    return word(layout, TABLE + DIM * (word(layout, ROW_DIMS) - 1))


@lanewise
def last_row_steps(layout):
    """The steps from row to row in the last row dimension."""
    at = TABLE + DIM * (word(layout, ROW_DIMS) - 1)
    return word(layout, at + 1), word(layout, at + 2), word(layout, at + 3)


def make_store_numbers(y_format: Stored, row_numbers: int) -> Callable:
    """A `lanewise` function that writes the first numbers of a row, as many as there is room for."""
    size = y_format.bytes

    @lanewise
    def store_numbers(y, layout, numbers):
        for k in range(row_numbers):
            store(y_format, y + word(layout, ROWS) * (k * size), numbers[k])

    return store_numbers


def make_gather(x_format: Stored, number: types.Type, masked: bool) -> Callable:
    """A jitted function that brings a block of a row together in scratch memory, in the compute type."""
    own = Stored(number.name)
    size = own.bytes

    @jit
    def gather(x, w, layout, start, count, x_block, w_block):
        done = 0
        while done < count:
            (x_at, _, w_at), (x_step, _, w_step), run = run_at(layout, start + done)
            run = min(run, count - done)
            for i in range(run):
                store(own, x_block + (done + i) * size, load(number, x_format, x + x_at + i * x_step))
                if masked:
                    store(_BYTE, w_block + done + i, load(uint8, _BYTE, w + w_at + i * w_step))
            done += run

    return gather


def make_scatter(y_format: Stored) -> Callable:
    """A jitted function that spreads a block of results out to where they belong."""
    raw, size = Stored(f"int{y_format.bits}"), y_format.bytes
    integer = types.Integer.from_bitwidth(y_format.bits)

    @jit
    def scatter(y_block, y, layout, start, count):
        done = 0
        while done < count:
            (_, y_at, _), (_, y_step, _), run = run_at(layout, start + done)
            run = min(run, count - done)
            for i in range(run):
                store(raw, y + y_at + i * y_step, load(integer, raw, y_block + (done + i) * size))
            done += run

    return scatter
