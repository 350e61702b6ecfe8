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
from numba_softmax.backends.cuda.interop import staging
from numba_softmax.call.arguments import as_axes, as_output_dtype, as_scale
from numba_softmax.call.layout import bound, layout_of, strides_with_reduced
from numba_softmax.call.memory import address_of
from numba_softmax.math.folds import stored_numbers
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

    def call(self, op, x, axis=-1, *, others=(), where=None, scale=None, dtype=None, offsets=None):
        """The result of an op, or a tuple of them.

        `x` and `others` are what it reads, in the order of its operands: elements, which are broadcast to those of `x`,
        and numbers a row, without the axes; states have one more axis, the first. Where an op has no elements, neither
        has `x`, and all its axes are rows. `offsets` are how many bytes the first elements of operands lie out of line.
        """
        op, x = OPS[op] if isinstance(op, str) else op, np.asarray(x)
        of_rows, offsets = all(o.per == "row" for o in op.operands), offsets or {}
        shape = x.shape[1:] if of_rows and op.operands[0].kind == "state" else x.shape
        axes = () if of_rows else as_axes(axis, x.ndim)
        rows = tuple(size for i, size in enumerate(shape) if i not in axes)
        dtype, inputs = as_output_dtype(dtype, x.dtype, None), iter((x, *others))
        operands, strides, addresses, fetches = [], [], [], []
        for o in op.operands:
            if o.kind == "mask" and where is None:
                continue
            count = (stored_numbers(op.fold, x.dtype.name) if not of_rows else x.shape[0],) if o.kind == "state" else ()
            own = shape if o.per == "element" else (*count, *rows)
            if o.kind == "mask":
                array = np.broadcast_to(where, shape)
            elif o.read:
                array = np.broadcast_to(next(inputs), own)
            else:
                array = poisoned(own, np.dtype(o.format or dtype))
            operands.append(bound(o, array.dtype)._replace(numbers=(*count, 1)[0]))
            along_rows = array.strides[len(count) :]
            strides.append(along_rows if o.per == "element" else strides_with_reduced(along_rows, axes, len(shape)))
            # Memory on the device goes with what gives it back: so it is held until the kernel has run.
            address, fetch = self._moved(o.name, array, offsets.get(o.name, 0))
            addresses.append(address)
            fetches.append((fetch, o.written, array))
        launch = self.backend.launcher_for(op, layout_of(operands, shape, axes, strides))
        launch(tuple(addresses), as_scale(scale), *(() if self.backend is staging else (self.queue,)))
        results = tuple(fetch().view(a.dtype).reshape(a.shape) for fetch, written, a in fetches if written)
        return results[0] if len(results) == 1 else results

    queue = driver.Queue(0, 0)
    backend = cuda  # or `staging`


def poisoned(shape, dtype):
    """A new array that nothing was written to."""
    return np.full(int(np.prod(shape)) * dtype.itemsize, POISON, np.uint8).view(dtype).reshape(shape)


def span_of(array):
    """The bytes of an array's memory, from the first one to the last, and where among them its first element is."""
    low, high = byte_bounds(array)
    return np.ctypeslib.as_array((ctypes.c_uint8 * (high - low)).from_address(low)), address_of(array) - low


@functools.cache
def ptx_of(kernel, target):
    """A kernel in PTX: compiled, or where another worker has left it."""
    if PTX_FOLDER not in os.environ:
        return kernels.compile_kernel(kernel, target).ptx
    name = f"{kernel.name}{target}"
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
        self.arrays[name if name not in self.arrays else f"{name} made"] = memory.ctypes.data, memory
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
        values, types = (
            ctypes.cast(pointers, ctypes.POINTER(ctypes.c_void_p)),
            {"q": ctypes.c_int64, "d": ctypes.c_double},
        )
        words = [types[letter].from_address(values[i]).value for i, letter in enumerate(kernel.packing)]
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
