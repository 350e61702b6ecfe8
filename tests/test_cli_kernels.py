"""``numba-softmax kernels``: what it prints, and its reckoning of what fits on a multiprocessor."""

from __future__ import annotations

import importlib.util
import json
import sys

import pytest

from numba_softmax import cli
from numba_softmax.backends.spec import operands_for
from numba_softmax.call.layout import Layout
from numba_softmax.cli import UserError
from numba_softmax.cli import kernels as kernels_module
from numba_softmax.cli.kernels import Used, read_report
from numba_softmax.cli.occupancy import LIMITS, residency
from numba_softmax.ops import OPS, STATE_OPS

needs_numba_cuda = pytest.mark.skipif(
    importlib.util.find_spec("numba_cuda") is None, reason="kernels are compiled by numba-cuda, which is not installed"
)

# As nvJitLink wrote them, but for the kernel's name and the lines without numbers that count.
REPORT = """ptxas info    : 0 bytes gmem
ptxas info    : Compiling entry function 'kernel' for 'sm_90'
ptxas info    : Function properties for kernel
ptxas         .     0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads
ptxas info    : Used 79 registers, used 1 barriers, 96 bytes smem
ptxas info    : Compile time = 62.209 ms
info    : 8 bytes gmem
info    : Function properties for 'kernel':
info    : used 79 registers, used 1 barriers, 0 stack, 1120 bytes smem, 632 bytes cmem[0], 0 bytes lmem
"""
NO_SHARED_MEMORY = """ptxas         .     0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads
ptxas info    : Used 28 registers, used 0 barriers
ptxas info    : Compile time = 16.095 ms
info    : used 28 registers, used 5 barriers, 0 stack, 0 bytes smem, 632 bytes cmem[0], 0 bytes lmem
"""
SPILLED = """ptxas         .     56 bytes stack frame, 56 bytes spill stores, 60 bytes spill loads
ptxas info    : Used 64 registers, used 1 barriers, 56 bytes cumulative stack size, 12288 bytes smem
info    : used 64 registers, used 1 barriers, 56 stack, 13312 bytes smem, 664 bytes cmem[0], 0 bytes lmem
"""


def test_the_assemblers_report_is_read():
    assert read_report(REPORT) == Used(79, 96, 0, 0, 0)
    assert read_report(NO_SHARED_MEMORY) == Used(28, 0, 0, 0, 0)
    assert read_report(SPILLED) == Used(64, 12288, 56, 116, 0)
    assert [read_report(report).clean for report in (REPORT, NO_SHARED_MEMORY, SPILLED)] == [True, True, False]


def test_a_report_of_another_form_is_refused():
    for report in ("", REPORT + REPORT, REPORT.replace("lmem", "local")):
        with pytest.raises(UserError, match="report"):
            read_report(report)


