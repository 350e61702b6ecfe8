"""`OnlineSoftmax`: whatever the blocks, their order and grouping, rows get the softmax that they have as a whole."""

import copy
import io
import itertools
import pickle

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from naive import BFLOAT16, FLOATS, LIMITS, assert_right, naive, same_bits, ulp_error, unit_of
from test_edges import CASES, N, laid_out, row_of

import numba_softmax as ns
from numba_softmax.backends import cpu
from numba_softmax.backends.spec import operands_for
from numba_softmax.call.arguments import as_axes
from numba_softmax.call.layout import layout_of, strides_in_c_order, strides_with_reduced
from numba_softmax.ops import OPS, finishing

each_dtype = pytest.mark.parametrize("dtype", FLOATS)
INF = np.inf


def normal(shape, dtype="float32", seed=0, deviation=4.0):
    return np.random.default_rng(seed).normal(0, deviation, shape).astype(FLOATS[dtype])


def state_of(*blocks, where=None, scale=None):
    """The state of these blocks of rows."""
    state = ns.OnlineSoftmax(blocks[0].shape[:-1], blocks[0].dtype.newbyteorder("="), scale=scale)
    for block in blocks:
        state.update(block, where=where)
    return state


def numbers(state):
    return b"".join(np.asarray(array).tobytes() for array in state.to_arrays().values())


def assert_right_of(state, x, axis=-1, where=None):
    """What the state says of its rows, and of their elements, is as exact as that of the public functions."""
    options = {"where": where, "scale": state.scale}
    assert_right("softmax", state.normalize(x, axis, where), x, axis, **options)
    assert_right("log_softmax", state.log_normalize(x, axis, where), x, axis, **options)
    assert_right("logsumexp", state.lse, x, axis, **options)


# ------------------------------------------------------------- splits and groupings


@st.composite
def split_rows(draw):
    """Rows with a mask, the bounds of blocks, and a seed for their order and grouping."""
    rows, n = draw(st.integers(1, 5)), draw(st.integers(0, 70))
    seed, scale = draw(st.integers(0, 2**32 - 1)), draw(st.sampled_from([0.1, 3.0, 60.0]))
    bounds = sorted(draw(st.lists(st.integers(0, n), max_size=6)))
    masked = draw(st.booleans())
    return rows, n, seed, scale, [0, *bounds, n], masked


@each_dtype
@given(case=split_rows())
def test_any_split_order_and_grouping_gives_the_softmax_of_the_row(dtype, case):
    rows, n, seed, scale, bounds, masked = case
    rng = np.random.default_rng(seed)
    x = (rng.normal(0, scale, (rows, n)) + rng.choice([0, 0, 1000])).astype(FLOATS[dtype])
    keep = rng.random((rows, n)) < 0.5 if masked else np.ones((rows, n), bool)
    blocks = list(itertools.pairwise(bounds))
    if masked and len(blocks) > 1:  # nothing is left of a block
        keep[:, slice(*blocks[0])] = False
    states = [
        ns.OnlineSoftmax(rows, FLOATS[dtype]).update(x[:, a:b], where=keep[:, a:b] if masked else None)
        for a, b in blocks
    ]
    while len(states) > 1:
        states.append(states.pop(rng.integers(len(states))).merge(states.pop(rng.integers(len(states)))))
    (state,) = states
    assert_right_of(state, x, where=keep)
    for a, b in blocks:
        assert same_bits(state.normalize(x[:, a:b]), state.normalize(x)[:, a:b])


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("deviation", [0.01, 3.0, 100.0])
@pytest.mark.parametrize("rising", [False, True])
def test_thousands_of_merges_do_not_wear_a_state_out(dtype, deviation, rising):
    x = normal((3, 4000), dtype, deviation=deviation)
    if rising:
        x.sort(axis=1)
    state = ns.OnlineSoftmax(3, dtype)
    for j in range(x.shape[1]):
        state.update(x[:, j], ())
    assert_right_of(state, x)


def test_lse_of_rows_that_one_element_outweighs_is_exact():
    x = np.array([[0.0, -40.0], [0.0, -20.0]])
    for dtype in (np.float32, np.float64):
        block = x.astype(dtype)
        state = state_of(block[:, 1:], block[:, :1])
        assert_right("logsumexp", state.lse, block)
        np.testing.assert_array_equal(state.log_normalize(block), ns.log_softmax(block))


