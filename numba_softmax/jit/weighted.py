"""Logarithms of weighted sums, ``log|sum(b exp(a))|``, of rows along any axes, in jitted code.

A row is summed up in about 100 bits, with a bound of the error. Where that does
not certify the result, `words` computes the row again, in as many bits as it
takes: where a sum cancels to less than ``2**-50`` of its terms, and where it is
so near to 1 that its logarithm has few of its bits.

A term is ``b exp(a - shift)``, of which ``b = mu 2**e`` and ``exp(a - shift) = g 2**n``.
Exponents are added up as numbers and reduced by those of the largest term, so
that neither weights nor elements that are far apart overflow.
"""

from __future__ import annotations

import functools
from collections.abc import Callable

import numpy as np
from numba import float64

from ..backends.cpu.layout import ROWS, N, row_offsets, run_at, word
from ..backends.cpu.tiles import VECTOR_BYTES, jit
from ..backends.spec import stored
from ..expmath import LOG2_E, two_sum
from ..lanewise import Vec, lanewise
from ..online import INF
from ..simd import Stored, exchange, fma, halvings, lane, like, load, maximum, select, splat, store
from .kernels import STACK, weights_on_stack
from .pairs import FAR, exp_of_pair, log_of_pair, magnitude, nearest, power, split, two_product
from .rows import address_of
from .words import in_words

_OWN = Stored("float64")
_SIZE = 8
_LANES = VECTOR_BYTES // _SIZE
_VEC = Vec(float64, _LANES)
_BATCH = STACK // (2 * _SIZE)
"""Elements that are brought together at once, with their weights."""

TOP, FLOOR = 900.0, -900.0
"""The exponent of the largest term, and that below which terms are left out: nothing overflows or is subnormal."""

LEFT_OUT = 2.0**-790
"""What a term that is left out counts for among inexact terms: more than it has."""

TERM_ERROR = 2.0**-100
"""The bound of a term's relative error: `exp_of_pair` and the product with the weight have less than half of it."""

TOLERANCE = 2.0**-55
"""What a sum may err by, relative to it, in parts of the larger of result and maximum: less than a quarter of a unit in
the last place of that."""

SMALLEST, LARGEST = 2.0**-1076, 2.0**-10
"""What any sum may err by: a quarter of the smallest number; and what none may: its sign must be certain."""


@lanewise
def larger(top, a, b):
    """In each lane the larger term, of `top` and of ``b exp(a)``: its element, and the exponent of its weight."""
    return _larger(top, (a, split(b)[1]))


def _larger(top, other):
    (m, e_m), (a, e) = top, other
    # Quarters, since differences of elements overflow; of the exponents, one may be -inf.
    other_is = (a * 0.25 - m * 0.25) * LOG2_E > (e_m - e) * 0.25
    return select(other_is, a, m), select(other_is, e, e_m)


@lanewise
def largest(top):
    """The largest term of all lanes."""
    for step in halvings(top[0].type.lanes):
        top = _larger(top, tuple(exchange(part, step) for part in top))
    return tuple(lane(part, 0) for part in top)


@lanewise
def frame_of(m, e):
    """What to subtract from the elements, and from all exponents, where this is the largest term."""
    shift = select(magnitude(m) > FAR, m, 0.0)
    return shift, e + nearest((m - shift) * LOG2_E) - TOP


@lanewise
def add_term(sums, a, b, frame):
    """Add ``b exp(a)`` to sums: of terms, in three parts; of what they err by; and to the largest term."""
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
    """The sums of all lanes: in two parts, what is left of the third, and the rest as it was."""
    hi, mid, lo, lost, inexact, top = sums
    for step in halvings(hi.type.lanes):
        hi, mid, lo, lost = _add(hi, mid, lo + exchange(lo, step), lost + exchange(lost, step), *(exchange(v, step) for v in (hi, mid)))
        inexact, top = inexact + exchange(inexact, step), maximum(top, exchange(top, step))
    hi, mid, lo, lost, inexact, top = (lane(v, 0) for v in (hi, mid, lo, lost, inexact, top))
    hi, mid = two_sum(hi, mid)
    mid, lo = two_sum(mid, lo)
    hi, mid = two_sum(hi, mid)
    return hi, mid, lo, lost, inexact, top


