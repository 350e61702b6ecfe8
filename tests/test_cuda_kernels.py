"""The CUDA kernels are right: their PTX, run by the interpreter or on a GPU, gives what the definitions say."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from naive import FLOATS, NAMES, assert_right
from test_edges import CASES, row_of

pytest.importorskip("numba_cuda", reason="kernels are compiled by numba-cuda, which is not installed")

from gpus import Interpreter, RealGpu

each_op = pytest.mark.parametrize("name", NAMES)
each_dtype = pytest.mark.parametrize("dtype", FLOATS)

# The lengths at the ends of the kinds of kernels, and one within each that no vector divides.
ROW_LENGTHS = (1, 3, 4, 8, 29, 64, 200, 256, 511, 1000, 1024, 1501, 4096, 8192, 8193, 20_001)
LONG = 300_000
COLUMN_LENGTHS = (1, 2, 7, 8, 30, 64, 100, 256, 300, 2000)


@pytest.fixture(params=["interpreted", pytest.param("real", marks=pytest.mark.gpu)])
def gpu(request, monkeypatch):
    """A GPU, of either kind."""
    return Interpreter(monkeypatch) if request.param == "interpreted" else RealGpu()


def normal(shape, dtype, seed=0, deviation=4):
    return np.random.default_rng(seed).normal(0, deviation, shape).astype(FLOATS[dtype])


def mask_of(shape, share=0.7):
    return np.random.default_rng(5).random(shape) < share


def rows_of(n):
    """Few rows of a long kind, more of a short one: not a whole number of blocks."""
    return max(1, min(33, 12_000 // n))


# ------------------------------------------------------------------------ results


@each_op
@each_dtype
@pytest.mark.parametrize("n", ROW_LENGTHS)
def test_rows_of_any_length(gpu, name, dtype, n):
    x = normal((rows_of(n), n), dtype)
    assert_right(name, gpu.call(name, x), x)


@each_op
@each_dtype
def test_rows_too_long_for_shared_memory(gpu, name, dtype):
    x = normal((1, LONG), dtype)
    assert_right(name, gpu.call(name, x), x)


@each_op
@each_dtype
@pytest.mark.parametrize("n", COLUMN_LENGTHS)
def test_columns_of_any_length(gpu, name, dtype, n):
    x = normal((2, n, 75), dtype)
    assert_right(name, gpu.call(name, x, 1), x, 1)


@each_op
@each_dtype
@pytest.mark.parametrize("n", [7, 300, 5000, 20_001])
def test_masked_and_scaled_rows(gpu, name, dtype, n):
    x, keep = normal((rows_of(n), n), dtype), mask_of((rows_of(n), n))
    for options in ({"where": keep}, {"where": keep, "scale": -1.7}, {"scale": 0.125}):
        assert_right(name, gpu.call(name, x, **options), x, **options)


@each_op
@each_dtype
@pytest.mark.parametrize("n", [7, 100, 600])
def test_masked_and_scaled_columns(gpu, name, dtype, n):
    x, options = normal((n, 70), dtype), {"where": mask_of((n, 70)), "scale": 0.3}
    assert_right(name, gpu.call(name, x, 0, **options), x, 0, **options)


@each_op
@each_dtype
@pytest.mark.parametrize("off", range(1, 8))
@pytest.mark.parametrize("n", [37, 9001])
def test_memory_that_is_not_aligned(gpu, name, dtype, off, n):
    x, size = normal((2, n), dtype), FLOATS[dtype].itemsize
    keep = mask_of(x.shape)
    result = gpu.call(name, x, where=keep, offsets={"x": off * size, "out": (16 - off) * size, "where": off})
    assert_right(name, result, x, where=keep)


@each_op
@each_dtype
def test_elements_at_addresses_that_are_no_multiples_of_their_size(gpu, name, dtype):
    """As in fields of packed records."""
    for x, axis in ((normal((5, 40), dtype), 1), (normal((1, 5000), dtype), 1), (normal((5, 70), dtype), 0)):
        assert_right(name, gpu.call(name, x, axis, offsets={"x": 1, "out": 3}), x, axis)


@each_op
@each_dtype
def test_elements_that_are_not_neighbours(gpu, name, dtype):
    wide = normal((20, 2 * 37), dtype)
    cube = normal((6, 5, 7, 4), dtype)
    for x, axis in [
        (wide[:, ::2], 1),
        (wide[:, ::-1], 1),
        (wide[::3, ::2], 0),
        (cube, (0, 2)),
        (cube, None),
        (cube, 1),
    ]:
        assert_right(name, gpu.call(name, x, axis), x, axis)
    few = normal((3000, 3), dtype)
    assert_right(name, gpu.call(name, few, 0), few, 0)


@each_op
@each_dtype
@pytest.mark.parametrize("layout", ["rows", "columns", "strided"])
@pytest.mark.parametrize("case", CASES)
def test_the_contract_of_the_edges(gpu, name, dtype, layout, case):
    elements, keep, *_ = row_of(case)
    x = np.stack([elements, elements[::-1]] * 20).astype(FLOATS[dtype])
    keep = None if keep is None else np.stack([keep, keep[::-1]] * 20)
    axis = 1
    if layout == "columns":
        x, keep, axis = np.ascontiguousarray(x.T), None if keep is None else np.ascontiguousarray(keep.T), 0
    elif layout == "strided":
        x = np.repeat(x, 2, axis=1)[:, ::2]
    assert_right(name, gpu.call(name, x, axis, where=keep), x, axis, where=keep)


@each_op
@pytest.mark.parametrize("x_dtype", ["bool", "int8", "uint8", "int16", "int32", "int64", "uint64"])
def test_integers_are_computed_in_float64(gpu, name, x_dtype):
    x = np.random.default_rng(0).integers(0, 2 if x_dtype == "bool" else 90, (7, 70)).astype(x_dtype)
    for axis in (0, 1):
        assert_right(name, gpu.call(name, x, axis), x, axis)


@each_op
@pytest.mark.parametrize("x_dtype", FLOATS)
@pytest.mark.parametrize("y_dtype", FLOATS)
def test_results_in_another_format(gpu, name, x_dtype, y_dtype):
    x = normal((7, 70), x_dtype)
    assert_right(name, gpu.call(name, x, dtype=FLOATS[y_dtype]), x)


@each_op
def test_scales_that_float32_cannot_hold(gpu, name):
    x = normal((5, 40), "float32")
    for scale, factor in ((1e-30, 1e30), (1e39, 1e-39), (0.0, 1.0), (1.0, 1.0)):
        scaled = (x * np.float64(factor)).astype(np.float32)
        assert_right(name, gpu.call(name, scaled, scale=scale), scaled, scale=scale)


@each_op
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("deviation", [0.01, 30, 1000])
@pytest.mark.parametrize("offset", [0, -1000, 1e30])
def test_rows_of_any_scale_and_offset(gpu, name, dtype, deviation, offset):
    for rows, n in ((30, 9), (6, 600), (2, 3000), (1, 10_000)):
        x = (normal((rows, n), dtype, deviation=deviation) + FLOATS[dtype].type(offset)).astype(dtype)
        assert_right(name, gpu.call(name, x), x)
        x = np.sort(x)
        assert_right(name, gpu.call(name, x), x)
    assert_right(name, gpu.call(name, x.T, 0), x.T, 0)


@each_op
@each_dtype
def test_rows_where_one_element_outweighs_the_others(gpu, name, dtype):
    gaps = np.linspace(0, 750 if dtype == "float64" else 110, 500)
    x = np.stack([gaps * 0, -gaps, -gaps - 0.7], axis=1).astype(FLOATS[dtype])
    assert_right(name, gpu.call(name, x), x)
    far = normal((1, 5000), dtype)  # whole warps far below the maximum
    far[0, 4321] = gaps[-1] - 20
    assert_right(name, gpu.call(name, far), far)
    if dtype == "float32":  # terms of less than half the smallest subnormal, which together are more
        sums = np.full((1, 5000), -105.5, np.float32)
        sums[0, 17] = 0
        assert_right(name, gpu.call(name, sums), sums)
    ends = normal((1, 20_001), dtype)
    ends[0, -1] = gaps[-1] - 20
    assert_right(name, gpu.call(name, ends), ends)


@each_op
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize(("n", "axis"), [(4096, 1), (20_000, 1), (LONG, 1), (100, 0), (2000, 0)])
def test_sums_of_many_terms_below_the_normal_numbers(gpu, name, dtype, n, axis):
    """The sum of all but the maximum is a normal number, and the result of `log_softmax` and `logsumexp`."""
    row = np.full(n, (-86.5 if dtype == "float32" else -707.5) - np.log(n), FLOATS[dtype])
    row[n // 3] = 0
    x = row[None] if axis else np.repeat(row[:, None], 64, 1)
    assert_right(name, gpu.call(name, x, axis), x, axis)


@each_op
@settings(max_examples=40)
@given(data=st.data())
def test_any_shape_axis_and_mask(name, data):
    shape = tuple(data.draw(st.lists(st.integers(1, 40), min_size=1, max_size=3)))
    axis = data.draw(st.sampled_from([*range(len(shape)), None]))
    dtype = data.draw(st.sampled_from(list(FLOATS)))
    seed = data.draw(st.integers(0, 99))
    x = normal(shape, dtype, seed)
    x[np.abs(x) > data.draw(st.sampled_from([3, 6, 100]))] = -np.inf
    where = mask_of(shape) if data.draw(st.booleans()) else None
    with pytest.MonkeyPatch.context() as patch:
        assert_right(name, Interpreter(patch).call(name, x, axis, where=where), x, axis, where=where)


def test_rows_without_elements_and_no_rows(gpu):
    assert (gpu.call("logsumexp", np.empty((3, 0), np.float32)) == -np.inf).all()
    assert gpu.call("softmax", np.empty((3, 0), np.float32)).shape == (3, 0)
    assert gpu.call("logsumexp", np.empty((0, 3), np.float32)).shape == (0,)
