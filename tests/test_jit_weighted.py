"""Weighted logsumexp in jitted code is right for all that float64 can hold, and so are its signs."""

import math
from fractions import Fraction

import mpmath
import numba
import numpy as np
import pytest
from mpmath import mpf

from numba_softmax import jit  # what makes SciPy's function compile

special = pytest.importorskip("scipy.special", reason="SciPy's function is compiled")


@numba.njit
def lse(a, b):
    return special.logsumexp(a, b=b, return_sign=True)


@numba.njit
def lse_of_rows(a, b):
    return special.logsumexp(a, axis=-1, b=b, return_sign=True)


def exact_sum(terms, shift):
    return mpmath.fsum(mpf(w) * mpmath.exp(mpf(v) - shift) for v, w in terms)


def exact(a, b):
    """The logarithm of the absolute sum, its sign, and the largest logarithm of a term."""
    terms = [(v, w) for v, w in zip(a.tolist(), b.tolist(), strict=True) if w and v > -math.inf]
    weights = {v: Fraction(0) for v, _ in terms}
    for v, w in terms:
        weights[v] += Fraction(w)
    left = [(v, mpf(w.numerator) / w.denominator) for v, w in weights.items() if w]
    maximum = max((mpf(v) + mpmath.log(abs(w)) for v, w in terms), default=-math.inf)
    if not left:
        return -math.inf, 0, maximum
    shift = max(mpf(v) + mpmath.log(abs(w)) for v, w in left)
    total = exact_sum(left, shift)
    return shift + mpmath.log(abs(total)), mpmath.sign(total), maximum


def assert_right(a, b, digits=700):
    """To 2 units in the last place of the larger of result and maximum."""
    a, b = np.array(a, float), np.array(b, float)
    result, sign = lse(a, b)
    with mpmath.workdps(digits):
        log, sign_of_sum, maximum = exact(a, b)
        assert sign == sign_of_sum, (a, b)
        if sign == 0:
            assert result == -math.inf
            return
        unit = math.ulp(max(abs(float(log)), abs(float(maximum))))
        assert abs(mpf(result) - log) <= 2 * mpf(unit), (a, b, result, log)


FAR = {
    "small weight beside a large one": ([0.0, -800], [1e-300, 1e300]),
    "large weight of a small element": ([-1000.0, 0], [1e308, 5e-324]),
    "subnormal weights": ([0.0, -1], [5e-324, 5e-324]),
    "sum of weights overflows": ([1.0, 2], [1.7e308, 1.7e308]),
    "sum overflows on the way": ([0.0, 0, 0], [1e308, 1e308, -1e308]),
    "difference of elements overflows": ([1.7e308, -1.7e308], [5e-324, 1.7e308]),
    "largest numbers": ([1.7e308, 1.7e308], [1.7e308, 1.7e308]),
    "lowest numbers": ([-1.7e308, -1.7e308], [1.7e308, -5e-324]),
    "subnormal elements": ([5e-324, -5e-324], [1.0, 2.0]),
    "result of 0": ([0.0, -math.inf], [1.0, 1.0]),
    "subnormal result": ([5e-324], [1.0]),
    "result nearly 0": ([0.0, -1e6], [1.0, 1.0]),
    "result nearly 0, of a large weight": ([1.0], [math.exp(-1)]),
    "a share of nearly all": ([-4.24835425529159e-18, -40.0], [1.0, 1.0]),
}
CANCELLING = {
    "elements one unit apart": ([0.0, 1e-16], [1.0, -1.0]),
    "weights one unit apart": ([0.0, 0.0], [1.0, np.nextafter(-1, 0)]),
    "elements a subnormal apart": ([0.0, 5e-324], [1.0, -1.0]),
    "rounded e": ([1000.0, 999], [1.0, -math.e]),
    "rounded e, three units off": ([1.0, 0], [-1.0, math.e + 3 * 2.0**-51]),
    "neighbours far from 0": ([1e15, np.nextafter(1e15, 0)], [1.0, -1.0]),
    "weights of neighbours far from 0": ([-5000.0, -5000 + 2.0**-40], [1e300, -1e300]),
    "nothing left": ([0.0, 0, 1, 1], [1.0, -1.0, 1e-300, -1e-300]),
    "nothing left of three": ([7.0, 7, 7], [0.1 + 0.2, -0.25, 0.25 - (0.1 + 0.2)]),
    "far less left": ([1e300, 1e300, 0], [1.0, -1.0, 1.0]),
    "far less left, and negative": ([700.0, 700, 1e5, -900, 1e5], [2.0, -2.0, 1.0, -5e-324, -1.0]),
    "two levels apart": ([50.0, 50, -1e4, -1e4, -1e300], [3.0, -3.0, 5.0, -5.0, -2.0]),
    "a subnormal left of the largest": ([0.0, 0, 0], [1.7e308, -1.7e308, 5e-324]),
    "one, and a subnormal": ([0.0, 0, 0, 0], [1.7e308, -1.7e308, 1.0, 5e-324]),
}


@pytest.mark.parametrize("case", FAR)
def test_far_magnitudes_neither_overflow_nor_underflow(case):
    assert_right(*FAR[case])


@pytest.mark.parametrize("case", CANCELLING)
def test_sums_that_cancel_keep_their_digits_and_sign(case):
    assert_right(*CANCELLING[case])
    a, b = CANCELLING[case]
    assert_right(a, [-w for w in b])


def anything(generator, n):
    """Numbers of any magnitude, the ends of float64's range among them."""
    numbers = np.ldexp(generator.uniform(1, 2, n) * generator.choice([-1, 1], n), generator.integers(-1074, 1024, n))
    ends = generator.choice([5e-324, 1.7976931348623157e308, 2.0**-1022, 0.0], n) * generator.choice([-1, 1], n)
    return np.where(generator.random(n) < 0.9, numbers, ends)


