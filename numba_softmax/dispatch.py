"""Which backend serves a call: the only place that knows of devices.

A backend is a module with ``run(op, layout, x, y, w, scale)``: addresses of the
elements, the results and the mask (0 for none), and the scale or None.
"""

from __future__ import annotations

import functools
from types import ModuleType
from typing import Any

import numpy as np

DEVICES = ("cpu", "cuda")


def backend_for(x: Any, device: str | None) -> ModuleType:
    """The backend for `x`: where it lies, if `device` is None."""
    if type(x) is np.ndarray and device is None:
        return _cpu()
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
    return _cpu()


@functools.cache
def _cpu() -> ModuleType:
    from .backends import cpu

    return cpu
