"""The accuracy of exponentials and weights, of their parts, and of sums and products without errors."""

import math
from fractions import Fraction

import mpmath
import numba
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from numba_softmax.math import expmath, pairs, weights


@numba.njit
def two_sum(a, b):
    return pairs.two_sum(a, b)


@numba.njit
def fast_two_sum(a, b):
    return pairs.fast_two_sum(a, b)


@numba.njit
def gap(x, m):
    return weights.gap(x, m, None)


@numba.njit
def exp_pair(d, error):
    return expmath.exp_pair(d, error)


@numba.njit
def exps(d, error, m, m_error, out, units):
    for i in range(len(d)):
        top, units[i] = expmath.top_of(m[i], m_error[i])
        out[i] = expmath.rounded(expmath.exp_parts(d[i], error[i], top))


@numba.njit
def exps_without_errors(d, m, out, units):
    for i in range(len(d)):
        top, units[i] = expmath.top_of(m[i], None)
        out[i] = expmath.rounded(expmath.exp_parts(d[i], None, top))


@numba.njit
def parts_of_exps(d, m, power, head, tail):
    for i in range(len(d)):
        power[i], head[i], tail[i] = expmath.exp_parts(d[i], None, expmath.top_of(m[i], None)[0])


@numba.njit
def narrow_weights_of(x, m, out, units):
    for i in range(len(x)):
        out[i] = weights.narrow_weigh(x[i], weights.narrow_frame_of(m[i], None)[0], None)


@numba.njit
def weights_of(x, m, out, units):
    for i in range(len(x)):
        frame, units[i] = weights.frame_of(m[i], None)
        out[i] = expmath.rounded(weights.weigh(x[i], frame, None))


@numba.njit
def scaled_weights_of(x, m, factor, factor_lo, out, units):
    one = factor.dtype.type(1)
    for i in range(len(x)):
        scale = one, factor[i], factor_lo[i]
        frame, units[i] = weights.frame_of(m[i], scale)
        out[i] = expmath.rounded(weights.weigh(x[i], frame, scale))


moderate = st.floats(-1e150, 1e150)


@given(moderate, moderate)
def test_two_sum_loses_nothing(a, b):
    s, error = two_sum(a, b)
    assert s == a + b
    assert Fraction(s) + Fraction(error) == Fraction(a) + Fraction(b)
    larger, smaller = (a, b) if abs(a) >= abs(b) else (b, a)
    s, error = fast_two_sum(larger, smaller)
    assert Fraction(s) + Fraction(error) == Fraction(a) + Fraction(b)


@given(moderate, moderate)
def test_a_gap_loses_nothing(x, m):
    d, error = gap(x, m)
    assert Fraction(d) + Fraction(error) == Fraction(x) - Fraction(m)


def relative_error(value, d, up):
    """That of a number, or of a sum of some, for `up` times exp(d), where `d` is a number or a sum of some."""
    with mpmath.workdps(60):
        exact = mpmath.exp(sum(map(mpmath.mpf, d))) * mpmath.mpf(up)
        return float(abs(sum(map(mpmath.mpf, value)) / exact - 1))


def test_exp_pair_is_good_to_about_58_bits():
    rng, up = np.random.default_rng(0), expmath.FLOAT64.up
    for d in np.concatenate([np.linspace(-710, 0, 4000), -abs(rng.normal(0, 1, 500)), -(10.0 ** -np.arange(1, 30))]):
        error = float(np.spacing(d) * rng.uniform(-0.5, 0.5))
        assert relative_error(exp_pair(float(d), error), (float(d), error), up) <= 2.0**-58
        value, none = exp_pair(float(d), None)
        assert none is None
        assert relative_error([value], (float(d),), up) <= 1.3 * 2.0**-53
    assert exp_pair(0.0, 0.0) == (up, 0.0)
    assert exp_pair(0.0, None) == (up, None)
    assert exp_pair(-1000.0, 0.0) == exp_pair(-math.inf, 0.0) == (0.0, 0.0)
    assert exp_pair(-1000.0, None) == exp_pair(-math.inf, None) == (0.0, None)
    assert math.isnan(exp_pair(math.nan, None)[0])
    assert math.isnan(sum(exp_pair(math.nan, 0.0)))


