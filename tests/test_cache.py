"""Kernels are compiled once, and no state of the cache folder can do harm."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import numba_softmax

PACKAGE = Path(numba_softmax.__file__).parent

CALL = """
import sys, numpy as np, numba_softmax as ns
from naive import assert_right
x = np.linspace(-3, 3, 148).reshape(4, 37)
for arg in sys.argv[1:] or ["logsumexp:f4"]:
    name, dtype = arg.split(":")
    assert_right(name, getattr(ns, name)(x.astype(dtype)), x.astype(dtype))
"""
COUNTED = """
from numba.core import event
with event.install_recorder("numba:compile") as recorder:
    exec(CALL)
print(len(recorder.buffer))
"""


@pytest.fixture(scope="module")
def compiled(tmp_path_factory):
    """A cache folder with one kernel, and that kernel's file name."""
    folder = tmp_path_factory.mktemp("compiled")
    paths = os.pathsep.join([str(PACKAGE.parent), str(Path(__file__).parent)])
    env = {**os.environ, "XDG_CACHE_HOME": str(folder), "PYTHONPATH": paths}
    subprocess.run([sys.executable, "-c", CALL], env=env, check=True)
    (kernel,) = kernels(folder)
    return folder, kernel.name


@pytest.fixture
def cache(compiled, tmp_path):
    """A copy of that folder to spoil."""
    shutil.copytree(compiled[0], tmp_path / "cache")
    return tmp_path / "cache"


def kernels(folder):
    return sorted((folder / "numba_softmax").glob("*.kernel"))


def test_a_second_process_compiles_nothing(cache, run_python):
    (kernel,) = kernels(cache)
    before = kernel.stat()
    code = f"CALL = {CALL!r}\n{COUNTED}"
    assert run_python(code, XDG_CACHE_HOME=str(cache)).strip() == "0"
    assert kernels(cache) == [kernel]
    assert kernel.stat().st_mtime_ns == before.st_mtime_ns
    assert list(kernel.parent.iterdir()) == [kernel]


ALL_KINDS = """
import sys, numpy as np, numba_softmax as ns
large = np.ones((600, 1000), np.float32)
for x in (large[:4, :37], large, large.reshape(1, -1)):  # a kernel for one thread, for several, for parts of rows
    assert np.isclose(ns.softmax(x).sum(), len(x), rtol=1e-3)
print("numba.np.linalg" in sys.modules)
"""


def test_kernels_from_disk_do_without_the_compiler(run_python):
    """What Numba's compiler loads before its first function takes longer than all else in a first call."""
    run_python(ALL_KINDS, NUMBA_NUM_THREADS="2")
    assert run_python(ALL_KINDS, NUMBA_NUM_THREADS="2").strip() == "False"


def test_the_measure_of_compilation_sees_one(tmp_path, run_python):
    code = f"CALL = {CALL!r}\n{COUNTED}"
    assert int(run_python(code, "logsumexp:f8", XDG_CACHE_HOME=str(tmp_path)).strip()) > 0


def test_kernels_that_were_compiled_in_different_processes_work_together(tmp_path, run_python):
    for dtype in ("f2", "f4", "f8"):
        run_python(CALL, f"softmax:{dtype}", XDG_CACHE_HOME=str(tmp_path))
    assert len(kernels(tmp_path)) == 3
    for order in (["f2", "f4", "f8"], ["f8", "f4", "f2"]):
        run_python(CALL, *(f"softmax:{dtype}" for dtype in order), XDG_CACHE_HOME=str(tmp_path))


