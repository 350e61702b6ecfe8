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
from .call.request import Request
from .call.row_states import FLOAT64, RowStates, block_of
from .math.folds import stored_numbers
from .ops import OPS, Op, folding
from .streaming.dask_arguments import Argument, Axes, Index, Inputs, Work, work_of

__all__ = ["log_normalize", "normalize", "online_state"]

BRANCHES = 8
"""States that a task merges. The last bits of results depend on it, so Dask's own setting is not used."""


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
    request = Request(OPS["logsumexp"], x, axis, where, scale, dtype=dtype)  # the op read from states
    return _states(*work_of(request))


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
    return _normalized(Request(OPS["softmax"], x, axis, where, scale, dtype=dtype), state)


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
    return _normalized(Request(OPS["log_softmax"], x, axis, where, scale, dtype=dtype), state)


def call(request: Request) -> Any:
    """The result of a request on a Dask array; several in a tuple."""
    for argument in ("out", "device", "stream"):
        if getattr(request, argument) is not None:
            raise TypeError(
                f"{argument} is not for Dask arrays, which are computed later, where their chunks lie: leave it out"
            )
    work, inputs = work_of(request)
    x, axes, per = inputs.x, work.axes, [o.per for o in work.op.results]
    if all(x.numblocks[i] == 1 for i in axes):
        row = _Result(inputs.every, axes) if work.keepdims else _Result(inputs.rows(axes))
        results = [row if p == "row" else _Result(inputs.every) for p in per]
        return _one_or_all(_arrays(_call, work, inputs, results))
    state = _states(work, inputs)
    of_elements = iter(_finished(work, inputs, state) if "element" in per else ())
    of_rows = iter(_read_all(work, inputs, state) if "row" in per else ())
    return _one_or_all([next(of_rows if p == "row" else of_elements) for p in per])


def _one_or_all(arrays: list[da.Array]) -> Any:
    return arrays[0] if len(arrays) == 1 else tuple(arrays)


def _normalized(request: Request, state: Any) -> da.Array:
    """The results of elements whose rows' states are given."""
    work, inputs = work_of(request)
    if not isinstance(state, da.Array):
        raise TypeError(f"state is a {type(state).__name__}: it must be a Dask array, from online_state")
    expected = ((_count(work),), *(inputs.x.chunks[i] for i in inputs.rows(work.axes)))
    if state.chunks != expected or state.dtype != FLOAT64:
        raise ValueError(
            f"state has chunks {state.chunks} and dtype {state.dtype}, but x needs {expected} and float64: "
            "make it by online_state, from an array of the same dtype and rows, with the same axis and dtype="
        )
    return _one_or_all(_finished(work, inputs, state))


# -------------------------------------------------------------------------- graphs


class _Result(NamedTuple):
    """The axes of `x` that a result keeps, and those of them that have size 1 in it."""

    axes: Index
    ones: Axes = ()


def _arrays(
    task: Callable, work: Work, inputs: Inputs, results: list[_Result], state: Argument = (None, None)
) -> list[da.Array]:
    """The results that a task makes from each chunk of `x` and the matching parts of state, mask and others."""
    pairs = (inputs.x, inputs.every), state, inputs.mask, *inputs.others
    return _made(functools.partial(task, work=work), work, inputs, results, list(itertools.chain(*pairs)))


def _made(task: Callable, work: Work, inputs: Inputs, results: list[_Result], arguments: list[Any]) -> list[da.Array]:
    """The results of a task; if it makes several, a task of its own takes each out of the tuple."""

    def blockwise(function: Callable, token: str, result: _Result, *arguments: Any) -> da.Array:
        meta = meta_from_array(inputs.x._meta, ndim=len(result.axes), dtype=work.y_dtype)
        return da.blockwise(
            function, result.axes, *arguments, token=token, dtype=work.y_dtype, align_arrays=False, meta=meta,
            adjust_chunks=dict.fromkeys(result.ones, 1),
        )  # fmt: skip

    name, index = work.op.name, max((result.axes for result in results), key=len)
    if len(results) == 1:
        return [blockwise(task, name, results[0], *arguments)]
    together = da.blockwise(
        task, index, *arguments, token=name, dtype=object, align_arrays=False, meta=np.empty((0,) * len(index), object)
    )
    return [
        blockwise(functools.partial(_take, k=k), f"{name}-{k}", result, together, index)
        for k, result in enumerate(results)
    ]


