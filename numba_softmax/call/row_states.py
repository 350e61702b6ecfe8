"""States of rows that outlive a call: blocks folded into them, states merged, results made; in any memory.

The states of all rows are one float64 array, as `layout.States` describes it. All that is done with
them is done by kernels, planned once for all calls of a kind.
"""

from __future__ import annotations

import copy
import functools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from ..ops import STATE_OPS, Op
from .adapters import Adapter, adapter_for, mask_view
from .arguments import as_output_dtype, check_out
from .devices import backend_named
from .layout import (
    Form,
    format_name,
    layout_of,
    layout_of_dims,
    order_of_rows,
    state_numbers,
    strides_in_c_order,
    strides_with_reduced,
)  # fmt: skip
from .overlap import needs_copies, overlap_distances

FLOAT64 = np.dtype(np.float64)

Strides = tuple[int, ...]


class Block(NamedTuple):
    """Elements of rows."""

    adapter: Adapter  # its `x` are the elements
    axes: tuple[int, ...]  # those of a row
    mask: Any  # a view with the elements' shape, or None


def block_of(x: Any, axes: tuple[int, ...], where: Any, dtype: np.dtype) -> Block:
    """A block for states of that dtype. A conversion to it loses nothing."""
    adapter = adapter_for(x if x.dtype.newbyteorder("=") == dtype else x.astype(dtype), "x")
    return Block(adapter, axes, mask_view(adapter, where))


def state_dtype(x_dtype: np.dtype, y_dtype: np.dtype) -> np.dtype:
    """The dtype of blocks whose states make results as exact as those of one call on the elements."""
    return FLOAT64 if y_dtype.name == "float64" else as_output_dtype(None, x_dtype, None)


class RowStates:
    """The states of rows of a shape and a dtype, of no elements yet; in the memory of the adapter's array.

    They are those of the elements times the scale, which is as `as_scale` gives it.
    """

    def __init__(self, shape: tuple[int, ...], dtype: np.dtype, scale: float | None, adapter: Adapter) -> None:
        self.shape, self.dtype, self.scale, self.device = shape, dtype, scale, adapter.device
        self.count = state_numbers(dtype.name)
        self.numbers, y = self._empty(adapter, shape)
        self._run(adapter, STATE_OPS["identity"], (0,) * len(shape), y, None)

    def fold(self, block: Block) -> None:
        """Fold a block into the states."""
        adapter, mask = block.adapter, block.mask
        w_strides = None if mask is None else mask.strides
        plan = _plan_fold(adapter.backend_name, block.axes, Form.of(adapter.x), w_strides)
        if 0 not in adapter.x.shape:
            of_block, y = self._empty(adapter, plan.shape)
            adapter.run(plan.launch, y, mask, self.scale, False)
            self._merge(of_block, plan.strides)

    def merge(self, other: RowStates) -> None:
        """Merge states of the same rows."""
        self._merge(other.numbers, self._strides)

    def finish(self, op: Op, block: Block, out: Any) -> Any:
        """The results of a block."""
        adapter, axes, mask = block
        x, result = adapter.x, out
        if out is None:
            result, y = adapter.empty_like(self.dtype)
        else:
            y = adapter.out(out)
            check_out(tuple(y.shape), y.dtype, y.writeable, tuple(x.shape))
        w_strides = None if mask is None else mask.strides
        plan = _plan_finish(op, adapter.backend_name, axes, Form.of(x), w_strides, Form.of(y))
        copies = needs_copies(x, y, mask, False, plan.distances)
        states = adapter.view(self._in_order(plan.order), "the state")
        adapter.run(plan.launch, y, mask, self.scale, copies, states)
        return adapter.as_user_array(result) if out is None else out

    def read(self, op: Op, dtype: np.dtype) -> Any:
        """The op's number of each row."""
        adapter = adapter_for(self.numbers, "the state")
        result, y = adapter.empty(self.shape, dtype)
        scale = self.scale if op.takes_scale else None  # else one more kernel would be compiled
        self._run(adapter, op, self._strides, y, scale)
        return adapter.as_user_array(result)

    def number(self, k: int) -> Any:
        """Number `k` of each state (0: m, 1: rest, 2: rest_lo); the maximum as elements have it."""
        adapter = adapter_for(self.numbers, "the state")
        result, y = adapter.empty(self.shape, FLOAT64)
        self._write_number(adapter, k, y)
        return adapter.as_user_array(result)

    def to_array(self) -> Any:
        """All numbers of the states, for `from_array`: an array with one more axis, the first."""
        adapter = adapter_for(self.numbers, "the state")
        result, y = self._empty(adapter, self.shape)
        for k in range(self.count):
            self._write_number(adapter, k, self._number_view(y, k))
        return result

    @classmethod
    def from_array(cls, numbers: Any, dtype: np.dtype, scale: float | None) -> RowStates:
        """States with the numbers that `to_array` gave."""
        states = cls(tuple(numbers.shape[1:]), dtype, scale, adapter_for(numbers, "the state"))
        for k in range(states.count):
            states.set_number(k, adapter_for(numbers[k], "the state"))
        return states

    def set_number(self, k: int, adapter: Adapter) -> None:
        """Set number `k` of each state to what `number` gave: the adapter's array."""
        y = self._number_view(adapter.view(self.numbers, "the state"), k)
        scale = self.scale if k == 0 else None
        self._run(adapter, STATE_OPS["copy"], tuple(adapter.x.strides), y, scale)

    def _write_number(self, adapter: Adapter, k: int, y: Any) -> None:
        """Write number `k` of each state to `y`; the adapter's array are the states."""
        if k == 0 and self.scale is not None:
            self._run(adapter, STATE_OPS["m"], self._strides, y, self.scale)
        else:
            of_number = copy.copy(adapter)
            of_number.x = self._number_view(adapter.x, k)
            self._run(of_number, STATE_OPS["copy"], self._strides, y, None)

    def _number_view(self, view: Any, k: int) -> Any:
        """The view of an array of states, moved to their number `k`."""
        return view._replace(address=view.address + k * math.prod(self.shape) * FLOAT64.itemsize)

    def _merge(self, states: Any, strides: Strides) -> None:
        adapter = adapter_for(states, "the other state")
        y = adapter.view(self.numbers, "the state")
        self._run(adapter, STATE_OPS["merge"], strides, y, self.scale)

    def _in_order(self, order: tuple[int, ...]) -> Any:
        """The states, with the rows' axes in that order."""
        strides = _strides_in_order(self.shape, order)
        if strides == self._strides:
            return self.numbers
        adapter = adapter_for(self.numbers, "the state")
        moved, y = self._empty(adapter, self.shape)
        form = Form(self.shape, FLOAT64, strides)
        launch = _launcher_for_states(STATE_OPS["fold"], adapter.backend_name, self.dtype, self._strides, form)
        adapter.run(launch, y, None, None, False)
        return moved

    @property
    def _strides(self) -> Strides:
        return strides_in_c_order(self.shape, FLOAT64.itemsize)

    def _empty(self, adapter: Adapter, shape: tuple[int, ...]) -> tuple[Any, Any]:
        return adapter.empty((self.count, *shape), FLOAT64)

    def _run(self, adapter: Adapter, op: Op, x_strides: Strides, y: Any, scale: float | None) -> None:
        """Write an op's numbers of the states that are the adapter's array, with strides along the rows' axes."""
        form = Form(self.shape, y.dtype, strides_in_c_order(self.shape, y.dtype.itemsize))
        launch = _launcher_for_states(op, adapter.backend_name, self.dtype, x_strides, form)
        adapter.run(launch, y, None, scale, False)


