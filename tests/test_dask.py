"""Dask arrays: lazily, right along any axis however they are cut, and the same bits for the same chunks."""

import math

import numba
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from naive import BFLOAT16, NAMES, assert_right, naive, same_bits

dask = pytest.importorskip("dask", reason="dask is not installed")
da = pytest.importorskip("dask.array", reason="dask.array is not installed")

from dask.graph_manipulation import bind  # noqa: E402

import numba_softmax as ns  # noqa: E402
import numba_softmax.dask as nd  # noqa: E402
from numba_softmax.call import whole_arrays  # noqa: E402
from numba_softmax.ops import OPS  # noqa: E402

each_name = pytest.mark.parametrize("name", NAMES)

CUTS = [  # a shape, axes, chunks
    ((30, 70), 1, (10, 20)),
    ((30, 70), 0, (10, 20)),
    ((30, 70), -1, (30, 1)),
    ((6, 7, 40), (0, 2), (2, 7, 9)),
    ((6, 7, 40), None, 3),
    ((300,), 0, 70),
]


@pytest.fixture(autouse=True)
def in_this_thread():
    """Errors and one thread at a time, so that no parallel kernels are compiled."""
    with dask.config.set(scheduler="synchronous"):
        yield


def numbers(shape, dtype=np.float32):
    return (np.random.default_rng(11).standard_normal(shape) * 5).astype(dtype)


def never(block):
    raise AssertionError("a chunk was computed")


@each_name
@pytest.mark.parametrize(("shape", "axis", "chunks"), CUTS)
def test_rows_in_many_chunks_are_as_right_as_one_call(name, shape, axis, chunks):
    x = numbers(shape)
    y = getattr(ns, name)(da.from_array(x, chunks), axis)
    result = y.compute()
    assert (result.shape, result.dtype) == (y.shape, y.dtype)
    assert_right(name, result, x, axis)


@each_name
@pytest.mark.parametrize(("shape", "axis", "chunks"), [((30, 70), 1, (10, 70)), ((6, 7, 40), (0, 2), (6, 3, 40))])
def test_rows_in_one_chunk_have_the_bits_of_one_call(name, shape, axis, chunks):
    x, function = numbers(shape), getattr(ns, name)
    assert same_bits(function(da.from_array(x, chunks), axis).compute(), function(x, axis))


@each_name
@pytest.mark.parametrize("scale", [-0.3, 7.0])
def test_scales_are_as_exact_as_in_one_call(name, scale):
    x = numbers((5, 70))
    assert_right(name, getattr(ns, name)(da.from_array(x, (2, 20)), scale=scale).compute(), x, scale=scale)


@each_name
@pytest.mark.parametrize(
    ("dtype", "to"),
    [("float16", None), ("bfloat16", "float32"), ("float64", None), ("int8", None), ("float32", "float64")],
)
def test_dtypes_are_those_of_one_call(name, dtype, to):
    x = numbers((5, 70), BFLOAT16 if dtype == "bfloat16" else dtype)
    y = getattr(ns, name)(da.from_array(x, (5, 20)), dtype=to)
    result = y.compute()
    assert result.dtype == y.dtype == getattr(ns, name)(x[:1, :2], dtype=to).dtype
    assert_right(name, result, x)


@each_name
@pytest.mark.parametrize("chunks", [(2, 20), (2, 70)])
def test_masks_of_numpy_and_dask_and_broadcast_ones(name, chunks):
    x, keep = numbers((5, 70)), np.random.default_rng(1).random((5, 70)) < 0.5
    keep[1] = False
    for where in (keep, da.from_array(keep, chunks), keep[0], keep[:, :1], da.from_array(keep[0], chunks[1]), True):
        y = getattr(ns, name)(da.from_array(x, chunks), where=where)
        assert_right(name, y.compute(), x, where=np.asarray(where))


