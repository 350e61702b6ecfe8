"""Overlap of results with elements and mask that are still to be read when results are written.

The distances from elements to results at which they could meet follow from their forms, and are kept with a call's
plan. So memory is looked at only at those, or where there is a mask.
"""

from __future__ import annotations

import functools
from typing import Any

import numpy as np

from .layout import Form
from .memory import address_of, extent, stand_in


def overlap_distances(x: Form, y: Form) -> range:
    """The distances from `x` to `y`, in bytes, at which they may overlap: all, if `y` overlaps itself."""
    if _may_overlap_itself(*y):
        return range(-(1 << 64), 1 << 64)
    (x_first, x_end), (y_first, y_end) = _extent(x), _extent(y)
    return range(x_first - y_end + 1, x_end - y_first)


def needs_temporary(x: np.ndarray, out: np.ndarray, where: np.ndarray | None, reduces: bool) -> bool:
    """True if writing to `out` could change elements or mask that are still to be read."""
    if out is x and out.flags.forc and where is None:
        return False
    if _may_overlap_itself(out.shape, out.dtype, out.strides):
        return True
    if where is not None and _share_memory(where, out):
        return True
    if not _share_memory(x, out):
        return False
    same_elements = (
        out.strides == x.strides and out.dtype.itemsize == x.dtype.itemsize and address_of(out) == address_of(x)
    )
    return reduces or not same_elements


def needs_copies(x: Any, y: Any, mask: Any, reduces: bool, distances: range) -> bool:
    """The same for an adapter's views; `distances` are the `overlap_distances` of elements and results.

    Results that overlap themselves are refused.
    """
    distance = y.address - x.address
    if distance not in distances and mask is None:
        return False
    of_mask = None if mask is None else (mask.address - x.address, mask.shape, mask.dtype, mask.strides)
    of_x, of_y = (0, x.shape, x.dtype, x.strides), (distance, y.shape, y.dtype, y.strides)
    return _needs_copies(of_x, of_y, of_mask, reduces)


@functools.lru_cache(maxsize=1024)
def _needs_copies(x: tuple, y: tuple, mask: tuple | None, reduces: bool) -> bool:
    """The same for arrays by their distances from `x` and their forms."""
    if _may_overlap_itself(*y[1:]):
        raise ValueError("out has elements that lie in the same memory: pass an array in which each has its own")
    return needs_temporary(_somewhere(*x), _somewhere(*y), None if mask is None else _somewhere(*mask), reduces)


def _somewhere(distance: int, shape: tuple[int, ...], dtype: np.dtype, strides: tuple[int, ...]) -> np.ndarray:
    return stand_in((1 << 62) + distance, shape, dtype, strides)


def _share_memory(a: np.ndarray, b: np.ndarray) -> bool:
    if not np.may_share_memory(a, b):
        return False
    try:
        return np.shares_memory(a, b, max_work=10_000)  # type: ignore[arg-type]
    except np.exceptions.TooHardError:
        return True


def _may_overlap_itself(shape: tuple[int, ...], dtype: np.dtype, strides: tuple[int, ...]) -> bool:
    """True if two elements may lie in the same memory."""
    if 0 in shape:
        return False
    reach = dtype.itemsize
    for stride, count in sorted((abs(s), n) for s, n in zip(strides, shape, strict=True) if n > 1):
        if stride < reach:
            return True
        reach += stride * (count - 1)
    return False


def _extent(array: Form) -> tuple[int, int]:
    return extent(array.shape, array.strides, array.dtype.itemsize)
