"""Logarithms of weighted sums, ``log|sum(b exp(a))|``, of rows along any axes, in jitted code.

A row is summed in about 100 bits, with a bound of the error. If that does not
certify the result, `words` computes the row again, with as much precision as is
needed: if a sum cancels to less than ``2**-50`` of its terms, or if it is so near to
1, and its largest term is too, that few bits of it are left in its logarithm.

A term is ``b exp(a - shift)``, with ``b = mu 2**e`` and ``exp(a - shift) = g 2**n``.
The exponents `e` and `n` are added, and that of the largest term is subtracted, so
that neither weights nor elements that are far apart overflow.

The error bound of a sum has three parts: `TERM_ERROR` times the absolute sum of
the terms whose exponential is not exactly 1; the size of the third part, which
is dropped in the end; and the roundings of that part, the only ones made. A result
is certified if this bound changes it by at most a quarter of a unit. The
logarithm errs by 1.5 units at most, and where an element is added to it, by
less than one unit in all; so the result is right to 2 units.
"""

from __future__ import annotations

import functools
from collections.abc import Callable

import numpy as np
from numba import float64

from ..backends.cpu.basics import VECTOR_BYTES, jit, release
from ..backends.cpu.layout import ROWS, N, make_places, word
from ..backends.spec import stored
from ..math.expmath import INF, LOG2_E
from ..math.lanewise import Vec, lanewise
from ..math.memory import Stored, load, store
from ..math.pairs import two_sum
from ..math.simd import exchange, fma, halvings, lane, like, maximum, select, splat
from .kernels import STACK, weights_on_stack
from .pairs import FAR, exp_of_pair, log_of_pair, magnitude, nearest, power, split, two_product
from .rows import address_of
from .words import in_words, put_number, small

_OWN = Stored("float64")
_SIZE = 8
_LANES = VECTOR_BYTES // _SIZE
_VEC = Vec(float64, _LANES)
_BATCH = STACK // (2 * _SIZE)
"""Elements that are gathered at once, with their weights."""

TOP, FLOOR = 900.0, -900.0
"""The exponent of the largest term, and the one below which terms are dropped: nothing overflows or is subnormal."""

LEFT_OUT = 2.0**-790
"""The amount by which a left-out term counts in the sum of inexact terms: more than the term itself."""

TERM_ERROR = 2.0**-100
"""The bound of a term's relative error: that of `exp_of_pair` and the product with the weight is less than half."""

TOLERANCE = 2.0**-55
"""Permitted relative error of a sum, per unit of the larger of result and maximum: less than a quarter of a unit in the
last place of that."""

SMALLEST, LARGEST = 2.0**-1076, 2.0**-10
"""Limits of that tolerance: a quarter of the smallest number, and an error at which the sign is still certain."""


@lanewise
def finite(a, b):
    """The term ``b exp(a)``, replaced by one of weight 0 if it is 0 or not finite; and the replaced value.

    That value is 0, NaN or infinite, and only the sum of a row's values counts.
    """
    is_finite = (a - a == 0.0) & (b - b == 0.0)
    other = b * select(a == -INF, 0.0, select(a - a == 0.0, 1.0, a))
    keep = is_finite & (b != 0.0)
    return select(keep, a, 0.0), select(keep, b, 0.0), select(is_finite | (b == 0.0), 0.0, other)


@lanewise
def larger(top, a, b):
    """In each lane the larger term of `top` and ``b exp(a)``: its element, and the exponent of its weight."""
    return _larger(top, (a, split(b)[1]))


def _larger(top, other):
    (m, e_m), (a, e) = top, other
    # Quarters, since differences of elements overflow; of the exponents, one may be -inf.
    other_is = (a * 0.25 - m * 0.25) * LOG2_E > (e_m - e) * 0.25
    return select(other_is, a, m), select(other_is, e, e_m)


@lanewise
def largest(top):
    """The largest term in all lanes."""
    for step in halvings(top[0].type.lanes):
        top = _larger(top, tuple(exchange(part, step) for part in top))
    return tuple(lane(part, 0) for part in top)


@lanewise
def frame_of(m, e):
    """The numbers to subtract from all elements and from all exponents, given the largest term."""
    shift = select(magnitude(m) > FAR, m, 0.0)
    return shift, e + nearest((m - shift) * LOG2_E) - TOP


@lanewise
def add_term(sums, a, b, frame):
    """The sums with the term ``b exp(a)``: of terms, in three parts; of inexact terms' sizes; the largest size."""
    hi, mid, lo, lost, inexact, top = sums
    shift, exponent = frame
    d, d_lo = two_sum(a, -shift)
    mantissa, e = split(b)
    g, g_lo, n = exp_of_pair(d, d_lo)
    s = n + (e - exponent)
    near, factor = s > FLOOR, power(s)
    t, t_lo = two_product(g, mantissa)
    t, t_lo = select(near, t * factor, 0.0), select(near, fma(g_lo, mantissa, t_lo) * factor, 0.0)
    size = magnitude(t)
    left_out = select(b == 0.0, 0.0, like(b, LEFT_OUT))
    hi, mid, lo, lost = _add(hi, mid, lo, lost, t, t_lo)
    return hi, mid, lo, lost, inexact + select(near, select(d == 0.0, 0.0, size), left_out), maximum(size, top)


def _add(hi, mid, lo, lost, t, t_lo):
    hi, error = two_sum(hi, t)
    mid, error = two_sum(mid, error)
    mid, more = two_sum(mid, t_lo)
    return hi, mid, lo + (error + more), lost + (magnitude(error) + magnitude(more))


