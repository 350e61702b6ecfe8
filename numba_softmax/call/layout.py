"""Rows in memory, as backends know them: a `Layout`, made from the forms of arrays and from axes.

Nothing below this module knows of axes. A `Layout` describes the rows by
dimensions and strides; together with three addresses and a scale it is all that a
backend gets.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import numpy as np

from .. import kernel_code

kernel_code.register()

FLOATS = ("float16", "bfloat16", "float32", "float64")
_INTEGERS = tuple(f"{u}int{b}" for u in ("", "u") for b in (8, 16, 32, 64))
INPUTS = (*FLOATS, *_INTEGERS, "bool")

Dim = tuple[int, int, int, int]
"""A dimension: its size and the strides in bytes of x, of the result and of the mask."""

States = Literal["", "given", "x"]
"""States of rows that are there already: none; beside the elements ("given"); or in `x`, instead of elements.

They are float64 arrays of `m`, `rest` and maybe `rest_lo`, one after the other, as many numbers apart as there are
rows. Given ones lie in the order of the layout's rows, those in `x` or in the results by the rows' strides.
"""


class Form(NamedTuple):
    """An array without its memory."""

    shape: tuple[int, ...]
    dtype: np.dtype
    strides: tuple[int, ...]  # in bytes

    @classmethod
    def of(cls, array: Any) -> Form:
        """The form of an array, or of an adapter's view of one."""
        return cls(array.shape, array.dtype, array.strides)


@dataclass(frozen=True, slots=True)
class Layout:
    """Rows in memory."""

    x: str  # the format of the elements: a dtype name, after ">" for swapped bytes
    y: str  # that of the results
    masked: bool
    rows: int
    n: int
    row_dims: tuple[Dim, ...]  # in any order; the last one has the smallest strides
    reduced_dims: tuple[Dim, ...]  # in the order of a row's elements; at least one
    states: States = ""


@functools.cache
def format_name(dtype: np.dtype) -> str | None:
    """The name of the format in memory; None for numbers that cannot be computed with."""
    if dtype.name not in INPUTS:
        return None
    return dtype.name if dtype.isnative else ">" + dtype.name


def state_numbers(x: str) -> int:
    """The number of float64 in the state of a row of that format."""
    return 3 if x.removeprefix(">") == "float64" else 2


def layout_of(
    axes: tuple[int, ...], x: Form, y: Form, w_strides: tuple[int, ...] | None, states: States = ""
) -> Layout:
    """The layout of a call. Results and mask have strides along all axes of `x`: see `strides_with_reduced`."""
    dims = list(zip(x.shape, x.strides, y.strides, w_strides or (0,) * len(x.shape), strict=True))
    row_dims = [d for i, d in enumerate(dims) if i not in axes]
    reduced_dims = [dims[i] for i in sorted(axes)]
    formats = str(format_name(x.dtype)), str(format_name(y.dtype))
    return layout_of_dims(*formats, w_strides is not None, row_dims, reduced_dims, states)


def layout_of_dims(
    x: str, y: str, masked: bool, row_dims: list[Dim], reduced_dims: list[Dim], states: States = ""
) -> Layout:
    """The layout with these dimensions, or with fewer that mean the same."""
    row_dims = [row_dims[i] for i in order_of_rows([(x_stride, y_stride) for _, x_stride, y_stride, _ in row_dims])]
    return Layout(
        x,
        y,
        masked,
        math.prod(d[0] for d in row_dims),
        math.prod(d[0] for d in reduced_dims),
        _merged(row_dims),
        _merged(reduced_dims),
        states,
    )


def order_of_rows(strides: Sequence[tuple[int, int]]) -> tuple[int, ...]:
    """The order in which a layout has the dimensions of rows, from their strides in `x` and in the result."""
    return tuple(sorted(range(len(strides)), key=lambda i: -max(map(abs, strides[i]))))


def strides_in_c_order(shape: tuple[int, ...], size: int) -> tuple[int, ...]:
    """The strides of a new array with elements of that size."""
    strides = []
    for count in reversed(shape):
        strides.append(size)
        size *= count
    return tuple(reversed(strides))


@functools.lru_cache(maxsize=1024)
def order_in_memory(strides: tuple[int, ...]) -> tuple[int, ...]:
    """The axes from the largest stride to the smallest, which is the order that NumPy's `empty_like` keeps."""
    return tuple(sorted(range(len(strides)), key=lambda i: -abs(strides[i])))


def _merged(dims: list[Dim]) -> tuple[Dim, ...]:
    """The same elements in as few dimensions as possible, at least one."""
    merged: list[Dim] = []
    for dim in dims:
        if dim[0] == 1:
            continue
        if merged and all(outer == dim[0] * inner for outer, inner in zip(merged[-1][1:], dim[1:], strict=True)):
            dim = (merged.pop()[0] * dim[0], *dim[1:])
        merged.append(dim)
    return tuple(merged) or ((1, 0, 0, 0),)


def strides_with_reduced(strides: tuple[int, ...], axes: tuple[int, ...], ndim: int) -> tuple[int, ...]:
    """The strides of a reduced result along all axes of `x`, with or without those axes: 0 along them."""
    if len(strides) == ndim:
        return tuple(0 if i in axes else stride for i, stride in enumerate(strides))
    kept = iter(strides)
    return tuple(0 if i in axes else next(kept) for i in range(ndim))
