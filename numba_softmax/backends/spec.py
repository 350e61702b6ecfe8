"""Common to the backends: the description of a kernel, its operands, and its finisher."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from numba import float32, float64

from .. import kernel_code
from ..call.layout import Layout
from ..math.folds import stored_numbers
from ..math.lanewise import lanewise
from ..math.memory import Stored
from ..math.simd import convert, widen
from ..math.weights import factor_of, softmax_of
from ..ops.declare import Op, Operand

kernel_code.register()

SMALLEST_IN_FLOAT32 = 2.0**-100
"""With smaller scales, and those beyond float32, kernels compute in float64."""

_IN_FLOAT32 = {order + name for order in ("", ">") for name in ("float16", "bfloat16", "float32")}
_IN_16_BITS = {order + name for order in ("", ">") for name in ("float16", "bfloat16")}


class Spec(NamedTuple):
    """The specification of a kernel: all that it is compiled for."""

    op: Op
    operands: tuple[Operand, ...]  # those present, in the order of the kernel's addresses
    scaled: bool
    in_float64: bool  # whatever the formats
    streaming: bool = False  # write by non-temporal stores

    @property
    def name(self) -> str:
        """The name of the kernel on disk, which says all that it is compiled for."""
        return f"{self.op.name}:{kernel_code.digest_of(self.op)}:{self[1:]!r}"

    @property
    def number(self) -> Any:
        """The type to compute in."""
        formats = {o.format for o in self.operands if o.kind == "number"}
        has_elements = any(o.per == "element" for o in self.operands)
        return float32 if has_elements and formats <= _IN_FLOAT32 and not self.in_float64 else float64

    @property
    def narrow(self) -> bool:
        """True if all results are rounded to 16 bits, from at most float32."""
        return {o.format for o in self.operands if o.written} <= _IN_16_BITS and self.number is float32

    @property
    def two_parts(self) -> bool:
        """True if the sums of states have two parts on the CPU."""
        return self.number is float64

    @property
    def writes_elements(self) -> bool:
        """True if the op has results an element."""
        return self.op.elements is not None

    @property
    def writes_rows(self) -> bool:
        """True if the op has results a row."""
        return self.op.rows is not None

    @property
    def of_softmax(self) -> bool:
        """True if results an element are made of softmax."""
        return self.op.elements is not None and self.op.elements.of_softmax

    @property
    def formats(self) -> tuple[Stored, ...]:
        """The format in memory of each operand's numbers."""
        return tuple(stored(o.format) for o in self.operands)

    @property
    def sizes(self) -> tuple[int, ...]:
        """The bytes of each operand's numbers."""
        return tuple(f.bytes for f in self.formats)

    def _which(self, condition: Callable[[Operand], bool]) -> tuple[int, ...]:
        return tuple(i for i, o in enumerate(self.operands) if condition(o))

    @property
    def element_inputs(self) -> tuple[int, ...]:
        """The indices of operands with elements to read, without the mask; the first one is folded."""
        return self._which(lambda o: o.per == "element" and o.kind == "number" and o.read)

    @property
    def element_results(self) -> tuple[int, ...]:
        """The indices of operands with elements to write."""
        return self._which(lambda o: o.per == "element" and o.written)

    @property
    def row_inputs(self) -> tuple[int, ...]:
        """The indices of operands with numbers of rows to read, without the state that a kernel begins with."""
        return tuple(i for i in self._which(lambda o: o.per == "row" and o.read) if i != self.state)

    @property
    def row_reads(self) -> tuple[int, ...]:
        """The indices of all operands with numbers of rows to read, that state first."""
        return (*(() if self.state is None else (self.state,)), *self.row_inputs)

    @property
    def row_results(self) -> tuple[int, ...]:
        """The indices of operands with numbers of rows to write."""
        return self._which(lambda o: o.per == "row" and o.written)

    @property
    def mask(self) -> int | None:
        """The index of the mask, or None."""
        return next(iter(self._which(lambda o: o.kind == "mask")), None)

    @property
    def masked(self) -> bool:
        """True if one of the operands is a mask."""
        return self.mask is not None

    @property
    def state(self) -> int | None:
        """The index of the state that a kernel begins with if it folds none, the first one that is read; or None."""
        return next(iter(self._which(lambda o: o.kind == "state" and o.read)), None)


