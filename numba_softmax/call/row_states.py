"""States that outlive a call: blocks folded into them, states merged, results made; in host memory and on a GPU alike.

The states of all rows are one float64 array, as `arrays.States` describes it. All that is done with
them is done by kernels, planned once for all calls of a kind.
"""

from __future__ import annotations

import functools
import math
from typing import Any, NamedTuple

import numpy as np

from ..ops import STATE_OPS, Op
from . import arguments as arrays
from . import devices as dispatch
from . import whole_arrays as calls

FLOAT64 = np.dtype(np.float64)


def state_dtype(x_dtype: np.dtype, y_dtype: np.dtype) -> np.dtype:
    """The dtype of blocks whose states make results as exact as those of one call on the elements."""
    return FLOAT64 if y_dtype.name == "float64" else arrays.as_output_dtype(None, x_dtype, None)


def as_block(x: Any, axes: tuple[int, ...], mask: Any, dtype: np.dtype) -> tuple[Any, tuple[int, ...], Any]:
    """Elements, axes and a mask as arguments of `Rows` for that dtype. A conversion to it loses nothing."""
    call = dispatch.call_on(x if x.dtype.newbyteorder("=") == dtype else x.astype(dtype), "x")
    return call, axes, None if mask is None else call.view(mask, "where")


class Rows:
    """The states of rows of a shape and a dtype, of no elements yet; where the array of the call is.

    They are those of the elements times the scale, which is as `arrays.as_scale` gives it.
    """

    def __init__(self, shape: tuple[int, ...], dtype: np.dtype, scale: float | None, call: Any) -> None:
        self.shape, self.dtype, self.scale, self.device = shape, dtype, scale, call.device
        self.count = arrays.state_numbers(dtype.name)
        self.numbers, y = self._empty(call, shape)
        call.run(self._start(call, STATE_OPS["identity"], (0,) * len(shape)), y, None, None, False)

    def fold(self, call: Any, axes: tuple[int, ...], mask: Any) -> None:
        """Fold a block, which is that of the call."""
        x = call.x
        start, shape, steps = _fold(call.place, axes, x.shape, x.dtype, x.strides, _mask_steps(mask, x))
        if 0 not in x.shape:
            of_block, y = self._empty(call, shape)
            call.run(start, y, mask, self.scale, False)
            self._merge(of_block, steps)

    def merge(self, other: Rows) -> None:
        """Merge states of the same rows."""
        self._merge(other.numbers, self._steps)

    def finish(self, op: Op, call: Any, axes: tuple[int, ...], mask: Any, out: Any) -> Any:
        """The results of a block, which is that of the call."""
        x = call.x
        new = out is None
        if new:
            out, y = call.empty_like(self.dtype)
        else:
            y = call.out(out)
            arrays.check_out(tuple(y.shape), y.dtype, y.writeable, tuple(x.shape))
        start, order, near = _finish(
            op, call.place, axes, x.shape, x.dtype, x.strides, _mask_steps(mask, x), y.dtype, y.strides
        )
        distance, copies = y.address - x.address, False
        if distance in near or mask is not None:
            w = None if mask is None else (mask.address - x.address, mask.shape, mask.dtype, mask.strides)
            of_x, of_y = (0, x.shape, x.dtype, x.strides), (distance, y.shape, y.dtype, y.strides)
            copies = calls.needs_copies(of_x, of_y, w, False)
        call.run(start, y, mask, self.scale, copies, call.view(self._in_order(order), "the state"))
        return call.given_back(out) if new else out

    def read(self, op: Op, dtype: np.dtype) -> Any:
        """The op's number of each row."""
        call = dispatch.call_on(self.numbers, "the state")
        result, y = call.empty(self.shape, dtype)
        scale = self.scale if op.takes_scale else None  # else one more kernel would be compiled
        call.run(self._start(call, op, self._steps, dtype), y, None, scale, False)
        return call.given_back(result)

    def number(self, k: int) -> Any:
        """Number `k` of each state; number 0, the maximum, as elements have it."""
        call = dispatch.call_on(self.numbers, "the state")
        result, y = call.empty(self.shape, FLOAT64)
        self._write_number(call, k, y)
        return call.given_back(result)

    def given(self) -> Any:
        """All numbers of the states, for `of`: an array with one more axis, the first."""
        call = dispatch.call_on(self.numbers, "the state")
        result, y = self._empty(call, self.shape)
        for k in range(self.count):
            self._write_number(call, k, y._replace(address=self._address_of(y, k)))
        return result

    @classmethod
    def of(cls, numbers: Any, dtype: np.dtype, scale: float | None) -> Rows:
        """States with the numbers that `given` gave."""
        rows = cls(tuple(numbers.shape[1:]), dtype, scale, dispatch.call_on(numbers, "the state"))
        for k in range(rows.count):
            rows.set_number(k, dispatch.call_on(numbers[k], "the state"))
        return rows

    def _write_number(self, call: Any, k: int, y: Any) -> None:
        """Number `k` of each state, which are the array of the call."""
        states = call.x
        if k == 0 and self.scale is not None:
            call.run(self._start(call, STATE_OPS["m"], self._steps), y, None, self.scale, False)
        else:
            x = states._replace(address=self._address_of(states, k))
            self._copy_number(call, x, self._steps, y, None)
            call.x = states

    def set_number(self, k: int, call: Any) -> None:
        """Set number `k` of each state to what `number` gave, in an array which is that of the call."""
        y = call.view(self.numbers, "the state")
        y = y._replace(address=self._address_of(y, k))
        self._copy_number(call, call.x, tuple(call.x.strides), y, self.scale if k == 0 else None)

    def _copy_number(self, call: Any, x: Any, steps: tuple[int, ...], y: Any, scale: float | None) -> None:
        call.x = x
        call.run(self._start(call, STATE_OPS["copy"], steps), y, None, scale, False)

    def _address_of(self, view: Any, k: int) -> int:
        return view.address + k * math.prod(self.shape) * FLOAT64.itemsize

    def _merge(self, states: Any, steps: tuple[int, ...]) -> None:
        call = dispatch.call_on(states, "the other state")
        start, y = self._start(call, STATE_OPS["merge"], steps), call.view(self.numbers, "the state")
        call.run(start, y, None, self.scale, False)

    def _in_order(self, order: tuple[int, ...]) -> Any:
        """The states, with the rows' axes in that order."""
        steps = _steps_in_order(self.shape, order)
        if steps == self._steps:
            return self.numbers
        call = dispatch.call_on(self.numbers, "the state")
        moved, y = self._empty(call, self.shape)
        call.run(self._start(call, STATE_OPS["fold"], self._steps, FLOAT64, steps), y, None, None, False)
        return moved

    @property
    def _steps(self) -> tuple[int, ...]:
        return arrays.steps_in_c_order(self.shape, FLOAT64.itemsize)

    def _empty(self, call: Any, shape: tuple[int, ...]) -> tuple[Any, Any]:
        return call.empty((self.count, *shape), FLOAT64)

    def _start(
        self,
        call: Any,
        op: Op,
        x_steps: tuple[int, ...],
        y_dtype: np.dtype = FLOAT64,
        y_steps: tuple[int, ...] | None = None,
    ) -> Any:
        """What makes an op's numbers of states; they lie `x_steps` apart, along the axes of the rows."""
        y_steps = arrays.steps_in_c_order(self.shape, y_dtype.itemsize) if y_steps is None else y_steps
        return _of_states(op, call.place, self.dtype, self.shape, x_steps, y_dtype, y_steps)


