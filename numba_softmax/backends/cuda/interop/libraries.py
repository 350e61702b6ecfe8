"""Arrays of libraries for GPUs: their addresses, shapes, dtypes and streams, and new arrays.

No library but Numba is imported here: a caller with an array of a library has imported it.
"""

from __future__ import annotations

import functools
import math
import sys
from abc import ABC, abstractmethod
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np

from ....building import built
from ....call import dlpack
from ....call.arguments import dtype_called
from ....call.host_libraries import check_tensor
from ....call.layout import order_in_memory, strides_in_c_order
from .. import driver


class View(NamedTuple):
    """An array on a GPU."""

    address: int
    shape: tuple[int, ...]
    dtype: np.dtype
    strides: tuple[int, ...]  # in bytes
    writeable: bool
    ordinal: int
    stream: int | None  # in which its library uses it; None if that is not known
    array: Any
    loan: Any = None  # keeps the memory alive, besides the array


class Library(ABC):
    """The interface to a library. `stream` is the one to work in, if that is fixed already."""

    @abstractmethod
    def view(self, array: Any, name: str, stream: int | None) -> View:
        """The view of an array; errors call the array `name`."""

    @abstractmethod
    def empty(self, x: View, shape: tuple[int, ...], dtype: np.dtype, stream: int | None) -> Any:
        """A new array in C order, for use in `stream` or, if that is None, in the current one."""

    def transposed(self, array: Any, axes: list[int]) -> Any:
        """A view of a new array, with its axes in the order `axes`."""
        return array.transpose(axes)

    def empty_like(self, x: View, dtype: np.dtype, stream: int | None) -> Any:
        """A new array of the shape of `x`, with the axes in the same order in memory, as NumPy's `empty_like`."""
        order = order_in_memory(x.strides)
        array = self.empty(x, tuple(x.shape[i] for i in order), dtype, stream)
        inverse = sorted(range(len(order)), key=order.__getitem__)
        return array if list(order) == inverse == list(range(len(order))) else self.transposed(array, inverse)

    def used_in(self, view: View, stream: int) -> None:  # noqa: B027 - most libraries leave that to the user
        """Keep the array's memory until the work that is queued in a stream by now is done."""


class Torch(Library):
    """Tensors of PyTorch."""

    def view(self, array: Any, name: str, stream: int | None) -> View:
        if not array.is_cuda:
            raise in_host_memory(array, name)
        check_tensor(array, name)
        torch = sys.modules["torch"]
        dtype, ordinal = _dtype_of_torch(array.dtype, name), array.get_device()
        size = dtype.itemsize
        steps = tuple([step * size for step in array.stride()])
        return View(
            array.data_ptr(), array.shape, dtype, steps, True, ordinal, _streams_of_torch(torch)(ordinal), array
        )

    def empty(self, x: View, shape: tuple[int, ...], dtype: np.dtype, stream: int | None) -> Any:
        torch = sys.modules["torch"]
        with nullcontext() if stream is None else torch.cuda.stream(_torch_stream(torch, x.ordinal, stream)):
            return torch.empty(shape, dtype=getattr(torch, dtype.name), device=x.array.device)

    def transposed(self, array: Any, axes: list[int]) -> Any:
        return array.permute(axes)

    def used_in(self, view: View, stream: int) -> None:
        view.array.record_stream(_torch_stream(sys.modules["torch"], view.ordinal, stream))


@functools.cache
def _dtype_of_torch(dtype: Any, argument: str) -> np.dtype:
    return dtype_called(str(dtype).removeprefix("torch."), argument)


@functools.cache
def _streams_of_torch(torch: Any) -> Callable[[int], int]:
    """A function that returns a device's current stream: where possible only its handle, in a fifth of the time."""
    raw = getattr(torch._C, "_cuda_getCurrentRawStream", None)
    return raw or (lambda ordinal: torch.cuda.current_stream(ordinal).cuda_stream)


def _torch_stream(torch: ModuleType, ordinal: int, stream: int) -> Any:
    handle = 0 if stream == driver.LEGACY_STREAM else stream  # PyTorch's only name for it
    return torch.cuda.ExternalStream(handle, device=torch.device("cuda", ordinal))


class CuPy(Library):
    """Arrays of CuPy."""

    def view(self, array: Any, name: str, stream: int | None) -> View:
        memory = array.data
        ordinal = memory.device_id
        current = sys.modules["cupy"].cuda.get_current_stream(ordinal).ptr
        return View(memory.ptr, array.shape, array.dtype, array.strides, True, ordinal, current, array)

    def empty(self, x: View, shape: tuple[int, ...], dtype: np.dtype, stream: int | None) -> Any:
        cupy = sys.modules["cupy"]
        use: AbstractContextManager = nullcontext() if stream is None else cupy.cuda.ExternalStream(stream, x.ordinal)
        if x.ordinal == cupy.cuda.runtime.getDevice():
            with use:
                return cupy.empty(shape, dtype)
        with cupy.cuda.Device(x.ordinal), use:
            return cupy.empty(shape, dtype)


