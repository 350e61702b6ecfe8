"""States in users' kernels for CUDA: compiled by numba-cuda, and run by the interpreter of PTX."""

import functools
import math
from types import SimpleNamespace

import numba
import numpy as np
import pytest
from ptx import Memory, parse, run

from numba_softmax import jit

pytest.importorskip("numba_cuda", reason="numba-cuda compiles these kernels")

from numba import cuda
from numba.cuda import dispatcher

FLOATS = {"f4": numba.float32, "f8": numba.float64}
ROUNDING = {"f4": 2.0**-23, "f8": 2.0**-52}
each_float = pytest.mark.parametrize("dtype", FLOATS)
ROUNDS = 3


@pytest.fixture(autouse=True)
def no_gpu(monkeypatch):
    """Compiling asks for the current device's capability, and there need not be one."""
    device = SimpleNamespace(compute_capability=(8, 0))
    monkeypatch.setattr(dispatcher, "get_current_device", lambda: device)


def of_warps(x, n, results):
    """A state of `n` numbers a thread; each thread leaves that of its warp."""
    i = cuda.grid(1)
    m, l = x.dtype.type(-math.inf), x.dtype.type(0)
    for j in range(n):
        m, l = jit.push(m, l, x[i * n + j])
    m, l = jit.warp_merge(m, l)
    results[2 * i], results[2 * i + 1] = m, l


def of_blocks(x, n, results):
    """The same for blocks of any dimensions, several times over: in round `r`, all numbers have `r` added."""
    place = cuda.threadIdx.x + cuda.blockDim.x * (cuda.threadIdx.y + cuda.blockDim.y * cuda.threadIdx.z)
    threads = cuda.blockDim.x * cuda.blockDim.y * cuda.blockDim.z
    i = cuda.blockIdx.x * threads + place
    for r in range(ROUNDS):
        m, l = x.dtype.type(-math.inf), x.dtype.type(0)
        for j in range(n):
            m, l = jit.push(m, l, x[i * n + j] + x.dtype.type(r))
        m, l = jit.block_merge(m, l)
        at = 2 * (r * cuda.gridDim.x * threads + i)
        results[at], results[at + 1] = m, l


@functools.cache
def compiled(kernel, *signature):
    text, _ = cuda.compile(kernel, signature, device=False, abi="numba", cc=(8, 0), output="ptx")
    return parse(text)


def array_argument(address, array):
    """The parameters of a one-dimensional array's argument, as Numba has them."""
    return [0, 0, array.size, array.itemsize, address, array.size, array.itemsize]


def launched(kernel, x, n, count, grid, block, **options):
    """The `count` numbers that a kernel leaves."""
    array = FLOATS[x.dtype.str[1:]][::1]
    memory, results = Memory(), np.empty(count, x.dtype)
    address, out = memory.put(x), memory.allocate(results.nbytes)
    arguments = [*array_argument(address, x), n, *array_argument(out, results)]
    run(compiled(kernel, array, numba.int64, array), grid, block, arguments, memory, **options)
    return memory.get(out, count, x.dtype)


