"""The laws of the recurrence, on floats and on `Vec`."""

import math
from fractions import Fraction

import mpmath
import numba
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from numba_softmax.math import expmath, folds, memory, online, simd, weights
from numba_softmax.math.lanewise import lanewise

LANES, UP = 8, expmath.FLOAT64.up
VEC, FLOAT64 = simd.Vec(numba.float64, LANES), memory.Stored("float64")
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
    frame_of, zero, add = fold.frame_of, fold.zero, fold.add

    @lanewise
    def state_of_sums(m, sums, unit):
        return fold.block_state(m, folds.sum_lanes(fold, sums, 1 / UP), unit)

    @numba.njit
    def block_of(x):
        m = np.max(x)
        frame, unit = frame_of(m, None)
        sums = zero(VEC, m)
        for i in range(0, len(x), LANES):
            v = memory.load(VEC, FLOAT64, x.ctypes.data + 8 * i)
            sums = add(sums, weights.weigh(v, frame, None), v, simd.splat(VEC, m), ())
        return state_of_sums(m, sums, unit)

    return block_of


FOLDS = [block_by(fold) for fold in (folds.ALL, folds.OTHERS)]


@numba.njit
def load_state(rows):
    """A state of LANES rows from three arrays."""
    return (
        memory.load(VEC, FLOAT64, rows[0].ctypes.data),
        memory.load(VEC, FLOAT64, rows[1].ctypes.data),
        memory.load(VEC, FLOAT64, rows[2].ctypes.data),
    )


@numba.njit
def store_state(rows, state):
    memory.store(FLOAT64, rows[0].ctypes.data, state[0])
    memory.store(FLOAT64, rows[1].ctypes.data, state[1])
    memory.store(FLOAT64, rows[2].ctypes.data, state[2])


@numba.njit
def merged_in_lanes(a, b, out):
    """`merge` of LANES states at once; states are rows of three arrays."""
    store_state(out, online.merge(load_state(a), load_state(b), None))


@lanewise
def merge_lanes(state):
    return folds.merge_lanes(folds.ALL, state, None)


@numba.njit
def lanes_together(a, out):
    """`merge_lanes`, which gives the same state in every lane."""
    store_state(out, merge_lanes(load_state(a)))


@numba.njit
def lanes_together_in_one_part(a, out):
    m, rest, zero = load_state(a)
    m, rest, _ = merge_lanes((m, rest, None))
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
