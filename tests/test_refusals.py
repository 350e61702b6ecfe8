"""Public functions in users' jitted code, and modules without the library that they need: errors say what to do."""

import numba
import pytest
from numba.core.errors import TypingError

import numba_softmax as ns
from numba_softmax import softmax

WITHOUT_DASK = """
import sys
sys.modules.update(dict.fromkeys(["dask", "dask.array"]))
import numba_softmax
try:
    import numba_softmax.dask
except ImportError as error:
    print(error)
"""


def by_attribute():
    return ns.softmax([1.0], axis=0, nonsense=None)


def by_name():
    return softmax(1.0)


def log_softmax():
    return ns.log_softmax(1.0)


def logsumexp():
    return ns.logsumexp(1.0)


def state():
    return ns.OnlineSoftmax(3)


def warmup():
    ns.warmup()


INSTEAD = {
    by_attribute: "numba_softmax.softmax is for Python code: in jitted code, call numba_softmax.jit.softmax",
    by_name: "numba_softmax.softmax is for Python code: in jitted code, call numba_softmax.jit.softmax",
    log_softmax: "call numba_softmax.jit.log_softmax",
    logsumexp: "call numba_softmax.jit.logsumexp",
    state: "call push, merge and lse of numba_softmax.jit",
    warmup: "leave it out, and call it before",
}


@pytest.mark.parametrize("function", INSTEAD, ids=lambda function: function.__name__)
def test_jitted_code_that_calls_a_public_function_is_told_what_to_call(function):
    with pytest.raises(TypingError, match=INSTEAD[function]):
        numba.njit(function)()


def test_kernels_for_cuda_are_told_so_too():
    pytest.importorskip("numba_cuda", reason="numba-cuda compiles these kernels")
    from numba import cuda

    with pytest.raises(Exception, match=r"call numba_softmax\.jit\.logsumexp"):
        cuda.compile(logsumexp, (), device=True, cc=(8, 0), output="ptx")


def test_all_public_functions_have_a_refusal():
    named = {getattr(ns, name) for name in ns.__all__ if name != "__version__"}
    assert named == set(ns.refusals.INSTEAD)


def test_the_module_for_dask_says_what_to_install(run_python):
    assert 'pip install "numba-softmax[dask]"' in run_python(WITHOUT_DASK)
