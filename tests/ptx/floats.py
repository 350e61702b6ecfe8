"""Floating-point operations that NumPy lacks: fused and rounded once, or rounded in other directions.

Method: where a result needs more digits than float64 has, it is computed with the error of its rounding, and
rounded to odd: of the two neighbours of the exact result, the one with an odd last bit. A second rounding of
that, to two bits fewer or more, is then as good as the first (S. Boldo and G. Melquiond, *Emulation of FMA
and correctly rounded sums: proved algorithms using rounding to odd*, 2008).
"""

import functools
from fractions import Fraction

import numpy as np

SPLITTER = 2.0**27 + 1


def two_sum(a, b):
    """``a + b`` and the error of its rounding (D. E. Knuth)."""
    s = a + b
    v = s - a
    return s, (a - (s - v)) + (b - v)


def _split(a):
    """A float64 as two of 26 bits (G. W. Veltkamp)."""
    c = a * SPLITTER
    hi = c - (c - a)
    return hi, a - hi


def two_product(a, b):
    """``a * b`` and the error of its rounding, for float64 (T. J. Dekker)."""
    p = a * b
    a_hi, a_lo = _split(a)
    b_hi, b_lo = _split(b)
    return p, ((a_hi * b_hi - p) + a_hi * b_lo + a_lo * b_hi) + a_lo * b_lo


def odd_sum(a, b):
    """``a + b`` in float64, rounded to odd; where it is exact or not finite, that."""
    s, error = two_sum(a, b)
    bits = np.atleast_1d(s).view(np.int64)
    even = (bits & 1 == 0).reshape(np.shape(s)) & (error != 0) & np.isfinite(error)
    if not np.any(even):
        return s
    outwards = (error > 0) == (s > 0)
    moved = (bits + np.where(np.atleast_1d(outwards), 1, -1)).view(np.float64).reshape(np.shape(s))
    return np.where(even, moved, s)


def rounded(x, dtype, rounding="rn"):
    """Float64 `x`, which is exact or rounded to odd, as a narrower float; in float64, `x` itself."""
    y = x.astype(dtype)
    if rounding == "rn":
        return y
    back = y.astype(np.float64)
    low, high = np.array(-np.inf, dtype), np.array(np.inf, dtype)
    if rounding in ("rz", "rm"):
        y = np.where((back > x) & ((x > 0) | (rounding == "rm")) & ~np.isnan(x), np.nextafter(y, low), y)
    if rounding in ("rz", "rp"):
        y = np.where((back < x) & ((x < 0) | (rounding == "rp")) & ~np.isnan(x), np.nextafter(y, high), y)
    return y


def fma(a, b, c, rounding="rn"):
    """``a * b + c``, rounded once."""
    if a.dtype == np.float64:
        if rounding != "rn":
            raise NotImplementedError(rounding)
        return _fma64(a, b, c)
    product = a.astype(np.float64) * b  # exact
    if rounding != "rn":
        return rounded(odd_sum(product, c.astype(np.float64)), a.dtype, rounding)
    total = np.atleast_1d(product + c)
    result = total.astype(a.dtype)
    doubtful = _maybe_ties(total, result)
    if len(doubtful):
        wide_c = np.broadcast_to(c, total.shape)[doubtful].astype(np.float64)
        result[doubtful] = odd_sum(np.broadcast_to(product, total.shape)[doubtful], wide_c).astype(a.dtype)
    return result


def _maybe_ties(total, result):
    """Where float64 numbers may lie half-way between two narrower floats, one of which they were rounded to."""
    dropped, smallest_normal = _narrow(result.dtype)
    maybe = (total.view(np.int64) & ((1 << dropped) - 1)) == 1 << (dropped - 1)
    small = np.abs(result) < smallest_normal
    if small.any():
        maybe |= small & (total != 0)
    return maybe.nonzero()[0]


@functools.cache
def _narrow(dtype):
    """The number of bits that a narrower float lacks of float64, and its smallest normal number."""
    info = np.finfo(dtype)
    return 52 - info.nmant, info.smallest_normal


