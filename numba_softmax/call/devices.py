"""Which backend serves a call: the only place that knows of devices.

A backend is a module with ``starter(op, layout)``, which gives a function
``start(x, y, w, scale)`` for all calls with that layout: addresses of the
elements, the results and the mask (0 for none), and the scale or None; one more
address, last, where the layout has states given; and with
``warm(op, x, y, masked, scaled)``, functions that compile one kernel each for
elements and results in those formats.

A backend for memory out of NumPy's reach has ``start(x, y, w, scale, queue)``.
Between a call on an array of another library and a backend stands an object
(`host.HostCall` in host memory, for NumPy too) with

- ``place``, the name of a backend; ``device``: where the array is, in words;

- ``x``: the array's ``address``, ``shape``, ``dtype``, ``strides`` in bytes, and
  whether it is ``writeable``;
- ``view(array, name)``: the same of another array in the same memory;
- ``out(array)``: the same of an array for the results;
- ``empty(shape, dtype)``, ``empty_like(dtype)``: a new array and its view;
- ``run(start, y, mask, scale, copies, states=None)``: start it on these views,
  on copies of the elements and of the mask if `copies`;
- ``given_back(array)``: a new array as the user gets it.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from types import ModuleType
from typing import Any

import numpy as np

from ..backends import cpu
from ..building import built
from .adapters import HostCall
from .dlpack import CUDA_DEVICES
from .host_libraries import is_foreign, library_of, names_of

DEVICES = ("cpu", "cuda")


def place_of(x: Any, device: str | None, stream: Any) -> tuple[str | None, Any]:
    """Where a call computes: a name for `backend_of`, and what reads the arrays if they are not for NumPy to read.

    That is where `x` lies, if `device` is None. NumPy arrays need not be asked for.
    """
    if device is not None and device not in DEVICES:
        raise ValueError(f"device is {device!r}: it must be one of {', '.join(map(repr, DEVICES))} or None")
    if _lies_on_gpu(x):
        if device == "cpu":
            raise TypeError("x is on a GPU: device='cpu' needs an array in host memory, for instance x.get()")
        return "cuda", _gpu_call()(x, stream)
    if stream is not None:
        raise ValueError("stream orders work on arrays that lie on a GPU, but x is in host memory: leave stream out")
    place = "staged" if device == "cuda" else None
    return place, HostCall(x, "x", in_host_memory) if is_foreign(x) else None


def call_in_parts(x: Any) -> Callable[..., Any] | None:
    """What serves calls on an array that is computed part by part, with the arguments of `calls.call`; or None."""
    kind: Any = type(x)
    return _served_in_parts(kind)


@functools.lru_cache(maxsize=256)
def _served_in_parts(kind: Any) -> Callable[..., Any] | None:
    """The same for all arrays of that type."""
    if issubclass(kind, np.memmap):
        return _mapped().call
    if ("dask", "Array") in names_of(kind):
        return _dask().call
    return None


@built
def _mapped() -> ModuleType:
    from .. import mapped

    return mapped


@built
def _dask() -> ModuleType:
    from .. import dask

    return dask


def call_on(x: Any, name: str) -> Any:
    """What stands between a call on an array and its library, in host memory too; errors call it by that name."""
    return _gpu_call()(x, None, name) if _lies_on_gpu(x) else HostCall(x, name, in_host_memory)


def in_host_memory(array: Any, name: str, *, for_results: bool = False) -> np.ndarray:
    """An argument of a call on elements in host memory, as an array of NumPy's; of results, in the same memory."""
    if _lies_on_gpu(array):
        raise TypeError(f"{name} is on a GPU, but the elements in host memory: pass both there, or both here")
    library = library_of(array)
    return library.writeable(array) if for_results else library.read(array, name)


def backend_of(place: str | None) -> ModuleType:
    """The backend for a place; None is where NumPy arrays lie."""
    return cpu if place is None or place == "cpu" else _cuda_backend(place)


@built
def _cuda_backend(place: str) -> ModuleType:
    if place == "staged":
        from ..backends.cuda import staging

        return staging
    from ..backends import cuda

    return cuda


@built
def _gpu_call() -> Any:
    from ..backends.cuda.streams import GpuCall

    return GpuCall


def _lies_on_gpu(array: Any) -> bool:
    kind: Any = type(array)
    return _question(kind)(array)


@functools.lru_cache(maxsize=256)
def _question(kind: Any) -> Callable[[Any], bool]:
    """How to find out whether an array of that type lies on a GPU; for the known libraries, fast."""
    if issubclass(kind, (np.ndarray, np.generic, list, tuple, int, float)):
        return lambda array: False
    names = names_of(kind)
    if ("torch", "Tensor") in names:
        return lambda array: array.is_cuda
    if names & {("cupy", "ndarray"), ("numba", "DeviceNDArray")}:
        return lambda array: True
    return _asked


def _asked(array: Any) -> bool:
    if hasattr(array, "__cuda_array_interface__"):
        return True
    try:
        return array.__dlpack_device__()[0] in CUDA_DEVICES
    except Exception:  # whatever NumPy can take is taken, though it be on no one device
        return False
