"""Rows in users' jitted code get the bits of the library's calls, whatever the array and the caller's options."""

import itertools

import numba
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from naive import NAMES, assert_right

import numba_softmax as ns
from numba_softmax import jit
from numba_softmax.ops import OPS

LENGTHS = [0, 1, 2, 15, 16, 17, 100, 1023, 1025, 2047, 2049, 5000, 8192, 8193, 65537, 140_000]
CASES = [*zip(NAMES, itertools.cycle(["f4", "f8"]), strict=False), ("softmax", "f8")]  # each takes seconds to compile
OTHER_FORMATS = [
    ("softmax", "i1", "f8"),
    ("log_softmax", "f8", "f4"),
    ("logsumexp", "?", "f8"),
]
each_case = pytest.mark.parametrize(("name", "dtype"), CASES)


@numba.njit
def softmax(x, out):
    return jit.softmax(x, out)


@numba.njit
def log_softmax(x, out):
    return jit.log_softmax(x, out)


@numba.njit
def logsumexp(x, out):
    out[0] = jit.logsumexp(x)
    return out


JITTED = {"softmax": softmax, "log_softmax": log_softmax, "logsumexp": logsumexp}


def called(name, x, out=None, dtype=None):
    """The result of the library's function in jitted code, as that of a call: a number or an array."""
    if OPS[name].reduces:
        return JITTED[name](x, np.empty(1, dtype or (x.dtype if x.dtype == "f4" else "f8")))[0]
    out = np.full(x.shape, 7.0, dtype or x.dtype) if out is None else out
    assert JITTED[name](x, out).ctypes.data == out.ctypes.data
    return out


def expected(name, x, dtype=None):
    return getattr(ns, name)(np.ascontiguousarray(x), dtype=dtype)


def same_bits(a, b):
    """Whether two results are one; any NaN is as good as another."""
    a, b = np.asarray(a), np.asarray(b)
    return a.dtype == b.dtype and a.shape == b.shape and np.array_equal(a, b, equal_nan=True)


def row(n, dtype, seed=0):
    x = np.random.default_rng(seed).normal(0, 5, n)
    return (x * 10 if np.dtype(dtype).kind in "iu" else x).astype(dtype)


@pytest.mark.usefixtures("one_thread")
@each_case
def test_rows_of_any_length_and_step_have_the_bits_of_a_call(name, dtype):
    for n in LENGTHS:
        x = row(n, dtype)
        want = expected(name, x)
        assert same_bits(called(name, x), want), n
        assert_right(name, want, x)
        spread, out = np.zeros((n, 3), dtype), np.full((n, 2), 7, dtype)
        for a, b in ((spread[:, 1], out[:, 0]), (spread[::-1, 2], out[::-1, 1])):
            a[:] = x
            assert same_bits(called(name, a, b), want), n
            assert same_bits(called(name, a), want), n


@pytest.mark.usefixtures("one_thread")
@pytest.mark.parametrize("dtype", ["f4", "f8"])
def test_blocks_far_below_the_maximum_are_weighed_against_it(dtype):
    for n in (20_000, 65_536):
        x = row(n, dtype)
        x[8192:16_384] += 40
        want = expected("softmax", x)
        assert same_bits(called("softmax", x), want)
        assert same_bits(called("softmax", x, x), want)


def test_functions_of_arrays_compute_rows_too():
    """NumPy looks at the processor's flags after it has called one: see the docstring."""

    @numba.guvectorize(["(float64[:], float64[:])"], "(n)->(n)")
    def rows(x, out):
        jit.softmax(x, out)

    x = np.stack([row(50, "f8", seed) for seed in range(4)])
    with np.errstate(invalid="ignore"):
        assert same_bits(rows(x), expected("softmax", x))


@pytest.mark.parametrize(("name", "x_dtype", "dtype"), OTHER_FORMATS)
def test_formats_may_differ(name, x_dtype, dtype):
    for n in (0, 1, 40, 3000):
        x = row(n, x_dtype)
        assert same_bits(called(name, x, dtype=dtype), expected(name, x, dtype))


