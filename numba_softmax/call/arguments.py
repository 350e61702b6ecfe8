"""From any array and axis to rows: what kernels need to know of arrays, and how results are laid out.

Nothing below this module knows of axes. A `Layout` describes the rows by
dimensions and steps; together with three addresses and a scale it is all that a
backend gets.
"""

from __future__ import annotations

import ctypes
import functools
import itertools
import math
import numbers
import operator
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.lib.array_utils import normalize_axis_tuple

from .. import kernel_code

kernel_code.register()

FLOATS = ("float16", "bfloat16", "float32", "float64")
_NUMBERS, _LISTS, _DEPTH = {int, float, bool}, {list, tuple}, 64
_INTEGERS = tuple(f"{u}int{b}" for u in ("", "u") for b in (8, 16, 32, 64))
INPUTS = (*FLOATS, *_INTEGERS, "bool")

Dim = tuple[int, int, int, int]
"""A dimension: its size and the steps in bytes of x, of the result and of the mask."""


States = Literal["", "given", "x"]
"""Where the states of rows are, if they are there already: given beside the elements, or in `x` instead of those.

They are float64 arrays of `m`, `rest` and maybe `rest_lo`, one after the other, as many numbers apart as there are
rows. Given ones lie in the order of the layout's rows, those in `x` or in the results by the rows' steps.
"""


def state_numbers(x: str) -> int:
    """How many numbers the states of rows of that format have."""
    return 3 if x.removeprefix(">") == "float64" else 2


@dataclass(frozen=True, slots=True)
class Layout:
    """Rows in memory."""

    x: str  # the format of the elements: a dtype name, after ">" for swapped bytes
    y: str  # that of the results
    masked: bool
    rows: int
    n: int
    row_dims: tuple[Dim, ...]  # in any order; the last one has the smallest steps
    reduced_dims: tuple[Dim, ...]  # in the order of a row's elements; at least one
    states: States = ""


@functools.cache
def format_name(dtype: np.dtype) -> str | None:
    """The name of the format in memory; None for numbers that cannot be computed with."""
    if dtype.name not in INPUTS:
        return None
    return dtype.name if dtype.isnative else ">" + dtype.name


@functools.cache
def _is_float(dtype: np.dtype) -> bool:
    return dtype.name in FLOATS


def layout_of(
    shape: tuple[int, ...],
    axes: tuple[int, ...],
    x_dtype: np.dtype,
    x_steps: tuple[int, ...],
    y_dtype: np.dtype,
    y_steps: tuple[int, ...],
    w_steps: tuple[int, ...] | None,
    states: States = "",
) -> Layout:
    """The layout of a call. A reduced result has steps of 0 along the reduced axes."""
    dims = list(zip(shape, x_steps, y_steps, w_steps or (0,) * len(shape), strict=True))
    row_dims = [d for i, d in enumerate(dims) if i not in axes]
    reduced_dims = [dims[i] for i in sorted(axes)]
    x, y = str(format_name(x_dtype)), str(format_name(y_dtype))
    return layout_of_dims(x, y, w_steps is not None, row_dims, reduced_dims, states)


def layout_of_dims(
    x: str, y: str, masked: bool, row_dims: list[Dim], reduced_dims: list[Dim], states: States = ""
) -> Layout:
    """The layout with these dimensions, or with fewer that mean the same."""
    row_dims = [row_dims[i] for i in order_of_rows([(x_step, y_step) for _, x_step, y_step, _ in row_dims])]
    return Layout(
        x,
        y,
        masked,
        math.prod(d[0] for d in row_dims),
        math.prod(d[0] for d in reduced_dims),
        _merged(row_dims),
        _merged(reduced_dims),
        states,
    )


def order_of_rows(steps: Sequence[tuple[int, int]]) -> tuple[int, ...]:
    """In which order a layout has the dimensions of rows, from their steps in `x` and in the result."""
    return tuple(sorted(range(len(steps)), key=lambda i: -max(map(abs, steps[i]))))


def steps_in_c_order(shape: tuple[int, ...], size: int) -> tuple[int, ...]:
    """The steps of a new array with elements of that size."""
    steps = []
    for count in reversed(shape):
        steps.append(size)
        size *= count
    return tuple(reversed(steps))


@functools.lru_cache(maxsize=1024)
def order_in_memory(steps: tuple[int, ...]) -> tuple[int, ...]:
    """The axes from the largest step to the smallest, which is the order that NumPy's `empty_like` keeps."""
    return tuple(sorted(range(len(steps)), key=lambda i: -abs(steps[i])))


