"""The laws of the recurrence, on floats and on `Vec`, and the accuracy of what it is made of."""

import math
from fractions import Fraction

import mpmath
import numba
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from numba_softmax import expmath, online, simd

LANES, UP = 8, expmath.FLOAT64.up
VEC, FLOAT64 = simd.Vec(numba.float64, LANES), simd.Stored("float64")
numbers = st.floats(-800, 800) | st.sampled_from([0.0, -math.inf, 1e300, -1e300])
states = st.lists(numbers, max_size=6)


@numba.njit
def state_of(x):
    state = online.identity(0.0)
    for i in range(len(x)):
        state = online.push(state, x[i], None)
    return state


@numba.njit
def merged(a, b):
    return online.merge(a, b, None)


@numba.njit
def log_sum(state):
    return state[0] + online.log_sum(state)


@numba.njit
def block_of(x):
    """The state of a row of whole vectors by one fold, as the kernels make it."""
    m = np.max(x)
    shift = online.shift_of(m)
    total = lost = ties = simd.splat(VEC, 0.0)
    for i in range(0, len(x), LANES):
        v = simd.load(VEC, FLOAT64, x.ctypes.data + 8 * i)
        total, lost, ties = online.add_other(total, lost, ties, online.weight(v, shift, None), v, shift)
    total, lost = online.sum_lanes(total, lost)
    ties = online.sum_lanes(ties, simd.splat(VEC, 0.0))[0]
    return online.block_state(m, total / UP, lost / UP, 1.0 - ties)


@numba.njit
def merged_in_lanes(a, b, out):
    """`merge` of LANES states at once; states are rows of three arrays."""
    x = (
        simd.load(VEC, FLOAT64, a[0].ctypes.data),
        simd.load(VEC, FLOAT64, a[1].ctypes.data),
        simd.load(VEC, FLOAT64, a[2].ctypes.data),
    )
    y = (
        simd.load(VEC, FLOAT64, b[0].ctypes.data),
        simd.load(VEC, FLOAT64, b[1].ctypes.data),
        simd.load(VEC, FLOAT64, b[2].ctypes.data),
    )
    state = online.merge(x, y, None)
    simd.store(FLOAT64, out[0].ctypes.data, state[0])
    simd.store(FLOAT64, out[1].ctypes.data, state[1])
    simd.store(FLOAT64, out[2].ctypes.data, state[2])


def same(a, b):
    """Whether two states are one up to rounding: the maximum exactly, the sum to 100 bits or so."""
    if a[0] != b[0]:
        return False
    l_a, l_b = (Fraction(1) + Fraction(rest) + Fraction(lo) for _, rest, lo in (a, b))
    return l_a == l_b or abs(l_a - l_b) <= abs(l_b) * Fraction(1, 2**57)


@given(states)
def test_the_identity_changes_nothing(x):
    state = state_of(np.array(x, float))
    empty = state_of(np.array([]))
    assert empty[0] == -math.inf
    assert 1.0 + empty[1] + empty[2] == 0.0
    for together in (merged(state, empty), merged(empty, state)):
        assert together[0] == state[0]
        assert Fraction(together[1]) + Fraction(together[2]) == Fraction(state[1]) + Fraction(state[2])


@given(states, states)
def test_merge_is_commutative(x, y):
    a, b = state_of(np.array(x, float)), state_of(np.array(y, float))
    assert same(merged(a, b), merged(b, a))


@given(states, states, states)
def test_merge_is_associative(x, y, z):
    a, b, c = (state_of(np.array(v, float)) for v in (x, y, z))
    assert same(merged(merged(a, b), c), merged(a, merged(b, c)))


@given(states)
def test_a_state_is_the_maximum_and_the_sum(x):
    m, rest, lo = state_of(np.array(x, float))
    finite = [v for v in x if v > -math.inf]
    assert m == max(x, default=-math.inf)
    with mpmath.workdps(60):
        exact = sum((mpmath.exp(mpmath.mpf(v) - mpmath.mpf(m)) for v in finite), mpmath.mpf(0))
        got = 1 + mpmath.mpf(rest) + mpmath.mpf(lo)
        assert abs(got - exact) <= exact * mpmath.mpf(2) ** -56 if finite else got == 0


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_nan_and_infinity_stay_in_a_sum(bad):
    for x in ([bad, 1.0], [1.0, bad], [bad, -math.inf], [-math.inf, bad], [1.0, bad, 2.0]):
        if math.isnan(bad):
            assert math.isnan(log_sum(state_of(np.array(x))))
        else:
            assert state_of(np.array(x))[0] == math.inf


