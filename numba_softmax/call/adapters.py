"""Adapters: the interface to the array `x` and its library, so that a call is written once for all kinds of memory.

Calls on arrays of other libraries than NumPy, and states that outlive a call, access arrays through an `Adapter` only:
a `HostCall`, or `backends.cuda.interop.streams.GpuCall`.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Collection, Iterable, Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np

from ..building import built
from ..ops import Op, Operand
from .arguments import as_operand
from .devices import in_host_memory, lies_on_gpu
from .host_libraries import library_of
from .layout import Form
from .memory import ADDRESS, address_of, extent, stand_in


class Adapter(Protocol):
    """A call on an array `x`.

    A view describes an array: it is a tuple that begins with ``address``, ``shape``, ``dtype``, ``strides`` in bytes,
    and ``writeable``, a bool.
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
        """The view of another argument, in the same memory; `name` is used in error messages."""

    def out(self, array: Any) -> Any:
        """The view of an array for results, which is not made of anything else."""

    def empty(self, shape: tuple[int, ...], dtype: np.dtype) -> tuple[Any, Any]:
        """A new array in C order, and its view."""

    def empty_like(self, dtype: np.dtype) -> tuple[Any, Any]:
        """A new array of the shape of `x` with its order of axes in memory, and its view."""

    def run(self, launch: Callable, views: Sequence[Any], scale: float | None, copies: Collection[int], /) -> None:
        """Launch on the operands at these views; those that `copies` names are copied first, and read there."""

    def as_user_array(self, array: Any) -> Any:
        """A new array as the user gets it."""


def adapter_for(x: Any, name: str) -> Adapter:
    """The adapter of a call on an array; `name` is used in error messages."""
    return gpu_call()(x, None, name) if lies_on_gpu(x) else HostCall(x, name)


@built
def gpu_call() -> Any:
    """The class `GpuCall`."""
    from ..backends.cuda.interop.streams import GpuCall

    return GpuCall


def views_of_inputs(adapter: Adapter, op: Op, axes: tuple[int, ...], where: Any, others: Iterable[Any]) -> list[Any]:
    """The views of an op's inputs, in the order of its operands: `x`, mask and further inputs, broadcast."""
    views, rest = [adapter.x], iter(others)
    for o in op.operands[1:]:
        if o.kind == "mask":
            if where is not None:
                views.append(view_of_input(adapter, o, where, adapter.x.shape, axes))
        elif o.read and o.kind == "number":
            views.append(view_of_input(adapter, o, next(rest), adapter.x.shape, axes))
    return views


def view_of_input(adapter: Adapter, operand: Operand, array: Any, shape: tuple[int, ...], axes: tuple[int, ...]) -> Any:
    """The view of a mask or further input, broadcast to the shape of the elements, or to that of their rows."""
    view = adapter.view(array, operand.name)
    shape, strides = _broadcast(operand, Form.of(view), shape, axes)
    return view._replace(shape=shape, strides=strides)


def user_arrays(adapter: Adapter, arrays: Sequence[Any]) -> Any:
    """New arrays in the form that the user gets: one, or several in a tuple."""
    if len(arrays) == 1:
        return adapter.as_user_array(arrays[0])
    return tuple(map(adapter.as_user_array, arrays))


@functools.lru_cache(maxsize=1024)
def _broadcast(
    operand: Operand, form: Form, x_shape: tuple[int, ...], axes: tuple[int, ...]
) -> tuple[tuple[int, ...], tuple[int, ...]]:
    array = as_operand(stand_in(1, *form), operand, tuple(x_shape), axes)
    return array.shape, array.strides


class View(NamedTuple):
    """An array in host memory."""

    address: int
    shape: tuple[int, ...]
    dtype: np.dtype
    strides: tuple[int, ...]  # in bytes
    writeable: bool
    array: np.ndarray  # the owner of the memory


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

    def run(self, launch: Callable, views: Sequence[View], scale: float | None, copies: Collection[int] = ()) -> None:
        """Launch on the operands at these views, or at copies of them."""
        if copies:
            views = [_copied(view) if i in copies else view for i, view in enumerate(views)]
        launch(tuple(map(ADDRESS, views)), scale)

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
