"""The functions on Dask arrays, and the states of rows that are spread over many chunks.

`numba_softmax.softmax` and the others take Dask arrays as they take all arrays,
lazily. Where a row lies in one chunk, each chunk is a call of its own. Where it is
spread over several, each chunk is folded into states, 16 or 24 bytes a row; a
tree of tasks merges these, and then each chunk is finished from itself and
its rows' states. `online_state`, `normalize` and `log_normalize` are these steps.

In a task a kernel uses one thread: Dask's own threads work side by side.
"""

from __future__ import annotations

import contextlib
import functools
import itertools
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numba
import numpy as np
from numpy.typing import DTypeLike

try:
    import dask.array as da
    from dask.array.utils import meta_from_array
except ImportError as error:
    raise ImportError(f'numba_softmax.dask needs Dask ({error}): pip install "numba-softmax[dask]"') from None

from .call import whole_arrays
from .call.adapters import adapter_for
from .call.arguments import as_mask
from .call.devices import in_host_memory
from .call.layout import state_numbers
from .call.request import Request, checked
from .call.row_states import FLOAT64, RowStates, block_of, state_dtype
from .ops import OPS

__all__ = ["log_normalize", "normalize", "online_state"]

BRANCHES = 8
"""States that a task merges. The last bits depend on it, so Dask's own setting is not asked."""

Axes = tuple[int, ...]


def online_state(
    x: da.Array,
    axis: int | tuple[int, ...] | None = -1,
    *,
    where: Any = None,
    scale: float | None = None,
    dtype: DTypeLike | None = None,
) -> da.Array:
    """The state of each row: what there is to know of all its elements, for softmax and what is built on it.

    Parameters
    ----------
    x : dask.array.Array
        Real numbers, in chunks of NumPy or CuPy arrays.
    axis : int, tuple of int or None
        The axis or axes of a row's elements, in one chunk or in many.
    where, scale
        As for `numba_softmax.softmax`. A Dask array as `where` has the chunks of `x`,
        and they are on a GPU where those are.
    dtype : dtype, optional
        Of the results that are to be made of the states, if not that of `x`.

    Returns
    -------
    dask.array.Array
        Numbers of float64, of shape ``(2, *rows)`` or, where rows are computed in float64,
        ``(3, *rows)``: the maximum `m`, ``rest`` and ``rest_lo``, with
        ``l = 1 + rest + rest_lo`` the sum of ``exp(scale * (x - m))``. They are those of
        `OnlineSoftmax.from_arrays`.

    Raises
    ------
    TypeError, ValueError, numpy.exceptions.AxisError
        As for `numba_softmax.softmax`; and for chunks of unknown size, or a
        `where` in other chunks than `x`.

    Notes
    -----
    A task for each chunk, and a tree of tasks that merge 8 states each. States of different elements of
    the same rows, from other arrays or machines, merge by the recurrence: with
    ``m = max(m_a, m_b)``, ``l = l_a exp(m_a - m) + l_b exp(m_b - m)``.

    Examples
    --------
    >>> import dask.array as da, numba_softmax.dask
    >>> x = da.from_array([[0.0, 1.0, 2.0, 3.0]], chunks=(1, 2))
    >>> m, rest, _ = numba_softmax.dask.online_state(x)
    >>> m.compute(), (1 + rest).compute().round(4)
    (array([3.]), array([1.553]))
    """
    work = _work_of(Request("logsumexp", x, axis, where, scale, dtype=dtype))  # which is read of a state
    return _states(work, x, _as_mask(where, x))


