"""Which kernels serve a layout, and how many blocks of them: nothing here needs a GPU.

What the bits of a row depend on follows from its length, the formats, and whether its elements or
its neighbours lie side by side in memory; never from how many rows there are.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import NamedTuple

from ... import kernel_code
from ...call.layout import Dim, Layout
from ...ops import STATE_OPS, Op
from ..spec import Spec, across_rows, along_rows, stored
from .columns import make_columns, make_finish_columns, make_fold_columns
from .device import WARP, WIDEST
from .given import make_given_columns, make_given_rows, make_states
from .rows import Stage, make_finish_chunks, make_fold_chunks, make_rows, make_staged_rows
from .shifts import can_shift
from .tiles import STATE_NUMBERS, Geometry

kernel_code.register()

MAKERS: dict[str, Callable[[Spec, Geometry], Callable]] = {
    "rows": make_rows,
    "staged_rows": make_staged_rows,
    "fold_chunks": make_fold_chunks,
    "finish_chunks": make_finish_chunks,
    "columns": make_columns,
    "fold_columns": make_fold_columns,
    "finish_columns": make_finish_columns,
    "given_rows": make_given_rows,
    "given_columns": make_given_columns,
    "states": make_states,
}
"""What makes a kernel's function, not compiled yet."""

VALUES = 32
"""Elements of a row that a thread has in registers, at most."""

VECTORS = 8
"""Vectors that a thread has in registers, at most: more would leave too few threads to hide the memory's latency."""

MOST_THREADS = 256
"""Threads of a row in registers, at most: with more, some kernels would have too few registers for each."""

STAGED_THREADS, STAGED_VECTORS, STAGED_VALUES = 512, 4, 16
"""Threads of a row in shared memory; vectors and elements that each reads at once, at most."""

CHUNK_THREADS, MOST_CHUNKS = 256, 512
"""Threads of a chunk of a longer row, and into how many chunks a row is cut.

Each block merges the states of all chunks of its row: more of them would cost more than they gain.
"""

RANKS = ((1, 128), (4, 32), (16, 16), (32, 8))
"""Threads along and across columns."""

LONG_RANKS, LEAST_COLUMN_CHUNK, MOST_COLUMN_CHUNKS = (16, 16), 512, 256
"""The same for columns in chunks; the elements of a chunk, at least, and how many chunks a column has, at most."""

SHIFTED = 64
"""Vectors in a row from which on those that are not aligned are shifted."""


class Machine(NamedTuple):
    """What kernels and plans depend on of a GPU."""

    capability: tuple[int, int]
    shared_memory: int  # bytes that a block can have


class Kernel(NamedTuple):
    """What is compiled."""

    regime: str
    spec: Spec
    geometry: Geometry
    threads: int  # of a block

    @property
    def function(self) -> Callable:
        """The kernel's body."""
        return MAKERS[self.regime](self.spec, self.geometry)


class Launch(NamedTuple):
    """A kernel, on so many blocks, with so many bytes of shared memory."""

    kernel: Kernel
    blocks: int
    shared_memory: int = 0


class Plan(NamedTuple):
    """What serves a layout: launches, one after the other."""

    launches: tuple[Launch, ...]
    temporary: int  # bytes of memory
    parameters: tuple[int, ...]  # of all kernels, after the addresses and the scale


def plan(op: Op, layout: Layout, machine: Machine, scaled: bool, wide: bool, places: tuple[int, int, int]) -> Plan:
    """Choose the kernels; `places` are the addresses of elements, results and mask, or these modulo 16."""
    return _Planner(op, layout, machine, scaled, wide, places).plan()


