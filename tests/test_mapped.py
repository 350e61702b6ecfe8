"""Memory maps: any axis in bounded memory, right to the last places, and the same bytes each time."""

import math
import os
import signal
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from naive import NAMES, assert_right, same_bits

import numba_softmax as ns
from numba_softmax.backends import cpu
from numba_softmax.streaming import mapped

pytestmark = pytest.mark.usefixtures("one_thread")

SHAPES = [  # a shape, axes, and whether rows are longer than a slab of `small_slabs`
    ((30, 70), 1, False),
    ((40, 30), 0, False),
    ((2, 5000), 1, True),
    ((3000, 30), 0, True),
    ((6, 700, 40), 1, True),
    ((6, 7, 400), (0, 2), True),
    ((6, 70, 40), None, True),
]


@pytest.fixture
def small_slabs(monkeypatch):
    monkeypatch.setattr(mapped, "SLAB", 4000)
    monkeypatch.setattr(mapped, "SHORTEST_RUN", 64)


@pytest.fixture
def on_disk(tmp_path):
    def make(x, mode="r+", name="x"):
        file = np.memmap(tmp_path / name, x.dtype, "w+", shape=x.shape, order="F" if np.isfortran(x) else "C")
        file[...] = x
        file.flush()
        return np.memmap(tmp_path / name, x.dtype, mode, shape=x.shape, order="F" if np.isfortran(x) else "C")

    return make


def numbers(shape, dtype=np.float32):
    return (np.random.default_rng(7).standard_normal(shape) * 5).astype(dtype)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(("shape", "axis", "long"), SHAPES)
def test_slabs_are_as_right_as_one_call(name, shape, axis, long, on_disk, small_slabs):
    x = numbers(shape)
    result = getattr(ns, name)(on_disk(x), axis)
    assert type(result) is (np.ndarray if result.shape else np.float32)
    if long:
        assert_right(name, result, x, axis)
    else:
        assert same_bits(result, getattr(ns, name)(x, axis))


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("axis", [0, 1])
def test_slabs_take_masks_and_scales(name, axis, on_disk, small_slabs):
    x, where = numbers((2000, 30) if axis == 0 else (2, 3000)), np.arange(30)[: 30 if axis == 0 else 2] % 3 > 0
    where = where if axis == 0 else where[:, np.newaxis]
    y = getattr(ns, name)(on_disk(x), axis, where=on_disk(where, name="w"), scale=-0.3)
    assert_right(name, y, x, axis, where=where, scale=-0.3)


@pytest.mark.parametrize(
    ("dtype", "to"), [("float16", None), ("float64", None), ("int8", None), (">f4", None), ("float32", "float64")]
)
def test_slabs_have_the_dtypes_of_one_call(dtype, to, on_disk, small_slabs):
    x = numbers((3, 4001), dtype)
    for name in ("softmax", "logsumexp"):
        y = getattr(ns, name)(on_disk(x), dtype=to)
        assert y.dtype == getattr(ns, name)(x[:1], dtype=to).dtype
        assert_right(name, y, x)


@pytest.mark.parametrize("axis", [0, 1])
def test_results_can_go_to_a_file_or_over_the_elements(axis, on_disk, small_slabs, tmp_path):
    x = numbers((100, 3000))
    file, out = on_disk(x), np.memmap(tmp_path / "y", np.float32, "w+", shape=x.shape)
    assert ns.softmax(file, axis, out=out) is out
    assert_right("softmax", out, x, axis)
    assert same_bits(file, x)
    assert ns.softmax(file, axis, out=file) is file
    assert same_bits(np.fromfile(tmp_path / "x", np.float32), out.ravel())


def test_keepdims_and_scalars_are_those_of_one_call(on_disk, small_slabs):
    x = numbers((2, 3, 1500))
    for keepdims in (False, True):
        for axis in (2, None):
            y = ns.logsumexp(on_disk(x), axis, keepdims=keepdims)
            assert np.shape(y) == np.shape(ns.logsumexp(x, axis, keepdims=keepdims))
            assert_right("logsumexp", y, x, axis, keepdims=keepdims)


