"""SciPy's softmax, log_softmax and logsumexp in jitted code, where SciPy is installed.

They work as in SciPy, with these differences: arrays are of at
least one dimension and of float32, float64, integers or bool; results lie in C
order and are float64 unless all arrays are float32; the sum of no elements has
the sign 0. An axis of size 0 is allowed. A number as `b` does not influence the
dtype; an array must broadcast to the shape of `a`, and elements of weight 0
do not count, even NaN and infinities. `keepdims` and `return_sign` are
written as the literals True or False.

With any finite `b`, results are within 2 units in the last place of the larger of
the result and the maximum of ``a + log|b|``, in float64; float32 results are
rounded from that. Signs are right, and 0 where the exact sum is 0.
Weights that are infinite or NaN count as in ``sum(b * exp(a))`` under IEEE 754.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from typing import Any

import numpy as np
from numba import float32, float64, types
from numba.core.errors import TypingError
from numba.cpython.unsafe.tuple import tuple_setitem
from numpy.exceptions import AxisError

from ..backends.cpu.basics import jit
from ..math.expmath import INF
from ..math.memory import Stored, store
from .axes import Arrangement, are_axes, is_among, make_put_layout, make_rows_along_axes, words_for
from .kernels import spec_of, words_on_stack
from .rows import address_of, check_numbers, float_of, overload_on_cpu
from .weighted import make_weighted_rows

_FLOAT64 = Stored("float64")
_OUT_OF_RANGE = "axis is out of range, or has an axis twice"


def register() -> None:
    """Make SciPy's functions compile, if SciPy is installed."""
    if importlib.util.find_spec("scipy") is None:
        return
    from scipy import special

    for name in ("softmax", "log_softmax"):
        overload_on_cpu(getattr(special, name), prefer_literal=True)(_elementwise(name))
    overload_on_cpu(special.logsumexp, prefer_literal=True)(_logsumexp)


# -------------------------------------------------------------------- arguments


def _given(argument: Any) -> Any:
    """The value of an argument, if it is known when a caller is compiled; else its type."""
    if isinstance(argument, types.Omitted):
        return argument.value
    if isinstance(argument, types.Literal):
        return argument.literal_value
    return None if argument is types.none else argument


def _flag(name: str, argument: Any) -> bool:
    value = _given(argument)
    if not isinstance(value, bool):
        raise TypingError(f"{name} must be True or False, written as such: the type of the result depends on it")
    return value


def _check_array(name: str, x: Any) -> None:
    check_numbers(name, x)
    if x.ndim == 0:
        raise TypingError(f"{name} must have at least one dimension")


def _axes(x: types.Array, axis: Any) -> tuple[int, Callable, Arrangement]:
    """The number of axes, a jitted function that gives them, and the arrangement of their rows."""
    ndim, value = x.ndim, _known_axis(axis)
    if value is None:
        value = tuple(range(ndim))
    if isinstance(value, types.Integer):

        @jit
        def one_axis(axis):
            return (axis,)

        return 1, one_axis, "along" if x.layout == "C" and ndim == 1 else "any"

    if isinstance(value, (tuple, types.BaseTuple)) and len(value) > ndim:
        raise TypingError(f"axis has {len(value)} axes, and the array {ndim}")

    if isinstance(value, types.UniTuple) and isinstance(value.dtype, types.Integer):

        @jit
        def several_axes(axis):
            return axis

        return len(value), several_axes, "along" if x.layout == "C" and len(value) == ndim else "any"

    if not isinstance(value, tuple):
        raise TypingError(f"axis must be an integer, a tuple of integers of one type or None, not {axis}")

    @jit
    def known_axes(axis):
        return value

    axes, last = {i % ndim for i in value}, set(range(ndim)[-len(value) :])
    arrangement: Arrangement = "any"
    if x.layout == "C":
        arrangement = "along" if axes == last else "across" if len(axes) == 1 else "any"
    return len(value), known_axes, arrangement


def _known_axis(axis: Any) -> Any:
    """None, a tuple of the axes if they are known when a caller is compiled, or else the argument's type."""
    value = _given(axis)
    if isinstance(value, int) and not isinstance(value, bool):
        return (value,)
    if isinstance(value, types.Tuple) and value.types and all(isinstance(t, types.IntegerLiteral) for t in value.types):
        return tuple(t.literal_value for t in value.types)
    return value


# ---------------------------------------------------------------------- results


def _elementwise(name: str) -> Callable:
    def implement(x, axis=None):
        _check_array("x", x)
        ndim, number = x.ndim, float_of(x)
        _, axes_of, arrangement = _axes(x, axis)
        compute_rows = make_rows_along_axes(spec_of(name, x.dtype.name, number.name), arrangement)
        words, put_layout = words_for(ndim), make_put_layout(2)

        def compute(x, axis=None):
            axes = axes_of(axis)
            if not are_axes(axes, ndim):
                raise AxisError(_OUT_OF_RANGE)
            y = np.empty(x.shape, number)
            if x.size:
                layout = words_on_stack(words)
                put_layout(layout, x.shape, (x.strides, y.strides), axes)
                compute_rows(address_of(x), address_of(y), layout)
            return y

        return compute

    return implement


