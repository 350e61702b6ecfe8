"""The same cases by NumPy and SciPy, beside this package, so that one graph has the ratio."""

import functools

import scipy.special

from . import cpu
from .common import CASES, OPS, arrays_of, call_of, tool


class Float32(cpu.Time):
    """Seconds of a call. Peers change with the matrix alone, and take most of the time: so float32 is enough."""

    repeat, warmup_time = (2, 10, 0.3), 0.0
    params = (("numba_softmax", "numpy", "scipy"), OPS, tuple(CASES))
    param_names = ("library", "op", "case")

    def setup(self, library, op, case):
        if hasattr(self, "call"):
            return
        x, y = arrays_of(op, case, "float32")
        axis = CASES[case].axis
        if library == "numba_softmax":
            self.call = call_of(op, case, x, y)
        elif library == "numpy":
            self.call = functools.partial(tool("reference").by_numpy, op, x, axis)
        else:
            self.call = functools.partial(getattr(scipy.special, op), x, axis=axis)
        self.call()
