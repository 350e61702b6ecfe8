"""Arrays in host memory, for calls that are written once for all memory: as `dispatch` describes it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from . import arrays


class View(NamedTuple):
    """An array."""

    address: int
    shape: tuple[int, ...]
    dtype: np.dtype
    strides: tuple[int, ...]  # in bytes
    writeable: bool
    array: np.ndarray  # what keeps the memory


class HostCall:
    """What stands between a call on the array `x` and NumPy."""

    place, device = None, "host memory"

    def __init__(self, x: Any, name: str, check: Callable[[Any, str], None]) -> None:
        self._check = check  # refuses arrays that are not in host memory
        self.x = self.view(x, name)

    def view(self, array: Any, name: str) -> View:
        """An argument."""
        self._check(array, name)
        if isinstance(array, np.ma.MaskedArray):
            raise TypeError(
                f"{name} is a masked array, whose mask would be ignored: pass {name}.data or {name}.filled(...)"
            )
        array = np.asarray(array)
        writeable = array.flags.writeable
        return View(arrays.address_of(array), array.shape, array.dtype, array.strides, writeable, array)

    def out(self, array: Any) -> View:
        """An array for results, which is not made of anything else."""
        self._check(array, "out")
        arrays.check_kind_of_out(array)
        return self.view(array, "out")

    def empty(self, shape: tuple[int, ...], dtype: np.dtype) -> tuple[np.ndarray, View]:
        """A new array, in C order."""
        array = np.empty(shape, dtype)
        return array, self.view(array, "the result")

    def empty_like(self, dtype: np.dtype) -> tuple[np.ndarray, View]:
        """A new array, of the shape of `x`."""
        array = np.empty_like(self.x.array, dtype, subok=False)
        return array, self.view(array, "the result")

    def run(
        self, start: Callable, y: View, mask: View | None, scale: float | None, copies: bool, states: View | None = None
    ) -> None:
        """Do the work; with `copies`, on copies of `x` and of the mask, which the result would overwrite."""
        kept = [_copied(view) if copies and view is not None else view for view in (self.x, mask)]
        x, w = (0 if view is None else view.address for view in kept)
        start(x, y.address, w, scale, *(() if states is None else (states.address,)))

    def given_back(self, array: np.ndarray) -> Any:
        """An array; a scalar, if it has no axes."""
        return array if array.shape else array[()]


def _copied(view: View) -> View:
    """A copy of all the memory from an array's first byte to its last."""
    first, end = arrays.extent(view.shape, view.strides, view.dtype.itemsize)
    copy = arrays.stand_in(view.address + first, (end - first,), np.dtype(np.uint8), (1,)).copy()
    return view._replace(address=arrays.address_of(copy) - first, array=copy)
