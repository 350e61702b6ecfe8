"""Arrays in host memory, for calls that are written once for all memory: as `dispatch` describes it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from . import arguments as arrays
from . import host_libraries as foreign


class View(NamedTuple):
    """An array."""

    address: int
    shape: tuple[int, ...]
    dtype: np.dtype
    strides: tuple[int, ...]  # in bytes
    writeable: bool
    array: np.ndarray  # what keeps the memory


class HostCall:
    """Adapter for a call on an array `x` in host memory, of NumPy or another library."""

    place, device = None, "host memory"

    def __init__(self, x: Any, name: str, read: Callable[..., np.ndarray]) -> None:
        self._read = read  # `in_host_memory` of `dispatch`
        self._given, self._library = x, foreign.library_of(x)
        self.x = self.view(x, name)

    def view(self, array: Any, name: str) -> View:
        """An argument."""
        return _view(self._read(array, name))

    def out(self, array: Any) -> View:
        """An array for results, which is not made of anything else."""
        return _view(self._read(array, "out", for_results=True))

    def empty(self, shape: tuple[int, ...], dtype: np.dtype) -> tuple[np.ndarray, View]:
        """A new array, in C order."""
        array = self._library.empty(shape, dtype)
        return array, _view(array)

    def empty_like(self, dtype: np.dtype) -> tuple[np.ndarray, View]:
        """A new array, of the shape of `x`."""
        array = self._library.empty_like(self.x.array, dtype)
        return array, _view(array)

    def run(
        self, start: Callable, y: View, mask: View | None, scale: float | None, copies: bool, states: View | None = None
    ) -> None:
        """Do the work; with `copies`, on copies of `x` and of the mask, which the result would overwrite."""
        kept = [_copied(view) if copies and view is not None else view for view in (self.x, mask)]
        x, w = (0 if view is None else view.address for view in kept)
        start(x, y.address, w, scale, *(() if states is None else (states.address,)))

    def given_back(self, array: np.ndarray) -> Any:
        """A new array, as one of the library of `x`."""
        return self._library.given_back(array, self._given)


def _view(array: np.ndarray) -> View:
    return View(arrays.address_of(array), array.shape, array.dtype, array.strides, array.flags.writeable, array)


def _copied(view: View) -> View:
    """A copy of all the memory from an array's first byte to its last."""
    first, end = arrays.extent(view.shape, view.strides, view.dtype.itemsize)
    copy = arrays.stand_in(view.address + first, (end - first,), np.dtype(np.uint8), (1,)).copy()
    return view._replace(address=arrays.address_of(copy) - first, array=copy)