def test_masks_of_other_libraries_that_speak_dlpack():
    class Lent:
        def __dlpack_device__(self):
            return keep.__dlpack_device__()

        def __dlpack__(self, **options):
            return keep.__dlpack__(**options)

    x, keep = numbers((5, 70)), np.random.default_rng(1).random((5, 70)) < 0.5
    y = ns.softmax(da.from_array(x, (2, 20)), where=Lent())
    assert_right("softmax", y.compute(), x, where=keep)


@each_name
@pytest.mark.parametrize("row", [[np.nan, 1], [np.inf, 1], [np.inf, np.nan], [-np.inf, 1], [-np.inf, -np.inf]])
def test_the_contract_of_the_edges_holds_over_chunks(name, row):
    x = np.tile(np.array(row, np.float32), (3, 5))
    assert_right(name, getattr(ns, name)(da.from_array(x, (2, 3))).compute(), x)


@each_name
@pytest.mark.parametrize("shape", [(0, 5), (5, 0), (), (3, 1)])
def test_empty_arrays_and_single_numbers(name, shape):
    x = numbers(shape)
    for chunks in (-1, 2):
        y = getattr(ns, name)(da.from_array(x, chunks))
        assert_right(name, np.asarray(y.compute()), x, -1 if shape else None)


def test_keepdims_keeps_the_reduced_axes():
    x = numbers((6, 7, 40))
    for axis in (1, (0, 2), None):
        for chunks in (-1, 3):
            y = ns.logsumexp(da.from_array(x, chunks), axis, keepdims=True)
            assert y.shape == ns.logsumexp(x, axis, keepdims=True).shape
            assert_right("logsumexp", y.compute(), x, axis, keepdims=True)


@st.composite
def cuts(draw):
    shape = tuple(draw(st.lists(st.integers(1, 12), min_size=1, max_size=3)))
    axes = tuple(sorted(draw(st.sets(st.integers(0, len(shape) - 1), min_size=1))))
    chunks = []
    for size in shape:
        ends = sorted(draw(st.sets(st.integers(1, size))) | {0, size})
        chunks.append(tuple(np.diff(ends).tolist()))
    return shape, axes, tuple(chunks)


@settings(max_examples=30)
@given(cuts())
def test_any_cut_is_right(cut):
    shape, axes, chunks = cut
    x = numbers(shape)
    for name in ("softmax", "logsumexp"):
        y = getattr(ns, name)(da.from_array(x, chunks), axes)
        if not OPS[name].reduces:
            assert y.chunks == chunks
        assert_right(name, y.compute(), x, axes)


# ------------------------------------------------------------------------- graphs


@each_name
@pytest.mark.parametrize("chunks", [(10, 20), (10, 70)])
def test_nothing_is_computed_before_it_is_asked_for(name, chunks):
    x = da.from_array(numbers((30, 70)), chunks).map_blocks(never, meta=np.empty((0, 0), np.float32))
    y = getattr(ns, name)(x, where=da.ones_like(x, bool), scale=2.0, dtype="float16")
    assert type(y) is da.Array
    assert y.dtype == y._meta.dtype == np.float16
    assert y.shape == naive(name, numbers((30, 70))).shape
    with pytest.raises(AssertionError, match="a chunk was computed"):
        y.compute()


def test_no_array_is_cut_anew():
    x = da.from_array(numbers((30, 70)), ((20, 10), (1, 9, 60)))
    for y in (ns.softmax(x), ns.softmax(x, 0), ns.log_softmax(x, None)):
        assert y.chunks == x.chunks
        assert not any("rechunk" in name for name in y.dask.layers)
    assert ns.logsumexp(x).chunks == (x.chunks[0],)
    assert nd.online_state(x).chunks == ((2,), x.chunks[0])


