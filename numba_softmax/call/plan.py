"""Plans: all that follows from a call's operation and the forms of its arrays, once for all calls that share them."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from ..ops import OPS, WHERE, Op, Operand, X
from .arguments import as_output_dtype, check_input_dtype, check_out
from .devices import backend_named
from .layout import BOOL, Form, bound, layout_of, strides_in_c_order, strides_with_reduced
from .overlap import Meeting, meetings_of, overlap_distances
from .request import axes_and_results, check_written


class LaunchPlan(NamedTuple):
    """All that is known of a launch before memory is looked at."""

    launch: Callable  # computes it, as `devices` describes
    operands: tuple[Operand, ...]
    meetings: tuple[Meeting, ...]  # at which operands may overlap


@functools.lru_cache(maxsize=4096)
def plan_launch(op: Op, backend_name: str | None, axes: tuple[int, ...], masked: bool, *forms: tuple) -> LaunchPlan:
    """The plan of an op on operands of these forms: shape, dtype and strides of each.

    All those of elements have one shape, to which the axes belong; those of rows have it without the axes, or with
    size 1 there. The first axis of states is that of their numbers.
    """
    operands, of_rows = [], []
    for o, form in zip(
        (o for o in op.operands if masked or o.kind != "mask"), itertools.starmap(Form, forms), strict=True
    ):
        is_state = o.kind == "state"
        operands.append(o._replace(numbers=form.shape[0]) if is_state else bound(o, form.dtype))
        of_rows.append(Form(form.shape[1:], form.dtype, form.strides[1:]) if is_state else form)
    shape = next(
        (form.shape for o, form in zip(operands, of_rows, strict=True) if o.per == "element"), of_rows[0].shape
    )
    strides = [
        form.strides if o.per == "element" else strides_with_reduced(form.strides, axes, len(shape))
        for o, form in zip(operands, of_rows, strict=True)
    ]
    launch = backend_named(backend_name).launcher_for(op, layout_of(operands, shape, axes, strides))
    return LaunchPlan(launch, tuple(operands), meetings_of(operands, of_rows))


@functools.lru_cache(maxsize=4096)
def plan_views(op: Op, backend_name: str | None, axis: Any, keepdims: bool, masked: bool, *views: tuple) -> LaunchPlan:
    """The plan of a call on arrays, in the order of the operands: that of `plan_launch`, after a check of the arrays.

    Each array is given by shape, dtype, strides, and a bool for writeable.
    """
    check_input_dtype(views[0][1])
    axes, results = axes_and_results(op, axis, keepdims, views[0][0])
    read = sum(o.read and (masked or o.kind != "mask") for o in op.operands)
    check_written(views[read:], results)
    return plan_launch(op, backend_name, axes, masked, *(view[:3] for view in views))


# ----------------------------------------------------------- arrays of NumPy's, one result

Operation = tuple[str, Any, bool, str | None]
"""An op along an axis: its name, the axis, `keepdims`, and the name of the backend for `devices.backend_named`.

A plain tuple, since one is made in each call: a class with names takes 0.2 us more, a tenth of a small call.
"""

PLAIN = frozenset(name for name, op in OPS.items() if len(op.operands) == 3 and op.operands[:2] == (X, WHERE))
"""The ops of elements, a mask and one result."""


class CallPlan(NamedTuple):
    """All that is known of a call of a plain op on arrays of NumPy's before memory is looked at."""

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

    `result` are shape, dtype, strides and a bool for writeable. Without them the result
    is a new array, in C order and of the dtype of `x`, if that is its natural form;
    any other is laid out by NumPy. (All arguments are flat since that makes the lookup
    0.1 us faster than with `Form`, one twentieth of a small call.)
    """
    name, axis, keepdims, backend_name = operation
    op, x = OPS[name], Form(x_shape, x_dtype, x_strides)
    check_input_dtype(x_dtype)
    axes, ((_, shape),) = axes_and_results(op, axis, keepdims, x_shape)
    if not result:
        y = Form(shape, x.dtype, strides_in_c_order(shape, x.dtype.itemsize))
        if as_output_dtype(None, x.dtype, None) != x.dtype or not (op.reduces or x.strides == y.strides):
            return CallPlan(None, shape, range(0))
    else:
        *y_form, writeable = result
        y = Form(*y_form)
        check_out(y.shape, y.dtype, writeable, shape)
    mask = () if w_strides is None else (Form(x_shape, BOOL, w_strides),)
    plan = plan_launch(op, backend_name, axes, bool(mask), x, *mask, y)
    return CallPlan(plan.launch, shape, overlap_distances(x, y))
