"""Calls of the CUDA driver: devices, kernels, streams, memory; its errors are raised as exceptions.

They work in the primary context of a device, which PyTorch, CuPy and Numba use
too, and leave a thread's current context as it was. The bindings come with
numba-cuda. They are loaded by the first call of the driver, and so is the
driver: importing this module needs neither.
"""

from __future__ import annotations

import ctypes
import functools
import os
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, NamedTuple

from ... import kernel_code
from ...building import build
from . import installed
from .installed import CudaError

kernel_code.register()

LEGACY_STREAM, PER_THREAD_STREAM = 1, 2
"""Handles that stand for default streams. The meaning of 0 depends on the bindings: see `default_stream`."""

# Numbers of the driver's interface, which do not change.
_OUT_OF_MEMORY, _NOT_INITIALIZED, _NO_DEVICE, _INVALID_VALUE = 2, 3, 100, 1
_CORRUPTING = (214, 220, 700, 702, 710, *range(714, 720))
"""Errors after which a process cannot use the device any more: some kernel, of any library, did something illegal."""
_NON_BLOCKING, _NO_TIMING = 1, 2


class Queue(NamedTuple):
    """A queue of work: a device, and the handle of one of its streams."""

    ordinal: int
    stream: int


@dataclass(frozen=True)
class Device:
    """A GPU."""

    ordinal: int
    name: str
    capability: tuple[int, int]
    processors: int
    shared_memory: int  # bytes that a block can have
    l2: int  # bytes
    memory: int  # bytes
    has_pools: bool  # True if memory can be allocated in the order of a stream


# ----------------------------------------------------------------------- loading


class _Unready:
    """Stands for the bindings until they are needed."""

    def __getattr__(self, name: str) -> Any:
        if not name.startswith(("cu", "CU")):  # a look-up of, say, __wrapped__ must not start CUDA
            raise AttributeError(name)
        build(_start)
        return getattr(_cuda, name)


class _Forked:
    """Stands for the bindings in a process forked from one that had loaded them."""

    def __getattr__(self, name: str) -> Any:
        raise CudaError(
            "this process was forked from one that had used CUDA, and CUDA does not work in such a process: "
            "start it by multiprocessing.get_context('spawn')"
        )


_cuda: Any = _Unready()


def _after_fork() -> None:
    global _cuda
    if not isinstance(_cuda, _Unready):
        _cuda = _Forked()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


def _bindings() -> Any:
    """The module of bindings."""
    return installed.bindings("driver")


def _start() -> None:
    global _cuda
    bindings = _bindings()
    try:
        (error,) = bindings.cuInit(0)
    except Exception as problem:  # each release of the bindings has another type for it
        raise CudaError(f"CUDA needs an NVIDIA driver, and none was found on this machine: {problem}") from None
    if error == _NO_DEVICE:
        raise CudaError("the NVIDIA driver finds no GPU that this process may use (CUDA_ERROR_NO_DEVICE)")
    if error:
        raise _exception(bindings, error, "starting CUDA")
    _cuda = bindings


# ------------------------------------------------------------------------ errors


def _exception(bindings: Any, error: int, doing: str) -> Exception:
    """The exception to raise for an error of the driver."""
    known, name = bindings.cuGetErrorName(error)
    _, text = bindings.cuGetErrorString(error)
    said = f"{name.decode()}: {text.decode()}" if not known else f"error {int(error)}"
    if error == _OUT_OF_MEMORY:
        return MemoryError(f"{doing}: out of memory ({said})")
    if error in _CORRUPTING:
        said += "; some kernel of this process failed before, and none can run any more: start a new process"
    elif error == _NOT_INITIALIZED:
        said += "; if this process was forked from one that had used CUDA, start it by 'spawn' instead"
    return CudaError(f"{doing}: {said}")


def ask(doing: str, function: str, *arguments: Any) -> Any:
    """Call a function of the driver; return its value, or None if it has none."""
    error, *values = getattr(_cuda, function)(*arguments)
    if error:
        raise _exception(_cuda, error, doing)
    return values[0] if values else None


def tell(function: str, *arguments: Any) -> None:
    """Call a function of the driver that releases something; ignore its error, since another is often being raised."""
    getattr(_cuda, function)(*arguments)


# ----------------------------------------------------------------------- devices


def version() -> tuple[int, int]:
    """The CUDA version that the driver knows."""
    number = ask("asking the driver for its version", "cuDriverGetVersion")
    return number // 1000, number % 1000 // 10


def count() -> int:
    """The number of devices."""
    return ask("counting GPUs", "cuDeviceGetCount")


