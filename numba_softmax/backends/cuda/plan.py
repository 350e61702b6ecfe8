"""Chooses the kernels for a layout, and the number of their blocks: nothing here needs a GPU.

All that the bits of a row depend on follows from its length, the formats, and whether its elements
or its neighbours lie side by side in memory; never from the number of rows.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

from numba import float64, int64, types

from ... import kernel_code
from ...call.layout import Dim, Layout
from ...ops import Op, finishing, reading
from ..spec import Spec, across_rows, along_rows, operands_for, stored
from .device import WARP
from .geometry import Geometry
from .global_memory import WIDEST
from .regimes.chunks import make_finish_chunks, make_fold_chunks
from .regimes.columns import make_columns, make_finish_columns, make_fold_columns
from .regimes.given import make_given_columns, make_given_rows, make_states
from .regimes.rows import Stage, make_rows, make_staged_rows
from .shifts import can_shift

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
"""Makers of the kernels' functions, which are not compiled yet."""

VALUES = 32
"""Elements of a row that a thread has in registers, at most, over all operands with elements to read."""

VECTORS = 8
"""Vectors that a thread has in registers, at most: more would leave too few threads to hide the memory's latency."""

MOST_THREADS = 256
"""Threads of a row in registers, at most: with more, some kernels would have too few registers for each."""

STAGED_THREADS, STAGED_VECTORS, STAGED_VALUES = 512, 4, 16
"""Threads of a row in shared memory; and the vectors and elements that each of them reads at once, at most."""

CHUNK_THREADS, MOST_CHUNKS = 256, 512
"""Threads of a chunk of a longer row, and the chunks of a row, at most.

Each block merges the states of all chunks of its row: more chunks would cost more than they gain.
"""

RANKS = ((1, 128), (4, 32), (16, 16), (32, 8))
"""Threads along and across columns."""

LONG_RANKS, LEAST_COLUMN_CHUNK, MOST_COLUMN_CHUNKS = (16, 16), 512, 256
"""The same for columns in chunks; the elements of a chunk, at least; and the chunks of a column, at most."""

SHIFTED = 64
"""Vectors in a row from which on vectors that are not aligned are shifted."""


class Machine(NamedTuple):
    """The properties of a GPU that kernels and plans depend on."""

    capability: tuple[int, int]
    shared_memory: int  # bytes that a block can have


class Kernel(NamedTuple):
    """A kernel's regime and all else that it is compiled for."""

    regime: str
    spec: Spec
    geometry: Geometry
    threads: int  # of a block

    @property
    def name(self) -> str:
        """The kernel's name on disk."""
        return repr((self.regime, self.spec.name, self[2:]))

    @property
    def function(self) -> Callable:
        """The kernel's body."""
        return MAKERS[self.regime](self.spec, self.geometry)

    @property
    def signature(self) -> tuple[Any, ...]:
        """The parameters' types.

        The parameters are an address for each operand; that of the workspace, which is temporary memory for the states
        of chunks; the scale's sign and factor; the numbers of rows, of a row's elements, and of a chunk's elements; and
        for each dimension its size and a stride for each operand.
        """
        operands, g = len(self.spec.operands), self.geometry
        addresses = types.UniTuple(int64, operands)
        dims = types.UniTuple(int64, (1 + operands) * (g.row_dims + g.reduced_dims))
        return addresses, int64, float64, float64, int64, int64, int64, dims

    @property
    def packing(self) -> str:
        """The layout of the parameters in memory, one after the other, in letters of `struct`."""
        flat = (t for p in self.signature for t in ([p.dtype] * p.count if isinstance(p, types.UniTuple) else [p]))
        return "".join("d" if t is float64 else "q" for t in flat)


class Launch(NamedTuple):
    """A kernel, the blocks to launch it on, and their bytes of dynamic shared memory."""

    kernel: Kernel
    blocks: int
    shared_memory: int = 0


class Plan(NamedTuple):
    """The launches for a layout, one after the other."""

    launches: tuple[Launch, ...]
    workspace: int  # bytes of temporary memory
    parameters: tuple[int, ...]  # of all kernels, after the scale


def plan(op: Op, layout: Layout, machine: Machine, scaled: bool, in_float64: bool, alignments: tuple[int, ...]) -> Plan:
    """Choose the kernels; `alignments` are the operands' addresses, or these modulo 16."""
    return _Planner(Spec(op, layout.operands, scaled, in_float64), layout, machine, alignments).plan()


