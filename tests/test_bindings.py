"""The real bindings take what the driver is asked: shown with a library in the driver's place."""

import importlib.util
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

SAYS = """
import ctypes, gc
import numpy as np
from gpu_fakes import Backend, Interface, agree, right
import numba_softmax as ns
from numba_softmax.backends import cuda
from numba_softmax.backends.cuda import allocation, driver


def says(kind, text, call, *arguments):
    try:
        call(*arguments)
    except kind as error:
        assert text in str(error), error
    else:
        raise AssertionError(text)


assert (driver.version(), driver.count(), driver.device(1).name) == ((13, 2), 2, "Fake 1")
assert driver.device(0).capability == (75, 76) and driver.device(0).memory == 1 << 32
assert driver.current_ordinal() == 0
says(driver.CudaError, "CUDA_ERROR_SOME: in so many words", driver.device, 7)

function = driver.load(0, b"cubin", "kernel")
says(driver.CudaError, "loading missing on GPU 0", driver.load, 0, b"cubin", "missing")
launch = driver.LoadedKernel(function, (1 << 31) - 1, 256, 4096, "qqqqddqq", (17, -18))
got = np.zeros(13)
for ordinal in (0, 1):
    launch.launch(driver.Queue(ordinal, 0x77), (5, got.ctypes.data, -6), 19, -1.0, 0.25)
    assert got.tolist() == [5, -6, -1.0, 0.25, 17, -18, (1 << 31) - 1, 1, 256, 4096, 0x77, ordinal, 19], got
says(driver.CudaError, "stream 0xdead", launch.launch, driver.Queue(0, 0xDEAD), (5, got.ctypes.data, 6), 0, 1.0, 1.0)
says(MemoryError, "out of memory", lambda: allocation.scratch(driver.Queue(0, 0), 1 << 40).__enter__())
for ordinal in (0, 1):
    assert ctypes.c_int64.from_address(int(allocation._pool(ordinal))).value == ordinal
    with allocation.scratch(driver.Queue(ordinal, 0x77), 100) as address:
        ctypes.memset(address, 1, 100)
assert driver.current_ordinal() == 0

backend = Backend([])
cuda.launcher_for = backend.launcher_for
x = np.random.default_rng(0).normal(size=(40, 30, 50)).astype(np.float32)
for axis in (-1, 0, None):
    agree(ns.softmax(x, axis, device="cuda"), right("softmax", x, axis))
y = np.empty_like(x)
ns.softmax(Interface(x, stream=0x55), out=Interface(y, stream=0x66))
agree(y, right("softmax", x))
memory = np.concatenate([x, x[:1]])
ns.softmax(Interface(memory[:-1]), out=Interface(memory[1:]), stream=0x88)
agree(memory[1:], right("softmax", x))
says(driver.CudaError, "stream 0xdead", lambda: ns.softmax(Interface(x), out=Interface(y), stream=0xDEAD))
says(TypeError, "host memory", ns.softmax, Interface(x, data=(4096, False)))
assert backend.queues[-2:] == [(0, 0x55), (0, 0x88)]
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the library in the driver's place is one for Linux")
def test_the_bindings_take_what_the_driver_is_asked(run_python, tmp_path):
    if importlib.util.find_spec("numba_cuda") is None:
        pytest.skip("numba-cuda is not installed")
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        pytest.skip("there is no C compiler")
    source = Path(__file__).with_name("fake_driver.c")
    subprocess.run([compiler, "-shared", "-fPIC", "-w", source, "-o", tmp_path / "libcuda.so.1", "-ldl"], check=True)
    run_python(SAYS, LD_LIBRARY_PATH=str(tmp_path))