def _reduced(ndim: int, kept: int, keepdims: bool) -> tuple[Callable, Callable, Callable]:
    """Jitted functions: the shape of a result, its strides along all axes of the array, and results in that shape."""
    no_shape, no_steps = (0,) * kept, (0,) * ndim

    @jit
    def steps_of(shape, axes, size):
        """The strides, 0 along reduced axes, and the number of results."""
        steps, count = no_steps, 1
        for i in range(ndim):
            d = ndim - 1 - i
            if not is_among(d, axes, ndim):
                steps = tuple_setitem(steps, d, count * size)
                count *= shape[d]
        return steps, count

    if kept == 0:

        @jit
        def no_dimensions(shape, axes):
            return ()

        @jit
        def as_number(results, shape):
            return results[0]

        return no_dimensions, steps_of, as_number

    @jit
    def shape_of(shape, axes):
        result, i = no_shape, 0
        for d in range(ndim):
            reduced = is_among(d, axes, ndim)
            if keepdims or not reduced:
                result = tuple_setitem(result, i, 1 if reduced else shape[d])
                i += 1
        return result

    @jit
    def as_array(results, shape):
        return results.reshape(shape)

    return shape_of, steps_of, as_array


@jit
def _signs_of_sums(results):
    """The signs of sums of exponentials from their logarithms."""
    signs = results - results  # NaN stays
    for i in range(len(results)):
        if results[i] == results[i]:
            signs[i] = 0.0 if results[i] == -INF else 1.0
    return signs


@jit
def _without_signs(results, signs):
    """The logarithms of sums: NaN for those of negative ones."""
    for i in range(len(results)):
        if signs[i] < 0.0:
            results[i] = np.nan
    return results


def _logsumexp(a, axis=None, b=None, keepdims=False, return_sign=False):
    _check_array("a", a)
    keepdims, return_sign = _flag("keepdims", keepdims), _flag("return_sign", return_sign)
    if _given(b) is None:
        return _unweighted(a, axis, keepdims, return_sign)
    return _weighted(a, axis, b, keepdims, return_sign)


def _unweighted(a: types.Array, axis: Any, with_axes: bool, with_sign: bool) -> Callable:
    ndim, number = a.ndim, float_of(a)
    count, axes_of, arrangement = _axes(a, axis)
    spec = spec_of("logsumexp", a.dtype.name, number.name)
    compute_rows, size = make_rows_along_axes(spec, arrangement), number.bitwidth // 8
    shape_of, steps_of, shaped = _reduced(ndim, ndim if with_axes else ndim - count, with_axes)
    words, put_layout = words_for(ndim), make_put_layout(2)

    def compute(a, axis=None, b=None, keepdims=False, return_sign=False):
        axes = axes_of(axis)
        if not are_axes(axes, ndim):
            raise AxisError(_OUT_OF_RANGE)
        shape = shape_of(a.shape, axes)
        steps, rows = steps_of(a.shape, axes, size)
        y = np.empty(rows, number)
        layout = words_on_stack(words)
        put_layout(layout, a.shape, (a.strides, steps), axes)
        compute_rows(address_of(a), address_of(y), layout)
        if with_sign:
            return shaped(y, shape), shaped(_signs_of_sums(y), shape)
        return shaped(y, shape)

    return compute


def _weights(b: Any, ndim: int) -> tuple[str, Callable, Callable]:
    """The format of weights, and jitted functions that give their address and their strides.

    A single number is put into memory for this, at an address that the caller gives.
    """
    if isinstance(b, types.Array):
        check_numbers("b", b)
        if b.ndim > ndim:
            raise TypingError(f"b has {b.ndim} dimensions: it must broadcast to the shape of a, which has {ndim}")

        @jit
        def address_of_array(b, place):
            return address_of(b)

        @jit
        def steps_of_array(b, shape):
            return np.broadcast_to(b, shape).strides

        return b.dtype.name, address_of_array, steps_of_array

    if not isinstance(_given(b), (int, float, types.Float, types.Integer, types.Boolean)):
        raise TypingError(f"b must be an array or a number, not {b}")
    no_steps = (0,) * ndim

    @jit
    def address_of_number(b, place):
        store(_FLOAT64, place, float64(b))
        return place

    @jit
    def steps_of_number(b, shape):
        return no_steps

    return "float64", address_of_number, steps_of_number


def _weighted(a: types.Array, axis: Any, b: Any, with_axes: bool, with_sign: bool) -> Callable:
    ndim = a.ndim
    count, axes_of, _ = _axes(a, axis)
    b_format, weights_at, weight_steps = _weights(b, ndim)
    in_float32 = a.dtype == float32 and (not isinstance(b, types.Array) or b.dtype == float32)
    number = float32 if in_float32 else float64
    weighted_rows = make_weighted_rows(a.dtype.name, b_format)
    shape_of, steps_of, shaped = _reduced(ndim, ndim if with_axes else ndim - count, with_axes)
    words, put_layout = words_for(ndim, 3), make_put_layout(3)

    def compute(a, axis=None, b=None, keepdims=False, return_sign=False):
        axes = axes_of(axis)
        if not are_axes(axes, ndim):
            raise AxisError(_OUT_OF_RANGE)
        shape = shape_of(a.shape, axes)
        steps, rows = steps_of(a.shape, axes, 8)
        y, signs = np.empty(rows), np.empty(rows)
        layout = words_on_stack(words)
        put_layout(layout, a.shape, (a.strides, steps, weight_steps(b, a.shape)), axes)
        place = words_on_stack((0,))
        weighted_rows(address_of(a), address_of(y), weights_at(b, place), address_of(signs), layout)
        if with_sign:
            return shaped(y.astype(number), shape), shaped(signs.astype(number), shape)
        return shaped(_without_signs(y, signs).astype(number), shape)

    return compute
