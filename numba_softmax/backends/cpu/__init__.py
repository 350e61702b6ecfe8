"""The CPU backend: chooses the kernel for a layout and launches it."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable

import numba

from ...call.layout import Layout
from ...call.memory import address_of
from ...ops import Op
from ..spec import Spec, across_rows, along_rows, needs_float64, operands_for, sign_and_factor
from .basics import BLOCK, CHUNK, VECTOR_BYTES, lanes_of
from .caches import second_cache
from .edges import strip_width, strips_in
from .kernels import REGIMES, SPLIT, STREAMED, serial_kernel, split_kernel, threaded_kernel
from .layout import layout_words
from .regimes.states import STATE_LANES
from .strips import tiles_of
from .threads import layer, threads_for_call

__all__ = ["launcher_for", "plan", "warm"]

# The measurements behind these numbers are in docs/performance.md.

PARALLEL_FROM, PARALLEL_FROM_ON_WORKQUEUE = 1 << 15, 1 << 19
"""Elements from which on threads pay off: starting them takes 2 us on most threading layers, 100 us on workqueue."""

STREAM_FROM = 1 << 25
"""Bytes of results from which on they are written by non-temporal stores."""

SHORT, SHORT_BYTES = 6, 1 << 14
"""Vectors in a row up to which lanes run across rows, and bytes of elements in a strip then, to fit the first cache."""

PACKED, PACKED_BYTES = ((1, BLOCK), (2, 256), (4, 16)), 1 << 14
"""Limits in vectors and elements: columns narrower and no longer than a pair are packed; and bytes of their strips."""

STRIP_BYTES = min(3 << 18, max(1 << 17, second_cache() // 2))
"""Bytes of elements in a strip of other columns, so that what was loaded into the second cache stays there."""

WIDEST_STRIP = 32
"""Vectors side by side in a strip, at most."""


class _MadeOnUse:
    """`functools.cached_property` without its lock.

    In Python 3.11 all instances share that lock, so that making one value would block all others.
    """

    def __init__(self, make: Callable[[Plan], Callable]) -> None:
        self._make, self._name = make, make.__name__

    def __get__(self, plan: Plan, _: type[Plan]) -> Callable:
        made = plan.__dict__[self._name] = self._make(plan)
        return made


class Plan:
    """The kernel for calls with one layout, and its arguments."""

    def __init__(self, regime: str, spec: Spec, tasks: int, layout: Layout, strip: int) -> None:
        self.kernel = regime, spec
        self.tasks = tasks
        self.rows, self.chunks = layout.rows, -(-layout.n // CHUNK)
        self.elements = layout.rows * layout.n
        self._words = layout_words(layout, strip)
        self.words = address_of(self._words)

    @_MadeOnUse
    def serial(self) -> Callable:
        return _entry_point(serial_kernel(*self.kernel))

    @_MadeOnUse
    def threaded(self) -> Callable:
        return threaded_kernel(*self.kernel)

    @_MadeOnUse
    def split(self) -> Callable:
        return split_kernel(*self.kernel)

    def splits(self, threads: int) -> bool:
        """True if rows are so few and so long that threads share them."""
        return self.kernel[0] in SPLIT and self.tasks < 4 * threads and self.chunks > 1


@functools.cache
def _entry_point(kernel: Callable) -> Callable:
    """The machine code itself: the dispatcher would check the types of arguments, which never differ, for 0.1 us."""
    (compiled,) = kernel.overloads.values()
    return compiled.entry_point


def plan(op: Op, layout: Layout, scaled: bool, in_float64: bool, streams: bool) -> Plan:
    """Choose the kernel. Where several could be used, all of them give the same bits."""
    spec = Spec(op, layout.operands, scaled, in_float64, False)
    if not spec.element_inputs:
        inner = layout.row_dims[-1][0]
        tasks = layout.rows // inner * strips_in(inner, 1, STATE_LANES, False)
        return Plan("states", spec, tasks, layout, 0)
    make = _plan_of_given if spec.state is not None else _plan
    regime, strip, tasks = make(spec, layout, along_rows(layout), across_rows(layout), streams)
    return Plan(regime, spec._replace(streaming=streams and regime in STREAMED), tasks, layout, strip)


def _plan(spec: Spec, layout: Layout, along: bool, across: bool, streams: bool) -> tuple[str, int, int]:
    """The regime, the vectors in a strip and the number of tasks."""
    lanes, n, inner = lanes_of(spec.number), layout.n, layout.row_dims[-1][0]
    line = VECTOR_BYTES * tiles_of(spec)  # bytes of a vector's elements in all tiles

    def strips(widest: int, streaming: bool) -> tuple[int, int]:
        strip = strip_width(inner, min(WIDEST_STRIP, widest), lanes, streaming)
        return strip, layout.rows // inner * strips_in(inner, strip, lanes, streaming)

    if across and (n == 1 or not along):  # rows of one element are both
        if any(inner < vectors * lanes and n <= most for vectors, most in PACKED):
            strip = max(math.ceil(inner / lanes), min(WIDEST_STRIP, PACKED_BYTES // (n * line)))
            return "packed_columns", strip, layout.rows // inner
        widest = STRIP_BYTES // (min(n, BLOCK) * line)
        if layout.rows * n >= PARALLEL_FROM:
            widest = min(widest, layout.rows // (4 * numba.config.NUMBA_NUM_THREADS * lanes))
        return "columns", *strips(widest, streams)
    if along and 1 <= n <= SHORT * lanes:
        return "short_rows", *strips(SHORT_BYTES // (n * line), False)
    if along:
        return "rows" if n <= CHUNK else "long_rows", 0, layout.rows
    return "gathered", 0, layout.rows


def _plan_of_given(spec: Spec, layout: Layout, along: bool, across: bool, streams: bool) -> tuple[str, int, int]:
    """The same for rows whose states are given. Here regimes need not agree in their bits."""
    lanes, chunks = lanes_of(spec.number), -(-layout.n // CHUNK)
    if not across or (layout.n > 1 and along):
        return ("given_rows" if along else "given_gathered"), 0, layout.rows * chunks
    inner = layout.row_dims[-1][0]
    strip = strip_width(inner, WIDEST_STRIP, lanes, streams)
    return "given_columns", strip, layout.rows // inner * strips_in(inner, strip, lanes, streams) * chunks


def _streamed(spec: Spec, layout: Layout) -> int | None:
    """The operand for non-temporal stores, or None: the only result an element, if it is large enough.

    Its strides must be multiples of the size of its numbers.
    """
    if len(spec.element_results) != 1:
        return None
    (y,) = spec.element_results
    size, strides = spec.sizes[y], (dim[1 + y] for dim in (*layout.row_dims, *layout.reduced_dims))
    large = layout.rows * layout.n * size >= STREAM_FROM
    return y if large and all(stride % size == 0 for stride in strides) else None


def launcher_for(op: Op, layout: Layout) -> Callable[..., None]:
    """The launcher of calls with this layout, as `devices` describes it."""
    if not layout.rows or not (layout.n or op.rows):
        return lambda addresses, scale: None

    spec = Spec(op, layout.operands, False, False)
    y, inputs = _streamed(spec, layout), spec.element_inputs
    size = 1 if y is None else spec.sizes[y]
    unscaled: list[Plan | None] = [None, None]  # the second one for results that are streamed
    scaled: dict[tuple[bool, bool], Plan] = {}

    def launch(addresses: tuple[int, ...], scale: float | None) -> None:
        streams = y is not None and addresses[y] % size == 0 and all(addresses[i] != addresses[y] for i in inputs)
        sign, factor, p = 1.0, 1.0, unscaled[streams]
        if scale is not None:
            sign, factor = sign_and_factor(scale)
            kind = needs_float64(factor), streams
            p = scaled.get(kind) or scaled.setdefault(kind, plan(op, layout, True, *kind))
        elif p is None:
            p = unscaled[streams] = plan(op, layout, False, False, streams)
        if p.elements < PARALLEL_FROM or (p.elements < PARALLEL_FROM_ON_WORKQUEUE and layer() == "workqueue"):
            p.serial(addresses, sign, factor, p.words, 0, p.tasks)
            return
        with threads_for_call() as threads:
            if threads == 1 or (p.tasks == 1 and not p.splits(threads)):
                p.serial(addresses, sign, factor, p.words, 0, p.tasks)
            elif p.splits(threads):
                p.split(addresses, sign, factor, p.words, p.rows, p.chunks, threads)
            else:
                p.threaded(addresses, sign, factor, p.words, p.tasks, min(threads, p.tasks))

    return launch


def warm(op: Op, x: str, y: str, masked: bool, scaled: bool) -> list[Callable[[], Callable]]:
    """Functions that compile, or load, one kernel each: all that calls with these formats may use."""
    layer()  # TBB's threads must be started by a thread that lasts, not by one that builds
    spec = Spec(op, operands_for(op, x, y, masked), scaled, False)
    kernels = [(regime, spec) for regime in REGIMES]
    if len(spec.element_results) == 1:
        kernels += [(regime, spec._replace(streaming=True)) for regime in REGIMES if regime in STREAMED]
    return [
        *(functools.partial(serial_kernel, *kernel) for kernel in kernels),
        *(functools.partial(threaded_kernel, *kernel) for kernel in kernels),
        *(functools.partial(split_kernel, *kernel) for kernel in kernels if kernel[0] in SPLIT),
    ]
