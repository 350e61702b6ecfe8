"""An op that the package does not know, of two arrays of elements and a number a row: both results, of any arrays."""

import itertools
import sys

import numpy as np
import pytest
from gpu_fakes import Current, fake_torch
from hypothesis import given
from hypothesis import strategies as st
from naive import FLOATS, same_bits
from numpy.lib.array_utils import normalize_axis_tuple
from private_op import TILT
from private_op import tilt as by_definition

from numba_softmax.api import call
from numba_softmax.call.adapters import adapter_for
from numba_softmax.call.dlpack import as_numpy
from numba_softmax.call.request import Request
from numba_softmax.call.row_states import RowStates, block_of

pytestmark = pytest.mark.usefixtures("one_thread")

MASKED = TILT.results[0].masked


def tilt(x, v, t, axis=-1, **options):
    return call(Request(TILT, x, axis, others=(v, t), **options))


def assert_right(results, x, v, t, axis=-1, keepdims=False, **options):
    """Both results, to some roundings of the largest numbers that they are made of."""
    ndim, t = np.ndim(x), np.asarray(t)
    axes = tuple(range(ndim)) if axis is None else normalize_axis_tuple(axis, ndim)
    kept = tuple(1 if i in axes else n for i, n in enumerate(np.shape(x)))
    rows = tuple(n for i, n in enumerate(np.shape(x)) if i not in axes)
    t = np.broadcast_to(t, rows if t.ndim <= len(rows) else kept).reshape(rows)
    y, mean = by_definition(x, np.broadcast_to(v, np.shape(x)), t, axes, **options)
    size = float(np.abs(np.asarray(v, float)).max() + np.abs(t.astype(float)).max())
    for result, right in zip(results, (y, mean.reshape(kept) if keepdims else mean), strict=True):
        result = np.asarray(result)
        bound = 4 * size * 2.0 ** -{"float16": 10, "bfloat16": 7, "float32": 23, "float64": 52}[result.dtype.name]
        assert result.shape == right.shape
        np.testing.assert_allclose(result.astype(float), right, rtol=0, atol=bound)


def arrays(shape, axis=-1, dtype="float32", seed=0):
    """Elements, as many numbers, and a number for each row."""
    rng = np.random.default_rng(seed)
    axes = range(len(shape)) if axis is None else {i % len(shape) for i in np.atleast_1d(axis)}
    rows = [n for i, n in enumerate(shape) if i not in axes]
    x, v, t = rng.normal(0, 3, shape), rng.normal(0, 2, shape), rng.normal(0, 2, rows)
    return tuple(a.astype(FLOATS.get(dtype) or dtype) for a in (x, v, t))


def some(shape, axis=-1, share=0.6):
    """A mask that leaves something of each row."""
    axes = range(len(shape)) if axis is None else {i % len(shape) for i in np.atleast_1d(axis)}
    first = tuple(slice(1) if i in axes else slice(None) for i in range(len(shape)))
    keep = np.random.default_rng(1).random(shape) < share
    keep[first] = True
    return keep


# --------------------------------------------------------------------- arrays of NumPy's

LAYOUTS = [
    lambda a: a,
    np.asfortranarray,
    lambda a: np.ascontiguousarray(a[..., ::-1])[..., ::-1],
    lambda a: np.repeat(a, 2, axis=0)[::2],
]


@pytest.mark.parametrize(("shape", "axis"), [((5, 70), 1), ((70, 33), 0), ((3, 40, 6), (0, 1)), ((2, 3, 4), None)])
def test_operands_may_lie_in_any_order_and_steps(shape, axis):
    x, v, t = arrays(shape, axis)
    for x_laid_out, v_laid_out in itertools.product(LAYOUTS, repeat=2):
        results = tilt(x_laid_out(x), v_laid_out(v), t, axis)
        assert_right(results, x, v, t, axis)
        assert results[0].strides == np.empty_like(x_laid_out(x)).strides


