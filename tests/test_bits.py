"""A row's bits depend on that row alone."""

import numba
import numpy as np
import pytest
from naive import NAMES, assert_right, same_bits

import numba_softmax as ns
from numba_softmax.backends import cpu
from numba_softmax.call.plan import plan_call
from numba_softmax.ops import OPS

each_op = pytest.mark.parametrize("name", NAMES)
LENGTHS = [1, 5, 7, 8, 9, 15, 16, 17, 37, 300, 2048, 2049, 5000, 8191, 8192, 8193]
LONG = [65_535, 65_536, 65_537, 140_000]
each_length = pytest.mark.parametrize("n", LENGTHS)
writing = pytest.mark.parametrize("name", [name for name in NAMES if not OPS[name].reduces])


def logits(*shape, dtype=np.float32, seed=0):
    return np.random.default_rng(seed).normal(0, 8, shape).astype(dtype)


def alone(name, row, **options):
    """The result of a row that is an array by itself."""
    return np.asarray(getattr(ns, name)(row.copy(), **options))


@pytest.fixture
def planned_anew(monkeypatch):
    """Set a threshold of the CPU backend for one test."""

    def set_threshold(name, value):
        monkeypatch.setattr(cpu, name, value)
        plan_call.cache_clear()

    yield set_threshold
    plan_call.cache_clear()


@each_op
@each_length
def test_same_bits_at_any_place_in_a_batch(name, n, one_thread):
    x = logits(23, n)
    y = getattr(ns, name)(x)
    for i in range(23):
        assert same_bits(y[i], alone(name, x[i]))
    assert same_bits(getattr(ns, name)(x[5:9]), y[5:9])


