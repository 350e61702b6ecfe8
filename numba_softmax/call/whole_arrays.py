"""A call of any of the functions: arguments looked at, the rest planned once for all calls of its kind."""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import numpy as np

from ..ops import OPS
from . import arguments as arrays
from . import devices as dispatch


def call(
    name: str, x: Any, axis: Any, where: Any, scale: Any, keepdims: bool, dtype: Any, out: Any, device: Any, stream: Any
) -> Any:
    """Any of the functions. What shapes, steps and dtypes decide is left to `_prepared`, which remembers it."""
    place = None
    if type(x) is not np.ndarray or device is not None or stream is not None:
        in_parts = dispatch.call_in_parts(x)
        if in_parts is not None:
            return in_parts(name, x, axis, where, scale, keepdims, dtype, out, device, stream)
        place, elsewhere = dispatch.place_of(x, device, stream)
        if elsewhere is not None:
            return _call_elsewhere(name, place, elsewhere, axis, where, scale, keepdims, dtype, out)
        x = arrays.as_input(x)
    if type(axis) is not int:  # 1.0 would pass for 1
        axis = arrays.as_axes(axis, x.ndim)
    mask = w_steps = factor = None
    w = 0
    if where is not None:
        if type(where) is not np.ndarray:
            where = dispatch.in_host_memory(where, "where")
        mask = arrays.as_mask(where, x.shape)
        w, w_steps = arrays.address_of(mask), mask.strides
    if scale is not None:
        factor = arrays.as_scale(scale)

    if out is None:
        start, shape, _ = _prepared(name, place, keepdims, axis, x.shape, x.dtype, x.strides, w_steps)
        if start is not None and dtype is None:
            result = np.empty(shape, x.dtype)
            start(arrays.address_of(x), arrays.address_of(result), w, factor)
        else:
            y_dtype = arrays.as_output_dtype(dtype, x.dtype, None)
            result = np.empty(shape, y_dtype) if OPS[name].reduces else np.empty_like(x, y_dtype, subok=False)
            call(name, x, axis, where, scale, keepdims, None, result, device, None)
        return result if shape else result[()]

    if type(out) is not np.ndarray:
        array = dispatch.in_host_memory(out, "out", for_results=True)
        call(name, x, axis, where, scale, keepdims, dtype, array, device, None)
        return out
    start, _, near = _prepared(
        name, place, keepdims, axis, x.shape, x.dtype, x.strides, w_steps,
        out.shape, out.dtype, out.strides, out.flags.writeable,
    )  # fmt: skip
    if dtype is not None:
        arrays.as_output_dtype(dtype, x.dtype, out)
    x_at, y_at = arrays.address_of(x), arrays.address_of(out)
    if (y_at - x_at in near or mask is not None) and arrays.needs_temporary(x, out, mask, OPS[name].reduces):
        out[...] = call(name, x, axis, where, scale, keepdims, out.dtype, None, device, None)
    else:
        start(x_at, y_at, w, factor)
    return out


def _call_elsewhere(
    name: str, place: Any, elsewhere: Any, axis: Any, where: Any, scale: Any, keepdims: bool, dtype: Any, out: Any
) -> Any:
    """The same for an array of another library, through what `dispatch` gives for it."""
    x, reduces = elsewhere.x, OPS[name].reduces
    if type(axis) is not int:
        axis = arrays.as_axes(axis, len(x.shape))
    mask = w_steps = factor = None
    if where is not None:
        mask = elsewhere.view(where, "where")
        w_steps = arrays.mask_steps(mask.shape, mask.dtype, mask.strides, x.shape)
    if scale is not None:
        factor = arrays.as_scale(scale)

    new = out is None
    if not new:
        y = elsewhere.out(out)
    else:
        arrays.check_input_dtype(x.dtype)
        _, shape = axes_and_shape(name, keepdims, axis, x.shape)
        y_dtype = arrays.as_output_dtype(dtype, x.dtype, None)
        out, y = elsewhere.empty(shape, y_dtype) if reduces else elsewhere.empty_like(y_dtype)
    start, _, near = _prepared(
        name, place, keepdims, axis, x.shape, x.dtype, x.strides, w_steps, y.shape, y.dtype, y.strides, y.writeable
    )
    if dtype is not None:
        arrays.as_output_dtype(dtype, x.dtype, y)
    copies, distance = False, y.address - x.address
    if distance in near or mask is not None:
        w = None if mask is None else (mask.address - x.address, mask.shape, mask.dtype, mask.strides)
        copies = needs_copies((0, x.shape, x.dtype, x.strides), (distance, y.shape, y.dtype, y.strides), w, reduces)
    elsewhere.run(start, y, mask, factor, copies)
    return elsewhere.given_back(out) if new else out


