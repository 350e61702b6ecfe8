"""Ops of the package's own folds, and what TILT has not: a row input before one of elements, a masked value for softmax
itself, numbers that depend on a row's input alone."""

import numpy as np
import pytest
from private_op import WHERE, Elements, Op, Operand, X, lanewise, result, row_result

from numba_softmax import softmax
from numba_softmax.api import call
from numba_softmax.call.request import Request
from numba_softmax.math.folds import ALL, OTHERS
from numba_softmax.streaming import mapped


def shifted(factor):
    """``p * v`` for each element, with a result of -1 under the mask; and ``factor * t + m`` for each row."""

    @lanewise
    def finish(p, others, prepared, scale):
        return (p * others[0],)

    @lanewise
    def rows(state, row, scale):
        return ((row[0][0] * factor + state[0],),)

    operands = X, Operand("t", "row"), Operand("v"), WHERE, result(masked=-1.0), row_result("shifted")
    return Op("shifted", operands, ALL, Elements(of_softmax=True, finish=finish), rows=rows)


SHIFTED = shifted(2.0)
GUARDED = Op("guarded", (X, WHERE, result(masked=-1.0)), ALL, Elements(of_softmax=True))


def arrays(shape, axis):
    rng = np.random.default_rng(3)
    x, v = rng.normal(0, 3, (2, *shape)).astype(np.float32)
    return x, rng.normal(0, 1, np.delete(shape, axis)).astype(np.float32), v


def assert_right(results, x, t, v, axis):
    y, numbers = results
    np.testing.assert_allclose(y, softmax(x, axis) * v, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(numbers, 2 * t + x.max(axis, initial=-np.inf), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("shape", "axis"), [((40, 20), 1), ((9, 1000), 1), ((3, 20000), 1), ((50, 300), 0)])
def test_inputs_of_rows_may_come_before_those_of_elements(shape, axis):
    x, t, v = arrays(shape, axis)
    assert_right(call(Request(SHIFTED, x, axis, others=(t, v))), x, t, v, axis)


def test_rows_without_elements_have_their_own_numbers():
    x, t, v = arrays((40, 0), 1)
    _, numbers = call(Request(SHIFTED, x, 1, others=(t, v)))
    assert (numbers == -np.inf).all()
    own = SHIFTED._replace(name="own", rows=lanewise(lambda state, row, scale: (row[0],)))
    _, numbers = call(Request(own, x, 1, others=(t, v)))
    np.testing.assert_array_equal(numbers, t)


def test_parts_of_rows_find_their_inputs(tmp_path, monkeypatch):
    monkeypatch.setattr(mapped, "SLAB", 1 << 12)
    x, t, v = arrays((3, 5000), 1)
    x.tofile(tmp_path / "x")
    on_disk = np.memmap(tmp_path / "x", np.float32, "r", shape=x.shape)
    assert_right(call(Request(SHIFTED, on_disk, 1, others=(t, v))), x, t, v, 1)


def test_chunks_of_rows_find_their_inputs():
    da = pytest.importorskip("dask.array", reason="Dask is not installed")
    x, t, v = arrays((30, 60), 1)
    results = call(Request(SHIFTED, da.from_array(x, (10, 20)), 1, others=(t, v)))
    assert_right([result.compute(scheduler="synchronous") for result in results], x, t, v, 1)


@pytest.mark.parametrize(("shape", "axis"), [((40, 20), 1), ((9, 1000), 1), ((50, 300), 0), ((40, 30, 5), 1)])
def test_masked_elements_of_softmax_itself_may_have_any_value(shape, axis):
    x, _, _ = arrays(shape, axis)
    keep = np.random.default_rng(4).random(shape) < 0.7
    y = call(Request(GUARDED, x, axis, where=keep))
    np.testing.assert_array_equal(y, np.where(keep, softmax(x, axis, where=keep), -1.0))


def test_ops_of_one_name_have_kernels_of_their_own():
    x, t, v = arrays((5, 30), 1)
    numbers = [call(Request(shifted(factor), x, 1, others=(t, v)))[1] for factor in (2.0, 3.0)]
    np.testing.assert_allclose(numbers[1] - numbers[0], t, rtol=1e-4, atol=1e-5)


def test_softmax_of_a_fold_that_leaves_maxima_out_is_refused():
    op = Op("wrong", (X, WHERE, result(masked=0.0)), OTHERS, Elements(of_softmax=True))
    with pytest.raises(TypeError, match="its fold has to sum all"):
        call(Request(op, np.ones((2, 3), np.float32), 1))


@pytest.mark.parametrize("others", [(), (1.0,), (1.0, 1.0, 1.0)])
def test_inputs_that_an_op_lacks_or_does_not_take_are_refused(others):
    x = np.ones((2, 3), np.float32)
    with pytest.raises(TypeError, match=f"shifted reads t and v beside x: it got {len(others)} arrays"):
        call(Request(SHIFTED, x, 1, others=others))
    maskless = Op("maskless", (X, result(masked=0.0)), ALL, Elements(of_softmax=True))
    with pytest.raises(TypeError, match="maskless takes no mask"):
        call(Request(maskless, x, 1, where=x > 0))


def test_a_choice_by_if_is_refused():
    finish = lanewise(lambda p, others, prepared, scale: (p if p > 0.5 else p * 2,))
    op = Op("choosing", (X, WHERE, result(masked=0.0)), ALL, Elements(of_softmax=True, finish=finish))
    with pytest.raises(Exception, match="choose by select"):
        call(Request(op, np.ones((2, 3), np.float32), 1))
