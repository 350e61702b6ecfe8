"""Weights, ``exp(x - m)`` of the elements ``x`` of a block with the maximum ``m``, and their sums.

All weights of a block are times `unit`, near 1, and times `up`, a power of two: see
`numba_softmax.expmath`. `scale` is None or ``(sign, factor, factor_lo)``: the row is then
``sign * (factor + factor_lo) * x``, of which `x` has taken the sign already when it comes here.
"""

from collections.abc import Callable
from typing import NamedTuple

from . import kernel_code
from .expmath import FAR, INF, excess, exp_parts, float_format, narrow_exp, rounded, top_of
from .lanewise import lanewise
from .pairs import add, over, two_sum
from .simd import fma, like, maximum, select, splat, widen

kernel_code.register()

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
# To that comes the error of the unit, against which they count: 0.03.
#
# These worst cases do not meet. `python tests/adverse.py` goes through all elements
# down to 3 below some maxima, and finds at most 0.26 for parts and 1.22 for numbers, with
# that of their units; tests hold samples from farther down to the same.
# Sums take the parts, so equal weights, whose errors do not cancel, are off by that
# 0.26 at most; compensation, merging and the share add less than 0.01. A result is a
# number times a share, rounded once: in units in its last place it errs by
#
#     0.5 + (1.22 + 0.26 + 0.01) * significand / 2 < 2    for a significand below 2.
#
# By the steps alone it would be 2.14: that their worst cases do not meet is searched, not proved.
# Were rounded weights summed, that would be 2.9, and rows with 2.7 are easily found
# (`tests/test_accuracy_adverse.py` looks for them). float64 has the same steps in its
# own units, and five more terms of q.


@lanewise
def shift_of(m):
    """The finite number to subtract in place of a maximum of -inf: 0.

    ``-inf - -inf`` would be NaN, where ``exp(-inf)``, a sum of zeros, is meant.
    It costs one comparison a block.
    """
    return select(m == -INF, 0.0, m)


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
def frame_of_others(m, scale):
    """`frame_of`, where the weight of `m` itself does not matter: that saves two instructions a weight."""
    (base, top), unit = frame_of(m, scale)
    return (base, (*top[:-1], None)), unit


@lanewise
def weigh(x, frame, scale):
    """``up * unit * exp(scale * (x - m))`` for the `frame_of` `m`, in the parts that `Fold.add` takes."""
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


# ------------------------------------------------------------------------------ sums


class Fold(NamedTuple):
    """A way to sum the weights of a block, lane by lane: functions on ``(total, lost, ties)``.

    `lost` is the sum of the errors of all additions to `total`, so that sums do not wear out
    however long the block. Their order is fixed: lane = position modulo lanes.
    """

    frame_of: Callable  # (m, scale) -> the frame of a block for `weigh`, and the weights' unit
    zero: Callable  # (v, number) -> the sums of nothing, of the type v; of the number only its type counts
    add: Callable  # (sums, parts, x, m) -> the sums with the weight of x, in parts or one; m is the block's maximum
    closed: Callable  # (sums) -> the sums as numbers that can be added to those of other lanes
    less: Callable  # (m, ties) -> what the total has too much to be the sum of all weights but one of the maximum


def _start(v):
    """The number that sums of all weights start with: no weight is larger, so additions lose nothing but `lost`."""
    return 2.0 * float_format(v).up


@lanewise
def zero_of_all(v, number):
    """No weights."""
    return splat(v, like(number, _start(v))), splat(v, like(number, 0.0)), None


@lanewise
def add_to_all(sums, parts, x, m):
    """One more weight."""
    total, lost, _ = sums
    grown = total + rounded(parts)
    return grown, lost + excess(parts, grown - total), None


@lanewise
def closed_all(sums):
    """The sums less what they started with."""
    total, lost, _ = sums
    total, error = two_sum(total, like(total, -_start(total.type)))
    return total, lost + error, None


@lanewise
def single_of_all(parts):
    """The closed sum of one weight."""
    w = rounded(parts)
    start = like(w, _start(w.type))
    taken = (start + w) - start
    return taken, excess(parts, taken), None


@lanewise
def less_of_all(m, ties):
    """The maximum's own term."""
    return like(m, 1.0)


@lanewise
def zero_of_others(v, number):
    """No weights."""
    zero = splat(v, like(number, 0.0))
    return zero, zero, zero


@lanewise
def add_to_others(sums, parts, x, m):
    """One more weight or, of a finite maximum, one more tie."""
    total, lost, ties = sums
    is_maximum = x == m
    grown = total + select(is_maximum, 0.0, rounded(parts))
    taken = grown - total
    error = (total - (grown - taken)) + select(is_maximum, 0.0, excess(parts, taken))
    return grown, lost + error, select(is_maximum, ties + 1.0, ties)


@lanewise
def as_they_are(sums):
    """The sums."""
    return sums


@lanewise
def less_of_others(m, ties):
    """One of the ties, of which none is in the sum."""
    return 1.0 - ties


@lanewise
def zero_of_few(v, number):
    """No weights."""
    zero = splat(v, like(number, 0.0))
    return zero, None, None


@lanewise
def add_to_few(sums, w, x, m):
    """One more weight."""
    return sums[0] + w, None, None


ALL = Fold(frame_of, zero_of_all, add_to_all, closed_all, less_of_all)
"""All weights are in the sum."""

OTHERS = Fold(frame_of_others, zero_of_others, add_to_others, as_they_are, less_of_others)
"""The maxima's are counted, as `ties`: so the logarithm keeps its precision where one element outweighs all others."""

FEW = Fold(narrow_frame_of, zero_of_few, add_to_few, as_they_are, less_of_all)
"""All weights, without the additions' errors: enough for the few dozen of a thread and results of 16 bits. A weight is
one number, not parts."""


@lanewise
def block_state(m, total, less, unit):
    """The state of a block from its sums, which have two parts or one, and come without `up`."""
    return m, *add(*over(total, unit), -less, None if total[1] is None else like(less, 0.0))
