"""The public functions: their documentation, and the choice by the type of `x`: a whole array, a file, a Dask array."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable
from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import DTypeLike

from .building import built
from .call import whole_arrays
from .call.arguments import as_dtypes, as_output_dtype, check_input_dtype
from .call.devices import backend_named, choose_backend
from .call.host_libraries import names_of
from .call.layout import format_name
from .call.request import Request
from .call.whole_arrays import call_numpy
from .ops import OPS


def softmax(
    x: Any,
    axis: int | tuple[int, ...] | None = -1,
    *,
    where: Any = None,
    scale: float | None = None,
    dtype: DTypeLike | None = None,
    out: Any = None,
    device: str | None = None,
    stream: Any = None,
) -> Any:
    """Softmax: ``exp(scale * x)`` over its sum along `axis`.

    Parameters
    ----------
    x : array_like or array of another library
        Real numbers: float16, bfloat16, float32, float64, integers or bool, in
        any memory layout. Arrays on a GPU are those of CuPy, Numba and PyTorch,
        and others that speak ``__cuda_array_interface__`` or DLPack; in host
        memory those of NumPy, PyTorch, JAX and others that speak DLPack. A memory
        map may be larger than memory. A Dask array is computed later, in its
        chunks: `numba_softmax.dask`.
    axis : int, tuple of int or None
        The axis or axes that sum to 1; None for all.
    where : array_like of bool, optional
        The elements that take part, broadcast to the shape of `x`. Those that are
        left out count for nothing, whatever they are, and give 0. It lies where `x`
        lies, as does `out`.
    scale : float, optional
        Multiplies `x`, exactly and without a copy: one over the temperature. An
        element of -inf stays out, under a scale of 0 too.
    dtype : dtype, optional
        Of the result: a float. By default that of `out`, or of `x` if it is a
        float, else float64.
    out : array, optional
        Where to write the result. It may be `x` itself.
    device : {"cpu", "cuda"}, optional
        Where to compute; by default where `x` is. With "cuda", an array in host
        memory is moved to the current GPU and back in slices, whatever its size.
    stream : stream or int, optional
        The stream of `x`'s GPU to queue the work in: one of any library, or its
        handle. By default the one in which the library of `x` works.

    Returns
    -------
    ndarray, scalar or array of another library
        Of the shape of `x`; a scalar if that is ``()``. For a GPU array, an array
        of the same library on the same GPU; without waiting for it, and never a
        scalar. For a tensor of PyTorch or an array of the array API standard in
        host memory, one of the same library. For a Dask array, a Dask array.

    Raises
    ------
    TypeError
        An argument has a dtype or a type that is not supported.
    ValueError
        `out` is read-only or has the wrong shape, `where` does not broadcast,
        `scale` is not finite, or the arrays are on different GPUs. Nothing has
        been written then.
    numpy.exceptions.AxisError
        `axis` is out of range.
    RuntimeError
        CUDA is needed and cannot be used, or has failed.
    MemoryError
        The GPU has too little memory left. (For a new result, the array's
        library says so in its own way.)

    Notes
    -----
    A row with a NaN or with +inf, or of nothing but -inf, gives NaN; -inf among
    other elements gives 0. float32 results are within 2 units in the last
    place, float64 within 4, float16 and bfloat16 within 0.51. A row's bits
    depend on that row alone, and on a GPU on whether its elements or its
    neighbours' lie side by side in memory; where it is longer than a slab of a
    memory map, 32 MiB, or spread over chunks, on the cuts. Method: the online normalizer of
    M. Milakov and N. Gimelshein, arXiv:1805.02867.

    Arrays that are handed over by DLPack or ``__cuda_array_interface__`` are not
    copied, unless `out` overlaps them in part. On a GPU, the work runs after
    everything queued so far in the streams of all arrays, and before everything queued
    there later. With `stream`, later work does not wait for it: the caller must wait for
    that stream, and keep the arrays until then. Arrays that speak only DLPack do not
    tell the stream of later work, so without `stream` the call waits until its work
    is done. PyTorch's autograd takes no part, and is not told that `out` has changed.

    Examples
    --------
    >>> import numba_softmax as ns
    >>> ns.softmax([[0.0, 1.0], [3.0, 3.0]]).round(4)
    array([[0.2689, 0.7311],
           [0.5   , 0.5   ]])
    >>> ns.softmax([1.0, 2.0, 3.0], where=[True, False, True]).round(4)
    array([0.1192, 0.    , 0.8808])
    """
    if type(x) is np.ndarray and device is None and stream is None:
        return call_numpy(("softmax", axis, False, None), x, where, scale, dtype, out)
    return call((OPS["softmax"], x, axis, where, scale, False, dtype, out, device, stream, ()))


def log_softmax(
    x: Any,
    axis: int | tuple[int, ...] | None = -1,
    *,
    where: Any = None,
    scale: float | None = None,
    dtype: DTypeLike | None = None,
    out: Any = None,
    device: str | None = None,
    stream: Any = None,
) -> Any:
    """Logarithm of the softmax, precise also where that is nearly 1 or too small for a float.

    Parameters
    ----------
    x, axis, where, scale, dtype, out, device, stream
        As for `softmax`; elements that are left out give -inf.

    Returns
    -------
    ndarray, scalar or array of another library
        As for `softmax`.

    Raises
    ------
    TypeError, ValueError, numpy.exceptions.AxisError, RuntimeError, MemoryError
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
    if type(x) is np.ndarray and device is None and stream is None:
        return call_numpy(("log_softmax", axis, False, None), x, where, scale, dtype, out)
    return call((OPS["log_softmax"], x, axis, where, scale, False, dtype, out, device, stream, ()))


