"""Weighted sums of exponentials in arbitrary precision, for rows where two parts of float64 are not enough.

A number is a table of words of 30 bits in int64, at an address, lowest first: word
`i` counts ``2**(30 i)`` units. Word `last` has the sign. Fractions of a unit are
truncated.

Terms of equal elements become one, whose weight is their exact sum; where that
is 0, they are dropped. What is left is a sum of different exponentials whose
weights are not 0, and such a sum is never 0 itself (F. Lindemann, K. Weierstrass).
So a row with no terms left is exactly 0, and for any other row, doubling the
precision until the sum is certain comes to an end. Terms are taken relative to the
largest one, and those far below the last word do not count. So the memory is a few
tables of the sum's number of words, however far apart the terms are.
"""

from __future__ import annotations

import math

import numpy as np
from numba import float64, int64

from ..backends.cpu.basics import jit, release
from ..backends.cpu.layout import word
from ..math.expmath import INF
from ..math.lanewise import lanewise
from ..math.memory import Stored, load, store
from ..math.pairs import two_sum
from ..math.simd import maximum
from .axes import put
from .pairs import FAR, LN2, log_of_pair, nearest, split
from .rows import address_of

BITS, SIZE = 30, 8
_WORTH = 2.0**BITS
_MASK = (1 << BITS) - 1
_LN2 = LN2[0] + LN2[1]
_FLOAT64 = Stored("float64")

FIRST_WORDS = np.int64(10)
"""Words of the first attempt at a sum: 300 bits, of which 180 may be in error."""

LOWEST = np.int64(-36)
"""The unit of a sum of weights, ``2**(30 * LOWEST)``, is below the smallest float64."""

LAST = np.int64(75)
"""The last word of a sum of weights, which has room for any number of the largest ones."""

NEVER = -1e9
"""Terms this many words below the largest one contribute nothing to any sum."""


@lanewise
def small(number):
    """`number`; the function that calls this is compiled to small code, without copies of loops and functions.

    Numba optimizes and translates a function again for each of its callers.
    """
    number.builder.function.attributes.add("minsize")
    number.builder.function.attributes.add("noinline")
    return number


@lanewise
def number_at(address, i):
    """Read a number of a table of float64."""
    return load(float64, _FLOAT64, address + SIZE * i)


@lanewise
def put_number(address, i, number):
    """Write a number of a table of float64."""
    store(_FLOAT64, address + SIZE * i, number)


@lanewise
def words_above(a, shift):
    """The number of words by which ``exp(a - shift)`` exceeds a number from 1 to ``2**30``, or barely above that."""
    d = maximum((a - shift) * (1 / (BITS * _LN2)), NEVER)
    return nearest(d - (0.5 + 2.0**-20))


@jit
def clear(s, last):
    """``s = 0``."""
    last = small(last)
    for i in range(last + 1):
        put(s, i, 0)


@jit
def add_word(s, last, at, c):
    """``s += c * 2**(30 at)`` for ``|c| < 2**62``."""
    last = small(last)
    while at < last and c != 0:
        c += word(s, at)
        put(s, at, c & _MASK)
        c >>= BITS
        at += 1
    put(s, at, word(s, at) + c)


@jit
def add_product(s, last, at, a, n, c):
    """``s += a * c * 2**(30 at)`` for a number `a` of `n` words and one word `c`, within two units."""
    last = small(last)
    carry = (word(a, -at - 1) * c) >> BITS if at < 0 else 0
    for i in range(max(0, -at), min(n, last - at)):
        carry += word(s, at + i) + word(a, i) * c
        put(s, at + i, carry & _MASK)
        carry >>= BITS
    if n > last - at:
        put(s, last, word(s, last) + word(a, last - at) * c + carry)
    else:
        add_word(s, last, at + n, carry)


@jit
def add_float(s, last, lowest, number):
    """``s += number``, where the unit of `s` is ``2**(30 lowest)``."""
    last = small(last)
    if number == 0.0:
        return
    mantissa, exponent = split(number)
    c, bit = int64(mantissa * 2.0**52), int64(exponent) - 52 - BITS * lowest
    at = bit // BITS
    bit -= BITS * at
    for part in (c & _MASK, c >> BITS):
        add_word(s, last, max(at, 0), (part << bit) >> min(62, max(0, -BITS * at)))
        at += 1


