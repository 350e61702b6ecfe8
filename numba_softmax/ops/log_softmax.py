"""log_softmax: ``x - m - log l``."""

import math

from .. import kernel_code
from ..math import online
from ..math.expmath import INF
from ..math.folds import OTHERS
from ..math.lanewise import lanewise
from ..math.pairs import in_two_parts
from ..math.simd import convert, select
from ..math.weights import gap
from .declare import WHERE, Elements, Op, X, result

kernel_code.register()


@lanewise
def prepare(number, state, row):
    """``log l`` in two parts, and the maximum."""
    m = state[0]
    log_l = online.log_sum(state) + (m - m)  # an infinite maximum makes the row NaN
    return *in_two_parts(number, (log_l, None)), convert(number, m)


@lanewise
def finish(x, others, prepared, scale):
    """``(x - m) - log l``: both terms have the same sign, so nothing cancels."""
    hi, lo, m = prepared
    d, error = gap(x, m, scale)
    return (d - (hi - (select(d > -INF, error, 0.0) - lo)),)


LOG_SOFTMAX = Op(
    "log_softmax", (X, WHERE, result(masked=-math.inf)), OTHERS, Elements(False, prepare, finish, numbers=3)
)
