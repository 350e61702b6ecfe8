"""Rows in memory, described for backends: a `Layout`, made from the forms of arrays and from axes.

Nothing below this module knows of axes. A `Layout` describes the rows by
dimensions and strides; together with an address for each operand and a scale it is all that a
backend gets.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from .. import kernel_code
from ..ops.declare import Operand

kernel_code.register()

FLOATS = ("float16", "bfloat16", "float32", "float64")
_INTEGERS = tuple(f"{u}int{b}" for u in ("", "u") for b in (8, 16, 32, 64))
INPUTS = (*FLOATS, *_INTEGERS, "bool")

BOOL = np.dtype(bool)

Dim = tuple[int, ...]
"""A dimension: its size and the strides of the operands, in bytes."""


class Form(NamedTuple):
    """The shape, dtype and strides of an array."""

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

    operands: tuple[Operand, ...]  # with their formats, in the order of strides and addresses
    rows: int
    n: int
    row_dims: tuple[Dim, ...]  # in any order; the last one has the smallest strides
    reduced_dims: tuple[Dim, ...]  # in the order of a row's elements; at least one


@functools.cache
def format_name(dtype: np.dtype) -> str | None:
    """The name of a dtype's format in memory; None for numbers that cannot be computed with."""
    if dtype.name not in INPUTS:
        return None
    return dtype.name if dtype.isnative else ">" + dtype.name


def bound(operand: Operand, dtype: np.dtype) -> Operand:
    """The operand with the format of that dtype."""
    return operand._replace(format=str(format_name(dtype)))


def layout_of(
    operands: Sequence[Operand], shape: tuple[int, ...], axes: tuple[int, ...], strides: Sequence[tuple[int, ...]]
) -> Layout:
    """The layout of a call on elements of that shape.

    Each operand has strides along all axes; those of one with numbers for rows are from `strides_with_reduced`.
    """
    dims: list[Dim] = list(zip(shape, *strides, strict=True))
    row_dims = [dim for i, dim in enumerate(dims) if i not in axes]
    return layout_of_dims(operands, row_dims, [dims[i] for i in sorted(axes)])


def layout_of_dims(operands: Sequence[Operand], row_dims: list[Dim], reduced_dims: list[Dim]) -> Layout:
    """The layout with these dimensions, or with fewer equivalent ones."""
    leading = [i for i, o in enumerate(operands, 1) if o.kind == "number" or o.written]
    row_dims = [row_dims[i] for i in order_of_rows([[dim[i] for i in leading] for dim in row_dims])]
    return Layout(
        tuple(operands),
        math.prod(d[0] for d in row_dims),
        math.prod(d[0] for d in reduced_dims),
        _merged(row_dims, len(operands)),
        _merged(reduced_dims, len(operands)),
    )


def order_of_rows(strides: Sequence[Sequence[int]]) -> tuple[int, ...]:
    """The order in which a layout has the dimensions of rows, from their strides in elements and results."""
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


def _merged(dims: list[Dim], operands: int) -> tuple[Dim, ...]:
    """The dimensions merged to as few as possible, at least one, for the same elements."""
    merged: list[Dim] = []
    for dim in dims:
        if dim[0] == 1:
            continue
        if merged and all(outer == dim[0] * inner for outer, inner in zip(merged[-1][1:], dim[1:], strict=True)):
            dim = (merged.pop()[0] * dim[0], *dim[1:])
        merged.append(dim)
    return tuple(merged) or ((1, *[0] * operands),)


def strides_with_reduced(strides: tuple[int, ...], axes: tuple[int, ...], ndim: int) -> tuple[int, ...]:
    """The strides along all axes of `x`, 0 along the reduced ones, of a result that has those axes or lacks them."""
    if len(strides) == ndim:
        return tuple(0 if i in axes else stride for i, stride in enumerate(strides))
    kept = iter(strides)
    return tuple(0 if i in axes else next(kept) for i in range(ndim))
