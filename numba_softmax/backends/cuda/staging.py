"""Arrays in host memory that a GPU computes with: moved there and back in slices, through pinned memory.

A slice is a range of rows. While one is computed with, the next one moves to the
GPU and the one before moves back, each through a slot with its own stream and memory. There are
three slots at most, so the size of an array does not matter, only that of a row.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import NamedTuple

import numpy as np

from ...call.layout import Dim, Layout, layout_of_dims, order_in_memory
from ...call.memory import stand_in
from ...ops import Op
from .. import cuda
from . import driver
from .driver import Queue

SLICE_BYTES = 1 << 23
"""Bytes of elements in a slice: enough for the full speed of a bus, and little to wait for at both ends."""

SLOTS = 3

_Y = 1  # the results, among elements, results and mask


class Box(NamedTuple):
    """A slice: ranges of the rows' dimensions."""

    start: tuple[int, ...]
    sizes: tuple[int, ...]


class Part(NamedTuple):
    """What a box holds of one array: of the elements, the results or the mask."""

    sizes: tuple[int, ...]  # along the rows' dimensions and the reduced ones; 1 where the array repeats itself
    steps: tuple[int, ...]  # of a copy without gaps, in the order in memory of the array; 0 where that repeats itself
    nbytes: int


class Side(NamedTuple):
    """One of the three arrays in host memory. Bits are copied, so its elements are unsigned integers."""

    dtype: np.dtype  # with the array's order of bytes
    steps: tuple[int, ...]  # along the rows' dimensions and the reduced ones

    def part(self, sizes: tuple[int, ...]) -> Part:
        sizes = tuple(size if step else 1 for size, step in zip(sizes, self.steps, strict=True))
        steps, nbytes = [0] * len(sizes), self.dtype.itemsize
        for i in reversed(order_in_memory(self.steps)):
            if self.steps[i]:
                steps[i], nbytes = nbytes, nbytes * sizes[i]
        return Part(sizes, tuple(steps), nbytes)

    def in_array(self, address: int, start: tuple[int, ...], part: Part, writeable: bool = False) -> np.ndarray:
        """A part as it lies in the array, whose first element is at the address."""
        address += sum(i * step for i, step in zip(start, self.steps, strict=False))
        return stand_in(address, part.sizes, self.dtype, self.steps, writeable)

    def in_slot(self, address: int, part: Part) -> np.ndarray:
        """The same part in a slot's pinned memory."""
        return stand_in(address, part.sizes, self.dtype.newbyteorder("="), part.steps, True)


def starter(op: Op, layout: Layout) -> Callable[[int, int, int, float | None], None]:
    """A function that computes calls with that layout, as `devices` describes it."""
    if not layout.rows or not (layout.n or op.reduces):
        return lambda x, y, w, scale: None
    plan = Staged(op, layout)

    def start(x: int, y: int, w: int, scale: float | None) -> None:
        plan.run(driver.current_ordinal(), (x, y, w), scale)

    return start


def warm(op: Op, x: str, y: str, masked: bool, scaled: bool) -> list[Callable[[], Callable]]:
    """Functions that compile, or load, one kernel each."""
    return cuda.warm(op, x.removeprefix(">"), y, masked, scaled)