def _states(work: Work, inputs: Inputs) -> da.Array:
    """The states of the rows, with the axis of a state's numbers first, then the rows' axes.

    Tasks get only the part of the work that states depend on, so that different functions of the same rows share them.
    """
    x, axes, softmax = inputs.x, work.axes, OPS["softmax"]
    op = softmax if folding(work.op) == folding(softmax) else work.op
    options: dict[str, Any] = {"op": op, "scale": work.scale, "dtype": work.state_dtype}
    others = inputs.others if op is work.op else ()
    states = da.blockwise(
        functools.partial(_fold, axes=axes, **options), (x.ndim, *inputs.every), x, inputs.every, *inputs.mask,
        *itertools.chain(*others), token=f"{op.name}-fold", dtype=FLOAT64, new_axes={x.ndim: _count(work)},
        adjust_chunks=dict.fromkeys(axes, 1), align_arrays=False,
        meta=meta_from_array(x._meta, ndim=1 + x.ndim, dtype=FLOAT64),
    )  # fmt: skip
    merge = functools.partial(_merge, **options)
    return da.reduction(
        states, chunk=_alone, combine=merge, aggregate=merge, axis=tuple(i + 1 for i in axes), keepdims=False,
        dtype=FLOAT64, split_every=BRANCHES, name=f"{op.name}-merge",
        meta=meta_from_array(x._meta, ndim=1 + x.ndim - len(axes), dtype=FLOAT64),
    )  # fmt: skip


def _count(work: Work) -> int:
    """The number of numbers in a state."""
    return stored_numbers(work.op.fold, work.state_dtype.name)


def _finished(work: Work, inputs: Inputs, state: da.Array) -> list[da.Array]:
    """The results of all elements, from themselves and the states."""
    results = [_Result(inputs.every) for o in work.op.results if o.per == "element"]
    return _arrays(_finish, work, inputs, results, (state, (inputs.x.ndim, *inputs.rows(work.axes))))


def _read_all(work: Work, inputs: Inputs, state: da.Array) -> list[da.Array]:
    """The results of all rows, from the states."""
    rows = inputs.rows(work.axes)
    results = [_Result(rows) for o in work.op.results if o.per == "row"]
    of_rows = (pair for o, pair in zip(work.op.inputs[1:], inputs.others, strict=True) if o.per == "row")
    arguments = [state, (inputs.x.ndim, *rows), *itertools.chain(*of_rows)]
    made = _made(functools.partial(_read, work=work), work, inputs, results, arguments)
    return [da.expand_dims(y, work.axes) for y in made] if work.keepdims else made


# --------------------------------------------------------------------------- tasks


@contextlib.contextmanager
def _one_thread() -> Iterator[None]:
    """Keep kernels in this thread; only Dask uses others."""
    before = numba.get_num_threads()
    numba.set_num_threads(1)
    try:
        yield
    finally:
        numba.set_num_threads(before)


def _call(x: Any, _: None, mask: Any, *others: Any, work: Work) -> Any:
    """The results of a chunk of whole rows."""
    request = Request(
        work.op, _only(x), work.axes, _only(mask), work.scale, keepdims=work.keepdims, dtype=work.y_dtype,
        others=tuple(map(_only, others)),
    )  # fmt: skip
    with _one_thread():
        return whole_arrays.call(request)


def _fold(x: Any, mask: Any, *others: Any, axes: Axes, op: Op, scale: float | None, dtype: np.dtype) -> Any:
    """The states of a chunk, with an axis of size 1 for each reduced one."""
    with _one_thread():
        block = block_of(x, axes, mask, dtype, others)
        rows = tuple(n for i, n in enumerate(x.shape) if i not in axes)
        states = RowStates(op, rows, dtype, scale, block.adapter)
        states.fold(block)
        return states.to_array().reshape(states.count, *(1 if i in axes else n for i, n in enumerate(x.shape)))


def _merge(states: Any, axis: Axes, keepdims: bool, *, op: Op, scale: float | None, dtype: np.dtype) -> Any:
    """States merged along axes, in their order; the first axis is that of their numbers."""
    shape = states.shape
    with _one_thread():
        rows = tuple(n for i, n in enumerate(shape) if i not in axis)[1:]
        merged = RowStates(op, rows, dtype, scale, adapter_for(states, "the states"))
        for at in itertools.product(*(range(shape[i]) for i in axis)):
            part = states[tuple(at[axis.index(i)] if i in axis else slice(None) for i in range(len(shape)))]
            merged.merge(RowStates.from_array(op, part, dtype, scale))
        numbers = merged.to_array()
    return numbers.reshape(tuple(1 if i in axis else n for i, n in enumerate(shape))) if keepdims else numbers


def _alone(states: Any, axis: Axes, keepdims: bool) -> Any:
    """The states of a single chunk, which has no others to merge with."""
    return states


def _finish(x: Any, state: Any, mask: Any, *others: Any, work: Work) -> Any:
    """The results of a chunk."""
    with _one_thread():
        block = block_of(x, work.axes, mask, work.state_dtype, others)
        results = [block.adapter.empty_like(work.y_dtype)[0] for o in work.op.results if o.per == "element"]
        states = RowStates.from_array(work.op, _only(state), work.state_dtype, work.scale)
        return states.finish(work.op, block, _one_or_all(results))


def _read(state: Any, *others: Any, work: Work) -> Any:
    """An op's results of each row."""
    with _one_thread():
        states = RowStates.from_array(work.op, _only(state), work.state_dtype, work.scale)
        return states.read(work.op, work.y_dtype, others)


def _take(results: Any, *, k: int) -> Any:
    """One of the results of a chunk."""
    return _only(results)[k]


def _only(block: Any) -> Any:
    """The one chunk along an axis that results do not have, if Dask gives it in a list."""
    while isinstance(block, list):
        (block,) = block
    return block
