"""Weighted sums of exponentials in as many words as it takes: for rows that two parts of float64 do not decide.

A number is an array of words of 30 bits in int64, lowest first: word `i` counts
``2**(30 i)`` units. The last one has the sign. What is below a unit is cut off.

Terms of equal elements become one, whose weight is their exact sum. If that is
0, they are dropped; so what is left is a sum of different exponentials with
weights that are not 0, and such a sum is never 0 itself (Lindemann and
Weierstrass). So precision is doubled until the sum is certain, and it ends.
Terms far below the last word do not count; memory is a few arrays of as many
words as the sum has.
"""

from __future__ import annotations

import math

import numpy as np

from ..backends.cpu.tiles import jit
from ..expmath import two_sum
from ..online import INF
from .pairs import FAR, LN2, log_of_pair, split

BITS = 30
_MASK = (1 << BITS) - 1
_STEP = BITS * (LN2[0] + LN2[1])  # the logarithm of a word's worth

FIRST_WORDS = 10
"""Words of a sum that is tried first: 300 bits, of which it needs about 160 to be sure of the rest."""

_LOWEST = -36
"""The place of the first word of a sum of weights, and how many there are: for any number of weights of any size."""
_WEIGHT_WORDS = 76

NEVER = -1e9
"""A term whose element is so far below is below the last word of any sum that memory can hold."""


@jit
def add_word(s, at, c):
    """``s += c * 2**(30 at)`` for ``|c| < 2**62``; for ``at < 0``, what is left of it."""
    if at < 0:
        c >>= min(62, -BITS * at)
        at = 0
    while at < len(s) - 1 and c != 0:
        c += s[at]
        s[at] = c & _MASK
        c >>= BITS
        at += 1
    s[at] += c


@jit
def add_product(s, at, a, c):
    """``s += a * c * 2**(30 at)`` for a word `c`, right to two units."""
    carry = (a[-at - 1] * c) >> BITS if at < 0 else 0
    for i in range(max(0, -at), len(a)):
        carry += s[at + i] + a[i] * c
        if at + i == len(s) - 1:
            s[at + i] = carry
            return
        s[at + i] = carry & _MASK
        carry >>= BITS
    add_word(s, at + len(a), carry)


@jit
def add_float(s, lowest, number):
    """``s += number``, where the unit of `s` is ``2**(30 lowest)``."""
    if number == 0.0:
        return
    mantissa, exponent = split(number)
    c, bit = int(mantissa * 2.0**52), int(exponent) - 52 - BITS * lowest
    at = bit // BITS
    bit -= BITS * at
    add_word(s, at, (c & _MASK) << bit)
    add_word(s, at + 1, (c >> BITS) << bit)


@jit
def set_product(out, a, b):
    """``out = a * b`` for numbers whose last word counts ones."""
    out[:] = 0
    for j in range(len(b)):
        add_product(out, j + 1 - len(b), a, b[j])


@jit
def set_quotient(out, a, c):
    """``out = a / c`` for a small positive number `c`."""
    rest = 0
    for i in range(len(a) - 1, -1, -1):
        rest = (rest << BITS) + a[i]
        out[i] = rest // c
        rest -= out[i] * c


@jit
def make_positive(s):
    """The sign of a number, which becomes positive, and the place of its first word that is not 0: -1 for 0."""
    sign = -1 if s[-1] < 0 else 1
    carry, top = 0, -1
    for i in range(len(s)):
        carry += sign * s[i]
        s[i] = carry & _MASK
        carry >>= BITS
        if s[i] != 0:
            top = i
    return sign, top


@jit
def first_part(s, top):
    """A float64 that is nearly a number, in units of its word ``top - 2``."""
    part = 0.0
    for i in range(top, top - 3, -1):
        part = part * 2.0**BITS + (s[i] if i >= 0 else 0)
    return part


@jit
def set_step(step, term, quotient):
    """``step = 30 ln2``, a word's share of an exponent: by ``ln2 = 2 atanh(1/3)``."""
    term[:] = 0
    term[-1] = 2 * BITS * 3
    step[:] = 0
    for k in range(1, 20 * len(step), 2):
        set_quotient(term, term, 9)
        set_quotient(quotient, term, k)
        add_product(step, 0, quotient, 1)