def test_any_weights_of_any_elements_are_right():
    generator = np.random.default_rng(0)
    for _ in range(60):
        n = int(generator.integers(1, 12))
        assert_right(generator.normal(0, 3, n), generator.normal(size=n))
        assert_right(generator.normal(0, 300, n), anything(generator, n))
        assert_right(np.append(anything(generator, n), generator.normal(size=n)), anything(generator, 2 * n))
        edge = anything(generator, 1)[0]
        near = np.where(generator.random(n) < 0.5, edge, np.nextafter(edge, 0))
        assert_right(near, anything(generator, n))
        assert_right(near, generator.normal(size=n))


def cancelling_row(generator, levels):
    """A row in which a term, once for each level, takes what is left of the sum, rounded."""
    a = generator.normal(generator.choice([0.0, 1000.0, -3000.0, 5000.0, -1e6]), 2, 2 + levels)
    b = generator.normal(size=2).tolist()
    for v in a[2:]:
        b.append(float(-exact_sum(zip(a.tolist(), b, strict=False), mpf(v))))
    return a, b


@pytest.mark.parametrize("levels", [1, 2, 3, 9])
def test_remainders_that_are_taken_off_leave_the_right_remainder(levels):
    generator = np.random.default_rng(levels)
    for _ in range(40 // levels):
        with mpmath.workdps(700):
            a, b = cancelling_row(generator, levels)
        order = generator.permutation(len(a))
        assert_right(a[order], np.array(b)[order])


def test_sums_of_nearly_one_are_right_to_the_last_places_of_the_largest_term():
    generator = np.random.default_rng(4)
    for _ in range(20):
        a, b = generator.normal(0, 2, 3), generator.normal(size=2).tolist()
        with mpmath.workdps(700):
            left = generator.choice([-1, 1]) - exact_sum(zip(a.tolist(), b, strict=False), 0)
            b.append(float(left / mpmath.exp(a[2])))
        assert_right(a, b)


def test_a_remainder_far_below_elements_far_from_0_is_right():
    """More is lost to cancellation than the result's distance from 0."""
    generator = np.random.default_rng(5)
    with mpmath.workdps(1000):
        a, b = [4100.0], [5e-324]
        for _ in range(40):
            left = exact_sum(zip(a, b, strict=True), 4100)
            a.append(float(4100 + mpmath.log(abs(left)) + generator.normal()))
            b.append(float(-left * mpmath.exp(4100 - mpf(a[-1]))))
        assert exact(np.array(a), np.array(b))[0] < 2000
    assert_right(a, b, 1000)


@pytest.mark.parametrize("n", [1, 7, 8, 9, 511, 512, 513, 3000])
def test_rows_of_any_length_and_step_are_right(n):
    generator = np.random.default_rng(n)
    a, b = generator.normal(0, 5, (2, 2 * n))
    a[n // 2], b[n // 2] = 30.0, 1e-8
    for step in (1, 2, -1):
        assert_right(a[::step][:n], b[::step][:n], 60)
    b[: n // 2 * 2] *= 1e290
    a[: n // 2] = a[n // 2 : n // 2 * 2] + 1e-12  # sums of pairs are lost to their rounding
    b[: n // 2] = -b[n // 2 : n // 2 * 2]
    assert_right(a[:n], b[:n], 60)


def test_weights_of_one_change_nothing():
    generator = np.random.default_rng(8)
    for n in (1, 5, 100):
        a = generator.normal(0, 20, n)
        result, sign = lse(a, np.ones(n))
        assert sign == 1
        assert result == pytest.approx(jit.logsumexp(a), rel=4 * 2.0**-52, abs=0)


def test_a_row_does_not_depend_on_the_others():
    generator = np.random.default_rng(6)
    a, b = generator.normal(0, 50, (2, 9, 4))
    a[3], b[3] = [1.0, 1.0, 2.0, 2.0], [1.0, -1.0, 1e-3, -1e-3]
    a[5], b[5] = [1.0, 0.0, -math.inf, 0.0], [-1.0, math.e, 3.0, 0.0]
    results, signs = lse_of_rows(a, b)
    assert [(r, s) for r, s in zip(results, signs, strict=True)] == [lse(*row) for row in zip(a, b, strict=True)]


def test_float32_results_are_those_of_float64_rounded():
    generator = np.random.default_rng(7)
    a, b = generator.normal(0, 20, (2, 40, 6)).astype("f4")
    a[0, :2], b[0, :2] = [0, 2.0**-149], [1, -1]
    a[1], b[1] = 3e38, 1e-45
    results, signs = lse_of_rows(a, b)
    of_float64 = lse_of_rows(a.astype("f8"), b.astype("f8"))
    assert results.dtype == signs.dtype == "f4"
    assert np.array_equal(results, of_float64[0].astype("f4"))
    assert np.array_equal(signs, of_float64[1])


def test_weights_without_end_give_what_ieee_754_makes_of_their_terms():
    inf, nan = math.inf, math.nan
    for a, b, result, sign in (
        ([0.0, 1.0], [inf, 1.0], inf, 1),
        ([0.0, 1.0], [-inf, 1e300], inf, -1),
        ([0.0, inf], [-inf, -1.0], inf, -1),
        ([0.0, 1.0], [inf, -inf], nan, nan),
        ([0.0, 1.0], [nan, 1.0], nan, nan),
        ([-inf, 1.0], [inf, 1.0], nan, nan),
        ([-inf, 1.0], [-1e308, 1.0], 1.0, 1),
        ([nan, inf, 3.0], [0.0, 0.0, 1.0], 3.0, 1),
    ):
        np.testing.assert_equal(lse(np.array(a), np.array(b)), (result, sign))
