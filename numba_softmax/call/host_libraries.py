"""Arrays of other libraries in host memory: as NumPy arrays, and new ones, without copies.

No library is imported here: a caller with one of its arrays has imported it. Each
gets its results by DLPack; if it cannot take them, they are NumPy arrays.
"""

from __future__ import annotations

import functools
import math
import sys
from typing import Any

import numpy as np

from . import dlpack
from .arguments import check_kind_of_out, check_not_masked
from .layout import order_in_memory
from .memory import address_of

_ALIGNMENT = 64
"""The alignment in bytes of memory that JAX takes without a copy: a cache line."""


class Numpy:
    """A library of arrays in host memory: the interface, and its implementation for NumPy and all that it converts."""

    def read(self, array: Any, name: str) -> np.ndarray:
        """An argument as a NumPy array; `name` is used in error messages."""
        check_not_masked(array, name)
        return np.asarray(array)

    def writeable(self, array: Any) -> np.ndarray:
        """An array for results, which is not made of anything else."""
        check_kind_of_out(array)
        return self.read(array, "out")

    def empty(self, shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
        """A new array in C order, for `as_user_array`."""
        return np.empty(shape, dtype)

    def empty_like(self, x: np.ndarray, dtype: np.dtype) -> np.ndarray:
        """A new array of the shape of `x`, and with its order of axes in memory."""
        return np.empty_like(x, dtype, subok=False)

    def as_user_array(self, array: np.ndarray, x: Any) -> Any:
        """A new array as one of the library of `x`; a NumPy array without axes as a scalar."""
        return array if array.shape else array[()]


class Lending(Numpy):
    """A library with DLPack; results are its own arrays if it follows the array API standard."""

    def read(self, array: Any, name: str) -> np.ndarray:
        try:
            return dlpack.as_numpy(array, name, writeable=False)
        except dlpack.NoCapsuleError:
            if not hasattr(array, "__array__"):
                raise
            return np.asarray(array)  # it is spread over devices, say

    def writeable(self, array: Any) -> np.ndarray:
        return dlpack.as_numpy(array, "out", writeable=False)

    def empty(self, shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
        nbytes = math.prod(shape) * dtype.itemsize
        memory = np.empty(nbytes + _ALIGNMENT, np.uint8)
        first = -address_of(memory) % _ALIGNMENT
        return memory[first : first + nbytes].view(dtype).reshape(shape)

    def empty_like(self, x: np.ndarray, dtype: np.dtype) -> np.ndarray:
        order = order_in_memory(x.strides)
        return self.empty(tuple(x.shape[i] for i in order), dtype).transpose(np.argsort(order))

    def as_user_array(self, array: np.ndarray, x: Any) -> Any:
        if not hasattr(x, "__array_namespace__"):
            return super().as_user_array(array, x)
        return x.__array_namespace__().from_dlpack(_lent(array))


class Torch(Lending):
    """Tensors of PyTorch."""

    def read(self, array: Any, name: str) -> np.ndarray:
        check_tensor(array, name)
        return dlpack.as_numpy(array.detach(), name, writeable=True)

    def writeable(self, array: Any) -> np.ndarray:
        return self.read(array, "out")

    def as_user_array(self, array: np.ndarray, x: Any) -> Any:
        return sys.modules["torch"].from_dlpack(_lent(array))


def check_tensor(tensor: Any, name: str) -> None:
    """Refuse tensors of PyTorch, on any device, that need gradients or whose memory does not hold their values."""
    if tensor.requires_grad and sys.modules["torch"].is_grad_enabled():
        raise TypeError(f"{name} requires grad, but no gradients are computed here: pass {name}.detach()")
    if tensor.is_neg():
        raise TypeError(f"{name} is a negated view: pass {name}.resolve_neg()")


def _lent(array: np.ndarray) -> Any:
    return dlpack.Bfloat16(array) if array.dtype.name == "bfloat16" else array


_NUMPY, _LENDING, _TORCH = Numpy(), Lending(), Torch()


def is_foreign(array: Any) -> bool:
    """True if an array in host memory belongs to a library other than NumPy, whose own arrays are then returned."""
    return library_of(array) is not _NUMPY


def library_of(array: Any) -> Numpy:
    """The library that an array in host memory belongs to."""
    kind: Any = type(array)
    return _library_of_type(kind)


@functools.lru_cache(maxsize=256)
def _library_of_type(kind: Any) -> Numpy:
    if issubclass(kind, (np.ndarray, np.generic)):
        return _NUMPY
    if ("torch", "Tensor") in names_of(kind):
        return _TORCH
    if hasattr(kind, "__dlpack__") and (hasattr(kind, "__array_namespace__") or not hasattr(kind, "__array__")):
        return _LENDING
    return _NUMPY


def names_of(kind: Any) -> set[tuple[str, str]]:
    """The (library, name) pairs of a type and its bases."""
    return {(base.__module__.partition(".")[0], base.__name__) for base in kind.__mro__}
