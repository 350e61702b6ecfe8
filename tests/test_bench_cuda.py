"""``bench --device cuda`` without a GPU: its logic, with a driver, a library and competitors that are stand-ins.

Kernels are those of the CPU here, device memory is host memory, and events are times of the host.
"""

import json
import math
import subprocess
import sys
import time
from functools import partial
from types import SimpleNamespace

import numba
import numpy as np
import pytest
from gpu_fakes import FACTS, OUT_OF_MEMORY, Current, Driver, fake_cupy, fake_numba_cuda, fake_torch, forget

from numba_softmax import api, cli
from numba_softmax.backends import cpu, cuda
from numba_softmax.backends.cuda import driver, libraries
from numba_softmax.bench import cuda as bench_cuda
from numba_softmax.bench import cuda_arrays, cuda_clock, cuda_report, reference
from numba_softmax.bench.cases import Case, Data, masked_and_scaled
from numba_softmax.bench.optional import UnmeasurableError
from numba_softmax.call.arguments import as_dtype
from numba_softmax.call.layout import FLOATS
from numba_softmax.cli import info

ERROR = "numba-softmax: error: "
NAMES = {"numba_softmax", "numba_softmax again", "copy", "torch"}
MIB = 1 << 20


class TimedDriver(Driver):
    """A driver whose events hold the time of the host, or another one."""

    CUfunction_attribute = Driver.CUdevice_attribute
    time = staticmethod(time.perf_counter)
    flush_seconds = 0
    free = 64 * MIB

    def cuEventRecord(self, event, stream):  # noqa: N802
        self.events[event] = self.time()
        return (0,)

    def cuEventSynchronize(self, event):  # noqa: N802
        return (0,)

    def cuEventElapsedTime(self, start, end):  # noqa: N802
        return 0, (self.events[end] - self.events[start]) * 1e3

    def cuMemsetD8Async(self, address, value, nbytes, stream):  # noqa: N802
        self.log.append(("flush", stream))
        self.memory[address][:nbytes] = value
        if self.flush_seconds:
            self.time.pass_by(self.flush_seconds)
        return (0,)

    def cuMemGetInfo(self):  # noqa: N802
        return 0, self.free, self.capacity

    def cuFuncGetAttribute(self, attribute, function):  # noqa: N802
        return 0, 0

    def cuFuncSetAttribute(self, function, attribute, value):  # noqa: N802
        return (0,)

    def cuLaunchKernel(self, function, *numbers):  # noqa: N802
        if function[1] != b"nothing":
            return super().cuLaunchKernel(function, *numbers)
        return (0,)


def starter(op, layout):
    """The CPU's kernels in the place of a GPU's."""
    start = cpu.starter(op, layout)
    return lambda x, y, w, scale, queue: start(x, y, w, scale)


class FakeMaker(cuda_arrays.Maker):
    """A library whose arrays are those of a fake CuPy."""

    name = "fake"

    def __init__(self, cupy):
        self._array, self._generator, self.tidied = cupy.ndarray, np.random.default_rng(1), 0

    def normal(self, shape, dtype):
        return self._array((self._generator.standard_normal(shape) * 3).astype(as_dtype(dtype)))

    def mask(self, shape, share):
        return self._array(self._generator.random(shape) < share)

    def empty(self, shape, dtype):
        return self._array(np.empty(shape, as_dtype(dtype)))

    def spoil(self, array):
        array.host[...] = math.nan

    def rows(self, array, axis, index):
        return np.moveaxis(array.host, axis, -1)[index]

    def values(self, array, index):
        return array.host[index]

    def tidy(self):
        self.tidied += 1


def good(case, data, maker):
    """A competitor that computes in float64 with what ours has."""

    def call():
        x = masked_and_scaled(case, data.x.host, None if data.mask is None else data.mask.host)
        data.y.host[...] = reference.by_numpy(case.op, x.astype(np.float64), case.axis)

    return bench_cuda.Candidate(call, call)


def lacking(case, data, maker):
    raise TypeError("no such dtype\nand more lines of it")


def failing(case, data, maker):
    def call():
        raise RuntimeError("out of memory")

    return bench_cuda.Candidate(call, call)


def lazy(case, data, maker):
    """One that does not write all results."""

    def call():
        data.y.host.flat[1:] = 0

    return bench_cuda.Candidate(call, call)