def _fma64(a, b, c):
    """The float64 `fma`: by errors of products and sums or, where these overflow or underflow, by fractions.

    With the product as ``u + u_lo`` and ``u + c`` as ``v + v_lo``, the result is the sum of `v` and of
    ``w = v_lo + u_lo``. That `w` is rounded matters only where ``v + w`` is a tie: it is rounded to odd there.
    """
    u, u_lo = two_product(a, b)
    v, v_lo = two_sum(u, c)
    w = v_lo + u_lo
    result = np.atleast_1d(v + w)
    twice = 2 * (w - (result - v))
    ties = np.flatnonzero(((result + twice) - result == twice) & (twice != 0))
    if len(ties):
        v, v_lo, u_lo = (np.broadcast_to(x, result.shape)[ties] for x in (v, v_lo, u_lo))
        result[ties] = v + odd_sum(v_lo, u_lo)
    special = np.flatnonzero((np.abs(u) < 2.0**-900) | ~np.isfinite(result))
    if len(special):
        result[special] = _special_fma(*(np.broadcast_to(x, result.shape)[special] for x in (a, b, c)))
    return result


def _special_fma(a, b, c):
    """The float64 `fma` where the product is tiny or zero, or something not finite."""
    result = np.where(np.isfinite(a) & np.isfinite(b) & ~np.isfinite(c), c, a * b + c)
    inexact = (a != 0) & (b != 0) & np.isfinite(a) & np.isfinite(b) & np.isfinite(c)
    for i in np.flatnonzero(inexact):
        x, y, z = (Fraction(float(v)) for v in (a[i], b[i], c[i]))
        if x * y + z:  # the sign of a zero is that of the sum above
            result[i] = exact_float(x * y + z)
    return result


def exact_float(x):
    """A fraction, rounded once to float64."""
    try:
        return float(x)
    except OverflowError:
        return np.copysign(np.inf, 1 if x > 0 else -1)


def directed(op, a, b, rounding):
    """A sum, difference or product of floats, rounded `rz`, `rm` or `rp`."""
    if a.dtype == np.float64:
        value, error = two_product(a, b) if op == "mul" else two_sum(a, -b if op == "sub" else b)
        down = (error < 0) & ((rounding == "rm") | ((rounding == "rz") & (value > 0)))
        up = (error > 0) & ((rounding == "rp") | ((rounding == "rz") & (value < 0)))
        return np.where(down, np.nextafter(value, -np.inf), np.where(up, np.nextafter(value, np.inf), value))
    wide_a, wide_b = a.astype(np.float64), b.astype(np.float64)
    exact = wide_a * wide_b if op == "mul" else odd_sum(wide_a, -wide_b if op == "sub" else wide_b)
    return rounded(exact, a.dtype, rounding)


def flushed(x):
    """Subnormal numbers as zeros of their sign."""
    return np.where(np.abs(x) < np.finfo(x.dtype).smallest_normal, np.copysign(x.dtype.type(0), x), x)


def bfloat16_bits(x, rounding="rn"):
    """Float32 rounded to bfloat16, as uint16."""
    bits = np.atleast_1d(x).view(np.uint32)
    up = np.uint32(0) if rounding == "rz" else (bits >> np.uint32(16) & np.uint32(1)) + np.uint32(0x7FFF)
    result = ((bits + up) >> np.uint32(16)).astype(np.uint16)
    return np.where(np.isnan(x), np.uint16(0x7FFF), result)


def from_bfloat16(bits):
    """The float32 of bfloat16 in uint16."""
    return (bits.astype(np.uint32) << np.uint32(16)).view(np.float32)


# The largest errors that the PTX ISA allows the approximate instructions; relative ones, but for lg2 near 1.
ERRORS = {"ex2": 2.0**-22, "lg2": 2.0**-22, "rsqrt": 2.0**-22.9, "sqrt": 2.0**-23, "tanh": 2.0**-11}
ULPS = {"rcp": 1, "div": 2}


def nudges(approximation, x):
    """How far to move approximate results, from -1 to 1: the setting itself or, for "mixed", some of the bits of x."""
    if approximation != "mixed":
        return np.float64(approximation)
    mixed = np.atleast_1d(x).astype(np.float32).view(np.uint32) * np.uint32(2654435769)
    return (mixed >> np.uint32(8)) / 2.0**23 - 1


def approximate(name, exact, nudge):
    """Exact float64 results of an approximate float32 instruction, as far off as it may be times `nudge`."""
    result = exact.astype(np.float32)
    if np.all(nudge == 0):
        return result
    if name in ULPS:
        ulp = np.spacing(np.abs(result)).astype(np.float64) * ULPS[name]
    else:
        ulp = np.abs(exact) * ERRORS[name]
        if name == "lg2":
            ulp = np.where(np.abs(exact) < 1, ERRORS["lg2"], ulp)  # an absolute error for arguments in (1/2, 2)
    moved = (exact + nudge * ulp).astype(np.float32)
    too_far = np.abs(moved - exact) > ulp
    moved = np.where(too_far, np.nextafter(moved, result), moved)
    return np.where(np.isfinite(result) & np.isfinite(moved), moved, result)