@pytest.mark.parametrize("deviation", [0.1, 5.0, 50.0, 1000.0])
@pytest.mark.parametrize("offset", [0.0, 300.0, -5000.0])
def test_pushes_give_what_one_fold_gives(deviation, offset):
    for n in (8, 64, 800):
        x = np.random.default_rng(n).normal(offset, deviation, n)
        x[::5] = x[0]  # ties
        (m, *pushed), (m_folded, *folded) = state_of(x), block_of(x)
        assert m == m_folded == x.max()
        assert 1 + sum(folded) == pytest.approx(1 + sum(pushed), rel=4e-16)


@given(st.lists(states, min_size=2 * LANES, max_size=2 * LANES))
def test_lanes_merge_as_floats_do(rows):
    parts = [state_of(np.array(x, float)) for x in rows]
    a, b = np.array(parts[:LANES]).T.copy(), np.array(parts[LANES:]).T.copy()
    out = np.empty((3, LANES))
    merged_in_lanes(a, b, out)
    for i in range(LANES):
        np.testing.assert_array_equal(out[:, i], merged(parts[i], parts[LANES + i]))


# ------------------------------------------------------------------------ parts


@numba.njit
def two_sum(a, b):
    return expmath.two_sum(a, b)


@numba.njit
def fast_two_sum(a, b):
    return expmath.fast_two_sum(a, b)


@numba.njit
def gap(x, m):
    return online.gap(x, m, None)


@numba.njit
def exp_wide(d, error):
    return expmath.exp_wide(d, error)


@numba.njit
def exp_up(d, error):
    return expmath.exp_up(d, error)


@numba.njit
def narrow_exp_up(d):
    return expmath.narrow_exp_up(d)


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


def test_exp_wide_is_good_to_about_58_bits():
    rng = np.random.default_rng(0)
    for d in np.concatenate([np.linspace(-640, 128, 3000), rng.normal(0, 1, 500), -(10.0 ** -np.arange(1, 30))]):
        error = float(np.spacing(d) * rng.uniform(-0.5, 0.5))
        assert relative_error(exp_wide(float(d), error), (float(d), error), 1) <= 2.0**-58
    assert exp_wide(0.0, 0.0) == (1.0, 0.0)
    assert exp_wide(-1000.0, 0.0) == exp_wide(-math.inf, 0.0) == (0.0, 0.0)


@pytest.mark.parametrize("kind", [np.float32, np.float64])
def test_exp_up_is_good_to_one_unit(kind):
    fmt = expmath.FLOAT32 if kind is np.float32 else expmath.FLOAT64
    rng = np.random.default_rng(1)
    for d in np.concatenate([np.linspace(fmt.floor, 0, 3000), -rng.random(500), -(10.0 ** -np.arange(1, 20))]):
        d = kind(d)
        error = kind(np.spacing(d) * rng.uniform(-0.5, 0.5))
        value, exact = exp_up(d, error), (float(d), float(error))
        assert type(value) in (float, np.float32)
        with mpmath.workdps(40):
            exactly = float(mpmath.exp(sum(map(mpmath.mpf, exact))) * mpmath.mpf(fmt.up))
        assert relative_error([float(value)], exact, fmt.up) * exactly <= 0.7 * np.spacing(kind(exactly))


def test_exp_up_below_its_floor_is_zero():
    for kind in (np.float32, np.float64):
        for d in (-1e6, -math.inf, -900.0):
            assert exp_up(kind(d), kind(0)) == 0.0
        assert math.isnan(exp_up(kind(math.nan), kind(0)))
        assert exp_up(kind(0), kind(0)) == (expmath.FLOAT32 if kind is np.float32 else expmath.FLOAT64).up


def test_narrow_exp_is_good_to_23_bits():
    for d in np.linspace(-80, 0, 3000).astype(np.float32):
        assert relative_error([float(narrow_exp_up(d))], (float(d),), expmath.FLOAT32.up) <= 2.0**-22.5