def assembler_version() -> tuple[int, int]:
    """The version of nvJitLink."""
    nvjitlink = installed.bindings("nvjitlink")
    with installed.needed():
        return nvjitlink.version()


@functools.cache
def device(ordinal: int) -> Device:
    """The properties of a device."""
    doing = f"asking for GPU {ordinal}"
    handle = ask(doing, "cuDeviceGet", ordinal)

    def fact(name: str) -> int:
        attribute = getattr(_cuda.CUdevice_attribute, f"CU_DEVICE_ATTRIBUTE_{name}")
        return ask(doing, "cuDeviceGetAttribute", attribute, handle)

    return Device(
        ordinal,
        ask(doing, "cuDeviceGetName", 128, handle).split(b"\0")[0].decode(),
        (fact("COMPUTE_CAPABILITY_MAJOR"), fact("COMPUTE_CAPABILITY_MINOR")),
        fact("MULTIPROCESSOR_COUNT"),
        fact("MAX_SHARED_MEMORY_PER_BLOCK_OPTIN"),
        fact("L2_CACHE_SIZE"),
        ask(doing, "cuDeviceTotalMem", handle),
        bool(fact("MEMORY_POOLS_SUPPORTED")),
    )


@functools.cache
def _context(ordinal: int) -> int:
    """A device's primary context, which is kept for good."""
    doing = f"turning to GPU {ordinal}"
    return int(ask(doing, "cuDevicePrimaryCtxRetain", ask(doing, "cuDeviceGet", ordinal)))


def current_ordinal() -> int:
    """The thread's current device, which is the first one if it has chosen none."""
    error, handle = _cuda.cuCtxGetDevice()
    return 0 if error else int(handle)


def ordinal_of(address: int) -> int | None:
    """The device on which memory lies; None if CUDA does not know the address."""
    attribute = _cuda.CUpointer_attribute.CU_POINTER_ATTRIBUTE_DEVICE_ORDINAL
    error, ordinal = _cuda.cuPointerGetAttribute(attribute, address)
    if error == _INVALID_VALUE:
        return None
    if error:
        raise _exception(_cuda, error, f"asking where address {address:#x} lies")
    return ordinal if ordinal >= 0 else None


@contextmanager
def current(ordinal: int) -> Iterator[None]:
    """Make a device's context the thread's current one for a while."""
    context = _context(ordinal)
    if int(ask("asking for the current context", "cuCtxGetCurrent")) == context:
        yield
        return
    ask(f"turning to GPU {ordinal}", "cuCtxPushCurrent", context)
    try:
        yield
    finally:
        tell("cuCtxPopCurrent")


# ----------------------------------------------------------------------- kernels


def assemble(ptx: str, capability: tuple[int, int]) -> tuple[bytes, str]:
    """Machine code for a capability, and the assembler's report on its registers and memory. It needs no GPU."""
    nvjitlink = installed.bindings("nvjitlink")
    major, minor = capability
    text = ptx.encode()
    handle = None
    try:
        handle = nvjitlink.create(2, [f"-arch=sm_{major}{minor}", "-verbose"])
        nvjitlink.add_data(handle, nvjitlink.InputType.PTX, text, len(text), "numba_softmax")
        nvjitlink.complete(handle)
        cubin = bytearray(nvjitlink.get_linked_cubin_size(handle))
        nvjitlink.get_linked_cubin(handle, cubin)
        return bytes(cubin), _log(nvjitlink, handle, "info")
    except nvjitlink.nvJitLinkError as error:
        said = "" if handle is None else ": " + _log(nvjitlink, handle, "error")
        raise CudaError(f"assembling a kernel for capability {major}.{minor}: {error}{said}") from None
    finally:
        if handle is not None:
            nvjitlink.destroy(handle)


def _log(nvjitlink: Any, handle: int, kind: str) -> str:
    log = bytearray(getattr(nvjitlink, f"get_{kind}_log_size")(handle))
    getattr(nvjitlink, f"get_{kind}_log")(handle, log)
    return log.decode(errors="replace").rstrip("\0\n")


def load(ordinal: int, cubin: bytes, entry: str) -> Any:
    """Load the kernel named `entry` for good, with all of the device's shared memory allowed to its blocks."""
    doing = f"loading {entry} on GPU {ordinal}"
    with current(ordinal):
        module = ask(doing, "cuModuleLoadData", cubin)
        function = ask(doing, "cuModuleGetFunction", module, entry.encode())
        attributes = _cuda.CUfunction_attribute
        own = ask(doing, "cuFuncGetAttribute", attributes.CU_FUNC_ATTRIBUTE_SHARED_SIZE_BYTES, function)
        most = attributes.CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES
        ask(doing, "cuFuncSetAttribute", function, most, device(ordinal).shared_memory - own)
    return function


