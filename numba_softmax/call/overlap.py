"""Overlap of an op's results with inputs that are still to be read when they are written.

The distances between two arrays at which they could overlap follow from their forms, and are kept with a call's plan.
Only arrays at such distances are examined further.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from ..ops.declare import Operand
from .layout import Form
from .memory import address_of, extent, stand_in


def overlap_distances(x: Form, y: Form) -> range:
    """The distances from `x` to `y`, in bytes, at which they may overlap: all, if `y` overlaps itself."""
    if _may_overlap_itself(*y):
        return range(-(1 << 64), 1 << 64)
    (x_first, x_end), (y_first, y_end) = _extent(x), _extent(y)
    return range(x_first - y_end + 1, x_end - y_first)


def needs_temporary(y: np.ndarray, per_element: bool, *read: np.ndarray) -> bool:
    """True if writing to `y`, an element or a row, could change input still to be read; or if `y` overlaps itself."""
    if per_element and len(read) == 1 and y is read[0] and y.flags.forc:
        return False
    return _may_overlap_itself(y.shape, y.dtype, y.strides) or any(_spoils(y, array, per_element) for array in read)


class Meeting(NamedTuple):
    """A pair of operands, the second of which is written, with the distances at which they may overlap."""

    first: int
    second: int
    distances: range  # between them, at which they may overlap
    same: bool  # True if at a distance of 0 each result lies on the element that it is made from


def meetings_of(operands: Sequence[Operand], forms: Sequence[Form]) -> tuple[Meeting, ...]:
    """All pairs of operands that could overlap; states cannot, since no other code has them."""
    meetings = []
    for j, y in enumerate(operands):
        for i, o in enumerate(operands):
            if y.written and i != j and (i < j or not o.written) and "state" not in (y.kind, o.kind):
                same = o.per == y.per == "element" and not o.written and _lie_alike(forms[i], forms[j])
                same = same and not _may_overlap_itself(*forms[j])
                meetings.append(Meeting(i, j, overlap_distances(forms[i], forms[j]), same))
    return tuple(meetings)


def needs_copies(operands: tuple[Operand, ...], meetings: tuple[Meeting, ...], views: Sequence[Any]) -> tuple[int, ...]:
    """The operands that have to be copied before results are written, given an adapter's view of each.

    Results that overlap themselves, or each other, are refused.
    """
    for first, second, distances, same in meetings:
        distance = views[second].address - views[first].address
        if distance in distances and not (same and distance == 0):
            start = views[first].address
            return _needs_copies(operands, tuple([(view.address - start, *view[1:4]) for view in views]))
    return ()


@functools.lru_cache(maxsize=1024)
def _needs_copies(operands: tuple[Operand, ...], places: tuple[tuple, ...]) -> tuple[int, ...]:
    """The result of `needs_copies` for arrays given by their distances from some address, and their forms."""
    arrays = {i: _somewhere(*places[i]) for i, o in enumerate(operands) if o.kind != "state"}
    written = [i for i in arrays if operands[i].written]
    check_apart([arrays[i] for i in written])
    if any(_may_overlap_itself(*places[i][1:]) for i in written):
        raise ValueError("out has elements that lie in the same memory: pass an array in which each has its own")

    def spoil(y: int, read: int) -> bool:
        return _spoils(arrays[y], arrays[read], operands[y].per == operands[read].per == "element")

    return tuple(i for i in arrays if operands[i].read and any(spoil(y, i) for y in written))


def check_apart(results: Sequence[np.ndarray]) -> None:
    """Refuse results that share memory."""
    if any(_share_memory(a, b) for a, b in itertools.combinations(results, 2)):
        raise ValueError("out has arrays that lie in the same memory: pass one of its own for each result")


def _spoils(y: np.ndarray, read: np.ndarray, may_lie_on: bool) -> bool:
    """True if writing `y` could change `read` too early; with `may_lie_on`, a result may lie on its own element."""
    if not _share_memory(read, y):
        return False
    return not (may_lie_on and _lie_alike(read, y) and address_of(read) == address_of(y))


def _lie_alike(a: Form | np.ndarray, b: Form | np.ndarray) -> bool:
    """True if each element of one array lies on its counterpart in the other one, once the first ones do."""
    return a.strides == b.strides and a.dtype.itemsize == b.dtype.itemsize


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
