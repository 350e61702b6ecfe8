"""The same cases by NumPy and SciPy, beside this package, so that one graph has the ratio."""

from . import common
from .common import CASES, OPS, arrays_of, call_by


class Float32(common.Timed):
    """Seconds of a call. Peers change with the matrix alone, and take most of the time: so float32 is enough."""

    version = "1"
    rounds, repeat, warmup_time = 1, (2, 10, 0.3), 0.0
    params = (("numba_softmax", "numpy", "scipy"), OPS, tuple(CASES))
    param_names = ("library", "op", "case")

    def made(self, library, op, case):
        return call_by(library, op, *arrays_of(op, case, "float32"), CASES[case].axis)

    def time_call(self, *_):
        self.call()
