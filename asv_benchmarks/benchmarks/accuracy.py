"""The largest error, in units in the last place."""

import numpy as np

import numba_softmax as ns

from .common import DTYPES, OPS, TYPES, tool


class Ulp:
    """Among the results of half a million logits, against a wider float.

    Every third row, from the first one on, has logits of standard deviation 40, the others of 4.
    """

    version = "1"
    unit = "ulp"
    params = (OPS, DTYPES, (10, 1024, 131072))
    param_names = ("op", "dtype", "n")
    ELEMENTS = 1 << 19

    def setup(self, op, dtype, n):
        if dtype == "float64" and np.finfo(np.longdouble).eps >= np.finfo(np.float64).eps:
            raise NotImplementedError("this machine has no float wider than float64")

    def track_largest_error(self, op, dtype, n):
        x = np.random.default_rng(20).standard_normal((-(-self.ELEMENTS // n), n)) * 4
        x[::3] *= 10
        x = x.astype(TYPES[dtype])
        return tool("reference").error_in_ulps(op, x, getattr(ns, op)(x))
