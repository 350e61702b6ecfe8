"""Every kind of array comes in and goes out right; how arrays are split up is tried at random."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from naive import BFLOAT16, FLOATS, NAMES, assert_right, naive, same_bits

import numba_softmax as ns
from numba_softmax.ops import OPS

each_op = pytest.mark.parametrize("name", NAMES)
elementwise = pytest.mark.parametrize("name", [name for name in NAMES if not OPS[name].reduces])


def logits(*shape, dtype=np.float32):
    return np.random.default_rng(0).normal(0, 5, shape).astype(dtype)


def call(name, x, *args, **options):
    with np.errstate(all="raise"):
        return getattr(ns, name)(x, *args, **options)


class Subclass(np.ndarray):
    pass


@each_op
def test_lists_tuples_and_scalars(name):
    for x in ([1.0, 2.0, -3.0], (1, 2, 3), [[True, False], [False, False]], [np.float64(3.0), 1]):
        result = call(name, x)
        assert result.dtype == np.float64
        assert_right(name, result, x)
    for x in (5.0, 5, True, np.int8(5)):
        assert_right(name, call(name, x), x, None)


@pytest.mark.parametrize("dtype", ["bool", *(f"{u}int{b}" for u in ("", "u") for b in (8, 16, 32, 64))])
def test_integers_and_bool_compute_in_float64(dtype):
    x = (logits(5, 40) * 9).astype(np.int8)
    x = (abs(x) if dtype.startswith("u") else x).astype(dtype)
    result = call("softmax", x)
    assert result.dtype == np.float64
    assert_right("softmax", result, x)


def test_integers_of_any_size_are_rounded_to_float64():
    x = np.array([2**63, 2**63 - 5000, 0], np.uint64)
    assert_right("softmax", call("softmax", x), x.astype(float))
    x = np.array([-(2**63), -(2**63) + 5000, -(2**63) + 5001], np.int64)
    assert_right("softmax", call("softmax", x), x.astype(float))


@each_op
@pytest.mark.parametrize("kind", ["read-only", "subclass", "matrix", "memmap", "field", "broadcast", "misaligned"])
def test_kinds_of_arrays(name, kind, tmp_path):
    x = logits(6, 37)
    if kind == "read-only":
        x.flags.writeable = False
    elif kind == "subclass":
        x = x.view(Subclass)
    elif kind == "matrix":
        with pytest.warns(PendingDeprecationWarning):
            x = np.matrix(x)
    elif kind == "memmap":
        mapped = np.memmap(tmp_path / "x", np.float32, "w+", offset=20, shape=x.shape)
        mapped[:] = x
        x = mapped
    elif kind == "field":
        records = np.zeros(x.shape, [("tag", "i1"), ("value", "f4")])
        records["value"] = x
        x = records["value"]
    elif kind == "broadcast":
        x = np.broadcast_to(x[:, :1], x.shape)
    else:
        x = np.frombuffer(b"\0" + x.tobytes(), np.uint8)[1:].view(np.float32).reshape(x.shape)
    result = call(name, x)
    assert type(result) is np.ndarray
    assert result.flags.writeable
    assert_right(name, result, np.asarray(x))


@elementwise
def test_out_of_many_kinds(name, tmp_path):
    x = logits(6, 37)
    expected = call(name, x)
    wide = np.zeros((12, 40, 2), np.float32)
    records = np.zeros(x.shape, [("tag", "i1"), ("value", "f4")])
    mapped = np.memmap(tmp_path / "out", np.float32, "w+", shape=x.shape)
    for out in (
        wide[::2, 1:38, 0], wide[::-2, 37:0:-1, 1], records["value"], mapped, np.zeros((37, 6), np.float32).T,
        np.zeros(x.shape, np.float32).view(Subclass), np.zeros((1, 6, 37), np.float32)[0],
    ):  # fmt: skip
        assert call(name, x, out=out) is out
        assert same_bits(np.asarray(out), expected)
    assert not records["tag"].any()
    assert not wide[1, ..., 0].any()
    assert not wide[0, :, 1].any()


def test_out_of_reduced_results():
    x = logits(6, 37, 8)
    for axis, keepdims in [(1, False), (1, True), ((0, 2), False), ((0, 2), True), (None, True), (-1, False)]:
        expected = call("logsumexp", x, axis, keepdims=keepdims)
        room = np.zeros((*expected.shape, 3), np.float32)
        out = room[..., 1]
        assert call("logsumexp", x, axis, keepdims=keepdims, out=out) is out
        assert same_bits(out, expected)
        assert not room[..., ::2].any()


@each_op
def test_out_without_dimensions(name):
    out = np.zeros(())
    assert call(name, 3.0, out=out) is out
    assert_right(name, out, 3.0, None)
    if OPS[name].reduces:
        assert call(name, [1.0, 2.0], out=out) is out
        assert_right(name, out, [1.0, 2.0])


@pytest.mark.parametrize("dtype", [">f2", ">f4", ">f8"])
def test_swapped_bytes(dtype):
    name = "softmax"  # for all, as each kernel takes seconds to compile
    x = logits(9, 37).astype(dtype)
    result = call(name, x)
    assert result.dtype.isnative
    assert same_bits(result, call(name, x.astype(result.dtype)))
    out = np.zeros(x.shape, dtype)
    assert call(name, x, out=out) is out
    assert same_bits(out.astype(result.dtype), result)


@pytest.mark.parametrize("dtype", [">i2", ">u4"])
def test_integers_with_swapped_bytes(dtype):
    x = np.arange(-20, 20).astype(dtype) % 100
    assert same_bits(call("softmax", x), call("softmax", x.astype(float)))


@pytest.mark.parametrize("source", FLOATS)
@pytest.mark.parametrize("target", FLOATS)
def test_any_float_in_any_float_out(source, target):
    x = logits(9, 37).astype(FLOATS[source])
    asked = target if target == "bfloat16" else FLOATS[target]
    result = call("softmax", x, dtype=asked)
    assert result.dtype == FLOATS[target]
    assert_right("softmax", result, x)
    out = np.zeros(x.shape, FLOATS[target])
    call("softmax", x, out=out)
    assert same_bits(out, result)


def test_integers_can_be_asked_for_narrow_results():
    x = np.arange(20, dtype=np.int64)
    result = call("softmax", x, dtype=BFLOAT16)
    assert result.dtype == BFLOAT16
    assert_right("softmax", result, x)


@each_op
def test_results_are_laid_out_as_x_is(name):
    x = logits(4, 5, 6)
    for same in (x, np.asfortranarray(x), x.transpose(1, 2, 0)):
        result = call(name, same)
        if not OPS[name].reduces:
            assert result.strides == same.strides
        assert_right(name, result, same)


@elementwise
def test_overlapping_out_gives_what_a_copy_would(name):
    x = logits(9, 38)
    for take, put in [
        (np.s_[1:], np.s_[:-1]), (np.s_[:-1], np.s_[1:]), (np.s_[:, 1:], np.s_[:, :-1]), (np.s_[:, :-1], np.s_[:, 1:]),
        (np.s_[:], np.s_[::-1]), (np.s_[:], np.s_[:, ::-1]), (np.s_[:, ::2], np.s_[:, 1::2]),
        (np.s_[1:-1, :19], np.s_[2:, 5:24]),
    ]:  # fmt: skip
        room = x.copy()
        call(name, room[take], out=room[put])
        expected = x.copy()
        expected[put] = call(name, x[take].copy())
        assert same_bits(room, expected)
    square = logits(12, 12)
    expected = call(name, square.copy())
    assert same_bits(call(name, square, out=square.T).copy(), expected)


def test_out_may_share_memory_in_another_dtype():
    name = "softmax"
    for kinds in (("f8", "f4"), ("f4", "f8"), ("i8", "f8"), ("f4", "f2")):
        room = np.zeros(8 * 64, np.uint8)
        x, out = (room[: 64 * np.dtype(kind).itemsize].view(kind) for kind in kinds)
        x[:] = np.arange(64) % 11
        expected = call(name, x.copy(), dtype=out.dtype)
        assert same_bits(call(name, x, out=out), expected)


@elementwise
def test_out_may_be_the_mask_or_overlap_itself(name):
    x = logits(4, 8, dtype=np.float64)
    out = np.zeros((4, 8))
    mask = out.view(bool)[:, ::8]
    mask[:] = x > 0
    expected = call(name, x, where=mask.copy())
    assert same_bits(call(name, x, where=mask, out=out), expected)
    twice = np.lib.stride_tricks.as_strided(np.zeros(8), (4, 8), (0, 8))
    call(name, x, out=twice)
    assert any(same_bits(twice[0].copy(), row.copy()) for row in call(name, x))


def test_reduced_out_may_be_part_of_x():
    x = logits(6, 37)
    expected = call("logsumexp", x)
    assert same_bits(call("logsumexp", x, out=x[:, 3]).copy(), expected)


@each_op
def test_where_broadcasts(name):
    x = logits(3, 5, 7)
    rng = np.random.default_rng(1)
    for shape in [(), (7,), (5, 1), (3, 1, 1), (1, 5, 7), (3, 5, 7)]:
        where = rng.random(shape) < 0.7
        for axis in (-1, 1, (0, 2), None):
            assert_right(name, call(name, x, axis, where=where), x, axis, where=where)
    assert_right(name, call(name, x, where=[True] * 6 + [False]), x, where=[True] * 6 + [False])


@st.composite
def problems(draw):
    """An array of some strides, axes to take and a mask or none."""
    ndim = draw(st.integers(1, 4))
    shape = tuple(draw(st.integers(1, 9)) for _ in range(ndim))
    steps = tuple(draw(st.sampled_from([1, 1, 2, 3, -1, -2])) for _ in range(ndim))
    order = draw(st.permutations(range(ndim)))
    dtype = draw(st.sampled_from(["float32", "float32", "float64"]))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    room = rng.normal(0, 10, [shape[i] * abs(steps[i]) for i in order]).astype(dtype)
    x = room.transpose(np.argsort(order))[tuple(slice(None, None, step) for step in steps)]
    axes = draw(st.none() | st.integers(-ndim, ndim - 1) | st.sets(st.integers(0, ndim - 1)).map(tuple))
    where = None
    if dtype == "float32" and draw(st.booleans()):
        where = rng.random([draw(st.sampled_from([1, size])) for size in x.shape]) < 0.8
    return x, axes, where


@each_op
@given(problem=problems(), keepdims=st.booleans())
@settings(max_examples=200)
def test_any_axes_of_any_array(name, problem, keepdims):
    x, axes, where = problem
    options = {"keepdims": keepdims} if OPS[name].reduces else {}
    result = call(name, x, axes, where=where, **options)
    assert_right(name, result, x, axes, where=where, **options)
    rng = np.random.default_rng(0)
    room = rng.normal(size=(*result.shape, 2)).astype(x.dtype)
    call(name, x, axes, where=where, out=room[..., 0], **options)
    assert same_bits(room[..., 0], result)


def test_negative_and_repeated_axes_name_the_same():
    x = logits(3, 4, 5)
    assert same_bits(call("softmax", x, (0, -1)), call("softmax", x, (2, 0)))
    assert naive("softmax", x, (0, -1)).sum() == pytest.approx(4)
