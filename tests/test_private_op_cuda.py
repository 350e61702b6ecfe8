"""An op that the package does not know is right in every regime of CUDA: two arrays of elements, a number a row, two
results and a fold of its own. Its kernels are interpreted."""

import numpy as np
import pytest
from naive import FLOATS, ulp_of
from private_op import TILT

pytest.importorskip("numba_cuda", reason="kernels are compiled by numba-cuda, which is not installed")

from gpu_fakes import FACTS
from gpus import Interpreter
from test_private_op_second import SHIFTED

from numba_softmax.backends.cuda.interop import staging
from numba_softmax.ops import finishing, folding, identity, merging, moving, reading

each_dtype = pytest.mark.parametrize("dtype", FLOATS)
OPTIONS = {"all": {}, "masked": {"where": 0.6}, "scaled": {"scale": -1.7}, "both": {"where": 0.7, "scale": 0.3}}
each_option = pytest.mark.parametrize("options", OPTIONS.values(), ids=list(OPTIONS))
none_or_both = pytest.mark.parametrize("options", [OPTIONS["all"], OPTIONS["both"]], ids=["all", "both"])

BOUNDS = {"float16": 0.51, "bfloat16": 0.51, "float32": 6.0, "float64": 12.0}
"""In units in the last place."""

FOR_ROWS = {
    "rows": [(33, 2), (20, 7), (5, 256), (3, 1001)],
    "staged_rows": [(1, 5001)],
}  # fmt: skip
FOR_COLUMNS = {"columns": [(1, 70), (7, 33), (60, 75)], "fold_columns": [(300, 40)]}


@pytest.fixture
def gpu(monkeypatch):
    """A GPU that is interpreted."""
    return Interpreter(monkeypatch)


@pytest.fixture
def in_chunks(monkeypatch):
    """Rows that are too long for registers are too long for shared memory as well."""
    monkeypatch.setitem(FACTS, "MAX_SHARED_MEMORY_PER_BLOCK_OPTIN", 4096)


class Case:
    """Inputs of the op, and what is right."""

    def __init__(self, shape, axis, dtype, *, where=None, scale=None):
        rng = np.random.default_rng(7)
        self.axis, self.scale, self.axes = axis, scale, tuple(np.atleast_1d(axis) % len(shape))
        of_rows = [size for i, size in enumerate(shape) if i not in self.axes]
        self.x, self.v = (rng.normal(0, deviation, shape).astype(FLOATS[dtype]) for deviation in (3, 2))
        self.t = rng.normal(0, 1, of_rows).astype(FLOATS[dtype])
        self.where = None if where is None else rng.random(shape) < where
        if where is not None:  # no row is without elements
            np.moveaxis(self.where, self.axes, range(len(self.axes)))[(0,) * len(self.axes)] = True

    @property
    def options(self):
        return {"axis": self.axis, "where": self.where, "scale": self.scale}

    def call(self, gpu, **more):
        return gpu.call(TILT, self.x, others=(self.v, self.t), **self.options, **more)

    def assert_right(self, out, mean=None):
        """Within a few units in the last place of the largest of the terms that are added."""
        axes = self.axes
        x, v, t = (a.astype(np.longdouble) for a in (self.x, self.v, self.t))
        keep, t = np.broadcast_to(True if self.where is None else self.where, x.shape), np.expand_dims(t, axes)
        x = np.where(keep, x * (1.0 if self.scale is None else self.scale), -np.inf)
        p = np.exp(x - x.max(axes, keepdims=True))
        p /= p.sum(axes, keepdims=True)
        close(out, np.where(keep, p * (v - t), -1.0), np.where(keep, p * (abs(v) + abs(t)), 1.0))
        if mean is not None:
            close(mean, (p * v).sum(axes), (p * abs(v)).sum(axes))


def close(result, exact, size):
    error = abs(result.astype(np.longdouble) - exact) / ulp_of(size, result.dtype)
    assert result.shape == exact.shape
    assert error.max() <= BOUNDS[result.dtype.name], error.max()


def regimes(gpu):
    """Those of the kernels of the last call."""
    return [kernel.regime for kernel, _ in gpu.launched]


def of_any_length(table):
    return pytest.mark.parametrize(
        ("shape", "regime"), [(s, regime) for regime, shapes in table.items() for s in shapes]
    )


# ------------------------------------------------------------------ elements and rows


@each_dtype
@each_option
@of_any_length(FOR_ROWS)
def test_rows_in_registers_and_in_shared_memory(gpu, dtype, options, shape, regime):
    case = Case(shape, 1, dtype, **options)
    case.assert_right(*case.call(gpu))
    assert regimes(gpu) == [regime]


@each_dtype
@none_or_both
@pytest.mark.parametrize("shape", [(1, 30_001), (2, 20_000)])
def test_rows_in_chunks(gpu, in_chunks, dtype, options, shape):
    case = Case(shape, 1, dtype, **options)
    case.assert_right(*case.call(gpu))
    assert regimes(gpu) == ["fold_chunks", "finish_chunks"]


