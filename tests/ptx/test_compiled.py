"""Kernels that numba-cuda compiled run in the interpreter as they would on a GPU."""

import math
from types import SimpleNamespace

import numba
import numpy as np
import pytest

from numba_softmax.math import simd
from numba_softmax.math.expmath import exp_pair, exp_parts, rounded, top_of
from numba_softmax.math.memory import Stored, load, store

from . import LaunchError, Memory, parse, run

pytest.importorskip("numba_cuda", reason="numba-cuda compiles these kernels")

from numba import cuda
from numba.cuda import dispatcher

FLOATS = {"f4": numba.float32, "f8": numba.float64}
ADDRESS = numba.int64


@pytest.fixture(autouse=True)
def no_gpu(monkeypatch):
    """Compiling asks for the current device's capability, and there need not be one."""
    device = SimpleNamespace(compute_capability=(8, 0))
    monkeypatch.setattr(dispatcher, "get_current_device", lambda: device)


def compiled(function, *signature, cc=(8, 0)):
    text, _ = cuda.compile(function, signature, device=False, abi="numba", cc=cc, output="ptx")
    return parse(text)


def array_argument(address, array):
    """The parameters of a one-dimensional array's argument, as Numba has them."""
    return [0, 0, array.size, array.itemsize, address, array.size, array.itemsize]


def applied(kernel, signature, x, result, *, cc=(8, 0), **options):
    """The results of a kernel of two arrays, a thread for each number."""
    module, memory = compiled(kernel, *signature, cc=cc), Memory()
    address, out = memory.put(x), memory.allocate(x.size * np.dtype(result).itemsize)
    y = np.empty(x.size, result)
    run(module, -(-x.size // 128), 128, [*array_argument(address, x), *array_argument(out, y)], memory, **options)
    return memory.get(out, x.size, result)


def ulps(y, exact):
    """How far off results are, in units of their last place."""
    return np.abs(y.astype(np.longdouble) - exact) / np.spacing(np.abs(exact).astype(y.dtype))


@pytest.mark.parametrize("cc", [(8, 0), (10, 0)])
def test_a_reduction_over_blocks_is_right(cc):
    def total(x, out):
        partial = cuda.shared.array(8, numba.float64)
        s = 0.0
        for i in range(cuda.grid(1), x.size, cuda.gridsize(1)):
            s += x[i]
        step = 16
        while step:
            s += cuda.shfl_xor_sync(0xFFFFFFFF, s, step)
            step //= 2
        if cuda.threadIdx.x % 32 == 0:
            partial[cuda.threadIdx.x // 32] = s
        cuda.syncthreads()
        if cuda.threadIdx.x == 0:
            for w in range(1, cuda.blockDim.x // 32):
                s += partial[w]
            out[cuda.blockIdx.x] = s

    module, memory = compiled(total, numba.float64[::1], numba.float64[::1], cc=cc), Memory()
    x = np.random.default_rng(0).integers(0, 1000, 10_007).astype("f8")
    address, out = memory.put(x, name="x"), memory.allocate(8 * 5)
    args = [*array_argument(address, x), *array_argument(out, np.empty(5))]
    counts = run(module, 5, 256, args, memory)
    assert memory.get(out, 5, "f8").sum() == x.sum()
    assert set(counts.traffic["x"].read) == {1}
    assert counts.barriers == 5
    with pytest.raises(LaunchError):
        run(module, 5, 256, args[:-1], memory)


@pytest.mark.parametrize("approximation", [-1, 0, 1])
@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("cc", [(8, 0), (10, 0)])
def test_log1p_of_the_device_library_is_right(dtype, cc, approximation):
    def kernel(x, out):
        i = cuda.grid(1)
        if i < x.size:
            out[i] = math.log1p(x[i])

    rng = np.random.default_rng(0)
    x = np.concatenate(
        [rng.uniform(-1, 30, 500), 10.0 ** rng.uniform(-30, 30, 493), [0, -0.0, -1, np.inf, -2, np.nan, 1]]
    )
    x, array = x.astype(dtype), FLOATS[dtype][::1]
    y = applied(kernel, (array, array), x, dtype, cc=cc, approximation=approximation)
    with np.errstate(all="ignore"):
        exact = np.log1p(x.astype(np.longdouble))
    finite = np.isfinite(exact)
    assert ulps(y[finite], exact[finite]).max() < 2
    assert np.array_equal(y[~finite], exact[~finite].astype(dtype), equal_nan=True)


@pytest.mark.parametrize("cc", [(8, 0), (10, 0)])
def test_functions_that_are_not_inlined_are_called(cc):
    def kernel(x, out):
        i = cuda.grid(1)
        if i < x.size:
            out[i] = math.pow(x[i], 1.25)

    x = np.random.default_rng(0).uniform(0, 1e3, 300)
    y = applied(kernel, (numba.float64[::1], numba.float64[::1]), x, "f8", cc=cc)
    assert ulps(y, x.astype(np.longdouble) ** 1.25).max() < 3


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("lanes", [1, 4])
def test_vectors_compute_the_same_bits_as_on_the_cpu(dtype, lanes):
    number, stored = FLOATS[dtype], Stored(np.dtype(dtype).name)
    v = simd.Vec(number, lanes) if lanes > 1 else number
    size = np.dtype(dtype).itemsize

    def of_address(x, out):
        d = load(v, stored, x)
        top, _ = top_of(simd.like(d, -0.5), None)
        hi, _ = exp_pair(simd.widen(d), None)
        store(stored, out, rounded(exp_parts(d, None, top)) + simd.convert(number, hi))

    on_gpu, on_cpu = cuda.jit(device=True)(of_address), numba.njit(of_address)

    def kernel(x, out, n):
        i = cuda.grid(1) * lanes
        if i < n:
            on_gpu(x + i * size, out + i * size)

    @numba.njit
    def loop(x, out, n):
        for i in range(0, n, lanes):
            on_cpu(x + i * size, out + i * size)

    rng = np.random.default_rng(0)
    x = -np.concatenate(
        [rng.uniform(0.5, 800, 900), 10.0 ** rng.uniform(0, 4, 120), [0.5, 0.5, np.inf, np.nan]]
    ).astype(dtype)
    want = np.empty_like(x)
    loop(x.ctypes.data, want.ctypes.data, x.size)
    memory = Memory()
    address, out = memory.put(x), memory.allocate(x.nbytes)
    run(compiled(kernel, *[ADDRESS] * 3, cc=(10, 0)), x.size // lanes // 32 + 1, 32, [address, out, x.size], memory)
    assert np.array_equal(memory.get(out, x.size, dtype), want, equal_nan=True)