def test_further_inputs_broadcast():
    x, v, t = arrays((3, 5, 7))
    for v_part in (v, v[0], v[:, :1], v[..., :1], v[0, 0, 0]):
        for t_part in (t, t[0], t[:, :1], t[0, 0], t[..., np.newaxis], t[:1, :, np.newaxis]):
            assert_right(tilt(x, v_part, t_part), x, v_part, t_part)
    assert_right(tilt(x, v, t[:, 0], (1, 2)), x, v, t[:, 0], (1, 2))
    assert_right(tilt(x.tolist(), v[0].tolist(), 0.5), x, v[0], 0.5)


@st.composite
def problems(draw):
    shape = tuple(draw(st.lists(st.integers(1, 9), min_size=1, max_size=4)))
    axes = tuple(draw(st.sets(st.integers(0, len(shape) - 1))))
    x, v, t = arrays(shape, axes, seed=draw(st.integers(0, 99)))
    order = draw(st.permutations(range(len(shape))))
    x = np.ascontiguousarray(x.transpose(order)).transpose(np.argsort(order))
    v = v[tuple(slice(draw(st.sampled_from([1, None]))) for _ in shape)]
    return x, v, t, axes, some(shape, axes) if draw(st.booleans()) else None


@given(problem=problems(), keepdims=st.booleans())
def test_any_axes_of_any_array(problem, keepdims):
    x, v, t, axes, where = problem
    results = tilt(x, v, t, axes, where=where, keepdims=keepdims)
    assert_right(results, x, v, t, axes, where=where, keepdims=keepdims)


@pytest.mark.parametrize("n", [300, 70_000])
def test_masks_and_scales(n):
    x, v, t = arrays((3, n))
    keep = some((n,))
    for scale in (None, -0.3):
        for where in (None, keep, keep[np.newaxis], np.array(True)):
            assert_right(tilt(x, v, t, where=where, scale=scale), x, v, t, where=where, scale=scale)
    assert (tilt(x, v, t, where=keep)[0][:, ~keep] == MASKED).all()


@pytest.mark.parametrize("dtype", ["bfloat16", "float64"])
def test_results_have_the_dtype_of_the_elements_or_the_one_that_is_asked_for(dtype):
    x, v, t = arrays((4, 50), dtype=dtype)
    results = tilt(x, v, t)
    assert [y.dtype for y in results] == [FLOATS[dtype]] * 2
    assert_right(results, x, v, t)
    assert [y.dtype for y in tilt(x, v, t, dtype="float64")] == [np.dtype("float64")] * 2


def test_inputs_may_have_dtypes_of_their_own():
    x, v, t = arrays((4, 50))
    whole = (v * 10).astype("i4")
    for others in ((whole, t), (v.astype(">f4"), t.astype("f2"))):
        results = tilt(x, *others)
        assert results[0].dtype == results[1].dtype == np.float32
        assert_right(results, x, *others)


def test_results_without_axes_are_scalars():
    y, mean = tilt(np.float32(3), np.float32(2), np.float32(0.5))
    assert isinstance(y, np.float32)
    assert (y, mean) == (1.5, 2)
    x, v, t = arrays((9,))
    y, mean = tilt(x, v, t)
    assert isinstance(mean, np.float32)
    assert tilt(x, v, t, keepdims=True)[1].shape == (1,)


def test_rows_of_nothing_and_no_rows():
    for shape in ((0, 5), (3, 0)):
        y, mean = tilt(*arrays(shape))
        assert y.shape == shape
        assert mean.shape == shape[:1]
        assert np.isnan(mean).all()  # as nothing over nothing


# ----------------------------------------------------------------------------- out and overlap


def test_out_is_a_tuple_that_is_written_to_and_given_back():
    x, v, t = arrays((6, 40))
    expected = tilt(x, v, t)
    for keepdims in (False, True):
        room = np.zeros((6, 80, 2), np.float32)
        out = room[:, ::2, 0], room[:, :1, 1] if keepdims else room[:, 0, 1]
        assert tilt(x, v, t, out=out, keepdims=keepdims) is out
        assert same_bits(out[0].copy(), expected[0])
        assert same_bits(out[1].ravel(), expected[1])
        assert not room[:, 1::2].any()


@pytest.mark.parametrize("over", ["x", "v"])
def test_results_may_lie_on_the_elements_that_they_are_made_of(over):
    x, v, t = arrays((6, 9000))
    expected = tilt(x, v, t)
    inputs = {"x": x.copy(), "v": v.copy()}
    out = inputs[over], np.empty(6, np.float32)
    tilt(inputs["x"], inputs["v"], t, out=out)
    assert same_bits(out[0], expected[0])
    assert same_bits(out[1], expected[1])


