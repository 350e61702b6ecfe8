"""Small arrays, where a call costs more than its elements."""

import numpy as np

from . import common
from .common import OPS, REDUCING, call_by, filled


class Small(common.Timed):
    """Seconds of a thousand calls, ours with `out=`: milliseconds are microseconds a call."""

    version = "1"
    rounds, repeat, warmup_time = 2, (5, 20, 0.3), 0.0
    params = (("numba_softmax", "numpy", "scipy"), OPS, ((8, 8), (1000,), (64, 64)))
    param_names = ("library", "op", "shape")

    def made(self, library, op, shape):
        y = np.ones(shape[:-1] if op in REDUCING else shape, np.float32)
        return call_by(library, op, filled(shape, "float32"), y, -1)

    def time_1000_calls(self, *_):
        call = self.call
        for _ in range(1000):
            call()