@jit
def set_exp(e, y, term, product):
    """``e = exp(2**30 y)`` for ``|y| < 2**-25``: Taylor's series, squared 30 times."""
    term[:] = 0
    term[-1] = 1
    e[:] = term
    for k in range(1, 2 + BITS * len(e) // 25):
        set_product(product, term, y)
        set_quotient(term, product, k)
        add_product(e, 0, term, 1)
    for _ in range(BITS // 2):
        set_product(product, e, e)
        set_product(e, product, product)


@jit
def sort_terms(a, b):
    """Bring terms in descending order of their elements (D. L. Shell)."""
    gap = len(a)
    while gap > 1:
        gap = max(1, gap * 4 // 9)
        for i in range(gap, len(a)):
            v, w = a[i], b[i]
            while i >= gap and a[i - gap] < v:
                a[i], b[i] = a[i - gap], b[i - gap]
                i -= gap
            a[i], b[i] = v, w


@jit
def sum_weights(a, b, i, weight):
    """Add up the weights of all terms with the element of term `i`: where they end, the sum's sign and first word."""
    weight[:] = 0
    end = i
    while end < len(a) and a[end] == a[i]:
        add_float(weight, _LOWEST, b[end])
        end += 1
    sign, top = make_positive(weight)
    return end, sign, top


@jit
def word_exponent(a, shift):
    """How many words ``exp(a - shift)`` has before its ones, and 1e9 less for what never counts."""
    return math.floor(max((a - shift) / _STEP, NEVER) + 2.0**-20)


@jit
def drop_nothing(a, b, weight):
    """Keep the terms whose weights do not cancel: how many, and the largest one's element and its weight's first word."""
    count, i, m, m_top = 0, 0, 0.0, -1
    while i < len(a):
        end, _, top = sum_weights(a, b, i, weight)
        if top >= 0:
            if m_top < 0 or (a[i] - m) / _STEP + (top - m_top) > 0.0:
                m, m_top = a[i], top
            for k in range(i, end):
                a[count], b[count] = a[k], b[k]
                count += 1
        i = end
    return count, m, m_top


@jit
def add_terms(s, lowest, a, b, shift, weight, room):
    """Add terms, with `shift` taken off their elements, to `s`, whose unit is ``2**(30 lowest)``."""
    step, x, e, term, product = room[0], room[1], room[2], room[3], room[4]
    set_step(step, term, product)
    last, i = len(e) - 1, 0
    while i < len(a):
        exponent, v = word_exponent(a[i], shift), a[i]
        i, sign, top = sum_weights(a, b, i, weight)
        at = exponent + _LOWEST - last - lowest
        if at + top + last < 0:
            continue
        d, d_lo = two_sum(v, -shift)
        x[:] = 0
        add_float(x, -last, d)
        add_float(x, -last, d_lo)
        add_product(x, 0, step, -exponent)
        for k in range(last):  # 2**-30 of it
            x[k] = x[k + 1] & _MASK
        x[last] >>= BITS
        set_exp(e, x, term, product)
        for j in range(max(0, -at - last), top + 1):
            if weight[j] != 0:
                add_product(s, at + j, e, sign * weight[j])


@jit
def in_words(a, b):
    """The logarithm of ``|sum(b exp(a))|``, right to 2 units in its last place, and the sign of that; changes `a` and `b`.

    All is finite. The error of a sum of `words` words, in its units: exponentials,
    which have one word fewer, err by less than two words in the last place (30
    squarings cost one, all sums and products of an exponential not another one), and
    are multiplied by weights; a term is less than three words above the first one's
    place. So that is below ``2**180`` a term.
    """
    sort_terms(a, b)
    weight = np.empty(_WEIGHT_WORDS, np.int64)
    count, m, m_top = drop_nothing(a, b, weight)
    if count == 0:
        return -INF, 0.0
    a, b = a[:count], b[:count]
    shift, words, unsure = m if abs(m) > FAR else 0.0, FIRST_WORDS, 181.0 + math.log2(count)
    while True:
        s = np.zeros(words + 6, np.int64)
        lowest = word_exponent(m, shift) + _LOWEST + m_top - words
        add_terms(s, lowest, a, b, shift, weight, np.empty((5, words), np.int64))
        sign, top = make_positive(s)
        hi = first_part(s, top)
        add_float(s, 2 - top, -hi)
        lo_sign, lo_top = make_positive(s)
        lo = lo_sign * math.ldexp(first_part(s, lo_top), BITS * (lo_top - top))
        part = log_of_pair(hi, lo, float(BITS * (top - 2 + lowest)))
        result = shift + part
        good = BITS * (top - 2) + split(hi)[1] - unsure
        if top < 0 or good < max(min(55.0 - split(result)[1], 1077.0), 10.0):
            words *= 2
        elif shift == 0.0 or abs(part) <= abs(result):
            return result, float(sign)
        else:
            shift = result
