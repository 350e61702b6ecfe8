"""The layout of a problem as kernels read it: a table of int64 words in memory.

Words: the number of rows, the length of a row, the number of row dimensions,
of reduced dimensions, whether to stream, the bytes of scratch; then four words
a dimension, row dimensions first: its size and the steps, in bytes, of x, of
the result and of the mask.
"""

from __future__ import annotations

import numpy as np
from numba import int64

from ...arrays import Layout
from ...simd import Stored, load, store
from .tiles import inlined, jit

ROWS, N, ROW_DIMS, REDUCED_DIMS, STREAM = range(5)
_TABLE = 5
_INT64 = Stored("int64")


def layout_words(layout: Layout, stream: bool) -> np.ndarray:
    """The table for a layout. It must live as long as a kernel reads it."""
    header = [layout.rows, layout.n, len(layout.row_dims), len(layout.reduced_dims), int(stream)]
    dims = [word for dim in (*layout.row_dims, *layout.reduced_dims) for word in dim]
    return np.array(header + dims, dtype=np.int64)


@inlined
def word(layout, i):
    return load(int64, _INT64, layout + 8 * i)


@inlined
def offsets(layout, first_dim, dims, index):
    """Where the element of that number in C order over some dimensions lies: in x, result and mask."""
    x, y, w = 0, 0, 0
    at = _TABLE + 4 * (first_dim + dims)
    for _ in range(dims):
        at -= 4
        size = word(layout, at)
        i = index % size
        index //= size
        x += i * word(layout, at + 1)
        y += i * word(layout, at + 2)
        w += i * word(layout, at + 3)
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
    last = _TABLE + 4 * (rows + dims - 1)
    size = word(layout, last)
    steps = word(layout, last + 1), word(layout, last + 2), word(layout, last + 3)
    return offsets(layout, rows, dims, position), steps, size - position % size


def make_gather(x_format: Stored, own: Stored, number, y_format: Stored, masked: bool):
    """Functions that bring a block of a row together in scratch memory, and spread one out."""
    y_raw = Stored(f"int{y_format.bits}")
    y_number = {16: "int16", 32: "int32", 64: "int64"}[y_format.bits]
    byte = Stored("uint8")

    import numba

    y_integer, byte_integer = getattr(numba, y_number), numba.uint8
    size, y_size = own.bytes, y_format.bytes

    @jit
    def gather(x, w, layout, start, count, x_block, w_block):
        done = 0
        while done < count:
            (x_at, _, w_at), (x_step, _, w_step), run = run_at(layout, start + done)
            run = min(run, count - done)
            for i in range(run):
                store(own, x_block + (done + i) * size, load(number, x_format, x + x_at + i * x_step))
                if masked:
                    store(byte, w_block + done + i, load(byte_integer, byte, w + w_at + i * w_step))
            done += run

    @jit
    def scatter(y_block, y, layout, start, count):
        done = 0
        while done < count:
            (_, y_at, _), (_, y_step, _), run = run_at(layout, start + done)
            run = min(run, count - done)
            for i in range(run):
                value = load(y_integer, y_raw, y_block + (done + i) * y_size)
                store(y_raw, y + y_at + i * y_step, value)
            done += run

    return gather, scatter
