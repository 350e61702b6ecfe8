"""The online softmax, stated once; every kernel goes through it.

The numbers ``x`` of a row are summed up by their maximum ``m`` and by the sum
``l`` of ``exp(x - m)`` (M. Milakov and N. Gimelshein, *Online normalizer
calculation for softmax*, arXiv:1805.02867). Rows are folded block by block,
and the states of the parts are merged:

    m = max(m_a, m_b)
    l = l_a exp(m_a - m) + l_b exp(m_b - m)

The maximum's own term in ``l`` is exactly 1. It stays implicit: a state is
``(m, rest, rest_lo)`` with ``l = 1 + rest + rest_lo``. So
``log l`` keeps its precision where one element outweighs all others. Two
numbers for the sum keep any number of merges below the rounding of the result;
where the state is in float64 and the row in float32, as on the CPU, one is
enough, and ``rest_lo`` is None. The state of no numbers at all has ``m = -inf`` and ``l = 0``.

`push` says the same for one number; the kernels fold blocks instead. Kernels of
users have plain states, ``(m, l)``. The functions take floats and `Vec` alike, on
the CPU and on CUDA. `scale` is None or ``(sign,
factor, factor_lo)``: the row is then ``sign * (factor + factor_lo) * x``, of
which `x` has taken the sign already when it comes here.
"""

import math

from numba import float32

from . import kernel_code
from .expmath import FAR, excess, exp_pair, exp_parts, float_format, log1p, narrow_exp, rounded, top_of, two_sum
from .lanewise import element, lanewise
from .simd import convert, divide, exchange, fma, halvings, lane, like, maximum, select, splat, widen

kernel_code.register()

INF = math.inf


@lanewise
def identity(zero, zero_lo):
    """The state of an empty row; `zero` is 0 in float64, or a Vec of it, and `zero_lo` too, or None."""
    return zero - INF, zero - 1.0, zero_lo


@lanewise
def singleton(x, zero_lo):
    """The state of one number. Of -inf, exp is 0, so that `l` is 0 too."""
    zero = like(x, 0.0)
    return x, select(x == -INF, zero - 1.0, zero), zero_lo


@lanewise
def shift_of(m):
    """The finite number to subtract in place of a maximum of -inf: 0.

    ``-inf - -inf`` would be NaN, where ``exp(-inf)``, a sum of zeros, is meant.
    It costs one comparison a block.
    """
    return select(m == -INF, 0.0, m)


# ------------------------------------------------------------- weights of a block

# The error of softmax in float32. In units of 2**-24, relative to what errs:
#
# A weight is power * (1 + head + tail); power and head are exact, and with
# t = exp(f) - 1 each rounding adds at most
#                                                      at f = -ln2/2   at f = ln2/2
#     f = head + rest   1/4, times t: head is exact        0.07           0.10
#     f * f             1/16, times q(f)                   0.03           0.04
#     q(f)              1/4, 1/2 from q = 1/2 on; f**2     0.03           0.06
#     tail              1/32, 1/16 from 1/16 on            0.03           0.06
#     all of it over 1 + t                                 0.23           0.19
#     fit of q                                             0.01           0.08
#     -> parts                                             0.24           0.27
#     head + tail       1/4 from 1/4 on                    0.35           0.18
#     the weight        1/2 below 1, 1 from 1 on           0.71           0.71
#     -> one number                                        1.30           1.16
#
# These worst cases do not meet. `python tests/adverse.py` goes through all elements
# down to 3 below some maxima, and finds at most 0.25 for parts and 1.19 for numbers;
# tests hold samples from farther down to 0.25 and 1.21.
# Sums take the parts, so equal weights, whose errors do not cancel, are off by that
# 0.25 at most; a block's unit, by which it is merged with others, adds 0.03, and
# compensation, merging and the share less than 0.01. A result is a number times a
# share, rounded once: in units in its last place it errs by
#
#     0.5 + (1.21 + 0.25 + 0.03 + 0.01) * significand / 2 < 2    for a significand below 2.
#
# By the steps alone it would be 2.11: that their worst cases do not meet is searched, not proved.
# Were rounded weights summed, that would be 2.9, and rows with 2.7 are easily found
# (`tests/test_accuracy_adverse.py` looks for them). float64 has the same steps in its
# own units, and five more terms of q.