class Staged:
    """How arrays of one layout are moved."""

    def __init__(self, op: Op, layout: Layout) -> None:
        self._op, self._layout = op, layout
        self._row_sizes = tuple(dim[0] for dim in layout.row_dims)
        self._n_sizes = tuple(dim[0] for dim in layout.reduced_dims)
        _, x, y, w = zip(*layout.row_dims, *layout.reduced_dims, strict=True)
        sides = Side(_bits(layout.x), x), Side(_bits(layout.y), y), Side(np.dtype(np.uint8), w)
        self._sides = sides if layout.masked else sides[:2]
        row = Box((), (1,) * len(self._row_sizes))
        self._row_bytes = max(part.nbytes for part in self.parts(row))
        self._starters: dict[tuple[int, ...], Callable] = {}

    def boxes(self) -> Iterator[Box]:
        """All slices; none is larger than the first one."""
        return _boxes(self._row_sizes, max(1, SLICE_BYTES // max(1, self._row_bytes)))

    def parts(self, box: Box) -> list[Part]:
        """What a box holds of each array."""
        return [side.part((*box.sizes, *self._n_sizes)) for side in self._sides]

    def run(self, ordinal: int, addresses: tuple[int, int, int], scale: float | None) -> None:
        """Compute. At the end, however it comes, nothing is under way any more and nothing is kept."""
        with ExitStack() as stack:
            slots: list[Slot] = []
            for box, slot in zip(self.boxes(), self._slots(stack, ordinal, slots), strict=False):
                slot.take_results(addresses)
                slot.start(box, addresses, scale)
            for slot in slots:
                slot.take_results(addresses)

    def _slots(self, stack: ExitStack, ordinal: int, slots: list[Slot]) -> Iterator[Slot]:
        """One slot after the other, round and round; fewer of them if memory is short."""
        sizes = [part.nbytes for part in self.parts(next(self.boxes()))]
        while len(slots) < SLOTS:
            try:
                with ExitStack() as resources:
                    slot = Slot(self, ordinal, sizes, resources)
                    stack.push(resources.pop_all())
            except MemoryError as error:
                if slots:
                    break
                raise MemoryError(
                    f"{error}. A slice of the arrays has {sum(sizes)} bytes, a row {self._row_bytes}, and cannot be "
                    f"moved to GPU {ordinal}: free memory there, or compute with device='cpu'"
                ) from None
            slots.append(slot)
            yield slot
        yield from itertools.cycle(slots)

    def launch(self, box: Box, parts: list[Part], addresses: list[int], scale: float | None, queue: Queue) -> None:
        """Queue the work on a box. There are few sizes of boxes, and each is planned once."""
        start = self._starters.get(box.sizes)
        if start is None:
            steps = [part.steps for part in parts] + [(0,) * len(parts[0].steps)] * (3 - len(parts))
            dims: list[Dim] = list(zip((*box.sizes, *self._n_sizes), *steps, strict=True))
            x, y, rows = self._layout.x.removeprefix(">"), self._layout.y.removeprefix(">"), len(box.sizes)
            layout = layout_of_dims(x, y, self._layout.masked, dims[:rows], dims[rows:])
            start = self._starters[box.sizes] = cuda.starter(self._op, layout)
        x_at, y_at, *w_at = addresses
        start(x_at, y_at, w_at[0] if w_at else 0, scale, queue)

    def move(self, k: int, address: int, box: Box, part: Part, pinned: int) -> None:
        """Copy a part of array `k` to pinned memory; of the results, from there."""
        there, here = self._sides[k].in_array(address, box.start, part, k == _Y), self._sides[k].in_slot(pinned, part)
        np.copyto(*((there, here) if k == _Y else (here, there)))


class Slot:
    """A stream, and memory for one box at both of its ends."""

    def __init__(self, plan: Staged, ordinal: int, sizes: list[int], resources: ExitStack) -> None:
        self._plan = plan
        self._box: Box | None = None  # what is being computed
        self._parts: list[Part] = []
        self._queue = resources.enter_context(driver.new_stream(ordinal))
        self._gpu = [resources.enter_context(driver.scratch(self._queue, max(1, size))) for size in sizes]
        self._pinned = [resources.enter_context(driver.pinned(ordinal, max(1, size))) for size in sizes]
        resources.callback(driver.drain, self._queue)  # it comes first when they are released

    def start(self, box: Box, addresses: tuple[int, int, int], scale: float | None) -> None:
        """Queue a box: there, the work, and back."""
        parts, queue = self._plan.parts(box), self._queue
        for k, part in enumerate(parts):
            if k != _Y and part.nbytes:
                self._plan.move(k, addresses[k], box, part, self._pinned[k])
                driver.copy_to_device(queue, self._gpu[k], self._pinned[k], part.nbytes)
        self._plan.launch(box, parts, self._gpu, scale, queue)
        driver.copy_to_host(queue, self._pinned[_Y], self._gpu[_Y], parts[_Y].nbytes)
        self._box, self._parts = box, parts

    def take_results(self, addresses: tuple[int, int, int]) -> None:
        """Wait for a box, if there is one, and put its results where they belong."""
        if self._box is not None:
            driver.synchronize(self._queue)
            self._plan.move(_Y, addresses[_Y], self._box, self._parts[_Y], self._pinned[_Y])
            self._box = None


def _bits(format: str) -> np.dtype:
    """Unsigned integers of the size of a format's elements, in its order of bytes."""
    name = format.removeprefix(">")
    size = 2 if name == "bfloat16" else np.dtype(name).itemsize
    return np.dtype(f"u{size}").newbyteorder(">" if format != name else "=")


def _boxes(sizes: tuple[int, ...], rows: int) -> Iterator[Box]:
    """Boxes of at most so many rows, of about the same size: whole inner dimensions, and ranges of the next one."""
    inner, cut = 1, len(sizes)
    while cut and inner * sizes[cut - 1] <= rows:
        cut -= 1
        inner *= sizes[cut]
    if not cut:
        yield Box((0,) * len(sizes), sizes)
        return
    size, whole = sizes[cut - 1], sizes[cut:]
    length = math.ceil(size / math.ceil(size / (rows // inner)))
    for outer in itertools.product(*map(range, sizes[: cut - 1])):
        for first in range(0, size, length):
            yield Box((*outer, first, *(0 for _ in whole)), (*(1 for _ in outer), min(length, size - first), *whole))
