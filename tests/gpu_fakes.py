"""GPUs without a GPU: a driver whose device memory is host memory, and the libraries that keep arrays there.

What is queued is done at once, so that an order in time shows in the driver's log alone.
"""

import contextlib
import ctypes
import functools
import itertools
import sys
from types import SimpleNamespace

import ml_dtypes
import numba
import numpy as np
from naive import FLOATS, naive

from numba_softmax.backends import cuda
from numba_softmax.backends.cuda import allocation, driver
from numba_softmax.backends.cuda.interop import libraries
from numba_softmax.building import built
from numba_softmax.call import dlpack, plan, row_states, whole_arrays
from numba_softmax.call.memory import stand_in

CURRENT = 0x77  # the libraries' current stream

GPUS = 2
OUT_OF_MEMORY, NOT_INITIALIZED, INVALID_VALUE, NO_DEVICE, NO_CONTEXT, BAD_HANDLE, ILLEGAL = 2, 3, 1, 100, 201, 400, 700
NAMES = {
    OUT_OF_MEMORY: b"CUDA_ERROR_OUT_OF_MEMORY",
    NOT_INITIALIZED: b"CUDA_ERROR_NOT_INITIALIZED",
    NO_DEVICE: b"CUDA_ERROR_NO_DEVICE",
    BAD_HANDLE: b"CUDA_ERROR_INVALID_HANDLE",
    ILLEGAL: b"CUDA_ERROR_ILLEGAL_ADDRESS",
}
FACTS = {
    "COMPUTE_CAPABILITY_MAJOR": 9,
    "COMPUTE_CAPABILITY_MINOR": 0,
    "MULTIPROCESSOR_COUNT": 132,
    "MAX_SHARED_MEMORY_PER_BLOCK_OPTIN": 232448,
    "L2_CACHE_SIZE": 50 << 20,
}


class Attributes:
    """An enumeration that gives each of its names for itself."""

    def __getattr__(self, name):
        return name


