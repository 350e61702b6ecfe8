"""The promised accuracy: the largest error of all normal results, in units in the last place, is exact."""

import numpy as np
import pytest
from naive import FLOATS, LIMITS, NAMES, assert_right, naive, ulp_error, ulp_of

import numba_softmax as ns
from numba_softmax.ops import OPS

pytestmark = pytest.mark.usefixtures("one_thread")

ORDERS = {
    "random": lambda x: x,
    "ascending": lambda x: np.sort(x, axis=-1),
    "descending": lambda x: np.sort(x, axis=-1)[:, ::-1].copy(),
    "sawtooth": lambda x: np.take_along_axis(np.sort(x, axis=-1), np.argsort(np.arange(x.shape[-1]) % 7)[None], -1),
    "constant": lambda x: np.broadcast_to(x[:, :1], x.shape).copy(),
}
SCALES = [0.01, 0.3, 1.0, 5.0, 30.0, 200.0, 1000.0]
OFFSETS = [0.0, 1000.0, -1000.0, 1e30]
each_op = pytest.mark.parametrize("name", NAMES)
each_dtype = pytest.mark.parametrize("dtype", FLOATS)
in_32_and_64 = pytest.mark.parametrize("dtype", ["float32", "float64"])


def logits(rows, n, deviation, offset=0.0, seed=0):
    return np.random.default_rng([rows, n, seed]).normal(offset, deviation, (rows, n))


@each_op
@each_dtype
@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("deviation", SCALES)
def test_rows_of_any_scale_offset_and_order(name, dtype, order, deviation):
    for offset in OFFSETS:
        if offset > 60000 and dtype == "float16":
            continue
        for rows, n in [(200, 2), (100, 7), (40, 100), (8, 1000)]:
            x = ORDERS[order](logits(rows, n, deviation, offset)).astype(FLOATS[dtype])
            assert_right(name, getattr(ns, name)(x), x)


@each_op
@in_32_and_64
@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("deviation", [0.3, 5.0, 200.0])
def test_long_rows_of_any_scale_and_order(name, dtype, order, deviation):
    for n in (3000, 20_000, 70_001, 140_000):
        x = ORDERS[order](logits(1, n, deviation)).astype(dtype)
        assert_right(name, getattr(ns, name)(x), x)