@functools.cache
def make_weighted_rows(x: str, b: str) -> Callable:
    """``f(x, y, b, sign, layout)``: logarithms of absolute sums of ``b exp(x)``, and the signs of those, in float64.

    Weights take the mask's place in the layout. An element of weight 0 counts
    for nothing, whatever it is.
    """
    x_format, b_format = stored(x), stored(b)

    @jit
    def gather(x, b, layout, start, count, elements, weights):
        """Bring finite terms together, and add up the others: NaN or infinite, if there are any."""
        done, others = 0, 0.0
        while done < count:
            (x_at, _, b_at), (x_step, _, b_step), run = run_at(layout, start + done)
            run = min(run, count - done)
            for i in range(run):
                v, w = load(float64, x_format, x + x_at + i * x_step), load(float64, b_format, b + b_at + i * b_step)
                if w == 0.0:
                    v = 0.0
                elif v - v != 0.0 or w - w != 0.0:
                    others += w * (0.0 if v == -INF else 1.0 if v - v == 0.0 else v)
                    v, w = 0.0, 0.0
                store(_OWN, elements + (done + i) * _SIZE, v)
                store(_OWN, weights + (done + i) * _SIZE, w)
            done += run
        return others

    @jit
    def gather_batch(x, b, layout, start, elements, weights):
        """A batch of terms, filled up to whole vectors by terms of weight 0."""
        count = min(_BATCH, word(layout, N) - start)
        others = gather(x, b, layout, start, count, elements, weights)
        whole = count + -count % _LANES
        for i in range(count, whole):
            store(_OWN, elements + i * _SIZE, 0.0)
            store(_OWN, weights + i * _SIZE, 0.0)
        return whole, others

    @jit
    def weighted_row(x, b, layout):
        n = word(layout, N)
        elements = weights_on_stack(n)
        weights = elements + _BATCH * _SIZE
        others, count, zero = 0.0, 0, splat(_VEC, 0.0)
        top = zero, zero - INF
        for start in range(0, n, _BATCH):
            count, more = gather_batch(x, b, layout, start, elements, weights)
            others += more
            for j in range(0, count * _SIZE, VECTOR_BYTES):
                top = larger(top, load(_VEC, _OWN, elements + j), load(_VEC, _OWN, weights + j))
        m, e = largest(top)
        if others - others != 0.0:
            return abs(others), 1.0 if others > 0.0 else -1.0 if others < 0.0 else others
        if e == -INF:
            return -INF, 0.0
        frame = frame_of(m, e)
        sums = zero, zero, zero, zero, zero, zero
        for start in range(0, n, _BATCH):
            if n > _BATCH:
                count, _ = gather_batch(x, b, layout, start, elements, weights)
            for j in range(0, count * _SIZE, VECTOR_BYTES):
                sums = add_term(sums, load(_VEC, _OWN, elements + j), load(_VEC, _OWN, weights + j), frame)
        hi, lo, left, lost, inexact, top_term = sum_lanes(sums)
        bound = inexact * TERM_ERROR + (lost * (n + 8) * 2.0**-51 + abs(left))
        if hi == 0.0 and bound == 0.0:
            return -INF, 0.0
        shift, exponent = frame
        sign = 1.0 if hi > 0.0 else -1.0
        result = shift + log_of_pair(abs(hi), lo * sign, exponent)
        unit = max(abs(result), abs(shift + log_of_pair(top_term, 0.0, exponent)) - 2.0**-50)
        if bound <= abs(hi) * min(max(TOLERANCE * unit, SMALLEST), LARGEST):
            return result, sign
        terms = np.empty((2, n))
        gather(x, b, layout, 0, n, address_of(terms[0]), address_of(terms[1]))
        return in_words(terms[0], terms[1])

    @jit
    def weighted_rows(x, y, b, sign, layout):
        for i in range(word(layout, ROWS)):
            x_at, y_at, b_at = row_offsets(layout, i)
            result, positive = weighted_row(x + x_at, b + b_at, layout)
            store(_OWN, y + y_at, result)
            store(_OWN, sign + y_at, positive)

    return weighted_rows