@each_dtype
@each_option
@of_any_length(FOR_COLUMNS)
def test_columns(gpu, dtype, options, shape, regime):
    case = Case(shape, 0, dtype, **options)
    case.assert_right(*case.call(gpu))
    assert regimes(gpu) == ([regime] if regime == "columns" else [regime, "finish_columns"])


@each_dtype
@pytest.mark.parametrize(("shape", "axis"), [((9, 301), 1), ((1, 5001), 1), ((30, 70), 0)])
def test_operands_that_lie_out_of_line(gpu, dtype, shape, axis):
    """Each by another number of elements, and at last by single bytes, as in fields of packed records."""
    case, size = Case(shape, axis, dtype, where=0.7), FLOATS[dtype].itemsize
    names = "x", "v", "where", "t", "out", "mean"
    for step in (size, 1):
        case.assert_right(*case.call(gpu, offsets={name: k * step % 16 for k, name in enumerate(names, 1)}))


@each_dtype
def test_operands_with_strides_of_their_own(gpu, dtype):
    case = Case((12, 37), 1, dtype, where=0.7, scale=0.5)
    case.v = np.repeat(case.v, 3, axis=1)[:, ::3]
    case.t = np.repeat(case.t, 2)[::2]
    case.assert_right(*case.call(gpu))
    case.x, case.where = case.x[::2, ::-1], np.asfortranarray(case.where[::2])
    case.v, case.t = case.v[::2], case.t[::-2]
    case.assert_right(*case.call(gpu))
    cube = Case((6, 5, 7, 4), (0, 2), dtype, where=0.5)
    cube.assert_right(*cube.call(gpu))


@each_dtype
@pytest.mark.parametrize("t", ["one for all", "every other"])
def test_numbers_of_columns_need_not_be_neighbours(gpu, dtype, t):
    for n in (20, 300):
        case = Case((n, 75), 0, dtype)
        case.t = np.broadcast_to(case.t[:1], 75) if t == "one for all" else np.repeat(case.t, 2)[::2]
        case.assert_right(*case.call(gpu))
        assert regimes(gpu)[0].endswith("columns")


@each_dtype
def test_elements_of_another_format_than_the_results(gpu, dtype):
    for other in FLOATS:
        case = Case((4, 100), 1, dtype)
        case.v, case.t = case.v.astype(FLOATS[other]), case.t.astype(np.float64)
        case.assert_right(*case.call(gpu, dtype=np.float32))


# ------------------------------------------------------------------------------ states


@each_dtype
@none_or_both
@pytest.mark.parametrize(
    ("shape", "axis", "given"),
    [
        ((7, 301), 1, "given_rows"),
        ((2, 20_001), 1, "given_rows"),
        ((700, 9), 0, "given_columns"),
        ((5, 6, 7), 1, "given_columns"),
    ],
)
def test_states_that_blocks_are_folded_into(gpu, dtype, options, shape, axis, given):
    case = Case(shape, axis, dtype, **options)
    scaled = {"scale": case.scale}
    parts = [np.array_split(a, [shape[axis] // 3], axis) for a in (case.x, case.v, case.where) if a is not None]
    of_parts = []
    for x, v, *where in zip(*parts, strict=True):
        fold = gpu.call(folding(TILT), x, axis, others=(v,), where=where[0] if where else None, **scaled)
        of_parts.append(fold)
    merged = gpu.call(identity(TILT), of_parts[0])
    for state in of_parts:
        merged = gpu.call(merging(TILT), gpu.call(moving(TILT), state), others=(merged,), **scaled)
        assert regimes(gpu) == ["states"]
    out = gpu.call(finishing(TILT), case.x, others=(case.v, case.t, merged), **case.options)
    assert regimes(gpu) == [given]
    case.assert_right(out, gpu.call(reading(TILT), merged, others=(case.t,), dtype=FLOATS[dtype], **scaled))


# ----------------------------------------------------------------- arrays in host memory


@each_dtype
@none_or_both
@pytest.mark.parametrize(("shape", "axis"), [((40, 30), 1), ((3, 6000), 1), ((9, 70), 0), ((5, 6, 7), (0, 2))])
def test_host_arrays_are_moved_in_slices(gpu, monkeypatch, dtype, options, shape, axis):
    monkeypatch.setattr(staging, "SLICE_BYTES", 1 << 8)
    case = Case(shape, axis, dtype, **options)
    case.t = case.t.astype(">f8")
    gpu.backend = staging
    case.assert_right(*case.call(gpu))
    assert len(gpu.launched) > 1


@pytest.mark.parametrize(("shape", "axis"), [((3, 100), 1), ((100, 9), 0)])
def test_states_and_numbers_of_rows_go_together_in_float32(gpu, shape, axis):
    """An op may compute with both; see `test_private_op_second`."""
    rng = np.random.default_rng(3)
    x, v = rng.normal(0, 3, (2, *shape)).astype(np.float32)
    t = rng.normal(0, 1, np.delete(shape, axis)).astype(np.float32)
    _, shifted = gpu.call(SHIFTED, x, axis, others=(t, v))
    np.testing.assert_allclose(shifted, 2 * t + x.max(axis), rtol=1e-6, atol=1e-6)
