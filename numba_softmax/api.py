"""The public functions: what they mean, and their arguments checked; the work is done below."""

from __future__ import annotations

from typing import Any

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
        Multiplies `x`, exactly and without a copy: one over the temperature.
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
    return _call("logsumexp", x, axis, where, scale, keepdims, dtype, out, device)


def _call(
    name: str, x: Any, axis: Any, where: Any, scale: Any, keepdims: bool, dtype: Any, out: Any, device: str | None
) -> Any:
    backend = dispatch.backend_for(x, device)
    op = OPS[name]
    x = arrays.as_input(x)
    axes = arrays.as_axes(axis, x.ndim)
    shape = x.shape
    if op.reduces:
        kept = tuple(1 if i in axes else size for i, size in enumerate(shape))
        shape = kept if keepdims else tuple(size for i, size in enumerate(shape) if i not in axes)
    if out is not None:
        arrays.check_out(out, shape)
    y_dtype = arrays.as_output_dtype(dtype, x.dtype, out)
    mask = None if where is None else arrays.as_mask(where, x.shape)
    factor = None if scale is None else arrays.as_scale(scale)

    result = out
    if out is None or arrays.needs_temporary(x, out, mask, op.reduces):
        result = np.empty(shape, y_dtype) if op.reduces else np.empty_like(x, y_dtype, subok=False)
    y_steps = arrays.steps_with_reduced(result.strides, axes, x.ndim) if op.reduces else result.strides
    w_steps = None if mask is None else mask.strides
    layout = arrays.layout_of(x.shape, axes, x.dtype, x.strides, y_dtype, y_steps, w_steps)
    address = arrays.address_of
    backend.run(op, layout, address(x), address(result), 0 if mask is None else address(mask), factor)
    if out is None:
        return result[()] if result.ndim == 0 else result
    if result is not out:
        out[...] = result
    return out
