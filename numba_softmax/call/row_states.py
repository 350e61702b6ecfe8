"""States of rows that outlive a call, in any memory: blocks are folded into them, states merged, results made.

The states of all rows are one float64 array, whose first axis is that of a state's numbers. All work on them is done
by kernels, planned once for all calls of a kind.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from ..math.folds import stored_numbers
from ..ops import STATE_OPS, Op, finishing, folding, identity, merging, moving, reading, summing
from .adapters import Adapter, adapter_for, user_arrays, view_of_input, views_of_inputs
from .arguments import as_output_dtype
from .layout import order_of_rows
from .memory import FORM, FORM_AND_WRITEABLE
from .overlap import needs_copies
from .plan import plan_launch
from .request import as_tuple, check_written

FLOAT64 = np.dtype(np.float64)


class Block(NamedTuple):
    """Elements of rows, and an op's other inputs."""

    adapter: Adapter  # its `x` are the elements
    axes: tuple[int, ...]  # those of a row
    where: Any = None
    others: Sequence[Any] = ()  # the op's inputs after `x`

    def views(self, op: Op) -> list[Any]:
        """The views of an op's inputs, in the order of its operands."""
        return views_of_inputs(self.adapter, op, self.axes, self.where, self.others)


def block_of(x: Any, axes: tuple[int, ...], where: Any, dtype: np.dtype, others: Sequence[Any] = ()) -> Block:
    """A block for states of that dtype. A conversion to it loses nothing."""
    x = x if x.dtype.newbyteorder("=") == dtype else x.astype(dtype)
    return Block(adapter_for(x, "x"), axes, where, others)


def state_dtype(x_dtype: np.dtype, y_dtype: np.dtype) -> np.dtype:
    """The dtype of blocks whose states make results as exact as those of one call on the elements."""
    return FLOAT64 if y_dtype.name == "float64" else as_output_dtype(None, x_dtype, None)


