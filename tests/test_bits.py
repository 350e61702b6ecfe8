"""A row's bits depend on that row alone."""

import numba
import numpy as np
import pytest
from naive import NAMES, same_bits

import numba_softmax as ns
from numba_softmax import api
from numba_softmax.backends import cpu
from numba_softmax.ops import OPS

each_op = pytest.mark.parametrize("name", NAMES)
LENGTHS = [1, 5, 16, 37, 300, 2048, 2049, 5000]
each_length = pytest.mark.parametrize("n", LENGTHS)


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
        api._prepared.cache_clear()

    yield set_threshold
    api._prepared.cache_clear()


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


@each_op
@each_length
def test_same_bits_for_any_strides(name, n, one_thread):
    x = logits(23, n)
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


@pytest.mark.parametrize("options", ["masked", "scaled"])
@pytest.mark.parametrize("n", [37, 2048, 5000])
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
@pytest.mark.parametrize("n", [5, 37, 2048])
def test_same_bits_for_any_strides_in_other_dtypes(name, n, dtype, one_thread):
    x = logits(9, n, dtype=dtype)
    expected = getattr(ns, name)(x)
    columns = getattr(ns, name)(np.ascontiguousarray(x.T), 0)
    gathered = getattr(ns, name)(np.repeat(x, 2, axis=1)[:, ::2])
    assert same_bits(columns.T, expected)
    assert same_bits(gathered, expected)


@each_op
@pytest.mark.parametrize("n", [37, 300, 5000])
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


@pytest.mark.parametrize("name", [name for name in NAMES if not OPS[name].reduces])
@pytest.mark.parametrize("n", [37, 2048, 5000, 70_000])
def test_same_bits_in_place(name, n, one_thread):
    x = logits(8, n)
    function, expected = getattr(ns, name), getattr(ns, name)(x)
    y = x.copy()
    assert function(y, out=y) is y
    assert same_bits(y, expected)
    columns = np.ascontiguousarray(x.T)
    assert same_bits(function(columns, 0, out=columns).T, expected)
    wide = np.repeat(x, 2, axis=1)
    assert same_bits(function(wide[:, ::2], out=wide[:, ::2]).copy(), expected)
    assert same_bits(wide[:, 1::2].copy(), x)


@pytest.mark.parametrize("name", [name for name in NAMES if not OPS[name].reduces])
@pytest.mark.parametrize("n", [2049, 5000, 70_000])
@pytest.mark.parametrize("offset", [0, 1, 4, 20, 60])
def test_same_bits_when_written_past_the_caches(name, n, offset, planned_anew, one_thread):
    x = logits(5, n)
    expected = getattr(ns, name)(x)
    planned_anew("STREAM_FROM", 0)
    room = np.zeros(x.nbytes + 128, np.uint8)
    out = room[64 + offset :][: x.nbytes].view(np.float32).reshape(x.shape)
    assert same_bits(getattr(ns, name)(x, out=out), expected)
    assert not room[: 64 + offset].any()
    assert not room[64 + offset + x.nbytes :].any()


@each_op
@pytest.mark.parametrize("n", [16, 37, 300])
def test_same_bits_in_narrow_and_wide_arrays(name, n, planned_anew, one_thread):
    """The kernels for columns and for gathered rows, on the same array."""
    x = logits(n, 11)
    expected = getattr(ns, name)(x, 0)
    planned_anew("NARROWEST_STRIP", 12)
    assert same_bits(getattr(ns, name)(x, 0), expected)


@each_op
@pytest.mark.parametrize("n", [5, 37, 300, 2048])
def test_same_bits_from_the_kernels_for_short_and_for_long_rows(name, n, planned_anew, one_thread):
    x = logits(11, n)
    expected = getattr(ns, name)(x)
    planned_anew("BLOCK", 0)
    assert same_bits(getattr(ns, name)(x), expected)
