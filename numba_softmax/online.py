"""The online softmax, stated once; every kernel goes through it.

The numbers ``x`` of a row are summed up by their maximum ``m`` and by the sum
``l`` of ``exp(x - m)`` (M. Milakov and N. Gimelshein, *Online normalizer
calculation for softmax*, arXiv:1805.02867). Rows are folded block by block,
and the states of the parts are merged:

    m = max(m_a, m_b)
    l = l_a exp(m_a - m) + l_b exp(m_b - m)

The maximum's own term in ``l`` is exactly 1. It stays implicit: a state is
``(m, rest, rest_lo)`` with ``l = 1 + rest + rest_lo``, all in float64. So
``log l`` keeps its precision where one element outweighs all others, and two
float64 numbers for the sum keep any number of merges below the rounding of
the result. The state of no numbers at all has ``m = -inf`` and ``l = 0``.

The functions take floats and `Vec` alike, on the CPU and on CUDA. `scale` is None or ``(sign,
factor, factor_lo)``: the row is then ``sign * (factor + factor_lo) * x``, of
which `x` has taken the sign already when it comes here.
"""

import math

from numba import float32

from .expmath import exp_up, exp_wide, fast_two_sum, log1p, narrow_exp_up, two_sum
from .lanewise import element, lanewise
from .simd import divide, exchange, fma, halvings, lane, like, select, widen

INF = math.inf


@lanewise
def identity(zero):
    """The state of an empty row; `zero` is 0 in float64, or a Vec of it."""
    return zero - INF, zero - 1.0, zero


@lanewise
def singleton(x):
    """The state of one number. Of -inf, exp is 0, so that `l` is 0 too."""
    zero = like(x, 0.0)
    return x, select(x == -INF, zero - 1.0, zero), zero


@lanewise
def shift_of(m):
    """The finite number to subtract in place of a maximum of -inf: 0.

    ``-inf - -inf`` would be NaN, where ``exp(-inf)``, a sum of zeros, is meant.
    It costs one comparison a block.
    """
    return select(m == -INF, 0.0, m)


@lanewise
def gap(x, m, scale):
    """``scale * (x - m)`` and the error of its rounding, which is NaN for an infinite gap."""
    d = x - m
    v = d - x
    error = (x - (d - v)) - (v + m)
    if scale is not None:
        _, factor, factor_lo = scale
        scaled = d * factor
        error = fma(error, factor, fma(d, factor_lo, fma(d, factor, -scaled)))
        return scaled, error
    return d, error


@lanewise
def weight(x, m, scale):
    """``up * exp(scale * (x - m))``."""
    return exp_up(*gap(x, m, scale))


@lanewise
def narrow_weight(x, m, scale):
    """`weight`, good for rounding to 16 bits."""
    return narrow_exp_up(gap(x, m, scale)[0])


@lanewise
def widen_scale(scale):
    """The same scale for states, which are in float64."""
    if scale is None:
        return None
    sign, factor, factor_lo = (widen(v) for v in scale)
    total, error = two_sum(factor, factor_lo)
    return sign, total, error


# Sums over the numbers of a block run in each lane with the error of each
# addition added up beside them: `total`, `lost`. They do not wear out however
# long the block, and their order is fixed: lane = position modulo lanes.


@lanewise
def add_weight(total, lost, w):
    """Add `w` to a sum that started with a number no smaller than any weight, and so is never below one."""
    total, error = fast_two_sum(total, w)
    return total, lost + error


@lanewise
def add_other(total, lost, ties, w, x, m):
    """Add `w` to a sum that leaves out the terms of a finite maximum, and count those in `ties`."""
    is_maximum = x == m
    total, error = two_sum(total, select(is_maximum, 0.0, w))
    return total, lost + error, select(is_maximum, ties + 1.0, ties)


@lanewise
def lane_sums(total, lost):
    """A compensated sum in float64, which holds the errors of a float32 sum as well: None is left of those."""
    if element(total.type) == float32:
        return widen(total) + widen(lost), None
    return total, lost


@lanewise
def add_sums(total, lost, other, other_lost):
    """Two sums from `lane_sums` together."""
    if lost is None:
        return total + other, None
    total, error = two_sum(total, other)
    return total, lost + other_lost + error


@lanewise
def sum_lanes(total, lost):
    """The sum over all lanes of a compensated sum, added in halves; in two float64."""
    total, lost = lane_sums(total, lost)
    for step in halvings(total.type.lanes):
        total, lost = add_sums(total, lost, exchange(total, step), None if lost is None else exchange(lost, step))
    total = lane(total, 0)
    return total, like(total, 0.0) if lost is None else lane(lost, 0)


@lanewise
def block_state(m, total, lost, less):
    """The state of a block from the sum of its weights, in two parts, less what stands for the maximum's own term.

    That is 1 where all weights are in the sum. Where the terms of all maxima
    are left out, it is 1 less than their number, with the sign turned.
    """
    rest, error = two_sum(total, -less)
    rest, rest_lo = two_sum(rest, lost + error)
    return m, rest, rest_lo


@lanewise
def merge(a, b, scale):
    """The state of two parts of a row together."""
    m_a, rest_a, lo_a = a
    m_b, rest_b, lo_b = b
    larger = m_a >= m_b
    m, rest, lo = select(larger, m_a, m_b), select(larger, rest_a, rest_b), select(larger, lo_a, lo_b)
    m_s, rest_s, lo_s = select(larger, m_b, m_a), select(larger, rest_b, rest_a), select(larger, lo_b, lo_a)
    part, part_lo = scaled_sum(*sum_of(rest_s, lo_s), *shrinkage(m_s, m, scale))
    rest, error = two_sum(rest, part)
    rest, lo = two_sum(rest, lo + error + part_lo)
    return m, rest, lo


@lanewise
def push(state, x, scale):
    """The state with one more number."""
    return merge(state, singleton(x), scale)


@lanewise
def shrinkage(m_part, m, scale):
    """``exp(scale * (m_part - m))`` in two float64; 1 where they are equal, infinities too."""
    d, error = gap(m_part, m, scale)
    equal = m_part == m
    return exp_wide(select(equal, 0.0, d), select(equal, 0.0, error))


@lanewise
def scaled_sum(l, l_lo, f, f_lo):
    """``(l + l_lo) * (f + f_lo)``, as a sum of two."""
    product = l * f
    return product, fma(l, f, -product) + fma(l, f_lo, l_lo * f)


@lanewise
def sum_of(rest, rest_lo):
    """``l = 1 + rest``, as a sum of two."""
    l, error = two_sum(like(rest, 1.0), rest)
    return l, error + rest_lo


@lanewise
def share(shrink, state):
    """``exp(m_part - m) / l`` in two float64: what turns the weights of a part into softmax.

    `shrink` is the part's `shrinkage`; None for 1.
    """
    _, rest, rest_lo = state
    l, l_lo = sum_of(rest, rest_lo)
    f, f_lo = (like(l, 1.0), like(l, 0.0)) if shrink is None else shrink
    q = divide(f, l)
    return q, divide(fma(-q, l, f) + fma(-q, l_lo, f_lo), l)


@lanewise
def log_sum(state):
    """``log l``, precise also where `l` is nearly 1."""
    _, rest, rest_lo = state
    return log1p(rest) + select(rest > -1.0, divide(rest_lo, 1.0 + rest), 0.0)
