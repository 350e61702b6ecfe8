"""Calls on arrays in host memory by a GPU: the arrays are moved there and back in slices, through pinned memory.

A slice is a range of rows. While one is computed, the next one moves to the GPU and
the previous one moves back, each through a slot with its own stream and memory. At
most three slots are used, so the size of an array is not limited, only that of a row.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import NamedTuple

import numpy as np

from ....call.layout import Dim, Layout, layout_of_dims, order_in_memory
from ....call.memory import stand_in
from ....ops import Op, Operand
from ... import cuda
from .. import allocation, driver
from ..driver import Queue

SLICE_BYTES = 1 << 23
"""Bytes of elements in a slice: enough for the full speed of a bus, with short waits at both ends of a call."""

SLOTS = 3


class Box(NamedTuple):
    """A slice: ranges of the rows' dimensions."""

    start: tuple[int, ...]
    sizes: tuple[int, ...]


class ArraySlice(NamedTuple):
    """The part of one operand in a box."""

    sizes: tuple[int, ...]  # along the rows' dimensions and the reduced ones; 1 where the array is broadcast
    steps: tuple[int, ...]  # strides of a copy without gaps, in the array's order in memory; 0 where that is broadcast
    nbytes: int


class Side(NamedTuple):
    """An operand in host memory. Bits are copied, so its elements are unsigned integers."""

    operand: Operand
    dtype: np.dtype  # with the array's order of bytes
    steps: tuple[int, ...]  # strides along the rows' dimensions and the reduced ones

    def part(self, sizes: tuple[int, ...]) -> ArraySlice:
        sizes = tuple(size if step else 1 for size, step in zip(sizes, self.steps, strict=True))
        steps, nbytes = [0] * len(sizes), self.dtype.itemsize
        for i in reversed(order_in_memory(self.steps)):
            if self.steps[i]:
                steps[i], nbytes = nbytes, nbytes * sizes[i]
        return ArraySlice(sizes, tuple(steps), nbytes)

    def in_array(self, address: int, start: tuple[int, ...], part: ArraySlice) -> np.ndarray:
        """A part in the array, whose first element is at `address`."""
        address += sum(i * step for i, step in zip(start, self.steps, strict=False))
        return stand_in(address, part.sizes, self.dtype, self.steps, self.operand.written)

    def in_slot(self, address: int, part: ArraySlice) -> np.ndarray:
        """The same part in a slot's pinned memory."""
        return stand_in(address, part.sizes, self.dtype.newbyteorder("="), part.steps, True)


def launcher_for(op: Op, layout: Layout) -> Callable[[tuple[int, ...], float | None], None]:
    """The launcher of calls with this layout, as `devices` describes it."""
    if not layout.rows or not (layout.n or op.rows):
        return lambda addresses, scale: None
    plan = Staged(op, layout)
    return lambda addresses, scale: plan.run(driver.current_ordinal(), addresses, scale)


def warm(op: Op, x: str, y: str, masked: bool, scaled: bool) -> list[Callable[[], Callable]]:
    """Functions that compile, or load, one kernel each."""
    return cuda.warm(op, x.removeprefix(">"), y, masked, scaled)