@pytest.mark.parametrize("shift", [-7, -1, 1, 64])
@pytest.mark.parametrize("over", ["x", "v"])
def test_results_that_overlap_elements_in_part_are_those_of_copies(over, shift):
    x, v, t = arrays((6, 50))
    expected = tilt(x, v, t)
    memory = np.zeros(500, np.float32)
    here, out = memory[100:400].reshape(6, 50), memory[100 + shift :][:300].reshape(6, 50)
    here[...] = {"x": x, "v": v}[over]
    mean = np.empty(6, np.float32)
    tilt(*((here, v) if over == "x" else (x, here)), t, out=(out, mean))
    assert same_bits(out.copy(), expected[0])
    assert same_bits(mean, expected[1])


def test_results_that_overlap_numbers_of_rows_or_the_mask_are_those_of_copies():
    x, v, t = arrays((6, 50))
    keep = some((6, 50))
    expected = tilt(x, v, t, where=keep)
    for row in ("x", "v", "t"):  # the second result lies there
        inputs = {"x": x.copy(), "v": v.copy(), "t": t.copy()}
        mean = inputs[row] if row == "t" else inputs[row][:, 3]
        y = np.empty_like(x)
        tilt(*inputs.values(), where=keep, out=(y, mean))
        assert same_bits(y, expected[0])
        assert same_bits(mean.copy(), expected[1])
    y = np.zeros((6, 50), np.float32)
    t_in_y, mask = y[:, 9], y.view(bool)[:, :50]
    mask[...] = keep
    mean = np.empty(6, np.float32)
    tilt(x, v, t, where=mask, out=(y, mean))
    assert same_bits(y, expected[0])
    t_in_y[...] = t
    tilt(x, v, t_in_y, where=keep, out=(y, mean))
    assert same_bits(y, expected[0])


def test_results_that_share_memory_are_refused():
    x, v, t = arrays((6, 50))
    y = np.zeros((6, 50), np.float32)
    with pytest.raises(ValueError, match="out has arrays that lie in the same memory"):
        tilt(x, v, t, out=(y, y[:, 0]))
    twice = np.lib.stride_tricks.as_strided(y, (6, 50), (0, 4))
    with pytest.raises(ValueError, match="out has elements that lie in the same memory"):
        tilt(x, v, t, out=(twice, np.empty(6, np.float32)))
    assert not y.any()


# ---------------------------------------------------------------------------------- arguments

Y, MEAN = np.ones((3, 4), np.float32), np.ones(3, np.float32)


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        ({"v": np.ones(3)}, ValueError, r"v has shape \(3,\), which does not broadcast to that of the elements"),
        ({"t": np.ones(4)}, ValueError, r"t has shape \(4,\), which does not broadcast to that of the rows, \(3,\)"),
        ({"t": np.ones((3, 4))}, ValueError, r"t has shape \(3, 4\), which does not .* of the rows, \(3, 1\)"),
        ({"v": np.ones((3, 4), complex)}, TypeError, "v has dtype complex128"),
        ({"t": np.array(["a"] * 3)}, TypeError, "t has dtype <U1"),
        ({"v": np.ma.ones((3, 4))}, TypeError, r"v is a masked array.*pass v\.data"),
        ({"where": np.ones((3, 4))}, TypeError, "where has dtype"),
        ({"out": Y}, TypeError, "out has 1 arrays: it must be a tuple of 2, one for each result"),
        ({"out": (Y,)}, TypeError, "out has 1 arrays: it must be a tuple of 2, one for each result"),
        ({"out": (Y, Y)}, ValueError, r"out\[1\] has shape \(3, 4\), but the result has shape \(3,\)"),
        ({"out": (Y, MEAN.astype("i4"))}, TypeError, r"out\[1\] has dtype int32"),
        ({"out": (Y, MEAN.astype("f8"))}, TypeError, "out has arrays of float32 and float64"),
        ({"out": (Y, MEAN), "dtype": "float64"}, TypeError, "out has dtype float32, but dtype=float64"),
    ],
)
def test_what_does_not_fit_is_refused_by_its_name(change, error, words):
    arguments = dict(zip("xvt", arrays((3, 4)), strict=True)) | change
    with pytest.raises(error, match=words):
        tilt(**arguments)
    assert (Y == 1).all()


