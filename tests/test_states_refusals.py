"""Arguments that `OnlineSoftmax` cannot take: errors name them, and states stay as they were."""

import numpy as np
import pytest
from test_states import INF, normal, numbers, state_of

import numba_softmax as ns

X = normal((4, 10))
OUT = np.empty((4, 10), np.float32)
READ_ONLY = np.empty((4, 10), np.float32)
READ_ONLY.flags.writeable = False
WRONG = {
    "another dtype": (lambda s: s.update(X.astype(float)), TypeError, "block has dtype float64"),
    "integers": (lambda s: s.update(np.ones((4, 2), int)), TypeError, "block has dtype int64"),
    "a masked array": (lambda s: s.update(np.ma.masked_array(X)), TypeError, "block is a masked array"),
    "other rows": (lambda s: s.update(X[:3]), ValueError, r"block has shape \(3, 10\), with rows of shape \(3,\)"),
    "rows along another axis": (lambda s: s.update(X, 0), ValueError, r"rows of shape \(10,\) along axis 0"),
    "too few axes": (lambda s: s.update(X[0]), ValueError, r"rows of shape \(\) along"),
    "nothing": (lambda s: s.update(None), TypeError, "block has dtype object"),
    "words": (lambda s: s.update(["1.5"] * 4), TypeError, "block has dtype <U3"),
    "complex numbers": (lambda s: s.update([[1j]] * 4), TypeError, "block has dtype complex128"),
    "a ragged list": (lambda s: s.update([[1.0], [1.0, 2.0]]), ValueError, "block is no array"),
    "numbers too large": (lambda s: s.update([[1e300]] * 4), ValueError, "block has numbers that float32 cannot hold"),
    "no such axis": (lambda s: s.update(X, 2), np.exceptions.AxisError, "axis 2"),
    "a mask of numbers": (lambda s: s.update(X, where=X), TypeError, "where has dtype float32"),
    "a mask of another shape": (lambda s: s.update(X, where=np.ones(9, bool)), ValueError, r"where has shape \(9,\)"),
    "no state": (lambda s: s.merge(X), TypeError, "other is a ndarray"),
    "a state of other rows": (lambda s: s.merge(ns.OnlineSoftmax(5)), ValueError, r"other has rows of shape \(5,\)"),
    "a state for another dtype": (lambda s: s.merge(ns.OnlineSoftmax(4, "f8")), TypeError, "other is for float64"),
    "a state with another scale": (
        lambda s: s.merge(ns.OnlineSoftmax(4, scale=0.5)),
        ValueError,
        r"other has scale 0\.5, but the state has scale 1\.0",
    ),
    "out of another shape": (lambda s: s.normalize(X, out=OUT[:3]), ValueError, "out has shape"),
    "out of integers": (lambda s: s.normalize(X, out=OUT.astype(int)), TypeError, "out has dtype int64"),
    "out that is read-only": (lambda s: s.normalize(X, out=READ_ONLY), ValueError, "out is read-only"),
    "out that is no array": (lambda s: s.normalize(X, out=[0.0] * 40), TypeError, "out must be a NumPy array"),
    "out in the same memory twice": (
        lambda s: s.normalize(X, out=np.lib.stride_tricks.as_strided(OUT, (4, 10), (4, 4))),
        ValueError,
        "out has elements that lie in the same memory",
    ),
}


@pytest.mark.parametrize("case", WRONG)
def test_wrong_arguments_are_named_and_change_nothing(case):
    call, error, words = WRONG[case]
    state = state_of(X)
    before = numbers(state)
    OUT.fill(7)
    with pytest.raises(error, match=words):
        call(state)
    assert numbers(state) == before
    assert (OUT == 7).all()


def test_states_that_cannot_be_are_refused():
    refused = [
        (lambda: ns.OnlineSoftmax(-1), ValueError, "shape is -1"),
        (lambda: ns.OnlineSoftmax(2.5), TypeError, "shape is 2.5"),
        (lambda: ns.OnlineSoftmax((2, "3")), TypeError, "shape is"),
        (lambda: ns.OnlineSoftmax(2, "int32"), TypeError, "dtype is int32"),
        (lambda: ns.OnlineSoftmax(2, "no dtype"), TypeError, "not a dtype"),
        (lambda: ns.OnlineSoftmax(2, scale="2"), TypeError, "scale must be a real number, not str"),
        (lambda: ns.OnlineSoftmax(2, scale=np.ones(2)), TypeError, "scale must be a real number, not ndarray"),
        (lambda: ns.OnlineSoftmax(2, scale=INF), ValueError, "scale is inf: it must be a finite float64"),
        (lambda: ns.OnlineSoftmax(2, like="cuda"), TypeError, "like is a str"),
        (lambda: ns.OnlineSoftmax(2, like=[1.0]), TypeError, "like is a list"),
    ]
    of = ns.OnlineSoftmax.from_arrays
    m, rest = np.zeros(3), np.ones(3)
    refused += [
        (lambda: of(m.astype("f4"), rest), TypeError, "m has dtype float32"),
        (lambda: of(m, rest[:2]), ValueError, r"rest has shape \(2,\)"),
        (lambda: of(m, rest, rest), TypeError, "rest_lo is for float64"),
        (lambda: of(m, rest, scale=np.nan), ValueError, "scale is nan"),
        (lambda: of(m + 0.1, rest), ValueError, "m has numbers that float32 cannot hold"),
        (lambda: of([0.1], [1.0]), ValueError, "m has numbers that float32 cannot hold"),
        (lambda: of(np.float64(0.1), np.float64(1)), ValueError, "m has numbers that float32 cannot hold"),
        (lambda: of(None, rest), TypeError, "m has dtype object"),
        (lambda: of(m.astype(">f8"), rest), TypeError, "m has dtype >f8: it must be native float64"),
    ]
    for call, error, words in refused:
        with pytest.raises(error, match=words):
            call()