def strided(x):
    """The rows of `x` in memory in other ways, and their axis: every regime is among them."""
    rows, n = x.shape
    yield "Fortran order", np.asfortranarray(x), 1
    yield "columns", np.ascontiguousarray(x.T), 0
    yield "seven columns", np.ascontiguousarray(x[:7].T), 0
    wide = np.zeros((rows, 2 * n), x.dtype)
    wide[:, ::2] = x
    yield "every second", wide[:, ::2], 1
    yield "reversed", np.ascontiguousarray(x[:, ::-1])[:, ::-1], 1
    yield "rows reversed", np.ascontiguousarray(x[::-1])[::-1], 1
    yield "columns in a wider array", np.pad(x.T, ((0, 0), (3, 5)))[:, 3:-5], 0
    yield "middle axis", np.ascontiguousarray(np.broadcast_to(x.T, (3, n, rows))), 1
    if n > 1:
        divisor = next(d for d in range(2, n + 1) if n % d == 0)
        yield "two axes", x.reshape(rows, divisor, n // divisor), (1, 2)
        apart = np.zeros((divisor, rows, n // divisor), x.dtype)
        apart[:] = x.reshape(rows, divisor, n // divisor).transpose(1, 0, 2)
        yield "two axes apart", apart, (0, 2)


def assert_same_bits_for_any_strides(name, x):
    n = x.shape[1]
    expected = getattr(ns, name)(x)
    for how, same, axis in strided(x):
        y = getattr(ns, name)(same, axis)
        if OPS[name].reduces:
            rows = y[0] if how == "middle axis" else y
        elif how == "middle axis":
            rows = y[0].T
        elif how == "two axes":
            rows = y.reshape(len(x), n)
        elif how == "two axes apart":
            rows = y.transpose(1, 0, 2).reshape(len(x), n)
        else:
            rows = y.T if axis == 0 else y
        assert same_bits(rows, expected[: len(rows)]), how


@each_op
@pytest.mark.parametrize("n", LENGTHS + LONG)
def test_same_bits_for_any_strides(name, n, one_thread):
    assert_same_bits_for_any_strides(name, logits(23 if n < 65_000 else 9, n))


def test_same_bits_where_a_round_trip_by_the_state_would_change_one(one_thread):
    """One element of fifty millions: where a row's sum goes by way of its state, it is rounded once more."""
    row = np.random.default_rng(1).normal(0, 3, (3, 60_000, 70))[2, 42_836].astype(np.float32)
    assert_same_bits_for_any_strides("softmax", np.repeat(row[None], 8, axis=0))


@pytest.mark.parametrize("options", ["masked", "scaled"])
@pytest.mark.parametrize("n", [7, 16, 37, 2048, 5000, 8193, 65_537])
def test_same_bits_for_any_strides_with_mask_or_scale(n, options, one_thread):
    name = "softmax"  # for all, as each kernel takes seconds to compile
    x = logits(9, n)
    keep = logits(9, n, seed=1) > 0
    as_rows = {"where": keep} if options == "masked" else {"scale": 0.7}
    as_columns = {"where": np.ascontiguousarray(keep.T)} if options == "masked" else {"scale": 0.7}
    expected = getattr(ns, name)(x, 1, **as_rows)
    columns = getattr(ns, name)(np.ascontiguousarray(x.T), 0, **as_columns)
    gathered = getattr(ns, name)(np.repeat(x, 2, axis=1)[:, ::2], 1, **as_rows)
    assert same_bits(columns.T, expected)
    assert same_bits(gathered, expected)


@each_op
def test_a_mask_of_nothing_but_true_changes_no_bits(name):
    x = logits(9, 300)
    assert same_bits(getattr(ns, name)(x, where=True), getattr(ns, name)(x))


@pytest.mark.parametrize("name", ["softmax", "logsumexp"])
@pytest.mark.parametrize("dtype", ["float16", "float64"])
@pytest.mark.parametrize("n", [1, 5, 7, 8, 9, 15, 16, 17, 37, 2048, 8193, 65_537])
def test_same_bits_for_any_strides_in_other_dtypes(name, n, dtype, one_thread):
    x = logits(9, n, dtype=dtype)
    expected = getattr(ns, name)(x)
    columns = getattr(ns, name)(np.ascontiguousarray(x.T), 0)
    gathered = getattr(ns, name)(np.repeat(x, 2, axis=1)[:, ::2])
    assert same_bits(columns.T, expected)
    assert same_bits(gathered, expected)


@each_op
@pytest.mark.parametrize("n", [7, 16, 37, 300, 5000, 8193])
def test_same_bits_at_any_byte_offset(name, n, one_thread):
    row = logits(n)
    expected = alone(name, row)
    for offset, out_offset in [(i, j) for i in range(64) for j in (i, 63 - i)]:
        room = np.zeros(row.nbytes + 64, np.uint8)
        x = room[offset : offset + row.nbytes].view(np.float32)
        x[:] = row
        out = None
        if not OPS[name].reduces:
            out = np.zeros(row.nbytes + 64, np.uint8)[out_offset : out_offset + row.nbytes].view(np.float32)
        assert same_bits(getattr(ns, name)(x, out=out), expected)


@each_op
@pytest.mark.parametrize("shape", [(900, 37), (3, 140_000)], ids=str)
def test_same_bits_for_any_number_of_threads(name, shape, run_python, tmp_path):
    x = logits(*shape)
    expected = np.stack([alone_serially(name, row) for row in x])
    assert same_bits(getattr(ns, name)(x), expected)
    np.save(tmp_path / "x.npy", x)
    run_python(THREADED, name, tmp_path, NUMBA_NUM_THREADS="4")
    for threads in range(1, 5):
        assert same_bits(np.load(tmp_path / f"{threads}.npy"), expected)


THREADED = """
import sys, numba, numpy as np, numba_softmax as ns
name, folder = sys.argv[1:]
x = np.load(folder + "/x.npy")
for threads in range(1, 5):
    numba.set_num_threads(threads)
    np.save(f"{folder}/{threads}.npy", getattr(ns, name)(x))
"""


def alone_serially(name, row):
    before = numba.get_num_threads()
    numba.set_num_threads(1)
    try:
        return alone(name, row)
    finally:
        numba.set_num_threads(before)


@each_op
def test_same_bits_for_columns_on_any_number_of_threads(name):
    x = logits(40, 2000)
    y = getattr(ns, name)(x, 0)
    for i in range(0, 2000, 97):
        assert same_bits(y[..., i], alone(name, x[:, i]))


@writing
@pytest.mark.parametrize("n", [1, 7, 8, 9, 15, 16, 17, 37, 2048, 5000, 8191, 8192, 8193, 65_536, 65_537, 70_000])
@pytest.mark.parametrize("rows", [8, 19])
def test_same_bits_in_place(name, n, rows, one_thread):
    x = logits(rows, n)
    function, expected = getattr(ns, name), getattr(ns, name)(x)
    y = x.copy()
    assert function(y, out=y) is y
    assert same_bits(y, expected)
    columns = np.ascontiguousarray(x.T)
    assert same_bits(function(columns, 0, out=columns).T, expected)
    wide = np.repeat(x, 2, axis=1)
    assert same_bits(function(wide[:, ::2], out=wide[:, ::2]).copy(), expected)
    assert same_bits(wide[:, 1::2].copy(), x)


@each_op
@pytest.mark.parametrize("n", [1, 7, 16, 17, 300, 1023, 1025, 2731, 4097, 8192, 8193, 65_536, 65_537])
def test_same_bits_for_any_number_of_rows(name, n, one_thread):
    """Groups of rows, and strips, are full or not."""
    x = logits(530 if n <= 16 else 27, n)
    expected = getattr(ns, name)(x)
    for rows in (*range(1, 28), 255, 256, 257, 529) if n <= 16 else range(1, 26):
        assert same_bits(getattr(ns, name)(x[:rows]), expected[:rows])
        if not OPS[name].reduces:
            y = x[:rows].copy()
            assert same_bits(getattr(ns, name)(y, out=y), expected[:rows])


def room_for(x, offset):
    """Bytes with an array like `x` among them, which begins `offset` after a multiple of 64; the rest is 0."""
    room = np.zeros(x.nbytes + 256, np.uint8)
    start = 64 + -room.ctypes.data % 64 + offset
    return room, start, room[start:][: x.nbytes].view(x.dtype).reshape(x.shape)


def assert_written(name, x, axis, offset, expected):
    """Right, and nothing beside."""
    room, start, out = room_for(x, offset)
    assert getattr(ns, name)(x, axis, out=out) is out
    assert same_bits(out.copy(), expected), offset
    assert not room[:start].any()
    assert not room[start + x.nbytes :].any()


@writing
@pytest.mark.parametrize("n", [1, 7, 16, 17, 31, 37, 300, 2049, 5000, 8191, 8192, 8193, 65_535, 65_536, 65_537, 70_000])
def test_same_bits_when_written_past_the_caches(name, n, planned_anew, one_thread):
    x = logits(21 if n < 5000 else 10 if n < 65_000 else 3, n)
    columns = np.ascontiguousarray(x[:10].T)
    expected = getattr(ns, name)(x)
    planned_anew("STREAM_FROM", 0)
    for offset in range(0, 64, 4):
        assert_written(name, x, 1, offset, expected)
    for offset in (0, 4, 60):
        assert_written(name, x[:1], 1, offset, expected[:1])
        if len(x) >= 10:
            assert_written(name, columns, 0, offset, np.ascontiguousarray(expected[:10].T))


@writing
@pytest.mark.parametrize("inner", [8, 9, 16, 31, 32, 48, 131, 256, 257, 300])
@pytest.mark.parametrize("n", [3, 37, 300])
def test_same_bits_when_columns_are_written_past_the_caches(name, n, inner, planned_anew, one_thread):
    x = logits(2, n, inner)
    expected = getattr(ns, name)(x, 1)
    planned_anew("STREAM_FROM", 0)
    for offset in range(64):
        assert_written(name, x, 1, offset, expected)


@writing
@pytest.mark.parametrize("dtype", ["float16", "float64"])
@pytest.mark.parametrize("shape", [(9, 37), (5, 8193), (2, 65_537)], ids=str)
def test_same_bits_when_written_past_the_caches_in_other_dtypes(name, dtype, shape, planned_anew, one_thread):
    x = logits(*shape, dtype=dtype)
    expected = getattr(ns, name)(x)
    planned_anew("STREAM_FROM", 0)
    for offset in range(0, 64, x.itemsize):
        assert_written(name, x, 1, offset, expected)


AT_ODD_ADDRESSES = """
import sys
import numba, numpy as np
from naive import same_bits
import numba_softmax as ns
from numba_softmax.call.plan import plan_call
from numba_softmax.backends import cpu

name, n = sys.argv[1], int(sys.argv[2])
numba.set_num_threads(1)
x = np.random.default_rng(0).normal(0, 8, (9, n)).astype(np.float32)
columns = np.ascontiguousarray(x.T)
expected = getattr(ns, name)(x)
plan_call.cache_clear()
cpu.STREAM_FROM = 0
for offset in range(64):
    print(f"offset={offset}", flush=True)
    room = np.zeros(x.nbytes + 256, np.uint8)
    start = 64 + -room.ctypes.data % 64 + offset
    out = room[start:][: x.nbytes].view(np.float32).reshape(x.shape)
    getattr(ns, name)(x, out=out)
    assert same_bits(out.copy(), expected)
    assert not room[:start].any() and not room[start + x.nbytes :].any()
    across = out.reshape(columns.shape)
    getattr(ns, name)(columns, 0, out=across)
    assert same_bits(across.T.copy(), expected)
    assert not room[:start].any() and not room[start + x.nbytes :].any()
    # rows an odd number of bytes apart
    apart = np.zeros((9, x[0].nbytes + 65), np.uint8)
    rows = apart[:, offset : offset + x[0].nbytes].view(np.float32)
    getattr(ns, name)(x, out=rows)
    assert same_bits(rows.copy(), expected)
    assert not apart[:, :offset].any() and not apart[:, offset + x[0].nbytes :].any()
"""


@writing
@pytest.mark.parametrize("n", [7, 37, 300, 8193, 65_537])
def test_same_bits_when_written_past_the_caches_at_odd_addresses(name, n, run_python):
    run_python(AT_ODD_ADDRESSES, name, n)  # a vector streamed to where none may begin would end the process


@each_op
@pytest.mark.parametrize("n", [16, 37, 300])
def test_same_bits_in_narrow_and_wide_arrays(name, n, planned_anew, one_thread):
    """The kernels for packed columns, for columns and for gathered rows, on the same array."""
    x = logits(n, 11)
    expected = getattr(ns, name)(x, 0)
    planned_anew("PACKED", ())
    assert same_bits(getattr(ns, name)(x, 0), expected)
    planned_anew("across_rows", lambda *layout: False)
    assert same_bits(getattr(ns, name)(x, 0), expected)


@each_op
@pytest.mark.parametrize("n", [1, 5, 16, 17, 37, 300, 2048, 8192, 8193, 65_535, 65_536])
def test_same_bits_from_the_kernels_for_short_rows_for_rows_and_for_long_rows(name, n, planned_anew, one_thread):
    x = logits(11, n)
    expected = getattr(ns, name)(x)
    planned_anew("SHORT", 0)
    assert same_bits(getattr(ns, name)(x), expected)
    planned_anew("CHUNK", 1)  # rows are long from two elements on
    assert same_bits(getattr(ns, name)(x), expected)


@each_op
def test_minus_infinity_stays_out_under_a_scale_of_0_in_every_layout(name):
    for n in (5, 37, 300, 9000):
        x = logits(19, n)
        x[7, 2], x[11] = -np.inf, -np.inf
        for rows, axis in ((x, 1), (x.T.copy(), 0), (x.repeat(2, axis=1)[:, ::2], 1)):
            for scale in (0.0, -0.0):
                y = getattr(ns, name)(rows, axis, scale=scale)
                assert_right(name, y.T if axis == 0 else y, x, 1, scale=scale)