def stored(name: str) -> Stored:
    """The format of that name."""
    return Stored(name.removeprefix(">"), swapped=name.startswith(">"))


def operands_for(op: Op, x: str, y: str, masked: bool) -> tuple[Operand, ...]:
    """The operands of an op for inputs and results in these formats; states are those of rows like `x`."""

    def bound(o: Operand) -> Operand:
        if o.kind == "state":
            return o._replace(numbers=stored_numbers(op.fold, x))
        return o._replace(format=o.format or ("bool" if o.kind == "mask" else y if o.written else x))

    return tuple(bound(o) for o in op.operands if masked or o.kind != "mask")


def sign_and_factor(scale: float) -> tuple[float, float]:
    """Split a scale into the factor of elements and that of their differences.

    If ``abs(scale) <= 1``, elements are halved first, because ``x - m`` may
    overflow although ``scale * (x - m)`` does not.
    """
    sign = -1.0 if scale < 0 else 1.0
    return (sign, abs(scale)) if abs(scale) > 1 else (0.5 * sign, 2 * abs(scale))


def needs_float64(factor: float) -> bool:
    """True if float32 cannot hold a factor, or the numbers that it makes."""
    return factor != 0 and not SMALLEST_IN_FLOAT32 <= factor < 2.0**126


def along_rows(layout: Layout) -> bool:
    """True if the elements of a row are neighbours in memory, in all operands."""
    if layout.n <= 1:
        return True
    if len(layout.reduced_dims) > 1:
        return False
    _, *strides = layout.reduced_dims[0]
    return all(
        stride == stored(o.format).bytes
        for o, stride in zip(layout.operands, strides, strict=True)
        if o.per == "element"
    )


def across_rows(layout: Layout) -> bool:
    """True if several rows are neighbours in memory, element by element, and result by result."""
    rows, *strides = layout.row_dims[-1]
    return (
        len(layout.reduced_dims) == 1
        and rows > 1
        and all(
            stride == stored(o.format).bytes
            for o, stride in zip(layout.operands, strides, strict=True)
            if o.per == "element" or o.written
        )
    )


def make_scale(spec: Spec) -> Callable:
    """A `lanewise` function: the scale's sign and factor in the type to compute in, and the factor's rounding error."""

    @lanewise
    def scale_of(sign, factor):
        if not spec.scaled:
            return None
        high = convert(spec.number, factor)
        return convert(spec.number, sign), high, convert(spec.number, factor - widen(high))

    return scale_of


class Finisher(NamedTuple):
    """Makes results an element, with `numbers` numbers that are prepared for their row in the type to compute in."""

    numbers: int
    prepare: Callable  # (share, state, row) -> these numbers; `share` makes softmax of weights
    results: (
        Callable  # (v, others, prepared, scale, down) -> a tuple of results from `v`, which are weights or elements
    )
    selects: bool  # True if the result of a masked element is not the one that a weight of 0 makes


def make_finisher(spec: Spec) -> Finisher:
    """The functions of an op that gives results an element.

    Softmax is ``w (hi + lo)``; where results are rounded to 16 bits, `hi` is precise enough. `down` is None or a power
    of two, and the last factor: applied to a small share, it would make that subnormal.
    """
    elements, number = spec.op.elements, spec.number
    if elements is None:
        return Finisher(0, lambda share, state, row: (), lambda v, others, prepared, scale, down: (), False)
    if elements.of_softmax and spec.op.fold.counts:
        raise TypeError(f"{spec.op.name} makes softmax of weights: its fold has to sum all of them, as ALL does")
    factors = (1 if spec.narrow else 2) if elements.of_softmax else 0
    zero_where_masked = elements.finish is None and all(spec.operands[i].masked == 0.0 for i in spec.element_results)

    @lanewise
    def prepare(share, state, row):
        own = () if elements.prepare is None else elements.prepare(number, state, row)
        return *(factor_of(number, share)[:factors] if factors else ()), *own

    @lanewise
    def results(v, others, prepared, scale, down):
        if factors:
            v = softmax_of(v, prepared[0], prepared[1] if factors == 2 else None)
            v = v if down is None else v * down
        return (v,) if elements.finish is None else elements.finish(v, others, prepared[factors:], scale)

    return Finisher(factors + elements.numbers, prepare, results, not (factors and zero_where_masked))
