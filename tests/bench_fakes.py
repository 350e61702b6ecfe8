"""A machine for ``bench --device cuda`` without a GPU: a driver, a library and competitors that are stand-ins.

Kernels are those of the CPU here, device memory is host memory, and events are times of the host.
"""

import math
import sys
import time
from types import SimpleNamespace

import numba
import numpy as np
import pytest
from gpu_fakes import FACTS, Current, Driver, fake_cupy, fake_numba_cuda, fake_torch, forget

from numba_softmax import cli
from numba_softmax.backends import cpu, cuda
from numba_softmax.backends.cuda import driver
from numba_softmax.bench import cuda as bench_cuda
from numba_softmax.bench import cuda_arrays, cuda_clock, reference
from numba_softmax.bench.cases import masked_and_scaled
from numba_softmax.call.arguments import as_dtype

ERROR = "numba-softmax: error: "
NAMES = {"numba_softmax", "numba_softmax again", "copy", "torch"}
MIB = 1 << 20


class TimedDriver(Driver):
    """A driver whose events hold the time of the host, or another one."""

    CUfunction_attribute = Driver.CUdevice_attribute
    time = staticmethod(time.perf_counter)
    flush_seconds = 0
    free = 64 * MIB

    def cuEventRecord(self, event, stream):  # noqa: N802
        self.events[event] = self.time()
        return (0,)

    def cuEventSynchronize(self, event):  # noqa: N802
        return (0,)

    def cuEventElapsedTime(self, start, end):  # noqa: N802
        return 0, (self.events[end] - self.events[start]) * 1e3

    def cuMemsetD8Async(self, address, value, nbytes, stream):  # noqa: N802
        self.log.append(("flush", stream))
        self.memory[address][:nbytes] = value
        if self.flush_seconds:
            self.time.pass_by(self.flush_seconds)
        return (0,)

    def cuMemGetInfo(self):  # noqa: N802
        return 0, self.free, self.capacity

    def cuFuncGetAttribute(self, attribute, function):  # noqa: N802
        return 0, 0

    def cuFuncSetAttribute(self, function, attribute, value):  # noqa: N802
        return (0,)

    def cuLaunchKernel(self, function, *numbers):  # noqa: N802
        if function[1] != b"nothing":
            return super().cuLaunchKernel(function, *numbers)
        return (0,)


def launcher_for(op, layout):
    """The CPU's kernels in the place of a GPU's."""
    launch = cpu.launcher_for(op, layout)
    return lambda addresses, scale, queue: launch(addresses, scale)


class FakeMaker(cuda_arrays.Maker):
    """A library whose arrays are those of a fake CuPy."""

    name = "fake"

    def __init__(self, cupy):
        self._array, self._generator, self.tidied = cupy.ndarray, np.random.default_rng(1), 0

    def normal(self, shape, dtype):
        return self._array((self._generator.standard_normal(shape) * 3).astype(as_dtype(dtype)))

    def mask(self, shape, share):
        return self._array(self._generator.random(shape) < share)

    def empty(self, shape, dtype):
        return self._array(np.empty(shape, as_dtype(dtype)))

    def spoil(self, array):
        array.host[...] = math.nan

    def rows(self, array, axis, index):
        return np.moveaxis(array.host, axis, -1)[index]

    def values(self, array, index):
        return array.host[index]

    def tidy(self):
        self.tidied += 1


def good(case, data, maker):
    """A competitor that computes in float64 with what ours has."""

    def call():
        x = masked_and_scaled(case, data.x.host, None if data.mask is None else data.mask.host)
        data.y.host[...] = reference.by_numpy(case.op, x.astype(np.float64), case.axis)

    return bench_cuda.Candidate(call, call)


def lacking(case, data, maker):
    raise TypeError("no such dtype\nand more lines of it")


def failing(case, data, maker):
    def call():
        raise RuntimeError("out of memory")

    return bench_cuda.Candidate(call, call)


def lazy(case, data, maker):
    """One that does not write all results."""

    def call():
        data.y.host.flat[1:] = 0

    return bench_cuda.Candidate(call, call)


@pytest.fixture(name="gpu")
def gpu_fixture(monkeypatch, one_thread):
    """A machine with a GPU and one library; PyTorch takes part, Triton lacks dtypes, CuPy fails."""
    pytest.importorskip("ml_dtypes")
    monkeypatch.setitem(FACTS, "L2_CACHE_SIZE", 1 << 12)
    monkeypatch.setitem(FACTS, "CLOCK_RATE", 1_980_000)
    monkeypatch.setitem(FACTS, "MEMORY_CLOCK_RATE", 2_619_000)
    monkeypatch.setitem(FACTS, "GLOBAL_MEMORY_BUS_WIDTH", 5120)
    fake, current = TimedDriver(), Current(0)
    monkeypatch.setattr(driver, "_bindings", lambda: fake)
    monkeypatch.setattr(driver, "_cuda", driver._Unready())
    monkeypatch.setattr(driver, "assemble", lambda ptx, capability: (b"cubin", ""))
    monkeypatch.setattr(cuda, "launcher_for", launcher_for)
    modules = {"torch": fake_torch(current), "cupy": fake_cupy(current), "numba.cuda": fake_numba_cuda(current, fake)}
    pool = SimpleNamespace(free_all_blocks=lambda: None)
    modules["cupy"].get_default_memory_pool = lambda: pool
    for name, module in modules.items():
        module.__version__ = f"{name} 1.0"
        monkeypatch.setitem(sys.modules, name, module)
    monkeypatch.setattr(numba, "cuda", modules["numba.cuda"], raising=False)
    monkeypatch.setattr(bench_cuda, "ROUNDS", 5)
    monkeypatch.setattr(cuda_clock, "QUEUED_AT_ONCE", 3)
    monkeypatch.setattr(cuda_clock, "QUEUED_BLOCKS", 2)
    monkeypatch.setattr(bench_cuda, "FOREIGN", {"torch": good, "triton": lacking, "cupy": failing})
    maker = FakeMaker(modules["cupy"])
    monkeypatch.setattr(cuda_arrays, "maker", lambda: maker)
    forget(monkeypatch)
    yield SimpleNamespace(driver=fake, maker=maker, torch=modules["torch"], cupy=modules["cupy"])
    assert fake.nothing_left()


@pytest.fixture(name="setup")
def setup_fixture(gpu):
    queue = driver.Queue(0, 0)
    with cuda_clock.clock(queue) as clock:
        yield bench_cuda.Setup(gpu.maker, queue, clock)


def run(*arguments):
    return cli.main(["bench", "--device", "cuda", *map(str, arguments)])
