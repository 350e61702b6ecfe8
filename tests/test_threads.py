"""Any number of Python threads and processes, whatever Numba's threading layer."""

import importlib
import os

import pytest
from naive import NAMES

LAYERS = {"omp": "omppool", "workqueue": "workqueue", "tbb": "tbbpool"}

SETUP = """
import numpy as np, numba, os, threading
import numba_softmax as ns
from naive import assert_right

rng = np.random.default_rng(0)
large = rng.normal(0, 5, (600, 1000)).astype(np.float32)  # enough elements to start threads for, on every layer
small = large[:4, :37].copy()
"""

CONCURRENT = """
inputs = [large, small, large[:40], large[:, :700], small[:1], large.T, large.reshape(1, -1), small.T]
axes = [1, 1, 1, 1, 1, 0, 1, 0]
functions = [ns.softmax, ns.logsumexp]
numba.set_num_threads(2)
expected = [[f(x, axis) for f in functions] for x, axis in zip(inputs, axes)]
for (y, z), x, axis in zip(expected, inputs, axes):
    assert_right("softmax", y, x, axis)
    assert_right("logsumexp", z, x, axis)
wrong, start = [], threading.Barrier(8)


def work(first):
    try:
        numba.set_num_threads(2)
        start.wait()
        for i in range(first, first + 24):
            x, axis, results = inputs[i % 8], axes[i % 8], expected[i % 8]
            for f, y in zip(functions, results):
                if f(x, axis).tobytes() != y.tobytes():
                    wrong.append((i, f.__name__))
    except BaseException as error:
        wrong.append(error)


threads = [threading.Thread(target=work, args=(i,)) for i in range(8)]
for t in threads: t.start()
for t in threads: t.join()
assert not wrong, wrong
"""

FORK = """
y = ns.softmax(large)  # threads are running now
for _ in range(3):
    child = os.fork()
    if child == 0:
        same = ns.softmax(large).tobytes() == y.tobytes() and ns.logsumexp(large).shape == (600,)
        grandchild = os.fork()
        if grandchild == 0:
            os._exit(0 if ns.softmax(large).tobytes() == y.tobytes() else 3)
        os._exit(0 if same and os.waitpid(grandchild, 0)[1] == 0 else 2)
    assert os.waitpid(child, 0)[1] == 0
assert ns.softmax(large).tobytes() == y.tobytes()
"""

FORK_FIRST = """
child = os.fork()
if child == 0:
    assert_right("softmax", ns.softmax(large), large)
    os._exit(0)
assert os.waitpid(child, 0)[1] == 0
assert_right("softmax", ns.softmax(large), large)
"""

FORK_IN_A_CALL = """
stop = threading.Event()


def compute():
    while not stop.is_set():
        ns.softmax(large)


ns.softmax(large)
thread = threading.Thread(target=compute)
thread.start()
for _ in range(5):
    child = os.fork()
    if child == 0:
        ns.softmax(large)
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
stop.set()
thread.join()
"""

NESTED = """
import sys
numba.set_num_threads(1)
y = ns.softmax(large)
for count in range(1, numba.config.NUMBA_NUM_THREADS + 1):
    numba.set_num_threads(count)
    assert ns.softmax(large).tobytes() == y.tobytes()
    assert numba.get_num_threads() == count
"""


@pytest.fixture(params=LAYERS)
def layer(request):
    try:
        importlib.import_module(f"numba.np.ufunc.{LAYERS[request.param]}")
    except ImportError as error:
        pytest.skip(f"threading layer {request.param} is not installed: {error}")
    return request.param


needs_fork = pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")


def used_layer(layer):
    return f"\nassert numba.threading_layer() == {layer!r}\n"


def test_calls_from_many_python_threads(layer, run_python):
    run_python(SETUP + CONCURRENT + used_layer(layer), NUMBA_THREADING_LAYER=layer, NUMBA_NUM_THREADS="2")


@needs_fork
@pytest.mark.parametrize("code", [FORK, FORK_FIRST, FORK_IN_A_CALL], ids=["after", "before", "during"])
def test_forked_children_compute_whether_or_not_threads_run(layer, code, run_python):
    # from Python 3.12 on, a fork beside any thread is warned of
    setup = "import warnings; warnings.simplefilter('ignore', DeprecationWarning)\n" + SETUP
    run_python(setup + code + used_layer(layer), NUMBA_THREADING_LAYER=layer, NUMBA_NUM_THREADS="2")


def test_the_number_of_threads_stays_as_it_was_set(layer, run_python):
    run_python(SETUP + NESTED, NUMBA_THREADING_LAYER=layer, NUMBA_NUM_THREADS="3")


SPAWN = """
import multiprocessing, sys
import numpy as np
import numba_softmax as ns


def compute(seed):
    x = np.random.default_rng(seed).normal(size=(600, 1000)).astype(np.float32)
    return ns.softmax(x).sum(dtype=float)


if __name__ == "__main__":
    compute(0)
    with multiprocessing.get_context("spawn").Pool(2) as pool:
        sums = pool.map(compute, range(4))
    assert np.allclose(sums, 600), sums
"""


def test_spawned_processes_compute(layer, run_python, tmp_path):
    (tmp_path / "spawning.py").write_text(SPAWN)
    run = f"import runpy, sys; sys.argv = ['x']; runpy.run_path({str(tmp_path / 'spawning.py')!r}, run_name='__main__')"
    run_python(run, NUMBA_THREADING_LAYER=layer, NUMBA_NUM_THREADS="2")


USED = """
import numba_softmax.backends.cpu as cpu
counts = []


class Recorded(cpu.Plan):
    @property
    def threaded(self):
        kernel = cpu.threaded_kernel(*self.kernel)
        return lambda *args: (counts.append(args[-1]), kernel(*args))


cpu.Plan = Recorded
for count in (2, 3, 1, 2):
    numba.set_num_threads(count)
    ns.softmax(large)
assert counts == [2, 3, 2], counts
"""


def test_as_many_threads_are_used_as_were_set(run_python):
    run_python(SETUP + USED, NUMBA_NUM_THREADS="3", NUMBA_THREADING_LAYER=None)


WITHOUT_THE_LOCK = """
import sys
x = rng.normal(size=(1, 1 << 24)).astype(np.float32)
numba.set_num_threads(1)
sys.setswitchinterval(1e-5)  # what the counter gets if a call holds the lock: some hundred steps
function = getattr(ns, sys.argv[1])
function(x[:, :5000])
counted, stop = 0, False


def count():
    global counted
    while not stop:
        counted += 1


counter = threading.Thread(target=count)
counter.start()
before = counted
function(x)
during = counted - before
stop = True
counter.join()
assert during > 5_000, during
"""


@pytest.mark.parametrize("name", NAMES)
def test_python_threads_run_during_a_call(name, run_python):
    run_python(SETUP + WITHOUT_THE_LOCK, name, NUMBA_THREADING_LAYER=None)
