"""The laws of the recurrence, on floats and on `Vec`, and the accuracy of what it is made of."""

import math
from fractions import Fraction

import mpmath
import numba
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from numba_softmax import expmath, online, pairs, simd, weights

LANES, UP = 8, expmath.FLOAT64.up
VEC, FLOAT64 = simd.Vec(numba.float64, LANES), simd.Stored("float64")
numbers = st.floats(-800, 800) | st.sampled_from([0.0, -math.inf, 1e300, -1e300])
states = st.lists(numbers, max_size=6)


@numba.njit
def state_of(x):
    state = online.identity(0.0, 0.0)
    for i in range(len(x)):
        state = online.push(state, x[i], None)
    return state


@numba.njit
def state_in_one_part(x):
    state = online.identity(0.0, None)
    for i in range(len(x)):
        state = online.push(state, x[i], None)
    return state


@numba.njit
def merged(a, b):
    return online.merge(a, b, None)


@numba.njit
def log_sum(state):
    return state[0] + online.log_sum(state)


def block_by(fold):
    """A jitted function: the state of a row of whole vectors by one fold, as the kernels make it."""
    frame_of, zero, add, closed, less = fold
    counts_ties = fold is weights.OTHERS

    @numba.njit
    def block_of(x):
        m = np.max(x)
        frame, unit = frame_of(m, None)
        sums = zero(VEC, m)
        for i in range(0, len(x), LANES):
            v = simd.load(VEC, FLOAT64, x.ctypes.data + 8 * i)
            sums = add(sums, weights.weigh(v, frame, None), v, simd.splat(VEC, m))
        total, lost, ties = closed(sums)
        total = pairs.times(pairs.sum_lanes(total, lost), 1 / UP)
        if counts_ties:
            return weights.block_state(m, total, less(m, pairs.sum_lanes(ties, simd.splat(VEC, 0.0))[0]), unit)
        return weights.block_state(m, total, less(m, None), unit)

    return block_of


FOLDS = [block_by(fold) for fold in (weights.ALL, weights.OTHERS)]


@numba.njit
def load_state(rows):
    """A state of LANES rows from three arrays."""
    return (
        simd.load(VEC, FLOAT64, rows[0].ctypes.data),
        simd.load(VEC, FLOAT64, rows[1].ctypes.data),
        simd.load(VEC, FLOAT64, rows[2].ctypes.data),
    )


@numba.njit
def store_state(rows, state):
    simd.store(FLOAT64, rows[0].ctypes.data, state[0])
    simd.store(FLOAT64, rows[1].ctypes.data, state[1])
    simd.store(FLOAT64, rows[2].ctypes.data, state[2])


@numba.njit
def merged_in_lanes(a, b, out):
    """`merge` of LANES states at once; states are rows of three arrays."""
    store_state(out, online.merge(load_state(a), load_state(b), None))


@numba.njit
def lanes_together(a, out):
    """`merge_lanes`, which gives the same state in every lane."""
    store_state(out, online.merge_lanes(load_state(a), None))


@numba.njit
def lanes_together_in_one_part(a, out):
    m, rest, zero = load_state(a)
    m, rest, _ = online.merge_lanes((m, rest, None), None)
    store_state(out, (m, rest, zero))


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
    assert state_in_one_part(np.array([])) == (-math.inf, -1.0, None)
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


@given(states, states, states)
def test_states_of_one_part_obey_the_laws_too(x, y, z):
    """To the precision of float64, which is more than what float32 results can show."""
    a, b, c = (state_in_one_part(np.array(v, float)) for v in (x, y, z))
    empty = state_in_one_part(np.array([]))
    assert merged(a, empty) == merged(empty, a) == a
    assert merged(a, b) == merged(b, a)
    exact = state_of(np.array([*x, *y, *z], float))
    for m, rest, rest_lo in (merged(merged(a, b), c), merged(a, merged(b, c))):
        assert rest_lo is None
        assert m == exact[0]
        l = 1 + exact[1] + exact[2]
        assert abs(1 + rest - l) <= 2.0**-47 * l


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_nan_and_infinity_stay_in_a_sum(bad):
    for x in ([bad, 1.0], [1.0, bad], [bad, -math.inf], [-math.inf, bad], [1.0, bad, 2.0]):
        if math.isnan(bad):
            assert math.isnan(log_sum(state_of(np.array(x))))
            assert math.isnan(log_sum(state_in_one_part(np.array(x))))
        else:
            assert state_of(np.array(x))[0] == state_in_one_part(np.array(x))[0] == math.inf


@pytest.mark.parametrize("deviation", [0.1, 5.0, 50.0, 1000.0])
@pytest.mark.parametrize("offset", [0.0, 300.0, -5000.0, 8200.0, -1e6, 1e30])
def test_pushes_give_what_one_fold_gives(deviation, offset):
    for n in (8, 64, 800):
        x = np.random.default_rng(n).normal(offset, deviation, n)
        x[::5] = x[0]  # ties
        m, *pushed = state_of(x)
        assert m == x.max()
        for block_of in FOLDS:
            m_folded, *folded = block_of(x)
            assert m == m_folded
            assert 1 + sum(folded) == pytest.approx(1 + sum(pushed), rel=4e-16)
        m_one_part, rest, _ = state_in_one_part(x)
        assert m == m_one_part
        assert 1 + rest == pytest.approx(1 + sum(pushed), rel=n * 2.0**-52)


@given(st.lists(states, min_size=2 * LANES, max_size=2 * LANES))
def test_lanes_merge_as_floats_do(rows):
    parts = [state_of(np.array(x, float)) for x in rows]
    a, b = np.array(parts[:LANES]).T.copy(), np.array(parts[LANES:]).T.copy()
    out = np.empty((3, LANES))
    merged_in_lanes(a, b, out)
    for i in range(LANES):
        np.testing.assert_array_equal(out[:, i], merged(parts[i], parts[LANES + i]))


def test_lanes_get_the_same_state_where_maxima_are_equal():
    generator = np.random.default_rng(8)
    for together in (lanes_together, lanes_together_in_one_part):
        for _ in range(1000):
            parts, out = np.zeros((3, LANES)), np.zeros((3, LANES))
            parts[1] = generator.uniform(0, 3, LANES)
            together(parts, out)
            np.testing.assert_array_equal(out, out[:, :1].repeat(LANES, 1))


@given(st.lists(states, min_size=LANES, max_size=LANES))
def test_lanes_are_merged_in_halves(rows):
    for make, together in ((state_of, lanes_together), (state_in_one_part, lanes_together_in_one_part)):
        states = [make(np.array(x, float)) for x in rows]
        parts = np.array([[0.0 if part is None else part for part in state] for state in states]).T.copy()
        out = np.zeros((3, LANES))
        together(parts, out)
        while len(states) > 1:
            half = len(states) // 2
            states = [merged(states[i], states[half + i]) for i in range(half)]
        expected = [0.0 if part is None else part for part in states[0]]
        np.testing.assert_array_equal(out, np.array(expected)[:, None].repeat(LANES, 1))


# ------------------------------------------------------------------------ parts


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