@built
def _numba_cuda() -> ModuleType:
    from numba import cuda

    return cuda


class Numba(Library):
    """Device arrays of Numba."""

    def view(self, array: Any, name: str, stream: int | None) -> View:
        address = array.device_ctypes_pointer.value or 0
        used_in = int(array.stream) or driver.default_stream()
        return View(
            address, array.shape, array.dtype, array.strides, True, _ordinal(address, name, array), used_in, array
        )

    def empty(self, x: View, shape: tuple[int, ...], dtype: np.dtype, stream: int | None) -> Any:
        cuda = _numba_cuda()
        used_in = x.stream or driver.LEGACY_STREAM
        with cuda.gpus[x.ordinal]:
            stream_of = 0 if used_in == driver.default_stream() else cuda.external_stream(used_in)
            return cuda.device_array(shape, dtype, stream=stream_of)

    def empty_like(self, x: View, dtype: np.dtype, stream: int | None) -> Any:
        cuda = _numba_cuda()
        steps = [0] * len(x.shape)
        size = dtype.itemsize
        for i in reversed(order_in_memory(x.strides)):
            steps[i], size = size, size * x.shape[i]
        with cuda.gpus[x.ordinal]:
            return cuda.device_array(x.shape, dtype, tuple(steps), stream=x.array.stream)


class Other(Library):
    """Arrays that implement ``__cuda_array_interface__`` or DLPack.

    The former is preferred if it names a stream, which is then the one to wait for.
    DLPack makes the library wait, but does not tell in which stream it goes on.
    """

    def view(self, array: Any, name: str, stream: int | None) -> View:
        interface = getattr(array, "__cuda_array_interface__", None)
        if interface is not None and (interface.get("stream") is not None or not hasattr(array, "__dlpack_device__")):
            return _by_interface(interface, array, name)
        device = getattr(array, "__dlpack_device__", None)
        if device is None or device()[0] not in dlpack.CUDA_DEVICES:
            raise in_host_memory(array, name)
        loan = dlpack.capsule_of(array, stream or driver.LEGACY_STREAM)
        return View(*dlpack.read(loan, name, writeable=True), None, array, loan)

    def empty(self, x: View, shape: tuple[int, ...], dtype: np.dtype, stream: int | None) -> Any:
        if not hasattr(x.array, "__array_namespace__"):
            return _LIBRARIES["numba", "DeviceNDArray"].empty(x, shape, dtype, stream)
        namespace = x.array.__array_namespace__()
        return namespace.empty(shape, dtype=getattr(namespace, dtype.name), device=x.array.device)

    def empty_like(self, x: View, dtype: np.dtype, stream: int | None) -> Any:
        return self.empty(x, x.shape, dtype, stream)


def _by_interface(interface: dict[str, Any], array: Any, name: str) -> View:
    """The view of an array by CUDA Array Interface, version 3."""
    if interface.get("mask") is not None:
        raise TypeError(f"{name} has a mask, which would be ignored: pass its data, and use where=")
    dtype = np.dtype(interface["typestr"])
    if not dtype.isnative:
        raise TypeError(f"{name} has dtype {dtype}, with its bytes in the order of other machines: convert it first")
    shape = tuple(interface["shape"])
    address, read_only = interface["data"]
    address = address or 0
    steps = interface.get("strides")
    steps = strides_in_c_order(shape, dtype.itemsize) if steps is None else tuple(steps)
    stream = interface.get("stream") or 0
    ordinal = _ordinal(address, name, array) if math.prod(shape) else driver.current_ordinal()
    return View(address, shape, dtype, steps, not read_only, ordinal, stream, array)


def _ordinal(address: int, name: str, array: Any) -> int:
    """The device on which an array lies. An array without elements counts as one on the current device."""
    if not address:
        return driver.current_ordinal()
    ordinal = driver.ordinal_of(address)
    if ordinal is None:
        raise in_host_memory(array, name)
    return ordinal


def in_host_memory(array: Any, name: str) -> TypeError:
    """The error for an array that should be on a GPU."""
    kind = type(array)
    return TypeError(
        f"{name} is a {kind.__module__}.{kind.__qualname__} in host memory, but the call works on a GPU, "
        f"as x does: pass an array that lies there"
    )


_LIBRARIES: dict[tuple[str, str], Library] = {
    ("torch", "Tensor"): Torch(),
    ("cupy", "ndarray"): CuPy(),
    ("numba", "DeviceNDArray"): Numba(),
}
_OTHER = Other()


def library_of(array: Any) -> Library:
    """The library that an array belongs to."""
    kind: Any = type(array)
    return _library_of_type(kind)


@functools.lru_cache(maxsize=256)
def _library_of_type(kind: Any) -> Library:
    """The library of a type of arrays, according to its base classes."""
    for base in kind.__mro__:
        library = _LIBRARIES.get((base.__module__.partition(".")[0], base.__name__))
        if library is not None:
            return library
    return _OTHER
