"""Checks of arguments, one by one, and their conversion to the one form that the rest of the package uses."""

from __future__ import annotations

import functools
import itertools
import math
import numbers
import operator
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from numpy.lib.array_utils import normalize_axis_tuple

from ..ops.declare import Operand
from .layout import FLOATS, INPUTS, format_name

_NUMBERS, _LISTS, _DEPTH = {int, float, bool}, {list, tuple}, 64


def as_input(x: Any) -> np.ndarray:
    """`x` as an array of a dtype that can be computed with."""
    if type(x) is not np.ndarray:
        check_not_masked(x, "x")
        x = np.asarray(x)
    check_input_dtype(x.dtype)
    return x


def check_not_masked(array: Any, name: str) -> None:
    """Refuse masked arrays, and lists of them, whose masks NumPy would ignore."""
    if isinstance(array, np.ma.MaskedArray):
        instead = {
            "x": "pass x.data, and use where=~x.mask",
            "block": "pass block.data, and use where=~block.mask",
            "where": "use where.filled(False)",
        }
        raise TypeError(
            f"{name} is a masked array, whose mask would be ignored: "
            f"{instead.get(name) or f'pass {name}.data or {name}.filled(...)'}"
        )
    if _is_sequence(type(array)) and _has_masked(array):
        raise TypeError(
            f"{name} is a {type(array).__name__} with masked arrays in it, whose masks would be ignored: "
            "make one array of them, by np.ma.stack for instance, and pass its data and its mask"
        )


def _has_masked(array: Sequence[Any]) -> bool:
    """True if a sequence has masked arrays, at any depth that NumPy allows; of numbers only, it runs at C's speed."""
    level = array
    for _ in range(_DEPTH):
        kinds = set(map(type, level))
        if kinds <= _NUMBERS:
            return False
        if not kinds <= _LISTS:
            if any(issubclass(kind, np.ma.MaskedArray) for kind in kinds):
                return True
            sequences = {kind for kind in kinds if _is_sequence(kind)}
            level = [part for part in level if type(part) in sequences]
        level = list(itertools.chain.from_iterable(level))
    return False


def _is_sequence(kind: Any) -> bool:
    """True for types whose items NumPy takes as elements, except text and buffers."""
    return issubclass(kind, Sequence) and not issubclass(kind, (str, bytes, bytearray, memoryview))


def as_elements(block: Any, dtype: np.dtype) -> np.ndarray:
    """A list or a number as an array of that dtype, for a state."""
    check_not_masked(block, "block")
    try:
        array = np.asarray(block)
    except ValueError as error:
        raise ValueError(f"block is no array: {error}") from None
    if array.dtype.kind not in "biuf":
        raise TypeError(f"block has dtype {array.dtype}: it must be real numbers")
    with np.errstate(all="ignore"):
        converted = array.astype(dtype)
    if (np.isfinite(array) & ~np.isfinite(converted)).any():
        raise ValueError(f"block has numbers that {dtype} cannot hold")
    return converted


def check_maxima(m: np.ndarray, dtype: np.dtype) -> None:
    """Refuse maxima that no elements of that dtype can have."""
    with np.errstate(all="ignore"):
        held = m.astype(dtype).astype(m.dtype)
    if not np.array_equal(held, m, equal_nan=True):
        raise ValueError(f"m has numbers that {dtype} cannot hold: maxima are elements, which are {dtype} here")


def check_input_dtype(dtype: np.dtype, name: str = "x") -> None:
    """Refuse dtypes that are not of numbers that can be computed with."""
    if format_name(dtype) is None:
        raise TypeError(f"{name} has dtype {dtype}: it must be real numbers, one of {', '.join(INPUTS)}")


def as_axes(axis: Any, ndim: int) -> tuple[int, ...]:
    """Axis numbers from 0, ascending."""
    if type(axis) is int and -ndim <= axis < ndim:
        return (axis % ndim,)
    if axis is None:
        return tuple(range(ndim))
    if not isinstance(axis, tuple):
        try:
            axis = operator.index(axis)
        except TypeError:
            raise TypeError(f"axis must be an integer, a tuple of integers or None, not {axis!r}") from None
        if ndim == 0 and axis in (0, -1):
            return ()  # as NumPy's reductions have it
    return tuple(sorted(normalize_axis_tuple(axis, ndim, argname="axis")))


def as_shape(shape: Any) -> tuple[int, ...]:
    """The shape that is given by one integer or several."""
    try:
        sizes = tuple(map(operator.index, shape)) if isinstance(shape, (tuple, list)) else (operator.index(shape),)
    except TypeError:
        raise TypeError(f"shape is {shape!r}: it must be an integer or a tuple of them") from None
    if min(sizes, default=0) < 0:
        raise ValueError(f"shape is {shape}: it must not be negative")
    return sizes


@functools.cache
def _is_float(dtype: np.dtype) -> bool:
    return dtype.name in FLOATS


def as_output_dtype(dtype: Any, x_dtype: np.dtype, out: np.ndarray | None) -> np.dtype:
    """The dtype of a result."""
    if dtype is not None:
        given = as_dtype(dtype)
        if not _is_float(given):
            raise TypeError(f"dtype is {given}: results are floats, so it must be one of {', '.join(FLOATS)}")
        if out is not None and out.dtype != given:
            raise TypeError(f"out has dtype {out.dtype}, but dtype={given} was asked for: leave one of them out")
        return given
    if out is not None:
        return out.dtype
    if not _is_float(x_dtype):
        return np.dtype(np.float64)
    return x_dtype if x_dtype.isnative else x_dtype.newbyteorder("=")