@lanewise
def frame_of(m, scale):
    """The frame that `weigh` takes, of the maximum `m` of a block: ``(base, top)``; and the weight of `m` over `up`.

    `base` is subtracted from the elements: 0 or, beyond `FAR`, the maximum; there,
    ``x - m`` is exact for every `x` that has a weight.
    """
    shift = shift_of(m)
    reach = shift if scale is None else shift * scale[1]
    far = maximum(reach, -reach) > FAR
    top, unit = top_of(*_times_scale(select(far, 0.0, shift), None, scale))
    return (select(far, shift, 0.0), top), unit


@lanewise
def weigh(x, frame, scale):
    """``up * unit * exp(scale * (x - m))`` for the `frame_of` `m`, in the parts that `add_weight` takes."""
    base, top = frame
    return exp_parts(*_times_scale(x - base, None, scale), top)


@lanewise
def narrow_frame_of(m, scale):
    """The frame that `narrow_weigh` takes, of the maximum `m` of a block, and None for a unit of 1."""
    return (shift_of(m),), None


@lanewise
def narrow_gap(x, frame, scale):
    """``scale * (x - m)``, rounded twice."""
    return _times_scale(x - frame[0], None, scale)[0]


@lanewise
def narrow_weigh(x, frame, scale):
    """`weigh`, in one part, with a relative error of ``2**-17``, or ``2**-19`` where it is above ``2**-25``.

    That is good for rounding to 16 bits: neither the rounding of ``x - m`` nor that of ln2 matters then.
    """
    return narrow_exp(narrow_gap(x, frame, scale))


def _times_scale(d, error, scale):
    """``scale * (d + error)`` and its rounding's error; an `error` of None is 0, and stays None without a scale.

    An element of -inf has no weight under a scale of 0 either, as under the smallest one above it.
    """
    if scale is None:
        return d, error
    _, factor, factor_lo = scale
    scaled = select(d == -INF, -INF, d * factor)
    rounding = fma(d, factor_lo, fma(d, factor, -scaled))
    return scaled, rounding if error is None else fma(error, factor, rounding)


@lanewise
def gap(x, m, scale):
    """``scale * (x - m)`` and the error of its rounding, which is NaN for an infinite gap."""
    d = x - m
    v = d - x
    error = (x - (d - v)) - (v + m)
    return _times_scale(d, error, scale)


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
def add_weight(total, lost, parts):
    """Add a weight to a sum that started with a number no smaller than any weight, and so is never below one."""
    grown = total + rounded(parts)
    return grown, lost + excess(parts, grown - total)


@lanewise
def single_weight(parts, start):
    """The sum that `add_weight` makes of `start` and one weight, less `start`."""
    taken = (start + rounded(parts)) - start
    return taken, excess(parts, taken)


@lanewise
def add_other(total, lost, ties, parts, x, m):
    """Add a weight to a sum that leaves out the terms of a finite maximum, and count those in `ties`."""
    is_maximum = x == m
    grown = total + select(is_maximum, 0.0, rounded(parts))
    taken = grown - total
    error = (total - (grown - taken)) + select(is_maximum, 0.0, excess(parts, taken))
    return grown, lost + error, select(is_maximum, ties + 1.0, ties)


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
    """The sum over all lanes of a compensated sum, added in halves; in float64, in two parts or one."""
    total, lost = lane_sums(total, lost)
    for step in halvings(total.type.lanes):
        total, lost = add_sums(total, lost, exchange(total, step), None if lost is None else exchange(lost, step))
    return lane(total, 0), None if lost is None else lane(lost, 0)


@lanewise
def times(pair, power):
    """A number of two parts or one, times a power of two."""
    return tuple(None if part is None else part * power for part in pair)