@each_dtype
def test_a_new_state_is_a_real_identity(dtype):
    state = state_of(normal((4, 30), dtype))
    state.update(np.full((4, 2), -INF, FLOATS[dtype]))  # adds nothing
    before = numbers(state)
    assert numbers(state.copy().merge(ns.OnlineSoftmax(4, FLOATS[dtype]))) == before
    assert numbers(ns.OnlineSoftmax(4, FLOATS[dtype]).merge(state)) == before
    assert numbers(state.update(np.empty((4, 0), FLOATS[dtype]))) == before
    assert numbers(state.update(normal((4, 3), dtype), where=np.zeros((4, 3), bool))) == before


@each_dtype
def test_what_is_read_of_a_state_of_no_elements(dtype):
    state = ns.OnlineSoftmax((2, 3), dtype=FLOATS[dtype])
    assert same_bits(state.m, np.full((2, 3), -INF, FLOATS[dtype]))
    assert same_bits(state.l, np.zeros((2, 3)))
    assert same_bits(state.lse, np.full((2, 3), -INF, FLOATS[dtype]))


def test_m_and_l_are_the_maximum_and_the_sum():
    x = normal((6, 50))
    state = state_of(x[:, :20], x[:, 20:])
    assert same_bits(state.m, x.max(axis=1))
    assert state.l.dtype == np.float64
    np.testing.assert_allclose(state.l, np.exp(x.astype(float) - x.max(axis=1, keepdims=True)).sum(axis=1), rtol=1e-6)


def test_a_single_row_gives_scalars():
    state = ns.OnlineSoftmax(()).update([1.0, 2.0]).update(3.0)
    assert isinstance(state.m, np.float32)
    assert isinstance(state.l, np.float64)
    assert isinstance(state.lse, np.float32)
    assert isinstance(state.normalize(np.float32(3)), np.float32)
    assert state.to_arrays()["m"].shape == ()
    assert_right("softmax", state.normalize([1, 2, 3]), np.array([1, 2, 3], np.float32))


def test_m_leaves_nan_out_and_lse_tells_of_it():
    x = np.array([[np.nan, 3.0, 1.0], [np.nan, np.nan, np.nan]], np.float32)
    state = state_of(x[:, :1], x[:, 1:])
    np.testing.assert_array_equal(state.m, [3, -INF])
    assert np.isnan(state.lse).all()


def test_lists_and_numbers_are_converted():
    state = ns.OnlineSoftmax(2).update([[1, 2], [True, 0.5]]).update((3, 4), ())
    assert_right("logsumexp", state.lse, np.array([[1, 2, 3], [1, 0.5, 4]], np.float32))


def test_an_out_without_axes_is_given_back():
    out = np.empty((), np.float32)
    assert ns.OnlineSoftmax(()).update(1.0).normalize(np.float32(1), (), out=out) is out
    assert out == 1


UNOPTIMIZED = """
import numpy as np, numba_softmax as ns
state = ns.OnlineSoftmax(10_000_000)
state = ns.OnlineSoftmax.from_arrays(state.to_arrays()["m"], np.full(10_000_000, -1.0))
assert (state.l == 0).all()
"""


def test_nothing_beyond_the_states_is_read(run_python):
    """The compiler would leave out what is not used, if it were let."""
    run_python(UNOPTIMIZED, NUMBA_OPT="0")


def test_merging_a_state_with_itself_counts_its_elements_twice():
    state = state_of(normal((5, 9)))
    lse = state.lse
    np.testing.assert_allclose(state.merge(state).lse, lse + np.log(np.float32(2)), rtol=1e-6)


# ------------------------------------------------------------------------ layouts

REGIMES = [  # shape, axis, and the kernel that finishes such blocks
    ((7, 3), 1, "given_rows"),
    ((40, 1000), 1, "given_rows"),
    ((3, 140_000), 1, "given_rows"),
    ((90, 37), 0, "given_columns"),
    ((3, 50, 21), 1, "given_columns"),
    ((70_000, 3), 0, "given_columns"),
    ((2, 9000, 5), 1, "given_columns"),
    ((4, 5, 6, 7), (0, 2), "given_gathered"),
    ((300, 70), 0, "given_columns"),
]


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
@pytest.mark.parametrize(("shape", "axis", "regime"), REGIMES)
def test_blocks_of_any_layout(one_thread, dtype, shape, axis, regime):
    x, masks = normal(shape, dtype), [None]
    if dtype == "float32":
        masks.append(np.random.default_rng(1).random(shape) < 0.7)
    axes = as_axes(axis, x.ndim)
    rows, op = tuple(size for i, size in enumerate(shape) if i not in axes), finishing(OPS["softmax"])
    of_states = strides_with_reduced(strides_in_c_order(rows, 8), axes, x.ndim)
    layout = layout_of(operands_for(op, dtype, dtype, False), shape, axes, [x.strides, x.strides, of_states])
    assert cpu.plan(op, layout, False, False, False).kernel[0] == regime
    for where in masks:
        assert_right_of(ns.OnlineSoftmax(rows, dtype).update(x, axis, where), x, axis, where)