class RowStates:
    """The states of rows of a shape and a dtype, without elements at first, in the memory of the adapter's array.

    They are made by the fold of the op, and good for all ops that share it. They are
    the states of the elements times the scale, which comes from `as_scale`.
    """

    def __init__(self, op: Op, shape: tuple[int, ...], dtype: np.dtype, scale: float | None, adapter: Adapter) -> None:
        self.op, self.shape, self.dtype, self.scale, self.device = op, shape, dtype, scale, adapter.device
        self.count = stored_numbers(op.fold, dtype.name)
        self.numbers, made = self._empty(adapter, shape)
        _run(identity(op), adapter, [made], None)

    def fold(self, block: Block) -> None:
        """Fold a block into the states."""
        op, adapter = folding(self.op), block.adapter
        of_elements = [a for o, a in zip(self.op.inputs[1:], block.others, strict=True) if o.per == "element"]
        views = block._replace(others=of_elements).views(op)
        if 0 not in adapter.x.shape:
            elements = views if block.where is None else views[:-1]
            made = self._laid_out_as(adapter, block.axes, tuple([view.strides for view in elements]))
            _run(op, adapter, [*views, made], self.scale, block.axes, block.where is not None)
            self._merge(adapter, made)

    def merge(self, other: RowStates) -> None:
        """Merge states of the same rows."""
        adapter = adapter_for(other.numbers, "the other state")
        self._merge(adapter, adapter.x)

    def finish(self, op: Op, block: Block, out: Any) -> Any:
        """The op's results for the elements of a block."""
        op, adapter = finishing(op), block.adapter
        views, results = block.views(op), op.results
        if out is None:
            new = [adapter.empty_like(self.dtype) for _ in results]
            written = [view for _, view in new]
        else:
            written = [adapter.out(array) for array in as_tuple(out, op)]
            shape = tuple(adapter.x.shape)
            check_written(list(map(FORM_AND_WRITEABLE, written)), [(o, shape) for o in results])
        states = self._in_order(adapter, block.axes, (adapter.x.strides, *[view.strides for view in written]))
        views += [*written, states]
        _run(op, adapter, views, self.scale, block.axes, block.where is not None)
        return user_arrays(adapter, [array for array, _ in new]) if out is None else out

    def read(self, op: Op, dtype: np.dtype, others: Sequence[Any] = ()) -> Any:
        """The op's results for rows; `others` are its inputs for rows."""
        return self._read(reading(op), dtype, others)

    def sums(self) -> Any:
        """The sum of each row's exponentials."""
        return self._read(summing(self.op), FLOAT64, ())

    def _read(self, op: Op, dtype: np.dtype, others: Sequence[Any]) -> Any:
        adapter, rest = adapter_for(self.numbers, "the state"), iter(others)
        views, results = [adapter.x], []
        for o in op.operands[1:]:
            if o.written:
                result, view = adapter.empty(self.shape, dtype)
                results.append(result)
            else:
                view = view_of_input(adapter, o, next(rest), self.shape, ())
            views.append(view)
        _run(op, adapter, views, self.scale if op.takes_scale else None)  # else one more kernel would be compiled
        return user_arrays(adapter, results)

    def number(self, k: int, dtype: np.dtype = FLOAT64) -> Any:
        """Number `k` of each state (0: m, 1: rest); the maximum in the form of an element of `x`."""
        adapter = adapter_for(self.numbers, "the state")
        result, y = adapter.empty(self.shape, dtype)
        self._write_number(adapter, k, y)
        return adapter.as_user_array(result)

    def to_array(self) -> Any:
        """All numbers of the states, for `from_array`: an array with one more axis, the first."""
        adapter = adapter_for(self.numbers, "the state")
        result, y = self._empty(adapter, self.shape)
        for k in range(self.count):
            self._write_number(adapter, k, _number_of(y, k))
        return result

    @classmethod
    def from_array(cls, op: Op, numbers: Any, dtype: np.dtype, scale: float | None) -> RowStates:
        """States with the numbers that `to_array` gave."""
        states = cls(op, tuple(numbers.shape[1:]), dtype, scale, adapter_for(numbers, "the state"))
        for k in range(states.count):
            states.set_number(k, adapter_for(numbers[k], "the state"))
        return states

    def set_number(self, k: int, adapter: Adapter) -> None:
        """Set number `k` of each state to the adapter's array, which came from `number`."""
        y = _number_of(adapter.view(self.numbers, "the state"), k)
        _run(STATE_OPS["copy"], adapter, [adapter.x, y], self.scale if k == 0 else None)

    def _write_number(self, adapter: Adapter, k: int, y: Any) -> None:
        """Write number `k` of each state to `y`; the states are the adapter's array."""
        name, scale = ("copy", None) if k or self.scale is None else ("m", self.scale)
        _run(STATE_OPS[name], adapter, [_number_of(adapter.x, k), y], scale)

    def _merge(self, adapter: Adapter, states: Any) -> None:
        """Merge the states at a view of the adapter."""
        _run(merging(self.op), adapter, [states, adapter.view(self.numbers, "the state")], self.scale)

    def _in_order(self, adapter: Adapter, axes: tuple[int, ...], strides: tuple[tuple[int, ...], ...]) -> Any:
        """The view of the states, reordered in memory like elements with these strides.

        In another order, fewer of the layout's dimensions could be merged: columns would take up to five times as long.
        """
        states = adapter.view(self.numbers, "the state")
        if _order_of_rows(axes, strides) == tuple(range(len(self.shape))):
            return states
        moved = self._laid_out_as(adapter, axes, strides)
        _run(moving(self.op), adapter, [states, moved], None)
        return moved

    def _laid_out_as(self, adapter: Adapter, axes: tuple[int, ...], strides: tuple[tuple[int, ...], ...]) -> Any:
        """The view of new states, with the rows in the same order in memory as elements with these strides."""
        order = _order_of_rows(axes, strides)
        _, view = self._empty(adapter, tuple([self.shape[i] for i in order]))
        if order == tuple(range(len(order))):
            return view
        steps = {axis: view.strides[1 + k] for k, axis in enumerate(order)}
        strides = view.strides[0], *(steps[i] for i in range(len(order)))
        return view._replace(shape=(self.count, *self.shape), strides=strides)

    def _empty(self, adapter: Adapter, shape: tuple[int, ...]) -> tuple[Any, Any]:
        return adapter.empty((self.count, *shape), FLOAT64)


def _number_of(states: Any, k: int) -> Any:
    """The view of number `k` of each state."""
    plane, *strides = states.strides
    return states._replace(address=states.address + k * plane, shape=states.shape[1:], strides=tuple(strides))


def _run(
    op: Op,
    adapter: Adapter,
    views: Sequence[Any],
    scale: float | None,
    axes: tuple[int, ...] = (),
    masked: bool = False,
) -> None:
    """Launch an op; without axes of elements, on rows alone."""
    plan = plan_launch(op, adapter.backend_name, axes, masked, *map(FORM, views))
    adapter.run(plan.launch, views, scale, needs_copies(plan.operands, plan.meetings, views))


@functools.lru_cache(maxsize=1024)
def _order_of_rows(axes: tuple[int, ...], strides: tuple[tuple[int, ...], ...]) -> tuple[int, ...]:
    """The order in which a layout has the rows' axes."""
    return order_of_rows([steps for i, steps in enumerate(zip(*strides, strict=True)) if i not in axes])
