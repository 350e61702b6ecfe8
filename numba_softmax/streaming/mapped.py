"""Arrays in files, larger than memory: computed slab by slab, in one pass over the file or in two.

Rows that fit into a slab are computed in one pass. For longer ones a first pass
folds all slabs into the states of the rows, and a second one makes the results,
beginning with the last slab, which is most likely to be in memory still. Slabs
follow from shape, strides, dtype and axes alone, so the bits of a result are the
same each time.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Literal, NamedTuple

import numpy as np

from ..call import whole_arrays
from ..call.adapters import HostCall, adapter_for
from ..call.arguments import as_input, as_mask, as_operand
from ..call.devices import in_host_memory
from ..call.layout import order_in_memory
from ..call.overlap import check_apart, needs_temporary
from ..call.request import Request, as_tuple, checked
from ..call.row_states import Block, RowStates, block_of, state_dtype
from ..ops import Op, Operand

SLAB = 32 << 20
"""Bytes of the elements, or of the results if those are wider, in a slab, which may have nearly twice this: a fraction
of a second, and enough for the CPU to use non-temporal stores."""

PAGE = 4096
"""The unit in bytes in which a file is read."""

SHORTEST_RUN = 64 << 10
"""The shortest contiguous run, in bytes, for which slabs of whole rows are read: files are read by pages, and ahead."""

ROWS = 1 << 20
"""The most rows whose states are kept at once: 16 or 24 MiB, and the same again for the states of a slab."""

Cut = tuple[slice, ...]
"""A range along each axis."""


def call(request: Request) -> Any:
    """The result of a request on a memory map; one that is not cut into slabs is left to `whole_arrays`."""
    x = as_input(request.x)
    if x.nbytes <= SLAB or request.device not in (None, "cpu") or request.stream is not None:
        return whole_arrays.call(request._replace(x=x))
    op, out = request.op, request.out
    written = None if out is None else [HostCall(x, "x").out(array) for array in as_tuple(out, op)]
    axes, forms, scale, dtype = checked(request, x, written)
    work = work_of(request, x, axes, scale)

    def new(operand: Operand, shape: tuple[int, ...]) -> np.ndarray:
        return np.empty(shape, dtype) if operand.per == "row" else np.empty_like(x, dtype, subok=False)

    if written is None:
        results = [new(o, shape) for o, shape in forms]
        compute(work, results)
        return _one_or_all([y if y.shape else y[()] for y in results])
    given = [view.array for view in written]
    check_apart(given)
    results = [
        new(o, shape) if needs_temporary(y, o.per == "element", *work.arrays) else y
        for (o, shape), y in zip(forms, given, strict=True)
    ]
    compute(work, results)
    for y, result in zip(given, results, strict=True):
        if result is not y:
            y[...] = result
    return out


def _one_or_all(arrays: Sequence[np.ndarray]) -> Any:
    return arrays[0] if len(arrays) == 1 else tuple(arrays)


class Work(NamedTuple):
    """An op on an array, with arguments that have been checked.

    Mask and further inputs have the shape of `x`, those for rows with its axes of size 1.
    """

    op: Op
    x: np.ndarray
    axes: tuple[int, ...]
    mask: np.ndarray | None = None
    scale: float | None = None
    others: tuple[np.ndarray, ...] = ()

    @property
    def arrays(self) -> list[np.ndarray]:
        """All arrays that are read."""
        return [self.x, *self.others, *(() if self.mask is None else (self.mask,))]

    def part(self, cut: Cut) -> Work:
        """The work on a part of the array."""
        mask = None if self.mask is None else self._piece(self.mask, "element", cut)
        return self._replace(
            x=self._piece(self.x, "element", cut), mask=mask, others=self.pieces(self.op.inputs[1:], self.others, cut)
        )

    def pieces(self, operands: Sequence[Operand], arrays: Sequence[np.ndarray], cut: Cut) -> tuple[np.ndarray, ...]:
        """The pieces of arrays for these operands that belong to a part."""
        return tuple(self._piece(array, o.per, cut) for o, array in zip(operands, arrays, strict=True))

    def _piece(self, array: np.ndarray, per: str, cut: Cut) -> np.ndarray:
        if per == "row":
            cut = tuple(slice(None) if i in self.axes else piece for i, piece in enumerate(cut))
        at: Any = (*cut, ...)  # an array without axes stays one
        return array[at]

    def block(self, dtype: np.dtype) -> Block:
        """The array as a block for states of that dtype."""
        return block_of(self.x, self.axes, self.mask, dtype, self.others)


def work_of(request: Request, x: np.ndarray, axes: tuple[int, ...], scale: float | None) -> Work:
    """The work of a request on an array in memory."""
    op, where = request.op, request.where
    mask = None if where is None else as_mask(in_host_memory(where, "where"), x.shape)
    others = (
        as_operand(in_host_memory(array, o.name), o, x.shape, axes)
        for o, array in zip(op.inputs[1:], request.others, strict=True)
    )
    return Work(op, x, axes, mask, scale, tuple(_with_axes(array, axes, x.ndim) for array in others))


def compute(work: Work, results: Sequence[np.ndarray], advance: Callable[[int], Any] = lambda _: None) -> None:
    """Compute, and report the bytes that have been read to `advance`."""
    op, axes, ndim = work.op, work.axes, work.x.ndim
    slabs = slabs_of(work.x, axes, results[0].dtype)
    work = work._replace(x=work.x.view(np.ndarray))
    results = [_with_axes(y.view(np.ndarray), axes, ndim) for y in results]
    for rows in slabs.rows():
        here, there = work.part(rows), work.pieces(op.results, results, rows)
        if slabs.in_parts:
            _in_two_streams(here, there, slabs, advance)
        else:
            out = _one_or_all(there)
            whole_arrays.call(Request(op, here.x, axes, here.mask, here.scale, True, out=out, others=here.others))
            advance(here.x.nbytes)


def _with_axes(array: np.ndarray, axes: tuple[int, ...], ndim: int) -> np.ndarray:
    """An array with numbers for rows, with the reduced axes added at size 1 if it lacks them."""
    return np.expand_dims(array, axes) if array.ndim < ndim else array


def bytes_to_read(op: Op, x: np.ndarray, axes: tuple[int, ...], y_dtype: np.dtype) -> int:
    """The bytes of elements that `compute` reads: those of the file once or twice."""
    return x.nbytes * (2 if slabs_of(x, axes, y_dtype).in_parts and op.elements is not None else 1)


def _in_two_streams(work: Work, results: Sequence[np.ndarray], slabs: Slabs, advance: Callable[[int], Any]) -> None:
    """Compute the results of rows that are in several slabs each, in two passes."""
    op, x, axes = work.op, work.x, work.axes
    y_dtype = results[0].dtype
    dtype = state_dtype(x.dtype, y_dtype)
    rows = tuple(n for i, n in enumerate(x.shape) if i not in axes)
    states = RowStates(op, rows, dtype, work.scale, adapter_for(x, "x"))
    for cut in slabs.parts():
        part = work.part(cut)
        states.fold(part.block(dtype))
        advance(part.x.nbytes)
    of_rows = [y for o, y in zip(op.results, results, strict=True) if o.per == "row"]
    if of_rows:
        inputs = zip(op.inputs[1:], work.others, strict=True)
        numbers = states.read(op, y_dtype, [np.squeeze(array, axes) for o, array in inputs if o.per == "row"])
        for y, number in zip(of_rows, numbers if len(of_rows) > 1 else (numbers,), strict=True):
            y[...] = np.reshape(number, y.shape)
    if op.elements is None:
        return
    for cut in slabs.parts(-1):
        part, there = work.part(cut), work.pieces(op.results, results, cut)
        of_elements = [y for o, y in zip(op.results, there, strict=True) if o.per == "element"]
        states.finish(op, part.block(dtype), _one_or_all(of_elements))
        advance(part.x.nbytes)


# -------------------------------------------------------------------------- slabs


class Slabs(NamedTuple):
    """The cuts of an array into ranges of rows and, where rows are too long, of these into parts."""

    shape: tuple[int, ...]
    counts: tuple[int, ...]  # pieces along each axis, of about the same length
    axes: tuple[int, ...]  # those that are reduced
    inward: tuple[int, ...]  # all axes, in the order in memory

    @property
    def total(self) -> int:
        """The number of all slabs."""
        return math.prod(self.counts)

    @property
    def in_parts(self) -> bool:
        """True if rows are in several slabs each."""
        return any(self.counts[i] > 1 for i in self.axes)

    def rows(self) -> Iterator[Cut]:
        """The ranges of rows, whole along the reduced axes."""
        return self._boxes([1 if i in self.axes else count for i, count in enumerate(self.counts)], 1)

    def parts(self, step: Literal[1, -1] = 1) -> Iterator[Cut]:
        """The parts of each range of rows, whole along the other axes; with a `step` of -1 the last one first."""
        return self._boxes([count if i in self.axes else 1 for i, count in enumerate(self.counts)], step)

    def _boxes(self, counts: list[int], step: int) -> Iterator[Cut]:
        for at in itertools.product(*(range(counts[i])[::step] for i in self.inward)):
            pieces = dict(zip(self.inward, at, strict=True))
            yield tuple(
                slice(n * pieces[i] // counts[i], n * (pieces[i] + 1) // counts[i]) for i, n in enumerate(self.shape)
            )


def slabs_of(x: np.ndarray, axes: tuple[int, ...], y_dtype: np.dtype) -> Slabs:
    """Slabs of whole rows, if their contiguous runs are long enough; else parts of rows, in the order in memory."""
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