def _merged(dims: list[Dim]) -> tuple[Dim, ...]:
    """The same elements in as few dimensions as possible, at least one."""
    merged: list[Dim] = []
    for dim in dims:
        if dim[0] == 1:
            continue
        if merged and all(outer == dim[0] * inner for outer, inner in zip(merged[-1][1:], dim[1:], strict=True)):
            dim = (merged.pop()[0] * dim[0], *dim[1:])
        merged.append(dim)
    return tuple(merged) or ((1, 0, 0, 0),)


def steps_with_reduced(steps: tuple[int, ...], axes: tuple[int, ...], ndim: int) -> tuple[int, ...]:
    """The steps of a reduced result along all axes of `x`, with or without those axes: 0 along them."""
    if len(steps) == ndim:
        return tuple(0 if i in axes else step for i, step in enumerate(steps))
    kept = iter(steps)
    return tuple(0 if i in axes else next(kept) for i in range(ndim))


# -------------------------------------------------------------------- arguments


def as_input(x: Any) -> np.ndarray:
    """`x` as an array of a dtype that can be computed with."""
    if type(x) is not np.ndarray:
        check_not_masked(x, "x")
        x = np.asarray(x)
    check_input_dtype(x.dtype)
    return x


def check_not_masked(array: Any, name: str) -> None:
    """Refuse masked arrays, and lists of them, which NumPy takes without their masks."""
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
    """Whether there are masked arrays in a sequence, at any depth of NumPy's; for numbers alone, at C's speed."""
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
    """Whether NumPy takes the items of an object of that type, of text and memory aside."""
    return issubclass(kind, Sequence) and not issubclass(kind, (str, bytes, bytearray, memoryview))


def check_input_dtype(dtype: np.dtype) -> None:
    """Refuse what is not a number that can be computed with."""
    if format_name(dtype) is None:
        raise TypeError(f"x has dtype {dtype}: it must be real numbers, one of {', '.join(INPUTS)}")


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
    """The shape that an integer or some of them mean."""
    try:
        sizes = tuple(map(operator.index, shape)) if isinstance(shape, (tuple, list)) else (operator.index(shape),)
    except TypeError:
        raise TypeError(f"shape is {shape!r}: it must be an integer or a tuple of them") from None
    if min(sizes, default=0) < 0:
        raise ValueError(f"shape is {shape}: it must not be negative")
    return sizes


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
    """`dtype` as a dtype; bfloat16, and the floats of other libraries, by their names."""
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
    """A native dtype of elements that states take."""
    dtype = as_dtype(dtype)
    if not _is_float(dtype):
        raise TypeError(f"dtype is {dtype}: it must be one of {', '.join(FLOATS)}")
    return dtype.newbyteorder("=")


def dtype_called(name: str, argument: str) -> np.dtype:
    """The dtype that another library calls so, of an argument."""
    try:
        return as_dtype(name)
    except TypeError:
        needs = "which needs the package ml_dtypes" if name == "bfloat16" else "which cannot be computed with"
        raise TypeError(f"{argument} has dtype {name}, {needs}") from None


def check_kind_of_out(out: Any) -> None:
    """Refuse what is no array, or one that results would not go into as they are."""
    if not isinstance(out, np.ndarray) or isinstance(out, np.ma.MaskedArray):
        raise TypeError(f"out must be a NumPy array, not {type(out).__name__}")


def check_out(out_shape: tuple[int, ...], dtype: np.dtype, writeable: bool, shape: tuple[int, ...]) -> None:
    """Refuse arrays that results of `shape` cannot be written to."""
    if out_shape != shape:
        raise ValueError(f"out has shape {tuple(out_shape)}, but the result has shape {tuple(shape)}")
    if not _is_float(dtype):
        raise TypeError(f"out has dtype {dtype}: it must be one of {', '.join(FLOATS)}")
    if not writeable:
        raise ValueError("out is read-only: pass an array that can be written to")


