"""The kernel for numbers of rows alone, such as stored states: no elements are read. It computes in float64."""

from __future__ import annotations

from collections.abc import Callable

from numba import float64

from .... import kernel_code
from ....math.folds import in_order
from ....math.lanewise import Vec, lanewise
from ....math.simd import like, splat
from ...spec import Spec, make_scale
from ..edges import load_apart, store_numbers
from ..layout import ROWS, make_places, word

kernel_code.register()

STATE_LANES = 8
"""Rows that are computed at once."""


def make_states(spec: Spec) -> Callable:
    """The kernel. States are read from the operand that stores them; without one, they are those of no elements."""
    scale_of, places, op, vec = make_scale(spec), make_places(len(spec.operands)), spec.op, Vec(float64, STATE_LANES)
    row_at, last_row_dim, row_strides = places.row_at, places.last_row_dim, places.row_strides
    names, formats, sizes = op.fold.state, spec.formats, spec.sizes

    def numbers_of(i, at, strides, rows, count):
        return tuple(
            load_apart(vec, formats[i], at[i] + rows * (k * sizes[i]), strides[i], like(count, 0), count)
            for k in range(spec.operands[i].numbers)
        )

    def state_of(at, strides, rows, count):
        if spec.state is None:
            zero = splat(vec, like(rows, 0).cast(float64))
            two_parts = any(spec.operands[i].numbers == len(names) for i in spec.row_results)
            return op.fold.identity(zero, zero if two_parts else None)
        return in_order(op.fold, numbers_of(spec.state, at, strides, rows, count))

    @lanewise
    def compute(at, strides, rows, count, scale):
        state = state_of(at, strides, rows, count)
        row = tuple(numbers_of(i, at, strides, rows, count) for i in spec.row_inputs)
        for i, numbers in zip(spec.row_results, op.rows(state, row, scale), strict=True):
            for k in range(spec.operands[i].numbers):
                address = at[i] + rows * (k * sizes[i])
                store_numbers(formats[i], address, strides[i], numbers[k], like(count, 0), count)

    def states(addresses, sign, factor, layout, first, last):
        rows, inner, strides, scale = (
            word(layout, ROWS),
            last_row_dim(layout),
            row_strides(layout),
            scale_of(sign, factor),
        )
        strips = -(-inner // STATE_LANES)
        for task in range(first, last):
            row = task % strips * STATE_LANES
            at = row_at(addresses, layout, task // strips * inner + row)
            compute(at, strides, rows, min(STATE_LANES, inner - row), scale)

    return states