special = st.sampled_from([0.0, -0.0, 1e-30, 90.0, -90.0, 3e4, -3e38]) | st.floats(-20, 20, width=32)
rows = st.lists(special | st.sampled_from([-np.inf, -np.inf, np.inf, np.nan]), max_size=70) | st.lists(special)


@each_case
@given(values=rows, offset=st.integers(0, 15), step=st.sampled_from([-3, -1, 1, 2]))
def test_any_values_at_any_place_give_what_a_call_gives(name, dtype, values, offset, step):
    memory = np.full(16 + 3 * len(values) + 3, 5.0, dtype)
    x = memory[offset : offset + 3 * len(values)][::step][: len(values)]
    x[:] = values
    want = expected(name, x)
    assert_right(name, want, x)
    assert same_bits(called(name, x), want)
    results = np.full(len(memory), 7.0, dtype)
    if not OPS[name].reduces:
        called(name, x, results[offset + 1 : offset + 1 + len(values)])
        assert same_bits(results[offset + 1 : offset + 1 + len(values)], want)
        assert (np.delete(results, np.s_[offset + 1 : offset + 1 + len(values)]) == 7).all()


@pytest.mark.parametrize(("name", "dtype"), [case for case in CASES if not OPS[case[0]].reduces])
def test_a_result_may_lie_anywhere_in_the_memory_of_its_elements(name, dtype):
    n = 300
    places = [np.s_[:n], np.s_[3 : n + 3], np.s_[n + 20 : 20 : -1], np.s_[: 2 * n : 2], np.s_[1 : 2 * n + 1 : 2]]
    for at in places:
        for to in places:
            memory = row(2 * n + 40, dtype)
            before = memory.copy()
            want = expected(name, memory[at])
            assert same_bits(called(name, memory[at], memory[to]), want)
            before[to] = want
            assert same_bits(memory, before)


@numba.njit
def of_slices(x, begin, end, step, out):
    return jit.softmax(x[begin:end:step], out[begin:end:step])


def test_slices_in_jitted_code_are_rows():
    x = row(3000, "f8")
    for begin, end, step in ((0, 3000, 1), (5, 2800, 1), (2999, 20, -1), (1, 3000, 7), (10, 10, 1)):
        got = of_slices(x, begin, end, step, np.empty(3000))
        assert same_bits(got.copy(), expected("softmax", x[begin:end:step]))