class _Planner:
    """One choice."""

    def __init__(
        self, op: Op, layout: Layout, machine: Machine, scaled: bool, wide: bool, places: tuple[int, int, int]
    ) -> None:
        self.layout, self.machine, self.places = layout, machine, places
        self.spec = Spec(op, layout.x, layout.y, layout.masked, scaled, wide)
        self.x, self.y = stored(layout.x), stored(layout.y)
        self.number_bytes = self.spec.number.bitwidth // 8

    def plan(self) -> Plan:
        layout = self.layout
        if layout.states == "x":
            return self._states()
        along = along_rows(layout, self.x, self.y, self.spec.op.reduces)
        if across_rows(layout, self.x, self.y) and (layout.n == 1 or not along):
            return self._columns()
        return self._rows(along)

    def _rounds_to_bfloat16(self) -> bool:
        return self.y.number == "bfloat16" and self.machine.capability >= (8, 0)

    def _elements(self, across: bool) -> int:
        """Elements of a vector: 16 bytes of elements or results, and not too many numbers to compute with."""
        y_bytes = self.y.bytes if across or not self.spec.op.reduces else 1
        return WIDEST // max(self.x.bytes, y_bytes, self.number_bytes // 2)

    def _widths(self, elements: int, dims: Iterable[tuple[int, ...]]) -> tuple[int, int, int]:
        """The widest accesses to elements, results and mask that all vectors are aligned to."""
        steps = list(zip(*(dim[1:] for dim in dims), strict=True)) or [()] * 3
        x_bytes = 8 if self.layout.states == "x" else self.x.bytes
        sizes = x_bytes, self.y.bytes, int(self.spec.masked)
        x, y, w = (
            math.gcd(elements * size, place, *by) for size, place, by in zip(sizes, self.places, steps, strict=True)
        )
        y = math.gcd(y, self.layout.rows * self.y.bytes if self.spec.row_numbers > 1 else 0)
        return x, y, w if self.spec.masked else 0

    # ------------------------------------------------------------------- rows

    def _rows(self, along: bool) -> Plan:
        layout, n = self.layout, self.layout.n
        elements = self._elements(False) if along else 1
        dims = (*layout.row_dims, *(() if along else layout.reduced_dims))
        geometry = Geometry(
            1, 1, elements, self._widths(elements, dims), (False, False), n % elements != 0,
            len(layout.row_dims), 0 if along else len(layout.reduced_dims), self._rounds_to_bfloat16(),
        )  # fmt: skip
        vectors = max(1, math.ceil(n / elements))
        if along and vectors >= SHIFTED:
            geometry = geometry._replace(shifted=self._shifts(geometry))
        for threads, each in _shares(elements):
            if threads * each >= vectors:
                return self._rows_in_registers(geometry._replace(threads=threads, vectors=each), dims)
        if layout.states == "given":
            each = min(VECTORS, VALUES // elements) // 2
            return self._rows_in_registers(geometry._replace(threads=CHUNK_THREADS, vectors=each), dims)
        each = min(STAGED_VECTORS, STAGED_VALUES // elements)
        staged = geometry._replace(threads=STAGED_THREADS, vectors=each)
        room = Stage(self.spec, staged).room(n)
        if room + self._slots(staged) <= self.machine.shared_memory:
            kernel = Kernel("staged_rows", self.spec, staged, staged.threads)
            return self._plan((Launch(kernel, layout.rows, 0 if self.spec.op.reduces else room),), dims)
        each = min(VECTORS, VALUES // elements)
        return self._chunks(geometry._replace(threads=CHUNK_THREADS, vectors=each), dims)

    def _shifts(self, geometry: Geometry) -> tuple[bool, bool]:
        """Whether vectors of elements, and of results, are shifted rather than taken apart."""
        x, y = (
            can_shift(stored, geometry.elements) and stored.bytes <= width < stored.bytes * geometry.elements
            for stored, width in zip((self.x, self.y), geometry.widths, strict=False)
        )
        return x, y and not self.spec.op.reduces

    def _slots(self, geometry: Geometry) -> int:
        """Bytes of shared memory for the states of warps."""
        return 3 * max(WIDEST, geometry.warps * self.number_bytes)

    def _rows_in_registers(self, geometry: Geometry, dims: tuple[tuple[int, ...], ...]) -> Plan:
        layout = self.layout
        kernel = Kernel(self._given("rows"), self.spec, geometry, geometry.rows * geometry.threads)
        tiles = max(1, math.ceil(layout.n / geometry.tile))  # more than one only where states are given
        return self._plan((Launch(kernel, math.ceil(layout.rows / geometry.rows) * tiles),), dims)

    def _given(self, regime: str) -> str:
        """The regime, or the one that takes its place where states are given."""
        return f"given_{regime}" if self.layout.states else regime

    def _states(self) -> Plan:
        dims, threads = self.layout.row_dims, CHUNK_THREADS
        geometry = Geometry(
            threads, 1, 1, self._widths(1, dims), (False, False), False, len(dims), 0, self._rounds_to_bfloat16()
        )
        kernel = Kernel("states", self.spec, geometry, threads)
        return self._plan((Launch(kernel, math.ceil(self.layout.rows / threads)),), dims)

    def _chunks(self, geometry: Geometry, dims: tuple[tuple[int, ...], ...]) -> Plan:
        layout = self.layout
        chunk = geometry.tile * math.ceil(layout.n / (geometry.tile * MOST_CHUNKS))
        chunks = math.ceil(layout.n / chunk)
        fold = Kernel("fold_chunks", self.spec, geometry, geometry.threads)
        # Results need more registers than states do.
        fewer = geometry._replace(vectors=geometry.vectors // 2)
        finish = Kernel("finish_chunks", self.spec, fewer, fewer.threads)
        blocks = layout.rows * chunks
        launches = Launch(fold, blocks), Launch(finish, layout.rows if self.spec.op.reduces else blocks)
        return self._plan(launches, dims, blocks * STATE_NUMBERS * self.number_bytes, chunk)

    # ---------------------------------------------------------------- columns

    def _columns(self) -> Plan:
        layout, n, elements = self.layout, self.layout.n, self._elements(True)
        inner = layout.row_dims[-1][0]
        vectors = math.ceil(inner / elements)
        dims = (*layout.row_dims, *layout.reduced_dims)
        geometry = Geometry(
            1, 1, elements, self._widths(elements, (*layout.row_dims[:-1], *layout.reduced_dims)), (False, False),
            inner % elements != 0, len(layout.row_dims), 1, self._rounds_to_bfloat16(), 2,
        )  # fmt: skip
        most = min(VECTORS, VALUES // elements)

        def groups_in(across: int) -> int:
            return max(1, across >> (vectors - 1).bit_length())

        for threads, across in RANKS:
            if threads * most >= n:
                each = next(k for k in (1, 2, 4, 8) if threads * k >= n)
                geometry = geometry._replace(threads=threads, vectors=each, across=across, groups=groups_in(across))
                kernel = Kernel(self._given("columns"), self.spec, geometry, threads * geometry.across)
                return self._plan((Launch(kernel, self._strips(geometry)),), dims, chunk=threads * each)
        threads, across = LONG_RANKS
        geometry = geometry._replace(threads=threads, vectors=most, across=across, groups=groups_in(across))
        if layout.states == "given":
            kernel, tile = Kernel("given_columns", self.spec, geometry, threads * across), threads * most
            return self._plan((Launch(kernel, self._strips(geometry) * math.ceil(n / tile)),), dims, chunk=tile)
        chunk = LEAST_COLUMN_CHUNK * math.ceil(n / (LEAST_COLUMN_CHUNK * MOST_COLUMN_CHUNKS))
        chunks = math.ceil(n / chunk)
        fold, finish = (
            Kernel(r, self.spec, geometry, threads * geometry.across) for r in ("fold_columns", "finish_columns")
        )
        strips = self._strips(geometry)
        launches = Launch(fold, strips * chunks), Launch(finish, strips * (1 if self.spec.op.reduces else chunks))
        return self._plan(launches, dims, layout.rows * chunks * STATE_NUMBERS * self.number_bytes, chunk)

    def _strips(self, geometry: Geometry) -> int:
        inner = self.layout.row_dims[-1][0]
        side_by_side = geometry.across // geometry.groups * geometry.elements
        return math.ceil(self.layout.rows // inner / geometry.groups) * math.ceil(inner / side_by_side)

    def _plan(
        self, launches: tuple[Launch, ...], dims: tuple[tuple[int, ...], ...], temporary: int = 0, chunk: int = 0
    ) -> Plan:
        numbers = (self.layout.rows, self.layout.n, chunk, *(number for dim in dims for number in dim))
        return Plan(launches, temporary, numbers)


def _shares(elements: int) -> Iterable[tuple[int, int]]:
    """The threads of a row and the vectors of each, for rows in registers, from the shortest row on."""
    most = min(VECTORS, VALUES // elements)
    yield from ((1, 1), (2, 1), (4, 1), (8, 1), (8, 2), (8, 4), (16, 4), (WARP, 4))
    threads = WARP
    while threads <= MOST_THREADS:
        yield from ((threads, most * 3 // 4), (threads, most))
        threads *= 2


def kernels_for(op: Op, x: str, y: str, masked: bool, scaled: bool, machine: Machine) -> list[Kernel]:
    """All kernels that may serve arrays in these formats whose rows are aligned, and the last one of each kind if not.

    The shortest kinds of rows come first.
    """
    found: dict[Kernel, None] = {}
    for layout, places in _samples(op, x, y, masked):
        for launch in plan(op, layout, machine, scaled, False, places).launches:
            found.setdefault(launch.kernel)
    return list(found)


def state_kernels_for(op: Op, x: str, masked: bool, scaled: bool, machine: Machine) -> list[Kernel]:
    """Kernels for states of rows in that format: all that fold or read them, and the largest that need them given."""
    if scaled and not op.takes_scale:
        return []
    y = "float64" if op.gives_states else x
    if op.reduces:
        states = Layout(x, y, False, 1024, 1, ((1024, 8, stored(y).bytes, 0),), ((1, 0, 0, 0),), "x")
        (launch,) = plan(op, states, machine, scaled, False, (0, 0, 0)).launches
        return [*(kernels_for(op, x, y, masked, scaled, machine) if op is STATE_OPS["fold"] else ()), launch.kernel]
    largest: dict[tuple, Kernel] = {}
    for layout, places in _samples(op, x, y, masked):
        for launch in plan(op, replace(layout, states="given"), machine, scaled, False, places).launches:
            g = launch.kernel.geometry
            kind = launch.kernel.regime, g.widths, g.shifted, g.ragged, g.reduced_dims
            if kind not in largest or g.tile >= largest[kind].geometry.tile:
                largest[kind] = launch.kernel
    return list(largest.values())


def _samples(op: Op, x: str, y: str, masked: bool) -> Iterable[tuple[Layout, tuple[int, int, int]]]:
    """Layouts for which plans differ, with addresses."""
    x_size, y_size = stored(x).bytes, stored(y).bytes
    lengths = [*(1 << k for k in range(15)), *(3 << k for k in range(3, 13)), 1 << 20]

    def layout(rows: int, n: int, row_steps: tuple[int, int, int], steps: tuple[int, int, int]) -> Layout:
        def dim(count: int, x_step: int, y_step: int, w_step: int) -> Dim:
            return count, x_step * x_size, y_step * y_size, w_step * masked

        reduced = (steps[0], 0, steps[2]) if op.reduces else steps
        return Layout(x, y, masked, rows, n, (dim(rows, *row_steps),), (dim(n, *reduced),))

    for n in lengths:
        yield layout(1024, n, (n, 1 if op.reduces else n, n), (1, 1, 1)), (0, 0, 0)
        yield layout(1024, n, (1, 1, 1), (1024, 1024, 1024)), (0, 0, 0)
    for n in (1 << 13, 1 << 15, 1 << 20):
        yield layout(1023, n - 1, (n - 1, 1 if op.reduces else n - 1, n - 1), (1, 1, 1)), (x_size, y_size, 1)
        yield layout(1023, n - 1, (2 * n, 1 if op.reduces else n, n), (2, 1, 1)), (0, 0, 0)
    for n in (16, 64, 128, 256, 1 << 20):
        yield layout(1023, n - 1, (1, 1, 1), (1023, 1023, 1023)), (x_size, y_size, 1)