def as_mask(mask: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """`where` as an array of NumPy's, broadcast to the shape of `x`."""
    if mask.dtype.kind != "b":
        raise TypeError(f"where has dtype {mask.dtype}: it must be boolean, for instance `mask != 0`")
    if mask.shape == shape:
        return mask
    try:
        return np.broadcast_to(mask, shape)
    except ValueError:
        raise ValueError(
            f"where has shape {mask.shape}, which does not broadcast to that of the elements, {shape}"
        ) from None


@functools.lru_cache(maxsize=1024)
def mask_steps(
    shape: tuple[int, ...], dtype: np.dtype, steps: tuple[int, ...], x_shape: tuple[int, ...]
) -> tuple[int, ...]:
    """The steps of a mask along the axes of `x`, where it is no array of NumPy's."""
    return as_mask(stand_in(1, shape, dtype, steps), x_shape).strides


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


# ----------------------------------------------------------------------- memory


def _address_by_interface(array: np.ndarray) -> int:
    return array.__array_interface__["data"][0]


_after_header = ctypes.cast(object.__basicsize__, ctypes.POINTER(ctypes.c_size_t))
_WORD = ctypes.sizeof(ctypes.c_size_t)


def _address_in_object(array: np.ndarray) -> int:
    return _after_header[id(array) // _WORD]


def _choose_address() -> Any:
    """How to get an array's address.

    NumPy's ABI has the address first in the array object, where it is read in a
    tenth of the time. An interpreter that lays out objects otherwise is noticed.
    """
    probe = np.zeros(3)[1:]
    try:
        same = _address_in_object(probe) == _address_by_interface(probe)
    except (AttributeError, ValueError):
        same = False
    return _address_in_object if same else _address_by_interface


address_of = _choose_address()
"""The address of an array's first element, as an integer."""


class _Memory:
    def __init__(self, owner: Any, **interface: Any) -> None:
        self.owner = owner
        self.__array_interface__ = {"version": 3, **interface}


def stand_in(
    address: int,
    shape: tuple[int, ...],
    dtype: np.dtype,
    steps: tuple[int, ...],
    writeable: bool = False,
    owner: Any = None,
) -> np.ndarray:
    """An array at that address, which keeps the owner of the memory.

    Without memory of this process there, it can be asked for all but its elements.
    """
    array = np.asarray(_Memory(owner, data=(address, not writeable), shape=shape, typestr=dtype.str, strides=steps))
    return array if array.dtype == dtype else array.view(dtype)  # the interface has no word for bfloat16


def needs_temporary(x: np.ndarray, out: np.ndarray, where: np.ndarray | None, reduces: bool) -> bool:
    """Whether writing to `out` could change what is still to be read."""
    if out is x and out.flags.forc and where is None:
        return False
    if may_overlap_itself(out.shape, out.strides, out.itemsize):
        return True
    if where is not None and _share_memory(where, out):
        return True
    if not _share_memory(x, out):
        return False
    same_elements = (
        out.strides == x.strides and out.dtype.itemsize == x.dtype.itemsize and address_of(out) == address_of(x)
    )
    return reduces or not same_elements


def _share_memory(a: np.ndarray, b: np.ndarray) -> bool:
    if not np.may_share_memory(a, b):
        return False
    try:
        return np.shares_memory(a, b, max_work=10_000)  # type: ignore[arg-type]
    except np.exceptions.TooHardError:
        return True


def may_overlap_itself(shape: tuple[int, ...], steps: tuple[int, ...], size: int) -> bool:
    """Whether two elements may lie in the same memory."""
    if 0 in shape:
        return False
    extent = size
    for step, count in sorted((abs(s), n) for s, n in zip(steps, shape, strict=True) if n > 1):
        if step < extent:
            return True
        extent += step * (count - 1)
    return False


def near(
    x_shape: tuple[int, ...], x_steps: tuple[int, ...], x_size: int,
    y_shape: tuple[int, ...], y_steps: tuple[int, ...], y_size: int,
) -> range:  # fmt: skip
    """The distances from `x` to `y`, in bytes, at which they may overlap: all, if `y` overlaps itself.

    At others `needs_temporary` need not look, but for a mask.
    """
    if may_overlap_itself(y_shape, y_steps, y_size):
        return range(-(1 << 64), 1 << 64)
    (x_first, x_end), (y_first, y_end) = extent(x_shape, x_steps, x_size), extent(y_shape, y_steps, y_size)
    return range(x_first - y_end + 1, x_end - y_first)


def extent(shape: tuple[int, ...], steps: tuple[int, ...], size: int) -> tuple[int, int]:
    """Where an array's memory begins and ends, from its first element's address on."""
    if 0 in shape:
        return 0, 0
    reaches = [step * (count - 1) for step, count in zip(steps, shape, strict=True)]
    return sum(r for r in reaches if r < 0), sum(r for r in reaches if r > 0) + size
