"""The command line's `info`, `selftest` and `bench`, as processes wherever that is what the claim is about."""

from __future__ import annotations

import json
import math
import sys

import numpy as np
import pytest
from test_cli import ERROR, OPS, numba_softmax

import numba_softmax as ns
from numba_softmax import api, cli
from numba_softmax.bench import cold, cpu, new_process, sweep, timing
from numba_softmax.bench.cases import Case
from numba_softmax.cli import info


def test_version_is_that_of_the_package():
    assert numba_softmax("--version").stdout == f"numba-softmax {ns.__version__}\n"


def test_info_says_what_there_is():
    process = numba_softmax("info", "--json")
    assert process.returncode == 0, process.stderr
    facts = json.loads(process.stdout)
    assert facts["versions"]["numba_softmax"] == ns.__version__
    assert facts["versions"]["numpy"] == np.__version__
    assert facts["cpu"]["cores"] >= 1
    assert facts["cuda"]["usable"] is (facts["cuda"]["missing"] is None)
    assert set(facts) == {"versions", "cpu", "threads", "cache", "cuda"}


def test_info_works_where_nothing_can_be_found(monkeypatch, capsys):
    def lost(*_):
        raise RuntimeError

    from numba_softmax.backends import disk
    from numba_softmax.backends.cpu import threads

    monkeypatch.setattr(info.llvmlite.binding, "get_host_cpu_features", lost)
    monkeypatch.setattr(info.importlib.metadata, "version", lost)
    monkeypatch.setattr(info, "_name_in_cpuinfo", lost)
    monkeypatch.setattr(disk, "cache_folder", lost)
    monkeypatch.setattr(threads, "layer", lost)
    assert cli.main(["info"]) == 0
    assert "unknown" in capsys.readouterr().out
    assert cli.main(["info", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["cpu"]["vector_bits"] is None


def test_selftest_passes_on_this_machine():
    process = numba_softmax("selftest")
    assert process.returncode == 0, process.stdout
    assert "FAILED" not in process.stdout
    assert "none failed" in process.stdout


def test_selftest_notices_a_broken_function(monkeypatch, capsys):
    monkeypatch.setattr(api, "softmax", lambda x, *_, **__: np.zeros_like(x))
    assert cli.main(["selftest", "--json"]) == 1
    report = json.loads(capsys.readouterr().out)
    assert not report["ok"]
    status = {check["check"]: check["status"] for check in report["checks"]}
    assert status["softmax: accuracy in float32"] == "FAILED"
    assert status["logsumexp: accuracy in float32"] == "ok"


def printed_from(report, lines):
    """The table of bench, made again from its record."""
    return "\n".join([info.in_one_line(report["machine"]), *lines]) + "\n"


def test_bench_writes_its_table_and_files(tmp_path):
    pytest.importorskip("matplotlib")
    process = numba_softmax("bench", "--quick", "--json", tmp_path / "b.json", "--plot", tmp_path / "b.png")
    assert process.returncode == 0, process.stderr
    assert "of copy" in process.stdout
    report = json.loads((tmp_path / "b.json").read_text())
    assert set(report) == {"machine", "cases"}
    assert {"versions", "cpu", "threads", "date"} <= set(report["machine"])
    assert printed_from(report, cpu.lines(report["cases"])) == process.stdout
    for case in report["cases"]:
        assert {"case", "op", "shape", "dtype", "axis", "seconds", "of_copy", "of_plain", "ulp"} <= set(case)
        assert {"numba_softmax", "copy", "numpy"} <= set(case["seconds"])
        assert case["ulp"]["numba_softmax"] <= 2
    assert (tmp_path / "b.png").read_bytes().startswith(b"\x89PNG")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["b.json", "b.png"]


def test_bench_says_what_a_plot_needs(tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    assert cli.main(["bench", "--quick", "--plot", str(tmp_path / "b.png")]) == 2
    assert 'pip install "numba-softmax[bench]"' in capsys.readouterr().err
    assert cli.main(["bench", "--quick", "--plot", str(tmp_path / "b.txt")]) == 2
    assert ".png" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("unlike", [{"masked": True}, {"scale": 0.125}, {"dtype": "int32"}], ids=str)
def test_bench_holds_a_call_against_the_plain_one_of_its_shape(unlike):
    case = Case("softmax", (50, 60), **unlike)
    result = cpu.measured_case(case)
    seconds, rounds = result["seconds"], result["rounds"]
    assert result["of_plain"] == seconds["numba_softmax"] / seconds["plain"]
    assert result["of_plain_aim"] == (1 if "dtype" in unlike else 1.3)
    assert rounds["plain"] == rounds["numba_softmax"] == timing.ROUNDS
    assert all(error <= 100 for error in result["ulp"].values())  # by whatever way, they compute the same


def test_bench_has_all_kinds_of_calls():
    kinds = {(case.op, case.dtype, case.axis == -1, case.masked, case.scale) for case in cpu.CASES}
    assert {("softmax", "float32", True, True, None), ("softmax", "float32", True, False, 0.125)} <= kinds
    assert ("softmax", "int32", True, False, None) in kinds
    for op in OPS:
        assert len({case.shape for case in cpu.CASES if case.op == op}) >= 2
    assert len({case.label for case in cpu.CASES}) == len(cpu.CASES)


def test_each_round_of_a_sweep_goes_through_all_points(monkeypatch):
    monkeypatch.setattr(timing, "rested", lambda call, about: timing.timed(call))
    called, keys, rounds = [], range(20), 6
    with timing.tqdm(total=len(keys) * (rounds + 1), disable=True) as bar:
        seconds = timing.shuffled({key: lambda key=key: called.append(key) for key in keys}, rounds, bar)
    assert {key: len(samples) for key, samples in seconds.items()} == dict.fromkeys(keys, rounds)
    timed = called[2 * len(keys) :]  # each was called twice before: to compile, and to see how long it takes
    orders = [tuple(timed[i : i + len(keys)]) for i in range(0, len(timed), len(keys))]
    assert len(orders) == len(set(orders)) == rounds
    assert all(sorted(order) == list(keys) for order in orders)


@pytest.mark.parametrize("at", range(0, 40, 3))
def test_a_cliff_is_found(at):
    speeds = [10 + math.log(n) for n in range(1, 41)]
    speeds[at] *= 0.45
    assert sweep.cliffs(speeds) == [at]
    assert sweep.of_neighbours(speeds)[at] == pytest.approx(0.45, rel=0.1)


def test_the_side_of_a_drop_that_is_slow_is_a_cliff():
    assert sweep.cliffs([10.0] * 8 + [3.0] * 8) == [8]


def test_a_smooth_curve_has_no_cliff():
    for per_row in (1, 30, 1000):
        assert sweep.cliffs([(n + 2) / (n + per_row) for n in sweep.LENGTHS]) == []
    assert sweep.cliffs([]) == sweep.cliffs([1.0]) == []


def test_the_points_of_a_sweep_are_many_and_ascend():
    for points, most in ((sweep.LENGTHS, 100_000), (sweep.INNERS, 1000)):
        assert list(points) == sorted(set(points))
        assert (points[0], points[-1]) == (1, most)
    for power in (16, 256, 4096, 65536):
        assert {power - 1, power, power + 1} <= set(sweep.LENGTHS)


@pytest.fixture
def tiny_sweep(monkeypatch):
    for name, value in {"ELEMENTS": 1000, "ROUNDS": 2, "LENGTHS": (1, 7, 2000), "INNERS": (1, 9)}.items():
        monkeypatch.setattr(sweep, name, value)


def test_sweep_passes_the_arrays_that_its_table_tells_of(tiny_sweep, monkeypatch):
    seen = set()

    def softmax(x, axis, out):
        assert x.dtype == out.dtype == np.float32
        assert x.shape == out.shape
        assert x.ctypes.data % 64 == out.ctypes.data % 64
        seen.add((x.shape, axis, x.ctypes.data % 64))

    monkeypatch.setattr(api, "softmax", softmax)
    results = sweep.measured()
    rows = {(shape, -1, offset) for shape in ((1000, 1), (143, 7), (1, 2000)) for offset in (0, 4)}
    assert seen == rows | {(s, -2, 0) for s in ((10, 100, 1), (2, 100, 9), (334, 3, 1), (38, 3, 9))}
    assert [[(p["n"], p["inner"]) for p in curve["points"]] for curve in results["curves"]] == [
        [(1, 1), (7, 1), (2000, 1)],
        [(1, 1), (7, 1), (2000, 1)],
        [(100, 1), (100, 9)],
        [(3, 1), (3, 9)],
    ]


def test_sweep_writes_its_tables_and_files(tiny_sweep, tmp_path, capsys):
    pytest.importorskip("matplotlib")
    assert cli.main(["bench", "--sweep", "--json", str(tmp_path / "s.json"), "--plot", str(tmp_path / "s.png")]) == 0
    report = json.loads((tmp_path / "s.json").read_text())
    assert set(report) == {"machine", "sweep"}
    captured = capsys.readouterr()
    assert printed_from(report, sweep.lines(report["sweep"])) == captured.out
    assert captured.err == ""
    assert (tmp_path / "s.png").read_bytes().startswith(b"\x89PNG")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["s.json", "s.png"]


def test_sweep_lists_its_cliffs(tiny_sweep, monkeypatch):
    monkeypatch.setattr(api, "softmax", lambda *_, **__: None)
    slow = {(3, 1): [9.0, 9.0, 9.0], (2, 1): [1.0, 9.0, 9.0]}  # in all rounds, and in most of them
    monkeypatch.setattr(sweep, "shuffled", lambda calls, *_: {key: slow.get(key, [1.0] * 3) for key in calls})
    results = sweep.measured()
    cliffs = [(cliff["curve"], cliff["n"], cliff["inner"]) for cliff in results["cliffs"]]
    assert cliffs == [("n = 100", 100, 9), ("n = 3", 3, 9)]
    *table, head, noise, cliff = sweep.lines(results)
    assert sum(line.count("*") for line in table[4:]) == 2
    assert head.endswith(": 2")
    assert noise.split(maxsplit=6)[-1] == "0.20, in the fastest rounds 1.80  (noise of this machine?)"
    assert cliff.split(maxsplit=6)[-1] == "0.11, in the fastest rounds 0.11"


def test_cold_times_new_processes(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(cold, "REPEATS", 1)
    monkeypatch.setattr(cold, "SHAPES", ((8, 8),))
    assert cli.main(["bench", "--cold", "--json", str(tmp_path / "c.json")]) == 0
    report = json.loads((tmp_path / "c.json").read_text())
    assert set(report) == {"machine", "cold"}
    captured = capsys.readouterr()
    assert printed_from(report, cold.lines(report["cold"])) == captured.out
    assert captured.err == ""
    steps = {step["step"]: step for step in report["cold"]["steps"]}
    assert {name: step["aim"] for name, step in steps.items() if step["aim"]} == cold.AIMS
    assert all(seconds > 0 for step in steps.values() for seconds in step["samples"])
    pairs = zip(steps["import numba_softmax"]["samples"], steps["import numba"]["samples"], strict=True)
    assert [all_ - numba for all_, numba in pairs] == pytest.approx(steps["over numba"]["samples"])


def test_cold_compiles_once_for_a_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("NUMBA_CACHE_DIR", str(tmp_path / "elsewhere"))
    kernels = []
    for _ in range(2):
        new_process.in_new_process(str(tmp_path), (8, 8))
        kernels.append([(path.name, path.stat().st_mtime_ns) for path in tmp_path.rglob("*.kernel")])
    assert len(kernels[0]) == 1
    assert kernels[1] == kernels[0]
    assert not (tmp_path / "elsewhere").exists()


def test_cold_says_why_a_process_failed(monkeypatch, capsys):
    monkeypatch.setattr(new_process, "CHILD", "raise RuntimeError('no such luck')")
    assert cli.main(["bench", "--cold"]) == 2
    captured = capsys.readouterr()
    assert captured.err.startswith(ERROR)
    assert captured.err.endswith("RuntimeError: no such luck\n")
    assert captured.out == ""


def test_cold_has_no_plot(tmp_path, capsys):
    assert cli.main(["bench", "--cold", "--plot", str(tmp_path / "b.png")]) == 2
    captured = capsys.readouterr()
    assert captured.err.startswith(f"{ERROR}--plot does not go with --cold")
    assert captured.err.count("\n") == 1
    assert list(tmp_path.iterdir()) == []
