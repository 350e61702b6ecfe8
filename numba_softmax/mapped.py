"""Arrays in files, larger than memory: computed slab by slab, in one stream over the file or in two.

Rows that fit into a slab are computed as they are. Of longer ones a first
stream folds all slabs into the states of the rows, and a second one makes the
results, the last slab first: it is the one that is most likely to be in memory
still. Slabs follow from shape, steps, dtype and axes alone, so the bits of
a result are the same each time.
"""

from __future__ import annotations

import contextlib
import itertools
import math
import mmap
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Literal, NamedTuple

import numpy as np

from . import arrays, calls, dispatch
from .folding import Rows, state_dtype, taken_by_states
from .ops import OPS

SLAB = 32 << 20
"""Bytes of the elements, or of the results if those are wider, that are computed at once: a fraction of a second."""

SHORTEST_RUN = 64 << 10
"""Bytes that a slab of whole rows has to have in one piece: files are read by pages, and ahead."""

ROWS = 1 << 20
"""Rows whose states are kept at once: 16 or 24 MiB, and as much again for those of a slab."""

Cut = tuple[slice, ...]
"""A range along each axis."""


def call(
    name: str, x: np.memmap, axis: Any, where: Any, scale: Any, keepdims: bool, dtype: Any, out: Any, device: Any,
    stream: Any,
) -> Any:  # fmt: skip
    """A call on a memory map: as `calls.call` has it, which serves those that are not cut."""
    array = arrays.as_input(x)
    if array.nbytes <= SLAB or device not in (None, "cpu") or stream is not None:
        return calls.call(name, array, axis, where, scale, keepdims, dtype, out, device, stream)
    axes, shape = calls.axes_and_shape(name, keepdims, arrays.as_axes(axis, x.ndim), x.shape)
    if where is not None:
        dispatch.check_in_host_memory(where, "where")
    mask = None if where is None else arrays.as_mask(where, x.shape)
    factor = None if scale is None else arrays.as_scale(scale)
    if out is not None:
        dispatch.check_in_host_memory(out, "out")
        arrays.check_kind_of_out(out)
        arrays.check_out(out.shape, out.dtype, out.flags.writeable, shape)
    y_dtype = arrays.as_output_dtype(dtype, x.dtype, out)
    if out is None or arrays.needs_temporary(array, out, mask, OPS[name].reduces):
        result = np.empty(shape, y_dtype) if OPS[name].reduces else np.empty_like(array, y_dtype, subok=False)
    else:
        result = out
    compute(name, x, axes, where, factor, result)
    if out is None:
        return result if shape else result[()]
    if result is not out:
        out[...] = result
    return out


def compute(
    name: str,
    x: np.ndarray,
    axes: tuple[int, ...],
    where: Any,
    scale: float | None,
    out: np.ndarray,
    advance: Callable[[int], Any] = lambda _: None,
) -> None:
    """Compute with arguments that have been checked, and tell `advance` of the bytes that have been read."""
    op, passed = OPS[name], _Passed((x, where, out), advance)
    cut = slabs_of(x, axes, out.dtype)
    elements, results = x.view(np.ndarray), out.view(np.ndarray)
    mask = None if where is None else arrays.as_mask(where, x.shape)
    keepdims = out.ndim == x.ndim
    for rows in cut.rows():
        to = rows if keepdims else tuple(s for i, s in enumerate(rows) if i not in axes)
        here, mask_here, out_here = elements[rows], None if mask is None else mask[rows], results[(*to, ...)]
        if not cut.in_parts:
            calls.call(name, here, axes, mask_here, scale, keepdims, None, out_here, None, None)
            passed(here)
            continue
        states = _folded(here, axes, mask_here, scale, state_dtype(x.dtype, out.dtype), cut.parts(), passed)
        if op.reduces:
            out_here[...] = np.reshape(states.read(op, out.dtype), out_here.shape)
            continue
        for part in cut.parts(-1):
            block = dispatch.call_on(taken_by_states(here[part], states.dtype), "x")
            w = None if mask_here is None else block.view(mask_here[part], "where")
            states.finish(op, block, axes, w, out_here[part])
            passed(here[part])