def as_dtype(dtype: Any) -> np.dtype:
    """`dtype` as a NumPy dtype; bfloat16, and the floats of other libraries, are recognised by their names."""
    if not isinstance(dtype, (str, type, np.dtype)):
        name = str(dtype).rpartition(".")[2]
        dtype = name if name in FLOATS else dtype
    try:
        if isinstance(dtype, str) and dtype == "bfloat16":
            import ml_dtypes

            return np.dtype(ml_dtypes.bfloat16)
        return np.dtype(dtype)
    except ImportError:
        raise TypeError("dtype='bfloat16' needs the package ml_dtypes: pip install ml_dtypes") from None
    except TypeError:
        raise TypeError(f"dtype={dtype!r} is not a dtype; it must be one of {', '.join(FLOATS)}") from None


def as_dtypes(dtypes: Any) -> list[np.dtype]:
    """One dtype, or several, as dtypes."""
    several = isinstance(dtypes, Iterable) and not isinstance(dtypes, (str, type, np.dtype))
    return [as_dtype(dtype) for dtype in (dtypes if several else (dtypes,))]


def as_float(dtype: Any) -> np.dtype:
    """`dtype` as a native dtype of elements that states take."""
    dtype = as_dtype(dtype)
    if not _is_float(dtype):
        raise TypeError(f"dtype is {dtype}: it must be one of {', '.join(FLOATS)}")
    return dtype.newbyteorder("=")


def dtype_called(name: str, argument: str) -> np.dtype:
    """The dtype of an argument, from its name in the argument's library."""
    try:
        return as_dtype(name)
    except TypeError:
        needs = "which needs the package ml_dtypes" if name == "bfloat16" else "which cannot be computed with"
        raise TypeError(f"{argument} has dtype {name}, {needs}") from None


def check_kind_of_out(out: Any) -> None:
    """Refuse anything but an array into which results can be written unchanged."""
    if not isinstance(out, np.ndarray) or isinstance(out, np.ma.MaskedArray):
        raise TypeError(f"out must be a NumPy array, not {type(out).__name__}")


def check_out(
    out_shape: tuple[int, ...], dtype: np.dtype, writeable: bool, shape: tuple[int, ...], name: str = "out"
) -> None:
    """Refuse arrays that results of `shape` cannot be written to."""
    if out_shape != shape:
        raise ValueError(f"{name} has shape {tuple(out_shape)}, but the result has shape {tuple(shape)}")
    if not _is_float(dtype):
        raise TypeError(f"{name} has dtype {dtype}: it must be one of {', '.join(FLOATS)}")
    if not writeable:
        raise ValueError(f"{name} is read-only: pass an array that can be written to")


def as_mask(mask: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """`where` as an array of NumPy's, broadcast to the shape of `x`."""
    if mask.dtype.kind != "b":
        raise TypeError(f"where has dtype {mask.dtype}: it must be boolean, for instance `mask != 0`")
    return mask if mask.shape == shape else _broadcast(mask, "where", shape, "elements")


def as_operand(array: np.ndarray, operand: Operand, shape: tuple[int, ...], axes: tuple[int, ...]) -> np.ndarray:
    """An op's input, broadcast to the shape of `x`; one for rows, to theirs, with or without reduced axes of size 1."""
    if operand.kind == "mask":
        return as_mask(array, shape)
    check_input_dtype(array.dtype, operand.name)
    if operand.per == "element":
        return _broadcast(array, operand.name, shape, "elements")
    kept, rows = shapes_of_rows(axes, shape)
    return _broadcast(array, operand.name, rows if array.ndim <= len(rows) else kept, "rows")


def shapes_of_rows(axes: tuple[int, ...], shape: tuple[int, ...]) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """The two shapes of an array with one number for each row: with the reduced axes at size 1, and without them."""
    kept = tuple(1 if i in axes else size for i, size in enumerate(shape))
    return kept, tuple(size for i, size in enumerate(shape) if i not in axes)


def _broadcast(array: np.ndarray, name: str, shape: tuple[int, ...], those_of: str) -> np.ndarray:
    try:
        return np.broadcast_to(array, shape)
    except ValueError:
        raise ValueError(
            f"{name} has shape {array.shape}, which does not broadcast to that of the {those_of}, {shape}"
        ) from None


def as_scale(scale: Any) -> float | None:
    """`scale` as a finite float; None for 1, and for None."""
    if scale is None:
        return None
    if type(scale) is float and math.isfinite(scale):
        return scale if scale != 1 else None
    if isinstance(scale, np.ndarray) and scale.ndim == 0:
        scale = scale[()]
    known = format_name(scale.dtype) is not None if isinstance(scale, np.generic) else isinstance(scale, numbers.Real)
    if not known:
        raise TypeError(f"scale must be a real number, not {type(scale).__name__}: multiply x by an array yourself")
    try:
        factor = float(scale)
    except OverflowError:
        factor = math.inf
    if not math.isfinite(factor):
        raise ValueError(f"scale is {scale}: it must be a finite float64")
    return factor if factor != 1 else None
