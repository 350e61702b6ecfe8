"""``bench --device cuda`` on stand-ins: the command, its record, what it refuses."""

import json
from types import SimpleNamespace

import pytest
from bench_fakes import ERROR, NAMES, gpu_fixture, lazy, run, setup_fixture  # noqa: F401
from gpu_fakes import OUT_OF_MEMORY

from numba_softmax import api
from numba_softmax.backends.cuda import driver
from numba_softmax.bench import cuda as bench_cuda
from numba_softmax.bench import cuda_arrays, cuda_report
from numba_softmax.bench.cases import Case
from numba_softmax.bench.optional import UnmeasurableError
from numba_softmax.call.layout import FLOATS
from numba_softmax.cli import info

# ------------------------------------------------------------------ the command


def test_its_record_has_what_was_measured(gpu, tmp_path, capsys):
    assert run("--quick", "--json", tmp_path / "b.json") == 0
    report = json.loads((tmp_path / "b.json").read_text())
    assert set(report) == {"machine", "cuda"}
    assert {"versions", "cpu", "date"} <= set(report["machine"])
    found = report["cuda"]
    assert {"name": "Fake 0", "cuda": "13.2", "capability": [9, 0], "processors": 132}.items() <= found["gpu"].items()
    assert found["gpu"]["memory_gb_per_second"] == pytest.approx(3352.32)
    assert found["versions"]["torch"] == "torch 1.0"
    assert found["rounds"] == 5
    assert [result["case"] for result in found["cases"]] == [case.label for case in bench_cuda.QUICK]
    for case, result in zip(bench_cuda.QUICK, found["cases"], strict=True):
        assert {
            "op": case.op,
            "shape": list(case.shape),
            "dtype": case.dtype,
            "axis": case.axis,
        }.items() <= result.items()
        assert set(result["seconds"]) == set(result["gb_per_second"]) == NAMES
        assert set(result["of_copy"]) == NAMES - {"copy"}
        assert set(result["times_faster_than"]) == NAMES - {"numba_softmax"}
        for name, seconds in result["seconds"].items():
            assert seconds["minimum"] <= seconds["quartiles"][0] <= seconds["median"] <= seconds["quartiles"][1]
            assert result["gb_per_second"][name] == pytest.approx(result["bytes"] / seconds["median"] / 1e9)
        assert set(result["ulp"]) == {"numba_softmax", "torch"}
        assert result["ulp"]["numba_softmax"] <= {"float64": 4, "float32": 2}.get(case.dtype, 0.51)
    assert gpu.maker.tidied == len(bench_cuda.QUICK)


def test_its_table_is_made_from_its_record(gpu, tmp_path, capsys):
    assert run("--quick", "--json", tmp_path / "b.json") == 0
    report = json.loads((tmp_path / "b.json").read_text())
    printed = capsys.readouterr().out
    assert printed == "\n".join([info.in_one_line(report["machine"]), *cuda_report.lines(report["cuda"])]) + "\n"
    assert "Fake 0; CUDA 13.2" in printed
    assert "memory 3,352 GB/s" in printed
    heads = ["GB/s", "of", "copy", "x", "torch", "x", "triton", "x", "cupy", "spread", "ulp"]
    table = printed.splitlines()
    first = next(i for i, line in enumerate(table) if line.split() == heads) + 1
    for result, row in zip(report["cuda"]["cases"], table[first:], strict=False):
        assert row.startswith(result["case"])
        assert row.split()[-4:-2] == ["-", "-"]  # Triton and CuPy took no part
    for part in ("lookup and checks", "the kernel's arguments", "the driver's launch"):
        assert f"    {part}" in printed


def test_it_draws_a_panel_for_each_dtype(gpu, tmp_path, capsys):
    pytest.importorskip("matplotlib")
    assert run("--quick", "--json", tmp_path / "b.json", "--plot", tmp_path / "b.png") == 0
    assert (tmp_path / "b.png").read_bytes().startswith(b"\x89PNG")
    drawn = cuda_report.figure(json.loads((tmp_path / "b.json").read_text())["cuda"])
    panels = [axes for axes in drawn.axes if axes.get_visible()]
    assert [axes.get_title(loc="left") for axes in panels] == list(FLOATS)
    for axes in panels:
        assert [line.get_label() for line in axes.lines] == ["numba_softmax", "torch", "copy"]
    single = panels[FLOATS.index("float32")].lines[0]
    assert list(single.get_xdata()) == [64, 1024]  # neither the masked case nor that of the other axis


