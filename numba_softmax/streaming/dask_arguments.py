"""Arguments of calls on Dask arrays: checked, and brought to matching chunks."""

from __future__ import annotations

from typing import Any, NamedTuple

import dask.array as da
import numpy as np

from ..call.arguments import as_operand, check_input_dtype
from ..call.devices import in_host_memory
from ..call.request import Request, checked
from ..call.row_states import state_dtype
from ..ops import WHERE, Op, Operand

Axes = tuple[int, ...]
Index = tuple[int, ...]


class Work(NamedTuple):
    """The arguments of a call, checked; they go with its tasks."""

    op: Op
    axes: Axes
    keepdims: bool
    scale: float | None
    state_dtype: np.dtype
    y_dtype: np.dtype


Argument = tuple[da.Array | None, Index | None]
"""An array, and the axes of `x` that its own axes correspond to."""


class Inputs(NamedTuple):
    """The inputs of a call, in the chunks of `x` or, along axes that are broadcast, in one chunk of size 1."""

    x: da.Array
    mask: Argument
    others: tuple[Argument, ...]

    @property
    def every(self) -> Index:
        """All axes of `x`."""
        return tuple(range(self.x.ndim))

    def rows(self, axes: Axes) -> Index:
        """The axes of `x` that are not those of a row's elements."""
        return tuple(i for i in self.every if i not in axes)


def work_of(request: Request) -> tuple[Work, Inputs]:
    """The checked work of a request on a Dask array, and all its arrays."""
    x, op = request.x, request.op
    if not isinstance(x, da.Array):
        raise TypeError(f"x is a {type(x).__name__}: it must be a Dask array")
    if isinstance(x._meta, np.ma.MaskedArray):
        raise TypeError("x has chunks of masked arrays, whose masks would be ignored: use where=")
    unknown = [i for i, size in enumerate(x.shape) if size != size]
    if unknown:
        raise ValueError(f"x has chunks of unknown size along axis {unknown[0]}: call x.compute_chunk_sizes() first")
    axes, _, scale, y_dtype = checked(request, x, None)
    mask = (None, None) if request.where is None else _as_input(WHERE, request.where, x, axes)
    others = (_as_input(o, array, x, axes) for o, array in zip(op.inputs[1:], request.others, strict=True))
    work = Work(op, axes, request.keepdims, scale, state_dtype(x.dtype, y_dtype), y_dtype)
    return work, Inputs(x, mask, tuple(others))


def _as_input(operand: Operand, array: Any, x: da.Array, axes: Axes) -> Argument:
    """A mask or further input as a Dask array; from one for rows, the reduced axes of size 1 are removed."""
    name = operand.name
    if not isinstance(array, da.Array):
        array = _in_chunks(operand, array, x, axes)
    _check_chunks(operand, array, x)
    index = _axes_of(operand, array.ndim, x, axes)
    expected = [(1,) if operand.per == "row" and i in axes else x.chunks[i] for i in index]
    if array.ndim > len(index) or any(c not in ((1,), e) for c, e in zip(array.chunks, expected, strict=True)):
        those = "x has" if operand.per == "element" else f"the rows are those of axes {index} of x, which has"
        raise ValueError(
            f"{name} has chunks {array.chunks}, but {those} {x.chunks}: they must be the same, or 1 along axes that "
            "are broadcast; rechunk one of them"
        )
    if operand.per == "row":
        array = array[tuple(0 if i in axes else slice(None) for i in index)]
        index = tuple(i for i in index if i not in axes)
    return array, index


def _axes_of(operand: Operand, ndim: int, x: da.Array, axes: Axes) -> Index:
    """The axes of `x` that an array's correspond to: the last ones; for rows, possibly without the reduced ones."""
    belong = [i for i in range(x.ndim) if operand.per == "element" or i not in axes]
    if ndim > len(belong):
        belong = list(range(x.ndim))
    return tuple(belong[max(0, len(belong) - ndim) :])


def _check_chunks(operand: Operand, array: da.Array, x: da.Array) -> None:
    """Refuse chunks that cannot be computed with, or not together with those of `x`."""
    name = operand.name
    masked = isinstance(array._meta, np.ma.MaskedArray)
    if operand.kind == "mask" and (masked or array.dtype.kind != "b"):
        kind = array.dtype if array.dtype.kind != "b" else "masked arrays"
        raise TypeError(f"{name} has chunks of {kind}: they must be boolean, for instance `mask != 0`")
    if masked:
        raise TypeError(f"{name} has chunks of masked arrays, whose masks would be ignored: use where=")
    if operand.kind != "mask":
        check_input_dtype(array.dtype, name)
    if isinstance(array._meta, np.ndarray) != isinstance(x._meta, np.ndarray):
        raise TypeError(f"{name} has chunks of {type(array._meta)}, but x of {type(x._meta)}: both must lie together")


def _in_chunks(operand: Operand, array: Any, x: da.Array, axes: Axes) -> da.Array:
    """An array of another library in the chunks of `x`."""
    on_gpu = hasattr(array, "__cuda_array_interface__")
    array = array if on_gpu else in_host_memory(array, operand.name)
    form = np.broadcast_to(np.zeros((), bool if operand.kind == "mask" else array.dtype), array.shape)
    as_operand(form if on_gpu else array, operand, x.shape, axes)  # raises if the shape does not fit x
    chunks = (x.chunks[i] for i in _axes_of(operand, array.ndim, x, axes))
    return da.from_array(array, tuple((1,) if n == 1 else c for n, c in zip(array.shape, chunks, strict=True)))
