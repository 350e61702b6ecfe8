"""A request: the arguments of a public function, and what they come to for an array of some shape and dtype."""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import numpy as np

from ..ops import OPS
from .arguments import as_axes, as_output_dtype, as_scale, check_input_dtype


class Request(NamedTuple):
    """The arguments of a public function, as they were given."""

    name: str  # of the function, and of its op
    x: Any
    axis: Any = -1
    where: Any = None
    scale: Any = None
    keepdims: bool = False
    dtype: Any = None
    out: Any = None
    device: Any = None
    stream: Any = None


def checked(request: Request, x: Any, y: Any) -> tuple[tuple[int, ...], tuple[int, ...], float | None, np.dtype]:
    """The axes from 0, the shape of the result, the scale or None, and the dtype of the result.

    `x` and `y` have the shape and dtype of elements and results; `y` is None for a new result.
    """
    check_input_dtype(x.dtype)
    axes = as_axes(request.axis, len(x.shape))
    _, shape = axes_and_shape((request.name, axes, request.keepdims, None), x.shape)
    return axes, shape, as_scale(request.scale), as_output_dtype(request.dtype, x.dtype, y)


Operation = tuple[str, Any, bool, str | None]
"""An op along an axis: its name, the axis, `keepdims`, and the name of the backend for `devices.backend_named`.

A plain tuple, since one is made in each call: a class with names takes 0.2 us more, a tenth of a small call.
"""


@functools.lru_cache(maxsize=4096)
def axes_and_shape(operation: Operation, shape: tuple[int, ...]) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """The axes by their numbers from 0, and the shape of the result."""
    name, axis, keepdims, _ = operation
    axes = as_axes(axis, len(shape))
    if not OPS[name].reduces:
        return axes, shape
    kept = tuple(1 if i in axes else size for i, size in enumerate(shape))
    return axes, kept if keepdims else tuple(size for i, size in enumerate(shape) if i not in axes)