class LoadedKernel:
    """A kernel with its constant launch parameters.

    `packing` is the layout of the kernel's parameters in memory, in letters of `struct`, q or d: the addresses, that of
    the workspace, the scale's sign and factor, and then the `fixed` ones, which are always the same. `shared_memory` is
    the number of bytes of a block that the kernel does not declare itself.
    """

    def __init__(
        self, function: Any, grid: int, threads: int, shared_memory: int, packing: str, fixed: tuple[int, ...]
    ) -> None:
        self._how = function, grid, 1, 1, threads, 1, 1, shared_memory
        changing = len(packing) - len(fixed)
        self._pack_into = struct.Struct(packing[:changing]).pack_into
        self._parameters = [*(0,) * changing, *fixed]
        self._spare: list[_Parameters] = []  # those that no launch is using

    def launch(self, queue: Queue, addresses: tuple[int, ...], workspace: int, sign: float, factor: float) -> None:
        """Queue the kernel. It returns before the kernel has run."""
        try:
            block = self._spare.pop()
        except IndexError:
            block = _Parameters(self._parameters)
        try:
            # unpacking one tuple takes half the time of unpacking it beside other arguments
            self._pack_into(block.values, 0, *(addresses + (workspace, sign, factor)))  # noqa: RUF005
            if int(_cuda.cuCtxGetCurrent()[1]) == _context(queue.ordinal):
                error = _cuda.cuLaunchKernel(*self._how, queue.stream, block.pointers, 0)[0]
            else:
                with current(queue.ordinal):
                    error = _cuda.cuLaunchKernel(*self._how, queue.stream, block.pointers, 0)[0]
        finally:
            self._spare.append(block)
        if error:
            raise _exception(_cuda, error, f"launching a kernel on GPU {queue.ordinal}, stream {queue.stream:#x}")


class _Parameters:
    """The parameters of a launch in memory, and their addresses, in the form that the driver takes."""

    def __init__(self, parameters: list[int]) -> None:
        self.values = (ctypes.c_int64 * len(parameters))(*parameters)
        first, size = ctypes.addressof(self.values), ctypes.sizeof(ctypes.c_int64)
        self._addresses = (ctypes.c_void_p * len(parameters))(*(first + i * size for i in range(len(parameters))))
        self.pointers = ctypes.addressof(self._addresses)


# ----------------------------------------------------------------------- streams


@contextmanager
def new_stream(ordinal: int) -> Iterator[Queue]:
    """A new stream that does not synchronize with others. At the end, the host waits for the work queued in it."""
    with current(ordinal):
        stream = int(ask(f"creating a stream on GPU {ordinal}", "cuStreamCreate", _NON_BLOCKING))
    try:
        yield Queue(ordinal, stream)
    finally:
        drain(Queue(ordinal, stream))
        with current(ordinal):
            tell("cuStreamDestroy", stream)


@functools.cache
def default_stream() -> int:
    """The default stream that 0 stands for in the bindings, and so in Numba, which uses them."""
    per_thread = os.environ.get("CUDA_PYTHON_CUDA_PER_THREAD_DEFAULT_STREAM", "0") not in ("", "0")
    return PER_THREAD_STREAM if per_thread else LEGACY_STREAM


def check_stream(queue: Queue) -> None:
    """Raise an error if a stream no longer exists, or belongs to another device."""
    if queue.stream <= PER_THREAD_STREAM:
        return
    context = int(ask(f"asking for stream {queue.stream:#x}", "cuStreamGetCtx", queue.stream))
    if context != _context(queue.ordinal):
        raise ValueError(f"stream {queue.stream:#x} is not one of GPU {queue.ordinal}, where x lies")


def wait(queue: Queue, stream: int) -> None:
    """Make all work queued from now on wait for the work that another stream of the device holds now."""
    doing = f"having stream {queue.stream:#x} wait for stream {stream:#x}"
    with current(queue.ordinal):
        event = ask(doing, "cuEventCreate", _NO_TIMING)
        try:
            ask(doing, "cuEventRecord", event, stream)
            ask(doing, "cuStreamWaitEvent", queue.stream, event, 0)
        finally:
            tell("cuEventDestroy", event)  # the driver does so once the event is complete


def drain(queue: Queue) -> None:
    """Wait as `synchronize` does, but ignore errors."""
    with current(queue.ordinal):
        tell("cuStreamSynchronize", queue.stream)


def synchronize(queue: Queue) -> None:
    """Wait until all queued work is done."""
    with current(queue.ordinal):
        ask(f"waiting for GPU {queue.ordinal}", "cuStreamSynchronize", queue.stream)