def bytes_to_read(name: str, x: np.ndarray, axes: tuple[int, ...], y_dtype: np.dtype) -> int:
    """How many bytes of elements `compute` reads: those of the file, or twice as many."""
    return x.nbytes * (2 if slabs_of(x, axes, y_dtype).in_parts and not OPS[name].reduces else 1)


def _folded(
    x: np.ndarray,
    axes: tuple[int, ...],
    mask: np.ndarray | None,
    scale: float | None,
    dtype: np.dtype,
    parts: Iterator[Cut],
    passed: Callable[[np.ndarray], None],
) -> Rows:
    """The states of rows, for that dtype, part after part."""
    shape = tuple(size for i, size in enumerate(x.shape) if i not in axes)
    states = Rows(shape, dtype, scale, dispatch.call_on(x, "x"))
    for part in parts:
        block = dispatch.call_on(taken_by_states(x[part], dtype), "x")
        states.fold(block, axes, None if mask is None else block.view(mask[part], "where"))
        passed(x[part])
    return states


# -------------------------------------------------------------------------- slabs


class Slabs(NamedTuple):
    """How an array is cut: into ranges of rows, and these, where they are too long, into parts."""

    shape: tuple[int, ...]
    counts: tuple[int, ...]  # pieces along each axis, of about the same length
    axes: tuple[int, ...]  # those that are reduced
    inward: tuple[int, ...]  # all axes, in the order in memory

    @property
    def in_parts(self) -> bool:
        """Whether rows are in several slabs each."""
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
    """Slabs of whole rows, if they lie in pieces that are long enough; else of rows in parts, in the order in memory."""
    size = max(x.itemsize, y_dtype.itemsize, state_dtype(x.dtype, y_dtype).itemsize)
    inward = arrays.order_in_memory(x.strides)
    outward = inward[::-1]
    box = _box(x.shape, [*(i for i in outward if i in axes), *(i for i in outward if i not in axes)], size)
    run = x.itemsize
    for i in outward:
        run *= box[i]
        if box[i] < x.shape[i]:
            break
    if any(box[i] < x.shape[i] for i in axes) or run < min(SHORTEST_RUN, x.nbytes):
        box = _box(x.shape, outward, size, axes)
    counts = tuple(max(1, math.ceil(n / most)) for n, most in zip(x.shape, box, strict=True))
    return Slabs(x.shape, counts, axes, inward)


def _box(shape: tuple[int, ...], order: Sequence[int], size: int, in_parts: tuple[int, ...] = ()) -> list[int]:
    """The sizes of the largest slab that grows along the axes in that order; of `ROWS`, if axes are in parts."""
    sizes, room, rows = [1] * len(shape), max(1, SLAB // size), ROWS
    for i in order:
        is_row = bool(in_parts) and i not in in_parts
        sizes[i] = max(1, min(shape[i], room, rows if is_row else room))
        room //= sizes[i]
        if is_row:
            rows //= sizes[i]
    return sizes


# -------------------------------------------------------------------------- pages


class _Passed:
    """What is done after each slab: its pages are let go of, so that a process does not seem to hold a whole file."""

    def __init__(self, given: tuple[Any, ...], advance: Callable[[int], Any]) -> None:
        self._maps, self._advance = [pages for array in given if (pages := _pages_of(array)) is not None], advance

    def __call__(self, slab: np.ndarray) -> None:
        for pages in self._maps:
            with contextlib.suppress(OSError):
                pages.madvise(mmap.MADV_DONTNEED)
        self._advance(slab.nbytes)


def _pages_of(array: Any) -> mmap.mmap | None:
    """The map of a file that has all changes too. (A private one, of mode "c", would lose them with its pages.)"""
    pages = getattr(array, "_mmap", None)
    shared = isinstance(pages, mmap.mmap) and getattr(array, "mode", "c") != "c"
    return pages if shared and hasattr(mmap, "MADV_DONTNEED") else None
