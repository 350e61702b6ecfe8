"""`OnlineSoftmax` with a scale: its states are those of the multiples, to the last places."""

import copy
import io
import itertools
import pickle

import numpy as np
import pytest
from hypothesis import given
from naive import FLOATS, same_bits
from test_edges import CASES, laid_out, row_of
from test_states import INF, assert_right_of, each_dtype, normal, numbers, split_rows, state_of

import numba_softmax as ns
from numba_softmax.backends import cpu
from numba_softmax.backends.spec import operands_for
from numba_softmax.call.layout import layout_of, strides_with_reduced
from numba_softmax.call.memory import address_of
from numba_softmax.ops import OPS, STATE_OPS

SCALES = [0.125, -3.0, 0.0, 2.5, 1e-30, 1e-40, 1e38]  # the last two are beyond what float32 can compute with
each_scale = pytest.mark.parametrize("scale", SCALES)


def for_scale(x, scale):
    """Elements whose multiples are of the size of `x`, if the dtype has them."""
    return (x / scale).astype(x.dtype) if scale > 1e9 and x.dtype != np.float16 else x


@each_dtype
@each_scale
@given(case=split_rows())
def test_any_split_order_and_grouping_gives_the_softmax_of_the_scaled_row(dtype, scale, case):
    rows, n, seed, deviation, bounds, masked = case
    rng = np.random.default_rng(seed)
    x = for_scale((rng.normal(0, deviation, (rows, n)) + rng.choice([0, 0, 1000])).astype(FLOATS[dtype]), scale)
    keep = rng.random((rows, n)) < 0.5 if masked else np.ones((rows, n), bool)
    states = [
        ns.OnlineSoftmax(rows, x.dtype, scale=scale).update(x[:, a:b], where=keep[:, a:b] if masked else None)
        for a, b in itertools.pairwise(bounds)
    ]
    while len(states) > 1:
        states.append(states.pop(rng.integers(len(states))).merge(states.pop(rng.integers(len(states)))))
    assert_right_of(states[0], x, where=keep)


@pytest.mark.parametrize(
    ("dtype", "scale"), [("float32", -0.3), ("float32", 1e38), ("float64", -7.0), ("bfloat16", 0.3)]
)
@pytest.mark.parametrize(
    ("shape", "axis"), [((3, 140_000), 1), ((70_000, 3), 0), ((2, 9000, 5), 1), ((4, 5, 6), (0, 2))]
)
def test_scaled_blocks_of_any_layout(one_thread, dtype, scale, shape, axis):
    x = for_scale(normal(shape, dtype), scale)
    rows = np.zeros(shape).sum(axis=axis).shape
    assert_right_of(ns.OnlineSoftmax(rows, x.dtype, scale=scale).update(x, axis), x, axis)


@pytest.mark.parametrize("scale", [-3.0, 0.0, 0.125])
@pytest.mark.parametrize("layout", ["rows", "columns", "gathered"])
@pytest.mark.parametrize("case", CASES)
def test_edges_under_a_scale_are_those_of_the_functions(layout, scale, case):
    elements, keep, *_ = row_of(case)
    x, axis = laid_out(np.stack([elements] * 9).astype(np.float32), layout)
    where = None if keep is None else laid_out(np.stack([keep] * 9), layout)[0]
    for cuts in ([], [1], [6, 21, 21]):
        state = ns.OnlineSoftmax(9, scale=scale)
        with np.errstate(all="raise"):
            masks = itertools.repeat(None) if where is None else np.split(where, cuts, axis)
            for block, mask in zip(np.split(x, cuts, axis), masks, strict=False):
                state.update(block, axis, mask)
            assert_right_of(state, x, axis, where)
    found = state.normalize(x, axis, where), state.log_normalize(x, axis, where), state.lse
    for name, result in zip(OPS, found, strict=True):
        expected = getattr(ns, name)(x, axis, where=where, scale=scale)
        special = ~np.isfinite(expected)
        np.testing.assert_array_equal(~np.isfinite(result), special)
        np.testing.assert_array_equal(result[special], expected[special])