def test_exp_pair_is_good_to_28_bits_in_float32():
    rng, up = np.random.default_rng(0), expmath.FLOAT32.up
    gaps = np.concatenate([np.linspace(-128, 0, 4000), -abs(rng.normal(0, 1, 500)), -(10.0 ** -np.arange(1, 20))])
    for d in gaps.astype(np.float32):
        error = np.float32(np.spacing(d) * rng.uniform(-0.5, 0.5))
        assert relative_error(map(float, exp_pair(d, error)), (float(d), float(error)), up) <= 2.0**-28
    assert exp_pair(np.float32(0), np.float32(0)) == (up, 0.0)


FORMATS = {np.float32: expmath.FLOAT32, np.float64: expmath.FLOAT64}
UNITS = {np.float32: 2.0**-24, np.float64: 2.0**-53}
NORMAL_FROM = {kind: (fmt.floor + 2.5) * expmath.LN2 for kind, fmt in FORMATS.items()}
"""From there on exponentials times `up` are normal numbers; those below have fewer bits, down to none at the floor."""
each_kind = pytest.mark.parametrize("kind", FORMATS)


def tops_and_gaps(kind, count, reach, seed=0):
    """Maxima within `reach` and gaps below them that exp has a value for, small and large ones of both."""
    rng, floor = np.random.default_rng(seed), FORMATS[kind].floor * expmath.LN2
    m = np.concatenate([rng.uniform(-reach, reach, count), reach * 2.0 ** rng.uniform(-45, 0, count)])
    m = rng.permutation(m * rng.choice([-1, 1], 2 * count))
    gaps = np.concatenate([rng.uniform(floor, 0, count), floor * 2.0 ** rng.uniform(-45, 0, count)])
    m[:4] = 0.0, reach, -reach, reach / 2
    return m.astype(kind), gaps


def exact_exp(*parts):
    """The longdouble exponential of a sum of float64 numbers, whose first one outweighs the others."""
    hi, lo = np.float64(parts[0]), 0.0
    for part in parts[1:]:
        total = hi + part
        v = total - hi
        lo, hi = lo + ((hi - (total - v)) + (part - v)), total
    return np.exp(np.longdouble(hi)) * (1 + np.longdouble(lo))


def assert_good_to_one_unit(out, exact, kind, above):
    """Relative errors, where `above` all that is not a normal number; elsewhere there may be less."""
    error = np.abs(out.astype(np.longdouble) / FORMATS[kind].up - exact) / exact
    worst = np.argmax(np.where(above, error, 0))
    assert error[worst] <= 1.3 * UNITS[kind], worst
    assert (above | (out < 4 * np.finfo(kind).tiny)).all()


@each_kind
def test_exp_is_good_to_one_unit(kind):
    m, gaps = tops_and_gaps(kind, 200_000, expmath.FAR)
    d = np.minimum((m + gaps).astype(kind), m)
    out, units = np.empty_like(d), np.empty_like(d)
    exps_without_errors(d, m, out, units)
    wide_d, wide_m = d.astype(float), m.astype(float)
    assert_good_to_one_unit(out, exact_exp(wide_d, -wide_m) * units, kind, d >= m + kind(NORMAL_FROM[kind]))


@each_kind
def test_exp_is_good_to_one_unit_with_errors(kind):
    m, gaps = tops_and_gaps(kind, 200_000, expmath.FAR, seed=1)
    d = np.minimum((m + gaps).astype(kind), m)
    rng = np.random.default_rng(2)
    error, m_error = (np.spacing(v) * rng.uniform(-0.5, 0.5, v.shape).astype(kind) for v in (d, m))
    m_error = np.where(d == m, error, m_error)
    out, units = np.empty_like(d), np.empty_like(d)
    exps(d, error, m, m_error, out, units)
    parts = (v.astype(float) for v in (d, -m, error, -m_error))
    assert_good_to_one_unit(out, exact_exp(*parts) * units, kind, d >= m + kind(NORMAL_FROM[kind]))


@each_kind
def test_exp_is_exact_at_the_maximum_and_zero_below_the_floor(kind):
    up, floor = FORMATS[kind].up, (FORMATS[kind].floor - 0.5) * expmath.LN2
    m, _ = tops_and_gaps(kind, 50_000, expmath.FAR, seed=3)
    out, units = np.empty_like(m), np.empty_like(m)
    exps_without_errors(m, m, out, units)
    assert (out == up * units).all()
    m_error = np.spacing(m) / kind(2.5)
    exps(m, m_error, m, m_error, out, units)
    assert (out == up * units).all()
    for d in (m + kind(1.01 * floor), m - kind(1e6), m - kind(1e30), np.full_like(m, -np.inf)):
        d = np.where(d < m + kind(floor), d, m + kind(floor - 1))
        exps_without_errors(d, m, out, units)
        assert (out == 0).all()
        exps(d, np.zeros_like(d), m, np.zeros_like(d), out, units)
        assert (out == 0).all()
    for make in (exps_without_errors, narrow_weights_of) if kind is np.float32 else (exps_without_errors,):
        make(np.full_like(m, np.nan), m, out, units)
        assert np.isnan(out).all()


