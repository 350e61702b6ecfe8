"""The public functions: what they mean, and their arguments checked; the work is done below."""

from __future__ import annotations

import functools
from collections.abc import Iterable
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, DTypeLike

from . import arrays, dispatch
from .ops import OPS


def softmax(
    x: ArrayLike,
    axis: int | tuple[int, ...] | None = -1,
    *,
    where: ArrayLike | None = None,
    scale: float | None = None,
    dtype: DTypeLike | None = None,
    out: np.ndarray | None = None,
    device: str | None = None,
) -> Any:
    """Softmax: ``exp(scale * x)`` over its sum along `axis`.

    Parameters
    ----------
    x : array_like
        Real numbers: float16, bfloat16, float32, float64, integers or bool, in
        any memory layout.
    axis : int, tuple of int or None
        The axis or axes that sum to 1; None for all.
    where : array_like of bool, optional
        What takes part, broadcast to the shape of `x`. Elements that are left
        out count for nothing, whatever they are, and give 0.
    scale : float, optional
        Multiplies `x`, exactly and without a copy: one over the temperature. An
        element of -inf stays out, under a scale of 0 too.
    dtype : dtype, optional
        Of the result: a float. By default that of `out`, or of `x` if it is a
        float, else float64.
    out : ndarray, optional
        Where to write the result. It may be `x` itself.
    device : {"cpu", "cuda"}, optional
        Where to compute; by default where `x` is.

    Returns
    -------
    ndarray or scalar
        Of the shape of `x`; a scalar if that is ``()``.

    Raises
    ------
    TypeError
        An argument has a dtype or a type that cannot be served.
    ValueError
        `out` is read-only or has the wrong shape, `where` does not broadcast,
        or `scale` is not finite. Nothing has been written then.
    numpy.exceptions.AxisError
        `axis` is out of range.

    Notes
    -----
    A row with a NaN or with +inf, or of nothing but -inf, gives NaN; -inf among
    other elements gives 0. float32 results are within 2 units in the last
    place, float64 within 4, float16 and bfloat16 within 0.51. A row's bits
    depend on that row alone. Method: the online normalizer of M. Milakov and
    N. Gimelshein, arXiv:1805.02867.

    Examples
    --------
    >>> import numba_softmax as ns
    >>> ns.softmax([[0.0, 1.0], [3.0, 3.0]]).round(4)
    array([[0.2689, 0.7311],
           [0.5   , 0.5   ]])
    >>> ns.softmax([1.0, 2.0, 3.0], where=[True, False, True]).round(4)
    array([0.1192, 0.    , 0.8808])
    """
    return _call("softmax", x, axis, where, scale, False, dtype, out, device)


def log_softmax(
    x: ArrayLike,
    axis: int | tuple[int, ...] | None = -1,
    *,
    where: ArrayLike | None = None,
    scale: float | None = None,
    dtype: DTypeLike | None = None,
    out: np.ndarray | None = None,
    device: str | None = None,
) -> Any:
    """Logarithm of the softmax, precise also where that is nearly 1 or too small for a float.

    Parameters
    ----------
    x, axis, where, scale, dtype, out, device
        As for `softmax`; elements that are left out give -inf.

    Returns
    -------
    ndarray or scalar
        Of the shape of `x`; a scalar if that is ``()``.

    Raises
    ------
    TypeError, ValueError, numpy.exceptions.AxisError
        As for `softmax`.

    Notes
    -----
    A row with a NaN or with +inf, or of nothing but -inf, gives NaN; -inf among
    other elements gives -inf. Results are within 2 units in the last place in
    float32 and within 4 in float64, those near zero included: the sum leaves
    out the maximum's own term (P. Blanchard, D. J. Higham and N. J. Higham,
    *Accurately computing the log-sum-exp and softmax functions*, 2021).

    Examples
    --------
    >>> import numba_softmax as ns
    >>> ns.log_softmax([0.0, -40.0])
    array([-4.24835426e-18, -4.00000000e+01])
    """
    return _call("log_softmax", x, axis, where, scale, False, dtype, out, device)


def logsumexp(
    x: ArrayLike,
    axis: int | tuple[int, ...] | None = -1,
    *,
    where: ArrayLike | None = None,
    scale: float | None = None,
    keepdims: bool = False,
    dtype: DTypeLike | None = None,
    out: np.ndarray | None = None,
    device: str | None = None,
) -> Any:
    """``log(sum(exp(scale * x)))`` along `axis`, without overflow.

    Parameters
    ----------
    x, axis, where, scale, dtype, device
        As for `softmax`.
    keepdims : bool
        Whether the reduced axes stay, with size 1.
    out : ndarray, optional
        Where to write the result, of the reduced shape.

    Returns
    -------
    ndarray or scalar
        Of the shape of `x` without `axis`; a scalar if that is ``()``.

    Raises
    ------
    TypeError, ValueError, numpy.exceptions.AxisError
        As for `softmax`.

    Notes
    -----
    A row with a NaN gives NaN, else one with +inf gives +inf; a row of nothing
    but -inf, of no elements, or with all of them left out gives -inf. Accuracy
    and sources are those of `log_softmax`, in units of the larger of the result
    and the maximum.

    Examples
    --------
    >>> import numba_softmax as ns
    >>> float(ns.logsumexp([1000.0, 1000.0]).round(4))
    1000.6931
    >>> ns.logsumexp([[0.0, 1.0], [2.0, 3.0]], axis=0, keepdims=True).round(4)
    array([[2.1269, 3.1269]])
    """
    return _call("logsumexp", x, axis, where, scale, bool(keepdims), dtype, out, device)


