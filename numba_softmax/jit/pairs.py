"""Numbers of two float64 parts, ``hi + lo``, and their exponentials and logarithms, on floats and on `Vec`."""

from __future__ import annotations

from fractions import Fraction
from math import factorial

from numba.core import types

from ..math.expmath import FLOAT64, INF, LOG2_E, log1p, polynomial
from ..math.lanewise import lanewise, with_element
from ..math.pairs import fast_two_sum, two_product, two_sum
from ..math.simd import bitcast, convert, divide, fma, like, maximum, select

LN2 = 0.6931471805582987, 1.6465949582866463e-12, 3.061840736018652e-24
"""ln2 in three parts. The first two have 39 bits each, so that their products with integers of 14 bits are exact."""

FAR = 2.0**12
"""If the element of the largest term is beyond this, it is subtracted from all elements. A nearer one is not, since the
result may be far smaller than it is. A farther one may be: no sum of two parts is so small that the result is half of
it or less."""

_EXPONENT_BITS = 0x7FF << 52
_TINY = 2.0**-1022
_MAGIC = 1.5 * 2.0**52
"""Added to a number, leaves its nearest integer in the low bits."""


def _in_two_parts(number: Fraction) -> tuple[float, float]:
    hi = float(number)
    return hi, float(number - Fraction(hi))


_TAYLOR = [_in_two_parts(Fraction(1, factorial(k))) for k in range(24)]
_PAIRS = 14
"""From this power on, the terms of Taylor's series are so small that one part is enough."""


@lanewise
def magnitude(v):
    """The absolute value."""
    return maximum(v, -v)


@lanewise
def split(v):
    """A finite number as ``mantissa * 2**exponent`` with ``1 <= |mantissa| < 2``; for 0, the exponent is -inf."""
    small = magnitude(v) < _TINY
    normal = select(small, v * 2.0**64, v)
    bits = bitcast(with_element(v.type, types.int64), normal)
    exponent = convert(types.float64, bits & _EXPONENT_BITS) * 2.0**-52 - select(small, like(v, 1023.0 + 64), 1023.0)
    mantissa = bitcast(v.type, (bits & ~_EXPONENT_BITS) | (1023 << 52))
    none = v == 0.0
    return select(none, v, mantissa), select(none, -INF, exponent)


@lanewise
def power(n):
    """``2**n`` for integers from -1022 to 1023, as floats."""
    bits = bitcast(with_element(n.type, types.int64), n + (_MAGIC + 1023))
    return bitcast(n.type, bits << FLOAT64.mantissa_bits)


@lanewise
def nearest(v):
    """The nearest integer of a number below ``2**51``."""
    return (v + _MAGIC) - _MAGIC


@lanewise
def exp_of_pair(d, d_lo):
    """``exp(d + d_lo)`` for ``|d| < 2**13`` as ``(hi, lo, n)``: ``(hi + lo) 2**n``, exactly 1 for 0.

    `d_lo` is at most half a unit in the last place of `d`. The relative error
    is below ``2**-101``:

    - ``d = n ln2 + f`` with ``|f| < 0.35``. All sums but two are exact, and those
      err, as ``n LN2[2]`` does, by less than ``2**-107``.
    - Taylor's series is cut off at ``2**-115``. Its terms from ``f**14 / 14!`` on, less
      than ``2**-57``, are computed in one part: ``2**-109``.
    - The other steps, ``c + f s``, add products and constants without error and
      round the low parts: five roundings of numbers below ``2**-53``, or ``2**-52`` for
      the sum of all of them, which is 9 units of ``2**-106``. A step takes ``|f|``
      times the error of the one before, so that is ``9 / (1 - 0.35) < 14`` in all.
    - The result is 0.7 at least: ``(14 + 1) / 0.7 2**-106 < 2**-101``.
    """
    n = nearest(d * LOG2_E)
    f, f_lo = two_sum(fma(n, -LN2[0], d), n * -LN2[1])
    f, lost = two_sum(f, d_lo)
    f_lo = fma(n, -LN2[2], f_lo + lost)
    s, s_lo = polynomial(f, [hi for hi, _ in _TAYLOR[_PAIRS:]]), like(f, 0.0)
    for c, c_lo in _TAYLOR[_PAIRS - 1 :: -1]:
        p, error = two_product(f, s)
        error = fma(f, s_lo, fma(f_lo, s, error))
        s, lost = fast_two_sum(like(f, c), p)
        s_lo = lost + (error + c_lo)
    return s, s_lo, n


@lanewise
def log_of_pair(hi, lo, exponent):
    """``log((hi + lo) 2**exponent)`` of a positive number, within 1.5 units in the last place.

    A number from 1/2 to 2 is not split further, so that its logarithm loses no precision.
    """
    mantissa, more = split(hi)
    exponent, lo = exponent + more, lo * power(-more)
    halve = (exponent == -1.0) | ((exponent != 0.0) & (mantissa > 1.4142))
    half = select(halve, like(hi, 0.5), 1.0)
    y, y_lo = two_sum(fma(mantissa, half, -1.0), lo * half)
    exponent = select(halve, exponent + 1.0, exponent)
    return fma(exponent, LN2[0], fma(exponent, LN2[1], log1p(y) + divide(y_lo, 1.0 + y)))