def test_narrow_weights_are_good_enough_for_16_bits():
    fmt = expmath.FLOAT32
    floor = expmath.NARROW_FLOOR
    m, gaps = tops_and_gaps(np.float32, 200_000, 2 * expmath.FAR, seed=4)
    x = np.minimum((m + gaps).astype(np.float32), m)
    out = np.empty_like(x)
    narrow_weights_of(x, m, out, None)
    d = x.astype(float) - m
    exact = exact_exp(x.astype(float), -m.astype(float))
    error = np.abs(out / np.longdouble(fmt.up) - exact) / exact
    assert error[d >= floor].max() <= 2.0**-17
    assert error[d >= -17.4].max() <= 2.0**-19  # all that float16 can hold
    assert (out[x - m < np.float32(floor)] == 0).all()
    narrow_weights_of(m, m, out, None)
    assert (out == fmt.up).all()


@each_kind
@pytest.mark.parametrize("reach", [1e-3, 10.0, expmath.FAR, 1.001 * expmath.FAR, 2 * expmath.FAR, 1e6, 1e30])
def test_weights_are_good_to_one_unit(kind, reach):
    m, gaps = tops_and_gaps(kind, 20_000, reach, seed=5)
    x = np.minimum((m + gaps).astype(kind), m)
    x[::7] = m[::7]
    out, units = np.empty_like(x), np.empty_like(x)
    weights_of(x, m, out, units)
    exact = exact_exp(x.astype(float), -m.astype(float)) * units
    assert_good_to_one_unit(out, exact, kind, x.astype(np.longdouble) - m > NORMAL_FROM[kind])
    assert (out[::7] == units[::7] * FORMATS[kind].up).all()
    for far_below in (x - np.abs(m) - kind(800), np.full_like(x, -np.inf), np.full_like(x, np.finfo(kind).min)):
        weights_of(far_below, m, out, units)
        assert (out == 0).all()
    weights_of(np.full_like(x, np.nan), m, out, units)
    assert np.isnan(out).all()
    weights_of(np.full_like(x, -np.inf), np.full_like(x, -np.inf), out, units)
    assert (out == 0).all()


@pytest.mark.parametrize("kind", [np.float32, np.float64])
@pytest.mark.parametrize("reach", [1e-3, 10.0, expmath.FAR, 1.001 * expmath.FAR, 1e6, 1e30])
def test_scaled_weights_are_good_to_one_unit(kind, reach):
    m, gaps = tops_and_gaps(kind, 1500, reach, seed=6)
    wide_factor = 10.0 ** np.random.default_rng(7).uniform(-20, 5, m.shape)
    if kind is np.float32:
        factor = wide_factor.astype(kind)
        factor_lo = (wide_factor - factor).astype(kind)
    else:
        factor, factor_lo = wide_factor, np.zeros_like(wide_factor)
    largest = np.finfo(kind).max / 4
    m = np.clip(m / wide_factor, -largest, largest).astype(kind)  # so that the scaled maxima are within reach
    x = np.minimum((m + gaps / wide_factor).astype(kind), m)
    x[::7] = m[::7]
    out, units = np.empty_like(x), np.empty_like(x)
    scaled_weights_of(x, m, factor, factor_lo, out, units)
    assert (out[x == m] == units[x == m] * FORMATS[kind].up).all()
    with mpmath.workdps(60):
        for i in range(len(x)):
            scale = mpmath.mpf(float(factor[i])) + mpmath.mpf(float(factor_lo[i]))
            d = scale * (mpmath.mpf(float(x[i])) - mpmath.mpf(float(m[i])))
            if d > NORMAL_FROM[kind]:
                exact = mpmath.exp(d) * FORMATS[kind].up * float(units[i])
                assert abs(mpmath.mpf(float(out[i])) / exact - 1) <= 1.3 * UNITS[kind], (x[i], m[i], wide_factor[i])
    scaled_weights_of(np.full_like(x, -np.inf), m, factor, factor_lo, out, units)
    assert (out == 0).all()
    scaled_weights_of(np.full_like(x, np.nan), m, factor, factor_lo, out, units)
    assert np.isnan(out).all()