@functools.lru_cache(maxsize=1024)
def needs_copies(x: tuple, y: tuple, w: tuple | None, reduces: bool) -> bool:
    """Whether elements and mask have to be copied before results are written: of arrays by their distances from `x`."""
    if arrays.may_overlap_itself(y[1], y[3], y[2].itemsize):
        raise ValueError("out has elements that lie in the same memory: pass an array in which each has its own")
    return arrays.needs_temporary(_at_distance(x), _at_distance(y), None if w is None else _at_distance(w), reduces)


def _at_distance(array: tuple) -> np.ndarray:
    distance, *rest = array
    return arrays.stand_in((1 << 62) + distance, *rest)


class _Prepared(NamedTuple):
    """What is known of a call before memory is looked at."""

    start: Any  # what computes it, as `dispatch` describes; None if the result has to be laid out first
    shape: tuple[int, ...]  # of the result
    near: range  # the distances from x to the result at which they may overlap


@functools.lru_cache(maxsize=4096)
def _prepared(
    name: str,
    place: str | None,
    keepdims: bool,
    axis: int | tuple[int, ...],
    x_shape: tuple[int, ...],
    x_dtype: np.dtype,
    x_steps: tuple[int, ...],
    w_steps: tuple[int, ...] | None,
    y_shape: tuple[int, ...] | None = None,
    y_dtype: np.dtype | None = None,
    y_steps: tuple[int, ...] = (),
    y_writeable: bool = True,
) -> _Prepared:
    """Check a call and have it planned, once for all calls of its kind; errors are not remembered.

    Without `y_shape` a new result is meant, in C order and of the dtype of `x`
    where that is what it would be; any other is for NumPy to lay out.
    """
    op = OPS[name]
    arrays.check_input_dtype(x_dtype)
    axes, shape = axes_and_shape(name, keepdims, axis, x_shape)
    if y_shape is None or y_dtype is None:
        y_dtype, y_steps = x_dtype, arrays.steps_in_c_order(shape, x_dtype.itemsize)
        if arrays.as_output_dtype(None, x_dtype, None) != x_dtype or not (op.reduces or x_steps == y_steps):
            return _Prepared(None, shape, range(0))
    else:
        arrays.check_out(y_shape, y_dtype, y_writeable, shape)
    near = arrays.near(x_shape, x_steps, x_dtype.itemsize, shape, y_steps, y_dtype.itemsize)
    if op.reduces:
        y_steps = arrays.steps_with_reduced(y_steps, axes, len(x_shape))
    layout = arrays.layout_of(x_shape, axes, x_dtype, x_steps, y_dtype, y_steps, w_steps)
    return _Prepared(dispatch.backend_of(place).starter(op, layout), shape, near)


@functools.lru_cache(maxsize=4096)
def axes_and_shape(
    name: str, keepdims: bool, axis: int | tuple[int, ...], shape: tuple[int, ...]
) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """The axes by their numbers from 0, and the shape of the result."""
    axes = arrays.as_axes(axis, len(shape))
    if not OPS[name].reduces:
        return axes, shape
    kept = tuple(1 if i in axes else size for i, size in enumerate(shape))
    return axes, kept if keepdims else tuple(size for i, size in enumerate(shape) if i not in axes)