def _mask_steps(mask: Any, x: Any) -> tuple[int, ...] | None:
    if mask is None:
        return None
    return arrays.mask_steps(tuple(mask.shape), mask.dtype, tuple(mask.strides), tuple(x.shape))


def _steps_in_order(shape: tuple[int, ...], order: tuple[int, ...]) -> tuple[int, ...]:
    """The steps along the rows' axes of numbers that lie without gaps with the axes in that order."""
    steps = dict(zip(order, arrays.steps_in_c_order(tuple(shape[i] for i in order), FLOAT64.itemsize), strict=True))
    return tuple(steps[i] for i in range(len(shape)))


@functools.lru_cache(maxsize=1024)
def _fold(
    place: str | None,
    axes: tuple[int, ...],
    shape: tuple[int, ...],
    dtype: np.dtype,
    steps: tuple[int, ...],
    w_steps: tuple[int, ...] | None,
) -> tuple[Any, tuple[int, ...], tuple[int, ...]]:
    """What folds blocks of that kind, the shape of what it gives, and the steps there along the rows' axes."""
    row_axes = [i for i in range(len(shape)) if i not in axes]
    rows = tuple(shape[i] for i in row_axes)
    order = arrays.order_of_rows([(steps[i], 0) for i in row_axes])
    y_steps = _steps_in_order(rows, order)
    layout = arrays.layout_of(
        shape, axes, dtype, steps, FLOAT64, arrays.steps_with_reduced(y_steps, axes, len(shape)), w_steps
    )
    start = dispatch.backend_of(place).starter(STATE_OPS["fold"], layout)
    return start, tuple(rows[i] for i in order), y_steps


class _Finish(NamedTuple):
    """How blocks of a kind are finished."""

    start: Any
    order: tuple[int, ...]  # of the rows' axes, in which it needs the states
    near: range  # the distances from the block to the result at which they may overlap


@functools.lru_cache(maxsize=1024)
def _finish(
    op: Op,
    place: str | None,
    axes: tuple[int, ...],
    shape: tuple[int, ...],
    dtype: np.dtype,
    steps: tuple[int, ...],
    w_steps: tuple[int, ...] | None,
    y_dtype: np.dtype,
    y_steps: tuple[int, ...],
) -> _Finish:
    """How blocks of that kind are finished."""
    order = arrays.order_of_rows([(steps[i], y_steps[i]) for i in range(len(shape)) if i not in axes])
    layout = arrays.layout_of(shape, axes, dtype, steps, y_dtype, y_steps, w_steps, "given")
    near = arrays.near(shape, steps, dtype.itemsize, shape, y_steps, y_dtype.itemsize)
    return _Finish(dispatch.backend_of(place).starter(op, layout), order, near)


@functools.lru_cache(maxsize=1024)
def _of_states(
    op: Op,
    place: str | None,
    dtype: np.dtype,
    shape: tuple[int, ...],
    x_steps: tuple[int, ...],
    y_dtype: np.dtype,
    y_steps: tuple[int, ...],
) -> Any:
    """What makes an op's numbers of states of rows of that dtype."""
    dims = [(size, x, y, 0) for size, x, y in zip(shape, x_steps, y_steps, strict=True)]
    layout = arrays.layout_of_dims(
        str(arrays.format_name(dtype)), str(arrays.format_name(y_dtype)), False, dims, [(1, 0, 0, 0)], "x"
    )
    return dispatch.backend_of(place).starter(op, layout)