def logsumexp(
    x: Any,
    axis: int | tuple[int, ...] | None = -1,
    *,
    where: Any = None,
    scale: float | None = None,
    keepdims: bool = False,
    dtype: DTypeLike | None = None,
    out: Any = None,
    device: str | None = None,
    stream: Any = None,
) -> Any:
    """``log(sum(exp(scale * x)))`` along `axis`, without overflow.

    Parameters
    ----------
    x, axis, where, scale, dtype, device, stream
        As for `softmax`.
    keepdims : bool
        True keeps the reduced axes, with size 1.
    out : array, optional
        Where to write the result, of the reduced shape.

    Returns
    -------
    ndarray, scalar or array of another library
        Of the shape of `x` without `axis`; else as for `softmax`.

    Raises
    ------
    TypeError, ValueError, numpy.exceptions.AxisError, RuntimeError, MemoryError
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
    if type(x) is np.ndarray and device is None and stream is None:
        return call_numpy(("logsumexp", axis, bool(keepdims), None), x, where, scale, dtype, out)
    return call((OPS["logsumexp"], x, axis, where, scale, bool(keepdims), dtype, out, device, stream, ()))


def warmup(
    *ops: str,
    dtypes: DTypeLike | Iterable[DTypeLike] = "float32",
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
    dtypes : dtype or iterable of dtype
        Of the elements.
    where, scale : bool
        True for calls with these arguments too, besides those without.
    dtype, device
        As for `softmax`.

    Returns
    -------
    int
        The number of kernels that are ready.

    Raises
    ------
    TypeError
        A dtype is not supported.
    ValueError
        There is no such function.

    Notes
    -----
    Arrays in the other byte order, scales that float32 cannot hold, and
    `OnlineSoftmax` need kernels of their own, which this does not compile. The first time, a kind
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
    for x_dtype in as_dtypes(dtypes):
        check_input_dtype(x_dtype)
        y_dtype = as_output_dtype(dtype, x_dtype, None)
        formats.append((str(format_name(x_dtype)), str(format_name(y_dtype))))
    backend = backend_named(choose_backend((), device, None))
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


# ------------------------------------------------------------------------ choice


def call(request: tuple) -> Any:
    """The result of a `Request`, or of a plain tuple of its fields.

    NumPy arrays go to `call_numpy` at once, unless the computation is to be elsewhere: this takes less time.
    """
    kind: Any = type(request[1])
    return _call_for(kind)(request)


@functools.lru_cache(maxsize=256)
def _call_for(kind: Any) -> Callable[[tuple], Any]:
    """The function that computes requests on arrays of that type."""
    if issubclass(kind, np.memmap):
        return lambda request: _mapped().call(Request(*request))
    if ("dask", "Array") in names_of(kind):
        return lambda request: _dask().call(Request(*request))
    return whole_arrays.call


@built
def _mapped() -> ModuleType:
    from .streaming import mapped

    return mapped


@built
def _dask() -> ModuleType:
    from . import dask

    return dask
