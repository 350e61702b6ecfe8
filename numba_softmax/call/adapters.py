"""Adapters: what a call that is written once for all memory asks of the array `x` and of its library.

Calls on arrays of other libraries than NumPy, and states that outlive a call, see arrays through an `Adapter` alone:
a `HostCall`, or `backends.cuda.streams.GpuCall`.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

import numpy as np

from ..building import built
from .arguments import as_mask
from .devices import in_host_memory, lies_on_gpu
from .host_libraries import library_of
from .layout import Form
from .memory import address_of, extent, stand_in


class Adapter(Protocol):
    """A call on an array `x`.

    A view says what there is to know of an array: its ``address``, ``shape``,
    ``dtype``, ``strides`` in bytes, and whether it is ``writeable``.
    """

    x: Any
    """The view of the array."""

    @property
    def device(self) -> str:
        """The place of the array, in words."""

    @property
    def backend_name(self) -> str | None:
        """The name of the backend there."""

    def view(self, array: Any, name: str) -> Any:
        """The view of another argument, in the same memory; errors call it by that name."""

    def out(self, array: Any) -> Any:
        """The view of an array for results, which is not made of anything else."""

    def empty(self, shape: tuple[int, ...], dtype: np.dtype) -> tuple[Any, Any]:
        """A new array in C order, and its view."""

    def empty_like(self, dtype: np.dtype) -> tuple[Any, Any]:
        """A new array of the shape of `x` with its order of axes in memory, and its view."""

    def run(
        self, launch: Callable, y: Any, mask: Any, scale: float | None, copies: bool, states: Any = None, /
    ) -> None:
        """Launch on these views; with `copies`, on copies of `x` and of the mask, which the result would overwrite."""

    def as_user_array(self, array: Any) -> Any:
        """A new array as the user gets it."""


def adapter_for(x: Any, name: str) -> Adapter:
    """The adapter of a call on an array, which errors call by that name."""
    return gpu_call()(x, None, name) if lies_on_gpu(x) else HostCall(x, name)


@built
def gpu_call() -> Any:
    """The class `GpuCall`."""
    from ..backends.cuda.streams import GpuCall

    return GpuCall


def mask_view(adapter: Adapter, where: Any) -> Any:
    """The view of a mask, broadcast to the shape of `x`; None without one."""
    if where is None:
        return None
    mask, shape = adapter.view(where, "where"), tuple(adapter.x.shape)
    return mask._replace(shape=shape, strides=_broadcast_strides(Form.of(mask), shape))


@functools.lru_cache(maxsize=1024)
def _broadcast_strides(mask: Form, shape: tuple[int, ...]) -> tuple[int, ...]:
    return as_mask(stand_in(1, *mask), shape).strides


class View(NamedTuple):
    """An array in host memory."""

    address: int
    shape: tuple[int, ...]
    dtype: np.dtype
    strides: tuple[int, ...]  # in bytes
    writeable: bool
    array: np.ndarray  # what keeps the memory


class HostCall:
    """The `Adapter` for an array in host memory, of NumPy or another library."""

    backend_name, device = None, "host memory"

    def __init__(self, x: Any, name: str) -> None:
        self._user_array, self._library = x, library_of(x)
        self.x = _view(self._library.read(x, name))

    def view(self, array: Any, name: str) -> View:
        """The view of an argument."""
        return _view(in_host_memory(array, name))

    def out(self, array: Any) -> View:
        """The view of an array for results, which is not made of anything else."""
        return _view(in_host_memory(array, "out", for_results=True))

    def empty(self, shape: tuple[int, ...], dtype: np.dtype) -> tuple[np.ndarray, View]:
        """A new array in C order, and its view."""
        array = self._library.empty(shape, dtype)
        return array, _view(array)

    def empty_like(self, dtype: np.dtype) -> tuple[np.ndarray, View]:
        """A new array of the shape of `x` with its order of axes in memory, and its view."""
        array = self._library.empty_like(self.x.array, dtype)
        return array, _view(array)

    def run(
        self,
        launch: Callable,
        y: View,
        mask: View | None,
        scale: float | None,
        copies: bool,
        states: View | None = None,
    ) -> None:
        """Launch on these views, or on copies of `x` and of the mask."""
        read = [_copied(view) if copies and view is not None else view for view in (self.x, mask)]
        x, w = (0 if view is None else view.address for view in read)
        launch(x, y.address, w, scale, *(() if states is None else (states.address,)))

    def as_user_array(self, array: np.ndarray) -> Any:
        """A new array as one of the library of `x`."""
        return self._library.as_user_array(array, self._user_array)


def _view(array: np.ndarray) -> View:
    return View(address_of(array), array.shape, array.dtype, array.strides, array.flags.writeable, array)


def _copied(view: View) -> View:
    """A copy of all the memory from an array's first byte to its last."""
    first, end = extent(view.shape, view.strides, view.dtype.itemsize)
    copy = stand_in(view.address + first, (end - first,), np.dtype(np.uint8), (1,)).copy()
    return view._replace(address=address_of(copy) - first, array=copy)