def test_rows_lie_in_memory_in_any_order():
    cube = normal((4, 5, 6))
    for order in itertools.permutations(range(3)):
        x = np.transpose(cube, order)
        for axis in (*range(3), (0, 2), None):
            rows = np.empty(x.shape).sum(axis=axis).shape
            state = ns.OnlineSoftmax(rows).update(x, axis)
            assert_right_of(state, x, axis)
            plain = np.ascontiguousarray(x)
            np.testing.assert_array_equal(state.normalize(plain, axis), state.normalize(x, axis))
            out = np.empty(x.shape[::-1], np.float32).T
            assert same_bits(state.normalize(x, axis, out=out), state.normalize(plain, axis))


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_other_byte_orders_steps_and_alignments(dtype):
    x = normal((5, 40), dtype)
    state = state_of(x)
    swapped = x.astype(x.dtype.newbyteorder())
    wide = np.zeros((5, 80), x.dtype)
    wide[:, ::2] = x
    packed = np.zeros(5, [("byte", "u1"), ("row", x.dtype, 40)])
    packed["row"] = x
    backwards = np.ascontiguousarray(x[:, ::-1])
    for same in (swapped, wide[:, ::2], backwards[:, ::-1], packed["row"]):
        again = state_of(same)
        assert numbers(again) == numbers(state)
        np.testing.assert_array_equal(state.normalize(same), state.normalize(x))
    assert state.normalize(swapped).dtype == x.dtype


def test_elements_of_an_array_that_repeats_itself():
    x = np.broadcast_to(normal(9), (4, 6, 9))
    assert_right_of(ns.OnlineSoftmax((4, 6)).update(x), x)
    assert_right_of(ns.OnlineSoftmax((4, 9)).update(x, 1), x, 1)


def test_more_rows_than_one_thread_takes():
    x = normal((70_000, 4))
    assert_right_of(state_of(x[:, :1], x[:, 1:]), x)
    assert_right_of(ns.OnlineSoftmax(70_000).update(x.T, 0), x.T, 0)


@pytest.mark.parametrize("axis", [0, 1])
def test_results_that_are_streamed_past_the_caches(axis):
    x = normal((3000, 3001))
    state = ns.OnlineSoftmax(x.shape[1 - axis]).update(x, axis)
    result = state.normalize(x, axis)
    rows = np.s_[:, ::500] if axis == 0 else np.s_[::500]
    assert_right("softmax", result[rows], x[rows], axis)
    in_place = x.copy()  # is not streamed
    assert same_bits(state.normalize(in_place, axis, out=in_place), result)


def test_no_rows_and_no_elements():
    state = ns.OnlineSoftmax((0, 3)).update(np.empty((0, 3, 5), np.float32))
    assert state.m.shape == state.lse.shape == (0, 3)
    assert state.normalize(np.empty((0, 3, 5), np.float32)).shape == (0, 3, 5)
    assert ns.OnlineSoftmax(3).normalize(np.empty((3, 0), np.float32)).shape == (3, 0)


def test_a_row_does_not_depend_on_the_other_rows():
    x = normal((50, 300))
    whole = state_of(x[:, :100], x[:, 100:])
    one = state_of(x[7:8, :100], x[7:8, 100:])
    assert same_bits(one.normalize(x[7:8]), whole.normalize(x)[7:8])
    assert same_bits(one.lse, whole.lse[7:8])


# -------------------------------------------------------------------------- edges


@pytest.mark.parametrize(
    ("dtype", "layout"), [*((dtype, "rows") for dtype in FLOATS), ("float32", "columns"), ("float32", "gathered")]
)
@pytest.mark.parametrize("case", CASES)
def test_the_contract_of_the_edges(dtype, layout, case):
    elements, keep, *_ = row_of(case)
    x, axis = laid_out(np.stack([elements] * 9).astype(FLOATS[dtype]), layout)
    where = None if keep is None else laid_out(np.stack([keep] * 9), layout)[0]
    for cuts in ([], [1], [16], [N - 1], [6, 21, 21]):
        state = ns.OnlineSoftmax(9, FLOATS[dtype])
        with np.errstate(all="raise"):
            masks = itertools.repeat(None) if where is None else np.split(where, cuts, axis)
            for block, mask in zip(np.split(x, cuts, axis), masks, strict=False):
                state.update(block, axis, mask)
            assert_right_of(state, x, axis, where)


# ------------------------------------------------------------------------- results