def warmup(
    *ops: str,
    dtypes: Iterable[DTypeLike] = ("float32",),
    where: bool = False,
    scale: bool = False,
    dtype: DTypeLike | None = None,
    device: str | None = None,
) -> int:
    """Compile all kernels that calls of some kinds may need, or load them from the disk cache.

    A kernel is compiled when the first call needs it, in one to four seconds.
    After this function, no call of these kinds has to wait, whatever the shape,
    axis and memory layout.

    Parameters
    ----------
    *ops : str
        Names of functions of this package; all of them if none is given.
    dtypes : iterable of dtype
        Of the elements.
    where, scale : bool
        Whether calls with these arguments are among them, besides those without.
    dtype, device
        As for `softmax`.

    Returns
    -------
    int
        How many kernels are ready.

    Raises
    ------
    TypeError
        A dtype cannot be served.
    ValueError
        There is no such function.

    Notes
    -----
    Arrays in the other byte order, and scales that float32 cannot hold, need
    kernels of their own, which this does not compile. The first time, a kind
    takes about a minute; from the disk cache, a quarter of a second.

    Examples
    --------
    >>> import numba_softmax as ns
    >>> ns.warmup("softmax", dtypes=["float32", "float16"], where=True)  # doctest: +SKIP
    """
    from tqdm import tqdm

    for name in ops:
        if name not in OPS:
            raise ValueError(f"there is no function {name!r}: it must be one of {', '.join(OPS)}")
    formats = []
    for x_dtype in map(arrays.as_dtype, dtypes):
        arrays.check_input_dtype(x_dtype)
        y_dtype = arrays.as_output_dtype(dtype, x_dtype, None)
        formats.append((str(arrays.format_name(x_dtype)), str(arrays.format_name(y_dtype))))
    backend = dispatch.backend_of(None if device is None else dispatch.device_of(np.empty(0), device))
    steps = [
        step
        for name in ops or OPS
        for x, y in formats
        for masked in {False, bool(where)}
        for scaled in {False, bool(scale)}
        for step in backend.warm(OPS[name], x, y, masked, scaled)
    ]
    for step in tqdm(steps, desc="compiling", delay=1, leave=False, disable=None):
        step()
    return len(steps)


def _call(
    name: str, x: Any, axis: Any, where: Any, scale: Any, keepdims: bool, dtype: Any, out: Any, device: str | None
) -> Any:
    """Any of the functions. What shapes, steps and dtypes decide is left to `_prepared`, which remembers it."""
    if type(x) is not np.ndarray or device is not None:
        device = dispatch.device_of(x, device)
        x = arrays.as_input(x)
    if type(axis) is not int:  # 1.0 would pass for 1
        axis = arrays.as_axes(axis, x.ndim)
    mask = w_steps = factor = None
    w = 0
    if where is not None:
        mask = arrays.as_mask(where, x.shape)
        w, w_steps = arrays.address_of(mask), mask.strides
    if scale is not None:
        factor = arrays.as_scale(scale)

    if out is None:
        start, shape, _ = _prepared(name, device, keepdims, axis, x.shape, x.dtype, x.strides, w_steps)
        if start is not None and dtype is None:
            result = np.empty(shape, x.dtype)
            start(arrays.address_of(x), arrays.address_of(result), w, factor)
        else:
            y_dtype = arrays.as_output_dtype(dtype, x.dtype, None)
            result = np.empty(shape, y_dtype) if OPS[name].reduces else np.empty_like(x, y_dtype, subok=False)
            _call(name, x, axis, where, scale, keepdims, None, result, device)
        return result if shape else result[()]

    if type(out) is not np.ndarray:
        arrays.check_kind_of_out(out)
    start, _, near = _prepared(
        name, device, keepdims, axis, x.shape, x.dtype, x.strides, w_steps,
        out.shape, out.dtype, out.strides, out.flags.writeable,
    )  # fmt: skip
    if dtype is not None:
        arrays.as_output_dtype(dtype, x.dtype, out)
    x_at, y_at = arrays.address_of(x), arrays.address_of(out)
    if (y_at - x_at in near or mask is not None) and arrays.needs_temporary(x, out, mask, OPS[name].reduces):
        out[...] = _call(name, x, axis, where, scale, keepdims, out.dtype, None, device)
    else:
        start(x_at, y_at, w, factor)
    return out


class _Prepared(NamedTuple):
    """What is known of a call before memory is looked at."""

    start: Any  # what computes it, as `dispatch` describes; None if the result has to be laid out first
    shape: tuple[int, ...]  # of the result
    near: range  # the distances from x to the result at which they may overlap


@functools.lru_cache(maxsize=4096)
def _prepared(
    name: str,
    device: str | None,
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
    axes = arrays.as_axes(axis, len(x_shape))
    shape = x_shape
    if op.reduces:
        kept = tuple(1 if i in axes else size for i, size in enumerate(shape))
        shape = kept if keepdims else tuple(size for i, size in enumerate(shape) if i not in axes)
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
    return _Prepared(dispatch.backend_of(device).starter(op, layout), shape, near)
