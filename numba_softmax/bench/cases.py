"""Cases of the tables, and functions of them for both the CPU and GPUs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from ..ops import OPS
from .reference import NoReferenceError, error_in_ulps

OURS, COPY = "numba_softmax", "copy"
"""Names of candidates: this package, and a copy of the bytes that a call reads and writes."""

SHARE = 0.8
"""The part of the elements that a mask keeps."""

CHECKED = 1 << 19
"""Elements whose results are compared with those of a wider float."""


class Case(NamedTuple):
    """A call on an array: one line of a table."""

    op: str
    shape: tuple[int, ...]
    dtype: str = "float32"
    axis: int = -1
    masked: bool = False
    scale: float | None = None

    @property
    def label(self) -> str:
        """The case in words; float32 and the last axis are left out."""
        shape = " x ".join(f"{size:,}" for size in self.shape)
        words = [self.op, shape] + ([] if self.dtype == "float32" else [self.dtype])
        words += [] if self.axis == -1 else [f"axis {self.axis}"]
        words += [f"where {SHARE:.0%}"] if self.masked else []
        return " ".join(words + ([] if self.scale is None else [f"scale {self.scale:g}"]))

    @property
    def integers(self) -> bool:
        """True if the input is integers, whose results are float64."""
        return "int" in self.dtype

    @property
    def reduces(self) -> bool:
        """True if a row has one result."""
        return OPS[self.op].reduces

    @property
    def rows_shape(self) -> tuple[int, ...]:
        """The shape with the rows along the last axis."""
        axis = self.axis % len(self.shape)
        return (*self.shape[:axis], *self.shape[axis + 1 :], self.shape[axis])

    @property
    def result_shape(self) -> tuple[int, ...]:
        """The shape of the result."""
        return self.rows_shape[:-1] if self.reduces else self.shape


class Data(NamedTuple):
    """The arrays of a case; `mask` is None without one."""

    x: Any
    y: Any
    mask: Any


# -------------------------------------------------------------- other libraries


def masked_and_scaled(case: Case, x: Any, mask: Any) -> Any:
    """The input for functions without `where` and `scale`: masked and scaled beforehand."""
    if mask is not None:
        x = np.where(mask, x, x.dtype.type(-np.inf))
    return x if case.scale is None else x * case.scale


def by_torch(torch: Any, case: Case, tensors: Data) -> Callable[[], Any]:
    """A call of torch's function, on tensors of any device."""
    tensor, out, function = tensors.x, tensors.y, getattr(torch, case.op)
    if tensors.mask is not None:
        hidden = ~tensors.mask
        return lambda: function(tensor.masked_fill(hidden, -np.inf), case.axis, out=out)
    if case.scale is not None:
        return lambda: function(tensor * case.scale, case.axis, out=out)
    if case.integers:
        return lambda: function(tensor, case.axis, dtype=out.dtype, out=out)
    return lambda: function(tensor, case.axis, out=out)


# ----------------------------------------------------------------------- errors


def some_rows(shape: tuple[int, ...]) -> tuple[np.ndarray, ...]:
    """The index of a random subset of the rows, which lie along the last axis."""
    generator, count = np.random.default_rng(12), max(1, CHECKED // shape[-1])
    return tuple(generator.integers(0, size, count) for size in shape[:-1])


def error_of_rows(case: Case, rows: np.ndarray, results: np.ndarray) -> float | None:
    """The largest error in units in the last place; None without a wider float to compare with."""
    try:
        return error_in_ulps(case.op, rows, results, scale=1.0 if case.scale is None else case.scale)
    except NoReferenceError:
        return None


def two_places(number: float | None) -> str:
    """A number for a table, with two decimals if it is below 100; a dash for None."""
    return "-" if number is None else f"{number:.3g}" if number >= 100 else f"{number:.2f}"
