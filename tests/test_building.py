"""First calls, which compile: interrupted, beside forks, beside each other, and at the end of the process."""

import itertools
import os
import signal
import sys
import threading

import pytest
from numba.core.compiler_lock import global_compiler_lock

from numba_softmax import building
from numba_softmax.building import built

needs_fork = pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")
needs_signals = pytest.mark.skipif(sys.platform == "win32", reason="needs signals")

SETUP = """
import os, random, signal, sys, threading, warnings
import numpy as np, numba
from numba.core import event
from numba.core.compiler_lock import global_compiler_lock
import numba_softmax as ns
from naive import assert_right

warnings.simplefilter("ignore", DeprecationWarning)  # from Python 3.12 on, a fork beside any thread is warned of
rng = np.random.default_rng(0)
small, large = rng.normal(size=(3, 5)), rng.normal(size=(300, 2000))


class Begun(event.Listener):  # is set at the first event of its kind
    def __init__(self, kind):
        self.event = threading.Event()
        event.register(kind, self)

    def on_start(self, _):
        self.event.set()

    def on_end(self, _):
        pass
"""

# ------------------------------------------------------------------------ what is built


def test_what_threads_build_together_is_made_once():
    made, start, values = [], threading.Barrier(8), []

    @built
    def make(key):
        made.append(key)
        return object()

    def get():
        start.wait()
        values.append(make("key"))

    threads = [threading.Thread(target=get) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert made == ["key"]
    assert values == [make("key")] * 8


def test_an_error_of_what_is_built_is_raised_and_not_kept():
    errors = [ValueError("first")]

    @built
    def make():
        if errors:
            raise errors.pop()
        return "made"

    with pytest.raises(ValueError, match="first"):
        make()
    assert make() == "made"


def test_what_is_built_may_build_and_who_compiles_may_too():
    inner = built(lambda: threading.current_thread())
    outer = built(lambda: (inner(), threading.current_thread()))
    first, second = outer()
    assert first is second is not threading.current_thread()
    with global_compiler_lock:
        assert built(lambda: threading.current_thread())() is threading.current_thread()


def test_building_needs_no_thread_where_none_can_be_started(monkeypatch):
    def start(_):
        raise RuntimeError("can't create new thread at interpreter shutdown")

    monkeypatch.setattr(threading.Thread, "start", start)
    assert built(lambda: "made")() == "made"


AT_EXIT = """
import atexit
atexit.register(lambda: (assert_right("logsumexp", ns.logsumexp(small), small), print("right")))
"""


def test_kernels_are_built_while_the_process_ends(run_python):
    assert run_python(SETUP + AT_EXIT) == "right\n"


# -------------------------------------------------------------------------- interrupts


@needs_signals
def test_an_interrupt_ends_the_waiting_and_not_the_work():
    made, heard = [], threading.Event()

    @built
    def make():
        signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)
        assert heard.wait(100)
        made.append(1)
        return "made"

    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # it is ignored below a job in the background
    try:
        with pytest.raises(KeyboardInterrupt):
            make()
    finally:
        signal.signal(signal.SIGINT, before)
    heard.set()
    assert make() == "made"
    assert made == [1]


def test_an_interrupt_at_any_line_leaves_all_whole():
    for line in itertools.count(1):
        make = built(lambda: "made")
        if not interrupted_at(line, make):
            break
        assert make() == "made"
    assert line > 10


def interrupted_at(line, function):
    """Whether a call was interrupted at that line of all that it executes of `building`, counted from 1."""
    left, before = line, sys.gettrace()

    def trace(frame, kind, _):
        nonlocal left
        if frame.f_code.co_filename != building.__file__:
            return None
        left -= kind == "line"
        if left == 0:
            raise KeyboardInterrupt
        return trace

    sys.settrace(trace)
    try:
        function()
    except KeyboardInterrupt:
        return True
    finally:
        sys.settrace(before)
    return False


INTERRUPTED = """
def interrupt(*_):
    raise KeyboardInterrupt

signal.signal(signal.SIGALRM, interrupt)
moments, hits = random.Random(0), 0
for name, x, axis in ("softmax", small, 1), ("logsumexp", small.astype("f4"), 1):
    function = getattr(ns, name)
    for _ in range(6):
        signal.setitimer(signal.ITIMER_REAL, moments.uniform(0.01, 0.5))
        try:
            function(x, axis)
            signal.setitimer(signal.ITIMER_REAL, 0)
        except KeyboardInterrupt:
            hits += 1
    assert_right(name, function(x, axis), x, axis)
assert hits, "all calls ended before they were interrupted"
"""


@needs_signals
def test_calls_work_after_any_number_of_interrupts(run_python, tmp_path):
    run_python(SETUP + INTERRUPTED, NUMBA_CACHE_DIR=str(tmp_path))


# ------------------------------------------------------------------------------- forks