class Driver:
    """The bindings of the driver."""

    CUdevice_attribute = CUpointer_attribute = CUfunction_attribute = CUmemPool_attribute = Attributes()
    CUmemAllocationType = CUmemLocationType = Attributes()
    cuuint64_t = int

    @staticmethod
    def CUmemPoolProps():  # noqa: N802
        return SimpleNamespace(location=SimpleNamespace())

    def __init__(self, pools=True):
        self.pools = pools
        self.log = []  # what was queued, as tuples: what, the stream, and more
        self.memory, self.pinned, self.streams = {}, {}, {}  # what there is by address or handle
        self.events = {}  # the streams that they were recorded in
        self.contexts = []  # the stack of the one thread
        self.places = []  # arrays of the libraries: first byte, end, device, and what keeps it
        self.fails = {}  # by name of a function: the calls that it still serves, and the error then
        self.capacity = 1 << 40
        self.peak = 0
        self._handles = itertools.count(0x1000, 16)

    def __getattribute__(self, name):
        found = super().__getattribute__(name)
        fails = name.startswith("cu") and self.fails.get(name)
        if fails:
            fails[0] -= 1
            if fails[0] < 0:
                return lambda *arguments: (fails[1], None)
        return found

    def fail(self, function, error, after=0):
        """Have a function of the driver give an error from the call after so many on."""
        self.fails[function] = [after, error]

    def nothing_left(self):
        return not (self.memory or self.pinned or self.streams or self.events or self.contexts)

    # ----------------------------------------------------------- errors, devices

    def cuInit(self, flags):  # noqa: N802
        return (0,)

    def cuGetErrorName(self, error):  # noqa: N802
        return (0, NAMES[error]) if error in NAMES else (INVALID_VALUE, None)

    def cuGetErrorString(self, error):  # noqa: N802
        return (0, b"in so many words") if error in NAMES else (INVALID_VALUE, None)

    def cuDriverGetVersion(self):  # noqa: N802
        return 0, 13020

    def cuDeviceGetCount(self):  # noqa: N802
        return 0, GPUS

    def cuDeviceGet(self, ordinal):  # noqa: N802
        return (0, ordinal) if 0 <= ordinal < GPUS else (101, None)

    def cuDeviceGetName(self, size, handle):  # noqa: N802
        return 0, f"Fake {handle}".encode().ljust(size, b"\0")

    def cuDeviceGetAttribute(self, attribute, handle):  # noqa: N802
        name = attribute.removeprefix("CU_DEVICE_ATTRIBUTE_")
        return 0, int(self.pools) if name == "MEMORY_POOLS_SUPPORTED" else FACTS[name]

    def cuDeviceTotalMem(self, handle):  # noqa: N802
        return 0, self.capacity

    def cuDevicePrimaryCtxRetain(self, handle):  # noqa: N802
        return 0, 0xC0 + handle

    def cuCtxGetCurrent(self):  # noqa: N802
        return 0, self.contexts[-1] if self.contexts else 0

    def cuCtxGetDevice(self):  # noqa: N802
        return (0, self.contexts[-1] - 0xC0) if self.contexts else (NO_CONTEXT, None)

    def cuCtxPushCurrent(self, context):  # noqa: N802
        self.contexts.append(context)
        return (0,)

    def cuCtxPopCurrent(self):  # noqa: N802
        return 0, self.contexts.pop()

    # ------------------------------------------------------------ streams, kernels

    def cuStreamCreate(self, flags):  # noqa: N802
        handle = next(self._handles)
        self.streams[handle] = self.contexts[-1]
        return 0, handle

    def cuStreamDestroy(self, stream):  # noqa: N802
        del self.streams[stream]
        return (0,)

    def cuStreamSynchronize(self, stream):  # noqa: N802
        self.log.append(("synchronize", stream))
        return (0,)

    def cuStreamGetCtx(self, stream):  # noqa: N802
        return (0, self.streams[stream]) if stream in self.streams else (BAD_HANDLE, None)

    def cuStreamWaitEvent(self, stream, event, flags):  # noqa: N802
        self.log.append(("wait", stream, self.events[event]))
        return (0,)

    def cuEventCreate(self, flags):  # noqa: N802
        event = next(self._handles)
        self.events[event] = None
        return 0, event

    def cuEventRecord(self, event, stream):  # noqa: N802
        self.events[event] = stream
        return (0,)

    def cuEventDestroy(self, event):  # noqa: N802
        del self.events[event]
        return (0,)

    def cuModuleLoadData(self, cubin):  # noqa: N802
        return 0, "module"

    def cuModuleGetFunction(self, module, name):  # noqa: N802
        return 0, (module, name, self.contexts[-1])

    def cuFuncGetAttribute(self, attribute, function):  # noqa: N802
        return 0, 1024

    def cuFuncSetAttribute(self, function, attribute, value):  # noqa: N802
        self.log.append((attribute.removeprefix("CU_FUNC_ATTRIBUTE_"), None, value))
        return (0,)

    def cuLaunchKernel(self, function, *numbers):  # noqa: N802
        *sizes, stream, pointers, _ = numbers
        values = ctypes.cast(pointers, ctypes.POINTER(ctypes.c_void_p))
        words = [ctypes.c_int64.from_address(values[i]).value for i in (0, 1, 2, 3, 6)]
        floats = [ctypes.c_double.from_address(values[i]).value for i in (4, 5)]
        self.log.append(("launch", stream, self.contexts[-1] if self.contexts else 0, sizes, words, floats))
        return (0,)

    # --------------------------------------------------------------------- memory

    def _allocate(self, kind, nbytes):
        used = sum(map(len, self.memory.values()))
        if kind is self.memory and used + nbytes > self.capacity:
            return OUT_OF_MEMORY, None
        memory = np.full(nbytes, 0xA5, np.uint8)
        kind[memory.ctypes.data] = memory
        self.peak = max(self.peak, sum(len(m) for m in (*self.memory.values(), *self.pinned.values())))
        return 0, memory.ctypes.data

    def cuMemAlloc(self, nbytes):  # noqa: N802
        return self._allocate(self.memory, nbytes)

    def cuMemPoolCreate(self, wanted):  # noqa: N802
        return 0, f"pool {wanted.location.id}"

    def cuMemPoolSetAttribute(self, pool, attribute, value):  # noqa: N802
        assert (attribute, value) == ("CU_MEMPOOL_ATTR_RELEASE_THRESHOLD", allocation.KEPT_BYTES)
        return (0,)

    def cuMemAllocFromPoolAsync(self, nbytes, pool, stream):  # noqa: N802
        assert int(pool.removeprefix("pool ")) == self.contexts[-1] - 0xC0
        return self._allocate(self.memory, nbytes)

    def cuMemHostAlloc(self, nbytes, flags):  # noqa: N802
        return self._allocate(self.pinned, nbytes)

    def cuMemFree(self, address):  # noqa: N802
        self.log.append(("free", None))
        del self.memory[address]
        return (0,)

    def cuMemFreeAsync(self, address, stream):  # noqa: N802
        self.log.append(("free", stream))
        del self.memory[address]
        return (0,)

    def cuMemFreeHost(self, address):  # noqa: N802
        self.log.append(("unpin", None))
        del self.pinned[address]
        return (0,)

    def _copy(self, to, source, nbytes, stream):
        self.log.append(("copy", stream, nbytes))
        ctypes.memmove(to, source, nbytes)
        return (0,)

    cuMemcpyHtoDAsync = cuMemcpyDtoHAsync = cuMemcpyDtoDAsync = _copy  # noqa: N815

    def cuPointerGetAttribute(self, attribute, address):  # noqa: N802
        for first, end, ordinal, _ in reversed(self.places):
            if first <= address < end:
                return 0, ordinal
        return INVALID_VALUE, None

    def put(self, array, ordinal=0):
        """Have an array's memory lie on a device."""
        base = array
        while isinstance(base.base, np.ndarray):
            base = base.base
        self.places.append((base.ctypes.data, base.ctypes.data + max(1, base.nbytes), ordinal, base))
        return array