@jit
def leading(s, last):
    """The sign of a number, which is made positive; the place of its first word, -1 for 0; and a float64 near it.

    The float64 counts units of the second word after the first one.
    """
    last = small(last)
    sign = -1 if word(s, last) < 0 else 1
    carry, top, number = 0, -1, 0.0
    for i in range(last + 1):
        carry += sign * word(s, i)
        put(s, i, carry & _MASK)
        if carry & _MASK:
            top = i
        carry >>= BITS
    for i in range(top, top - 3, -1):
        number = number * _WORTH + (word(s, i) if i >= 0 else 0)
    return sign, top, number


@jit
def set_product(out, a, b, last):
    """``out = a * b`` for numbers whose word `last` counts ones."""
    last = small(last)
    clear(out, last)
    for j in range(last + 1):
        if word(b, j) != 0:
            add_product(out, last, j - last, a, last + 1, word(b, j))


@jit
def set_step(step, term, last):
    """``step = 30 ln2``, whose ``exp`` is ``2**30``, one word, by ``ln2 = 2 (1/3 + 1/3**3 / 3 + 1/3**5 / 5 + ...)``."""
    last = small(last)
    clear(step, last)
    clear(term, last)
    put(term, last, 2 * BITS * 3)
    for k in range(1, 20 * (last + 1), 2):  # 9.5 terms give one word
        rest, rest_of_quotient = 0, 0
        for i in range(last, -1, -1):
            rest = (rest << BITS) + word(term, i)
            ninth = rest // 9
            rest -= 9 * ninth
            put(term, i, ninth)
            rest_of_quotient = (rest_of_quotient << BITS) + ninth
            quotient = rest_of_quotient // k
            rest_of_quotient -= k * quotient
            put(step, i, word(step, i) + quotient)  # carried on below
    leading(step, last)