@pytest.fixture
def gpu(monkeypatch, one_thread):
    """A machine with a GPU and one library; PyTorch takes part, Triton lacks dtypes, CuPy fails."""
    pytest.importorskip("ml_dtypes")
    monkeypatch.setitem(FACTS, "L2_CACHE_SIZE", 1 << 12)
    monkeypatch.setitem(FACTS, "CLOCK_RATE", 1_980_000)
    monkeypatch.setitem(FACTS, "MEMORY_CLOCK_RATE", 2_619_000)
    monkeypatch.setitem(FACTS, "GLOBAL_MEMORY_BUS_WIDTH", 5120)
    fake, current = TimedDriver(), Current(0)
    monkeypatch.setattr(driver, "_bindings", lambda: fake)
    monkeypatch.setattr(driver, "_cuda", driver._Unready())
    monkeypatch.setattr(driver, "assemble", lambda ptx, capability: (b"cubin", ""))
    monkeypatch.setattr(cuda, "starter", starter)
    modules = {"torch": fake_torch(current), "cupy": fake_cupy(current), "numba.cuda": fake_numba_cuda(current, fake)}
    pool = SimpleNamespace(free_all_blocks=lambda: None)
    modules["cupy"].get_default_memory_pool = lambda: pool
    for name, module in modules.items():
        module.__version__ = f"{name} 1.0"
        monkeypatch.setitem(sys.modules, name, module)
    monkeypatch.setattr(numba, "cuda", modules["numba.cuda"], raising=False)
    monkeypatch.setattr(bench_cuda, "ROUNDS", 5)
    monkeypatch.setattr(cuda_clock, "QUEUED_AT_ONCE", 3)
    monkeypatch.setattr(cuda_clock, "QUEUED_BLOCKS", 2)
    monkeypatch.setattr(bench_cuda, "FOREIGN", {"torch": good, "triton": lacking, "cupy": failing})
    maker = FakeMaker(modules["cupy"])
    monkeypatch.setattr(cuda_arrays, "maker", lambda: maker)
    forget(monkeypatch)
    yield SimpleNamespace(driver=fake, maker=maker, torch=modules["torch"], cupy=modules["cupy"])
    assert fake.nothing_left()


@pytest.fixture
def setup(gpu):
    queue = driver.Queue(0, 0)
    with cuda_clock.clock(queue) as clock:
        yield bench_cuda.Setup(gpu.maker, queue, clock)


def run(*arguments):
    return cli.main(["bench", "--device", "cuda", *map(str, arguments)])


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


# ------------------------------------------------------------------------- cases


@pytest.mark.parametrize("limit", [bench_cuda.MOST_BYTES, 40 * MIB])
def test_cases_are_of_all_kinds_and_fit(limit):
    cases = list(bench_cuda.cases(limit))
    assert len({case.label for case in cases}) == len(cases)
    for case in cases:
        assert math.prod(case.shape) * bench_cuda._size(case.dtype) <= limit
        assert min(case.shape) > 0
    along = {(case.dtype, case.shape[-1]) for case in cases if case.op == "softmax" and case.axis == -1}
    for dtype in FLOATS:
        assert {(dtype, 64), (dtype, 1 << 20)} <= along
    assert {("float32", 1 << k) for k in range(6, 21)} | {("float32", 50257)} <= along
    assert {case.axis for case in cases} == {-1, 0, 1}
    assert {case.op for case in cases} == {"softmax", "log_softmax", "logsumexp"}
    assert any(case.masked for case in cases)
    assert any(case.scale for case in cases)
    long = {case.shape for case in cases} & set(bench_cuda.LONG_ROWS)
    assert long == (set(bench_cuda.LONG_ROWS) if limit == bench_cuda.MOST_BYTES else set())


def test_the_cases_fit_into_free_memory(gpu, monkeypatch):
    limits = []
    monkeypatch.setattr(bench_cuda, "cases", lambda limit: limits.append(limit) or [])
    assert run() == 0
    gpu.driver.free = 1 << 40
    assert run() == 0
    assert limits == [8 * MIB, bench_cuda.MOST_BYTES]