@pytest.mark.parametrize(  # values of cuda_occupancy.h of CUDA 13
    ("capability", "threads", "registers", "shared_memory", "blocks", "limited_by"),
    [
        ((7, 5), 128, 40, 0, 8, ("warps",)),
        ((7, 5), 1024, 64, 0, 1, ("registers", "warps")),
        ((7, 5), 256, 32, 24576, 2, ("shared memory",)),
        ((7, 5), 512, 128, 65536, 1, ("registers", "shared memory")),
        ((8, 0), 128, 40, 0, 12, ("registers",)),
        ((8, 0), 128, 32, 49152, 3, ("shared memory",)),
        ((8, 6), 64, 32, 0, 16, ("blocks",)),
        ((8, 6), 128, 32, 49152, 2, ("shared memory",)),
        ((8, 9), 64, 32, 0, 24, ("warps", "blocks")),
        ((9, 0), 256, 182, 12288, 1, ("registers",)),
        ((9, 0), 128, 79, 1000, 6, ("registers",)),
        ((9, 0), 64, 16, 0, 32, ("warps", "blocks")),
        ((9, 0), 512, 62, 208896, 1, ("shared memory",)),
        ((10, 0), 96, 100, 0, 5, ("registers",)),
        ((12, 0), 192, 32, 0, 8, ("warps",)),
        ((12, 0), 128, 32, 101376, 1, ("shared memory",)),
        ((9, 0), 1024, 67, 0, 0, ("registers",)),
    ],
)
def test_occupancy_is_that_of_nvidias_calculator(capability, threads, registers, shared_memory, blocks, limited_by):
    got = residency(LIMITS[capability], threads, registers, shared_memory)
    assert (got.blocks, got.limited_by) == (blocks, limited_by)
    assert got.warps == blocks * -(-threads // 32)
    assert got.occupancy == got.warps / LIMITS[capability].warps


def test_what_a_block_cannot_have_does_not_run():
    assert residency(LIMITS[9, 0], 128, 256, 0).blocks == 0
    assert residency(LIMITS[9, 0], 128, 32, LIMITS[9, 0].of_a_block + 1).blocks == 0


@needs_numba_cuda
@pytest.mark.parametrize("dtype", cli.DTYPES)
@pytest.mark.parametrize("capability", LIMITS, ids=str)
def test_dynamic_shared_memory_is_that_of_the_longest_row_that_plans_stage(capability, dtype):
    from numba_softmax.backends.cuda.plan import Machine, plan

    machine, size = Machine(capability, LIMITS[capability].of_a_block), int(dtype[-2:]) // 8
    operands, staged = operands_for(OPS["softmax"], dtype, dtype, masked=False), {}
    for n in range(512, 1 << 18, 512):
        layout = Layout(operands, 9, n, ((9, n * size, n * size),), ((n, size, size),))
        launch = plan(OPS["softmax"], layout, machine, False, False, (0, 0)).launches[0]
        if launch.kernel.regime == "staged_rows":
            staged[n] = launch
    if not staged:
        assert capability == (7, 5)
        return
    kernel, _, most = staged[max(staged)]
    slots = 3 * kernel.geometry.warps * (8 if dtype == "float64" else 4)
    line = kernels_module.line_of(dtype, kernel, capability, Used(64, slots, 0, 0, 0))
    assert line.dynamic == most
    assert line.residency.blocks >= 1


# ------------------------------------------------------------------------ the command

ONE = ("kernels", "--op", "logsumexp", "--dtype", "float16", "--capability", "9.0")


@needs_numba_cuda
def test_it_prints_a_line_for_each_kernel(capsys):
    assert cli.main(ONE) == 0
    captured = capsys.readouterr()
    title, header, *lines = captured.out.split("\n\n")[0].splitlines()
    assert captured.err == ""
    assert title == f"capability 9.0: {len(lines)} kernels"
    assert header.split() == " ".join(kernels_module.HEADER).split()
    assert all("logsumexp  float16" in line and "%" in line for line in lines)
    assert {line.split()[0] for line in lines} >= {"rows", "staged_rows", "columns", "fold_columns", "finish_columns"}
    assert len(set(lines)) == len(lines)


@needs_numba_cuda
def test_its_json_has_what_the_table_has(capsys):
    assert cli.main([*ONE, "--json"]) == 0
    records = json.loads(capsys.readouterr().out)
    assert cli.main(ONE) == 0
    assert capsys.readouterr().out.startswith(f"capability 9.0: {len(records)} kernels\n")
    for record in records:
        assert (record["op"], record["x"], record["y"], record["capability"]) == ("logsumexp", *["float16"] * 2, "9.0")
        assert record["where"] is record["scale"] is False
        assert 0 < record["registers"] <= 255
        assert record["stack"] == record["spilled"] == record["local"] == 0
        assert record["blocks"] >= 1
        assert 0 < record["occupancy"] <= 1
        assert record["warps"] == record["blocks"] * record["block_threads"] // 32
        assert set(record["geometry"]) >= {"threads", "vectors", "elements", "across", "widths"}


@needs_numba_cuda
def test_the_options_name_the_kernels(monkeypatch, capsys):
    """Nothing is compiled: which kernels are meant is the claim."""
    from numba_softmax.backends.cuda import kernels

    monkeypatch.setattr(kernels, "assembled_kernel", lambda *_: kernels.Assembled(b"", "", NO_SHARED_MEMORY))

    def meant(*options):
        assert cli.main(["kernels", "--json", *options]) == 0
        return {(r["capability"], r["op"], r["x"], r["where"], r["scale"]) for r in json.loads(capsys.readouterr().out)}

    softmax = ("--op", "softmax", "--dtype", "float64", "--capability", "8.6")
    assert meant(*softmax) == {("8.6", "softmax", "float64", False, False)}
    assert meant(*softmax, "--where") == {("8.6", "softmax", "float64", True, False)}
    assert meant(*softmax, "--scale") == {("8.6", "softmax", "float64", False, True)}
    assert {flags for *_, where, scale in meant(*softmax, "--all") for flags in [(where, scale)]} == {
        (where, scale) for where in (False, True) for scale in (False, True)
    }
    both = meant("--capability", "7.5", "--capability", "12.0")
    assert both == {
        (c, op, dtype, False, False) for c in ("7.5", "12.0") for op in OPS | STATE_OPS for dtype in cli.DTYPES
    }


@needs_numba_cuda
def test_kernels_that_no_scale_changes_have_no_scaled_ones(capsys):
    assert cli.main(["kernels", "--op", "l", "--op", "identity", "--scale", "--capability", "9.0"]) == 2
    assert "no kernel has these options" in capsys.readouterr().err


@needs_numba_cuda
def test_a_kernel_that_spills_is_named_and_fails(monkeypatch, capsys):
    from numba_softmax.backends.cuda import kernels

    def assembled(kernel, capability):
        spills = kernel.regime == "fold_columns" and not kernel.geometry.ragged
        return kernels.Assembled(b"", "", SPILLED if spills else REPORT)

    monkeypatch.setattr(kernels, "assembled_kernel", assembled)
    assert cli.main(ONE) == 1
    captured = capsys.readouterr()
    said = "numba-softmax: fold_columns logsumexp float16 16x4x8 across 16 for capability 9.0: 56 bytes of stack"
    assert captured.err == f"{said}, 116 spilled, 0 of local memory\n"
    assert captured.out.startswith("capability 9.0: ")


@needs_numba_cuda
@pytest.mark.parametrize(("capability", "code"), [((8, 6), 0), ((8, 7), 2)])
def test_without_a_capability_that_of_the_gpu_is_meant(monkeypatch, capsys, capability, code):
    from numba_softmax.backends.cuda import kernels

    gpu = kernels_module.driver.Device(0, "a GPU", capability, 1, 1, 1, 1, True)
    monkeypatch.setattr(kernels_module.driver, "current_ordinal", lambda: 0)
    monkeypatch.setattr(kernels_module.driver, "device", lambda _: gpu)
    monkeypatch.setattr(kernels, "assembled_kernel", lambda *_: kernels.Assembled(b"", "", NO_SHARED_MEMORY))
    assert cli.main(["kernels", "--op", "softmax", "--dtype", "float32"]) == code
    captured = capsys.readouterr()
    if code:
        assert captured.err.startswith("numba-softmax: error: this GPU has capability 8.7: choose --capability among ")
    else:
        assert captured.out.startswith("capability 8.6: ")


@needs_numba_cuda
def test_without_a_gpu_it_is_a_known_one(monkeypatch, capsys):
    from numba_softmax.backends.cuda import kernels

    def none():
        raise kernels_module.driver.CudaError("no driver")

    monkeypatch.setattr(kernels_module.driver, "current_ordinal", none)
    monkeypatch.setattr(kernels, "assembled_kernel", lambda *_: kernels.Assembled(b"", "", NO_SHARED_MEMORY))
    assert cli.main(["kernels", "--op", "softmax", "--dtype", "float32"]) == 0
    assert capsys.readouterr().out.startswith("capability 9.0: ")


def test_it_says_that_it_needs_numba_cuda(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "numba_cuda", None)
    monkeypatch.delitem(sys.modules, "numba_softmax.backends.cuda.kernels", raising=False)
    assert cli.main(list(ONE)) == 2
    captured = capsys.readouterr()
    assert captured.err.startswith("numba-softmax: error: CUDA needs numba-cuda, which is not installed: pip install")
    assert captured.err.count("\n") == 1
    assert captured.out == ""


def test_an_unknown_capability_is_refused(capsys):
    with pytest.raises(SystemExit) as ended:
        cli.main(["kernels", "--capability", "9.1"])
    assert ended.value.code == 2
    assert "9.1" in capsys.readouterr().err