# ----------------------------------------------------------------------------- other libraries


@pytest.mark.parametrize("library", ["fake", "installed"])
def test_tensors_in_host_memory_give_tensors(library, monkeypatch):
    if library == "fake":
        torch = fake_torch(Current())
        monkeypatch.setitem(sys.modules, "torch", torch)
        tensor, kind = torch.OnHost, torch.OnHost
    else:
        torch = pytest.importorskip("torch")
        tensor, kind = torch.from_dlpack, torch.Tensor
    x, v, t = arrays((4, 6, 50), 1)
    results = tilt(tensor(x), tensor(v), tensor(t), 1)
    assert all(isinstance(y, kind) for y in results)
    expected = tilt(x, v, t, 1)
    for result, right in zip(results, expected, strict=True):
        assert same_bits(as_numpy(result, "it", writeable=True), right)
    over = tensor(v.copy()), tensor(np.empty((4, 50), np.float32))
    assert tilt(tensor(x), over[0], t, 1, out=over) is over
    for result, right in zip(over, expected, strict=True):
        assert same_bits(as_numpy(result, "it", writeable=True), right)


# -------------------------------------------------------------------------------- states


@pytest.mark.parametrize(("dtype", "axis"), [("float32", 0), ("float32", 1), ("float32", 2), ("float64", 2)])
def test_states_of_any_split_make_the_results_of_whole_rows(dtype, axis):
    x, v, t = arrays((3, 4, 50), axis, dtype)
    keep = some(x.shape, axis)
    for (where, scale), order in itertools.product(((None, None), (keep, 1.7)), "CF"):
        x_laid_out = np.asarray(x, order=order)

        def blocks(cuts, array, axis=axis):
            return np.split(array, cuts, axis)

        parts = []
        for cuts in ([1], [2], []):
            masks = blocks(cuts, where) if where is not None else itertools.repeat(None)
            states = RowStates(TILT, t.shape, x.dtype, scale, adapter_for(x, "x"))
            for block, other, mask in zip(blocks(cuts, x_laid_out), blocks(cuts, v), masks, strict=False):
                states.fold(block_of(block, (axis,), mask, x.dtype, (other, t)))
            parts.append(states)
        assert parts[0].count == (4 if dtype == "float64" else 3)
        for states in (*parts, RowStates.from_array(TILT, parts[0].to_array(), x.dtype, scale)):
            y = states.finish(TILT, block_of(x_laid_out, (axis,), where, x.dtype, (v, t)), None)
            mean = states.read(TILT, x.dtype, (t,))
            assert_right((y, mean), x, v, t, axis, where=where, scale=scale)


def test_states_of_float32_hold_all_numbers_where_rows_are_computed_in_float64():
    x, v, t = arrays((5, 300))
    for numbers, scale in ((v.astype("f8"), None), (v, 1e-31)):
        states = RowStates(TILT, (5,), x.dtype, scale, adapter_for(x, "x"))
        for part in (slice(0, 100), slice(100, 300)):
            states.fold(block_of(x[:, part], (1,), None, x.dtype, (numbers[:, part], t)))
        y = states.finish(TILT, block_of(x, (1,), None, x.dtype, (numbers, t)), None)
        assert_right((y, states.read(TILT, x.dtype, (t,))), x, v, t, scale=scale)


def test_states_merge():
    x, v, t = arrays((5, 60))
    states = []
    for part in (slice(0, 25), slice(25, 60)):
        states.append(RowStates(TILT, (5,), x.dtype, None, adapter_for(x, "x")))
        states[-1].fold(block_of(x[:, part], (1,), None, x.dtype, (v[:, part], t)))
    states[0].merge(states[1])
    assert_right((states[0].finish(TILT, block_of(x, (1,), None, x.dtype, (v, t)), None),
                  states[0].read(TILT, x.dtype, (t,))), x, v, t)  # fmt: skip
