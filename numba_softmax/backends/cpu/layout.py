"""A layout as kernels read it: a table of int64 words in memory.

Words: the number of rows, the length of a row, the number of row dimensions and
of reduced dimensions, the vectors in a strip; then for each dimension, row
dimensions first, its size and the strides of the operands, in bytes.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numba import float64, int64, types, uint8

from ... import kernel_code
from ...call.layout import Layout
from ...math.lanewise import lanewise
from ...math.memory import Stored, load, store
from ...math.simd import like
from ..spec import Spec
from .basics import BLOCK, inlined, jit, own_format

kernel_code.register()

ROWS, N, ROW_DIMS, REDUCED_DIMS, STRIP = range(5)
TABLE = 5
"""Words before the dimensions."""

_INT64, _BYTE = Stored("int64"), Stored("uint8")


def layout_words(layout: Layout, strip: int) -> np.ndarray:
    """The table for a layout. It must live as long as a kernel reads it."""
    header = [layout.rows, layout.n, len(layout.row_dims), len(layout.reduced_dims), strip]
    dims = [word for dim in (*layout.row_dims, *layout.reduced_dims) for word in dim]
    return np.array(header + dims, dtype=np.int64)


def words_of_one_row(n, x_stride, y_stride):
    """The table for one row of `n` elements, with strides in bytes; for jitted code too."""
    return (1, n, 1, 1, 0, 1, 0, 0, n, x_stride, y_stride)


@lanewise
def word(layout, i):
    """A word of the table."""
    return load(int64, _INT64, layout + 8 * i)


class Places(NamedTuple):
    """Jitted functions: addresses and strides of all operands; see `make_places`."""

    row_at: Callable  # (addresses, layout, row) -> the addresses of a row's first numbers
    run_at: Callable  # (layout, position) -> offsets, strides and number of the elements from a position on
    last_row_dim: Callable  # (layout) -> the size of the last row dimension
    row_strides: Callable  # (layout) -> the strides from row to row in it
    element_strides: Callable  # (layout) -> the strides from element to element, in the last reduced dimension


@functools.cache
def make_places(count: int) -> Places:
    """The functions for `count` operands."""
    dim = 1 + count

    @lanewise
    def zeros(layout):
        return (like(layout, 0),) * count

    @lanewise
    def advanced(offsets, i, layout, at):
        """The offsets, `i` strides of a dimension further."""
        return tuple(offset + i * word(layout, at + 1 + k) for k, offset in enumerate(offsets))

    @lanewise
    def strides_at(layout, at):
        return tuple(word(layout, at + 1 + k) for k in range(count))

    @lanewise
    def sums(addresses, offsets):
        return tuple(address + offset for address, offset in zip(addresses, offsets, strict=True))

    @inlined
    def offsets_of(layout, first_dim, dims, index):
        """The offsets of element number `index`, in C order over some dimensions."""
        offsets = zeros(layout)
        at = TABLE + dim * (first_dim + dims - 1)
        for _ in range(dims - 1):
            size = word(layout, at)
            rest = index // size
            offsets = advanced(offsets, index - rest * size, layout, at)
            index = rest
            at -= dim
        return advanced(offsets, index, layout, at)  # no division for the outermost dimension, mostly the only one

    @inlined
    def row_at(addresses, layout, row):
        return sums(addresses, offsets_of(layout, 0, word(layout, ROW_DIMS), row))

    @inlined
    def run_at(layout, position):
        rows, dims = word(layout, ROW_DIMS), word(layout, REDUCED_DIMS)
        last = TABLE + dim * (rows + dims - 1)
        size = word(layout, last)
        return offsets_of(layout, rows, dims, position), strides_at(layout, last), size - position % size

    @lanewise
    def last_row_dim(layout):
        return word(layout, TABLE + dim * (word(layout, ROW_DIMS) - 1))

    @lanewise
    def row_strides(layout):
        return strides_at(layout, TABLE + dim * (word(layout, ROW_DIMS) - 1))

    @lanewise
    def element_strides(layout):
        return strides_at(layout, TABLE + dim * (word(layout, ROW_DIMS) + word(layout, REDUCED_DIMS) - 1))

    return Places(row_at, run_at, last_row_dim, row_strides, element_strides)


def make_beyond(spec: Spec, formats: tuple[Stored, ...]) -> Callable:
    """A `lanewise` function: the addresses `j` elements further, of elements in these formats side by side."""
    sizes = tuple(f.bytes if o.per == "element" else 0 for o, f in zip(spec.operands, formats, strict=True))

    @lanewise
    def beyond(at, j):
        return tuple(address + j * size if size else address for address, size in zip(at, sizes, strict=True))

    return beyond


class RowNumbers(NamedTuple):
    """`lanewise` access to the operands with numbers for rows; see `make_row_numbers`."""

    load: Callable  # (at, layout) -> the numbers of the operands that are read, a tuple for each, in float64
    store: Callable  # (at, layout, results) -> nothing: writes the numbers of those that are written


def make_row_numbers(spec: Spec) -> RowNumbers:
    """The functions for one row, at the addresses of its first numbers."""

    def places(at, layout, i):
        """The addresses of an operand's numbers, each of which is in a plane with one number for each row."""
        plane = word(layout, ROWS) * spec.sizes[i]
        return [at[i] + plane * k if k else at[i] for k in range(spec.operands[i].numbers)]

    @lanewise
    def load_row(at, layout):
        return tuple(
            tuple(load(float64, spec.formats[i], place) for place in places(at, layout, i)) for i in spec.row_reads
        )

    @lanewise
    def store_row(at, layout, results):
        for i, numbers in zip(spec.row_results, results, strict=True):
            for place, number in zip(places(at, layout, i), numbers, strict=False):
                store(spec.formats[i], place, number)

    return RowNumbers(load_row, store_row)