FORKED = """
def child_ends_well(work):
    child = os.fork()
    if child == 0:
        signal.alarm(200)  # a child that waits for ever is ended
        work()
        os._exit(0)
    return os.waitpid(child, 0)[1] == 0
"""

FORK = """
def compute():
    for name, x in ("softmax", large), ("logsumexp", small.astype("f4")):
        assert_right(name, getattr(ns, name)(x), x)

begun = Begun("numba:compile")
thread = threading.Thread(target=ns.softmax, args=(large,))  # whose kernel runs in threads
thread.start()
begun.event.wait()
assert child_ends_well(compute)
thread.join()
"""


@needs_fork
def test_a_child_that_is_forked_beside_a_compilation_has_that_kernel_and_makes_others(run_python, tmp_path):
    run_python(SETUP + FORKED + FORK, NUMBA_CACHE_DIR=str(tmp_path), NUMBA_NUM_THREADS="2")


FORK_BESIDE_THREADS = """
stop = threading.Event()

def ask():
    while not stop.is_set():
        numba.get_num_threads()

thread = threading.Thread(target=ask)
thread.start()
fine = [child_ends_well(numba.get_num_threads) for _ in range(20)]
stop.set()
thread.join()
assert all(fine), fine
"""


@needs_fork
def test_a_fork_finds_the_locks_of_numbas_threads_free(run_python):
    run_python(SETUP + FORKED.replace("200", "20") + FORK_BESIDE_THREADS, NUMBA_NUM_THREADS="2")


FORK_THAT_DID_NOT_WAIT = """
ns.softmax(small)
held, release = threading.Event(), threading.Event()

def hold():
    with global_compiler_lock:
        held.set()
        release.wait()

def interrupt(*_):
    raise KeyboardInterrupt

def work():
    assert_right("softmax", ns.softmax(small), small)
    try:
        ns.logsumexp(small)
    except RuntimeError as error:
        assert "forked" in str(error)
    else:
        raise AssertionError

thread = threading.Thread(target=hold)
thread.start()
held.wait()
signal.signal(signal.SIGALRM, interrupt)
sys.unraisablehook = lambda _: None  # the interrupt of the hook
signal.setitimer(signal.ITIMER_REAL, 0.1)
try:
    assert child_ends_well(work)
finally:
    release.set()
thread.join()
"""


@needs_fork
def test_a_child_that_cannot_compile_says_so(run_python):
    run_python(SETUP + FORKED + FORK_THAT_DID_NOT_WAIT)


# ---------------------------------------------------------------------- other threads

BESIDE_A_COMPILATION = """
import faulthandler
faulthandler.dump_traceback_later(200, exit=True)
calls = [lambda n=n, name=name: assert_right(name, getattr(ns, name)(small[:, :n]), small[:, :n])
         for n in range(1, 6) for name in ("softmax", "logsumexp")]
ns.softmax(small), ns.logsumexp(small)
done = []
with global_compiler_lock:
    waits = Begun("numba:compiler_lock")
    threading.Thread(target=ns.log_softmax, args=(small.astype("f4"),)).start()
    waits.event.wait()  # for what this thread will not release before the calls have ended
    caller = threading.Thread(target=lambda: [done.append(call()) for call in calls])
    caller.start()
    caller.join(100)
    assert len(done) == len(calls), done
"""


def test_calls_with_loaded_kernels_wait_for_no_compilation(run_python):
    run_python(SETUP + BESIDE_A_COMPILATION)


# ------------------------------------------------------------------------------ logging

LOGGED = """
import logging
records = []


class Kept(logging.Handler):
    def emit(self, record):
        records.append(record)


logging.getLogger().addHandler(Kept())
logging.getLogger().setLevel(logging.DEBUG)
"""

LOGGED_ON_THE_CPU = """
assert_right("softmax", ns.softmax(small), small)
assert not records, records[0]
numba_logger = logging.getLogger("numba")
assert numba_logger.level == logging.NOTSET
numba_logger.setLevel(logging.DEBUG)
ns.logsumexp(small)
assert records
assert numba_logger.level == logging.DEBUG
"""


def test_numba_logs_compilations_only_where_its_logger_is_told_to(run_python, tmp_path):
    run_python(SETUP + LOGGED + LOGGED_ON_THE_CPU, NUMBA_CACHE_DIR=str(tmp_path))


LOGGED_FOR_CUDA = """
from numba_softmax.backends.cuda import kernels, plan
from numba_softmax.ops import OPS
kernel = plan.kernels_for(OPS["softmax"], "float32", "float32", False, False, plan.Machine((9, 0), 232448))[0]
kernels.assembled_kernel(kernel, (9, 0))
assert not records, records[0]
"""


def test_numba_for_cuda_logs_no_compilations_either(run_python, tmp_path):
    pytest.importorskip("numba_cuda")
    run_python(SETUP + LOGGED + LOGGED_FOR_CUDA, NUMBA_CACHE_DIR=str(tmp_path))
