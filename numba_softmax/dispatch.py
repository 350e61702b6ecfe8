"""Which backend serves a call: the only place that knows of devices.

A backend is a module with ``starter(op, layout)``, which gives a function
``start(x, y, w, scale)`` for all calls with that layout: addresses of the
elements, the results and the mask (0 for none), and the scale or None; and with
``warm(op, x, y, masked, scaled)``, functions that compile one kernel each for
elements and results in those formats.
"""

from __future__ import annotations

from types import ModuleType
from typing import Any

DEVICES = ("cpu", "cuda")


def device_of(x: Any, device: str | None) -> str:
    """The device for `x`: where it lies, if `device` is None. NumPy arrays need not be asked for."""
    if device is not None and device not in DEVICES:
        raise ValueError(f"device is {device!r}: it must be one of {', '.join(map(repr, DEVICES))} or None")
    on_gpu = hasattr(x, "__cuda_array_interface__")
    if device == "cuda" or (on_gpu and device is None):
        raise NotImplementedError(
            "device 'cuda' is not available: this version of numba_softmax has no CUDA backend. "
            "Pass a NumPy array, with device='cpu' or None, or install a later version that has one"
        )
    if on_gpu:
        raise TypeError("x is on a GPU: device='cpu' needs an array in host memory, for instance x.get()")
    return "cpu"


def backend_of(device: str | None) -> ModuleType:
    """The backend for a device, imported on first use; None is where NumPy arrays lie."""
    from .backends import cpu

    return cpu