# ------------------------------------------------------------------------- states


@lanewise
def block_state(m, total, less, unit):
    """The state of a block from the sum of its weights, in two parts or one, less what stands for the maximum's term.

    That is 1 where all weights are in the sum. Where the terms of all maxima
    are left out, it is 1 less than their number, with the sign turned. `unit`
    comes with the frame that the weights were taken in.
    """
    return m, *add(*over(total, unit), -less, None if total[1] is None else like(less, 0.0))


@lanewise
def merge(a, b, scale):
    """The state of two parts of a row together."""
    (m, rest, rest_lo), (m_s, rest_s, lo_s) = larger_first(a, b)
    small = product(sum_of(rest_s, lo_s), shrinkage(m_s, m, scale, lo_s))
    return m, *add(rest, rest_lo, *times(small, 1.0 / float_format(m.type).up))


def larger_first(a, b):
    """Two states, the one with the larger maximum first; where one maximum is NaN, the second one."""
    larger = a[0] >= b[0]
    return (
        tuple(None if x is None else select(larger, x, y) for x, y in zip(a, b, strict=True)),
        tuple(None if x is None else select(larger, y, x) for x, y in zip(a, b, strict=True)),
    )


@lanewise
def merge_lanes(state, scale):
    """The state of all lanes' states together, merged in halves: in every lane.

    It is that of lane 0: where maxima are equal, the order decides the last bits, and other lanes have another.
    """
    for step in halvings(state[0].type.lanes):
        state = merge(state, tuple(None if part is None else exchange(part, step) for part in state), scale)
    return tuple(None if part is None else splat(part.type, lane(part, 0)) for part in state)


@lanewise
def against(state, m, scale):
    """What a state adds to the sum of a row whose maximum is `m`: two numbers or one, and the maxima's own 1 apart.

    So any number of states are merged with one exponential each: the results
    are added up, and `joined` makes a state of them. The former are times `up`,
    so that many far parts lose nothing to underflow.
    """
    m_part, rest, rest_lo = state
    up = float_format(m.type).up
    small, small_lo = product(sum_of(rest, rest_lo), shrinkage(m_part, m, scale, rest_lo))
    own = m_part == m
    return (
        select(own, rest * up, small),
        None if rest_lo is None else select(own, rest_lo * up, small_lo),
        select(own, like(rest, 1.0), 0.0),
    )


@lanewise
def joined(m, total, total_lo, ones):
    """The state of all states whose `against` were added up; one of the maxima's terms is implicit."""
    total, total_lo = times((total, total_lo), 1.0 / float_format(m.type).up)
    return m, *add(total, total_lo, ones - 1.0, None if total_lo is None else like(ones, 0.0))


@lanewise
def push(state, x, scale):
    """The state with one more number."""
    return merge(state, singleton(x, None if state[2] is None else like(x, 0.0)), scale)


def add(a, a_lo, b, b_lo):
    """The sum of two numbers of two parts each or, with None for the low ones, of one."""
    if a_lo is None:
        return a + b, None
    s, error = two_sum(a, b)
    return two_sum(s, a_lo + error + b_lo)


def product(a, b):
    """The product of two numbers of two parts each or, with None for the low ones, of one."""
    (a, a_lo), (b, b_lo) = a, b
    p = a * b
    return p, None if a_lo is None else fma(a, b, -p) + fma(a, b_lo, a_lo * b)


@lanewise
def over(pair, unit):
    """A number of two parts or one, divided by a number which may be of a narrower type; by 1 if that is None."""
    a, a_lo = pair
    if unit is None:
        return pair
    unit = convert(a.type, unit)
    if a_lo is None:
        return a * inverse(unit, None)[0], None
    down = divide(1.0, unit)
    q = a * down
    return q, (fma(-q, unit, a) + a_lo) * down


def sum_of(rest, rest_lo):
    """``l = 1 + rest``, in as many parts."""
    if rest_lo is None:
        return 1.0 + rest, None
    l, error = two_sum(like(rest, 1.0), rest)
    return l, error + rest_lo