class Backend:
    """Kernels that are the definitions themselves, row by row, and a log of the streams that they were queued in."""

    def __init__(self, log):
        self.log, self.queues = log, []

    def launcher_for(self, op, layout):
        (row_sizes, *row_steps), (n_sizes, *n_steps) = (
            tuple(zip(*dims, strict=True)) for dims in (layout.row_dims, layout.reduced_dims)
        )

        def launch(addresses, scale, queue):
            self.queues.append(tuple(queue))
            self.log.append(("run", queue.stream))
            for row in np.ndindex(*row_sizes):
                of_row = {}
                for o, address, by_row, steps in zip(layout.operands, addresses, row_steps, n_steps, strict=True):
                    at = address + sum(i * step for i, step in zip(row, by_row, strict=True))
                    sizes = n_sizes if o.per == "element" else tuple(1 for _ in n_sizes)
                    of_row[o.name] = _memory(at, o.format, sizes, steps)
                x, keep = np.array(of_row["x"]), np.array(of_row.get("where", True))
                of_row["out"][...] = naive(op.name, x, None, where=keep, scale=scale)

        return launch


def _memory(address, name, sizes, steps):
    dtype = FLOATS.get(name) or np.dtype(name)
    bits = np.dtype(f"u{dtype.itemsize}")
    return stand_in(address or 1, sizes, bits, steps, True).view(dtype)


def right(name, x, axis=-1, dtype=None, **options):
    """The results of a call."""
    if dtype is None:
        dtype = x.dtype.newbyteorder("=") if x.dtype.newbyteorder("=") in FLOATS.values() else np.float64
    return naive(name, x, axis, **options).astype(dtype)


def agree(result, expected):
    """Two ways to the same numbers, of the same type, give nearly the same."""
    assert result.dtype.newbyteorder("=") == expected.dtype
    bound = 2 * float(ml_dtypes.finfo(expected.dtype).eps)
    np.testing.assert_allclose(result.astype(np.float64), expected.astype(np.float64), rtol=bound, atol=bound)


# ------------------------------------------------------------------------ arrays


class Interface:
    """An array that speaks CUDA Array Interface alone."""

    def __init__(self, array, **more):
        self.host = array
        self.__cuda_array_interface__ = {
            "shape": array.shape,
            "typestr": array.dtype.str,
            "data": (array.ctypes.data if array.size else 0, not array.flags.writeable),
            "strides": None if array.flags.c_contiguous else array.strides,
            "version": 3,
            **more,
        }


