"""The parts of ``bench --device cuda``, on stand-ins: cases, clock, libraries, competitors."""

import json
import math
import subprocess
import sys
from functools import partial
from types import SimpleNamespace

import numpy as np
import pytest
from bench_fakes import MIB, gpu_fixture, run, setup_fixture  # noqa: F401

from numba_softmax.backends.cuda import driver
from numba_softmax.backends.cuda.interop import libraries
from numba_softmax.bench import cuda as bench_cuda
from numba_softmax.bench import cuda_arrays, cuda_clock
from numba_softmax.bench.cases import Case, Data
from numba_softmax.bench.optional import UnmeasurableError
from numba_softmax.call.arguments import as_dtype
from numba_softmax.call.layout import FLOATS

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
    """A ``numba.cuda`` whose arrays lie in host memory, which it takes by the buffer protocol too."""

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
    """A CuPy whose arrays lie in host memory."""

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
