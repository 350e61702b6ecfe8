"""What the CUDA kernels do besides computing: bytes, sectors, banks, barriers; and bits that nothing else changes.

The interpreter counts. That it finds no access out of bounds or out of line, no use of memory that nobody wrote and
no race is part of every test that uses it.
"""

import numpy as np
import pytest
from naive import FLOATS, NAMES, assert_right, same_bits

pytest.importorskip("numba_cuda", reason="kernels are compiled by numba-cuda, which is not installed")

from gpus import Interpreter

from numba_softmax.backends import cuda
from numba_softmax.backends.cuda import plan
from numba_softmax.backends.spec import operands_for
from numba_softmax.call.layout import Layout
from numba_softmax.ops import OPS

each_op = pytest.mark.parametrize("name", NAMES)
each_dtype = pytest.mark.parametrize("dtype", FLOATS)

IN_REGISTERS, STAGED = (4, 8, 64, 256, 1024, 3072, 4096), (16_384, 32_768)
"""Row lengths that are read once; float64 of the last one does not fit shared memory."""

COLUMNS = (1, 8, 30, 64, 128)
"""The same of columns."""

SECTOR, WIDEST = 32, 16


@pytest.fixture
def gpu(monkeypatch):
    return Interpreter(monkeypatch)


def normal(shape, dtype, seed=0):
    return np.random.default_rng(seed).normal(0, 4, shape).astype(FLOATS[dtype])


def float32_of(name):
    """The operands of an op in float32."""
    return operands_for(OPS[name], "float32", "float32", masked=False)


def assert_each_byte_once(gpu):
    traffic = gpu.counts.traffic
    assert (traffic["x"].read == 1).all()
    assert (traffic["x"].written == 0).all()
    assert (traffic["out"].written == 1).all()
    assert (traffic["out"].read == 0).all()


# --------------------------------------------------------------------------- bytes