def test_competitors_that_fail_are_left_out_with_a_note(gpu, capsys):
    assert run("--quick") == 0
    notes = capsys.readouterr().err.splitlines()
    for case in (bench_cuda.TINY, *bench_cuda.QUICK):
        assert f"{case.label}: triton is left out: TypeError: no such dtype" in notes
        assert f"{case.label}: cupy is left out: RuntimeError: out of memory" in notes
    assert len(notes) == 2 * (1 + len(bench_cuda.QUICK))


def test_competitors_that_leave_out_results_are_left_out(gpu, monkeypatch, capsys, setup):
    monkeypatch.setitem(bench_cuda.FOREIGN, "torch", lazy)
    result = bench_cuda._measured_case(Case("softmax", (64, 64)), setup)
    assert set(result["seconds"]) == NAMES - {"torch"}
    assert "torch is left out: ArithmeticError: it gives NaN" in capsys.readouterr().err


def test_ours_leaving_out_results_is_an_error(gpu, monkeypatch, setup):
    monkeypatch.setattr(api, "softmax", lambda *_, **__: None)
    with pytest.raises(UnmeasurableError, match="numba_softmax: it gives NaN"):
        bench_cuda._measured_case(Case("softmax", (64, 64)), setup)


def test_ours_failing_is_an_error_and_leaves_no_files(gpu, monkeypatch, tmp_path):
    def fails(*_, **__):
        raise ValueError("no such luck")

    monkeypatch.setattr(api, "logsumexp", fails)
    with pytest.raises(ValueError, match="no such luck"):
        run("--quick", "--json", tmp_path / "b.json")
    assert list(tmp_path.iterdir()) == []


def test_cases_whose_arrays_cannot_be_made_are_left_out(gpu, monkeypatch, capsys):
    normal = gpu.maker.normal

    def lacking_bfloat16(shape, dtype):
        if dtype == "bfloat16":
            raise TypeError("bfloat16 is not known here")
        return normal(shape, dtype)

    monkeypatch.setattr(gpu.maker, "normal", lacking_bfloat16)
    assert run("--quick") == 0
    captured = capsys.readouterr()
    assert "bfloat16: the case is left out: TypeError: bfloat16 is not known here" in captured.err
    assert "64 x 1,024 bfloat16" not in captured.out


# ----------------------------------------------------------------------- refused


@pytest.mark.parametrize("kind", ["--sweep", "--cold"])
def test_other_measurements_are_refused(kind, tmp_path, capsys):
    assert run(kind, "--json", tmp_path / "b.json") == 2
    captured = capsys.readouterr()
    assert captured.err.startswith(f"{ERROR}{kind} does not go with --device cuda")
    assert captured.err.count("\n") == 1
    assert captured.out == ""
    assert list(tmp_path.iterdir()) == []


def test_without_a_gpu_it_says_what_is_missing(monkeypatch, tmp_path, capsys):
    def no_bindings():
        raise driver.CudaError("CUDA needs numba-cuda, which is not installed")

    monkeypatch.setattr(driver, "_bindings", no_bindings)
    monkeypatch.setattr(driver, "_cuda", driver._Unready())
    assert run("--json", tmp_path / "b.json", "--plot", tmp_path / "b.svg") == 2
    captured = capsys.readouterr()
    assert captured.err == f"{ERROR}CUDA needs numba-cuda, which is not installed\n"
    assert captured.out == ""
    assert list(tmp_path.iterdir()) == []


def test_without_a_library_it_says_what_to_install(monkeypatch):
    off = SimpleNamespace(is_available=lambda: False)
    monkeypatch.setattr(cuda_arrays, "optional", {"torch": SimpleNamespace(cuda=off), "numba.cuda": off}.get)
    with pytest.raises(UnmeasurableError, match=r"install torch, or cupy-cuda13x"):
        cuda_arrays.maker()


def test_a_gpu_without_memory_is_an_error_in_one_line(gpu, capsys):
    gpu.driver.fail("cuMemAllocFromPoolAsync", OUT_OF_MEMORY)
    assert run("--quick") == 2
    assert "out of memory" in capsys.readouterr().err