@lanewise
def shrinkage(m_part, m, scale, zero_lo):
    """``up * exp(scale * (m_part - m))``, in two parts or, as `zero_lo`, in one; `up` for equal infinities too.

    Of a factor below the normal numbers there would be few bits left, where a sum of many terms is multiplied by it.
    """
    d, error = gap(m_part, m, scale)
    equal = m_part == m
    d, error = select(equal, 0.0, d), select(equal, 0.0, error)
    return exp_pair(d, None if zero_lo is None else error)


# A plain state is (m, l), for kernels of users: what can be read and made by hand, and where `l` may be any weight.
# It is in one number type, and log l has the precision of l, also where that is nearly 1. The empty one is (-inf, 0).


@lanewise
def plain_push(state, x):
    """The plain state with one more number. Of -inf, exp is 0."""
    return plain_merge(state, (x, select(x == -INF, 0.0, like(x, 1.0))))


@lanewise
def plain_merge(a, b):
    """The plain state of two parts of a row together."""
    (m, l), (m_small, l_small) = larger_first(a, b)
    return m, l + plain_against((m_small, l_small), m)


@lanewise
def plain_against(state, m):
    """What a plain state adds to the sum of a row whose maximum is `m`: ``l exp(m_part - m)``.

    The factor `up` is taken off a large `l` before, so that nothing overflows,
    and off a small one's product, so that nothing is lost to underflow.
    """
    m_part, l = state
    factor, _ = shrinkage(m_part, m, None, None)
    large, down = l > 1.0, 1.0 / float_format(m.type).up
    return select(large, l * down, l) * factor * select(large, like(l, 1.0), down)


FAR_BELOW = 2.0**-20
"""Parts of a row that shrink to less are weighed against the row's maximum: a product with so small a factor could
lose digits to underflow."""


@lanewise
def shared(m_part, state, scale):
    """The maximum to weigh the elements of a part of a row against, and `unit` times what makes softmax of the weights.

    `m_part` is the part's own maximum; the second result has two parts or one.
    """
    m, _, rest_lo = state
    factor, factor_lo = times(shrinkage(m_part, m, scale, rest_lo), 1.0 / float_format(m.type).up)
    near = factor >= FAR_BELOW
    factor = select(near, factor, 1.0), None if rest_lo is None else select(near, factor_lo, 0.0)
    return select(near, m_part, m), product(factor, share(state))


@lanewise
def settled(state):
    """The state of a row that is complete: NaN if its maximum is infinite, for its softmax is NaN then."""
    m, rest, rest_lo = state
    return m, rest + (m - m), rest_lo


@lanewise
def share(state):
    """What makes softmax of weights that were taken against the row's maximum, times `unit`: ``1 / l``."""
    return inverse(*sum_of(state[1], state[2]))


@lanewise
def inverse(l, l_lo):
    """``1 / l`` of a number of two parts or one, in as many."""
    if l_lo is not None:
        q = divide(1.0, l)
        return q, (fma(-q, l, 1.0) - q * l_lo) * q
    if element(l.type) == float32:
        return divide(1.0, l), None
    # A division in float32 and a step of Newton's: float64 divisions take several times as long, and 2**-46 will do.
    q = widen(divide(1.0, convert(float32, l)))
    return fma(q, fma(-q, l, 1.0), q), None


@lanewise
def log_sum(state):
    """``log l``, precise also where `l` is nearly 1."""
    _, rest, rest_lo = state
    log_l = log1p(rest)
    return log_l if rest_lo is None else log_l + select(rest > -1.0, divide(rest_lo, 1.0 + rest), 0.0)


@lanewise
def in_two_parts(number, pair):
    """A number of one or two parts as two numbers of the same type, or of a narrower one."""
    q, q_lo = pair
    if element(q.type) == element(number):
        return q, like(q, 0.0) if q_lo is None else q_lo
    hi = convert(number, q)
    rest = q - widen(hi)
    return hi, convert(number, rest if q_lo is None else rest + q_lo)
