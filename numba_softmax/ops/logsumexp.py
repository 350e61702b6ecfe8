"""logsumexp: ``scale * m + log l``."""

from .. import kernel_code
from ..math import online
from ..math.expmath import INF
from ..math.folds import OTHERS
from ..math.lanewise import lanewise
from ..math.simd import fma, select
from .declare import WHERE, Op, X, row_result

kernel_code.register()


@lanewise
def rows(state, row, scale):
    """The logarithm of the sum; its error is the rounding of its two terms."""
    m, rest, _ = state
    log_l = online.log_sum(state)
    result = m + log_l
    if scale is not None:
        scaled = m * scale[1]
        error = fma(m, scale[2], fma(m, scale[1], -scaled))
        result = scaled + log_l + select(scaled - scaled == 0.0, error, 0.0)
    return ((select(rest == -1.0, -INF, result),),)  # no terms at all, whatever the scale is


LOGSUMEXP = Op("logsumexp", (X, WHERE, row_result()), OTHERS, rows=rows)
