"""An op that the package does not know: ``p (v - t)`` for each element, and the sum of ``p v`` of each row, with the
row's softmax `p`, a second array of elements `v` and a number `t` a row."""

import numpy as np

from numba_softmax.math import online
from numba_softmax.math.expmath import float_format, rounded
from numba_softmax.math.folds import ALL
from numba_softmax.math.lanewise import lanewise
from numba_softmax.math.pairs import over
from numba_softmax.math.simd import convert, fma, like, splat
from numba_softmax.ops.declare import WHERE, Elements, Op, Operand, X, result, row_result


@lanewise
def zero(v, number):
    return *ALL.zero(v, number), splat(v, like(number, 0.0))


@lanewise
def add(sums, weight, x, m, others):
    return *ALL.add(sums[:2], weight, x, m, others), fma(rounded(weight), others[0], sums[2])


@lanewise
def closed(sums):
    return *ALL.closed(sums[:2]), sums[2]


@lanewise
def block_state(m, sums, unit):
    total, total_lo, moment = sums
    moment_lo = None if total_lo is None else like(moment, 0.0)  # else float64 would have 46 bits
    return *ALL.block_state(m, (total, total_lo), unit), over((moment, moment_lo), unit)[0]


@lanewise
def identity(zero, zero_lo):
    return *ALL.identity(zero, zero_lo), zero


@lanewise
def rescaled(state, m, scale):
    *rest, ones = ALL.rescaled(state[:3], m, scale)
    return *rest, state[3] * online.rescale_factor(state[0], m, scale, state[2])[0], ones


@lanewise
def state_of(m, rest, rest_lo, moment, ones):
    return *ALL.state_of(m, rest, rest_lo, ones), moment * (1.0 / float_format(m.type).up)


MOMENT = ALL.extended(
    sums=(*ALL.sums, "moment"), state=(*ALL.state, "moment"), zero=zero, add=add, closed=closed,
    block_state=block_state, identity=identity, rescaled=rescaled, state_of=state_of,
)  # fmt: skip

TILT = Op(
    "tilt",
    (X, Operand("v"), WHERE, Operand("t", "row"), result(masked=-1.0), row_result("mean")),
    MOMENT,
    Elements(
        of_softmax=True,
        prepare=lanewise(lambda number, state, row: (convert(number, row[0][0]),)),
        finish=lanewise(lambda p, others, prepared, scale: (p * (others[0] - prepared[0]),)),
        numbers=1,
    ),
    rows=lanewise(lambda state, row, scale: ((state[3] * online.share(state)[0],),)),
)


def tilt(x, v, t, axes, *, where=None, scale=None):
    """The results in float64, by definition."""
    x, v, t = (np.asarray(a).astype(np.float64) for a in (x, v, t))
    keep = np.broadcast_to(True if where is None else where, x.shape)
    x = np.where(keep, x * (1.0 if scale is None else scale), -np.inf)
    p = np.exp(x - x.max(axes, keepdims=True))
    p /= p.sum(axes, keepdims=True)
    v = np.where(keep, v, 0.0)
    return np.where(keep, p * (v - np.expand_dims(t, axes)), -1.0), (p * v).sum(axes)
