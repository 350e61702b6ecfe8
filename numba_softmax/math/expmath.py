"""The exponentials of softmax, and logarithms, on floats and on `Vec`.

Method: ``d = n ln2 + f`` with ``n`` an integer and ``|f| <= ln2 / 2``; then
``exp(d) = 2**n (1 + f + f**2 q(f))`` with a polynomial `q` (after W. J. Cody
and W. Waite, *Software Manual for the Elementary Functions*, 1980). `q` is a
minimax fit of the relative error, so its coefficients are not quite Taylor's. In
float32 the fit weights errors six times below -0.285, where roundings matter most.

Softmax needs ``exp(d - m)``, where `m` is the largest `d`. No such difference is
formed, so nothing is lost to its rounding: `d` is reduced by itself, and the
integers of `d` and `m` are subtracted. The remaining factor of `m`, ``exp(m)`` over a
power of two, stays in all exponentials as their `unit`. A shift of less than a
rounding makes `unit` a float; the maximum's own exponential is then exactly that.

An exponential comes in parts, ``power * (1 + head + tail)``: `head` is exact,
`tail` small, so a sum that takes the parts has a fraction of the error that
rounding them to one number would add. The bound of the error of softmax that
follows is derived in `numba_softmax.math.weights`.

Bulk results are multiplied by `up`, a power of two: every result of exp down to
the smallest subnormal is then a normal number, at no cost. The multiplication that
follows takes the factor off.
"""

import math
from typing import NamedTuple

from numba.core import types

from .. import kernel_code
from .lanewise import element, lanewise, with_element
from .pairs import fast_two_sum, product_less, two_sum
from .simd import bitcast, fma, has_fma, is_on_cuda, lane_by_lane, like, maximum, select

kernel_code.register()

LOG2_E = 1.4426950408889634
LN2 = 0.6931471805599453
INF = math.inf


class FloatFormat(NamedTuple):
    """The constants of exp for a float format."""

    integer: types.Type
    mantissa_bits: int
    up: float  # the factor of bulk results
    magic: float  # added to a number, leaves its nearest integer in the low bits, as the exponent of a power times `up`
    floor: int  # the exponent of the power of two below which exp is taken for 0
    ln2: tuple[float, float]  # with a fused multiply-add
    short_ln2: tuple[float, float, float]  # without it: all but the last are short, so that their multiples are exact
    q: tuple[float, ...]
    wide_terms: int  # the number of coefficients of WIDE_Q that matter


# `magic` adds an even number to 1.5 * 2**k: without a fused multiply-add, a product with LOG2_E
# can lie halfway between integers, and is rounded to the same one whichever even number is added.
FLOAT32 = FloatFormat(
    types.int32, 23, 2.0**63, 1.5 * 2**23 + 127 + 63, -(127 + 63),
    (0.6931471824645996, -1.9046542121259336e-09),
    (0.693359375, -0.0002117156982421875, -4.787418106388941e-07),
    (0.4999997615814209, 0.1666652113199234, 0.04167313128709793, 0.008368637412786484, 0.0013529035495594144),
    6,
)  # fmt: skip
FLOAT64 = FloatFormat(
    types.int64, 52, 2.0**63, 1.5 * 2**52 + 1023 + 63, -(1023 + 63),
    (0.6931471805599453, 2.3190468138462996e-17),
    (0.6931471805582987, 1.6465949582866463e-12, 3.061840736018652e-24),
    (0.5000000000000011, 0.1666666666666641, 0.04166666666653003, 0.008333333333496414,
     0.0013888888943686539, 0.0001984126950255551, 2.480149302025785e-05, 2.755758980603078e-06,
     2.763028271297853e-07, 2.499902986850977e-08),
    10,
)  # fmt: skip

FAR = 2.0**13
"""Numbers up to this magnitude are reduced without losing digits."""

# For results that are then rounded to 16 bits: relative error 2**-23.
NARROW_FLOOR = -128.0
NARROW_Q = (0.4999923014147799, 0.16667115307050679, 0.0418903491365635, 0.00831251375044244)

# (exp(f) - 1 - f - f**2 / 2) / f**3, accurate enough for a relative error of exp of 2**-63.
WIDE_Q = (
    0.1666666666666668, 0.041666666666666415, 0.008333333333318463, 0.0013888888889033067,
    0.0001984126989349916, 2.480158702598187e-05, 2.755723729955805e-06, 2.755752567219817e-07,
    2.5111300045190497e-08, 2.0838692995333373e-09,
)  # fmt: skip


def float_format(v: types.Type) -> FloatFormat:
    """The format of a number type's elements."""
    return {types.float32: FLOAT32, types.float64: FLOAT64}[element(v)]


def polynomial(x, coefficients):
    """The polynomial with these coefficients, lowest power first, by Horner's rule."""
    result = like(x, coefficients[-1])
    for c in coefficients[-2::-1]:
        result = fma(result, x, c)
    return result


