"""Plans: all of a call that its operation and the forms of its arrays decide, once for all calls that share them."""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import numpy as np

from ..ops import OPS
from .arguments import as_output_dtype, check_input_dtype, check_out
from .devices import backend_named
from .layout import BOOL, Form, bound, layout_of, strides_in_c_order, strides_with_reduced
from .overlap import overlap_distances
from .request import Operation, axes_and_shape


class CallPlan(NamedTuple):
    """All that is known of a call before memory is looked at."""

    launch: Any  # computes it, as `devices` describes; None if the result has to be laid out first
    shape: tuple[int, ...]  # of the result
    distances: range  # from x to the result, at which they may overlap


@functools.lru_cache(maxsize=4096)
def plan_call(
    operation: Operation,
    x_shape: tuple[int, ...],
    x_dtype: np.dtype,
    x_strides: tuple[int, ...],
    w_strides: tuple[int, ...] | None,
    *result: Any,
) -> CallPlan:
    """The plan of an operation on elements of that form, broadcast mask and result; errors are not remembered.

    `result` are shape, dtype, strides and whether it can be written to. Without them a
    new one is meant, in C order and of the dtype of `x` where that is what it would
    be; any other is for NumPy to lay out. (All is flat since that makes the lookup
    0.1 us faster than with `Form`, one twentieth of a small call.)
    """
    op, x = OPS[operation[0]], Form(x_shape, x_dtype, x_strides)
    check_input_dtype(x_dtype)
    axes, shape = axes_and_shape(operation, x_shape)
    if not result:
        y = Form(shape, x.dtype, strides_in_c_order(shape, x.dtype.itemsize))
        if as_output_dtype(None, x.dtype, None) != x.dtype or not (op.reduces or x.strides == y.strides):
            return CallPlan(None, shape, range(0))
    else:
        *y_form, writeable = result
        y = Form(*y_form)
        check_out(y.shape, y.dtype, writeable, shape)
    distances = overlap_distances(x, y)
    y_strides = strides_with_reduced(y.strides, axes, len(x.shape)) if op.reduces else y.strides
    of_x, mask, of_y = op.operands
    operands, strides = [bound(of_x, x.dtype), bound(of_y, y.dtype)], [x.strides, y_strides]
    if w_strides is not None:
        operands.insert(1, bound(mask, BOOL))
        strides.insert(1, w_strides)
    layout = layout_of(operands, x.shape, axes, strides)
    return CallPlan(backend_named(operation[3]).launcher_for(op, layout), shape, distances)