class _Planner:
    """The choice of kernels for one layout."""

    def __init__(self, spec: Spec, layout: Layout, machine: Machine, alignments: tuple[int, ...]) -> None:
        self.spec, self.layout, self.machine, self.alignments = spec, layout, machine, alignments
        self.number_bytes = spec.number.bitwidth // 8
        self.given = spec.state is not None
        self.of_elements = spec.writes_elements

    def plan(self) -> Plan:
        layout = self.layout
        if not self.spec.element_inputs:
            return self._states()
        along = along_rows(layout)
        if across_rows(layout) and (layout.n == 1 or not along):
            return self._columns()
        return self._rows(along)

    def _elements(self, across: bool) -> int:
        """The elements of a vector: 16 bytes of elements or results, and not too many numbers to compute with."""
        sizes = (
            size
            for o, size in zip(self.spec.operands, self.spec.sizes, strict=True)
            if o.per == "element" or (across and o.written)
        )
        return WIDEST // max(*sizes, self.number_bytes // 2)

    def _vectors(self, most: int, values: int, elements: int) -> int:
        """The vectors that a thread reads of each operand at once: at most `most`, and `values` elements, over all."""
        return max(1, min(most, values // elements) // len(self.spec.element_inputs))

    def _geometry(self, elements: int, length: int, dims: tuple[Dim, ...], reduced_dims: int) -> Geometry:
        """The geometry of one thread, for lines of `length` numbers, with accesses as wide as these strides allow."""
        spec, operands = self.spec, range(len(self.spec.operands))
        to_bfloat16 = any(
            o.written and f.number == "bfloat16" for o, f in zip(spec.operands, spec.formats, strict=True)
        )
        return Geometry(
            1, 1, elements, tuple(self._width(i, elements, dims) for i in operands), tuple(False for _ in operands),
            length % elements != 0, len(self.layout.row_dims), reduced_dims,
            to_bfloat16 and self.machine.capability >= (8, 0),
        )  # fmt: skip

    def _width(self, i: int, elements: int, dims: Iterable[Dim]) -> int:
        """The bytes of the widest access to an operand that all vectors are aligned to."""
        operand, size = self.spec.operands[i], self.spec.sizes[i]
        planes = self.layout.rows * size if operand.numbers > 1 else 0
        return math.gcd(min(WIDEST, elements * size), self.alignments[i], planes, *(dim[1 + i] for dim in dims))

    # ------------------------------------------------------------------- rows

    def _rows(self, along: bool) -> Plan:
        layout, n = self.layout, self.layout.n
        elements = self._elements(False) if along else 1
        dims = (*layout.row_dims, *(() if along else layout.reduced_dims))
        geometry = self._geometry(elements, n, dims, 0 if along else len(layout.reduced_dims))
        vectors = max(1, math.ceil(n / elements))
        if along and vectors >= SHIFTED:
            geometry = geometry._replace(shifted=self._shifts(geometry))
        most = self._vectors(VECTORS, VALUES, elements)
        for threads, each in _shares(most):
            if threads * each >= vectors:
                return self._rows_in_registers(geometry._replace(threads=threads, vectors=each), dims)
        longer = geometry._replace(threads=CHUNK_THREADS, vectors=most)
        if self.given:
            return self._rows_in_registers(_with_half(longer), dims)
        each = self._vectors(STAGED_VECTORS, STAGED_VALUES, elements)
        staged = geometry._replace(threads=STAGED_THREADS, vectors=each)
        room = Stage(self.spec, staged).room(n)
        if room + self._slots(staged) <= self.machine.shared_memory:
            kernel = Kernel("staged_rows", self.spec, staged, staged.threads)
            return self._plan((Launch(kernel, layout.rows, room if self.of_elements else 0),), dims)
        return self._chunks(longer, dims)

    def _shifts(self, geometry: Geometry) -> tuple[bool, ...]:
        """For each operand, True if its vectors are shifted rather than split into narrower accesses."""
        return tuple(
            o.per == "element"
            and o.kind == "number"
            and can_shift(stored, geometry.elements)
            and stored.bytes <= width < stored.bytes * geometry.elements
            for o, stored, width in zip(self.spec.operands, self.spec.formats, geometry.widths, strict=True)
        )

    def _slots(self, geometry: Geometry) -> int:
        """The bytes of shared memory for the states of warps."""
        return len(self.spec.op.fold.state) * max(WIDEST, geometry.warps * self.number_bytes)

    def _rows_in_registers(self, geometry: Geometry, dims: tuple[Dim, ...]) -> Plan:
        layout = self.layout
        kernel = Kernel(self._regime("rows"), self.spec, geometry, geometry.rows_per_block * geometry.threads)
        tiles = max(1, math.ceil(layout.n / geometry.tile))  # more than one only where states are given
        return self._plan((Launch(kernel, math.ceil(layout.rows / geometry.rows_per_block) * tiles),), dims)

    def _regime(self, regime: str) -> str:
        """The regime or, if states are given, the one in its place."""
        return f"given_{regime}" if self.given else regime

    def _states(self) -> Plan:
        dims, threads = self.layout.row_dims, CHUNK_THREADS
        geometry = self._geometry(1, 1, dims, 0)._replace(threads=threads)
        kernel = Kernel("states", self.spec, geometry, threads)
        return self._plan((Launch(kernel, math.ceil(self.layout.rows / threads)),), dims)

    def _chunks(self, geometry: Geometry, dims: tuple[Dim, ...]) -> Plan:
        layout = self.layout
        chunk = geometry.tile * math.ceil(layout.n / (geometry.tile * MOST_CHUNKS))
        chunks = math.ceil(layout.n / chunk)
        fold = Kernel("fold_chunks", self.spec, geometry, geometry.threads)
        # Results need more registers than states do.
        fewer = _with_half(geometry)
        finish = Kernel("finish_chunks", self.spec, fewer, fewer.threads)
        blocks = layout.rows * chunks
        launches = Launch(fold, blocks), Launch(finish, blocks if self.of_elements else layout.rows)
        return self._plan(launches, dims, blocks * self._state_bytes(), chunk)

    def _state_bytes(self) -> int:
        """The bytes of a chunk's state."""
        return len(self.spec.op.fold.state) * self.number_bytes

    # ---------------------------------------------------------------- columns

    def _columns(self) -> Plan:
        layout, n, elements = self.layout, self.layout.n, self._elements(True)
        *outer_dims, (inner, *steps) = layout.row_dims
        vectors = math.ceil(inner / elements)
        dims = (*layout.row_dims, *layout.reduced_dims)
        geometry = self._apart(self._geometry(elements, inner, (*outer_dims, *layout.reduced_dims), 1), steps)
        most = self._vectors(VECTORS, VALUES, elements)

        def shared_out(threads: int, each: int, across: int) -> Geometry:
            groups = max(1, across >> (vectors - 1).bit_length())
            return geometry._replace(threads=threads, vectors=each, across=across, groups=groups)

        for threads, across in RANKS:
            if threads * most >= n:
                each = next(k for k in (1, 2, 4, 8) if threads * k >= n)
                in_registers = shared_out(threads, each, across)
                kernel = Kernel(self._regime("columns"), self.spec, in_registers, threads * across)
                return self._plan((Launch(kernel, self._strips(in_registers)),), dims, chunk=threads * each)
        threads, across = LONG_RANKS
        geometry, threads_of_block = shared_out(threads, most, across), threads * across
        strips, tile = self._strips(geometry), threads * most
        if self.given:
            kernel = Kernel("given_columns", self.spec, geometry, threads_of_block)
            return self._plan((Launch(kernel, strips * math.ceil(n / tile)),), dims, chunk=tile)
        chunk = LEAST_COLUMN_CHUNK * math.ceil(n / (LEAST_COLUMN_CHUNK * MOST_COLUMN_CHUNKS))
        chunks = math.ceil(n / chunk)
        fold, finish = (Kernel(r, self.spec, geometry, threads_of_block) for r in ("fold_columns", "finish_columns"))
        launches = Launch(fold, strips * chunks), Launch(finish, strips * (chunks if self.of_elements else 1))
        return self._plan(launches, dims, layout.rows * chunks * self._state_bytes(), chunk)

    def _apart(self, geometry: Geometry, steps: list[int]) -> Geometry:
        """The geometry for rows that are neighbours, while their numbers in some operands may not be."""
        spec = self.spec
        apart = tuple(o.per == "row" and s != size for o, s, size in zip(spec.operands, steps, spec.sizes, strict=True))
        if not any(apart):
            return geometry
        each = zip(geometry.widths, apart, steps, strict=True)
        return geometry._replace(apart=apart, widths=tuple(math.gcd(w, s) if a else w for w, a, s in each))

    def _strips(self, geometry: Geometry) -> int:
        inner = self.layout.row_dims[-1][0]
        side_by_side = geometry.across // geometry.groups * geometry.elements
        return math.ceil(self.layout.rows // inner / geometry.groups) * math.ceil(inner / side_by_side)

    def _plan(self, launches: tuple[Launch, ...], dims: tuple[Dim, ...], workspace: int = 0, chunk: int = 0) -> Plan:
        numbers = (self.layout.rows, self.layout.n, chunk, *(number for dim in dims for number in dim))
        return Plan(launches, workspace, numbers)


def _with_half(geometry: Geometry) -> Geometry:
    """The geometry with half as many vectors."""
    return geometry._replace(vectors=max(1, geometry.vectors // 2))


def _shares(most: int) -> Iterable[tuple[int, int]]:
    """The threads of a row and the vectors of each, of which `most` are allowed, from the shortest row on."""
    shares = [(1, 1), (2, 1), (4, 1), (8, 1), (8, 2), (8, 4), (16, 4), (WARP, 4)]
    threads = WARP
    while threads <= MOST_THREADS:
        shares += [(threads, most * 3 // 4), (threads, most)]
        threads *= 2
    return [(threads, each) for threads, each in shares if 0 < each <= most]


def kernels_for(op: Op, x: str, y: str, masked: bool, scaled: bool, machine: Machine) -> list[Kernel]:
    """All kernels for arrays in these formats with aligned rows, and for other rows the last kernel of each kind.

    Those for the shortest rows come first.
    """
    found: dict[Kernel, None] = {}
    for layout, alignments in _samples(op, x, y, masked):
        for launch in plan(op, layout, machine, scaled, False, alignments).launches:
            found.setdefault(launch.kernel)
    return list(found)


def state_kernels_for(op: Op, x: str, masked: bool, scaled: bool, machine: Machine) -> list[Kernel]:
    """The kernels for states of rows in the format `x`.

    Of an op that makes states or works on them they are all kernels; of other ops, the largest that finish elements,
    and those that read results off states.
    """
    if scaled and not op.takes_scale:
        return []
    if any(o.kind == "state" for o in op.operands) or all(o.per == "row" for o in op.operands):
        return kernels_for(op, x, x, masked, scaled, machine)
    largest: dict[tuple, Kernel] = {}
    for kernel in kernels_for(finishing(op), x, x, masked, scaled, machine) if op.elements else ():
        g = kernel.geometry
        kind = kernel.regime, g.widths, g.shifted, g.ragged, g.reduced_dims
        if kind not in largest or g.tile >= largest[kind].geometry.tile:
            largest[kind] = kernel
    return [*largest.values(), *(kernels_for(reading(op), x, x, False, scaled, machine) if op.rows else ())]


def _samples(op: Op, x: str, y: str, masked: bool) -> Iterable[tuple[Layout, tuple[int, ...]]]:
    """Layouts with different plans, and their alignments."""
    operands = operands_for(op, x, y, masked)
    sizes = tuple(stored(o.format).bytes for o in operands)
    aligned = (0,) * len(sizes)

    def layout(rows: int, n: int, row_step: int, step: int, of_first: int = 1) -> Layout:
        """The layout with these strides in elements; those of the first operand are multiplied by `of_first`."""

        def dim(count: int, step: int, row_step: int) -> Dim:
            steps = [size * (step if o.per == "element" else row_step) for o, size in zip(operands, sizes, strict=True)]
            return count, steps[0] * of_first, *steps[1:]

        return Layout(operands, rows, n, (dim(rows, row_step, 1),), (dim(n, step, 0),))

    if all(o.per == "row" for o in operands):
        yield layout(1024, 1, 1, 0), aligned
        return
    for n in (*(1 << k for k in range(15)), *(3 << k for k in range(3, 13)), 1 << 20):
        yield layout(1024, n, n, 1), aligned
        yield layout(1024, n, 1, 1024), aligned
    for n in (1 << 13, 1 << 15, 1 << 20):
        yield layout(1023, n - 1, n - 1, 1), sizes
        yield layout(1023, n - 1, n, 1, 2), aligned
    for n in (16, 64, 128, 256, 1 << 20):
        yield layout(1023, n - 1, 1, 1023), sizes
