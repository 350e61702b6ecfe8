"""Weights, ``exp(x - m)`` of the elements ``x`` of a block with the maximum ``m``.

All weights of a block are times `unit`, near 1, and times `up`, a power of two: see
`numba_softmax.math.expmath`. `scale` is None or ``(sign, factor, factor_lo)``: the row is then
``sign * (factor + factor_lo) * x``, of which `x` has taken the sign already when it comes here.
"""

from .. import kernel_code
from .expmath import FAR, INF, exp_parts, float_format, narrow_exp, top_of
from .lanewise import lanewise
from .pairs import add, in_two_parts, over, product_less, times, two_sum
from .simd import fma, has_fma, like, maximum, select, widen

kernel_code.register()

# The error of softmax in float32, in units of 2**-24, relative to the quantity in question:
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
# The error of the unit, which they are relative to, adds 0.03.
#
# These worst cases do not coincide. `python tests/adverse.py` goes through all elements
# down to 3 below some maxima, and finds at most 0.26 for parts and 1.22 for numbers, the error
# of their units included; tests check samples from farther down against the same bounds.
# Sums take the parts, so equal weights, whose errors do not cancel, are off by that
# 0.26 at most; compensation, merging and the share add less than 0.01. A result is a
# number times a share, rounded once: its error, in units in its last place, is
#
#     0.5 + (1.22 + 0.26 + 0.01) * significand / 2 < 2    for a significand below 2.
#
# The table alone gives 2.14: that the worst cases do not coincide was found by search, not proved.
# If rounded weights were summed, that would be 2.9, and rows with 2.7 are easily found
# (`tests/test_accuracy_adverse.py` looks for them). float64 has the same steps in its
# own units, and five more terms of q.


@lanewise
def shift_of(m):
    """The number to subtract from elements: the maximum `m`, but 0 in place of -inf.

    ``-inf - -inf`` would be NaN, where ``exp(-inf)``, a sum of zeros, is meant.
    It costs one comparison a block.
    """
    return select(m == -INF, 0.0, m)


@lanewise
def frame_of(m, scale):
    """The frame ``(base, top)`` for `weigh`, from a block's maximum `m`; and its unit, the weight of `m` over `up`.

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
    """`frame_of` for use where the weight of `m` itself does not matter: this saves two instructions a weight."""
    (base, top), unit = frame_of(m, scale)
    return (base, (*top[:-1], None)), unit


@lanewise
def weigh(x, frame, scale):
    """``up * unit * exp(scale * (x - m))`` for the `frame_of` `m`, in the parts that `folds.Fold.add` takes."""
    base, top = frame
    return exp_parts(*_times_scale(x - base, None, scale), top)


@lanewise
def narrow_frame_of(m, scale):
    """The frame for `narrow_weigh`, from the maximum `m` of a block; and None, which stands for a unit of 1."""
    return (shift_of(m),), None


@lanewise
def narrow_gap(x, frame, scale):
    """``scale * (x - m)``, rounded twice."""
    return _times_scale(x - frame[0], None, scale)[0]


@lanewise
def narrow_weigh(x, frame, scale):
    """The weight of `x` in one part, with a relative error of ``2**-17``, or ``2**-19`` if it is above ``2**-25``.

    That suffices for rounding to 16 bits: neither the rounding of ``x - m`` nor that of ln2 matters then.
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
    """``scale * (d + error)`` and the error of its rounding; an `error` of None is 0, and stays None without a scale.

    An element of -inf has no weight even under a scale of 0, as under the smallest scale above 0.
    """
    if scale is None:
        return d, error
    _, factor, factor_lo = scale
    scaled = select(d == -INF, -INF, d * factor)
    rounding = fma(d, factor_lo, fma(d, factor, -scaled))
    return scaled, rounding if error is None else fma(error, factor, rounding)


# ------------------------------------------------------------------------------ softmax of weights


@lanewise
def block_state(m, total, less, unit):
    """The state of a block from its sum, in two parts or one, which comes without `up`.

    `less` is 1 if the sum includes the maximum's term, else 1 minus the number of maxima that were left out.
    """
    return m, *add(*over(total, unit), -less, None if total[1] is None else like(less, 0.0))


@lanewise
def factor_of(number, share):
    """The factor, in two parts, that makes softmax of weights, from their sum's share; it takes off their `up`, too."""
    return in_two_parts(number, times(share, 1.0 / float_format(number).up))


@lanewise
def softmax_of(w, hi, lo):
    """Softmax from weights and their `factor_of`; without its low part, precise enough for rounding to 16 bits."""
    if lo is None:
        return w * hi
    if has_fma(w):
        return fma(w, hi, w * lo)
    p = w * hi
    return p + (product_less(w, hi, p) + w * lo)
