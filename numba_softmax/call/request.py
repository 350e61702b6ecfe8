"""A request: the arguments of a public function, and what they come to for an array of some shape and dtype."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from ..ops import Op
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
    others: tuple[Any, ...] = ()  # the op's inputs after `x`


def checked(
    request: Request, x: Any, written: Sequence[Any] | None
) -> tuple[tuple[int, ...], tuple[Shape, ...], float | None, np.dtype]:
    """The axes from 0, the shapes of the results, the scale or None, and the dtype of the results.

    Of `x` shape and dtype matter. `written` are views of arrays for the results; None stands for new ones.
    """
    check_input_dtype(x.dtype)
    axes, shapes = axes_and_shapes(request.op, as_axes(request.axis, len(x.shape)), request.keepdims, tuple(x.shape))
    return axes, shapes, as_scale(request.scale), dtype_of_results(request.dtype, x.dtype, written, shapes)


@functools.lru_cache(maxsize=4096)
def axes_and_shapes(op: Op, axis: Any, keepdims: bool, shape: Shape) -> tuple[tuple[int, ...], tuple[Shape, ...]]:
    """The axes by their numbers from 0, and the shapes of the results."""
    axes = as_axes(axis, len(shape))
    kept, rows = shapes_of_rows(axes, shape)
    of_rows = kept if keepdims else rows
    return axes, tuple(of_rows if o.per == "row" else shape for o in op.results)


def as_tuple(out: Any, op: Op) -> tuple[Any, ...]:
    """The arrays for results, of which the caller gives one, or as many as the op has in a tuple."""
    count = len(op.results)
    if count == 1:
        return (out,)
    if not isinstance(out, tuple) or len(out) != count:
        given = f"{len(out)} of them" if isinstance(out, tuple) else type(out).__name__
        raise TypeError(f"out must be a tuple of {count} arrays, one for each result, not {given}")
    return out


def dtype_of_results(dtype: Any, x_dtype: np.dtype, written: Sequence[Any] | None, shapes: Sequence[Shape]) -> np.dtype:
    """The one dtype of all results: of new ones, or of those that are written to, which are checked."""
    if written is None:
        return as_output_dtype(dtype, x_dtype, None)
    for i, (y, shape) in enumerate(zip(written, shapes, strict=True)):
        check_out(y.shape, y.dtype, y.writeable, shape, "out" if len(shapes) == 1 else f"out[{i}]")
        if y.dtype != written[0].dtype:
            raise TypeError(f"out has arrays of {written[0].dtype} and {y.dtype}: give all results one dtype")
    return as_output_dtype(dtype, x_dtype, written[0])