@pytest.mark.parametrize(
    ("case", "nbytes"),
    [
        (Case("softmax", (4, 100)), 3200),
        (Case("softmax", (4, 100), "float16"), 1600),
        (Case("softmax", (4, 100), masked=True), 3600),
        (Case("logsumexp", (4, 100)), 1616),
        (Case("logsumexp", (4, 100), axis=0), 2000),
    ],
    ids=lambda value: value.label if isinstance(value, Case) else "",
)
def test_the_copy_moves_what_a_call_moves(case, nbytes, setup, gpu):
    assert bench_cuda.moved(case) == nbytes
    bench_cuda._copy(case, bench_cuda._data(case, gpu.maker), setup)()
    assert gpu.driver.log[-1] == ("copy", 0, nbytes // 8 * 4)


@pytest.mark.parametrize(
    "case",
    [
        Case("softmax", (30, 40), axis=0),
        Case("softmax", (5, 30, 7), axis=1),
        Case("logsumexp", (5, 30, 7), axis=1),
        Case("log_softmax", (30, 40), "float64"),
        Case("softmax", (30, 40), "bfloat16", scale=0.125),
    ],
    ids=lambda case: case.label,
)
def test_errors_are_those_of_the_rows(case, setup):
    result = bench_cuda._measured_case(case, setup)
    if result["ulp"]["torch"] is not None:
        assert result["ulp"]["numba_softmax"] <= 4
        assert result["ulp"]["torch"] <= 100
    assert result["bytes"] == bench_cuda.moved(case)


def test_the_longest_rows_are_not_compared(monkeypatch, setup):
    monkeypatch.setattr(bench_cuda, "MOST_CHECKED", 99)
    assert bench_cuda._measured_case(Case("softmax", (3, 100)), setup)["ulp"] == {"numba_softmax": None, "torch": None}


def test_launch_parts_make_up_the_call(setup):
    found = bench_cuda._launch(setup)
    assert set(found["seconds"]) == {"numba_softmax", "torch"}
    assert sum(found["parts"].values()) == pytest.approx(found["seconds"]["numba_softmax"])


# ------------------------------------------------------------------------- clock


class Time:
    """A time that passes when it is told to."""

    now = 0.0

    def __call__(self):
        return self.now

    def pass_by(self, seconds):
        self.now += seconds


@pytest.fixture
def told(gpu, monkeypatch):
    """The time of the host and of events, in which a flush takes 1/1024 s."""
    told = gpu.driver.time = Time()
    gpu.driver.flush_seconds = 1 / 1024
    monkeypatch.setattr(cuda_clock, "time", SimpleNamespace(perf_counter=told))
    return told


def test_the_clock_gives_the_time_of_the_call_alone(told):
    calls = {"slow": partial(told.pass_by, 0.5), "fast": partial(told.pass_by, 0.125)}
    with cuda_clock.clock(driver.Queue(0, 0)) as clock:
        times = clock.interleaved(calls, 4, (), None)
    assert times == {"slow": [0.5] * 4, "fast": [0.125] * 4}


def test_the_cache_is_flushed_for_longer_than_a_call_takes_to_queue(told, gpu):
    with cuda_clock.clock(driver.Queue(0, 0)) as clock:
        assert clock.warmed(lambda: None) == 1
        assert clock.warmed(partial(told.pass_by, 4 / 1024)) == 1 + 4 * cuda_clock.LEAD
        assert clock.warmed(partial(told.pass_by, 1.0)) == cuda_clock.MOST_FLUSHES
        gpu.driver.log.clear()
        clock._elapsed(lambda: gpu.driver.log.append("call"), 3)
        assert gpu.driver.log == [("flush", 0)] * 3 + ["call"]


def test_candidates_take_turns(setup):
    called = []
    calls = {name: partial(called.append, name) for name in "abcdefgh"}
    setup.clock.interleaved(calls, 6, (), None)
    timed = called[cuda_clock.WARM_CALLS * len(calls) :]
    orders = [tuple(timed[i : i + len(calls)]) for i in range(0, len(timed), len(calls))]
    assert len(set(orders)) == len(orders) == 6
    assert all(sorted(order) == list(calls) for order in orders)


def test_the_empty_kernel_can_be_assembled():
    pytest.importorskip("cuda.bindings")
    cubin, _ = driver.assemble(cuda_clock.NOTHING, (9, 0))
    assert cubin.startswith(b"\x7fELF")


def test_facts_that_the_driver_does_not_tell_are_none(gpu, monkeypatch, tmp_path):
    monkeypatch.setattr(cuda_clock, "_VERSION_FILE", tmp_path / "version")
    gpu.driver.fail("cuDeviceGetAttribute", 1)
    known = SimpleNamespace(name="Fake", capability=(9, 0), processors=1, l2=1, memory=1)
    monkeypatch.setattr(driver, "device", lambda ordinal: known)
    facts = cuda_clock.facts(0)
    assert facts["driver"] is facts["memory_clock_mhz"] is facts["memory_gb_per_second"] is None
    (tmp_path / "version").write_text("NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  580.65.06  Release\n")
    assert cuda_clock.facts(0)["driver"] == "580.65.06"


# --------------------------------------------------------------------- libraries


class HostCuda:
    """What is asked of ``numba.cuda``, with arrays in host memory, which it takes by the buffer protocol too."""

    class Array(np.ndarray):
        def copy_to_host(self):
            return np.array(self)

        def copy_to_device(self, array):
            self[...] = memoryview(array)

    def to_device(self, array):
        return np.array(memoryview(array)).view(self.Array)

    def device_array(self, shape, dtype):
        return np.empty(shape, dtype).view(self.Array)

    def current_context(self):
        return SimpleNamespace(deallocations=[1])


def host_cupy():
    """What is asked of CuPy, with arrays in host memory."""

    class Array(np.ndarray):
        def get(self):
            return np.array(self)

    class Random:
        def __init__(self, seed):
            self._generator = np.random.default_rng(seed)

        def standard_normal(self, shape, dtype):
            return self._generator.standard_normal(shape, dtype).view(Array)

        def random(self, shape, dtype):
            return self._generator.random(shape, dtype).view(Array)

    return SimpleNamespace(
        random=SimpleNamespace(default_rng=Random),
        empty=lambda shape, dtype: np.empty(shape, dtype).view(Array),
        moveaxis=np.moveaxis,
        asarray=np.asarray,
        from_dlpack=lambda array: np.asarray(array).view(Array),
    )


def torch_on_host():
    torch = pytest.importorskip("torch")
    return cuda_arrays.Torch(torch, "cpu")


MAKERS = {
    "numba": lambda: cuda_arrays.Numba(HostCuda()),
    "cupy": lambda: cuda_arrays.CuPy(host_cupy()),
    "torch": torch_on_host,
}


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("library", MAKERS)
def test_makers_make_random_arrays_and_give_their_rows(library, dtype):
    pytest.importorskip("ml_dtypes")
    maker = MAKERS[library]()
    x = maker.normal((30, 40, 50), dtype)
    everything = maker.values(x, tuple(np.indices((30, 40, 50))))
    assert everything.dtype == as_dtype(dtype)
    assert abs(everything.astype(float).mean()) < 0.1
    assert 2.9 < everything.astype(float).std() < 3.1
    index = (np.array([1, 2, 2]), np.array([49, 0, 3]))
    np.testing.assert_array_equal(maker.rows(x, 1, index), everything[index[0], :, index[1]])
    y = maker.empty((3, 4), dtype)
    maker.spoil(y)
    assert np.isnan(maker.values(y, (np.arange(3),)).astype(float)).all()
    mask = maker.rows(maker.mask((50, 200), 0.8), 1, (np.arange(50),))
    assert mask.dtype == bool
    assert 0.78 < mask.mean() < 0.82


@pytest.mark.parametrize(("there", "name"), [("torch cupy numba.cuda", "torch"), ("cupy numba.cuda", "cupy")])
def test_the_first_library_that_finds_a_gpu_makes_the_arrays(there, name, monkeypatch):
    on = SimpleNamespace(is_available=lambda: True)
    torch = SimpleNamespace(cuda=on, Generator=lambda device: SimpleNamespace(manual_seed=lambda seed: None))
    cupy = SimpleNamespace(is_available=on.is_available, random=SimpleNamespace(default_rng=lambda seed: None))
    found = {"torch": torch, "cupy": cupy, "numba.cuda": on}
    monkeypatch.setattr(cuda_arrays, "optional", {key: found[key] for key in there.split()}.get)
    assert cuda_arrays.maker().name == name


# -------------------------------------------------------------------- competitors


def optional_from(monkeypatch, **modules):
    named = {name.replace("__", "."): module for name, module in modules.items()}
    monkeypatch.setattr(bench_cuda, "optional", named.get)


@pytest.mark.parametrize("op", ["softmax", "log_softmax", "logsumexp"])
def test_cupy_computes_by_its_own_function_or_by_hand(op, monkeypatch):
    scipy_special = pytest.importorskip("scipy.special")
    case = Case(op, (30, 40), masked=True)
    maker = cuda_arrays.CuPy(host_cupy())
    expected = None
    for special in (None, scipy_special):
        optional_from(monkeypatch, cupy=host_cupy(), cupyx__scipy__special=special)
        data = bench_cuda._data(case, maker)
        maker.spoil(data.y)
        bench_cuda._by_cupy(case, data, maker).checked()
        x = np.where(data.mask, data.x, -np.inf).astype(np.float32)
        expected = getattr(scipy_special, op)(x, axis=-1)
        np.testing.assert_allclose(data.y, expected, rtol=1e-5)


def test_competitors_take_part_where_they_can(monkeypatch):
    triton = SimpleNamespace(MOST=100, softmax=lambda x, y: None)
    optional_from(monkeypatch, numba_softmax__bench__triton_softmax=triton)
    data, makers = Data(None, None, None), [SimpleNamespace(name=name) for name in ("torch", "cupy", "numba")]
    case = Case("softmax", (4, 100))
    assert [bool(bench_cuda._by_triton(case, data, maker)) for maker in makers] == [True, False, False]
    unlike = ({"op": "logsumexp"}, {"shape": (4, 101)}, {"axis": 0}, {"masked": True}, {"scale": 2.0})
    assert not any(bench_cuda._by_triton(case._replace(**more), data, makers[0]) for more in unlike)
    assert [bench_cuda._by_torch(case, data, maker) for maker in makers] == [None] * 3  # PyTorch is not there
    assert [bench_cuda._by_cupy(case, data, maker) for maker in makers] == [None] * 3


def test_torch_writes_to_the_results(monkeypatch):
    torch = pytest.importorskip("torch")
    maker, case = cuda_arrays.Torch(torch, "cpu"), Case("softmax", (30, 40), masked=True)
    optional_from(monkeypatch, torch=torch)
    data = bench_cuda._data(case, maker)
    bench_cuda._by_torch(case, data, maker).checked()
    expected = torch.softmax(torch.where(data.mask, data.x, -math.inf), -1)
    assert torch.equal(data.y, expected)


TRITON = """
import torch
from numba_softmax.bench import triton_softmax
for dtype, n in ((torch.float32, 1), (torch.float32, 1000), (torch.float64, 77), (torch.bfloat16, 64)):
    x = (torch.randn(5, n) * 3).to(dtype)
    y = torch.full_like(x, float("nan"))
    triton_softmax.softmax(x, y)
    error = (y.double() - torch.softmax(x.double(), -1)).abs().max().item()
    assert error <= torch.finfo(dtype).eps, (dtype, n, error)
"""


def test_the_kernel_in_triton_is_right(run_python):
    pytest.importorskip("torch")
    pytest.importorskip("triton")
    run_python(TRITON, TRITON_INTERPRET="1", PYTHONWARNINGS="ignore")


# ------------------------------------------------------------------- a real GPU


@pytest.mark.gpu
def test_on_a_gpu(tmp_path):
    try:
        driver.count()
        cuda_arrays.maker()
    except (driver.CudaError, UnmeasurableError) as error:
        pytest.skip(str(error))
    command = [sys.executable, "-m", "numba_softmax", "bench", "--device", "cuda", "--quick"]
    done = subprocess.run(
        [*command, "--json", tmp_path / "b.json"], capture_output=True, text=True, timeout=900, check=False
    )
    assert done.returncode == 0, done.stderr
    found = json.loads((tmp_path / "b.json").read_text())["cuda"]
    assert found["cases"]
    assert all(result["ulp"]["numba_softmax"] <= 4 for result in found["cases"])
    assert all(seconds > 0 for seconds in found["launch"]["seconds"].values())
    assert libraries.library_of(cuda_arrays.maker().empty((1,), "float32")) is not libraries._OTHER
