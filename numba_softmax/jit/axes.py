"""Rows along any axes of an array, in jitted code: the layout that kernels read, and the choice of kernels."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Literal

from ..backends.cpu import STRIP_BYTES, WIDEST_STRIP
from ..backends.cpu.basics import BLOCK, VECTOR_BYTES, inlined, jit, lanes_of
from ..backends.cpu.edges import strip_width, strips_in
from ..backends.cpu.layout import REDUCED_DIMS, ROW_DIMS, ROWS, STRIP, TABLE, N, make_places, word
from ..backends.spec import Spec
from ..math.expmath import INF
from ..math.lanewise import lanewise
from ..math.memory import Stored, store
from .kernels import body_of, contiguous_row

_INT64 = Stored("int64")


def words_for(ndim: int, operands: int = 2) -> tuple[int, ...]:
    """An empty table for arrays of `ndim` dimensions, with room for at least one dimension of each kind."""
    return (0,) * (TABLE + (1 + operands) * (ndim + 1))


@lanewise
def put(layout, i, number):
    """Write a word of a layout."""
    store(_INT64, layout + 8 * i, number)


@jit
def is_among(d, axes, ndim):
    """True if dimension `d` is one of the axes, which may be counted from the end."""
    among = False
    for axis in axes:
        among |= d == axis or d == axis + ndim
    return among


@jit
def are_axes(axes, ndim):
    """True if all axes exist, and none is given twice."""
    reduced = 0
    for d in range(ndim):
        reduced += is_among(d, axes, ndim)
    return reduced == len(axes)


@functools.cache
def make_put_layout(operands: int) -> Callable:
    """``f(layout, shape, strides, axes)``: writes the table for rows along some axes, for `operands` operands.

    `strides` has the strides of each operand. Reduced dimensions that follow one another in memory are merged, as in
    `numba_softmax.call.layout`.
    """
    dim = 1 + operands

    @jit
    def put_dim(layout, at, size, strides, d):
        put(layout, at, size)
        for k in range(operands):
            put(layout, at + 1 + k, strides[k][d] if d >= 0 else 0)

    @jit
    def continues(layout, at, size, strides, d):
        """True if the previous dimension continues this one, so that both can be merged."""
        same = True
        for k in range(operands):
            same &= word(layout, at - operands + k) == size * strides[k][d]
        return same

    @jit
    def put_layout(layout, shape, strides, axes):
        ndim, rows, n = len(shape), 1, 1
        at = TABLE
        for d in range(ndim):
            if not is_among(d, axes, ndim):
                put_dim(layout, at, shape[d], strides, d)
                rows *= shape[d]
                at += dim
        if at == TABLE:
            put_dim(layout, at, 1, strides, -1)
            at += dim
        first = at
        for d in range(ndim):
            size = shape[d]
            if is_among(d, axes, ndim):
                n *= size
                if size == 1:
                    continue
                if at > first and continues(layout, at, size, strides, d):
                    at -= dim
                    size *= word(layout, at)
                put_dim(layout, at, size, strides, d)
                at += dim
        if at == first:
            put_dim(layout, at, 1, strides, -1)
            at += dim
        put(layout, ROWS, rows)
        put(layout, N, n)
        put(layout, ROW_DIMS, (first - TABLE) // dim)
        put(layout, REDUCED_DIMS, (at - first) // dim)

    return put_layout


Arrangement = Literal["along", "across", "any"]
"""Elements known to lie side by side, in array and result: those of a row, those of neighbouring rows, or neither."""


@functools.cache
def make_rows_along_axes(spec: Spec, arrangement: Arrangement) -> Callable:
    """``f(x, y, layout)``: computes all rows, which are arranged as `arrangement` says."""
    if arrangement == "across":
        return _make_rows_across(spec)
    row, gathered = contiguous_row(spec), body_of("gathered", spec) if arrangement == "any" else None
    places, (x_size, y_size), reduces = make_places(2), spec.sizes, spec.op.reduces
    row_at, element_strides = places.row_at, places.element_strides

    @jit
    def contiguous_rows(x, y, layout):
        n = word(layout, N)
        for i in range(word(layout, ROWS)):
            xi, yi = row_at((x, y), layout, i)
            row(xi, yi, n)

    if arrangement == "along":
        return contiguous_rows

    @inlined
    def is_contiguous(layout):
        if word(layout, N) <= 1:
            return True
        x_stride, y_stride = element_strides(layout)
        return word(layout, REDUCED_DIMS) == 1 and x_stride == x_size and (reduces or y_stride == y_size)

    @jit
    def any_strides(x, y, layout):
        if is_contiguous(layout):
            contiguous_rows(x, y, layout)
        else:
            gathered(x, y, layout, 0, word(layout, ROWS))

    return any_strides


def _make_rows_across(spec: Spec) -> Callable:
    columns, lanes, last_row_dim = body_of("columns", spec), lanes_of(spec.number), make_places(2).last_row_dim
    y_format, y_size = spec.formats[1], spec.sizes[1]
    width_of, count_strips = inlined(strip_width), inlined(strips_in)

    @jit
    def rows_across(x, y, layout):
        rows, n, inner = word(layout, ROWS), word(layout, N), last_row_dim(layout)
        if rows == 0 or n == 0:  # of no elements there is nothing but a sum
            for i in range(rows):
                store(y_format, y + i * y_size, -INF)
            return
        strip = width_of(inner, min(WIDEST_STRIP, STRIP_BYTES // (min(n, BLOCK) * VECTOR_BYTES)), lanes, False)
        put(layout, STRIP, strip)
        columns(x, y, layout, 0, rows // inner * count_strips(inner, strip, lanes, False))

    return rows_across