@each_op
@pytest.mark.parametrize("n", [300, 20_000, 140_000])
def test_sums_of_many_terms_below_the_normal_numbers(name, n):
    """The sum of all but the maximum is a normal number, and the result of `log_softmax` and `logsumexp`."""
    x = np.full((1, n), -707.5 - np.log(n))
    x[0, n // 3] = 0
    assert_right(name, getattr(ns, name)(x), x)


@each_op
@in_32_and_64
@pytest.mark.parametrize("deviation", [0.3, 5.0, 200.0])
def test_columns_of_any_scale(name, dtype, deviation):
    for shape in [(3, 400), (50, 40), (2500, 9), (20_000, 9)]:
        x = logits(*shape, deviation).astype(dtype)
        assert_right(name, getattr(ns, name)(x, 0), x, 0)


@each_op
@in_32_and_64
def test_rows_where_one_element_outweighs_the_others(name, dtype):
    gaps = np.linspace(0, 110 if dtype == "float32" else 750, 4001)
    x = np.stack([gaps * 0, -gaps], axis=1).astype(dtype)
    assert_right(name, getattr(ns, name)(x), x)
    x = np.concatenate([x, x[:, 1:] - 0.7, x[:, 1:]], axis=1)
    assert_right(name, getattr(ns, name)(x + x.dtype.type(5)), x + x.dtype.type(5))


def test_no_element_of_a_softmax_exceeds_one():
    rng = np.random.default_rng(0)
    m, gap = rng.uniform(-26, 30, 5000), rng.uniform(17, 30, 5000)
    x = np.stack([m, m - gap], axis=1).astype(np.float32)
    y = ns.softmax(x)
    assert_right("softmax", y, x)
    assert y.max() <= 1


@each_op
@pytest.mark.parametrize("m", [-128.0, -100.0, 0.0, 100.0, 128.0, 300.0])
@pytest.mark.parametrize("gap", [20.0, 300.0, 500.0, 600.0, 675.0, 700.0])
def test_float64_rows_of_one_block_over_the_whole_range_of_exp(name, m, gap):
    x = np.array([m, m - gap, m - gap - 0.5])
    assert_right(name, getattr(ns, name)(x), x)


@each_op
@pytest.mark.parametrize("m", [-128.0, -100.0, 0.0, 100.0, 128.0, 300.0])
@pytest.mark.parametrize("gap", [20.0, 300.0, 500.0, 600.0, 675.0, 700.0])
def test_float64_rows_of_several_blocks_over_the_whole_range_of_exp(name, m, gap):
    for x in (np.full((1, 20_000), m), np.full((1, 140_000), m)):
        x[0, 8192:] += gap
        assert_right(name, getattr(ns, name)(x), x)


def test_log_softmax_near_zero_is_not_zero():
    y = ns.log_softmax([0.0, -40.0])
    assert abs(y[0] / -4.2483542552915889e-18 - 1) <= 1e-15
    assert y[1] == -40.0


def test_logsumexp_near_zero_keeps_its_precision():
    x = np.array([-1e-20, -50.0])
    exact = np.exp(np.longdouble(-50)) - np.longdouble(1e-20)
    assert abs(ns.logsumexp(x) - exact) <= 4 * np.spacing(1e-20) + 2 * np.spacing(float(np.exp(-50.0)))


@each_dtype
def test_tiny_results_underflow_gradually(dtype):
    """Subnormal results are within one subnormal unit, and not flushed to zero."""
    kind = FLOATS[dtype]
    low = {"float16": -18, "float64": -746}.get(dtype, -105)
    x = np.linspace(low, low / 2, 500).astype(kind)
    x = np.stack([np.zeros_like(x), x], axis=1)
    y, exact = ns.softmax(x), naive("softmax", x)
    unit = ulp_of(np.longdouble(0), kind)
    subnormal = (exact >= unit) & (exact < unit * 2.0 ** (2 if dtype == "bfloat16" else 8))
    assert subnormal.sum() > 3
    assert (y[subnormal] != 0).all()
    assert ulp_error(y, exact, kind, np.maximum(unit, ulp_of(exact, kind)), tiny=True) <= LIMITS[dtype]
    assert (np.abs(y.astype(np.longdouble) - exact)[subnormal] <= unit).all()


@pytest.mark.parametrize("scale", [1.0, 0.1, 3.0, 1 / 3, 1e-3, 77.7, -1.0, -0.3, -25.0, 0.0, 1e-300])
@each_op
@in_32_and_64
def test_scale_multiplies_exactly(name, dtype, scale):
    for shape in [(100, 3), (20, 60), (4, 1000)]:
        for deviation in (0.3, 20.0):
            x = logits(*shape, deviation, seed=1).astype(dtype)
            assert_right(name, getattr(ns, name)(x, scale=scale), x, scale=scale)


@pytest.mark.parametrize("scale", [0.1, -7.7])
def test_scale_multiplies_exactly_in_other_layouts(scale):
    name = "softmax"
    x = logits(5000, 8, 5.0).astype(np.float32)
    for shaped, axis in [(x.reshape(8, 5000), 1), (x, 0), (x[:100, :3], 0)]:
        assert_right(name, getattr(ns, name)(shaped, axis, scale=scale), shaped, axis, scale=scale)


@each_op
@pytest.mark.parametrize("scale", [2.0, -2.0, 0.0])
def test_scaled_rows_follow_the_edge_table(name, scale):
    x = np.tile(np.linspace(-2, 2, 21), (8, 1))
    x[1, 3], x[2, 20], x[3, 0], x[4] = np.inf, -np.inf, np.nan, -np.inf
    with np.errstate(all="raise"):
        assert_right(name, getattr(ns, name)(x, scale=scale), x, scale=scale)


LONGEST = 1 << 24


def row_of(order, dtype):
    i = np.arange(LONGEST)
    return (i * (40.0 / LONGEST) - 20 if order == "ascending" else i % 1001 * 0.02 - 5).astype(dtype)


@pytest.mark.parametrize("order", ["ascending", "sawtooth"])
@in_32_and_64
def test_accuracy_does_not_depend_on_the_length(order, dtype):
    x = row_of(order, dtype)
    m = np.longdouble(x.max())
    chunks = range(0, LONGEST, 1 << 20)
    exponentials = lambda at: np.exp(x[at : at + (1 << 20)] - m)  # noqa: E731
    l = sum(exponentials(at).sum() for at in chunks)
    exact = m + np.log(l)
    y = ns.logsumexp(x)
    assert ulp_error(y, exact, dtype, ulp_of(max(abs(m), abs(exact)), dtype)) <= LIMITS[dtype]
    y = ns.softmax(x)
    assert max(ulp_error(y[at : at + (1 << 20)], exponentials(at) / l, dtype) for at in chunks) <= LIMITS[dtype]


def test_every_op_has_its_limit_tested():
    assert set(NAMES) == {"softmax", "log_softmax", "logsumexp"} == set(OPS)


@each_op
@pytest.mark.parametrize(
    ("x", "scale"),
    [([-3e38, 3e38], 1e-38), ([-3e38, 3e38], 0.0), ([-1e38, 3e38], 0.1), ([0.0, 1.0], 1e39), ([1e38], 1e-42)],
)
def test_scales_and_differences_beyond_float32(name, x, scale):
    x = np.float32(x)
    with np.errstate(over="ignore"):
        exact = naive(name, x.astype(np.float64), scale=scale).astype(np.float32)
    np.testing.assert_allclose(getattr(ns, name)(x, scale=scale), exact, rtol=3e-7)


@pytest.mark.parametrize("number", [-1000.0, -5.3, 0.0, 17.7, 1e30])
def test_softmax_of_equal_elements_is_exactly_their_share(number):
    for n in (1, 2, 4, 16, 32, 1024, 4096, 8192, 16384, 65536, 131072):
        assert (ns.softmax(np.full(n, number, np.float32)) == 1 / n).all()
