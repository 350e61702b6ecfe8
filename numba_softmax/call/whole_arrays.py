"""A call on a whole array: its arguments are checked, its kind is planned once, and its kernel launched."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..ops import OPS
from .adapters import Adapter, HostCall, gpu_call, mask_view
from .arguments import as_axes, as_input, as_mask, as_output_dtype, as_scale, check_input_dtype
from .devices import choose_backend, in_host_memory
from .host_libraries import is_foreign
from .memory import address_of
from .overlap import needs_copies, needs_temporary
from .plan import plan_call
from .request import Operation, axes_and_shape


def call(request: tuple) -> Any:
    """The result of a `Request`, or of a plain tuple of its fields, on an array of any library."""
    name, x, axis, where, scale, keepdims, dtype, out, device, stream = request
    backend_name = choose_backend(x, device, stream)
    operation = name, axis, keepdims, backend_name
    if backend_name == "cuda":
        return _call_by_adapter(operation, gpu_call()(x, stream), where, scale, dtype, out)
    if is_foreign(x):
        return _call_by_adapter(operation, HostCall(x, "x"), where, scale, dtype, out)
    return call_numpy(operation, as_input(x), where, scale, dtype, out)


def call_numpy(operation: Operation, x: np.ndarray, where: Any, scale: Any, dtype: Any, out: Any) -> Any:
    """The result of an operation on an array of NumPy's; other arguments are as they were given.

    All calls on small arrays come this way, in 2 us. To make a `Request` would take a fifth of that, a `Form` for each
    array as much: so there are none, here and below, nor calls of functions for arguments that were left out.
    """
    if type(operation[1]) is not int:  # 1.0 would pass for 1
        name, axis, keepdims, backend_name = operation
        operation = name, as_axes(axis, x.ndim), keepdims, backend_name
    mask = w_strides = factor = None
    if where is not None:
        if type(where) is not np.ndarray:
            where = in_host_memory(where, "where")
        mask = as_mask(where, x.shape)
        w_strides = mask.strides
    if scale is not None:
        factor = as_scale(scale)

    if out is None:
        launch, shape, _ = plan_call(operation, x.shape, x.dtype, x.strides, w_strides)
        if launch is not None and dtype is None:
            y = np.empty(shape, x.dtype)
            launch((address_of(x), address_of(y)) if mask is None else _three(x, mask, y), factor)
        else:
            y = _new_result(operation, x, mask, factor, as_output_dtype(dtype, x.dtype, None))
        return y if shape else y[()]

    y = out if type(out) is np.ndarray else in_host_memory(out, "out", for_results=True)
    launch, _, distances = plan_call(
        operation, x.shape, x.dtype, x.strides, w_strides, y.shape, y.dtype, y.strides, y.flags.writeable
    )
    if dtype is not None:
        as_output_dtype(dtype, x.dtype, y)
    x_at, y_at = address_of(x), address_of(y)
    if (y_at - x_at in distances or mask is not None) and needs_temporary(x, y, mask, OPS[operation[0]].reduces):
        y[...] = _new_result(operation, x, mask, factor, y.dtype)
    else:
        launch((x_at, y_at) if mask is None else _three(x, mask, y), factor)
    return out


def _three(x: np.ndarray, mask: np.ndarray, y: np.ndarray) -> tuple[int, int, int]:
    return address_of(x), address_of(mask), address_of(y)


def _new_result(
    operation: Operation, x: np.ndarray, mask: np.ndarray | None, scale: float | None, dtype: np.dtype
) -> np.ndarray:
    """A new result of that dtype, laid out by NumPy."""
    if OPS[operation[0]].reduces:
        _, shape = axes_and_shape(operation, x.shape)
        y = np.empty(shape, dtype)
    else:
        y = np.empty_like(x, dtype, subok=False)
    w_strides = None if mask is None else mask.strides
    plan = plan_call(operation, x.shape, x.dtype, x.strides, w_strides, y.shape, y.dtype, y.strides, True)
    plan.launch((address_of(x), address_of(y)) if mask is None else _three(x, mask, y), scale)
    return y


def _call_by_adapter(operation: Operation, adapter: Adapter, where: Any, scale: Any, dtype: Any, out: Any) -> Any:
    """The result of an operation on the array of an adapter: of another library, or on a GPU."""
    x, reduces = adapter.x, OPS[operation[0]].reduces
    if type(operation[1]) is not int:
        name, axis, keepdims, backend_name = operation
        operation = name, as_axes(axis, len(x.shape)), keepdims, backend_name
    mask = w_strides = None
    if where is not None:
        mask = mask_view(adapter, where)
        w_strides = mask.strides
    if scale is not None:
        scale = as_scale(scale)

    if out is None:
        check_input_dtype(x.dtype)
        _, shape = axes_and_shape(operation, x.shape)
        y_dtype = as_output_dtype(dtype, x.dtype, None)
        result, y = adapter.empty(shape, y_dtype) if reduces else adapter.empty_like(y_dtype)
    else:
        y = adapter.out(out)
    launch, _, distances = plan_call(
        operation, x.shape, x.dtype, x.strides, w_strides, y.shape, y.dtype, y.strides, y.writeable
    )
    if dtype is not None:
        as_output_dtype(dtype, x.dtype, y)
    adapter.run(launch, y, mask, scale, needs_copies(x, y, mask, reduces, distances))
    return adapter.as_user_array(result) if out is None else out
