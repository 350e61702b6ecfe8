"""References for results: the definition in a wider float, and softmax as most people write it.

It imports nothing of the package: benchmarks of other versions load this module alone.
"""

from __future__ import annotations

from typing import Any

import numpy as np

_PRECISION = {"float16": (11, -24), "bfloat16": (8, -133), "float32": (24, -149), "float64": (53, -1074)}
"""The bits of the significand, and the exponent of the smallest positive number."""


class NoReferenceError(Exception):
    """No float is wide enough to compare with."""


def reference(name: str, x: np.ndarray, axis: Any = -1, scale: float = 1.0, wide: Any = np.longdouble) -> np.ndarray:
    """The result by definition, in a wider float; log(sum) is log1p(sum - 1), as the maximum's own term is 1."""
    x = x.astype(wide) * wide(scale)
    m = x.max(axis, keepdims=True)
    e = np.exp(x - m)
    if name == "softmax":
        return e / e.sum(axis, keepdims=True)
    maxima = (e == 1).sum(axis, keepdims=True)
    log_l = np.log1p((maxima - 1) + np.where(e < 1, e, 0).sum(axis, keepdims=True))
    if name == "log_softmax":
        return (x - m) - log_l
    return (m + log_l).squeeze(tuple(range(x.ndim)) if axis is None else axis)


def ulps(got: np.ndarray, exact: np.ndarray, size: np.ndarray | None = None) -> float:
    """The largest difference, in units in the last place of `size` (of the exact result) in the dtype of `got`."""
    bits, smallest = _PRECISION[got.dtype.name]
    _, exponent = np.frexp(np.abs(exact) if size is None else np.maximum(np.abs(exact), np.abs(size)))
    unit = np.ldexp(np.ones_like(exact), np.maximum(exponent - bits, smallest))
    return float(np.max(np.abs(got.astype(exact.dtype) - exact) / unit, initial=0.0))


def error_in_ulps(name: str, x: np.ndarray, got: np.ndarray, axis: Any = -1, scale: float = 1.0) -> float:
    """The largest error of results for finite `x`, in units in the last place.

    For logsumexp the units are those of the larger of result and maximum.

    Raises
    ------
    NoReferenceError
        No float is wide enough to compare with.
    """
    wide: Any = np.longdouble if x.dtype == np.float64 or got.dtype == np.float64 else np.float64
    if got.dtype == np.float64 and np.finfo(np.longdouble).eps >= np.finfo(np.float64).eps:
        raise NoReferenceError("this machine has no float wider than float64")
    with np.errstate(all="ignore"):  # a scale may overflow
        size = (x.astype(wide) * wide(scale)).max(axis) if name == "logsumexp" else None
        return ulps(got, reference(name, x, axis, scale, wide), size)


def by_numpy(op: str, x: Any, axis: int) -> Any:
    """The formula with the maximum subtracted, for arrays of NumPy and of libraries with NumPy's functions."""
    m = x.max(axis, keepdims=True)
    d = x - m
    e = np.exp(d)
    total = e.sum(axis, keepdims=True)
    if op == "softmax":
        return e / total
    return d - np.log(total) if op == "log_softmax" else (m + np.log(total)).squeeze(axis)