@jit
def set_exp(e, y, term, product, last):
    """``e = exp(2**30 y)`` for ``0 <= y < 2**-25``: Taylor's series, squared 30 times."""
    last = small(last)
    clear(e, last)
    clear(term, last)
    put(e, last, 1)
    put(term, last, 1)
    for k in range(1, 2 + BITS * (last + 1) // 25):
        set_product(product, y, term, last)
        rest = 0
        for i in range(last, -1, -1):
            rest = (rest << BITS) + word(product, i)
            quotient = rest // k
            rest -= k * quotient
            put(term, i, quotient)
            put(e, i, word(e, i) + quotient)  # carried on below
    leading(e, last)
    for _ in range(BITS // 2):
        set_product(product, e, e, last)
        set_product(e, product, product, last)


@jit
def sort_terms(a, b, n):
    """Sort the terms that count by descending elements (D. L. Shell), and return their number."""
    n = small(n)
    count = 0
    for i in range(n):
        if number_at(b, i) != 0.0 and number_at(a, i) > -INF:
            put_number(a, count, number_at(a, i))
            put_number(b, count, number_at(b, i))
            count += 1
    gap = count
    while gap > 1:
        gap = max(1, gap * 4 // 9)
        for i in range(gap, count):
            v, w = number_at(a, i), number_at(b, i)
            while i >= gap and number_at(a, i - gap) < v:
                put_number(a, i, number_at(a, i - gap))
                put_number(b, i, number_at(b, i - gap))
                i -= gap
            put_number(a, i, v)
            put_number(b, i, w)
    return count


@jit
def sum_weights(a, b, i, count, weight):
    """Sum the weights of all terms with the element of term `i`; return their end, the sum's sign and first word."""
    count = small(count)
    clear(weight, LAST)
    v = number_at(a, i)
    while i < count and number_at(a, i) == v:
        add_float(weight, LAST, LOWEST, number_at(b, i))
        i += 1
    sign, top, _ = leading(weight, LAST)
    return i, sign, top


@jit
def drop_cancelled(a, b, count, weight):
    """Keep terms whose weights do not cancel; return their number, the largest one's element and its weight's place."""
    count = small(count)
    kept, i, m, m_top = 0, int64(0), 0.0, -1
    while i < count:
        v = number_at(a, i)
        end, _, top = sum_weights(a, b, i, count, weight)
        if top >= 0:
            if m_top < 0 or (v - m) / (BITS * _LN2) + (top - m_top) > 0.0:
                m, m_top = v, top
            for k in range(i, end):
                put_number(a, kept, v)
                put_number(b, kept, number_at(b, k))
                kept += 1
        i = end
    return kept, m, m_top


@jit
def add_terms(s, lowest, a, b, count, shift, weight, room, last):
    """Add ``b exp(a - shift)`` of all terms to `s`, whose unit is ``2**(30 lowest)``; `room` is for five numbers."""
    last = small(last)
    size = SIZE * (last + 1)
    step, e, x, term, product = room, room + size, room + 2 * size, room + 3 * size, room + 4 * size
    set_step(step, term, last)
    i = int64(0)
    while i < count:
        v = number_at(a, i)
        i, sign, top = sum_weights(a, b, i, count, weight)
        above = int64(words_above(v, shift))
        at = above + LOWEST - last - lowest
        if at + top + last < 0:
            continue
        d, d_lo = two_sum(v, -shift)
        clear(x, last)
        add_float(x, last, -last, d)
        add_float(x, last, -last, d_lo)
        carry = 0
        for k in range(last + 1):  # x = 2**-30 (x - above * step)
            carry += word(x, k) - above * word(step, k)
            if k > 0:
                put(x, k - 1, carry & _MASK)
            carry >>= BITS
        put(x, last, carry)
        set_exp(e, x, term, product, last)
        for k in range(max(0, -at - last), top + 1):
            add_product(s, last + 7, at + k, e, last + 1, sign * word(weight, k))


@jit
def sum_in_words(a, b, count, m, m_top, shift, words, weight):
    """The sum of terms ``b exp(a - shift)``, in `words` words: ``(hi, lo, exponent, sign, bits)``.

    It is ``sign (hi + lo) 2**exponent``, and `bits` bits of it are certain. The error, in
    units of the last place: an exponential has `words` words; 30 squarings may
    cost one of them, and all its sums and products less than another one. With its weight
    and the words above the ones, a term is less than three words above the place of the
    largest one; so the error of each is below ``2**180``.
    """
    words = small(words)
    last = words - 1
    size = SIZE * (last + 8)
    numbers = np.empty(size * 6, np.uint8)
    s = address_of(numbers)
    clear(s, last + 7)
    lowest = int64(words_above(m, shift)) + LOWEST + m_top - words
    add_terms(s, lowest, a, b, count, shift, weight, s + size, last)
    sign, top, hi = leading(s, last + 7)
    add_float(s, last + 7, 2 - top, -hi)
    lo_sign, lo_top, lo = leading(s, last + 7)
    release(numbers)
    lo = lo_sign * math.ldexp(lo, BITS * (lo_top - top))
    bits = BITS * (top - 2) + split(hi)[1] - 181.0 - math.log2(count) if top >= 0 else 0.0
    return hi, lo, float64(BITS * (top - 2 + lowest)), sign, bits


@jit
def in_words(a, b, n):
    """The logarithm of ``|sum(b exp(a))|``, within 2 units in its last place, and the sign; changes `a` and `b`."""
    n = small(n)
    count = sort_terms(a, b, n)
    room = np.empty(LAST + 1, np.int64)
    weight = address_of(room)
    count, m, m_top = drop_cancelled(a, b, count, weight)
    if count == 0:
        return -INF, 0.0
    shift, words = m if abs(m) > FAR else 0.0, FIRST_WORDS
    while True:
        hi, lo, exponent, sign, bits = sum_in_words(a, b, count, m, m_top, shift, words, weight)
        part = log_of_pair(hi, lo, exponent)
        result = shift + part
        if bits < 10.0 or bits < min(55.0 - split(result)[1], 1077.0):
            words *= 2
        elif shift == 0.0 or abs(part) <= abs(result):
            release(room)
            return result, float64(sign)
        else:  # that sum loses too much of the logarithm
            shift = result