class Staged:
    """The plan by which arrays of one layout are moved through a GPU."""

    def __init__(self, op: Op, layout: Layout) -> None:
        self._op, self._layout = op, layout
        self._row_sizes = tuple(dim[0] for dim in layout.row_dims)
        self._n_sizes = tuple(dim[0] for dim in layout.reduced_dims)
        _, *steps = zip(*layout.row_dims, *layout.reduced_dims, strict=True)
        self.sides = [Side(o, _bits(o.format), of_o) for o, of_o in zip(layout.operands, steps, strict=True)]
        row = Box((), (1,) * len(self._row_sizes))
        self._row_bytes = max(part.nbytes for part in self.parts(row))
        self._launchers: dict[tuple[int, ...], Callable] = {}

    def boxes(self) -> Iterator[Box]:
        """All slices; none is larger than the first one."""
        return _boxes(self._row_sizes, max(1, SLICE_BYTES // max(1, self._row_bytes)))

    def parts(self, box: Box) -> list[ArraySlice]:
        """The parts of all operands in a box."""
        return [side.part((*box.sizes, *self._n_sizes)) for side in self.sides]

    def run(self, ordinal: int, addresses: tuple[int, ...], scale: float | None) -> None:
        """Compute. At the end, even after an error, no copy or kernel is running and all memory is freed."""
        with ExitStack() as stack:
            slots: list[Slot] = []
            for box, slot in zip(self.boxes(), self._slots(stack, ordinal, slots), strict=False):
                slot.take_results(addresses)
                slot.start(box, addresses, scale)
            for slot in slots:
                slot.take_results(addresses)

    def _slots(self, stack: ExitStack, ordinal: int, slots: list[Slot]) -> Iterator[Slot]:
        """The slots in turn, again and again; fewer of them if memory is short."""
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

    def launch(
        self, box: Box, parts: list[ArraySlice], addresses: list[int], scale: float | None, queue: Queue
    ) -> None:
        """Queue the work on a box. Boxes have few different sizes, and each size is planned once."""
        launch = self._launchers.get(box.sizes)
        if launch is None:
            steps = [part.steps for part in parts]
            dims: list[Dim] = list(zip((*box.sizes, *self._n_sizes), *steps, strict=True))
            operands = [o._replace(format=o.format.removeprefix(">")) for o in self._layout.operands]
            layout = layout_of_dims(operands, dims[: len(box.sizes)], dims[len(box.sizes) :])
            launch = self._launchers[box.sizes] = cuda.launcher_for(self._op, layout)
        launch(tuple(addresses), scale, queue)


class Slot:
    """A stream, and memory for one box at both of its ends."""

    def __init__(self, plan: Staged, ordinal: int, sizes: list[int], resources: ExitStack) -> None:
        self._plan = plan
        self._box: Box | None = None  # the one being computed
        self._parts: list[ArraySlice] = []
        self._queue = resources.enter_context(driver.new_stream(ordinal))
        self._gpu = [resources.enter_context(allocation.scratch(self._queue, max(1, size))) for size in sizes]
        self._pinned = [resources.enter_context(allocation.pinned(ordinal, max(1, size))) for size in sizes]
        resources.callback(driver.drain, self._queue)  # runs first when they are released

    def start(self, box: Box, addresses: tuple[int, ...], scale: float | None) -> None:
        """Queue a box: the copies to the GPU, the work, and the copies back."""
        parts, queue = self._plan.parts(box), self._queue
        for k, (side, part) in enumerate(zip(self._plan.sides, parts, strict=True)):
            if side.operand.read and part.nbytes:
                np.copyto(side.in_slot(self._pinned[k], part), side.in_array(addresses[k], box.start, part))
                allocation.copy_to_device(queue, self._gpu[k], self._pinned[k], part.nbytes)
        self._plan.launch(box, parts, self._gpu, scale, queue)
        for k, (side, part) in enumerate(zip(self._plan.sides, parts, strict=True)):
            if side.operand.written and part.nbytes:
                allocation.copy_to_host(queue, self._pinned[k], self._gpu[k], part.nbytes)
        self._box, self._parts = box, parts

    def take_results(self, addresses: tuple[int, ...]) -> None:
        """Wait for the box being computed, if any, and copy its results to the arrays."""
        if self._box is not None:
            driver.synchronize(self._queue)
            for k, (side, part) in enumerate(zip(self._plan.sides, self._parts, strict=True)):
                if side.operand.written:
                    np.copyto(side.in_array(addresses[k], self._box.start, part), side.in_slot(self._pinned[k], part))
            self._box = None


def _bits(format: str) -> np.dtype:
    """Unsigned integers of the size of a format's elements, in its order of bytes."""
    name = format.removeprefix(">")
    size = 2 if name == "bfloat16" else np.dtype(name).itemsize
    return np.dtype(f"u{size}").newbyteorder(">" if format != name else "=")


def _boxes(sizes: tuple[int, ...], rows: int) -> Iterator[Box]:
    """Boxes of at most `rows` rows, of about the same size: whole inner dimensions, and ranges of the next one."""
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