def normalize(
    x: da.Array,
    state: da.Array,
    axis: int | tuple[int, ...] | None = -1,
    *,
    where: Any = None,
    scale: float | None = None,
    dtype: DTypeLike | None = None,
) -> da.Array:
    """Softmax of elements of rows whose states are known: ``exp(scale * (x - m)) / l``.

    Parameters
    ----------
    x : dask.array.Array
        Elements that the states have seen, or a part of those.
    state : dask.array.Array
        From `online_state`, for the same `axis`, `scale` and `dtype`.
    axis, where, scale, dtype
        As for `numba_softmax.softmax`.

    Returns
    -------
    dask.array.Array
        Of the shape and the chunks of `x`.

    Raises
    ------
    TypeError, ValueError, numpy.exceptions.AxisError
        As for `online_state`; and for a `state` of other rows or chunks.

    Examples
    --------
    >>> import dask.array as da, numba_softmax.dask
    >>> x = da.from_array([[0.0, 1.0, 2.0, 3.0]], chunks=(1, 2))
    >>> state = numba_softmax.dask.online_state(x)
    >>> numba_softmax.dask.normalize(x[:, 2:], state).compute().round(4)
    array([[0.2369, 0.6439]])
    """
    return _normalized(Request("softmax", x, axis, where, scale, dtype=dtype), state)


def log_normalize(
    x: da.Array,
    state: da.Array,
    axis: int | tuple[int, ...] | None = -1,
    *,
    where: Any = None,
    scale: float | None = None,
    dtype: DTypeLike | None = None,
) -> da.Array:
    """The logarithm of softmax of elements of rows whose states are known: ``scale * (x - m) - log(l)``.

    Parameters
    ----------
    x, state, axis, where, scale, dtype
        As for `normalize`.

    Returns
    -------
    dask.array.Array
        Of the shape and the chunks of `x`.

    Raises
    ------
    TypeError, ValueError, numpy.exceptions.AxisError
        As for `normalize`.

    Examples
    --------
    >>> import dask.array as da, numba_softmax.dask
    >>> x = da.from_array([0.0, -40.0], chunks=1)
    >>> numba_softmax.dask.log_normalize(x, numba_softmax.dask.online_state(x)).compute()
    array([-4.24835426e-18, -4.00000000e+01])
    """
    return _normalized(Request("log_softmax", x, axis, where, scale, dtype=dtype), state)


def call(request: Request) -> da.Array:
    """The result of a request on a Dask array."""
    for argument in ("out", "device", "stream"):
        if getattr(request, argument) is not None:
            raise TypeError(
                f"{argument} is not for Dask arrays, which are computed later, where their chunks lie: leave it out"
            )
    x, work, op = request.x, _work_of(request), OPS[request.name]
    mask, axes, y_dtype = _as_mask(request.where, x), work.axes, work.y_dtype
    if all(x.numblocks[i] == 1 for i in axes):
        kept = work.keepdims or not op.reduces
        return _blockwise(
            functools.partial(_call, work=work), [i for i in range(x.ndim) if kept or i not in axes], x, mask,
            token=op.name, dtype=y_dtype, adjust_chunks=dict.fromkeys(axes if op.reduces and kept else (), 1),
        )  # fmt: skip
    state = _states(work, x, mask)
    if not op.reduces:
        return _finished(work, x, mask, state)
    rows = [i for i in range(x.ndim) if i not in axes]
    y = da.blockwise(
        functools.partial(_read, work=work), rows, state, (x.ndim, *rows), token=op.name, dtype=y_dtype,
        align_arrays=False, meta=meta_from_array(x._meta, ndim=len(rows), dtype=y_dtype),
    )  # fmt: skip
    return da.expand_dims(y, axes) if work.keepdims else y


# ---------------------------------------------------------------------- arguments


class _Work(NamedTuple):
    """The arguments of a call, checked; they go with its tasks."""

    name: str
    axes: Axes
    keepdims: bool
    scale: float | None
    state_dtype: np.dtype
    y_dtype: np.dtype


def _work_of(request: Request) -> _Work:
    """The work of a request on an array that can be computed with."""
    x = request.x
    if not isinstance(x, da.Array):
        raise TypeError(f"x is a {type(x).__name__}: it must be a Dask array")
    if isinstance(x._meta, np.ma.MaskedArray):
        raise TypeError("x has chunks of masked arrays, whose masks would be ignored: use where=")
    unknown = [i for i, size in enumerate(x.shape) if size != size]
    if unknown:
        raise ValueError(f"x has chunks of unknown size along axis {unknown[0]}: call x.compute_chunk_sizes() first")
    axes, _, scale, y_dtype = checked(request, x, None)
    return _Work(request.name, axes, request.keepdims, scale, state_dtype(x.dtype, y_dtype), y_dtype)


