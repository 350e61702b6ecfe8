"""What the benchmarks share: cases, filled arrays, calls, and tools of this checkout, whichever commit is measured."""

import functools
import importlib.util
import sys
from pathlib import Path
from typing import NamedTuple

import ml_dtypes
import numpy as np
import scipy.special

import numba_softmax as ns

ROOT = Path(__file__).resolve().parents[2]

OPS = ("softmax", "log_softmax", "logsumexp")
OTHER_CALLS = ("OnlineSoftmax.update", "OnlineSoftmax.normalize", "jit.softmax")
"""Measured in float32 alone."""

REDUCING = ("logsumexp", "OnlineSoftmax.update")

DTYPES = ("float32", "float64", "float16", "bfloat16")
TYPES = {name: np.dtype(getattr(np, name, None) or ml_dtypes.bfloat16) for name in DTYPES}


class Case(NamedTuple):
    """An array and an axis."""

    shape: tuple[int, ...]
    axis: int
    smallest: tuple[int, ...]  # a shape of the same regime
    step: int = 1  # every step-th element along the last axis


CASES = {
    "short rows, 1000000 x 10": Case((1_000_000, 10), -1, (64, 10)),
    "rows, 4096 x 4096": Case((4096, 4096), -1, (16, 512)),
    "rows in cache, 1024 x 1024": Case((1024, 1024), -1, (16, 512)),
    "long rows, 16 x 1048576": Case((16, 1 << 20), -1, (8, 70_000)),
    "one row, 16777216": Case((1, 1 << 24), -1, (1, 70_000)),
    "columns, 4096 x 4096 axis 0": Case((4096, 4096), 0, (512, 32)),
    "columns, 64 x 1000 x 256 axis 1": Case((64, 1000, 256), 1, (2, 200, 32)),
    "narrow columns, 100000 x 20 x 8 axis 1": Case((100_000, 20, 8), 1, (40, 20, 8)),
    "every other element, 4096 x 4096": Case((4096, 4096), -1, (16, 512), step=2),
}
"""One or two for each regime of the CPU backend: arrays beyond the caches, but for those that say so."""

smallest = False
"""Whether all arrays are as small as they can be: tests set it."""


@functools.cache
def tool(name):
    """A module of this checkout's `numba_softmax/bench`, loaded alone: all commits are measured by the same clock."""
    spec = importlib.util.spec_from_file_location(f"{__name__}_{name}", ROOT / "numba_softmax" / "bench" / f"{name}.py")
    module = sys.modules[spec.name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def filled(shape, dtype):
    """Logits of standard deviation 3, every page of them written."""
    logits = np.random.default_rng(16).standard_normal(1 << 16, np.float32) * 3
    return np.resize(logits.astype(TYPES[dtype]), shape)


def shape_of(case):
    """The shape of a case's array."""
    return CASES[case].smallest if smallest else CASES[case].shape


def result_shape(op, case):
    """The shape of a result, or of the states."""
    shape, axis = shape_of(case), CASES[case].axis
    return tuple(map(int, np.delete(shape, axis))) if op in REDUCING else shape


def arrays_of(op, case, dtype):
    """Elements, and an array for the result, which has been written to."""
    *rest, last = shape_of(case)
    step = CASES[case].step
    return filled((*rest, last * step), dtype)[..., ::step], np.ones(result_shape(op, case), TYPES[dtype])


def call_of(op, case, x, y):
    """A call of this package's, with its result in `y`.

    Raises
    ------
    NotImplementedError
        The measured commit, or the case, has no such call.
    """
    axis = CASES[case].axis
    if op in OPS:
        return call_by("numba_softmax", op, x, y, axis)
    if op == "jit.softmax":
        if case not in JIT_CASES:
            raise NotImplementedError("two cases show what there is to see")
        if importlib.util.find_spec("numba_softmax.jit") is None:
            raise NotImplementedError("it came later")
        return functools.partial(_rows_in_jitted_code(), x, y)
    if not hasattr(ns, "OnlineSoftmax"):
        raise NotImplementedError("it came later")
    state = ns.OnlineSoftmax(result_shape("logsumexp", case)).update(x, axis)
    if op == "OnlineSoftmax.update":
        return functools.partial(state.update, x, axis)
    return functools.partial(state.normalize, x, axis, out=y)


JIT_CASES = ("rows, 4096 x 4096", "rows in cache, 1024 x 1024")


@functools.cache
def _rows_in_jitted_code():
    from numba import njit, prange

    from numba_softmax import jit

    @njit(parallel=True)
    def loop(x, y):
        for i in prange(len(x)):
            jit.softmax(x[i], y[i])

    return loop


def call_by(library, op, x, y, axis):
    """A call of this package's with its result in `y`, or of NumPy's or SciPy's."""
    if library == "numba_softmax":
        return functools.partial(getattr(ns, op), x, axis, out=y)
    if library == "numpy":
        return functools.partial(tool("reference").by_numpy, op, x, axis)
    return functools.partial(getattr(scipy.special, op), x, axis=axis)


class Timed:
    """Benchmarks that time a call, which is made once: asv asks for it again before each sample."""

    def setup(self, *key):
        if not hasattr(self, "call"):
            self.call = self.made(*key)
            self.call()  # compiles, or loads
