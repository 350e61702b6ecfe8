"""A request: the arguments of a public function, and their meaning for an array of some shape and dtype."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from ..ops import WHERE, Op, Operand
from .arguments import as_axes, as_output_dtype, as_scale, check_input_dtype, check_out, shapes_of_rows

Shape = tuple[int, ...]


class Request(NamedTuple):
    """The arguments of a public function, as they were given."""

    op: Op
    x: Any
    axis: Any = -1
    where: Any = None
    scale: Any = None
    keepdims: bool = False
    dtype: Any = None
    out: Any = None  # of an op with several results, a tuple
    device: Any = None
    stream: Any = None
    others: tuple[Any, ...] = ()  # the op's inputs after `x`, in the order of its operands


Results = tuple[tuple[Operand, Shape], ...]
"""The results of a call: their operands and shapes."""


def checked(
    request: Request, x: Any, written: Sequence[Any] | None
) -> tuple[tuple[int, ...], Results, float | None, np.dtype]:
    """The axes from 0, the results, the scale or None, and the dtype of the results.

    Only shape and dtype of `x` matter. `written` are views of the arrays for the results, or None for new ones.
    """
    check_input_dtype(x.dtype)
    check_inputs(request.op, request.where, request.others)
    axes, results = axes_and_results(request.op, as_axes(request.axis, len(x.shape)), request.keepdims, tuple(x.shape))
    scale = as_scale(request.scale)
    if written is not None:
        check_written([view[1:5] for view in written], results)
    return axes, results, scale, as_output_dtype(request.dtype, x.dtype, written[0] if written else None)


@functools.lru_cache(maxsize=4096)
def axes_and_results(op: Op, axis: Any, keepdims: bool, shape: Shape) -> tuple[tuple[int, ...], Results]:
    """The axes by their numbers from 0, and the results for elements of that shape."""
    axes = as_axes(axis, len(shape))
    kept, rows = shapes_of_rows(axes, shape)
    of_rows = kept if keepdims else rows
    return axes, tuple((o, of_rows if o.per == "row" else shape) for o in op.results)


def as_tuple(out: Any, op: Op) -> tuple[Any, ...]:
    """The arrays for results as a tuple; the caller gives one array, or a tuple with one for each result of the op."""
    return out if isinstance(out, tuple) and len(op.results) > 1 else (out,)


def check_inputs(op: Op, where: Any, others: Sequence[Any]) -> None:
    """Refuse a mask, or further inputs, that the op does not take, and fewer than it needs."""
    names = [o.name for o in op.inputs[1:]]
    if len(others) != len(names):
        raise TypeError(f"{op.name} reads {' and '.join(names) or 'nothing'} beside x: it got {len(others)} arrays")
    if where is not None and WHERE not in op.operands:
        raise TypeError(f"{op.name} takes no mask: leave where out")


def check_written(arrays: Sequence[tuple], results: Sequence[tuple[Operand, Shape]]) -> None:
    """Refuse arrays that the results cannot be written to, because of shape, dtype, strides or read-only memory."""
    if len(arrays) != len(results):
        raise TypeError(f"out has {len(arrays)} arrays: it must be a tuple of {len(results)}, one for each result")
    for i, ((y_shape, dtype, _, writeable), (_, shape)) in enumerate(zip(arrays, results, strict=True)):
        check_out(y_shape, dtype, writeable, shape, "out" if len(results) == 1 else f"out[{i}]")
        if dtype != arrays[0][1]:
            raise TypeError(f"out has arrays of {arrays[0][1]} and {dtype}: give all results one dtype")
