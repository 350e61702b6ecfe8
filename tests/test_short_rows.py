"""Rows of a few elements, by the million: the worst that exp and the sum can do to each other."""

import numpy as np
import pytest
from naive import LIMITS, NAMES, same_bits

import numba_softmax as ns
from numba_softmax.ops import OPS

ROWS = {"float32": 1_000_000, "float64": 100_000}
each_dtype = pytest.mark.parametrize("dtype", ROWS)


def exact_softmax(columns, dtype):
    """The results of the rows of a matrix (as its columns, in the dtype), in more digits than those of `dtype`."""
    wide = np.float64 if dtype == "float32" else np.longdouble  # to 2**-26 units, or 2**-9
    m = columns.max(axis=0).astype(wide)
    e = np.exp(columns.astype(wide) - m)
    return e / e.sum(axis=0)


def unit_of(exact, dtype):
    """The unit in the last place, for normal numbers."""
    return np.ldexp(exact.dtype.type(1), np.frexp(exact)[1] - 1 - np.finfo(dtype).nmant)


def assert_within_limit(columns, dtype):
    """In each layout, which must give the same bits."""
    across = ns.softmax(columns, 0)
    along = ns.softmax(np.ascontiguousarray(columns.T), -1)
    assert same_bits(np.ascontiguousarray(along.T), across)
    exact = exact_softmax(columns, dtype)
    normal = exact >= np.finfo(dtype).smallest_normal
    errors = np.where(normal, np.abs(across - exact), 0) / np.where(normal, unit_of(exact, dtype), 1)
    at = np.unravel_index(errors.argmax(), errors.shape)
    assert errors[at] <= LIMITS[dtype], [v.hex() for v in columns[:, at[1]].tolist()]


def adversarial(n, rows, dtype, seed=0):
    """Rows of all spreads, offsets and signs; some with more than one maximum or one element far above the others."""
    rng = np.random.default_rng([n, seed])
    spread = 10.0 ** rng.uniform(-1, 2, rows)
    offset = rng.choice([0, 1, -1], rows) * 10.0 ** rng.uniform(-2, 7, rows)
    x = offset + spread * rng.uniform(-1, 1, (n, rows))
    kind = rng.integers(0, 8, rows)
    x[-1] = np.where(kind == 0, x[0], x[-1])  # equal elements
    x[n // 2] = np.where(kind == 1, x.max(axis=0), x[n // 2])  # equal maxima
    x[0] = np.where(kind == 2, x.max(axis=0) + rng.uniform(10, 40, rows), x[0])  # far above the others
    x[n - 1] = np.where(kind == 3, rng.uniform(-0.4, 0.4, rows), x[n - 1])  # nearly 0, what cancels worst
    return x.astype(dtype)


@each_dtype
@pytest.mark.parametrize("n", range(1, 9))
def test_softmax_of_adversarial_short_rows_is_within_its_limit(n, dtype, one_thread):
    assert_within_limit(adversarial(n, ROWS[dtype], dtype), dtype)


@each_dtype
def test_softmax_of_elements_near_zero_below_a_larger_maximum_is_within_its_limit(dtype, one_thread):
    """The third element brings the second one's result just below a power of two, where units are small."""
    rows = ROWS[dtype]
    rng = np.random.default_rng(8)
    d = rng.uniform(-0.35, 0.35, rows)
    halves = rng.integers(0, 87, rows) + 0.5  # of ln2: there, exp is computed of the largest numbers
    m = d + halves * np.log(2) + rng.uniform(-0.12, 0.12, rows)
    x = np.stack([m, d, m + np.log(rng.uniform(0.3, 0.999, rows))]).astype(dtype)
    assert_within_limit(x, dtype)


# Found by searches, with the errors of one version.
WORST = [  # with the error that an earlier exp gave
    ("float32", ["0x1.e0d1840000000p+5", "0x1.2d384e0000000p-3", "0x1.db83420000000p+5"]),  # 2.148
    ("float32", ["0x1.1ad4820000000p+2", "-0x1.afad280000000p-4", "0x1.e0b40a0000000p+1"]),  # 2.263
    ("float32", ["0x1.0424c00000000p+4", "-0x1.8ba2580000000p-4", "0x1.e9b7e00000000p+3"]),  # 2.286
    ("float32", ["0x1.34dfe40000000p+5", "0x1.5833e40000000p-3", "0x1.2fe3760000000p+5"]),  # 2.180
    ("float32", ["0x1.e0ffca0000000p+5", "0x1.5c8aec0000000p-3", "0x1.dd0a5c0000000p+5"]),  # 2.002
    ("float64", ["0x1.d441fdd9ad974p+5", "-0x1.a0edbd4828544p-4", "0x1.cbd1352c9c91cp+5"]),  # 2.213
]


@pytest.mark.parametrize(("dtype", "row"), WORST)
def test_softmax_of_the_worst_rows_known_is_within_its_limit(dtype, row):
    assert_within_limit(np.array([[float.fromhex(v)] for v in row], dtype).repeat(20, axis=1), dtype)


@pytest.mark.parametrize("name", NAMES)
@each_dtype
def test_a_single_element_has_all_of_the_weight(name, dtype, one_thread):
    x = adversarial(1, 100_000, dtype)
    expected = {"softmax": np.ones_like(x), "log_softmax": np.zeros_like(x), "logsumexp": x[0]}[name]
    for scale in (None, 2.0):
        y = getattr(ns, name)(x.T.copy(), scale=scale)
        np.testing.assert_array_equal(y, expected.T * (scale if scale and name == "logsumexp" else 1))
        np.testing.assert_array_equal(
            getattr(ns, name)(x, 0, scale=scale), expected * (scale if scale and name == "logsumexp" else 1)
        )


@each_dtype
@pytest.mark.parametrize("n", range(1, 20))
def test_equal_elements_have_equal_shares_rounded_to_nearest(n, dtype, one_thread):
    x = np.repeat(adversarial(1, 20_000, dtype, seed=n), n, axis=0)
    assert (ns.softmax(x, 0) == np.dtype(dtype).type(1 / n)).all()
    assert (ns.softmax(x.T.copy()) == np.dtype(dtype).type(1 / n)).all()


@each_dtype
@pytest.mark.parametrize("n", range(2, 9))
def test_an_element_that_outweighs_the_others_has_all_of_the_weight(n, dtype, one_thread):
    x = adversarial(n, 20_000, dtype, seed=1)
    x[n // 2] = x.max(axis=0) + np.abs(x.max(axis=0)) / 4 + 50
    for y in (ns.softmax(x, 0), ns.softmax(x.T.copy()).T):
        assert (y[n // 2] == 1).all()
        assert (np.delete(y, n // 2, axis=0) < 2.0**-50).all()


def test_every_op_is_among_the_expected_results():
    assert set(NAMES) == {"softmax", "log_softmax", "logsumexp"} == set(OPS)