@each_op
@each_dtype
def test_rows_of_up_to_32k_elements_are_read_once(gpu, name, dtype):
    for n in (*IN_REGISTERS, *STAGED[: 1 if dtype == "float64" else 2]):
        gpu.call(name, normal((max(1, 8192 // n), n), dtype))
        assert_each_byte_once(gpu)


@each_op
@each_dtype
def test_columns_that_fit_registers_are_read_once(gpu, name, dtype):
    for n in COLUMNS:
        gpu.call(name, normal((n, 128), dtype), 0)
        assert_each_byte_once(gpu)


@each_op
@each_dtype
def test_rows_that_begin_anywhere_are_read_once_but_for_vectors_at_the_ends_of_warps(gpu, name, dtype):
    size = FLOATS[dtype].itemsize
    for n in (5, 37, 1001, 5001, 20_001 if dtype != "float64" else 10_001):
        for offset in (0, size):
            gpu.call(name, normal((2, n), dtype), offsets={"x": offset, "out": offset})
            read, written = gpu.counts.traffic["x"].read, gpu.counts.traffic["out"].written
            assert (read >= 1).all()
            assert read.mean() <= 1.04
            assert (written == 1).all()


@each_op
@each_dtype
def test_longer_rows_are_read_twice_and_written_once(gpu, name, dtype):
    x = normal((1, 1 << 18), dtype)
    gpu.call(name, x)
    reads = sum(counts.traffic["x"].read.astype(int) for _, counts in gpu.launched)
    assert (reads == (1 if OPS[name].reduces else 2)).all()
    assert (gpu.launched[-1][1].traffic["out"].written == 1).all()
    states = sum(counts.traffic["temporary"].read.sum() for _, counts in gpu.launched)
    assert states < x.nbytes / 10


@each_op
@each_dtype
def test_accesses_are_as_wide_as_can_be_and_fill_their_sectors(gpu, name, dtype):
    for n in (*IN_REGISTERS[1:], *STAGED[:1]):
        x = normal((max(64, 8192 // n) if n < 100 else 4, n), dtype)
        y = gpu.call(name, x)
        loads, stores = gpu.counts.loads, gpu.counts.stores
        assert loads.share(WIDEST) == 1
        assert loads.sectors == x.nbytes // SECTOR
        if not OPS[name].reduces:
            assert stores.share(WIDEST) == 1
            assert stores.sectors == y.nbytes // SECTOR
    x = normal((100, 256), dtype)
    gpu.call(name, x, 0)
    assert gpu.counts.loads.share(WIDEST) == 1
    assert gpu.counts.loads.sectors == x.nbytes // SECTOR


@each_op
@each_dtype
@pytest.mark.parametrize("n", [1001, 5001, 20_001, 300_001])
def test_rows_that_begin_anywhere_are_moved_by_wide_accesses_too(gpu, name, dtype, n):
    x = normal((max(1, 5000 // n), n), dtype)
    for offset in range(1, 16 // x.itemsize):
        gpu.call(name, x, offsets={"x": offset * x.itemsize, "out": (offset + 1) * x.itemsize})
        assert gpu.launched[0][1].loads.share(WIDEST) > 0.98
        if not OPS[name].reduces:
            stores = gpu.launched[-1][1].stores
            assert stores.share(WIDEST) > 0.95
            assert stores.bytes == x.nbytes


# ------------------------------------------------------------ barriers, banks, work


@each_op
@each_dtype
def test_a_row_of_one_warp_has_no_barrier_and_a_longer_one_has_one(gpu, name, dtype):
    for n in (*IN_REGISTERS, *STAGED[:1]):
        gpu.call(name, normal((2, n), dtype))
        ((kernel, counts),) = gpu.launched
        assert counts.barriers_per_block == (0 if kernel.geometry.threads <= 32 else 1)


@each_op
@each_dtype
def test_shared_memory_has_no_bank_conflicts(gpu, name, dtype):
    for x, axis in ((normal((2, 4096), dtype), 1), (normal((1, 16_384), dtype), 1), (normal((128, 200), dtype), 0)):
        gpu.call(name, x, axis)
        assert gpu.counts.shared_accesses > 0
        assert gpu.counts.conflicts == 0
    gpu.call(name, normal((700, 200), dtype), 0)
    assert sum(counts.conflicts for _, counts in gpu.launched) == 0


INSTRUCTIONS = {
    ("softmax", "float32"): 46, ("log_softmax", "float32"): 57, ("logsumexp", "float32"): 45,
    ("softmax", "bfloat16"): 17, ("log_softmax", "bfloat16"): 29, ("logsumexp", "bfloat16"): 16,
    ("softmax", "float16"): 17, ("log_softmax", "float16"): 28, ("logsumexp", "float16"): 16,
}  # fmt: skip
"""At most so many instructions of PTX an element of a row of 4096, moves apart. At the memory's speed a multiprocessor
of an H200 has the time for about 50 in float32 and 25 in 16 bits."""


@pytest.mark.parametrize(("name", "dtype"), INSTRUCTIONS)
def test_few_instructions_are_executed_for_an_element(gpu, name, dtype):
    x = normal((2, 4096), dtype)
    gpu.call(name, x)
    moves = gpu.counts.of_class("mov") + gpu.counts.of_class("ld.param")
    assert (gpu.counts.executed - moves) / x.size <= INSTRUCTIONS[name, dtype]


# ----------------------------------------------------------------------------- bits


@each_op
@each_dtype
@pytest.mark.parametrize("n", [37, 1000, 5000, 20_000, 150_000])
def test_bits_depend_on_the_row_alone(gpu, name, dtype, n):
    rows = max(2, min(40, 20_000 // n))
    x = normal((rows, n), dtype)
    whole = gpu.call(name, x)
    assert same_bits(gpu.call(name, x), whole)
    assert same_bits(gpu.call(name, x[1:2].copy()), whole[1:2])
    size = x.itemsize
    assert same_bits(gpu.call(name, x[:2], offsets={"x": size, "out": 3 * size}), whole[:2])
    wide = np.zeros((rows, n + 3), x.dtype)
    wide[:, :n] = x
    assert same_bits(gpu.call(name, wide[:, :n]), whole)


@each_op
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("n", [30, 700])
def test_bits_depend_on_the_column_alone(gpu, name, dtype, n):
    x = normal((n, 300), dtype)
    whole = gpu.call(name, x, 0)
    for first, end in ((100, 203), (7, 9), (50, 53), (100, 140)):
        part = gpu.call(name, np.ascontiguousarray(x[:, first:end]), 0)
        assert same_bits(part, np.ascontiguousarray(whole[..., first:end]))
    stack = np.ascontiguousarray(x.reshape(n, 100, 3).transpose(1, 0, 2))  # 100 groups of 3 columns
    grouped = gpu.call(name, stack, 1)
    unstacked = grouped.reshape(300) if OPS[name].reduces else grouped.transpose(1, 0, 2).reshape(n, 300)
    assert same_bits(np.ascontiguousarray(unstacked), whole)


@each_op
@pytest.mark.parametrize("shape", [(300, 37), (3, 5000), (1, 20_000), (1, 150_000)])
@pytest.mark.parametrize("settings", [{"order": "reverse"}, {"warps": "forward"}, {"warps": "reverse"}])
def test_bits_do_not_depend_on_the_order_of_blocks_and_warps(gpu, name, shape, settings):
    x = normal(shape, "float32")
    whole = gpu.call(name, x)
    gpu.settings = settings
    assert same_bits(gpu.call(name, x), whole)


def test_rows_of_a_matrix_and_columns_of_its_transpose_agree_closely(gpu):
    x = normal((40, 100), "float32")
    a, b = gpu.call("softmax", x), gpu.call("softmax", np.ascontiguousarray(x.T), 0).T
    np.testing.assert_allclose(a, b, rtol=4 * 2.0**-24)


# --------------------------------------------------------------------------- limits


@each_op
@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
@pytest.mark.parametrize("approximation", [-1, 1, "mixed"])
def test_sixteen_bits_hold_with_the_least_precise_exp2_that_is_allowed(gpu, name, dtype, approximation):
    gpu.settings = {"approximation": approximation}
    for x, axis in ((normal((30, 200), dtype), 1), (normal((3, 5000), dtype), 1), (normal((90, 70), dtype), 0)):
        assert_right(name, gpu.call(name, x, axis), x, axis)


@each_op
@pytest.mark.parametrize("step", [5 << 32, -(5 << 32), 1 << 31])
@pytest.mark.parametrize("n", [40, 20_000, 300_000])
def test_rows_that_lie_farther_apart_than_32_bits_count(gpu, name, step, n):
    x = normal((2, n), "float32")
    y = np.zeros((2, 1 if OPS[name].reduces else n), np.float32)
    x_at, y_at = 1 << 44, 1 << 45
    for i in range(2):
        gpu.arrays[f"x{i}"], gpu.arrays[f"y{i}"] = (x_at + i * step, x[i]), (y_at + i * step, y[i])
    reduced = (n, 4, 0) if OPS[name].reduces else (n, 4, 4)
    layout = Layout(float32_of(name), 2, n, ((2, step, step),), (reduced,))
    cuda.launcher_for(OPS[name], layout)((x_at, y_at), None, gpu.queue)
    assert_right(name, y[:, 0] if OPS[name].reduces else y, x)


@each_op
def test_elements_that_lie_farther_apart_than_32_bits_count(gpu, name):
    x, y, step = normal((3, 64), "float32"), np.zeros((3, 64), np.float32), 3 << 32
    for i in range(3):
        gpu.arrays[f"x{i}"], gpu.arrays[f"y{i}"] = ((1 << 44) + i * step, x[i]), ((1 << 45) + i * step, y[i])
    y_step = 0 if OPS[name].reduces else step
    layout = Layout(float32_of(name), 64, 3, ((64, 4, 4),), ((3, step, y_step),))
    cuda.launcher_for(OPS[name], layout)((1 << 44, 1 << 45), None, gpu.queue)
    assert_right(name, y[0] if OPS[name].reduces else y, x, 0)


@each_op
@pytest.mark.parametrize("columns", [1 << 31, 1 << 32, 3 << 31])
def test_more_columns_than_32_bits_count(gpu, monkeypatch, name, columns):
    """The first strip of them, that is: all take too long."""
    monkeypatch.setattr(plan._Planner, "_strips", lambda *_: 1)
    x, y = normal((3, 512), "float32"), np.zeros((3, 512), np.float32)
    for i in range(3):
        at = 4 * columns * i
        gpu.arrays[f"x{i}"], gpu.arrays[f"y{i}"] = ((1 << 44) + at, x[i]), ((1 << 45) + at, y[i])
    y_step = 0 if OPS[name].reduces else 4 * columns
    layout = Layout(float32_of(name), columns, 3, ((columns, 4, 4),), ((3, 4 * columns, y_step),))
    cuda.launcher_for(OPS[name], layout)((1 << 44, 1 << 45), None, gpu.queue)
    assert_right(name, y[0] if OPS[name].reduces else y, x, 0)


def test_older_machines_round_to_bfloat16_in_integers(monkeypatch):
    gpu = Interpreter(monkeypatch, capability=(7, 5))
    for x in (normal((9, 100), "bfloat16"), normal((1, 9001), "bfloat16")):
        for name in NAMES:
            assert_right(name, gpu.call(name, x), x)
    assert not any("bf16" in opcode for _, counts in gpu.launched for opcode in counts.instructions)
