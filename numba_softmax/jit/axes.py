"""Rows along any axes of an array, in jitted code: the layout that kernels read, and who computes what."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Literal

from ..backends.cpu import STRIP_BYTES, WIDEST_STRIP
from ..backends.cpu.layout import (
    DIM,
    REDUCED_DIMS,
    ROW_DIMS,
    ROWS,
    STRIP,
    TABLE,
    N,
    last_row_dim,
    row_offsets,
    run_at,
    word,
)
from ..backends.cpu.tiles import BLOCK, VECTOR_BYTES, inlined, jit, lanes_of
from ..backends.spec import Spec, stored
from ..expmath import INF
from ..lanewise import lanewise
from ..simd import Stored, store
from .kernels import body_of, contiguous_row

_INT64 = Stored("int64")


def words_for(ndim: int) -> tuple[int, ...]:
    """An empty table for arrays of so many dimensions; each kind of dimension is there at least once."""
    return (0,) * (TABLE + DIM * (ndim + 1))


@lanewise
def put(layout, i, number):
    """Write a word of a layout."""
    store(_INT64, layout + 8 * i, number)


@lanewise
def put_dim(layout, at, size, x_step, y_step, w_step):
    """Write the words of a dimension, from word `at` on."""
    put(layout, at, size)
    put(layout, at + 1, x_step)
    put(layout, at + 2, y_step)
    put(layout, at + 3, w_step)


@jit
def is_among(d, axes, ndim):
    """Whether dimension `d` is one of the axes, which may be counted from the end."""
    among = False
    for axis in axes:
        among |= d == axis or d == axis + ndim
    return among


@jit
def are_axes(axes, ndim):
    """Whether the axes are there, and none twice."""
    reduced = 0
    for d in range(ndim):
        reduced += is_among(d, axes, ndim)
    return reduced == len(axes)


@jit
def put_layout(layout, shape, x_steps, y_steps, w_steps, axes):
    """Write the table for rows along some axes.

    Reduced dimensions that follow one another in memory become one, as in
    `numba_softmax.call.layout`.
    """
    ndim, rows, n = len(shape), 1, 1
    at = TABLE
    for d in range(ndim):
        if not is_among(d, axes, ndim):
            put_dim(layout, at, shape[d], x_steps[d], y_steps[d], w_steps[d])
            rows *= shape[d]
            at += DIM
    if at == TABLE:
        put_dim(layout, at, 1, 0, 0, 0)
        at += DIM
    first = at
    for d in range(ndim):
        size = shape[d]
        if is_among(d, axes, ndim):
            n *= size
            if size == 1:
                continue
            if (
                at > first
                and word(layout, at - 3) == size * x_steps[d]
                and word(layout, at - 2) == size * y_steps[d]
                and word(layout, at - 1) == size * w_steps[d]
            ):
                at -= DIM
                size *= word(layout, at)
            put_dim(layout, at, size, x_steps[d], y_steps[d], w_steps[d])
            at += DIM
    if at == first:
        put_dim(layout, at, 1, 0, 0, 0)
        at += DIM
    put(layout, ROWS, rows)
    put(layout, N, n)
    put(layout, ROW_DIMS, (first - TABLE) // DIM)
    put(layout, REDUCED_DIMS, (at - first) // DIM)


Arrangement = Literal["along", "across", "any"]
"""Whether the elements of a row certainly lie side by side, or those of neighbouring rows, in array and result."""


@functools.cache
def make_rows_along_axes(spec: Spec, arrangement: Arrangement) -> Callable:
    """``f(x, y, layout)``: all rows, which are arranged so."""
    if arrangement == "across":
        return _make_rows_across(spec)
    row, gathered = contiguous_row(spec), body_of("gathered", spec) if arrangement == "any" else None
    x_size, y_size, reduces = stored(spec.x).bytes, stored(spec.y).bytes, spec.op.reduces

    @jit
    def contiguous_rows(x, y, layout):
        n = word(layout, N)
        for i in range(word(layout, ROWS)):
            x_at, y_at, _ = row_offsets(layout, i)
            row(x + x_at, y + y_at, n)

    if arrangement == "along":
        return contiguous_rows

    @inlined
    def is_contiguous(layout):
        if word(layout, N) <= 1:
            return True
        _, (x_step, y_step, _), _ = run_at(layout, 0)
        return word(layout, REDUCED_DIMS) == 1 and x_step == x_size and (reduces or y_step == y_size)

    @jit
    def any_steps(x, y, layout):
        if is_contiguous(layout):
            contiguous_rows(x, y, layout)
        else:
            gathered(x, y, layout, 0, word(layout, ROWS))

    return any_steps


def _make_rows_across(spec: Spec) -> Callable:
    columns, lanes, y_format = body_of("columns", spec), lanes_of(spec.number), stored(spec.y)
    y_size = y_format.bytes

    @jit
    def rows_across(x, y, layout):
        rows, n, inner = word(layout, ROWS), word(layout, N), last_row_dim(layout)
        if rows == 0 or n == 0:  # of no elements there is nothing but a sum
            for i in range(rows):
                store(y_format, y + i * y_size, -INF)
            return
        vectors = -(-inner // lanes)
        widest = min(WIDEST_STRIP, max(1, STRIP_BYTES // (min(n, BLOCK) * VECTOR_BYTES)))
        strip = -(-vectors // -(-vectors // widest))
        put(layout, STRIP, strip)
        columns(x, y, layout, 0, rows // inner * -(-vectors // strip))

    return rows_across