def states_of_warps(x, n, **options):
    threads = x.size // n
    return launched(of_warps, x, n, 2 * threads, threads // 64, 64, **options).reshape(-1, 32, 2)


def states_of_blocks(x, n, block, **options):
    """By round, block and thread."""
    threads, size = x.size // n, math.prod(block)
    count = 2 * ROUNDS * threads
    return launched(of_blocks, x, n, count, threads // size, block, **options).reshape(ROUNDS, -1, size, 2)


def exact_state(x):
    x = np.asarray(x, np.longdouble)
    m = x.max()
    with np.errstate(all="ignore"):
        return m, np.exp(x[x > -np.inf] - m).sum()


def assert_are_states(got, rows, dtype, shift=0):
    """Every thread has the state of its row, to within two units a number, with the same bits."""
    for states, row in zip(got, rows, strict=True):
        assert np.array_equal(states, np.broadcast_to(states[0], states.shape), equal_nan=True)
        m, l = states[0].astype(np.longdouble)
        exact_m, exact_l = exact_state(row + row.dtype.type(shift))
        if np.isnan(row).any():
            assert np.isnan(l)
        elif exact_m == np.inf:
            assert m == np.inf
            assert l == np.count_nonzero(row == np.inf)
        else:
            assert m == exact_m
            assert abs(l - exact_l) <= 20 * ROUNDING[dtype] * exact_l


def numbers(count, dtype, deviation=5):
    return np.random.default_rng(0).normal(0, deviation, count).astype(dtype)


def with_specials(rows):
    """Rows, some of which have infinities and NaN, in one lane or in many."""
    rows = rows.copy()
    rows[1] = -np.inf
    rows[2, 1:] = -np.inf
    rows[3, 5] = np.inf
    rows[4, ::7] = np.inf
    rows[5, 40] = np.nan
    rows[6, 3], rows[6, 70] = np.nan, np.inf
    rows[7, 2:] = -np.inf
    rows[7, 1] = np.nan
    return rows


@each_float
def test_lanes_of_a_warp_have_the_state_of_all(dtype):
    n = 3
    for deviation in (0, 1, 30, 1e6):
        rows = with_specials(numbers(8 * 32 * n, dtype, deviation).reshape(8, -1))
        got = states_of_warps(rows.ravel(), n)
        assert_are_states(got, rows, dtype)
        assert np.array_equal(got, states_of_warps(rows.ravel(), n, warps="reverse"), equal_nan=True)


@each_float
@pytest.mark.parametrize("block", [(32, 1, 1), (96, 1, 1), (16, 6, 1), (4, 4, 6), (1024, 1, 1)])
def test_threads_of_a_block_have_the_state_of_all_in_every_round(dtype, block):
    n, size = 2, math.prod(block)
    rows = numbers(8 * size * n, dtype).reshape(8, -1)
    if size < 1024:
        rows = with_specials(np.pad(rows, ((0, 0), (0, -rows.shape[1] % 96))))[:, : rows.shape[1]]
    options = [{}, {"warps": "forward"}, {"warps": "reverse", "order": "reverse"}]
    first, *others = (states_of_blocks(rows.ravel(), n, block, **o) for o in options[: 1 if size == 1024 else 3])
    for r in range(ROUNDS):
        assert_are_states(first[r], rows, dtype, r)
    for other in others:
        assert np.array_equal(first, other, equal_nan=True)


def of_both_widths(x, n, results):
    i = cuda.threadIdx.x
    m, l = jit.block_merge(np.float32(x[i]), np.float32(1))
    wide_m, wide_l = jit.block_merge(x[i], np.float32(1))
    results[i] = jit.lse(m, l) - jit.lse(wide_m, wide_l)


def test_a_kernel_may_merge_states_of_both_widths():
    x = numbers(64, "f4").astype("f8")
    assert abs(launched(of_both_widths, x, 1, 64, 1, 64)).max() < 1e-5


def of_weights(x, n, results):
    """Merging any weights: those of empty lanes are 0, and theirs are the identity."""
    i = cuda.threadIdx.x
    m = x[2 * i]
    m, l = jit.block_merge(m, x[2 * i + 1])
    m, l = jit.merge(m, l, m, l)
    results[i] = jit.lse(m, l)


@each_float
def test_large_and_small_weights_survive(dtype):
    for weight in (1e-20, 1.0, 1e30):
        x = np.zeros((64, 2), dtype)
        x[:] = -np.inf, 0
        x[5], x[40] = (3, weight), (2, weight)
        got = launched(of_weights, x.ravel(), 1, 64, 1, 64)
        assert (got == got[0]).all()
        assert got[0] == pytest.approx(math.log(2 * weight * (math.exp(3) + math.exp(2))), rel=4 * ROUNDING[dtype])


@each_float
def test_a_fast_kernel_keeps_infinities_and_digits(dtype):
    array = FLOATS[dtype][::1]
    text, _ = cuda.compile(
        of_blocks, (array, numba.int64, array), device=False, abi="numba", cc=(8, 0), output="ptx", fastmath=True
    )
    x = with_specials(numbers(8 * 96, dtype).reshape(8, 96))
    memory, results = Memory(), np.empty(2 * ROUNDS * x.size, dtype)
    address, out = memory.put(x.ravel()), memory.allocate(results.nbytes)
    run(parse(text), 8, 96, [*array_argument(address, x), 1, *array_argument(out, results)], memory)
    got = memory.get(out, results.size, dtype).reshape(ROUNDS, 8, 96, 2)
    for r in range(ROUNDS):
        assert_are_states(got[r], x, dtype, r)


@pytest.mark.parametrize("name", ["warp_merge", "block_merge"])
def test_elsewhere_than_on_a_gpu_threads_cannot_merge(name):
    function = getattr(jit, name)

    @numba.njit
    def f(m, l):
        return function(m, l)

    with pytest.raises(numba.core.errors.UnsupportedError, match=f"{name} is for kernels that numba.cuda.jit compiles"):
        f(1.0, 2.0)
    with pytest.raises(RuntimeError, match=f"{name} is for kernels that numba.cuda.jit compiles"):
        function(1.0, 2.0)


def of_rows(x, n, results):
    results[0] = jit.logsumexp(x)


def test_rows_are_for_the_cpu():
    with pytest.raises(numba.core.errors.NumbaError, match=r"logsumexp.*CUDA"):
        compiled(of_rows, numba.float32[::1], numba.int64, numba.float32[::1])