def test_out_is_written_to_and_given_back():
    x = normal((6, 50))
    state, expected = state_of(x), state_of(x).normalize(x)
    for out in (np.empty_like(x), np.empty((50, 6), np.float32).T, np.empty((12, 100), np.float32)[::2, ::2]):
        assert state.normalize(x, out=out) is out
        assert same_bits(np.ascontiguousarray(out), expected)
    exact = naive("softmax", x)
    for dtype in ("float16", "bfloat16"):
        out = np.empty(x.shape, FLOATS[dtype])
        assert ulp_error(state.normalize(x, out=out), exact, out.dtype) <= LIMITS[dtype]
    wide = state.normalize(x, out=np.empty(x.shape))
    assert ulp_error(wide, exact, x.dtype) <= LIMITS["float32"]  # the state itself is that of float32
    in_place = x.copy()
    assert state.normalize(in_place, out=in_place) is in_place
    assert same_bits(in_place, expected)


@pytest.mark.parametrize("shift", [-1, 1, 7, 50])
def test_overlapping_out_gives_what_a_copy_would(shift):
    memory = normal(500)
    first = max(0, -shift)
    x, out = memory[first : first + 300].reshape(6, 50), memory[first + shift :][:300].reshape(6, 50)
    state, expected = state_of(x.copy()), state_of(x.copy()).normalize(x.copy())
    assert same_bits(np.ascontiguousarray(state.normalize(x, out=out)), expected)


def test_a_mask_that_out_overlaps():
    x = normal((4, 64))
    keep = np.random.default_rng(0).random((4, 64)) < 0.5
    memory = np.zeros(x.nbytes, np.uint8)
    mask, out = memory[: keep.size].view(bool).reshape(keep.shape), memory.view(np.float32).reshape(x.shape)
    mask[...] = keep
    state = state_of(x, where=keep)
    expected = state.normalize(x, where=keep)
    assert same_bits(state.normalize(x, where=mask, out=out), expected)


# ---------------------------------------------------------------- copies and pickles


@each_dtype
def test_copies_pickles_and_arrays_have_the_same_bits(dtype):
    x = normal((3, 4, 60), dtype)
    state = state_of(x[..., :10], x[..., 10:])
    state.update(np.full((3, 4, 1), np.nan, x.dtype), where=np.arange(12).reshape(3, 4, 1) == 5)
    file = io.BytesIO()
    np.savez(file, **state.to_arrays())
    file.seek(0)
    again = [
        state.copy(),
        copy.deepcopy(state),
        pickle.loads(pickle.dumps(state)),
        ns.OnlineSoftmax.from_arrays(**state.to_arrays(), dtype=x.dtype),
        ns.OnlineSoftmax.from_arrays(**np.load(file), dtype=x.dtype),
    ]
    for other in again:
        assert (other.shape, other.dtype) == (state.shape, state.dtype)
        assert numbers(other) == numbers(state)
        assert same_bits(other.normalize(x), state.normalize(x))
    before = numbers(state)
    again[0].update(x)
    assert numbers(state) == before != numbers(again[0])


def test_arrays_of_any_steps_make_a_state():
    state = state_of(normal((4, 5, 9)))
    for other in (np.asfortranarray, lambda a: a[::-1].copy()[::-1], lambda a: np.repeat(a, 2, axis=1)[:, ::2]):
        moved = {name: other(array) for name, array in state.to_arrays().items()}
        assert numbers(ns.OnlineSoftmax.from_arrays(**moved)) == numbers(state)


def test_a_float64_state_may_be_made_without_the_low_parts():
    state = state_of(normal((4, 9), "float64"))
    rough = ns.OnlineSoftmax.from_arrays(*list(state.to_arrays().values())[:2], dtype="float64")
    np.testing.assert_allclose(rough.lse, state.lse, rtol=1e-15)


def test_the_state_shows_its_shape_and_dtype():
    state = ns.OnlineSoftmax([2, 3], BFLOAT16)
    assert repr(state) == "OnlineSoftmax(shape=(2, 3), dtype=bfloat16)"
    assert ns.OnlineSoftmax(np.int64(3)).shape == (3,)


def test_accuracy_in_units_of_the_last_place():
    """The promise, for rows of a thousand blocks."""
    for dtype in FLOATS:
        x = normal((4, 3000), dtype, deviation=10)
        state = state_of(*np.split(x, 1000, axis=1))
        for name, result in (("softmax", state.normalize(x)), ("logsumexp", state.lse)):
            exact = naive(name, x)
            assert ulp_error(result, exact, x.dtype, unit_of(name, exact, x.dtype, x)) <= LIMITS[dtype]
