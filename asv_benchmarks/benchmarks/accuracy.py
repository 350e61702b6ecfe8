"""The largest error, in units in the last place."""

import numpy as np

import numba_softmax as ns

from .common import DTYPES, OPS, TYPES, tool


class Ulp:
    """Of half a million results, against a wider float; two rows in three have logits of deviation 4, one of 40."""

    version = "1"
    unit = "ulp"
    params = (OPS, DTYPES, (10, 1024, 131072))
    param_names = ("op", "dtype", "n")
    ELEMENTS = 1 << 19

    def track_largest_error(self, op, dtype, n):
        x = np.random.default_rng(20).standard_normal((-(-self.ELEMENTS // n), n)) * 4
        x[::3] *= 10
        x = x.astype(TYPES[dtype])
        return tool("reference").error_in_ulps(op, x, getattr(ns, op)(x))
