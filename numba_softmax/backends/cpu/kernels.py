"""From a kernel's body to compiled entry points: one for the calling thread, one for all threads."""

from __future__ import annotations

import functools
from collections.abc import Callable

import numpy as np
from numba import config, float64, int64, njit, prange, types

from ... import kernel_code
from ...building import built
from ...math.lanewise import NEEDS_COMPILER
from ..spec import Spec
from .basics import jit, release
from .cache import KernelCache
from .regimes.columns import make_columns
from .regimes.given_columns import make_given_columns
from .regimes.given_rows import make_given_rows
from .regimes.long_rows import make_long_rows, make_split_rows
from .regimes.packed_columns import make_packed_columns
from .regimes.rows import make_rows
from .regimes.short_rows import make_short_rows
from .regimes.states import make_states

kernel_code.register()

REGIMES: dict[str, Callable[[Spec], Callable]] = {
    "rows": make_rows,
    "short_rows": make_short_rows,
    "long_rows": functools.partial(make_long_rows, gathered=False),
    "gathered": functools.partial(make_long_rows, gathered=True),
    "columns": make_columns,
    "packed_columns": make_packed_columns,
}
"""Makers of the kernels' functions, which are not compiled yet."""

STATE_REGIMES: dict[str, Callable[[Spec], Callable]] = {
    "given_rows": functools.partial(make_given_rows, gathered=False),
    "given_gathered": functools.partial(make_given_rows, gathered=True),
    "given_columns": make_given_columns,
    "states": make_states,
}
"""The same for rows whose states are given, and for states themselves."""

STREAMED = {"rows", "long_rows", "columns", "given_rows", "given_columns"}
"""Regimes that may use non-temporal stores."""

SPLIT = {"long_rows", "gathered"}
"""Regimes whose rows threads may share."""


def _compiled(function: Callable, name: str, spec: Spec, integers: int, parallel: bool = False) -> Callable:
    """The kernel: it takes the operands' addresses, sign, factor, the layout's table, and `integers` more integers."""
    if config.DISABLE_JIT:
        raise RuntimeError(NEEDS_COMPILER)
    dispatcher = njit(function, error_model="numpy", nogil=True, parallel=parallel)
    dispatcher._cache = KernelCache(name)
    addresses = types.UniTuple(int64, len(spec.operands))
    dispatcher.compile((addresses, float64, float64, int64, *(int64,) * integers))
    return dispatcher


def _body(regime: str, spec: Spec) -> Callable:
    return (REGIMES.get(regime) or STATE_REGIMES[regime])(spec)


@built
def serial_kernel(regime: str, spec: Spec) -> Callable:
    """``f(addresses, sign, factor, layout, first, last)``: computes these tasks in the calling thread."""
    return _compiled(_body(regime, spec), f"serial:{regime}:{spec.name}", spec, 2)


@built
def threaded_kernel(regime: str, spec: Spec) -> Callable:
    """``f(addresses, sign, factor, layout, tasks, portions)``: computes the tasks, a portion of them in each thread."""
    body = jit(_body(regime, spec))

    def threaded(addresses, sign, factor, layout, tasks, portions):
        for portion in prange(portions):
            body(addresses, sign, factor, layout, tasks * portion // portions, tasks * (portion + 1) // portions)

    return _compiled(threaded, f"threaded:{regime}:{spec.name}", spec, 2, parallel=True)


@built
def split_kernel(regime: str, spec: Spec) -> Callable:
    """``f(addresses, sign, factor, layout, rows, chunks, portions)``: computes rows whose chunks threads share."""
    fold_chunks, merge_chunks, write_chunks, numbers = make_split_rows(spec, regime == "gathered")
    writes = spec.writes_elements

    def split(addresses, sign, factor, layout, rows, chunks, portions):
        tasks = rows * chunks
        states = np.empty(tasks * numbers)
        at = int64(states.ctypes.data)
        for portion in prange(portions):
            first, last = tasks * portion // portions, tasks * (portion + 1) // portions
            fold_chunks(addresses, sign, factor, layout, at, first, last)
        merge_chunks(addresses, sign, factor, layout, at)
        if writes:
            for portion in prange(portions):
                first, last = tasks * portion // portions, tasks * (portion + 1) // portions
                write_chunks(addresses, sign, factor, layout, at, first, last)
        release(states)

    return _compiled(split, f"split:{regime}:{spec.name}", spec, 3, parallel=True)
