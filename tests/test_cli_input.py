"""Users' mistakes on the command line and in files: one line, exit code 2, and nothing is written."""

import os
import subprocess
import sys
import zipfile

import ml_dtypes
import numpy as np
import pytest

import numba_softmax as ns
from numba_softmax import cli

ERROR = "numba-softmax: error: "
COMMANDS = ("run", "info", "selftest", "bench", "kernels")


@pytest.fixture
def run(tmp_path):
    """Run a command in a process of its own, in a folder of its own."""

    def command(*arguments, **env):
        return subprocess.run(
            [sys.executable, "-m", "numba_softmax", *map(str, arguments)],
            env={**os.environ, "PYTHONPATH": os.path.dirname(os.path.dirname(ns.__file__)), **env},
            cwd=tmp_path, capture_output=True, timeout=300,
        )  # fmt: skip

    return command


@pytest.fixture
def x(tmp_path):
    x = np.random.default_rng(3).standard_normal((6, 40), np.float32)
    np.save(tmp_path / "x.npy", x)
    return x


def assert_refused(done, *words):
    error = done.stderr.decode()
    assert done.returncode == 2, error
    assert error.startswith(ERROR)
    assert error.count("\n") == 1
    assert done.stdout == b""
    for word in words:
        assert word in error


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        (["run", ""], "empty"),
        (["run", "."], "Is a directory"),
        (["run", ".."], "Is a directory"),
        (["run", "/"], "Is a directory"),
        (["run", "x.npy", ""], "empty"),
        (["run", "x.npy", "/"], "not a regular file"),
        (["bench", "--quick", "--json", ""], "empty"),
        (["bench", "--quick", "--plot", ""], "empty"),
        (["bench", "--quick", "--json", "/"], "not a regular file"),
    ],
    ids=lambda part: " ".join(map(repr, part)) if isinstance(part, list) else part,
)
def test_names_of_no_file_are_refused(arguments, word, run, x, tmp_path):
    before = sorted(tmp_path.iterdir())
    assert_refused(run(*arguments), word)
    assert sorted(tmp_path.iterdir()) == before


@pytest.mark.parametrize("encoding", ["ascii", "cp1252", "utf-8"])
def test_names_that_stdout_cannot_encode_are_printed_all_the_same(encoding, run, x, tmp_path):
    (tmp_path / "x.npy").rename(tmp_path / "é日.npy")
    done = run("run", "é日.npy", PYTHONIOENCODING=encoding, PYTHONUTF8="0")
    assert done.returncode == 0, done.stderr.decode()
    assert "é日.softmax.npy".encode(encoding, "backslashreplace") in done.stdout
    np.testing.assert_array_equal(np.load(tmp_path / "é日.softmax.npy"), ns.softmax(x))


@pytest.mark.parametrize(
    ("variable", "value", "command"),
    [
        *(("NUMBA_DISABLE_JIT", "1", command) for command in COMMANDS),
        *(("NUMBA_THREADING_LAYER", "none such", command) for command in COMMANDS),
        ("NUMBA_THREADING_LAYER_PRIORITY", "omp", "info"),
    ],
)
def test_settings_of_numba_that_run_no_kernel_are_refused(variable, value, command, run, x, tmp_path):
    before = sorted(tmp_path.iterdir())
    assert_refused(run(command, **{variable: value}), variable.removesuffix("_PRIORITY"))
    assert sorted(tmp_path.iterdir()) == before


def test_bfloat16_is_read_when_it_is_named(x, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    narrow = x.astype(ml_dtypes.bfloat16)
    np.save("narrow.npy", narrow)
    assert cli.main(["run", "narrow.npy", "y.npy", "--as", "bfloat16", "--axis", "0"]) == 0
    np.testing.assert_array_equal(np.load("y.npy").view(ml_dtypes.bfloat16), ns.softmax(narrow, axis=0))
    assert cli.main(["run", "narrow.npy", "y.npy", "--as", "bfloat16", "--dtype", "float32"]) == 0
    np.testing.assert_array_equal(np.load("y.npy"), ns.softmax(narrow, dtype="float32"))


@pytest.mark.parametrize(
    ("saved", "option", "words"),
    [
        (np.ones(3, ml_dtypes.bfloat16), [], ["|V2", "--as bfloat16"]),
        (np.ones(3, np.float16), ["--as", "bfloat16"], ["float16", "--as bfloat16"]),
        (np.zeros(3, "V4"), ["--as", "bfloat16"], ["|V4", "--as bfloat16"]),
    ],
    ids=["not named", "another dtype", "of four bytes"],
)
def test_bytes_without_a_type_are_not_taken_for_something(saved, option, words, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    np.save("x.npy", saved)
    assert cli.main(["run", "x.npy", *option]) == 2
    error = capsys.readouterr().err
    assert error.startswith(ERROR + "x.npy")
    assert error.count("\n") == 1
    assert all(word in error for word in words)
    assert [path.name for path in tmp_path.iterdir()] == ["x.npy"]


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_an_archive_is_refused_with_the_way_to_take_an_array_out(save, x, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    save("all.npz", scores=x, other=x)
    assert cli.main(["run", "all.npz"]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    (line,) = [part for part in error.split("`") if part.startswith("np.save(")]
    exec(line, {"np": np})
    np.testing.assert_array_equal(np.load("scores.npy"), x)


def damage(path):
    """Make an archive one whose end is whole, but not its list of files."""
    content = path.read_bytes()
    path.write_bytes(content.replace(b"PK\x01\x02", b"PK??"))


def model(path):
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("model/data.pkl", b"")


@pytest.mark.parametrize(
    "make",
    [
        lambda path: (np.savez(path, scores=np.ones(3)), damage(path)),
        model,
        lambda path: zipfile.ZipFile(path, "w").close(),
    ],
    ids=["damaged", "a model", "empty"],
)
def test_an_archive_with_no_arrays_to_take_out_is_refused_without_advice(make, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    make(tmp_path / "all.npz")
    assert cli.main(["run", "all.npz"]) == 2
    error = capsys.readouterr().err
    assert error.startswith(ERROR + "all.npz is not a whole .npy file of numbers")
    assert error.count("\n") == 1
    assert "np.save" not in error


def test_an_option_of_files_needs_one(capsys):
    assert cli.main(["run", "--as", "bfloat16"]) == 2
    assert capsys.readouterr().err == ERROR + "--as is for a file: name one\n"


def test_an_option_of_bfloat16_says_what_it_needs(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    np.save("x.npy", np.ones(3, ml_dtypes.bfloat16))
    monkeypatch.setitem(sys.modules, "ml_dtypes", None)
    assert cli.main(["run", "x.npy", "--as", "bfloat16"]) == 2
    assert "pip install" in capsys.readouterr().err
