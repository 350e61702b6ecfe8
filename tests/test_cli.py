"""The command line, as a process wherever that is what the claim is about."""

from __future__ import annotations

import errno
import io
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from naive import assert_right
from tqdm import tqdm

import numba_softmax as ns
from numba_softmax import cli
from numba_softmax.cli import run as run_module
from numba_softmax.streaming import mapped

OPS = ("softmax", "log_softmax", "logsumexp")
ERROR = "numba-softmax: error: "


def environment():
    root = str(Path(ns.__file__).parents[1])
    return {**os.environ, "PYTHONPATH": os.pathsep.join([root, *os.environ.get("PYTHONPATH", "").split(os.pathsep)])}


def numba_softmax(*arguments, **options):
    command = [sys.executable, "-m", "numba_softmax", *map(str, arguments)]
    options = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "env": environment(), **options}
    return subprocess.run(command, text=True, timeout=300, **options)


def in_a_process(code, *arguments, **options):
    command = [sys.executable, "-c", code, *map(str, arguments)]
    return subprocess.run(command, text=True, timeout=300, capture_output=True, env=environment(), **options)


def assert_refused(process, *words):
    assert process.returncode == 2, process.stderr
    assert process.stderr.startswith(ERROR)
    assert process.stderr.count("\n") == 1
    assert process.stdout == ""
    for word in words:
        assert str(word) in process.stderr


def same_bits(a, b):
    return a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes()


@pytest.fixture
def x():
    return np.random.default_rng(5).standard_normal((6, 7, 40), np.float32) * 5


@pytest.fixture
def file(tmp_path, x):
    path = tmp_path / "x.npy"
    np.save(path, x)
    return path


# -------------------------------------------------------------------------- run


@pytest.mark.parametrize("op", OPS)
def test_run_writes_what_the_function_returns(op, file, x, tmp_path):
    process = numba_softmax("run", file, tmp_path / "y.npy", "--op", op, "--axis", "1", "--json")
    assert process.returncode == 0, process.stderr
    assert process.stderr == ""
    assert same_bits(np.load(tmp_path / "y.npy"), getattr(ns, op)(x, 1))
    summary = json.loads(process.stdout)
    assert summary["op"] == op
    assert summary["input"]["shape"] == list(x.shape)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["x.npy", "y.npy"]


def test_run_names_its_output_after_the_input(file, x):
    process = numba_softmax("run", file, "--op", "log_softmax")
    assert process.returncode == 0, process.stderr
    assert "x.log_softmax.npy" in process.stdout
    assert same_bits(np.load(file.with_name("x.log_softmax.npy")), ns.log_softmax(x))


def test_run_can_write_over_its_input(file, x, tmp_path):
    assert numba_softmax("run", file, file).returncode == 0
    assert same_bits(np.load(file), ns.softmax(x))
    assert list(tmp_path.iterdir()) == [file]


@pytest.mark.parametrize(("axis", "order"), [("1", "C"), ("0,2", "C"), ("none", "C"), ("0", "F")])
@pytest.mark.parametrize("op", ["softmax", "logsumexp"])
def test_run_computes_any_axis_slab_by_slab(op, axis, order, file, x, tmp_path, monkeypatch):
    monkeypatch.setattr(mapped, "SLAB", 2000)
    monkeypatch.setattr(mapped, "SHORTEST_RUN", 64)
    np.save(file, np.asarray(x, order=order))
    to = tmp_path / "y.npy"
    assert cli.main(["run", str(file), str(to), "--op", op, f"--axis={axis}", "--scale=0.5"]) == 0
    y = np.load(to)
    assert_right(op, y, x, cli._axis(axis), scale=0.5)
    if op != "logsumexp":
        assert y.flags.f_contiguous == (order == "F")


@pytest.mark.parametrize(("op", "axis", "streams"), [("softmax", "0", 2), ("softmax", "1", 1), ("logsumexp", "0", 1)])
def test_progress_counts_each_byte_that_is_read(op, axis, streams, file, x, monkeypatch):
    monkeypatch.setattr(mapped, "SLAB", 2000)
    bars = []

    class Bar(tqdm):
        def __init__(self, **options):
            super().__init__(**options | {"file": io.StringIO(), "disable": False, "leave": True, "delay": 0})
            bars.append(self)

    monkeypatch.setattr(run_module, "tqdm", Bar)
    assert cli.main(["run", str(file), "--op", op, f"--axis={axis}"]) == 0
    (bar,) = bars
    assert bar.n == bar.total == streams * x.nbytes
    assert "B/s" in bar.fp.getvalue()


