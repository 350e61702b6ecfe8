"""What cannot be served is refused by name, before anything is written."""

import datetime
import decimal

import numpy as np
import pytest
from naive import NAMES

import numba_softmax as ns
from numba_softmax.ops import OPS

each_op = pytest.mark.parametrize("name", NAMES)


def refused(error, match, name, x, *args, **options):
    """The call raises, and leaves `out` as it was."""
    out = options.get("out")
    before = out.tobytes() if isinstance(out, np.ndarray) else None
    with pytest.raises(error, match=match):
        getattr(ns, name)(x, *args, **options)
    assert before is None or out.tobytes() == before


@each_op
def test_masked_arrays_are_told_of_where(name):
    x = np.ma.masked_array([1.0, 2.0, 3.0], [False, True, False])
    refused(TypeError, r"where=~x\.mask", name, x)


@each_op
@pytest.mark.parametrize(
    "x",
    [
        [1 + 2j], np.ones(3, np.complex64), np.array([1.0, None]), np.array([decimal.Decimal(1)]), ["a", "b"],
        np.array([b"a"]), np.array(["2020-01-01"], "M8[D]"), np.array([3], "m8[s]"), [datetime.datetime(2020, 1, 1)],
        np.ones(3, np.longdouble), np.zeros(3, [("a", "f4")]), None, {"a": 1},
    ],
    ids=lambda x: type(x).__name__ if not isinstance(x, np.ndarray) else str(x.dtype),
)  # fmt: skip
def test_dtypes_that_are_no_real_numbers(name, x):
    refused(TypeError, r"^x ", name, x)


@each_op
def test_ragged_lists(name):
    refused(ValueError, None, name, [[1.0], [1.0, 2.0]])


@each_op
def test_axis_is_checked(name):
    x = np.zeros((3, 4))
    for axis in (2, -3, (0, 2), 10**30):
        refused((np.exceptions.AxisError, OverflowError), None, name, x, axis)
    for axis in (2, -3, (0, 2)):
        refused(np.exceptions.AxisError, "axis", name, x, axis)
    refused(np.exceptions.AxisError, "axis", name, 1.0, 1)
    refused(ValueError, "axis", name, x, (0, 0))
    refused(ValueError, "axis", name, x, (1, -1))
    for axis in (1.0, "0", [0], (0.5,), np.float64(1)):
        refused(TypeError, None, name, x, axis)


@each_op
def test_out_is_checked(name):
    x = np.zeros((3, 4), np.float32)
    shape = (3,) if OPS[name].reduces else (3, 4)
    for wrong in [(4,), (3, 5), (1, *shape), ()]:
        refused(ValueError, "out", name, x, out=np.ones(wrong, np.float32))
    for dtype in ("i4", "c8", "?", "O", "g", "M8[s]"):
        refused(TypeError, "out", name, x, out=np.ones(shape, "i8").astype(dtype))
    read_only = np.ones(shape, np.float32)
    read_only.flags.writeable = False
    refused(ValueError, "out", name, x, out=read_only)
    refused(ValueError, "out", name, x, out=np.broadcast_to(np.float32(1), shape))
    for out in ([0.0] * 3, 5.0, "out", (np.zeros(shape),)):
        refused(TypeError, "out", name, x, out=out)
    refused(TypeError, "out", name, x, out=np.ma.masked_array(np.ones(shape, np.float32), True))
    refused(TypeError, "out", name, x, out=np.ones(shape, np.float32), dtype=np.float64)


def test_out_of_the_shape_without_keepdims_is_refused_with_it():
    x = np.zeros((3, 4))
    refused(ValueError, "out", "logsumexp", x, out=np.ones(3), keepdims=True)
    refused(ValueError, "out", "logsumexp", x, out=np.ones((3, 1)))


@each_op
def test_nothing_is_written_before_an_error(name):
    x = np.zeros((3, 4))
    out = np.full((3,) if OPS[name].reduces else (3, 4), 7.0)
    refused(ValueError, "where", name, x, where=[True, False], out=out)
    refused(TypeError, "where", name, x, where=np.ones((3, 4)), out=out)
    refused(ValueError, "scale", name, x, scale=np.nan, out=out)
    refused(TypeError, "scale", name, x, scale="2", out=out)
    refused(np.exceptions.AxisError, "axis", name, x, 5, out=out)
    refused(ValueError, "device", name, x, device="gpu", out=out)
    refused(TypeError, "dtype", name, x, dtype=int, out=out)


@each_op
def test_where_is_checked(name):
    x = np.zeros((3, 4))
    for where in (np.ones((3, 4), int), 1, 0.5, "yes", np.ones(4, "O"), [0, 1, 0, 1]):
        refused(TypeError, "where", name, x, where=where)
    for shape in [(3,), (2, 3, 4), (4, 1), (1, 3, 4)]:
        refused(ValueError, "where", name, x, where=np.ones(shape, bool))


@each_op
def test_scale_is_checked(name):
    x = np.zeros((3, 4))
    for scale in (np.nan, np.inf, -np.inf, np.float32(np.inf)):
        refused(ValueError, "scale", name, x, scale=scale)
    for scale in ("2", 1j, [2.0], np.array([1.0, 2.0]), np.ones((3, 1)), np.array([2.0]), np.array("a")):
        refused(TypeError, "scale", name, x, scale=scale)
    for scale in (2, 2.0, np.float32(2), np.int64(2), np.array(2.0), True):
        getattr(ns, name)(x, scale=scale)


@each_op
def test_a_scale_too_large_for_a_float_is_refused(name):
    refused(ValueError, None, name, [1.0, 2.0], scale=10**400)


@each_op
def test_dtype_is_checked(name):
    for dtype in (int, bool, complex, "M8[s]", object, str, np.longdouble, "nonsense", 5):
        refused(TypeError, "dtype", name, [1.0], dtype=dtype)


@each_op
def test_device_is_checked(name):
    refused(ValueError, "'gpu'", name, [1.0], device="gpu")
    refused(ValueError, "device", name, [1.0], device=0)
    getattr(ns, name)([1.0], device="cpu")


@each_op
def test_options_go_by_name(name):
    with pytest.raises(TypeError):
        getattr(ns, name)([1.0], 0, None)
    with pytest.raises(TypeError):
        getattr(ns, name)([1.0], -1, keepdims_=True)


def test_cuda_is_refused_clearly_where_there_is_none(monkeypatch):
    from numba_softmax.backends.cuda import driver

    class OnGpu:
        __cuda_array_interface__ = {"shape": (3,), "typestr": "<f4", "data": (4096, True), "version": 3}  # noqa: RUF012

    def none():
        raise driver.CudaError("CUDA needs what is not there")

    monkeypatch.setattr(driver, "_bindings", none)
    monkeypatch.setattr(driver, "_cuda", driver._Unready())
    for x in ([1.0], OnGpu()):
        refused(RuntimeError, "CUDA needs", "softmax", x, device="cuda")
    refused(RuntimeError, "CUDA needs", "softmax", OnGpu())
    refused(TypeError, "GPU", "softmax", OnGpu(), device="cpu")
