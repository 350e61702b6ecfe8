"""Memory maps in the page cache, to memory maps: slab by slab, rows in one slab and in many."""

import functools
import tempfile

import numpy as np

import numba_softmax as ns

from . import common
from .common import filled

CASES = {
    "copy": ((16384, 4096), None),
    "rows, 16384 x 4096": ((16384, 4096), 1),
    "columns, 16384 x 4096 axis 0": ((16384, 4096), 0),
    "one row, 67108864": ((1, 1 << 26), 1),
}


def on_disk(shape):
    """A file of float32 as an array; it is gone with that."""
    with tempfile.TemporaryFile() as file:
        return np.memmap(file, np.float32, "w+", shape=shape)


class Mapped(common.Timed):
    """Seconds of softmax, and of a copy, from a file of 256 MiB to another."""

    version = "1"
    rounds, repeat, warmup_time = 2, (5, 20, 0.5), 0.0
    params = (tuple(CASES),)
    param_names = ("case",)

    def made(self, case):
        shape, axis = CASES[case]
        if common.smallest:
            shape = tuple(-(-size // 64) for size in shape)
        x, y = on_disk(shape), on_disk(shape)
        x[...] = filled(shape, "float32")
        if axis is None:
            return functools.partial(np.copyto, y, x)
        return functools.partial(ns.softmax, x, axis, out=y)

    def time_call(self, *_):
        self.call()
