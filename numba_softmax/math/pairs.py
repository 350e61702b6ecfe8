"""Numbers of two parts, the second below the rounding of the first; or of one part and None.

The functions take floats and `Vec` alike, on the CPU and on CUDA.
"""

from numba import float32

from .. import kernel_code
from .lanewise import call_llvm, element, lanewise, llvm_suffix
from .simd import convert, divide, fma, has_fma, like, widen

kernel_code.register()


@lanewise
def two_sum(a, b):
    """``a + b`` and the error of its rounding (D. E. Knuth)."""
    s = a + b
    v = s - a
    return s, (a - (s - v)) + (b - v)


@lanewise
def fast_two_sum(a, b):
    """`two_sum` for ``|a| >= |b|`` (T. J. Dekker)."""
    s = a + b
    return s, b - (s - a)


@lanewise
def two_product(a, b):
    """``a * b`` and the error of its rounding, on any machine: without an FMA instruction, by C's function."""
    p = a * b
    error = call_llvm(a.builder, f"llvm.fma.{llvm_suffix(p.ir.type)}", p.ir.type, a.ir, b.ir, (-p).ir)
    return p, p.emit(p.type, error)


def product_less(a, b, p):
    """``a * b - p``, exactly if `p` is that product rounded; without `fma`, by Veltkamp's and Dekker's method."""
    if has_fma(a):
        return fma(a, b, -p)
    (a, a_lo), (b, b_lo) = _halves(a), _halves(b)
    return ((a * b - p) + a * b_lo + a_lo * b) + a_lo * b_lo


def _halves(a):
    """A number as the sum of two numbers with half as many bits each."""
    scaled = a * (2.0**12 + 1 if element(a.type) == float32 else 2.0**27 + 1)
    high = scaled - (scaled - a)
    return high, a - high


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
    return p, None if a_lo is None else product_less(a, b, p) + fma(a, b_lo, a_lo * b)


@lanewise
def inverse(l, l_lo):
    """``1 / l`` of a number of two parts or one, in the same number of parts."""
    if l_lo is not None:
        q = divide(1.0, l)
        return q, (-product_less(q, l, like(q, 1.0)) - q * l_lo) * q
    if element(l.type) == float32:
        return divide(1.0, l), None
    # A float32 division and a Newton step: float64 divisions take several times as long, and 2**-46 is precise enough.
    q = widen(divide(1.0, convert(float32, l)))
    return fma(q, fma(-q, l, 1.0), q), None


@lanewise
def over(pair, unit):
    """A number of two parts or one, divided by `unit`, which may be of a narrower type, or None for 1."""
    a, a_lo = pair
    if unit is None:
        return pair
    unit = convert(a.type, unit)
    if a_lo is None:
        return a * inverse(unit, None)[0], None
    down = divide(1.0, unit)
    q = a * down
    return q, (a_lo - product_less(q, unit, a)) * down


@lanewise
def times(pair, power):
    """A number of two parts or one, multiplied by a power of two."""
    return tuple(None if part is None else part * power for part in pair)


@lanewise
def in_two_parts(number, pair):
    """A number of one or two parts as two numbers of the type of `number`, which may be narrower."""
    q, q_lo = pair
    if element(q.type) == element(number):
        return q, like(q, 0.0) if q_lo is None else q_lo
    hi = convert(number, q)
    rest = q - widen(hi)
    return hi, convert(number, rest if q_lo is None else rest + q_lo)


@lanewise
def lane_sums(total, lost):
    """A compensated sum in float64, which also holds the errors of a float32 sum: their part is None then."""
    if element(total.type) == float32:
        return widen(total) + widen(lost), None
    return total, lost


@lanewise
def add_sums(total, lost, other, other_lost):
    """The sum of two numbers from `lane_sums`, whose second parts may be as large as the first ones."""
    if lost is None:
        return total + other, None
    total, error = two_sum(total, other)
    return total, lost + other_lost + error
