"""The promised accuracy holds for rows that were made to be wrong, and for what its proof rests on."""

import numpy as np
import pytest
from adverse import MAXIMA, adverse_rows, elements_below, errors_of_weights
from naive import LIMITS, NAMES, assert_right, naive, ulp_error

import numba_softmax as ns

pytestmark = pytest.mark.usefixtures("one_thread")

each_op = pytest.mark.parametrize("name", NAMES)
in_32_and_64 = pytest.mark.parametrize("dtype", ["float32", "float64"])

OF_PARTS, OF_WEIGHTS = 0.26, 1.22
"""The largest relative errors of float32 weights in units of 2**-24, as `numba_softmax.math.weights` has them."""

KNOWN = [
    [1, *[-0.06480993330478668] * 4, -2.2888498306274414],
    [1, *[-0.10012812912464142] * 12, -2.2534425258636475],
]


@each_op
@in_32_and_64
def test_many_equal_elements_that_err_one_way(name, dtype):
    for x in adverse_rows(dtype, 400):
        assert_right(name, getattr(ns, name)(x), x)


@in_32_and_64
def test_states_of_many_equal_elements_that_err_one_way(dtype):
    for x in adverse_rows(dtype, 60, seed=1):
        state = ns.OnlineSoftmax(len(x), dtype)
        state.update(x[:, :-1])
        state.update(x[:, -1:])
        assert_right("softmax", state.normalize(x), x)
        assert_right("log_softmax", state.log_normalize(x), x)
        assert_right("logsumexp", state.lse.astype(dtype), x)


def test_rows_known_to_have_been_wrong():
    for row in KNOWN:
        x = np.float32(row)
        assert ulp_error(ns.softmax(x), naive("softmax", x), np.float32) <= LIMITS["float32"]


def test_weights_err_by_no_more_than_the_proof_takes():
    rng = np.random.default_rng(2)
    for m in (*MAXIMA, *rng.uniform(-100, 100, 20)):
        m = np.float32(m)
        of_parts, of_weights = errors_of_weights(elements_below(m, "float32", 300_000, rng), m)
        assert np.abs(of_parts).max() <= OF_PARTS
        assert np.abs(of_weights).max() <= OF_WEIGHTS
