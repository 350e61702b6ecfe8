"""Nothing is read or written beyond an array: arrays end, or begin, at a page that must not be touched.

A touch ends the process, so the calls are made in one that prints each call before it.
"""

import os

import pytest
from naive import NAMES

from numba_softmax.ops import OPS

GUARDED = """
import ctypes, itertools, mmap, sys
import numba, numpy as np
from numpy.lib.stride_tricks import as_strided
from naive import FLOATS, OPS, assert_right
import numba_softmax as ns

name, dtype, layout, masked = sys.argv[1], FLOATS[sys.argv[2]], sys.argv[3], sys.argv[4] == "True"
numba.set_num_threads(1)
libc, page, kept = ctypes.CDLL(None, use_errno=True), mmap.PAGESIZE, []


def guarded(size, dtype, at_end):
    '''Elements that end at, or begin after, a page that cannot be read or written.'''
    bytes_ = size * dtype.itemsize
    inside = max(1, -(-bytes_ // page)) * page
    room = mmap.mmap(-1, inside + 2 * page)
    address = ctypes.addressof(ctypes.c_char.from_buffer(room))
    kept.append(room)
    for forbidden in (address, address + page + inside):
        assert libc.mprotect(ctypes.c_void_p(forbidden), page, 0) == 0
    start = page + inside - bytes_ if at_end else page
    return np.frombuffer(room, np.uint8, bytes_, start).view(dtype)


def laid_out(rows, n, dtype, at_end):
    if layout == "columns":
        return guarded(rows * n, dtype, at_end).reshape(n, rows), 0
    if layout != "gathered":
        return guarded(rows * n, dtype, at_end).reshape(rows, n), 1
    spread = guarded(2 * rows * n - 1, dtype, at_end)
    return as_strided(spread, (rows, n), (2 * n * dtype.itemsize, 2 * dtype.itemsize)), 1


lengths = (*range(1, 20), 31, 33, 63, 64, 65, 129, 1000, 2047, 2048, 8191, 8192, 8193)
if layout == "long":
    lengths = (2049, 2050, 4096, 5003, 8193, 16385, 65535, 65536, 65537, 131075)
if layout == "tiny":
    lengths = range(1, 18)
for n, at_end in itertools.product(lengths, (False, True)):
    counts = (1, 3)
    if layout == "columns":
        counts = (8, 9, 16, 17, 131, 255, 257, 263) if n < 100 else (9,)
    if layout == "tiny":
        counts = (*range(1, 34), 255, 256, 257, 300)
    for rows in counts:
        print(f"n={n} rows={rows} at_end={at_end}", flush=True)
        x, axis = laid_out(rows, n, dtype, at_end)
        x[...] = (np.arange(x.size).reshape(x.shape) * 7919 % 31) / 4
        where = None
        if masked:
            where, _ = laid_out(rows, n, np.dtype(bool), at_end)
            where[...] = np.arange(x.size).reshape(x.shape) % 3 > 0
        if OPS[name].reduces:
            out = guarded(rows, dtype, at_end)
        else:
            out, _ = laid_out(rows, n, dtype, at_end)
        getattr(ns, name)(x, axis, where=where, out=out)
        if n < 70:
            assert_right(name, out, x, axis, where=where)
        if not OPS[name].reduces:
            before = out.copy()
            getattr(ns, name)(x, axis, where=where, out=x)
            assert (x == before).all()
        while kept:
            kept.pop()
"""

KINDS = [
    *(
        (name, "float32", layout, masked)
        for name in NAMES
        for layout in ("short", "tiny", "columns")
        for masked in (False, True)
    ),
    *((name, "float32", layout, False) for name in ("softmax", "logsumexp") for layout in ("long", "gathered")),
    *(("softmax", dtype, "short", masked) for dtype in ("float16", "bfloat16", "float64") for masked in (False, True)),
    ("softmax", "float32", "gathered", True),
]


@pytest.mark.parametrize(("name", "dtype", "layout", "masked"), KINDS)
def test_nothing_beyond_an_array_is_touched(name, dtype, layout, masked, run_python):
    pytest.importorskip("resource", reason="protected pages are made as on Unix")
    run_python(GUARDED, name, dtype, layout, masked)


STREAMED = """
import numba_softmax.backends.cpu as cpu
cpu.STREAM_FROM = 0
"""


@pytest.mark.parametrize("name", [name for name in NAMES if not OPS[name].reduces])
@pytest.mark.parametrize("layout", ["short", "columns", "long"])
def test_nothing_beyond_an_array_is_touched_past_the_caches(name, layout, run_python):
    pytest.importorskip("resource", reason="protected pages are made as on Unix")
    run_python(STREAMED + GUARDED, name, "float32", layout, False)


def test_nothing_beyond_an_array_is_touched_past_the_caches_with_a_mask(run_python):
    pytest.importorskip("resource", reason="protected pages are made as on Unix")
    run_python(STREAMED + GUARDED, "softmax", "float32", "columns", True)


