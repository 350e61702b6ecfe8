"""SciPy's functions in jitted code do what SciPy does, to the last places.

To compile a function takes seconds, mostly for the kernels in it, however often they are called: so jitted functions
have several calls here, and most arrays have three dimensions.
"""

import math

import numba
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from naive import assert_right
from numpy.exceptions import AxisError

import numba_softmax as ns
import numba_softmax.jit  # what makes them compile

special = pytest.importorskip("scipy.special", reason="SciPy's functions are compiled")

CLOSE = {"float32": 2e-6, "float64": 4e-15}


def of_layouts(function):
    """For three arrays, the results on an axis and on all axes."""

    @numba.njit
    def compute(x, y, z, axis):
        along = function(x, axis), function(y, axis), function(z, axis)
        return along, (function(x, None), function(y, None), function(z, None))

    return compute


OF_LAYOUTS = {name: of_layouts(getattr(special, name)) for name in ("softmax", "log_softmax", "logsumexp")}


@numba.njit
def softmax(x, axis):
    return special.softmax(x, axis)


@numba.njit
def logsumexp(x, axis):
    """With signs, too."""
    return special.logsumexp(x, axis), special.logsumexp(x, axis, keepdims=True, return_sign=True)


@numba.njit
def weighted(x, axis, b):
    """With signs, too."""
    signed = special.logsumexp(x, axis=axis, b=b, keepdims=True, return_sign=True)
    return special.logsumexp(x, axis, b), signed


@numba.njit
def log_softmax_of_two(x, axes, other):
    return special.log_softmax(x, axes), special.log_softmax(x, axis=other)


@numba.njit
def with_literals(x):
    return (
        special.softmax(x),
        special.log_softmax(x, axis=-1),
        special.logsumexp(x),
        special.logsumexp(x, axis=(0, 2), keepdims=True),
    )


def array(shape, dtype, seed=0):
    x = np.random.default_rng(seed).normal(0, 5, shape)
    return (x * 10 if np.dtype(dtype).kind in "iu" else x).astype(dtype)


def of_scipy(function, *args, **options):
    with np.errstate(all="ignore"):
        return function(*args, **options)


def assert_same(got, want):
    """As SciPy has it: type, shape and, up to rounding, numbers."""
    got, want = (r if isinstance(r, tuple) else (r,) for r in (got, want))
    assert len(got) == len(want)
    for g, w in zip(got, want, strict=True):
        assert np.shape(g) == np.shape(w)
        if np.ndim(g):  # Numba gives Python's floats for numbers
            assert g.dtype == w.dtype
        close = CLOSE[w.dtype.name]
        np.testing.assert_allclose(g, w, rtol=close, atol=10 * close)


def laid_out(x):
    """The same numbers in C order, in Fortran's, and in neither of them.

    Numba takes an array of one dimension, or of ones, for one in C order: others take the place in Fortran's then.
    """
    fortran = x if x.ndim == 1 else np.asfortranarray(array((3, 4, 5), x.dtype))
    spread, backward = np.repeat(x, 2, axis=-1)[..., ::2], x[::-1].copy()[::-1]
    yield x, fortran, spread
    yield (backward, fortran, spread) if backward.flags.c_contiguous else (x, fortran, backward)


@pytest.mark.parametrize(("name", "dtype"), [("softmax", "f4"), ("log_softmax", "f8"), ("logsumexp", "f4")])
def test_any_axis_of_any_layout_gives_what_scipy_gives(name, dtype):
    function, call = getattr(special, name), getattr(ns, name)
    for shape in ((7,), (3, 4, 5), (1, 1, 3), (1, 300, 1)):
        for arrays in laid_out(array(shape, dtype)):
            for axis in range(-len(shape), len(shape)):
                for on, results in zip((axis, None), OF_LAYOUTS[name](*arrays, axis), strict=True):
                    for x, result in zip(arrays, results, strict=True):
                        got = x.dtype.type(1) * result
                        assert_same(got, of_scipy(function, x, on))
                        assert_right(name, got, x, on)
                        assert np.array_equal(got, call(x, on))