def _strides_in_order(shape: tuple[int, ...], order: tuple[int, ...]) -> Strides:
    """The strides along the rows' axes of numbers that lie without gaps with the axes in that order."""
    strides = dict(zip(order, strides_in_c_order(tuple(shape[i] for i in order), FLOAT64.itemsize), strict=True))
    return tuple(strides[i] for i in range(len(shape)))


# ------------------------------------------------------------------------- plans


class _FoldPlan(NamedTuple):
    """The plan of all blocks of a form that are folded."""

    launch: Callable
    shape: tuple[int, ...]  # of the block's own states, in the order in which they lie in memory
    strides: Strides  # of these along the rows' axes


@functools.lru_cache(maxsize=1024)
def _plan_fold(backend_name: str | None, axes: tuple[int, ...], x: Form, w_strides: Strides | None) -> _FoldPlan:
    row_axes = [i for i in range(len(x.shape)) if i not in axes]
    rows = tuple(x.shape[i] for i in row_axes)
    order = order_of_rows([(x.strides[i], 0) for i in row_axes])
    y_strides = _strides_in_order(rows, order)
    y = Form(rows, FLOAT64, strides_with_reduced(y_strides, axes, len(x.shape)))
    launch = backend_named(backend_name).starter(STATE_OPS["fold"], layout_of(axes, x, y, w_strides))
    return _FoldPlan(launch, tuple(rows[i] for i in order), y_strides)


class _FinishPlan(NamedTuple):
    """The plan of all blocks of a form that are finished."""

    launch: Callable
    order: tuple[int, ...]  # of the rows' axes, in which it needs the states
    distances: range  # from the block to the result, at which they may overlap


@functools.lru_cache(maxsize=1024)
def _plan_finish(
    op: Op, backend_name: str | None, axes: tuple[int, ...], x: Form, w_strides: Strides | None, y: Form
) -> _FinishPlan:
    order = order_of_rows([(x.strides[i], y.strides[i]) for i in range(len(x.shape)) if i not in axes])
    launch = backend_named(backend_name).starter(op, layout_of(axes, x, y, w_strides, "given"))
    return _FinishPlan(launch, order, overlap_distances(x, y))


@functools.lru_cache(maxsize=1024)
def _launcher_for_states(op: Op, backend_name: str | None, dtype: np.dtype, x_strides: Strides, y: Form) -> Callable:
    """The launcher of an op on states of rows of that dtype."""
    dims = [(*dim, 0) for dim in zip(y.shape, x_strides, y.strides, strict=True)]
    formats = str(format_name(dtype)), str(format_name(y.dtype))
    return backend_named(backend_name).starter(op, layout_of_dims(*formats, False, dims, [(1, 0, 0, 0)], "x"))
