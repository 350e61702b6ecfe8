"""What the backends have in common: what a kernel is compiled for, and how a scale is split."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from numba import float32, float64

from .. import kernel_code
from ..call.layout import Layout, state_numbers
from ..lanewise import lanewise
from ..ops import Op
from ..simd import Stored, convert, widen

kernel_code.register()

SMALLEST_IN_FLOAT32 = 2.0**-100
"""Smaller scales, and those beyond float32, are computed with in float64."""

_IN_FLOAT32 = {order + name for order in ("", ">") for name in ("float16", "bfloat16", "float32")}


class Spec(NamedTuple):
    """What a kernel is compiled for."""

    op: Op
    x: str  # names of Stored formats; a leading ">" for swapped bytes
    y: str
    masked: bool
    scaled: bool
    wide: bool  # compute in float64 in any case
    streaming: bool = False  # write past the caches

    @property
    def number(self) -> Any:
        """The type to compute in."""
        formats = {self.x} if self.op.gives_states else {self.x, self.y}
        return float32 if formats <= _IN_FLOAT32 and not self.wide else float64

    @property
    def two_parts(self) -> bool:
        """Whether the sums of states have two parts on the CPU."""
        return self.number is float64

    @property
    def state_numbers(self) -> int:
        """How many numbers the states that outlive a call have: `m`, `rest` and, of rows of float64, `rest_lo`."""
        return state_numbers(self.x)

    @property
    def numbers_read(self) -> int:
        """How many of them the op reads."""
        return min(self.op.reads, self.state_numbers)

    @property
    def row_numbers(self) -> int:
        """How many numbers an op that reduces has for a row; they lie as many numbers apart as there are rows."""
        return self.state_numbers if self.op.gives_states else 1

    @property
    def narrow(self) -> bool:
        """Whether results are rounded to 16 bits, from at most float32."""
        return self.y.removeprefix(">") in ("float16", "bfloat16") and self.number is float32

    @property
    def high_only(self) -> bool:
        """Whether one part of what weights are multiplied by is good enough."""
        return self.narrow and self.op.uses_weights


def stored(name: str) -> Stored:
    """The format of that name."""
    return Stored(name.removeprefix(">"), swapped=name.startswith(">"))


def sign_and_factor(scale: float) -> tuple[float, float]:
    """What elements and what their differences are multiplied by.

    Differences of elements can overflow where the scaled ones do not: so
    elements are halved, where that is any help.
    """
    sign = -1.0 if scale < 0 else 1.0
    return (sign, abs(scale)) if abs(scale) > 1 else (0.5 * sign, 2 * abs(scale))


def needs_float64(factor: float) -> bool:
    """Whether float32 cannot hold a factor, nor the numbers that it makes."""
    return factor != 0 and not SMALLEST_IN_FLOAT32 <= factor < 2.0**126


def along_rows(layout: Layout, x: Stored, y: Stored, reduces: bool) -> bool:
    """Whether the elements of a row are neighbours in memory, in `x`, result and mask."""
    if layout.n <= 1:
        return True
    if len(layout.reduced_dims) > 1:
        return False
    _, x_step, y_step, w_step = layout.reduced_dims[0]
    return x_step == x.bytes and (reduces or y_step == y.bytes) and (w_step == 1 or not layout.masked)


def across_rows(layout: Layout, x: Stored, y: Stored) -> bool:
    """Whether enough rows are neighbours in memory, element by element."""
    rows, x_step, y_step, w_step = layout.row_dims[-1]
    return (
        len(layout.reduced_dims) == 1
        and rows > 1
        and (x_step, y_step) == (x.bytes, y.bytes)
        and (w_step == 1 or not layout.masked)
    )


def make_scale(spec: Spec) -> Callable:
    """A `lanewise` function: the scale from its sign and factor, in the type to compute in and with what that lacks."""

    @lanewise
    def scale_of(sign, factor):
        if not spec.scaled:
            return None
        high = convert(spec.number, factor)
        return convert(spec.number, sign), high, convert(spec.number, factor - widen(high))

    return scale_of
