"""The one reference of all tests: the definitions in extended precision, for any axes, mask and scale."""

import math

import ml_dtypes
import numpy as np
from numpy.lib.array_utils import normalize_axis_tuple

from numba_softmax.ops import OPS

NAMES = list(OPS)
BFLOAT16 = np.dtype(ml_dtypes.bfloat16)
FLOATS = {name: np.dtype(name) for name in ("float16", "float32", "float64")} | {"bfloat16": BFLOAT16}
LIMITS = {"float16": 0.51, "bfloat16": 0.51, "float32": 2.0, "float64": 4.0}
"""The promised accuracy, in units in the last place of a result, by its dtype."""


def naive(name, x, axis=-1, *, where=None, scale=None, keepdims=False):
    """The exact result, nearly: rounded as np.longdouble, which ought to have 64 bits or more."""
    x = np.asarray(x).astype(np.longdouble)
    axes = tuple(range(x.ndim)) if axis is None else normalize_axis_tuple(axis, x.ndim)
    keep = np.broadcast_to(True if where is None else where, x.shape)
    with np.errstate(all="ignore"):
        x = _scaled(x, scale)
        last = tuple(range(-len(axes), 0))
        moved = np.moveaxis(x, axes, last)
        split = x.ndim - len(axes)
        rows = math.prod(moved.shape[:split]), math.prod(moved.shape[split:])
        y = _of_rows(name, moved.reshape(rows), np.moveaxis(keep, axes, last).reshape(rows))
    if not OPS[name].reduces:
        return np.moveaxis(y.reshape(moved.shape), last, axes)
    y = y.reshape(moved.shape[:split])
    return np.expand_dims(y, axes) if keepdims else y


def _scaled(x, scale):
    """The scaled elements; one of -inf stays out under a scale of 0, as it does under all scales above."""
    if scale is None:
        return x
    if scale == 0:
        return np.where(x == -np.inf, x, x * 0)
    return x * np.longdouble(scale)


def _of_rows(name, x, keep):
    """The results of the rows of a matrix."""
    if x.shape[1] == 0:
        return np.full(len(x), -np.inf) if OPS[name].reduces else x
    x = np.where(keep, x, -np.inf)
    m = x.max(axis=1, keepdims=True)
    d = x - np.where(np.isfinite(m), m, 0.0)
    e = np.exp(d)
    others = e.copy()
    np.put_along_axis(others, x.argmax(axis=1, keepdims=True), 0.0, axis=1)  # log1p adds the maximum's own 1
    rest = others.sum(axis=1, keepdims=True)
    if name == "logsumexp":
        return np.where(np.isfinite(m), m + np.log1p(rest), m)[:, 0]
    y = e / (1 + rest) if name == "softmax" else d - np.log1p(rest)
    return np.where(keep, np.where(np.isfinite(m), y, np.nan), OPS[name].results[0].masked)


def ulp_of(exact, dtype):
    """The unit in the last place of a `dtype` at `exact`, that of subnormal numbers at least."""
    info = ml_dtypes.finfo(dtype)
    fraction, exponent = np.frexp(np.abs(np.asarray(exact, np.longdouble)))
    lowest = round(math.log2(float(info.smallest_normal)))
    exponent = np.where(fraction == 0, lowest, np.maximum(exponent - 1, lowest))
    return np.ldexp(np.longdouble(1), exponent - info.nmant)


def ulp_error(result, exact, dtype, unit=None, *, tiny=False):
    """The largest error of the normal results (tiny: of subnormal ones as well), in units in the last place."""
    info = ml_dtypes.finfo(dtype)
    result, exact = np.asarray(result).astype(np.longdouble), np.asarray(exact)
    unit = ulp_of(exact, dtype) if unit is None else unit
    lowest = 0 if tiny else float(info.smallest_normal)
    compared = np.isfinite(exact) & (np.abs(exact) >= lowest) & (np.abs(exact) <= float(info.max))
    errors = np.abs(np.where(compared, result, 0.0) - np.where(compared, exact, 0.0)) / np.where(compared, unit, 1.0)
    return float(errors.max(initial=0.0))


def unit_of(name, exact, dtype, x, axis=-1, *, where=None, scale=None, keepdims=False):
    """The unit in which errors are counted: for logsumexp that of the larger of the maximum and the result."""
    if name != "logsumexp":
        return ulp_of(exact, dtype)
    x = np.asarray(x).astype(np.longdouble)
    with np.errstate(all="ignore"):
        x = _scaled(x, scale)
        keep = np.broadcast_to(True if where is None else where, x.shape)
        m = np.max(x, axis=axis, where=keep, initial=-np.inf, keepdims=keepdims)
        return ulp_of(np.maximum(np.abs(m), np.abs(exact)), dtype)


def assert_right(name, result, x, axis=-1, *, where=None, scale=None, keepdims=False):
    """`result` is within the promised accuracy everywhere, and infinite or NaN exactly where it must be."""
    dtype = np.asarray(result).dtype.newbyteorder("=")
    options = {"where": where, "scale": scale, "keepdims": keepdims}
    exact = naive(name, x, axis, **options)
    assert np.shape(result) == exact.shape
    with np.errstate(all="ignore"):
        rounded = exact.astype(np.float64).astype(dtype).astype(np.longdouble)
    special = ~np.isfinite(rounded)
    np.testing.assert_array_equal(np.asarray(result).astype(np.longdouble)[special], rounded[special])
    assert np.isfinite(np.asarray(result).astype(np.longdouble)[~special]).all()
    error = ulp_error(result, exact, dtype, unit_of(name, exact, dtype, x, axis, **options), tiny=True)
    assert error <= LIMITS[dtype.name], f"{name}: {error} units in the last place"


def same_bits(a, b):
    """Whether two arrays have the same dtype, shape and elements, zeros and NaN by their bits too."""
    a, b = np.asarray(a), np.asarray(b)
    return a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes()