BESIDE = """
import sys
import numba, numpy as np
from naive import OPS, assert_right, same_bits
import numba_softmax as ns
from numba_softmax.backends import cpu

name, cpu.STREAM_FROM = sys.argv[1], int(sys.argv[2])
numba.set_num_threads(1)
rng = np.random.default_rng(0)
for n in (1, 3, 8, 16, 17, 40):
    for rows in (8, 9, 15, 17, 33, 131, 257):
        for offset in (0, 1, 4, 20, 33, 60):
            for axis in (0, 1):
                print(f"n={n} rows={rows} offset={offset} axis={axis}", flush=True)
                if cpu.STREAM_FROM == 0 and offset % 4 and axis == 1 and n > 16:
                    continue  # what test_bits.py tests
                # An odd number of columns of a wider array, at any address; what is beside them is NaN, or must stay.
                shape = (n, rows) if axis == 0 else (rows, n)
                wide = shape[0], shape[1] + 5
                room, out_room = (np.zeros(wide[0] * wide[1] * 4 + 128, np.uint8) for _ in range(2))
                x, out = (
                    r[-r.ctypes.data % 64 + offset :][: wide[0] * wide[1] * 4].view(np.float32).reshape(wide)
                    for r in (room, out_room)
                )
                x[...] = np.nan
                x[:, 2:-3] = rng.normal(0, 5, shape)
                out_room[...] = 7
                if OPS[name].reduces:
                    place = out[0, 2 : 2 + rows] if axis == 0 else out[:, 2]
                else:
                    place = out[:, 2:-3]
                getattr(ns, name)(x[:, 2:-3], axis, out=place)
                assert_right(name, place, x[:, 2:-3].copy(), axis)
                place[...] = np.array([7, 7, 7, 7], np.uint8).view(np.float32)
                assert (out_room == 7).all()
"""


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("stream_from", [0, 1 << 25])
def test_nothing_beside_the_results_is_written(name, stream_from, run_python):
    run_python(BESIDE, name, stream_from)


SCRATCH = """
import sys
import numba, numpy as np
from naive import OPS
import numba_softmax as ns

name, layout, threads = sys.argv[1:]
numba.set_num_threads(int(threads))
x = np.ones((4, 1 << 22), np.float32)
x = {"rows": x, "columns": x.reshape(-1, 16), "gathered": x.reshape(4, -1, 2)[..., 0]}[layout]
axis = 0 if layout == "columns" else 1
out = np.ones(x.shape[1 - axis], x.dtype) if OPS[name].reduces else np.ones_like(x)


def peak():
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) for line in status if line.startswith("VmHWM"))


getattr(ns, name)(x, axis, out=out)  # loads kernels and starts threads
with open("/proc/self/clear_refs", "w") as reset:
    reset.write("5")
before = peak()
getattr(ns, name)(x, axis, out=out)
assert peak() - before <= 1024 * int(threads), f"{peak() - before} KiB more, of {x.nbytes >> 10}"
"""


@pytest.mark.parametrize("name", ["softmax", "logsumexp"])
@pytest.mark.parametrize(("layout", "threads"), [("rows", 1), ("rows", 2), ("columns", 1), ("gathered", 1)])
def test_scratch_memory_is_at_most_a_mebibyte_a_thread(name, layout, threads, run_python):
    if not os.access("/proc/self/clear_refs", os.W_OK):
        pytest.skip("the peak of memory can be measured on Linux alone")
    run_python(SCRATCH, name, layout, threads, NUMBA_NUM_THREADS="2")


FREED = """
import threading
import numpy as np, numba_softmax as ns
rows = np.random.default_rng(0).standard_normal((3, 65536)).astype("f4")
columns = [np.random.default_rng(i).standard_normal((100, 200)).astype("f4") for i in range(16)]
right = [ns.softmax(x, 0).tobytes() for x in columns]
wrong = []

def work(i):
    for _ in range(200):
        if ns.softmax(columns[i], 0).tobytes() != right[i]:
            wrong.append(i)

ns.softmax(rows), ns.softmax(rows[:, ::2])
threads = [threading.Thread(target=work, args=(i,)) for i in range(len(columns))]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
assert not wrong, len(wrong)
"""


def test_scratch_memory_is_held_while_it_is_used(run_python):
    # Below this size the C library gives freed memory back at once, and to touch it then ends the process.
    run_python(FREED, MALLOC_MMAP_THRESHOLD_="65536", NUMBA_NUM_THREADS="1")


ODD = """
import numba, numpy as np, numba_softmax as ns
from numba_softmax.call.plan import plan_call
from numba_softmax.backends import cpu

numba.set_num_threads(1)
x = np.random.default_rng(0).standard_normal((3, 3000)).astype(np.float32)
expected = ns.softmax(x.copy())
plan_call.cache_clear()
cpu.STREAM_FROM = 0
for offset in range(5):
    out = np.zeros(x.nbytes + 64, np.uint8)[offset : offset + x.nbytes].view(np.float32).reshape(x.shape)
    ns.softmax(x, out=out)
    np.testing.assert_array_equal(out, expected)
"""


def test_results_at_odd_addresses_are_not_streamed(run_python):
    run_python(ODD)