def test_axes_may_be_a_tuple():
    x, every = array((3, 4, 5), "f8"), (0, 1, 2)
    for axes in ((0, 2), (1, 0), (-1, -2)):
        for on, got in zip((axes, every), log_softmax_of_two(x, axes, every), strict=True):
            assert_same(got, of_scipy(special.log_softmax, x, on))
            assert np.array_equal(got, ns.log_softmax(x, on))


def test_axes_and_flags_may_be_literals():
    x = array((3, 4, 5), "f8")
    softmax_of_all, log_softmax_of_last, lse, lse_of_two = with_literals(x)
    assert np.array_equal(softmax_of_all, ns.softmax(x, None))
    assert np.array_equal(log_softmax_of_last, ns.log_softmax(x))
    assert lse == ns.logsumexp(x, None)
    assert np.array_equal(lse_of_two, ns.logsumexp(x, (0, 2), keepdims=True))


@numba.njit
def of_columns(x):
    return special.softmax(x, axis=0), special.logsumexp(x, axis=0)


@pytest.mark.usefixtures("one_thread")
def test_columns_of_arrays_in_c_order_have_the_bits_of_a_call():
    """Their axis is known when the caller is compiled."""
    for shape in ((1, 1), (3, 50), (500, 1000), (20_000, 7), (0, 4), (5, 0), (0, 0)):
        weights, sums = of_columns(x := array(shape, "f8"))
        assert np.array_equal(weights, ns.softmax(x, 0))
        assert np.array_equal(sums, ns.logsumexp(x, 0))


def test_long_rows_are_right_on_every_axis():
    for shape, axis in (((2, 70_000, 1), 1), ((70_000, 2, 1), 0)):
        arrays = next(laid_out(array(shape, "f4")))
        along, _ = OF_LAYOUTS["softmax"](*arrays, axis)
        for x, got in zip(arrays, along, strict=True):
            assert np.array_equal(got, ns.softmax(x, axis))


def test_integers_give_float64():
    x = array((3, 4), "i2")
    assert np.array_equal(softmax(x, None), ns.softmax(x, None))
    assert softmax(x, None).dtype == "f8"


numbers = st.sampled_from([0.0, -math.inf, 700.0, -700.0]) | st.floats(-30, 30)


@given(st.lists(numbers | st.sampled_from([math.inf, math.nan]), min_size=1, max_size=20))
def test_signs_are_those_of_scipy(values):
    x = np.array(values).reshape(1, -1, 1)
    assert_same(logsumexp(x, 1)[1], of_scipy(special.logsumexp, x, 1, keepdims=True, return_sign=True))


weights = st.sampled_from([0.0, 1.0, -1.0, 1e-20, -1e30]) | st.floats(-10, 10)


@given(st.lists(st.tuples(numbers, weights), min_size=1, max_size=20))
def test_weights_of_any_sign_sum_up_as_exact_arithmetic_has_it(pairs):
    """SciPy itself loses digits where weights cancel, so only what does not cancel is compared with it."""
    a, b = np.array([[[v for v, _ in pairs]]]), np.array([w for _, w in pairs])
    without, with_sign = weighted(a, 2, b)
    result, sign = (r.item() for r in with_sign)
    m = max((v for v, w in pairs if w), default=-math.inf)
    terms = [] if m == -math.inf else [np.longdouble(w) * np.exp(np.longdouble(v) - m) for v, w in pairs if w]
    exact, absolute = sum(terms), sum(map(abs, terms))
    if abs(exact) > 1e-3 * absolute:
        assert sign == np.sign(exact)
        assert result == pytest.approx(float(m + np.log(abs(exact))), rel=1e-12, abs=1e-12)
        want = of_scipy(special.logsumexp, a, 2, b, keepdims=True, return_sign=True)
        assert sign == want[1].item()
        assert result == pytest.approx(want[0].item(), rel=1e-10, abs=1e-10)
    elif absolute == 0:
        assert (result, sign) == (-math.inf, 0)
    assert without.item() == result or (math.isnan(without.item()) and (sign < 0 or math.isnan(result)))