@each_dtype
@each_scale
def test_m_is_the_element_with_the_largest_multiple_and_l_the_sum_for_it(dtype, scale):
    x = for_scale(normal((6, 50), dtype), scale)
    state = state_of(x[:, :20], x[:, 20:], scale=scale)
    m = x.min(axis=1) if scale < 0 else x.max(axis=1)
    assert same_bits(state.m, m)
    arrays = state.to_arrays()
    np.testing.assert_array_equal(arrays["m"], m.astype(float))
    wide = x.astype(float)
    l = np.exp(scale * (wide - wide[np.arange(6), np.argmax(scale * wide, axis=1)][:, None])).sum(axis=1)
    np.testing.assert_allclose(state.l, l, rtol=1e-6)
    np.testing.assert_allclose(arrays["rest"], l - 1, rtol=1e-6, atol=1e-12)
    with np.errstate(over="ignore"):  # in float16
        lse = (scale * m.astype(float) + np.log(state.l)).astype(x.dtype).astype(float)
    np.testing.assert_allclose(state.lse.astype(float), lse, rtol=2.0**-7 if dtype == "bfloat16" else 1e-3)


@each_dtype
@each_scale
def test_scaled_states_are_kept_and_sent_bit_for_bit(dtype, scale):
    x = for_scale(normal((3, 4, 60), dtype), scale)
    state = state_of(x[..., :10], x[..., 10:], scale=scale)
    file = io.BytesIO()
    np.savez(file, **state.to_arrays())
    file.seek(0)
    new = ns.OnlineSoftmax((3, 4), x.dtype, scale=scale)
    again = [
        state.copy(),
        copy.deepcopy(state),
        pickle.loads(pickle.dumps(state)),
        ns.OnlineSoftmax.from_arrays(**np.load(file), dtype=x.dtype, scale=scale),
        new.copy().merge(state),
        state.copy().merge(new),
    ]
    for other in again:
        assert (other.shape, other.dtype, other.scale) == (state.shape, state.dtype, scale)
        assert numbers(other) == numbers(state)
        assert same_bits(other.lse, state.lse)
        assert same_bits(other.normalize(x), state.normalize(x))
    assert numbers(pickle.loads(pickle.dumps(new))) == numbers(new)


def test_what_is_read_of_a_scaled_state_of_no_elements():
    for scale in SCALES:
        state = ns.OnlineSoftmax(3, scale=scale)
        assert same_bits(state.m, np.full(3, INF if scale < 0 else -INF, np.float32))
        assert same_bits(state.l, np.zeros(3))
        assert same_bits(state.lse, np.full(3, -INF, np.float32))


def test_a_scale_of_1_is_none():
    x = normal((4, 90))
    plain, scaled = state_of(x), state_of(x, scale=1)
    assert repr(scaled) == repr(plain)
    assert scaled.scale == plain.scale == 1
    assert numbers(scaled) == numbers(plain.merge(ns.OnlineSoftmax(4, scale=1.0)))


def test_the_state_shows_its_scale():
    state = ns.OnlineSoftmax(3, scale=np.float32(0.5))
    assert type(state.scale) is float
    assert repr(state) == "OnlineSoftmax(shape=(3,), dtype=float32, scale=0.5)"


@pytest.mark.parametrize(
    ("shape", "axis", "step"),
    [((9, 3), 1, 1), ((5, 300), 1, 1), ((3, 9000), 1, 1), ((2, 70_000), 1, 1), ((300, 9), 0, 1), ((4, 300), 1, 2)],
)
def test_folds_in_float64_write_no_more_than_states_of_float32_have(one_thread, shape, axis, step):
    x = for_scale(normal(shape), 1e38)[:, ::step]
    states = np.full((3, shape[1 - axis]), 7.0)
    steps = strides_with_reduced((8,), (axis,), 2)
    op = STATE_OPS["fold"]
    layout = layout_of(operands_for(op, "float32", "float64", False), x.shape, (axis,), [x.strides, steps])
    cpu.launcher_for(op, layout)((address_of(x), address_of(states)), 1e38)
    np.testing.assert_array_equal(states[0], x.max(axis=axis))
    assert (states[2] == 7).all()
