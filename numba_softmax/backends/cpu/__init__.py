"""The CPU backend: which kernel serves which layout, and starting it."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable

import numba

from ...call.layout import Layout
from ...call.memory import address_of
from ...ops import Op
from ..spec import Spec, across_rows, along_rows, needs_float64, sign_and_factor, stored
from .caches import second_cache
from .columns import strips_in
from .given import STATE_LANES
from .kernels import REGIMES, SPLIT, STREAMED, serial_kernel, split_kernel, threaded_kernel
from .layout import layout_words
from .rows import CHUNK
from .threads import layer, threads_for_call
from .tiles import BLOCK, VECTOR_BYTES, lanes_of

__all__ = ["plan", "launcher_for", "warm"]

# The measurements behind these numbers are in docs/performance.md.

PARALLEL_FROM, PARALLEL_FROM_ON_WORKQUEUE = 1 << 15, 1 << 19
"""Elements from which on it is worth to start threads: in 2 us on most threading layers, in 100 us on workqueue."""

STREAM_FROM = 1 << 25
"""Bytes of results from which on they are written past the caches."""

SHORT, SHORT_BYTES = 6, 1 << 14
"""Vectors in a row up to which lanes run across rows, and bytes of elements in a strip then, for the first cache."""

PACKED, PACKED_BYTES = ((1, BLOCK), (2, 256), (4, 16)), 1 << 14
"""Columns of less than so many vectors and rows of up to so many elements are packed; and bytes of a strip then."""

STRIP_BYTES = min(3 << 18, max(1 << 17, second_cache() // 2))
"""Bytes of elements in a strip of other columns: what is brought to the second cache is to stay there."""

WIDEST_STRIP = 32
"""Vectors side by side in a strip."""


class _MadeOnUse:
    """`functools.cached_property` without its lock.

    In Python 3.11 that is one for all instances: who makes one has all others wait.
    """

    def __init__(self, make: Callable[[Plan], Callable]) -> None:
        self._make, self._name = make, make.__name__

    def __get__(self, plan: Plan, _: type[Plan]) -> Callable:
        made = plan.__dict__[self._name] = self._make(plan)
        return made


class Plan:
    """How calls with a certain layout are served."""

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
        """Whether rows are so few and so long that threads share them."""
        return self.kernel[0] in SPLIT and self.tasks < 4 * threads and self.chunks > 1


@functools.cache
def _entry_point(kernel: Callable) -> Callable:
    """The machine code itself: the dispatcher would look at the types of arguments that never differ, for 0.1 us."""
    (compiled,) = kernel.overloads.values()
    return compiled.entry_point


def plan(op: Op, layout: Layout, scaled: bool, wide: bool, streams: bool) -> Plan:
    """Choose the kernel. All of them give the same bits where more than one could serve."""
    x, y = stored(layout.x), stored(layout.y)
    spec = Spec(op, layout.x, layout.y, layout.masked, scaled, wide, False)
    lanes, (inner, *_) = lanes_of(spec.number), layout.row_dims[-1]
    along, across = along_rows(layout, x, y, op.reduces), across_rows(layout, x, y)
    strip, tasks = 0, layout.rows
    if layout.states == "x":
        regime, tasks = "states", layout.rows // inner * strips_in(inner, 1, STATE_LANES, False)
    elif layout.states == "given":
        regime, strip, tasks = _plan_of_given(layout, along, across, lanes, streams)
    elif across and (layout.n == 1 or not along):  # rows of one element are both
        if any(inner < vectors * lanes and layout.n <= n for vectors, n in PACKED) and not op.gives_states:
            regime, tasks = "packed_columns", layout.rows // inner
            strip = max(math.ceil(inner / lanes), min(WIDEST_STRIP, PACKED_BYTES // (layout.n * VECTOR_BYTES)))
        else:
            regime, widest = "columns", min(WIDEST_STRIP, STRIP_BYTES // (min(layout.n, BLOCK) * VECTOR_BYTES))
            if layout.rows * layout.n >= PARALLEL_FROM:
                widest = min(widest, layout.rows // (4 * numba.config.NUMBA_NUM_THREADS * lanes))
            strip = _strip(inner, widest, lanes, streams)
            tasks = layout.rows // inner * strips_in(inner, strip, lanes, streams)
    elif along and 1 <= layout.n <= SHORT * lanes:
        regime = "short_rows"
        strip = _strip(inner, min(WIDEST_STRIP, SHORT_BYTES // (layout.n * VECTOR_BYTES)), lanes, False)
        tasks = layout.rows // inner * strips_in(inner, strip, lanes, False)
    elif along:
        regime = "rows" if layout.n <= CHUNK else "long_rows"
    else:
        regime = "gathered"
    return Plan(regime, spec._replace(streaming=streams and regime in STREAMED), tasks, layout, strip)


def _plan_of_given(layout: Layout, along: bool, across: bool, lanes: int, streams: bool) -> tuple[str, int, int]:
    """The regime for rows whose states are given, the strip and the tasks. There are no bits to be like others'."""
    chunks = -(-layout.n // CHUNK)
    if not across or (layout.n > 1 and along):
        return ("given_rows" if along else "given_gathered"), 0, layout.rows * chunks
    inner = layout.row_dims[-1][0]
    strip = _strip(inner, WIDEST_STRIP, lanes, streams)
    return "given_columns", strip, layout.rows // inner * strips_in(inner, strip, lanes, streams) * chunks


def _strip(inner: int, widest: int, lanes: int, streaming: bool) -> int:
    """The width of strips, in vectors: at most the widest, at least one, and all about the same."""
    vectors = strips_in(inner, 1, lanes, streaming)
    return math.ceil(vectors / math.ceil(vectors / max(1, widest)))


def _may_stream(op: Op, layout: Layout, size: int) -> bool:
    """Whether results are so many that they are written past the caches, and lie at whole multiples of their size."""
    steps = (y_step for _, _, y_step, _ in (*layout.row_dims, *layout.reduced_dims))
    return not op.reduces and layout.rows * layout.n * size >= STREAM_FROM and all(step % size == 0 for step in steps)


def launcher_for(op: Op, layout: Layout) -> Callable[..., None]:
    """A function that computes calls with that layout, as `devices` describes it."""
    if not layout.rows or not (layout.n or op.reduces):
        return lambda x, y, w, scale, states=0: None

    size = stored(layout.y).bytes
    may_stream = _may_stream(op, layout, size)
    unscaled: list[Plan | None] = [None, None]  # the second one for results that are streamed
    scaled: dict[tuple[bool, bool], Plan] = {}

    def start(x: int, y: int, w: int, scale: float | None, states: int = 0) -> None:
        streams = may_stream and x != y and y % size == 0
        sign, factor, p = 1.0, 1.0, unscaled[streams]
        if scale is not None:
            sign, factor = sign_and_factor(scale)
            kind = needs_float64(factor), streams
            p = scaled.get(kind) or scaled.setdefault(kind, plan(op, layout, True, *kind))
        elif p is None:
            p = unscaled[streams] = plan(op, layout, False, False, streams)
        if p.elements < PARALLEL_FROM or (p.elements < PARALLEL_FROM_ON_WORKQUEUE and layer() == "workqueue"):
            p.serial(x, y, w, states, sign, factor, p.words, 0, p.tasks)
            return
        with threads_for_call() as threads:
            if threads == 1 or (p.tasks == 1 and not p.splits(threads)):
                p.serial(x, y, w, states, sign, factor, p.words, 0, p.tasks)
            elif p.splits(threads):
                p.split(x, y, w, states, sign, factor, p.words, p.rows, p.chunks, threads)
            else:
                p.threaded(x, y, w, states, sign, factor, p.words, p.tasks, min(threads, p.tasks))

    return start


def warm(op: Op, x: str, y: str, masked: bool, scaled: bool) -> list[Callable[[], Callable]]:
    """Functions that compile, or load, one kernel each: all that may serve calls with those formats."""
    layer()  # TBB's threads are to be started by a thread that lasts, not by one that builds
    spec = Spec(op, x, y, masked, scaled, False, False)
    kernels = [(regime, spec) for regime in REGIMES]
    if not op.reduces:
        kernels += [(regime, spec._replace(streaming=True)) for regime in REGIMES if regime in STREAMED]
    return [
        *(functools.partial(serial_kernel, *kernel) for kernel in kernels),
        *(functools.partial(threaded_kernel, *kernel) for kernel in kernels),
        *(functools.partial(split_kernel, *kernel) for kernel in kernels if kernel[0] in SPLIT),
    ]
