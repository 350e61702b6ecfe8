"""GPUs to run kernels on: one whose driver interprets their PTX, so that tests need no hardware, and a real one."""

import ctypes
import functools
import hashlib
import os
from pathlib import Path

import numpy as np
import ptx
from gpu_fakes import FACTS, Driver, forget
from numpy.lib.array_utils import byte_bounds

from numba_softmax.backends import cuda
from numba_softmax.backends.cuda import driver, kernels
from numba_softmax.call.arguments import as_axes, as_output_dtype, as_scale
from numba_softmax.call.layout import Form, layout_of, strides_with_reduced
from numba_softmax.call.memory import address_of
from numba_softmax.ops import OPS

PTX_FOLDER = "TESTS_PTX_FOLDER"
"""The variable with the folder of kernels in PTX that the workers of a run share; see conftest.py.

Those that begin with NUMBA_ are a part of the names of kernels on disk.
"""

GAP = 256
"""Bytes before and after an array's memory, which is aligned to as many."""

POISON = 0xA5
"""What results hold before they are written."""


class Gpu:
    """Calls of the backend on arrays that are moved to a device with all memory from their first to their last byte."""

    def call(self, name, x, axis=-1, *, where=None, scale=None, dtype=None, offsets=(0, 0, 0)):
        """A result; `offsets` are how many bytes the first elements of x, result and mask lie out of line."""
        x, op = np.asarray(x), OPS[name]
        axes = as_axes(axis, x.ndim)
        dtype = as_output_dtype(dtype, x.dtype, None)
        shape = tuple(size for i, size in enumerate(x.shape) if not (op.reduces and i in axes))
        out = np.full(int(np.prod(shape)) * dtype.itemsize, POISON, np.uint8).view(dtype).reshape(shape)
        steps = strides_with_reduced(out.strides, axes, x.ndim) if op.reduces else out.strides
        mask = None if where is None else np.broadcast_to(where, x.shape)
        mask_steps = None if mask is None else mask.strides
        layout = layout_of(axes, Form.of(x), Form(shape, dtype, steps), mask_steps)
        # Memory on the device goes with what gives it back, so that of x and the mask is held until the kernel has run.
        x_at, _x = self._moved("x", x, offsets[0])
        y_at, fetch = self._moved("y", out, offsets[1])
        w_at, _w = (0, None) if mask is None else self._moved("w", mask, offsets[2])
        cuda.starter(op, layout)(x_at, y_at, w_at, as_scale(scale), self.queue)
        return fetch().view(dtype).reshape(shape)

    queue = driver.Queue(0, 0)


def span_of(array):
    """The bytes of an array's memory, from the first one to the last, and where among them its first element is."""
    low, high = byte_bounds(array)
    return np.ctypeslib.as_array((ctypes.c_uint8 * (high - low)).from_address(low)), address_of(array) - low


@functools.cache
def ptx_of(kernel, target):
    """A kernel in PTX: compiled, or where another worker has left it."""
    if PTX_FOLDER not in os.environ:
        return kernels.compile_kernel(kernel, target).ptx
    name = repr((kernel.regime, kernel.spec.op.name, kernel.spec[1:], kernel[2:], target))
    path = Path(os.environ[PTX_FOLDER], hashlib.sha256(name.encode()).hexdigest())
    if not path.exists():
        beside = path.with_suffix(f".{os.getpid()}")
        beside.write_text(kernels.compile_kernel(kernel, target).ptx)
        beside.replace(path)
    return path.read_text()


@functools.cache
def module_of(kernel, target):
    """A kernel, compiled and parsed."""
    return ptx.parse(ptx_of(kernel, target))


class Interpreter(Gpu):
    """A GPU made of the interpreter; `settings` are those of `ptx.run`, `launched` has the last call's kernels."""

    def __init__(self, monkeypatch, capability=(9, 0)):
        self.capability, self.settings = capability, {}
        self.arrays, self.launched = {}, []  # addresses and memory by name; kernels and their counts
        self.driver = _Driver(self)
        monkeypatch.setitem(FACTS, "COMPUTE_CAPABILITY_MAJOR", capability[0])
        monkeypatch.setitem(FACTS, "COMPUTE_CAPABILITY_MINOR", capability[1])
        monkeypatch.setattr(driver, "_bindings", lambda: self.driver)
        monkeypatch.setattr(driver, "_cuda", driver._Unready())
        monkeypatch.setattr(driver, "load", lambda ordinal, kernel, entry: kernel)
        monkeypatch.setattr(kernels, "assembled_kernel", lambda kernel, _: (kernel, "", ""))
        forget(monkeypatch)
        self.driver.contexts.append(0xC0)

    @property
    def counts(self):
        """What the one kernel of the last call did."""
        ((_, counts),) = self.launched
        return counts

    def call(self, *arguments, **options):
        self.arrays.clear()
        self.launched.clear()
        return super().call(*arguments, **options)

    def _moved(self, name, array, offset):
        span, start = span_of(array)
        room = np.full(len(span) + 3 * GAP, POISON, np.uint8)
        first = -room.ctypes.data % GAP + GAP + (offset - start) % 16
        memory = room[first : first + len(span)]
        memory[:] = span
        self.arrays[name] = memory.ctypes.data, memory
        return memory.ctypes.data + start, lambda: memory


class _Driver(Driver):
    """A driver that has kernels interpreted."""

    def __init__(self, gpu):
        super().__init__()
        self.gpu = gpu

    def cuLaunchKernel(self, kernel, *numbers):  # noqa: N802
        *sizes, shared, _, pointers, _ = numbers
        memory = ptx.Memory()
        for name, (address, array) in self.gpu.arrays.items():
            memory.map(array, address, name=name)
        for address, temporary in self.memory.items():
            memory.map(temporary, address, name="temporary")
        for first, _, _, array in self.places:
            memory.map(array, first, name=f"array at {first}")
        g, values = kernel.geometry, ctypes.cast(pointers, ctypes.POINTER(ctypes.c_void_p))
        words = [ctypes.c_int64.from_address(values[i]).value for i in range(9 + 4 * (g.row_dims + g.reduced_dims))]
        words[4:6] = [ctypes.c_double.from_address(values[i]).value for i in (4, 5)]
        module = module_of(kernel, kernels.target_of(self.gpu.capability))
        counts = ptx.run(module, sizes[0], sizes[3], words, memory, shared_bytes=shared, **self.gpu.settings)
        self.gpu.launched.append((kernel, counts))
        return (0,)


class RealGpu(Gpu):
    """The first GPU of this machine."""

    def _moved(self, name, array, offset):
        from numba.cuda import device_array

        span, start = span_of(array)
        room = device_array(len(span) + 3 * GAP, np.uint8)
        before = GAP + (offset - start) % 16
        room.copy_to_device(np.pad(span, (before, len(room) - before - len(span)), constant_values=POISON))
        return room.device_ctypes_pointer.value + before + start, lambda: self._fetched(room, before, len(span))

    def _fetched(self, room, before, count):
        host = room.copy_to_host()
        gaps = np.delete(host, np.s_[before : before + count])
        assert (gaps == POISON).all(), "something was written beyond the array"
        return host[before : before + count]