def test_weights_broadcast_as_scipy_has_it():
    x = array((3, 4, 5), "f8")
    for b in (array((5,), "f8", 1), array((4, 1), "f8", 1), np.array([[[True]], [[False]], [[True]]]), 2.5, -3):
        for axis in (0, 2, -2):
            without, with_signs = weighted(x, axis, b)
            assert_same(without, of_scipy(special.logsumexp, x, axis, b))
            assert_same(with_signs, of_scipy(special.logsumexp, x, axis, b, keepdims=True, return_sign=True))
    x = x.astype("f4")
    b = array((5,), "f4", 1)
    assert_same(weighted(x, 1, b)[0], of_scipy(special.logsumexp, x, 1, b))
    with pytest.raises(ValueError, match="broadcast"):
        weighted(x, 1, b[:4].copy())


def test_infinite_elements_with_weights_are_those_of_scipy():
    inf, nan = math.inf, math.nan
    rows = [[inf, 1], [inf, -inf], [inf, inf], [nan, 1], [1, nan], [-inf, -inf], [inf, nan]]
    for b in ([1.0, 1.0], [1.0, -1.0], [-1.0, -1.0], [-2.0, 1.0], [nan, 1.0]):
        x, b = np.array(rows)[:, None], np.array(b)
        _, got = weighted(x, 2, b)
        assert_same(got, of_scipy(special.logsumexp, x, 2, b, keepdims=True, return_sign=True))
    ignored = np.array([[[nan, 2.0]], [[inf, 2.0]]])
    assert weighted(ignored, 2, np.array([0.0, 1.0]))[0].tolist() == [[2.0], [2.0]]


def test_a_sum_that_is_nearly_one_keeps_its_digits():
    x, b = np.array([[[0.0, -40.0]]]), np.array([1.0, 2.0])
    assert weighted(x, 2, b)[0].item() == pytest.approx(2 * math.exp(-40), rel=1e-14)


def test_no_elements_give_minus_infinity():
    rows = np.empty((3, 0, 1))
    assert logsumexp(rows, 1)[0].tolist() == [[-math.inf]] * 3
    assert weighted(rows, 1, 1.0)[0].tolist() == [[-math.inf]] * 3
    assert softmax(rows, 1).shape == (3, 0, 1)
    assert logsumexp(np.empty((0, 3, 1)), 1)[0].shape == (0, 1)


def test_axes_that_are_not_there_are_refused():
    x = np.ones((2, 3, 1))
    for function in (softmax, logsumexp):
        for axis in (3, -4, (0, 0), (0, -3)):
            with pytest.raises(AxisError, match="axis is out of range"):
                function(x, axis)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((1.0, 0), "x must be an array, not float64"),
        ((np.array(1.0), None), "x must have at least one dimension"),
        ((np.ones(3, complex), 0), "x has dtype complex128"),
        ((np.ones(3), 0.5), "axis must be an integer, a tuple of integers of one type or None, not float64"),
    ],
)
def test_what_cannot_be_served_is_named(arguments, message):
    with pytest.raises(numba.TypingError, match=message):
        softmax(*arguments)


def test_flags_must_be_literals():
    @numba.njit
    def f(x, keepdims):
        return special.logsumexp(x, keepdims=keepdims)

    with pytest.raises(numba.TypingError, match="keepdims must be True or False, written as such"):
        f(np.ones(3), True)


WITHOUT = """
import sys
from importlib.abc import MetaPathFinder
class Hide(MetaPathFinder):
    def find_spec(self, name, path, target=None):
        if name.partition(".")[0] == "scipy":
            raise ModuleNotFoundError(name)
import importlib.util
found = importlib.util.find_spec
importlib.util.find_spec = lambda name, *args: None if name.startswith("scipy") else found(name, *args)
sys.meta_path.insert(0, Hide())
from numba_softmax import jit
assert not any(name.startswith("scipy") for name in sys.modules)
import numpy as np
assert jit.push(0.0, 1.0, 0.0) == (0.0, 2.0)
assert jit.logsumexp(np.zeros(1)) == 0.0
"""


def test_without_scipy_the_rest_is_there(run_python):
    run_python(WITHOUT)