def flip_one_bit(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


FAULTS = {
    "empty": lambda path: path.write_bytes(b""),
    "truncated": lambda path: path.write_bytes(path.read_bytes()[:-100]),
    "garbage": lambda path: path.write_bytes(os.urandom(5000)),
    "one bit": flip_one_bit,
    "a folder": lambda path: (path.unlink(), path.mkdir()),
    "unreadable": lambda path: path.chmod(0),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_spoiled_file_is_a_miss(fault, cache, run_python):
    (kernel,) = kernels(cache)
    before = kernel.read_bytes()
    FAULTS[fault](kernel)
    run_python(CALL, XDG_CACHE_HOME=str(cache))
    if kernel.is_file():
        assert len(kernel.read_bytes()) > len(before) // 2  # it has been written anew
    assert not list(kernel.parent.glob("*.part"))


def test_a_spoiled_file_is_mended(cache, run_python):
    (kernel,) = kernels(cache)
    kernel.write_bytes(b"")
    run_python(CALL, XDG_CACHE_HOME=str(cache))
    assert run_python(f"CALL = {CALL!r}\n{COUNTED}", XDG_CACHE_HOME=str(cache)).strip() == "0"


def test_a_cache_folder_that_cannot_be_written(tmp_path, run_python):
    folder = tmp_path / "locked"
    folder.mkdir(mode=0o500)
    run_python(CALL, XDG_CACHE_HOME=str(folder) if os.getuid() else "/proc/nowhere")  # root writes anywhere else


def test_a_cache_folder_that_is_a_file(tmp_path, run_python):
    (tmp_path / "file").write_text("here")
    run_python(CALL, XDG_CACHE_HOME=str(tmp_path / "file"))
    assert (tmp_path / "file").read_text() == "here"


def test_a_missing_cache_folder_is_made_for_its_user_alone(tmp_path, run_python):
    run_python(CALL, XDG_CACHE_HOME=str(tmp_path / "some" / "where"))
    assert len(kernels(tmp_path / "some" / "where")) == 1
    if os.name == "posix":
        assert (tmp_path / "some" / "where" / "numba_softmax").stat().st_mode & 0o077 == 0


NO_HOME = """
import os, pwd


def nobody(uid):
    raise KeyError(uid)


pwd.getpwuid = nobody
os.environ.pop("HOME", None)
"""


@pytest.mark.skipif(os.name != "posix", reason="the user's folder is found otherwise")
def test_no_home(run_python):
    run_python(NO_HOME + CALL, XDG_CACHE_HOME=None)


def test_the_folder_of_numba_is_used_where_it_is_set(tmp_path, run_python):
    run_python(CALL, XDG_CACHE_HOME=str(tmp_path / "no"), NUMBA_CACHE_DIR=str(tmp_path / "yes"))
    assert len(kernels(tmp_path / "yes")) == 1
    assert not (tmp_path / "no").exists()


def test_a_full_disk(tmp_path, run_python):
    """Files of more than 10 kB cannot be written."""
    resource = pytest.importorskip("resource", reason="limits are set as on Unix")
    assert hasattr(resource, "RLIMIT_FSIZE")
    limit = "import resource, signal\nsignal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
    limit += "resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, 10_000))\n"
    run_python(limit + CALL, XDG_CACHE_HOME=str(tmp_path))
    assert not list((tmp_path / "numba_softmax").iterdir())


def test_processes_at_once(tmp_path):
    paths = os.pathsep.join([str(PACKAGE.parent), str(Path(__file__).parent)])
    env = {**os.environ, "XDG_CACHE_HOME": str(tmp_path), "PYTHONPATH": paths}
    running = [subprocess.Popen([sys.executable, "-c", CALL], env=env) for _ in range(3)]
    assert [process.wait(300) for process in running] == [0, 0, 0]
    assert len(kernels(tmp_path)) == 1
    assert len(list((tmp_path / "numba_softmax").iterdir())) == 1


def test_settings_of_numba_that_change_code_are_told_apart(cache, run_python):
    run_python(CALL, XDG_CACHE_HOME=str(cache), NUMBA_OPT="1")
    assert len(kernels(cache)) == 2
    run_python(CALL, XDG_CACHE_HOME=str(cache), NUMBA_NUM_THREADS="1")
    assert len(kernels(cache)) == 2
