"""Small arrays, where a call costs more than its elements."""

import functools

import numpy as np
import scipy.special

import numba_softmax as ns

from .common import OPS, filled, tool


class Small:
    """Seconds of a thousand calls, ours with `out=`: milliseconds are microseconds a call."""

    version = "1"
    rounds, repeat, warmup_time = 2, (5, 20, 0.3), 0.0
    params = (("numba_softmax", "numpy", "scipy"), OPS, ((8, 8), (1000,), (64, 64)))
    param_names = ("library", "op", "shape")

    def setup(self, library, op, shape):
        if hasattr(self, "call"):
            return
        x = filled(shape, "float32")
        if library == "numba_softmax":
            y = np.ones(shape[: -1 if op == "logsumexp" else None], np.float32)
            self.call = functools.partial(getattr(ns, op), x, out=y)
        elif library == "numpy":
            self.call = functools.partial(tool("reference").by_numpy, op, x, -1)
        else:
            self.call = functools.partial(getattr(scipy.special, op), x, axis=-1)
        self.call()

    def time_1000_calls(self, *_):
        call = self.call
        for _ in range(1000):
            call()