def _as_mask(where: Any, x: da.Array) -> da.Array | None:
    """`where` as a Dask array of the chunks of `x`, but for axes along which it is broadcast."""
    if where is None:
        return None
    if not isinstance(where, da.Array):
        where = _in_chunks(where, x)
    if where.dtype.kind != "b" or isinstance(where._meta, np.ma.MaskedArray):
        kind = "masked arrays" if where.dtype.kind == "b" else where.dtype
        raise TypeError(f"where has chunks of {kind}: they must be boolean, for instance `mask != 0`")
    if isinstance(where._meta, np.ndarray) != isinstance(x._meta, np.ndarray):
        raise TypeError(f"where has chunks of {type(where._meta)}, but x of {type(x._meta)}: both must lie together")
    chunks = x.chunks[max(0, x.ndim - where.ndim) :]
    if where.ndim > x.ndim or any(m not in ((1,), c) for m, c in zip(where.chunks, chunks, strict=True)):
        raise ValueError(
            f"where has chunks {where.chunks}, but x has {x.chunks}: they must be the same, or 1 along axes that are "
            "broadcast; rechunk one of them"
        )
    return where


def _in_chunks(where: Any, x: da.Array) -> da.Array:
    """A mask of another library in the chunks of `x`."""
    on_gpu = hasattr(where, "__cuda_array_interface__")
    where = where if on_gpu else in_host_memory(where, "where")
    as_mask(np.broadcast_to(False, where.shape) if on_gpu else where, x.shape)  # refuses what is no mask of x
    chunks = x.chunks[x.ndim - where.ndim :]
    return da.from_array(where, tuple((1,) if n == 1 else c for n, c in zip(where.shape, chunks, strict=True)))


def _normalized(request: Request, state: Any) -> da.Array:
    """The results of elements whose rows' states are given."""
    x, work = request.x, _work_of(request)
    if not isinstance(state, da.Array):
        raise TypeError(f"state is a {type(state).__name__}: it must be a Dask array, from online_state")
    rows = (c for i, c in enumerate(x.chunks) if i not in work.axes)
    expected = ((state_numbers(work.state_dtype.name),), *rows)
    if state.chunks != expected or state.dtype != FLOAT64:
        raise ValueError(
            f"state has chunks {state.chunks} and dtype {state.dtype}, but x needs {expected} and float64: "
            "make it by online_state, from an array of the same dtype and rows, with the same axis and dtype="
        )
    return _finished(work, x, _as_mask(request.where, x), state)


# -------------------------------------------------------------------------- graphs


def _blockwise(
    task: Callable, index: list[int], x: da.Array, mask: da.Array | None, state: tuple = (None, None), **options: Any
) -> da.Array:
    """A task for each chunk of `x`, with the chunk of the states and of the mask that belong to it, or None.

    The result has the axes `index`; `state` are the states and their axes.
    """
    every = list(range(x.ndim))
    of_mask = (None, None) if mask is None else (mask, every[x.ndim - mask.ndim :])
    meta = meta_from_array(x._meta, ndim=len(index), dtype=options["dtype"])
    return da.blockwise(task, index, x, every, *state, *of_mask, align_arrays=False, meta=meta, **options)


