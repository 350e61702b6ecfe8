"""Devices: where an array lies, and the backend that computes there. The only place that knows of devices.

A backend is a module with two functions. ``launcher_for(op, layout)`` gives a function
``launch(addresses, scale)`` for all calls with that layout: an address for each
of its operands, and the scale or None. ``warm(op, x, y, masked, scaled)`` gives
functions that compile one kernel each for elements and results in those formats.

A backend for memory that NumPy cannot access has ``launch(addresses, scale, queue)``.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from types import ModuleType
from typing import Any

import numpy as np

from ..backends import cpu
from ..building import built
from .dlpack import CUDA_DEVICES
from .host_libraries import library_of, names_of

DEVICES = ("cpu", "cuda")


def choose_backend(x: Any, device: str | None, stream: Any) -> str | None:
    """The name of the backend for a call; if `device` is None, the one where `x` lies. None for NumPy arrays."""
    if device is not None and device not in DEVICES:
        raise ValueError(f"device is {device!r}: it must be one of {', '.join(map(repr, DEVICES))} or None")
    if lies_on_gpu(x):
        if device == "cpu":
            raise TypeError("x is on a GPU: device='cpu' needs an array in host memory, for instance x.get()")
        return "cuda"
    if stream is not None:
        raise ValueError("stream orders work on arrays that lie on a GPU, but x is in host memory: leave stream out")
    return "staged" if device == "cuda" else None


def backend_named(name: str | None) -> ModuleType:
    """The backend of that name; None names that of host memory."""
    return cpu if name is None else _cuda_backend(name)


@built
def _cuda_backend(name: str) -> ModuleType:
    if name == "staged":
        from ..backends.cuda.interop import staging

        return staging
    from ..backends import cuda

    return cuda


def in_host_memory(array: Any, name: str, *, for_results: bool = False) -> np.ndarray:
    """An argument of a call on elements in host memory, as a NumPy array; an array for results, in the same memory."""
    if type(array) is np.ndarray:
        return array
    if lies_on_gpu(array):
        raise TypeError(f"{name} is on a GPU, but the elements in host memory: pass both there, or both here")
    library = library_of(array)
    return library.writeable(array) if for_results else library.read(array, name)


def lies_on_gpu(array: Any) -> bool:
    """True for arrays on a GPU."""
    kind: Any = type(array)
    return _question(kind)(array)


@functools.lru_cache(maxsize=256)
def _question(kind: Any) -> Callable[[Any], bool]:
    """The function that answers `lies_on_gpu` for arrays of that type; a fast one for the known libraries."""
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
    except Exception:  # anything that NumPy can take is taken, even if it is not on one device
        return False
