"""From a kernel's body to compiled entry points: one for the calling thread, one for all threads."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import numpy as np
from numba import config, float64, int64, njit, prange

from ... import kernel_code
from ...building import built
from ...lanewise import NEEDS_COMPILER
from ..spec import Spec
from .cache import KernelCache
from .columns import make_columns
from .given import make_given_columns, make_given_rows, make_states
from .rows import make_long_rows, make_rows, make_split_rows
from .small import make_packed_columns, make_short_rows
from .tiles import jit

kernel_code.register()

_COMMON = (int64, int64, int64, int64, float64, float64, int64)  # x, y, w, states, sign, factor, layout


REGIMES: dict[str, Callable[[Spec], Callable]] = {
    "rows": make_rows,
    "short_rows": make_short_rows,
    "long_rows": functools.partial(make_long_rows, gathered=False),
    "gathered": functools.partial(make_long_rows, gathered=True),
    "columns": make_columns,
    "packed_columns": make_packed_columns,
}
"""What makes a kernel's function, not compiled yet."""

STATE_REGIMES: dict[str, Callable[[Spec], Callable]] = {
    "given_rows": functools.partial(make_given_rows, gathered=False),
    "given_gathered": functools.partial(make_given_rows, gathered=True),
    "given_columns": make_given_columns,
    "states": make_states,
}
"""The same for rows whose states are there."""

STREAMED = {"rows", "long_rows", "columns", "given_rows", "given_columns"}
"""Regimes that may write past the caches."""

SPLIT = {"long_rows", "gathered"}
"""Regimes whose rows threads may share."""


def _compiled(function: Callable, name: str, signature: tuple[Any, ...], parallel: bool = False) -> Callable:
    if config.DISABLE_JIT:
        raise RuntimeError(NEEDS_COMPILER)
    dispatcher = njit(function, error_model="numpy", nogil=True, parallel=parallel)
    dispatcher._cache = KernelCache(name)
    dispatcher.compile(signature)
    return dispatcher


def _body(regime: str, spec: Spec) -> Callable:
    return (REGIMES.get(regime) or STATE_REGIMES[regime])(spec)


def _name(*parts: Any) -> str:
    return ":".join(part.op.name + repr(part[1:]) if isinstance(part, Spec) else str(part) for part in parts)


@built
def serial_kernel(regime: str, spec: Spec) -> Callable:
    """``f(x, y, w, states, sign, factor, layout, first, last)``: those tasks, in the calling thread."""
    return _compiled(_body(regime, spec), _name("serial", regime, spec), (*_COMMON, int64, int64))


@built
def threaded_kernel(regime: str, spec: Spec) -> Callable:
    """``f(x, y, w, states, sign, factor, layout, tasks, parts)``: the tasks in so many parts, shared out to threads."""
    body = jit(_body(regime, spec))

    def threaded(x, y, w, states, sign, factor, layout, tasks, parts):
        for part in prange(parts):
            body(x, y, w, states, sign, factor, layout, tasks * part // parts, tasks * (part + 1) // parts)

    return _compiled(threaded, _name("threaded", regime, spec), (*_COMMON, int64, int64), parallel=True)


@built
def split_kernel(regime: str, spec: Spec) -> Callable:
    """``f(x, y, w, states, sign, factor, layout, rows, chunks, parts)``: chunks of rows shared out to threads."""
    fold_chunks, merge_chunks, write_chunks = make_split_rows(spec, regime == "gathered")
    reduces = spec.op.reduces

    def split(x, y, w, states, sign, factor, layout, rows, chunks, parts):
        tasks = rows * chunks
        parts_of_rows = np.empty((tasks, 3))
        for part in prange(parts):
            first, last = tasks * part // parts, tasks * (part + 1) // parts
            fold_chunks(x, w, sign, factor, layout, parts_of_rows, first, last)
        merge_chunks(y, sign, factor, layout, parts_of_rows)
        if not reduces:
            for part in prange(parts):
                first, last = tasks * part // parts, tasks * (part + 1) // parts
                write_chunks(x, y, w, sign, factor, layout, parts_of_rows, first, last)

    return _compiled(split, _name("split", regime, spec), (*_COMMON, int64, int64, int64), parallel=True)