class Gathered(NamedTuple):
    """A block of a row, gathered into scratch memory; see `make_gather`."""

    formats: tuple[Stored, ...]  # those of the operands there
    nbytes: int
    gather: Callable  # (at, layout, start, count, room) -> nothing: copies elements and mask there
    scatter: Callable  # (at, layout, start, count, room) -> nothing: copies results from there to the operands
    block_at: Callable  # (at, room) -> the addresses of the block there; row operands stay where they are


def make_gather(spec: Spec) -> Gathered:
    """The functions; in scratch memory, inputs have the type to compute in."""
    own, places = own_format(spec.number), make_places(len(spec.operands))
    run_at = places.run_at
    formats = tuple(own if i in spec.element_inputs else f for i, f in enumerate(spec.formats))
    block_offsets, nbytes = [], 0
    for o, f in zip(spec.operands, formats, strict=True):
        block_offsets.append(nbytes)
        nbytes += BLOCK * f.bytes if o.per == "element" else 0
    inputs = [i for i in (*spec.element_inputs, spec.mask) if i is not None]

    @lanewise
    def block_at(at, room):
        return tuple(
            room + offset if o.per == "element" else address
            for o, offset, address in zip(spec.operands, block_offsets, at, strict=True)
        )

    def moved(at, offsets, strides, i):
        return [address + offset + i * stride for address, offset, stride in zip(at, offsets, strides, strict=True)]

    @lanewise
    def gather_one(at, offsets, strides, i, room, j):
        addresses = moved(at, offsets, strides, i)
        for k in inputs:
            raw = k == spec.mask
            v = load(uint8 if raw else spec.number, _BYTE if raw else spec.formats[k], addresses[k])
            store(_BYTE if raw else own, room + block_offsets[k] + j * formats[k].bytes, v)

    @lanewise
    def scatter_one(at, offsets, strides, i, room, j):
        addresses = moved(at, offsets, strides, i)
        for k in spec.element_results:
            bits = formats[k].bits
            raw, integer = Stored(f"int{bits}"), types.Integer.from_bitwidth(bits)
            store(raw, addresses[k], load(integer, raw, room + block_offsets[k] + j * formats[k].bytes))

    def make_each(one):
        @jit
        def each(at, layout, start, count, room):
            done = 0
            while done < count:
                begin, strides, run = run_at(layout, start + done)
                run = min(run, count - done)
                for i in range(run):
                    one(at, begin, strides, i, room, done + i)
                done += run

        return each

    return Gathered(formats, nbytes, make_each(gather_one), make_each(scatter_one), block_at)