class DLPack:
    """An array that speaks DLPack alone, through a capsule that is NumPy's but for the device in it.

    `released` counts the capsules that have ended.
    """

    def __init__(self, array, ordinal=0, kind=2, versioned=True):
        self.host, self._device, self._versioned = array, (kind, ordinal), versioned
        self.streams, self.capsules = [], 0

    device = "a device"

    def __dlpack_device__(self):
        return self._device

    def __dlpack__(self, *, stream=None, **versions):
        if versions and not self._versioned:
            raise TypeError("unknown argument max_version")
        self.streams.append(stream)
        capsule = self.host.__dlpack__(**versions)
        name = b"dltensor_versioned" if versions else b"dltensor"
        get = ctypes.PYFUNCTYPE(ctypes.c_void_p, ctypes.py_object, ctypes.c_char_p)(
            ("PyCapsule_GetPointer", ctypes.pythonapi)
        )
        device_at = get(capsule, name) + (32 if versions else 0) + 8
        (ctypes.c_int32 * 2).from_address(device_at)[:] = self._device
        return capsule


class Namespaced(DLPack):
    """The same of a library that follows the array API standard."""

    def __array_namespace__(self):
        def empty(shape, *, dtype, device):
            assert device == self.device
            return Namespaced(np.empty(shape, dtype), *self._device[::-1])

        return SimpleNamespace(empty=empty, **{name: np.dtype(name) for name in ("float16", "float32", "float64")})


class Module(SimpleNamespace):
    """A module, which can be a key."""

    __hash__ = object.__hash__


class Current:
    """A library's current streams and device, and the context managers that change them."""

    def __init__(self, stream=0):
        self.streams, self.device = dict.fromkeys(range(GPUS), stream), 0

    @contextlib.contextmanager
    def stream(self, handle, ordinal):
        before = self.streams[ordinal]
        self.streams[ordinal] = handle
        yield
        self.streams[ordinal] = before

    @contextlib.contextmanager
    def on(self, ordinal):
        before, self.device = self.device, ordinal
        yield
        self.device = before


