"""Kernels are compiled once, and no state of the cache folder can do harm."""

import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numba
import pytest

import numba_softmax
from numba_softmax import cli
from numba_softmax.backends import disk

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
    "a named pipe": lambda path: (path.unlink(), os.mkfifo(path)),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_spoiled_file_is_a_miss(fault, cache, run_python):
    if fault == "a named pipe" and not hasattr(os, "mkfifo"):
        pytest.skip("files of this system are no pipes")
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


def aged(key, seconds, suffix=".kernel"):
    """A file that was last used so long ago."""
    path = disk.cache_folder() / f"{key}{suffix}"
    then = time.time() - seconds
    os.utime(path, (then, then))
    return path


HOUR, DAY = 3600, 86400


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """An empty cache folder of this process."""
    monkeypatch.setattr(numba.config, "CACHE_DIR", str(tmp_path))
    return tmp_path / "numba_softmax"


def test_what_was_not_used_for_longest_goes_first(folder, monkeypatch):
    for days, key in enumerate(["new", "old", "older", "oldest"], 2):
        disk.write(key, bytes(1000))
        aged(key, days * DAY)
    assert disk.read("oldest") == bytes(1000)  # now it is the newest
    monkeypatch.setattr(disk, "LIMIT", 3500)
    disk.write("newest", bytes(1000))
    assert {path.stem for path in folder.iterdir()} == {"newest", "oldest", "new"}


def test_a_use_is_noted_once_a_day(folder):
    disk.write("key", b"kernel")
    for age, noted in ((20 * HOUR, False), (30 * HOUR, True)):
        before = aged("key", age).stat().st_mtime_ns
        assert disk.read("key") == b"kernel"
        assert ((folder / "key.kernel").stat().st_mtime_ns != before) == noted


def test_what_writers_left_goes_and_what_they_write_stays(folder):
    disk.write("key", b"kernel")
    for name in ("left", "being_written"):
        (folder / f"{name}.part").write_bytes(b"ker")
    aged("left", 2 * HOUR, ".part")
    (folder / "other").mkdir()
    disk.write("key", b"kernel")
    assert {path.name for path in folder.iterdir()} == {"key.kernel", "being_written.part", "other"}


BUSY = """
import random
from numba_softmax.backends import disk
for _ in range(300):
    key = str(random.randrange(12))
    assert disk.read(key) in (None, key.encode() * 1000)
    disk.write(key, key.encode() * 1000)
"""


def test_processes_that_prune_leave_each_other_whole_kernels(tmp_path):
    env = {**os.environ, "PYTHONPATH": str(PACKAGE.parent), "NUMBA_CACHE_DIR": str(tmp_path)}
    env["NUMBA_SOFTMAX_CACHE_BYTES"] = "5000"
    running = [subprocess.Popen([sys.executable, "-W", "error", "-c", BUSY], env=env) for _ in range(3)]
    assert [process.wait(300) for process in running] == [0, 0, 0]
    left = list((tmp_path / "numba_softmax").iterdir())
    assert {path.suffix for path in left} == {".kernel"}
    assert sum(path.stat().st_size for path in left) <= 5000


def test_the_limit_is_told_by_the_environment(tmp_path, cache, run_python):
    run_python(CALL, XDG_CACHE_HOME=str(tmp_path / "none"), NUMBA_SOFTMAX_CACHE_BYTES="0")
    assert kernels(tmp_path / "none") == []
    before = kernels(cache)
    run_python(CALL, XDG_CACHE_HOME=str(cache), NUMBA_SOFTMAX_CACHE_BYTES="100000000")
    assert kernels(cache) == before  # the limit changes no key


LIMIT = """
import warnings
with warnings.catch_warnings(record=True) as said:
    warnings.simplefilter("always")
    from numba_softmax.backends import disk
print(disk.LIMIT, *(warning.message for warning in said))
"""


@pytest.mark.parametrize("limit", ["256MiB", "-1", "1e6"])
def test_a_limit_that_is_no_number_is_not_used_in_silence(limit, run_python):
    default = run_python(LIMIT, NUMBA_SOFTMAX_CACHE_BYTES=None).strip()
    said = run_python(LIMIT, NUMBA_SOFTMAX_CACHE_BYTES=limit).strip()
    words = "it must be a whole number of bytes"
    assert said == f"{default} NUMBA_SOFTMAX_CACHE_BYTES is '{limit}': {words}; {default} are used"


def test_info_shows_what_is_kept(folder, monkeypatch, capsys):
    for key in ("one", "two"):
        disk.write(key, bytes(99_968))  # and 32 of its hash
    monkeypatch.setattr(disk, "LIMIT", 300_000)
    assert cli.main(["info", "--json"]) == 0
    facts = {"folder": str(folder), "kernels": 2, "bytes": 200_000, "limit": 300_000}
    assert json.loads(capsys.readouterr().out)["cache"] == facts
    assert cli.main(["info"]) == 0
    assert f"{folder}: 2 kernels, 0.2 of at most 0.3 MB" in capsys.readouterr().out


@pytest.mark.skipif(not hasattr(os, "geteuid"), reason="files have no owners as on POSIX")
def test_a_file_of_another_user_is_a_miss(folder, monkeypatch):
    disk.write("key", b"kernel")
    assert disk.read("key") == b"kernel"
    if os.geteuid() == 0:  # what root owns is trusted
        os.chown(folder / "key.kernel", 12345, -1)
    else:
        monkeypatch.setattr(os, "geteuid", lambda: 12345)
    assert disk.read("key") is None
    assert disk.kept() == []


def test_a_file_under_the_name_of_another_is_a_miss(folder):
    """In a folder that others can write to, they can rename files whose contents they cannot forge."""
    disk.write("key", b"kernel")
    os.rename(folder / "key.kernel", folder / "other.kernel")
    assert disk.read("other") is None


@pytest.mark.skipif(os.name != "posix", reason="the user's folder is found otherwise")
@pytest.mark.parametrize("relative", ["", "cache", "./cache", "../cache"])
def test_a_relative_folder_of_the_user_is_ignored(relative, tmp_path, monkeypatch):
    monkeypatch.setattr(numba.config, "CACHE_DIR", "")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("XDG_CACHE_HOME", relative)
    assert disk.cache_folder() == tmp_path / ".cache" / "numba_softmax"


def test_a_cache_behind_a_symbolic_link(tmp_path, monkeypatch):
    (tmp_path / "there").mkdir()
    try:
        os.symlink(tmp_path / "there", tmp_path / "link")
    except OSError:
        pytest.skip("no right to make symbolic links")
    monkeypatch.setattr(numba.config, "CACHE_DIR", str(tmp_path / "link"))
    disk.write("key", b"kernel")
    assert disk.read("key") == b"kernel"
    assert [path.name for path in (tmp_path / "there" / "numba_softmax").iterdir()] == ["key.kernel"]


def test_no_folder_at_all_is_a_miss(monkeypatch):
    def nowhere():
        raise RuntimeError("Could not determine home directory.")  # as Path.home has it

    monkeypatch.setattr(disk, "cache_folder", nowhere)
    disk.write(disk.key_of("kernel", disk.__name__), b"kernel")
    assert disk.read("key") is None


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