@pytest.mark.parametrize("shape", [(), (0, 5), (5, 0), (1, 1)])
def test_run_takes_scalars_and_empty_arrays(shape, file, tmp_path):
    x = np.zeros(shape, np.float32)
    np.save(file, x)
    for op in OPS:
        assert cli.main(["run", str(file), str(tmp_path / "y.npy"), "--op", op]) == 0
        assert same_bits(np.load(tmp_path / "y.npy"), np.asarray(getattr(ns, op)(x)))


def test_run_passes_dtype_and_scale_on(file, x, tmp_path):
    to = tmp_path / "y.npy"
    assert numba_softmax("run", file, to, "--dtype", "float16", "--scale", "0.5").returncode == 0
    assert same_bits(np.load(to), ns.softmax(x, scale=0.5, dtype="float16"))


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs Linux to tell how much memory was used")
def test_run_needs_little_memory_for_a_large_file(tmp_path):
    np.lib.format.open_memmap(tmp_path / "x.npy", mode="w+", dtype=np.float32, shape=(1 << 16, 1 << 10)).flush()
    code = """
import pathlib, sys
from numba_softmax.cli import main
from numba_softmax import softmax
softmax([[0.0]] * 2)
peak = lambda: int(pathlib.Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0]) / 1024
before = peak()
assert main(["run", *sys.argv[1:]]) == 0
print(peak() - before)
"""
    process = in_a_process(code, tmp_path / "x.npy", tmp_path / "y.npy")
    assert process.returncode == 0, process.stderr
    assert float(process.stdout.splitlines()[-1]) < 256  # MiB, of 512 in both files
    assert np.load(tmp_path / "y.npy", mmap_mode="r")[-1, -1] == 2.0**-10


def test_the_sample_shows_the_strongest_entries():
    process = numba_softmax("run")
    assert process.returncode == 0, process.stderr
    assert "strongest entries" in process.stdout
    assert any(line.split()[:3] == ["it", "->", "trophy"] for line in process.stdout.splitlines())


@pytest.mark.parametrize("op", OPS)
@pytest.mark.parametrize("axis", ["-1", "0", "none"])
def test_the_sample_agrees_with_a_wider_computation(op, axis, capsys):
    assert cli.main(["run", "--op", op, "--axis", axis, "--json"]) == 0
    summary = json.loads(capsys.readouterr().out)
    assert summary["largest_error_ulp"] <= 2
    assert summary["strongest"]
    assert summary["threads"] >= 1


# -------------------------------------------------------------------- bad input


def _text(path):
    path.write_text("0.1, 0.2\n")


def _cut(path):
    with path.open("r+b") as file:
        file.truncate(400)


def _cut_in_header(path):
    with path.open("r+b") as file:
        file.truncate(40)


def _archive(path):
    with path.open("wb") as file:
        np.savez(file, x=np.zeros(3))


def _bad_header(path):
    path.write_bytes(path.read_bytes().replace(b"'descr'", b"'descr("))


BAD_INPUTS = {
    "missing": lambda path: path.unlink(),
    "a folder": lambda path: (path.unlink(), path.mkdir()),
    "text": _text,
    "cut": _cut,
    "cut in its header": _cut_in_header,
    "of a bad header": _bad_header,
    "empty": lambda path: path.write_bytes(b""),
    "an archive": _archive,
    "pickled": lambda path: np.save(path, np.array([{}, None])),
    "complex": lambda path: np.save(path, np.zeros(3, complex)),
    "of text": lambda path: np.save(path, np.array(["a"])),
}


@pytest.mark.parametrize("spoil", BAD_INPUTS.values(), ids=BAD_INPUTS)
def test_bad_input_is_refused(spoil, file, tmp_path, capsys):
    spoil(file)
    before = sorted(tmp_path.iterdir())
    assert cli.main(["run", str(file)]) == 2
    captured = capsys.readouterr()
    assert captured.err.startswith(ERROR + str(file))
    assert captured.err.count("\n") == 1
    assert captured.out == ""
    assert sorted(tmp_path.iterdir()) == before


def test_bad_input_is_one_line_from_the_process_too(tmp_path):
    assert_refused(numba_softmax("run", tmp_path / "x.npy"), tmp_path / "x.npy", "No such file")