@lanewise
def top_of(m, error):
    """The number ``m + error``, reduced for `exp_parts`, and the `unit`; `error` is as in `exp_parts`.

    The caller may replace the last part by None if no `d` is `m`, or if the exponential of `m` does not matter.
    """
    fmt = float_format(m.type)
    magic = fmt.magic + fmt.floor
    n = fma(m, LOG2_E, magic) - magic
    head, rest = _reduced(m, error, n)
    unit, lo = _exp_near_0(*two_sum(head, rest), fmt)
    shift = -lo * polynomial(head, (1.0, -1.0, 0.5, -1 / 6))  # that is -lo / unit
    tail_of_m = (unit - 1.0) - head  # exactly: all three are multiples of the last place of one of them
    return ((n + fmt.floor) * LN2, fmt.magic - n, shift, m, error, tail_of_m), unit


@lanewise
def exp_parts(d, error, top):
    """The parts of ``up * unit * exp(d + error - m)``, with `top` from `top_of`; those of 0 below the format's floor.

    They are ``(power, head, tail)`` and stand for ``power * (1 + head + tail)``, which is
    NaN where `d` is, and exactly ``up * unit`` where `d` is `m`. `error` is None or at
    most half a unit in the last place of `d`. `m` is within `FAR`, so any `d` that counts is hardly beyond it.
    """
    low, magic, shift, m, m_error, tail_of_m = top
    fmt = float_format(d.type)
    is_m = d == m if error is None else (d == m) & (error == m_error)
    if error is not None:
        error = select(d < low, 0.0, error)
    d = maximum(low, d)
    t = fma(d, LOG2_E, magic)
    head, rest = _reduced(d, shift if error is None else shift + error, t - magic)
    f = head + rest
    tail = fma(f * f, polynomial(f, fmt.q), rest)
    return _power(t, fmt), head, tail if tail_of_m is None else select(is_m, tail_of_m, tail)


def _reduced(d, more, n):
    """``d + more - n ln2`` for the nearest `n`, as an exact number plus a small one; `more` may be None."""
    fmt = float_format(d.type)
    *short, last = fmt.ln2 if has_fma(d) else fmt.short_ln2
    for part in short:
        d = fma(n, -part, d)
    return d, n * -last if more is None else fma(n, -last, more)


@lanewise
def rounded(parts):
    """The parts from `exp_parts`, rounded to one number; a number is returned as it is."""
    if not isinstance(parts, tuple):
        return parts
    power, head, tail = parts
    return fma(power, head + tail, power)


@lanewise
def excess(parts, number):
    """The value of the parts minus `number`, which is near that value or far larger than all parts."""
    if not isinstance(parts, tuple):
        return parts - number
    power, head, tail = parts
    return fma(power, tail, fma(power, head, power - number))


@lanewise
def narrow_exp(d):
    """``up * exp(d)`` for ``d <= 0`` with a relative error of ``2**-21``: good for rounding to 16 bits."""
    fmt = float_format(d.type)
    t = fma(d, LOG2_E, fmt.magic)
    f = fma(t - fmt.magic, -LN2, d)
    return select(d < NARROW_FLOOR, 0.0, polynomial(f, (1.0, 1.0, *NARROW_Q)) * _power(t, fmt))


def _power(t, fmt):
    """``up * 2**n`` from ``n + magic``."""
    return bitcast(t.type, bitcast(with_element(t.type, fmt.integer), t) << fmt.mantissa_bits)


@lanewise
def exp_pair(d, error):
    """``up * exp(d + error)`` for ``d <= 0``, in two parts with at least 58 correct bits together, or 28 in float32.

    If `error` is None, one part and None.
    """
    fmt = float_format(d.type)
    none = d < fmt.floor * LN2
    t = fma(d, LOG2_E, fmt.magic)
    head, rest = _reduced(d, error, t - fmt.magic)
    power = _power(t, fmt)
    if error is None:
        return select(none, 0.0, polynomial(head + rest, (1.0, 1.0, *fmt.q)) * power), None
    hi, lo = _exp_near_0(*two_sum(head, rest), fmt)
    return select(none, 0.0, hi * power), select(none, 0.0, lo * power)


def _exp_near_0(f, f_lo, fmt):
    """``exp(f + f_lo)`` for ``|f| <= ln2 / 2``, in two parts as in `exp_pair`."""
    square = f * f
    square_lo = product_less(f, f, square)
    s, s_lo = fast_two_sum(like(f, 1.0), f)
    s, lost = fast_two_sum(s, square * 0.5)
    tail = fma(f_lo, s, fma(square_lo, 0.5, s_lo + lost)) + f * square * polynomial(f, WIDE_Q[: fmt.wide_terms])
    return fast_two_sum(s, tail)


@lanewise
def log1p(x):
    """``log(1 + x)`` by the C library or, on CUDA, libdevice, lane by lane."""
    return _by_library("log1p", x)


@lanewise
def log(x):
    """``log(x)``, computed as `log1p` is."""
    return _by_library("log", x)


def _by_library(function, x):
    suffix = "" if element(x.type) == types.float64 else "f"
    return lane_by_lane(("__nv_" if is_on_cuda(x) else "") + function + suffix, x)