def _states(work: _Work, x: da.Array, mask: da.Array | None) -> da.Array:
    """The states of the rows: numbers first, then the rows' axes.

    Tasks get of the work what states depend on, so that different functions of the same rows share these tasks.
    """
    axes, scale, dtype = work.axes, work.scale, work.state_dtype
    states = _blockwise(
        functools.partial(_fold, axes=axes, scale=scale, dtype=dtype), [x.ndim, *range(x.ndim)], x, mask,
        token="softmax-fold", dtype=FLOAT64, new_axes={x.ndim: state_numbers(dtype.name)},
        adjust_chunks=dict.fromkeys(axes, 1),
    )  # fmt: skip
    merge = functools.partial(_merge, scale=scale, dtype=dtype)
    return da.reduction(
        states, chunk=_alone, combine=merge, aggregate=merge, axis=tuple(i + 1 for i in axes), keepdims=False,
        dtype=FLOAT64, split_every=BRANCHES, name="softmax-merge",
        meta=meta_from_array(x._meta, ndim=1 + x.ndim - len(axes), dtype=FLOAT64),
    )  # fmt: skip


def _finished(work: _Work, x: da.Array, mask: da.Array | None, state: da.Array) -> da.Array:
    """The results of all chunks, from themselves and the states."""
    task, index = functools.partial(_finish, work=work), [x.ndim, *(i for i in range(x.ndim) if i not in work.axes)]
    return _blockwise(task, list(range(x.ndim)), x, mask, (state, index), token=work.name, dtype=work.y_dtype)


# --------------------------------------------------------------------------- tasks


@contextlib.contextmanager
def _one_thread() -> Iterator[None]:
    """Kernels stay in this thread; only Dask starts others."""
    before = numba.get_num_threads()
    numba.set_num_threads(1)
    try:
        yield
    finally:
        numba.set_num_threads(before)


def _call(x: Any, _: None, mask: Any, *, work: _Work) -> Any:
    """The results of a chunk of whole rows."""
    request = Request(
        work.name, _only(x), work.axes, _only(mask), work.scale, keepdims=work.keepdims, dtype=work.y_dtype
    )
    with _one_thread():
        return whole_arrays.call(request)


def _fold(x: Any, _: None, mask: Any, *, axes: Axes, scale: float | None, dtype: np.dtype) -> Any:
    """The states of a chunk, with an axis of 1 for each that is gone."""
    with _one_thread():
        block = block_of(x, axes, mask, dtype)
        rows = tuple(n for i, n in enumerate(x.shape) if i not in axes)
        states = RowStates(rows, dtype, scale, block.adapter)
        states.fold(block)
        return states.to_array().reshape(states.count, *(1 if i in axes else n for i, n in enumerate(x.shape)))


def _merge(states: Any, axis: Axes, keepdims: bool, *, scale: float | None, dtype: np.dtype) -> Any:
    """States merged along axes, in their order; the first axis is that of their numbers."""
    shape = states.shape
    with _one_thread():
        rows = tuple(n for i, n in enumerate(shape) if i not in axis)[1:]
        merged = RowStates(rows, dtype, scale, adapter_for(states, "the states"))
        for at in itertools.product(*(range(shape[i]) for i in axis)):
            part = states[tuple(at[axis.index(i)] if i in axis else slice(None) for i in range(len(shape)))]
            merged.merge(RowStates.from_array(part, dtype, scale))
        numbers = merged.to_array()
    return numbers.reshape(tuple(1 if i in axis else n for i, n in enumerate(shape))) if keepdims else numbers


def _alone(states: Any, axis: Axes, keepdims: bool) -> Any:
    """The states of one chunk, which has no others to be merged with."""
    return states


def _finish(x: Any, state: Any, mask: Any, *, work: _Work) -> Any:
    """The results of a chunk."""
    with _one_thread():
        block = block_of(x, work.axes, mask, work.state_dtype)
        result, _ = block.adapter.empty_like(work.y_dtype)
        states = RowStates.from_array(_only(state), work.state_dtype, work.scale)
        return states.finish(OPS[work.name], block, result)


def _read(state: Any, *, work: _Work) -> Any:
    """An op's number of each row."""
    with _one_thread():
        return RowStates.from_array(_only(state), work.state_dtype, work.scale).read(OPS[work.name], work.y_dtype)


def _only(block: Any) -> Any:
    """The one chunk there is along an axis that results do not have, where Dask gives a list of them."""
    while isinstance(block, list):
        (block,) = block
    return block
