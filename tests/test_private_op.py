"""An op that the package does not know is right in every regime of the CPU, without a line for it in the package."""

import math

import numpy as np
import pytest
from naive import FLOATS
from private_op import TILT, tilt

from numba_softmax.backends import cpu
from numba_softmax.backends.spec import operands_for
from numba_softmax.call.arguments import as_scale
from numba_softmax.call.layout import layout_of, strides_with_reduced
from numba_softmax.call.memory import address_of
from numba_softmax.ops import finishing, folding, identity, merging, reading

SHAPES = {
    "short_rows": ((70, 21), (1,)),
    "rows": ((9, 1031), (1,)),
    "rows of several blocks": ((3, 30000), (1,)),
    "long_rows": ((12, 70001), (1,)),
    "split long_rows": ((2, 140001), (1,)),
    "columns": ((133, 150), (0,)),
    "columns of several blocks": ((70001, 36), (0,)),
    "packed_columns": ((40, 30, 5), (1,)),
    "gathered": ((9, 20, 401, 2), (1, 3)),
    "gathered of several blocks": ((6, 3, 5, 3000), (1, 3)),
    "split gathered": ((2, 3, 5, 30000), (1, 3)),
}
"""Shapes and the axes of rows, by the regime that serves them."""

TOLERANCES = {"float16": 2.0**-10, "bfloat16": 2.0**-7, "float32": 2.0**-20, "float64": 2.0**-46}


def plan_and_call(op, arrays, shape, axes, scale=None):
    """Call a kernel on arrays by their operands' names; those of rows have no axes of elements. Gives the regime."""
    bound = [
        o._replace(format=arrays[o.name].dtype.name, numbers=len(arrays[o.name]) if o.kind == "state" else 1)
        for o in operands_for(op, "float32", "float32", "where" in arrays)
    ]
    arrays = [arrays[o.name] for o in bound]
    strides = [
        a.strides if o.per == "element" else strides_with_reduced(a.strides[o.kind == "state" :], axes, len(shape))
        for o, a in zip(bound, arrays, strict=True)
    ]
    layout = layout_of(bound, shape, axes, strides)
    cpu.launcher_for(op, layout)(tuple(map(address_of, arrays)), as_scale(scale))
    return cpu.plan(op, layout, scale is not None, False, False)


def arrays_for(shape, axes, dtype, generator, masked=False):
    """All arrays of a call by their operands' names."""
    rows = tuple(size for i, size in enumerate(shape) if i not in axes)
    arrays = {name: generator.normal(0, 3, shape).astype(dtype) for name in ("x", "v")}
    arrays |= {"t": generator.normal(0, 1, rows).astype(dtype), "out": np.full(shape, 9, dtype)}
    arrays["mean"] = np.full(rows, 9, dtype)
    if masked:
        arrays["where"] = generator.random(shape) < 0.7
        arrays["v"][~arrays["where"]] = math.nan  # what is masked never leaks
    return arrays


def assert_right(arrays, axes, scale=None):
    out, mean = tilt(arrays["x"], arrays["v"], arrays["t"], axes, where=arrays.get("where"), scale=scale)
    tolerance = TOLERANCES[arrays["x"].dtype.name]
    np.testing.assert_allclose(arrays["out"].astype(float), out, rtol=tolerance, atol=tolerance)
    np.testing.assert_allclose(arrays["mean"].astype(float), mean, rtol=tolerance, atol=8 * tolerance)


@pytest.mark.parametrize("regime", SHAPES)
@pytest.mark.parametrize("dtype", FLOATS)
def test_every_regime_is_right(regime, dtype):
    (shape, axes), dtype, generator = SHAPES[regime], FLOATS[dtype], np.random.default_rng(1)
    arrays = arrays_for(shape, axes, dtype, generator)
    plan = plan_and_call(TILT, arrays, shape, axes)
    assert plan.kernel[0] == regime.removeprefix("split ").split()[0]
    assert_right(arrays, axes)


@pytest.mark.parametrize("regime", SHAPES)
def test_a_mask_and_a_scale_count(regime):
    (shape, axes), generator = SHAPES[regime], np.random.default_rng(2)
    arrays = arrays_for(shape, axes, np.float32, generator, masked=True)
    plan_and_call(TILT, arrays, shape, axes, scale=-0.7)
    assert_right(arrays, axes, scale=-0.7)


@pytest.mark.parametrize("name", ["x", "v", "where", "t", "out", "mean"])
@pytest.mark.parametrize("regime", ["short_rows", "rows", "columns", "packed_columns"])
def test_any_operand_may_have_strides_of_its_own(regime, name):
    (shape, axes), generator = SHAPES[regime], np.random.default_rng(3)
    arrays = arrays_for(shape, axes, np.float32, generator, masked=True)
    array = arrays[name]
    arrays[name] = np.repeat(array, 2, -1)[..., ::2]
    assert arrays[name].strides != array.strides
    plan_and_call(TILT, arrays, shape, axes)
    assert_right(arrays, axes)


def test_operands_may_repeat_and_have_different_dtypes():
    shape, generator = (40, 300), np.random.default_rng(4)
    arrays = arrays_for(shape, (1,), np.float32, generator)
    arrays["v"] = np.broadcast_to(generator.normal(0, 3, 300).astype(np.float16), shape)
    arrays["t"] = np.broadcast_to(np.int8(2), 40)
    arrays["mean"] = arrays["mean"].astype(np.float64)
    plan_and_call(TILT, arrays, shape, (1,))
    assert_right(arrays, (1,))


@pytest.mark.parametrize(("shape", "axes"), [((30, 700), (1,)), ((700, 30), (0,)), ((6, 20, 31, 2), (1, 3))])
@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_states_that_outlive_a_call_are_right(shape, axes, dtype):
    """Both halves of a row are folded, merged, and finished from the states."""
    generator, rows = np.random.default_rng(5), tuple(size for i, size in enumerate(shape) if i not in axes)
    arrays = arrays_for(shape, axes, np.dtype(dtype), generator, masked=True)
    half = tuple(slice(0, 5) if i == axes[0] else slice(None) for i in range(len(shape)))
    rest = tuple(slice(5, None) if i == axes[0] else slice(None) for i in range(len(shape)))
    states = [np.full((4 if dtype == "float64" else 3, *rows), 9.0) for _ in range(3)]
    plan_and_call(identity(TILT), {"state": states[0]}, rows, ())
    for state, part in zip(states[1:], (half, rest), strict=True):
        inputs = {name: arrays[name][part] for name in ("x", "v", "where")}
        plan_and_call(folding(TILT), inputs | {"state": state}, inputs["x"].shape, axes)
        plan_and_call(merging(TILT), {"state": state, "merged": states[0]}, rows, ())
    plan = plan_and_call(finishing(TILT), arrays | {"state": states[0]}, shape, axes)
    assert plan.kernel[0].startswith("given")
    plan_and_call(reading(TILT), arrays | {"state": states[0]}, rows, ())
    assert_right(arrays, axes)