def test_a_repeated_call_gives_the_same_bytes(on_disk, small_slabs):
    file = on_disk(numbers((3000, 30)))
    assert same_bits(ns.softmax(file, 0), ns.softmax(file, 0))


def test_results_that_overlap_the_elements_are_those_of_a_copy(on_disk, small_slabs):
    x = numbers((101, 300))
    file = on_disk(x)
    ns.softmax(file[:-1], out=file[1:])
    assert same_bits(file[1:], ns.softmax(x[:-1]))


def test_changes_of_a_private_map_are_kept(on_disk, small_slabs):
    file = on_disk(numbers((40, 300)), mode="c")
    file[...] = changed = numbers((40, 300))[::-1]
    ns.softmax(file, out=np.empty_like(changed))
    assert same_bits(file, changed)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"out": np.empty((100, 300), np.float32)}, "out has shape"),
        ({"out": np.empty((300, 100), np.int32)}, "out has dtype"),
        ({"where": np.ones(3, bool)}, "where has shape"),
        ({"scale": math.nan}, "scale is nan"),
        ({"axis": 2}, "axis"),
        ({"dtype": "int8"}, "dtype is int8"),
        ({"stream": 1}, "stream"),
        ({"device": "tpu"}, "device is 'tpu'"),
    ],
)
def test_bad_arguments_are_refused_as_for_arrays(options, words, on_disk, small_slabs):
    x = numbers((300, 100))
    for array in (x, on_disk(x)):
        with pytest.raises((TypeError, ValueError, IndexError), match=words):
            ns.softmax(array, **options)


def test_a_file_that_cannot_be_written_is_refused_before_anything_is_read(on_disk, small_slabs):
    file = on_disk(numbers((300, 100)), mode="r")
    with pytest.raises(ValueError, match="out is read-only"):
        ns.softmax(file, out=file)


# ----------------------------------------------------------------------- the cuts


@st.composite
def layouts(draw):
    shape = tuple(draw(st.lists(st.integers(1, 60), min_size=1, max_size=4)))
    axes = tuple(sorted(draw(st.sets(st.integers(0, len(shape) - 1), min_size=1))))
    order = draw(st.permutations(range(len(shape))))
    return np.zeros([shape[i] for i in order], draw(st.sampled_from([np.int8, np.int32]))).transpose(
        np.argsort(order)
    ), axes


@given(layouts(), st.integers(8, 20_000), st.integers(1, 4000), st.integers(1, 2000))
def test_slabs_cover_each_element_once_and_none_is_too_large(layout, slab, run, rows):
    x, axes = layout
    before = mapped.SLAB, mapped.SHORTEST_RUN, mapped.ROWS
    mapped.SLAB, mapped.SHORTEST_RUN, mapped.ROWS = slab, run, rows
    try:
        cut = mapped.slabs_of(x, axes, np.dtype(np.float32))
        boxes = list(cut.rows())
        for box in boxes:
            here = x[box]
            assert all(n == m for i, (n, m) in enumerate(zip(here.shape, x.shape, strict=True)) if i in axes)
            assert list(cut.parts()) == list(cut.parts(-1))[::-1]
            for part in cut.parts():
                here[part] += 1
                assert here[part].size * 8 < 2 * max(slab, mapped.PAGE)
            if cut.in_parts:
                assert math.prod(n for i, n in enumerate(here.shape) if i not in axes) <= rows
        assert (x == 1).all()
    finally:
        mapped.SLAB, mapped.SHORTEST_RUN, mapped.ROWS = before