@lanewise
def sum_lanes(sums):
    """The sum over all lanes, in two parts; the bound of its error without that of the third part; the largest term."""
    hi, mid, lo, lost, inexact, top = sums
    for step in halvings(hi.type.lanes):
        other = [exchange(part, step) for part in (hi, mid, lo, lost)]
        hi, mid, lo, lost = _add(hi, mid, lo + other[2], lost + other[3], other[0], other[1])
        inexact, top = inexact + exchange(inexact, step), maximum(top, exchange(top, step))
    hi, mid, lo, lost, inexact, top = (lane(part, 0) for part in (hi, mid, lo, lost, inexact, top))
    hi, mid = two_sum(hi, mid)
    mid, lo = two_sum(mid, lo)
    hi, mid = two_sum(hi, mid)
    return hi, mid, inexact * TERM_ERROR + magnitude(lo), lost, top


@lanewise
def log_of_sum(sums, others, frame, n):
    """The logarithm of a row's absolute sum, the sum's sign and size, the bound of its error, and the largest term.

    The third part gets fewer than `n` additions, each with two roundings.
    """
    hi, lo, bound, lost, top = sum_lanes(sums)
    for step in halvings(others.type.lanes):
        others = others + exchange(others, step)
    other, (shift, exponent) = lane(others, 0), frame
    bound = bound + lost * (n + 8.0) * 2.0**-51
    sign, size = select(hi < 0.0, like(hi, -1.0), 1.0), magnitude(hi)
    none, is_finite = (hi == 0.0) & (bound == 0.0), other == 0.0
    result = select(none, -INF, shift + log_of_pair(size, lo * sign, exponent))
    sign = select(none, 0.0, sign)
    sign_of_other = select(other > 0.0, 1.0, select(other < 0.0, -1.0, other))
    result, sign = select(is_finite, result, magnitude(other)), select(is_finite, sign, sign_of_other)
    return result, sign, size, select(is_finite, bound, 0.0), top


@lanewise
def is_certain(size, bound, unit):
    """True if a sum's error is small enough for its size that its logarithm is right to the last places of `unit`."""
    tolerance = maximum(magnitude(unit) * TOLERANCE, like(size, SMALLEST))
    return bound <= size * select(tolerance < LARGEST, tolerance, LARGEST)


@lanewise
def log_of_term(top, frame):
    """The absolute value of the largest term's logarithm, less 2**-50, which more than covers its rounding near 0."""
    shift, exponent = frame
    return maximum(magnitude(shift + log_of_pair(top, like(top, 0.0), exponent)) - 2.0**-50, like(top, 0.0))


@functools.cache
def make_weighted_rows(x: str, b: str) -> Callable:
    """``f(x, y, b, sign, layout)``: logarithms of absolute sums of ``b exp(x)``, and the signs of those, in float64.

    The layout is of `x`, `y` and `b`. An element of weight 0 counts for nothing, whatever it is.
    """
    x_format, b_format = stored(x), stored(b)
    row_at, run_at, *_ = make_places(3)

    @jit
    def gather(x, b, layout, start, a, w):
        """Gather a batch of elements at `a` and their weights at `w`, and return its number of bytes.

        The batch is padded to whole vectors with weights of 0.
        """
        start = small(start)
        count, done = min(_BATCH, word(layout, N) - start), 0
        while done < count:
            (x_at, _, b_at), (x_stride, _, b_stride), run = run_at(layout, start + done)
            for i in range(min(run, count - done)):
                put_number(a, done + i, load(float64, x_format, x + x_at + i * x_stride))
                put_number(w, done + i, load(float64, b_format, b + b_at + i * b_stride))
            done += run
        whole = count + -count % _LANES
        for i in range(count, whole):
            put_number(w, i, 0.0)
        return whole * _SIZE

    @jit
    def weighted_rows(x, y, b, sign, layout):
        n, zero = word(layout, N), splat(_VEC, 0.0)
        a = weights_on_stack(n)
        w = a + _BATCH * _SIZE
        for i in range(word(layout, ROWS)):
            xi, yi, bi = row_at((x, y, b), layout, i)
            top, others, count = (zero, zero - INF), zero, 0
            for start in range(0, n, _BATCH):
                count = gather(xi, bi, layout, start, a, w)
                for j in range(0, count, VECTOR_BYTES):
                    v, weight, other = finite(load(_VEC, _OWN, a + j), load(_VEC, _OWN, w + j))
                    top, others = larger(top, v, weight), others + other
            frame = frame_of(*largest(top))
            sums = zero, zero, zero, zero, zero, zero
            for start in range(0, n, _BATCH):
                if n > _BATCH:
                    count = gather(xi, bi, layout, start, a, w)
                for j in range(0, count, VECTOR_BYTES):
                    v, weight, _ = finite(load(_VEC, _OWN, a + j), load(_VEC, _OWN, w + j))
                    sums = add_term(sums, v, weight, frame)
            result, positive, size, bound, top_term = log_of_sum(sums, others, frame, float64(n))
            if not is_certain(size, bound, result) and not is_certain(size, bound, log_of_term(top_term, frame)):
                terms = np.empty(2 * (n + _LANES))
                exact_a, exact_w = address_of(terms), address_of(terms) + (n + _LANES) * _SIZE
                for start in range(0, n, _BATCH):
                    gather(xi, bi, layout, start, exact_a + start * _SIZE, exact_w + start * _SIZE)
                result, positive = in_words(exact_a, exact_w, n)
                release(terms)
            store(_OWN, yi, result)
            store(_OWN, sign + (yi - y), positive)

    return weighted_rows