@pytest.mark.parametrize(
    "arguments",
    [
        ["--axis", "3"],
        ["--axis", "0,0"],
        ["--scale", "nan"],
        ["no/such/folder/y.npy"],
        ["."],
        pytest.param(["/dev/full"], marks=pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")),
    ],
    ids=" ".join,
)
def test_what_cannot_be_done_is_refused_and_nothing_is_left(arguments, file, tmp_path):
    assert_refused(numba_softmax("run", file, *arguments, cwd=tmp_path))
    assert list(tmp_path.iterdir()) == [file]


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["walk"],
        ["run", "--axis", "one"],
        ["run", "--op", "hardmax"],
        ["run", "--dtype", "int8"],
        ["run", "a", "b", "c"],
        ["bench", "--sweep", "--cold"],
        ["bench", "--quick", "--sweep"],
        ["bench", "--cold", "--quick"],
    ],
    ids=" ".join,
)
def test_usage_errors_exit_with_2(arguments, capsys):
    with pytest.raises(SystemExit) as end:
        cli.main(arguments)
    assert end.value.code == 2
    error = capsys.readouterr().err
    assert error.startswith(ERROR)
    assert error.count("\n") == 1


@pytest.mark.skipif(sys.platform == "win32", reason="needs limits of a Unix process")
def test_a_file_size_limit_is_refused_and_nothing_is_left(file, tmp_path):
    import resource

    def limit():
        resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))

    process = numba_softmax("run", file, tmp_path / "y.npy", preexec_fn=limit)
    assert_refused(process, "y.npy")
    assert list(tmp_path.iterdir()) == [file]


@pytest.mark.skipif(not hasattr(os, "posix_fallocate"), reason="space cannot be reserved here")
def test_a_full_disk_is_refused_and_nothing_is_left(file, tmp_path, monkeypatch, capsys):
    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "posix_fallocate", full)
    assert cli.main(["run", str(file)]) == 2
    assert os.strerror(errno.ENOSPC) in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == [file]


def test_an_interrupt_leaves_nothing(file, tmp_path, monkeypatch):
    def interrupted(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(mapped, "compute", interrupted)
    assert cli.main(["run", str(file)]) == 130
    assert list(tmp_path.iterdir()) == [file]


@pytest.mark.skipif(sys.platform == "win32", reason="needs signals")
@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM"])
def test_a_signal_leaves_nothing(name, file, tmp_path):
    code = f"""
import os, signal, sys
from numba_softmax.streaming import mapped
from numba_softmax.cli import main
signal.signal(signal.SIGINT, signal.default_int_handler)  # it is ignored below a job in the background
mapped.compute = lambda *_, **__: os.kill(os.getpid(), signal.{name})
sys.exit(main())
"""
    process = in_a_process(code, "run", file)
    assert process.returncode == 128 + getattr(signal, name)
    assert process.stderr == ""
    assert list(tmp_path.iterdir()) == [file]


@pytest.mark.skipif(sys.platform == "win32", reason="needs signals")
def test_an_interrupt_is_heard_while_a_kernel_is_compiled(file, tmp_path):
    code = """
import os, signal, sys, threading
from numba.core import compiler_lock
from numba_softmax.cli import main
signal.signal(signal.SIGINT, signal.default_int_handler)  # it is ignored below a job in the background
held = threading.Event()
def hold():
    compiler_lock.global_compiler_lock.acquire()  # until the process ends, so no compilation does before that
    held.set()
    threading.Timer(0.5, os.kill, (os.getpid(), signal.SIGINT)).run()
threading.Thread(target=hold).start()
held.wait()
sys.exit(main())
"""
    process = in_a_process(code, "run", file)
    assert process.returncode == 130
    assert list(tmp_path.iterdir()) == [file]


@pytest.mark.skipif(sys.platform == "win32", reason="needs pipes of a Unix process")
def test_a_closed_pipe_ends_quietly():
    read, write = os.pipe()
    os.close(read)
    process = numba_softmax("info", stdout=write)
    os.close(write)
    assert process.stderr == ""
    assert process.returncode == 141


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_results_that_cannot_be_printed_are_an_error():
    with open("/dev/full", "w") as full:
        process = numba_softmax("info", stdout=full)
    assert process.returncode == 2
    assert process.stderr.startswith(ERROR)
    assert process.stderr.count("\n") == 1