def fake_torch(current):
    """A module that looks like PyTorch."""

    class Dtype:
        def __init__(self, name):
            self.name = name

        def __repr__(self):
            return f"torch.{self.name}"

    class Tensor:
        is_cuda = True

        def __init__(self, host, ordinal=0, requires_grad=False, negated=False):
            self.host, self.requires_grad, self._negated = host, requires_grad, negated
            self.device, self.used_in, self.made_in = ("cuda", ordinal), [], current.streams[ordinal]
            self.dtype = getattr(torch, host.dtype.name)

        shape = property(lambda self: self.host.shape)

        def is_neg(self):
            return self._negated

        def get_device(self):
            return self.device[1]

        def stride(self):
            return tuple(step // self.host.itemsize for step in self.host.strides)

        def data_ptr(self):
            return self.host.ctypes.data if self.host.size else 0

        def permute(self, axes):
            return Tensor(self.host.transpose(axes), *self.device[1:])

        def record_stream(self, stream):
            self.used_in.append(stream)

        def __array__(self, dtype=None, copy=None):
            raise TypeError("can't convert cuda:0 device type tensor to numpy")

    class OnHost(Tensor):
        is_cuda = False

        def detach(self):
            return OnHost(self.host)

        def __dlpack__(self, **options):
            if self.requires_grad:
                raise BufferError("use tensor.detach()")
            return lent(self.host).__dlpack__(**options)

    def lent(host):
        return dlpack.Bfloat16(host) if host.dtype == ml_dtypes.bfloat16 else host

    numpy_dtypes = {"bfloat16": np.dtype(ml_dtypes.bfloat16)}

    def empty(shape, *, dtype, device):
        return Tensor(np.empty(shape, numpy_dtypes.get(dtype.name) or np.dtype(dtype.name)), device[1])

    Tensor.__module__ = OnHost.__module__ = "torch"
    torch = Module(
        Tensor=Tensor,
        OnHost=OnHost,
        dtype=Dtype,
        empty=empty,
        from_dlpack=lambda array: OnHost(dlpack.as_numpy(array, "an array", writeable=False)),
        is_grad_enabled=lambda: torch.grad,
        grad=True,
        device=lambda kind, ordinal: (kind, ordinal),
        _C=SimpleNamespace(_cuda_getCurrentRawStream=lambda ordinal: current.streams[ordinal]),
        cuda=SimpleNamespace(
            ExternalStream=lambda handle, device: (handle, device[1]),
            stream=lambda stream: current.stream(*stream),
            current_stream=lambda ordinal: SimpleNamespace(cuda_stream=current.streams[ordinal]),
        ),
        **{
            name: Dtype(name)
            for name in ("float16", "bfloat16", "float32", "float64", "int32", "bool", "complex64", "float8_e4m3fnuz_x")
        },
    )
    return torch


def fake_cupy(current):
    """A module that looks like CuPy."""

    class ndarray:  # noqa: N801
        def __init__(self, host, ordinal=0):
            self.host, self.shape, self.dtype, self.strides = host, host.shape, host.dtype, host.strides
            self.data = SimpleNamespace(ptr=host.ctypes.data if host.size else 0, device_id=ordinal)
            self.made_in = current.streams[ordinal]

        def transpose(self, axes):
            return ndarray(self.host.transpose(axes), self.data.device_id)

    ndarray.__module__ = "cupy"
    return SimpleNamespace(
        ndarray=ndarray,
        empty=lambda shape, dtype: ndarray(np.empty(shape, dtype), current.device),
        cuda=SimpleNamespace(
            get_current_stream=lambda ordinal: SimpleNamespace(ptr=current.streams[ordinal]),
            ExternalStream=current.stream,
            Device=current.on,
            runtime=SimpleNamespace(getDevice=lambda: current.device),
        ),
    )


def fake_numba_cuda(current, fake):
    """A module that looks like ``numba.cuda``."""

    class DeviceNDArray:
        def __init__(self, host, stream=0, ordinal=0):
            self.host, self.shape, self.dtype, self.strides = host, host.shape, host.dtype, host.strides
            self.stream = stream
            self.device_ctypes_pointer = ctypes.c_size_t(host.ctypes.data if host.size else 0)
            fake.put(host, ordinal)

    DeviceNDArray.__module__ = "numba.cuda.cudadrv.devicearray"

    def device_array(shape, dtype, strides=None, stream=0):
        host = np.empty(shape, dtype)
        if strides is not None:
            host = np.lib.stride_tricks.as_strided(host, shape, strides)
        return DeviceNDArray(host, stream, current.device)

    return SimpleNamespace(
        DeviceNDArray=DeviceNDArray,
        device_array=device_array,
        external_stream=lambda handle: handle,
        gpus=_Gpus(current),
    )


class _Gpus:
    def __init__(self, current):
        self._current = current

    def __getitem__(self, ordinal):
        return self._current.on(ordinal)


CACHED, BUILT = type(functools.cache(len)), built(len).__code__


def forget(monkeypatch):
    """Have nothing known of devices, kernels and calls, until a test ends: then all is as before, on a real GPU too."""
    for module in (driver, allocation, cuda, libraries, plan, whole_arrays, row_states):
        for name, function in list(vars(module).items()):
            if isinstance(function, CACHED):
                monkeypatch.setattr(module, name, functools.cache(function.__wrapped__))
            elif getattr(function, "__code__", None) is BUILT:
                monkeypatch.setattr(module, name, built(function.__wrapped__))


@contextlib.contextmanager
def machine(monkeypatch):
    """A machine with two GPUs, PyTorch, CuPy and Numba."""
    fake, current = Driver(), Current(CURRENT)
    backend = Backend(fake.log)
    monkeypatch.setattr(driver, "_bindings", lambda: fake)
    monkeypatch.setattr(driver, "_cuda", driver._Unready())
    monkeypatch.setattr(cuda, "launcher_for", backend.launcher_for)
    modules = {"torch": fake_torch(current), "cupy": fake_cupy(current), "numba.cuda": fake_numba_cuda(current, fake)}
    for name, module in modules.items():
        monkeypatch.setitem(sys.modules, name, module)
    monkeypatch.setattr(numba, "cuda", modules["numba.cuda"], raising=False)
    forget(monkeypatch)
    fake.contexts.append(0xC0)
    yield SimpleNamespace(
        driver=fake, current=current, queues=backend.queues, log=fake.log,
        torch=modules["torch"], cupy=modules["cupy"], numba=modules["numba.cuda"],
    )  # fmt: skip
    fake.contexts.pop()
    assert fake.nothing_left()
