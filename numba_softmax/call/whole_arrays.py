"""A call on a whole array: its arguments are checked, its kind is planned once, and its kernel launched."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..ops import OPS
from .adapters import Adapter, HostCall, gpu_call, user_arrays, views_of_inputs
from .arguments import as_axes, as_input, as_mask, as_output_dtype, as_scale
from .devices import choose_backend, in_host_memory
from .host_libraries import is_foreign
from .memory import FORM_AND_WRITEABLE, address_of
from .overlap import needs_copies, needs_temporary
from .plan import PLAIN, Operation, plan_call, plan_views
from .request import as_tuple, axes_and_results, check_inputs


def call(request: tuple) -> Any:
    """The result of a `Request`, or of a plain tuple of its fields, on an array of any library."""
    op, x, axis, where, scale, keepdims, dtype, out, device, stream, _ = request
    backend_name = choose_backend(x, device, stream)
    if backend_name == "cuda":
        return _call_by_adapter(request, gpu_call()(x, stream), backend_name)
    if is_foreign(x) or not (op.name in PLAIN and op == OPS[op.name]):
        return _call_by_adapter(request, HostCall(x, "x"), backend_name)
    return call_numpy((op.name, axis, keepdims, backend_name), as_input(x), where, scale, dtype, out)


def call_numpy(operation: Operation, x: np.ndarray, where: Any, scale: Any, dtype: Any, out: Any) -> Any:
    """The result of an operation on a NumPy array; the other arguments are as the user gave them.

    All calls on small arrays take this path, in 2 us. Making a `Request` would take a fifth of that, and so would a
    `Form` for each array: so neither is made, here and below, nor are functions called for arguments left out.
    """
    if type(operation[1]) is not int:  # 1.0 equals 1 as a cache key
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
            launch(
                (address_of(x), address_of(y)) if mask is None else (address_of(x), address_of(mask), address_of(y)),
                factor,
            )
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
    if (y_at - x_at in distances or mask is not None) and needs_temporary(
        y, not OPS[operation[0]].reduces, *((x,) if mask is None else (x, mask))
    ):
        y[...] = _new_result(operation, x, mask, factor, y.dtype)
    else:
        launch((x_at, y_at) if mask is None else (address_of(x), address_of(mask), address_of(y)), factor)
    return out


def _new_result(
    operation: Operation, x: np.ndarray, mask: np.ndarray | None, scale: float | None, dtype: np.dtype
) -> np.ndarray:
    """A new result of that dtype, laid out by NumPy."""
    name, axis, keepdims, _ = operation
    if OPS[name].reduces:
        _, ((_, shape),) = axes_and_results(OPS[name], axis, keepdims, x.shape)
        y = np.empty(shape, dtype)
    else:
        y = np.empty_like(x, dtype, subok=False)
    w_strides = None if mask is None else mask.strides
    plan = plan_call(operation, x.shape, x.dtype, x.strides, w_strides, y.shape, y.dtype, y.strides, True)
    plan.launch(
        (address_of(x), address_of(y)) if mask is None else (address_of(x), address_of(mask), address_of(y)), scale
    )
    return y


def _call_by_adapter(request: tuple, adapter: Adapter, backend_name: str | None) -> Any:
    """The results of a request on the array of an adapter."""
    op, _, axis, where, scale, keepdims, dtype, out, _, _, others = request
    x = adapter.x
    check_inputs(op, where, others)
    if type(axis) is not int:
        axis = as_axes(axis, len(x.shape))
    views = [x]
    if where is not None or others:
        axes = axis if type(axis) is tuple else as_axes(axis, len(x.shape))
        views = views_of_inputs(adapter, op, axes, where, others)
    if scale is not None:
        scale = as_scale(scale)

    arrays = []
    if out is None:
        y_dtype = as_output_dtype(dtype, x.dtype, None)
        for o, shape in axes_and_results(op, axis, keepdims, x.shape)[1]:
            array, view = adapter.empty_like(y_dtype) if o.per == "element" else adapter.empty(shape, y_dtype)
            arrays.append(array)
            views.append(view)
    else:
        views += map(adapter.out, as_tuple(out, op))
    plan = plan_views(op, backend_name, axis, keepdims, where is not None, *map(FORM_AND_WRITEABLE, views))
    if out is None:
        adapter.run(plan.launch, views, scale, ())
        return user_arrays(adapter, arrays)
    if dtype is not None:
        as_output_dtype(dtype, x.dtype, views[-1])
    adapter.run(plan.launch, views, scale, needs_copies(plan.operands, plan.meetings, views))
    return out
