import gc
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import hypothesis
import numba
import pytest

ROOT = Path(__file__).parents[1]

LONG = (
    "jit", "test_cuda_kernels.py", "test_edges.py", "test_cuda_compile.py", "test_cuda_traffic.py",
    "test_states_scaled.py", "test_bits.py", "test_states.py", "test_accuracy.py", "test_states_cuda.py",
    "test_arrays.py", "test_cache.py", "test_memory.py", "test_hosts.py", "test_mapped.py", "test_cli_bench.py",
    "test_asv.py", "test_dask_cluster.py", "test_foreign.py", "test_blocks.py", "test_scaling.py", "test_dask.py",
    "test_building.py", "test_threads.py", "test_private_op",
)  # fmt: skip
"""Files that take longest, by a part of their names: they come first, so that none is left to one worker at the end."""

hypothesis.settings.register_profile("tests", deadline=None, derandomize=True, database=None, max_examples=50)
hypothesis.settings.load_profile("tests")


def pytest_configure(config):
    """Folders of compiled kernels, and of those in PTX, for all tests; set XDG_CACHE_HOME to keep the first one."""
    os.environ.pop("NUMBA_CACHE_DIR", None)
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)  # some tests start processes by the dozen
    # Compilers make millions of objects that stay: looking for cycles in them took a quarter of some files' time.
    gc.set_threshold(50_000, 20, 100)
    config.kernel_folders = []
    for variable in {"XDG_CACHE_HOME", "TESTS_PTX_FOLDER"} - os.environ.keys():
        os.environ[variable] = tempfile.mkdtemp(prefix="numba_softmax_tests_")
        config.kernel_folders.append(os.environ[variable])


def pytest_unconfigure(config):
    for folder in config.kernel_folders:
        shutil.rmtree(folder, ignore_errors=True)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config, log):
    """A file is the work of one worker, and so are all of jitted code: these compile the same functions."""
    if config.getvalue("dist") != "loadfile":
        return None
    from xdist.scheduler import LoadFileScheduling

    class Scheduling(LoadFileScheduling):
        def _split_scope(self, nodeid):
            file = super()._split_scope(nodeid)
            return "jit" if "jit" in file else file

    return Scheduling(config, log)


def pytest_collection_modifyitems(items):
    """Long files come first. Without a GPU, tests that need one are skipped, and say what is missing."""

    def rank(item):
        file = item.nodeid.partition("::")[0]
        return next((i for i, name in enumerate(LONG) if name in file), len(LONG))

    items.sort(key=rank)
    on_gpu = [item for item in items if item.get_closest_marker("gpu")]
    missing = _missing_for_a_gpu() if on_gpu else None
    for item in on_gpu if missing else ():
        item.add_marker(pytest.mark.skip(reason=missing))


def pytest_runtest_teardown(item, nextitem):
    """Keep what a file leaves behind, compiled kernels above all, out of later searches for cycles."""
    if nextitem is None or nextitem.path != item.path:
        if "gpus" in sys.modules:
            sys.modules["gpus"].module_of.cache_clear()  # gigabytes
        gc.freeze()


def _missing_for_a_gpu():
    from numba_softmax.backends.cuda import driver

    try:
        driver.count()
    except driver.CudaError as error:
        return str(error)
    return None


@pytest.fixture
def one_thread():
    """Calls of any size run serially: parallel kernels need not be compiled."""
    before = numba.get_num_threads()
    numba.set_num_threads(1)
    yield
    numba.set_num_threads(before)


@pytest.fixture
def run_python():
    """Run Python code in a new process, under more environment variables (None unsets); gives what it prints."""

    def run(code, *args, root=ROOT, timeout=300, **env):
        paths = [str(root), str(Path(__file__).parent)]
        env = {**os.environ, "PYTHONPATH": os.pathsep.join(paths), **env}
        env = {k: v for k, v in env.items() if v is not None}
        command = [sys.executable, "-W", "error", "-X", "faulthandler", "-c", code, *map(str, args)]
        done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=timeout, cwd=root)
        assert done.returncode == 0, f"exit status {done.returncode}\n{done.stdout[-4000:]}\n{done.stderr[-4000:]}"
        return done.stdout

    return run