@pytest.mark.parametrize("axis", [1, None])
def test_the_graph_grows_with_the_number_of_chunks(axis):
    tasks = {}
    for count in (64, 512, 4096):
        x = da.zeros((count // 8, 16), chunks=(1, 2), dtype=np.float32)
        assert x.npartitions == count
        tasks[count] = len(ns.softmax(x, axis).__dask_graph__())
        assert tasks[count] <= 6 * count
    assert tasks[4096] - tasks[512] == pytest.approx(8 * (tasks[512] - tasks[64]), rel=0.02)


def test_graphs_of_the_same_call_have_the_same_names():
    x = da.from_array(numbers((30, 70)), (10, 20))
    assert ns.softmax(x, scale=0.5).name == ns.softmax(x, scale=0.5).name
    assert ns.softmax(x, scale=0.5).name != ns.softmax(x, scale=0.25).name


def test_functions_of_the_same_rows_share_the_tasks_for_their_states():
    x = da.from_array(numbers((4, 60)), (4, 10))
    results = ns.softmax(x), ns.log_softmax(x), ns.logsumexp(x), nd.online_state(x)
    tasks = [{key for key in dict(y.dask) if key[0].startswith(("softmax-fold", "softmax-merge"))} for y in results]
    assert len(tasks[0]) > 6
    assert tasks == tasks[:1] * 4


def test_the_same_chunks_give_the_same_bits_whoever_computes_what():
    y = ns.softmax(da.from_array(numbers((40, 3000)), (7, 11)))
    first = y.compute()
    with dask.config.set({"scheduler": "threads", "num_workers": 4, "split_every": 3}):
        for _ in range(3):
            assert same_bits(ns.softmax(da.from_array(numbers((40, 3000)), (7, 11))).compute(), first)


@pytest.mark.skipif(numba.config.NUMBA_NUM_THREADS == 1, reason="there is one thread anyway")
def test_kernels_in_a_task_use_one_thread(monkeypatch):
    seen = {}

    def recorded(owner, name):
        function = getattr(owner, name)

        def with_record(*args):
            seen.setdefault(name, set()).add(numba.get_num_threads())
            return function(*args)

        monkeypatch.setattr(owner, name, with_record)

    recorded(whole_arrays, "call")
    for name in ("fold", "merge", "finish", "read"):
        recorded(nd.RowStates, name)
    before = numba.get_num_threads()
    numba.set_num_threads(2)
    try:
        for chunks in ((2, 70), (2, 10)):
            x = da.from_array(numbers((4, 70)), chunks)
            da.compute(ns.softmax(x), ns.logsumexp(x))
        assert numba.get_num_threads() == 2
    finally:
        numba.set_num_threads(before)
    assert seen == {name: {1} for name in ("call", "fold", "merge", "finish", "read")}


# ------------------------------------------------------------------------- states


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("scale", [None, -0.5])
def test_states_are_those_of_onlinesoftmax(dtype, scale):
    x = numbers((5, 70), dtype)
    state = nd.online_state(da.from_array(x, (2, 20)), scale=scale)
    rows = ns.OnlineSoftmax.from_arrays(*state.compute(), dtype=dtype, scale=scale)
    assert_right("logsumexp", rows.lse, x, scale=scale)
    assert state.shape == (3 if dtype == np.float64 else 2, 5)


def test_elements_are_normalized_by_states_in_parts():
    x, keep = numbers((5, 70)), np.random.default_rng(1).random((5, 70)) < 0.5
    cut, mask = da.from_array(x, (2, 20)), da.from_array(keep, (2, 20))
    state = nd.online_state(cut, where=mask, scale=2.0, dtype="float64")
    for name, function in (("softmax", nd.normalize), ("log_softmax", nd.log_normalize)):
        parts = [
            function(cut[:, part], state, where=mask[:, part], scale=2.0, dtype="float64")
            for part in (slice(0, 40), slice(40, 70))
        ]
        result = da.concatenate(parts, axis=1).compute()
        assert result.dtype == np.float64
        assert_right(name, result, x, where=keep, scale=2.0)


def test_elements_can_be_read_twice_in_place_of_being_kept():
    read = []

    def loaded(block_info=None):
        place = block_info[None]["array-location"]
        read.append(tuple(place[0]))
        return x[tuple(slice(*ends) for ends in place)]

    x = numbers((100, 20))
    source = da.map_blocks(loaded, chunks=((10,) * 10, (20,)), dtype=np.float32, meta=np.empty((0, 0), np.float32))
    once = ns.softmax(source, 0)
    assert same_bits(once.compute(), nd.normalize(source, nd.online_state(source, 0), 0).compute())
    read.clear()
    state = nd.online_state(source, 0)
    twice = nd.normalize(bind(source, state), state, 0)
    assert same_bits(twice.compute(), once.compute())
    first, second = read[:10], read[10:20]
    assert sorted(first) == sorted(second) == [(i, i + 10) for i in range(0, 100, 10)]


def test_cross_entropy_of_a_vocabulary_in_parts_is_right():
    logits, labels = numbers((9, 400)), np.arange(9) * 40
    shards = [da.from_array(part, (3, 50)) for part in np.split(logits, [150], axis=1)]
    states = [nd.online_state(shard) for shard in shards]
    m = da.maximum(*(state[0] for state in states))
    l = sum((1 + state[1]) * da.exp(state[0] - m) for state in states)
    loss = (m + da.log(l)).compute() - logits[np.arange(9), labels]
    expected = naive("logsumexp", logits) - logits[np.arange(9), labels]
    np.testing.assert_allclose(loss, expected.astype(float), rtol=1e-6, atol=1e-6)


# ----------------------------------------------------------------------- refusals


def test_chunks_of_unknown_size_are_refused():
    x = da.from_array(numbers((30, 70)), (10, 20))
    x = x[x[:, 0] > 0]
    with pytest.raises(ValueError, match=r"x has chunks of unknown size along axis 0: call x.compute_chunk_sizes\(\)"):
        ns.softmax(x)
    assert_right("softmax", ns.softmax(x.compute_chunk_sizes()).compute(), x.compute())


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"out": np.empty((30, 70), np.float32)}, TypeError, "out is not for Dask arrays"),
        ({"device": "cuda"}, TypeError, "device is not for Dask arrays"),
        ({"stream": 1}, TypeError, "stream is not for Dask arrays"),
        ({"axis": 2}, np.exceptions.AxisError, "axis"),
        ({"scale": math.inf}, ValueError, "scale is inf"),
        ({"dtype": "int8"}, TypeError, "dtype is int8"),
        ({"where": np.ones(3, bool)}, ValueError, "where has shape"),
        ({"where": np.ones(70)}, TypeError, "where has dtype"),
        ({"where": np.ma.masked_array(np.ones(70, bool), True)}, TypeError, "where is a masked array"),
        ({"where": da.ma.masked_array(da.ones(70, dtype=bool, chunks=20))}, TypeError, "where has chunks of masked"),
        ({"where": da.ones((30, 70), dtype=bool, chunks=(10, 30))}, ValueError, "where has chunks"),
        ({"where": da.ones((2, 30, 70), dtype=bool, chunks=-1)}, ValueError, "where has chunks"),
        ({"where": da.ones(70, chunks=20)}, TypeError, "where has chunks of float64"),
    ],
)
def test_bad_arguments_are_refused_at_once(options, error, words):
    with pytest.raises(error, match=words):
        ns.softmax(da.from_array(numbers((30, 70)), (10, 20)), **options)


def test_elements_that_cannot_be_computed_with_are_refused_at_once():
    for x, words in (
        (da.zeros(9, dtype=complex), "x has dtype complex128"),
        (da.ma.masked_array(da.zeros(9), da.zeros(9, dtype=bool)), "masked arrays"),
    ):
        with pytest.raises(TypeError, match=words):
            ns.softmax(x)
    with pytest.raises(TypeError, match="x is a ndarray: it must be a Dask array"):
        nd.online_state(np.zeros(9))


@pytest.mark.parametrize(
    "state",
    [
        np.zeros((2, 30)),
        da.zeros((3, 30), chunks=(3, 10)),
        da.zeros((2, 30), chunks=(2, 15)),
        da.zeros((2, 30), chunks=(1, 10)),
        da.zeros((2, 30), dtype=np.float32, chunks=(2, 10)),
    ],
)
def test_states_that_are_not_of_the_rows_are_refused(state):
    x = da.from_array(numbers((30, 70)), (10, 20))
    with pytest.raises((TypeError, ValueError), match="state "):
        nd.normalize(x, state)
