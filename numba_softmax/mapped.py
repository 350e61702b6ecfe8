"""Arrays in files, larger than memory: computed slab by slab, in one stream over the file or in two.

Rows that fit into a slab are computed as they are. Of longer ones a first
stream folds all slabs into the states of the rows, and a second one makes the
results, the last slab first: it is the one that is most likely to be in memory
still. Slabs follow from shape, strides, dtype and axes alone, so the bits of
a result are the same each time.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Literal, NamedTuple

import numpy as np

from .call import whole_arrays
from .call.adapters import adapter_for
from .call.arguments import as_input, as_mask, check_out
from .call.devices import in_host_memory
from .call.layout import order_in_memory
from .call.overlap import needs_temporary
from .call.request import Request, checked
from .call.row_states import RowStates, block_of, state_dtype
from .ops import OPS

SLAB = 32 << 20
"""Bytes of the elements, or of the results if those are wider, that are computed at once, and less than twice as many:
a fraction of a second, and enough for the CPU to write past its caches."""

PAGE = 4096
"""Bytes that a file is read by."""

SHORTEST_RUN = 64 << 10
"""Bytes that a slab of whole rows has to have in one piece: files are read by pages, and ahead."""

ROWS = 1 << 20
"""Rows whose states are kept at once: 16 or 24 MiB, and as much again for those of a slab."""

Cut = tuple[slice, ...]
"""A range along each axis."""


def call(request: Request) -> Any:
    """The result of a request on a memory map; `whole_arrays` has those that are not cut."""
    x = as_input(request.x)
    if x.nbytes <= SLAB or request.device not in (None, "cpu") or request.stream is not None:
        return whole_arrays.call(request._replace(x=x))
    where, out = request.where, request.out
    mask = None if where is None else as_mask(in_host_memory(where, "where"), x.shape)
    y = None if out is None else in_host_memory(out, "out", for_results=True)
    axes, shape, scale, dtype = checked(request, x, y)
    if y is not None:
        check_out(y.shape, y.dtype, y.flags.writeable, shape)
    reduces = OPS[request.name].reduces
    if y is None or needs_temporary(x, y, mask, reduces):
        result = np.empty(shape, dtype) if reduces else np.empty_like(x, dtype, subok=False)
    else:
        result = y
    compute(Work(request.name, x, axes, mask, scale), result)
    if y is None:
        return result if shape else result[()]
    if result is not y:
        y[...] = result
    return out


class Work(NamedTuple):
    """An op on an array, with arguments that have been checked."""

    name: str
    x: np.ndarray
    axes: tuple[int, ...]
    mask: np.ndarray | None  # of the shape of `x`
    scale: float | None

    def part(self, cut: Cut) -> Work:
        """The same on a part of the array."""
        at: Any = (*cut, ...)  # an array without axes stays one
        return self._replace(x=self.x[at], mask=None if self.mask is None else self.mask[at])


def compute(work: Work, out: np.ndarray, advance: Callable[[int], Any] = lambda _: None) -> None:
    """Compute, and tell `advance` of the bytes that have been read."""
    slabs = slabs_of(work.x, work.axes, out.dtype)
    keepdims, axes = out.ndim == work.x.ndim, work.axes
    work, results = work._replace(x=work.x.view(np.ndarray)), out.view(np.ndarray)
    for rows in slabs.rows():
        to: Any = rows if keepdims else tuple(piece for i, piece in enumerate(rows) if i not in axes)
        here, y = work.part(rows), results[(*to, ...)]
        if slabs.in_parts:
            _in_two_streams(here, y, slabs, advance)
        else:
            whole_arrays.call_numpy((work.name, axes, keepdims, None), here.x, here.mask, here.scale, None, y)
            advance(here.x.nbytes)


def bytes_to_read(name: str, x: np.ndarray, axes: tuple[int, ...], y_dtype: np.dtype) -> int:
    """The bytes of elements that `compute` reads: those of the file, or twice as many."""
    return x.nbytes * (2 if slabs_of(x, axes, y_dtype).in_parts and not OPS[name].reduces else 1)


def _in_two_streams(work: Work, y: np.ndarray, slabs: Slabs, advance: Callable[[int], Any]) -> None:
    """The results of rows that are in several slabs each."""
    x, op, dtype = work.x, OPS[work.name], state_dtype(work.x.dtype, y.dtype)
    rows = tuple(n for i, n in enumerate(x.shape) if i not in work.axes)
    states = RowStates(rows, dtype, work.scale, adapter_for(x, "x"))
    for cut in slabs.parts():
        part = work.part(cut)
        states.fold(block_of(part.x, part.axes, part.mask, dtype))
        advance(part.x.nbytes)
    if op.reduces:
        y[...] = np.reshape(states.read(op, y.dtype), y.shape)
        return
    for cut in slabs.parts(-1):
        part = work.part(cut)
        states.finish(op, block_of(part.x, part.axes, part.mask, dtype), y[cut])
        advance(part.x.nbytes)


# -------------------------------------------------------------------------- slabs


class Slabs(NamedTuple):
    """The cuts of an array: into ranges of rows, and these, where they are too long, into parts."""

    shape: tuple[int, ...]
    counts: tuple[int, ...]  # pieces along each axis, of about the same length
    axes: tuple[int, ...]  # those that are reduced
    inward: tuple[int, ...]  # all axes, in the order in memory

    @property
    def total(self) -> int:
        """Of all slabs."""
        return math.prod(self.counts)

    @property
    def in_parts(self) -> bool:
        """True if rows are in several slabs each."""
        return any(self.counts[i] > 1 for i in self.axes)

    def rows(self) -> Iterator[Cut]:
        """The ranges of rows, whole along the reduced axes."""
        return self._boxes([1 if i in self.axes else count for i, count in enumerate(self.counts)], 1)

    def parts(self, step: Literal[1, -1] = 1) -> Iterator[Cut]:
        """The parts of each of them, whole along the other axes; or the last one first."""
        return self._boxes([count if i in self.axes else 1 for i, count in enumerate(self.counts)], step)

    def _boxes(self, counts: list[int], step: int) -> Iterator[Cut]:
        for at in itertools.product(*(range(counts[i])[::step] for i in self.inward)):
            pieces = dict(zip(self.inward, at, strict=True))
            yield tuple(
                slice(n * pieces[i] // counts[i], n * (pieces[i] + 1) // counts[i]) for i, n in enumerate(self.shape)
            )


def slabs_of(x: np.ndarray, axes: tuple[int, ...], y_dtype: np.dtype) -> Slabs:
    """Slabs of whole rows, if they lie in pieces that are long enough; else parts of rows, in the order in memory."""
    apart = min([abs(step) for n, step in zip(x.shape, x.strides, strict=True) if n > 1], default=0)
    size = max(x.itemsize, y_dtype.itemsize, state_dtype(x.dtype, y_dtype).itemsize, min(apart, PAGE))
    inward = order_in_memory(x.strides)
    outward = inward[::-1]
    box = _box(x.shape, [*(i for i in outward if i in axes), *(i for i in outward if i not in axes)], size)
    run = x.itemsize
    for i in outward:
        run *= box[i]
        if box[i] < x.shape[i]:
            break
    cut = any(box[i] < x.shape[i] for i in axes) or run < min(SHORTEST_RUN, x.nbytes)
    if cut:
        box = _box(x.shape, outward, size, axes)
    counts = (math.ceil(n / box[i]) if cut and i not in axes else n // box[i] for i, n in enumerate(x.shape))
    return Slabs(x.shape, tuple(max(1, count) for count in counts), axes, inward)


def _box(shape: tuple[int, ...], order: Sequence[int], size: int, cut: tuple[int, ...] = ()) -> list[int]:
    """The sizes of the largest slab that grows along the axes in that order; of at most `ROWS`, if rows may be cut."""
    sizes, room, rows = [1] * len(shape), max(1, SLAB // size), ROWS
    for i in order:
        is_row = bool(cut) and i not in cut
        sizes[i] = max(1, min(shape[i], room, rows if is_row else room))
        room //= sizes[i]
        if is_row:
            rows //= sizes[i]
    return sizes