def test_slabs_of_a_large_array_are_written_past_the_caches():
    assert mapped.SLAB >= cpu.STREAM_FROM
    x = np.lib.stride_tricks.as_strided(np.zeros(1, np.float32), (150_000, 1000), (4000, 4))
    for axes in ((1,), (0, 1)):
        assert all(
            x[rows][part].nbytes >= cpu.STREAM_FROM
            for cut in [mapped.slabs_of(x, axes, x.dtype)]
            for rows in cut.rows()
            for part in cut.parts()
        )


def test_elements_that_lie_apart_count_as_the_pages_that_they_are_on():
    x = np.lib.stride_tricks.as_strided(np.zeros(1, np.float32), (1 << 24,), (1 << 14,))
    assert mapped.slabs_of(x, (0,), x.dtype).total == x.size * mapped.PAGE // mapped.SLAB


def test_columns_of_a_file_are_not_read_in_short_pieces():
    x = np.lib.stride_tricks.as_strided(np.zeros(1, np.float32), (1 << 20, 4096), (4096 * 4, 4))
    cut = mapped.slabs_of(x, (0,), x.dtype)
    assert cut.in_parts
    assert cut.counts[1] == 1


# --------------------------------------------------------------- in a process

LIMITED = """
import resource, sys
import numpy as np, numba_softmax as ns
limit, axis, *shape = map(int, sys.argv[3:])
if limit:
    resource.setrlimit(resource.RLIMIT_DATA, (limit << 20, limit << 20))
x = np.memmap(sys.argv[1], np.float32, "r", shape=tuple(shape))
y = np.memmap(sys.argv[2], np.float32, "w+", shape=x.shape)
ns.softmax(x, axis, out=y)
assert ns.logsumexp(x, axis).shape == (shape[1 - axis],)
for row in (y if axis else y.T)[:: max(1, shape[1 - axis] // 3)]:
    assert (row[:: max(1, row.size // 1000)] == np.float32(1 / row.size)).all(), row
"""


@pytest.mark.parametrize(
    ("shape", "axis", "small"),
    [
        ((1024, 1 << 18), 1, (96, 1 << 18)),
        ((1, 1 << 28), 1, (1, 3 << 23)),
        ((1 << 16, 1 << 12), 0, (6 << 10, 1 << 12)),
    ],
)
def test_files_four_times_the_memory_allowed_are_computed(shape, axis, small, run_python, tmp_path):
    pytest.importorskip("resource", reason="memory is limited as on Unix")
    if sys.platform != "linux":
        pytest.skip("only Linux limits private memory alone")
    for limit, sizes in ((0, small), (256, shape)):  # the first process leaves its kernels on disk
        with open(tmp_path / "x", "wb") as file:
            file.truncate(4 * math.prod(sizes))
        run_python(LIMITED, tmp_path / "x", tmp_path / "y", limit, axis, *sizes, NUMBA_NUM_THREADS="2")
    for name in "xy":
        (tmp_path / name).unlink()  # which pytest would keep


@pytest.mark.skipif(sys.platform == "win32", reason="needs signals")
def test_an_interrupt_in_the_middle_of_a_file_leaves_nothing(tmp_path):
    path = tmp_path / "x.npy"
    np.save(path, np.zeros((1 << 14, 1 << 10), np.float32))
    code = """
import signal, sys, time
from numba_softmax.streaming import mapped
from numba_softmax.cli import main
signal.signal(signal.SIGINT, signal.default_int_handler)
mapped.SLAB, compute = 1 << 20, mapped.compute

def told(*args):
    *args, advance = args
    compute(*args, lambda read: (print("slab", flush=True), time.sleep(0.02), advance(read)))

mapped.compute = told
sys.exit(main(["run", sys.argv[1], "--axis=0"]))
"""
    with subprocess.Popen([sys.executable, "-c", code, path], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "slab\n"
        process.send_signal(signal.SIGINT)
        slabs = process.stdout.read().count("slab")
    assert process.returncode == 130
    assert slabs < 2 * 64  # in both streams
    assert os.listdir(tmp_path) == ["x.npy"]
