"""States of two numbers obey the laws of sums, in float32, float64 and vectors, on the CPU."""

import math

import mpmath
import numba
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from naive import naive

from numba_softmax import jit

FLOATS = {"f4": np.float32, "f8": np.float64}
EMPTY = -math.inf, 0.0
each_float = pytest.mark.parametrize("dtype", FLOATS)


@numba.njit
def pushed(x, m, l):
    for i in range(len(x)):
        m, l = jit.push(m, l, x[i])
    return m, l, jit.lse(m, l)


@numba.njit
def merged(states):
    """A state in the type of the rows of `states`, merged in order."""
    m, l = states[0, 0], states[0, 1]
    for i in range(1, len(states)):
        m, l = jit.merge(m, l, states[i, 0], states[i, 1])
    return m, l


def state_of(x, dtype="f8"):
    one = FLOATS[dtype]
    return pushed(np.asarray(x, dtype), one(-math.inf), one(0))


def merge(*states, dtype="f8"):
    return merged(np.array(states, dtype))


def near(a, b, relative):
    return a[0] == b[0] and a[1] == pytest.approx(b[1], rel=relative)


ROUNDING = {"f4": 2.0**-23, "f8": 2.0**-52}
numbers = st.floats(-80, 80, width=32) | st.sampled_from([0.0, -math.inf, 3e38, -3e38])
rows = st.lists(numbers, max_size=8)
weights = st.floats(2.0**-100, 2.0**100, width=32) | st.sampled_from([1e-20, 1e30, 1.0])
states = st.tuples(st.floats(-60, 60, width=32), weights) | st.just(EMPTY)


@each_float
@given(x=rows)
def test_a_state_is_the_maximum_and_the_sum(dtype, x):
    m, l, lse = state_of(x, dtype)
    assert m == max(map(FLOATS[dtype], x), default=-math.inf)
    exact = sum(math.exp(float(FLOATS[dtype](v)) - float(m)) for v in x if v > -math.inf)
    assert l == pytest.approx(exact, rel=2 * (len(x) + 1) * ROUNDING[dtype])
    if l:
        assert lse == pytest.approx(m + math.log(exact), rel=20 * ROUNDING[dtype], abs=20 * ROUNDING[dtype])
    else:
        assert lse == -math.inf


@each_float
@given(a=states)
def test_the_empty_state_changes_nothing(dtype, a):
    a = tuple(map(FLOATS[dtype], a))
    assert merge(a, EMPTY, dtype=dtype) == merge(EMPTY, a, dtype=dtype) == a


@each_float
@given(a=states, b=states, c=states)
def test_merge_is_commutative_and_associative(dtype, a, b, c):
    assert merge(a, b, dtype=dtype) == merge(b, a, dtype=dtype)
    left = merge(merge(a, b, dtype=dtype), c, dtype=dtype)
    right = merge(a, merge(b, c, dtype=dtype), dtype=dtype)
    assert near(left, right, 200 * ROUNDING[dtype])  # gaps of up to 120 are rounded once more on one side


@each_float
@given(a=states, b=states)
def test_a_merge_loses_no_weight_large_or_small(dtype, a, b):
    m, l = merge(a, b, dtype=dtype)
    with mpmath.workdps(40):
        parts = [
            mpmath.mpf(float(FLOATS[dtype](w))) * mpmath.exp(mpmath.mpf(v) - mpmath.mpf(m)) for v, w in (a, b) if w
        ]
        exact = sum(parts, mpmath.mpf(0))
        assert abs(l - exact) <= exact * 70 * ROUNDING[dtype] / 2 + np.finfo(dtype).tiny


def test_merging_the_empty_state_with_itself_gives_it():
    assert merge(EMPTY, EMPTY) == EMPTY
    assert jit.lse(*EMPTY) == -math.inf


@each_float
def test_infinities_and_nan_stay(dtype):
    inf, nan = math.inf, math.nan
    for x in ([inf], [inf, 1], [1, inf], [inf, inf], [-inf, inf, 3, -inf]):
        m, l, lse = state_of(x, dtype)
        assert (m, lse) == (inf, inf)
        assert l == x.count(inf)
    for x in ([nan], [nan, 1], [1, nan, 2], [nan, inf], [inf, nan, 1], [-inf, nan], [nan, -inf]):
        _, l, lse = state_of(x, dtype)
        assert math.isnan(l)
        assert math.isnan(lse)
    assert state_of([-inf, -inf], dtype) == (-inf, 0, -inf)
    assert state_of([], dtype) == (-inf, 0, -inf)
    assert math.isnan(merge((nan, 1.0), (3.0, 1.0), dtype=dtype)[1])
    assert math.isnan(merge((3.0, nan), EMPTY, dtype=dtype)[1])


@each_float
def test_long_chains_wear_out_no_faster_than_sums(dtype):
    """A unit in the last place of `l` a push at most, and a thousandth of that where the maximum is found soon."""
    n = 100_000
    rng = np.random.default_rng(0)
    for x, limit in (
        (rng.normal(0, 3, n), n / 50),
        (rng.uniform(0, 1, n), n / 50),
        (np.linspace(0, 1, n), n),
        (np.linspace(0, 50, n), n / 50),
        (np.full(n, 7.25), 1),
    ):
        x = x.astype(dtype)
        _, _, lse = state_of(x, dtype)
        exact = naive("logsumexp", x)
        assert abs(lse - exact) <= limit * ROUNDING[dtype] + 2 * np.spacing(np.abs(x.dtype.type(exact)))


def test_the_widest_type_counts():
    @numba.njit
    def of_types(m, l, x):
        m, l = jit.push(m, l, x)
        return np.array([m]).itemsize, np.array([jit.lse(m, l)]).itemsize

    f4, f8 = FLOATS.values()
    assert of_types(f4(1), f4(1), f4(1)) == (4, 4)
    assert of_types(f4(1), f4(1), f8(1)) == of_types(f8(1), f4(1), f4(1)) == of_types(f4(1), f4(1), 1) == (8, 8)
    assert jit.push(-math.inf, 0, 3) == (3.0, 1.0)


def test_vectors_have_a_state_in_each_lane():
    vec, stored = jit.Vec(numba.float64, 8), jit.Stored("float64")

    @numba.njit
    def of_lanes(x, out):
        m, l = jit.splat(vec, -np.inf), jit.splat(vec, 0.0)
        for i in range(len(x)):
            m, l = jit.push(m, l, jit.load(vec, stored, x[i].ctypes.data))
        jit.store(stored, out[0].ctypes.data, m)
        jit.store(stored, out[1].ctypes.data, l)
        jit.store(stored, out[2].ctypes.data, jit.lse(m, l))

    x, out = np.random.default_rng(0).normal(0, 5, (30, 8)), np.empty((3, 8))
    x[3, 2], x[5, 4], x[:, 6] = math.inf, math.nan, -math.inf
    of_lanes(x, out)
    for j in range(8):
        np.testing.assert_array_equal(out[:, j], state_of(x[:, j]))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((1j, 1.0, 1.0), "m must be a number"),
        ((1.0, np.ones(3), 1.0), "l must be a number"),
        ((1.0, 1.0, None), "x must be a number"),
        ((1.0, 1.0, (2.0, 3.0)), "x must be a number"),
    ],
)
def test_what_is_no_number_is_named(arguments, message):
    with pytest.raises(numba.TypingError, match=message):
        jit.push(*arguments)