def test_results_may_be_narrower_than_the_elements_that_they_overlap():
    n = 300
    x = row(n, "f8")
    want = expected("log_softmax", x, "f4")
    assert same_bits(called("log_softmax", x, x.view("f4")[n // 2 : n // 2 + n]), want)


@pytest.mark.parametrize("name", NAMES)
def test_the_functions_can_be_called_from_python(name):
    x = row(50, "f8")
    function = getattr(jit, name)
    got = function(x) if OPS[name].reduces else function(x, np.empty_like(x))
    assert same_bits(got, expected(name, x))
    assert name in function.__name__
    assert "Parameters" in function.__doc__


def test_a_result_of_another_length_is_refused_before_anything_is_written():
    x = np.ones(5)
    for function in (softmax, log_softmax, jit.softmax):
        for size in (0, 4, 6):
            out = np.full(size, 7.0)
            with pytest.raises(ValueError, match="out must have the shape of x"):
                function(x, out)
            assert (out == 7).all()


def read_only(array):
    array.flags.writeable = False
    return array


@pytest.mark.parametrize(
    ("x", "out", "message"),
    [
        (1.0, np.ones(3), "x must be an array, not float64"),
        (np.ones((2, 2)), np.ones(3), "x must have one dimension, not 2"),
        (np.ones(3, "c8"), np.ones(3), "x has dtype complex64"),
        (np.ones(3, "f2"), np.ones(3), "x has dtype float16"),
        (np.ones(3), None, "out must be an array, not none"),
        (np.ones(3), np.ones((3, 1)), "out must have one dimension, not 2"),
        (np.ones(3), np.ones(3, "i8"), "out has dtype int64"),
        (np.ones(3), read_only(np.ones(3)), "out is read-only"),
    ],
)
def test_what_cannot_be_served_is_named(x, out, message):
    with pytest.raises(numba.TypingError, match=message):
        softmax(x, out)


def test_elements_may_be_read_only():
    x = row(20, "f8")
    want = expected("softmax", x)
    assert same_bits(called("softmax", read_only(x)), want)
    assert called("logsumexp", x) == expected("logsumexp", x)


@numba.njit(parallel=True, nogil=True)
def of_rows(x, y, lse):
    for i in numba.prange(len(x)):
        jit.softmax(x[i], y[i])
        lse[i] = jit.logsumexp(x[i])


def test_threads_compute_rows_side_by_side():
    x = row(600 * 77, "f4").reshape(600, 77)
    y, lse = np.empty_like(x), np.empty(600, "f4")
    for _ in range(5):
        of_rows(x, y, lse)
        assert same_bits(y, ns.softmax(x))
        assert same_bits(lse, ns.logsumexp(x))


FAST = """
import re
import numba, numpy as np, numba_softmax as ns
from numba_softmax import jit
@numba.njit(fastmath=True)
def f(x, y):
    m, l = -np.inf, 0.0
    for v in x:
        m, l = jit.push(m, l, v)
    return jit.softmax(x, y), jit.logsumexp(x), jit.lse(m, l)
x = np.random.default_rng(0).normal(0, 5, 3000)
for special in (1.0, -np.inf, np.inf, np.nan):
    x[7] = special
    y, lse, pushed = f(x, np.empty_like(x))
    assert np.array_equal(y, ns.softmax(x), equal_nan=True)
    assert np.array_equal(lse, ns.logsumexp(x), equal_nan=True)
    assert np.isclose(pushed, lse, rtol=1e-13, atol=0, equal_nan=True)
(instructions,) = f.inspect_llvm().values()
assert re.search(r"= fmul .*double", instructions)
assert not re.search(r"= (fadd|fsub|fmul|fdiv|fcmp) (fast|nnan|ninf|nsz|arcp|contract|reassoc)", instructions)
"""


def test_fast_mathematics_of_a_caller_goes_no_further(run_python):
    """In a process of its own: what a caller hands down counts when a function is compiled, which is once a process."""
    run_python(FAST)


CACHED = """
import numba, numpy as np
from numba_softmax import jit
@numba.njit(cache=True, parallel=True)
def f(x, y):
    for i in numba.prange(len(x)):
        jit.softmax(x[i], y[i])
        m, l = jit.push(0.0, 1.0, jit.logsumexp(x[i]))
        y[i, 0] = jit.lse(m, l)
    return y
"""
USE = """
import sys
sys.path.insert(0, sys.argv[1])
import numpy as np, cached
x = np.random.default_rng(0).normal(0, 5, (9, 70))
y = cached.f(x, np.empty_like(x))
stats = cached.f.stats
print(sum(stats.cache_hits.values()), sum(stats.cache_misses.values()), y.tobytes().hex())
"""


def test_callers_are_found_in_the_cache_of_numba(tmp_path, run_python):
    (tmp_path / "cached.py").write_text(CACHED)
    runs = [run_python(USE, tmp_path, NUMBA_CACHE_DIR=str(tmp_path / "cache")).split() for _ in range(2)]
    assert runs[0][:2] == ["0", "1"]
    assert runs[1][:2] == ["1", "0"]
    assert runs[0][2] == runs[1][2]
    x = np.random.default_rng(0).normal(0, 5, (9, 70))
    got = np.frombuffer(bytes.fromhex(runs[1][2])).reshape(x.shape)
    assert same_bits(got[:, 1:], ns.softmax(x)[:, 1:])
