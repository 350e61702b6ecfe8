"""GPU arrays without a GPU: what is read of them, which work is queued where, and what is said of errors.

Device memory is host memory here, and kernels are the definitions.
"""

import gc
import os
import threading
import weakref
from types import SimpleNamespace

import numpy as np
import pytest
from gpu_fakes import (
    BAD_HANDLE,
    CURRENT,
    ILLEGAL,
    NOT_INITIALIZED,
    DLPack,
    Interface,
    Namespaced,
    agree,
    machine,
    right,
)

import numba_softmax as ns
from numba_softmax import cli
from numba_softmax.backends import cuda
from numba_softmax.backends.cuda import allocation, driver

OPS = ("softmax", "log_softmax", "logsumexp")
X = np.random.default_rng(3).normal(size=(6, 4, 5)).astype(np.float32)
MASK = np.random.default_rng(4).random((4, 5)) < 0.7


@pytest.fixture
def gpu(monkeypatch):
    """A machine with two GPUs, PyTorch, CuPy and Numba."""
    with machine(monkeypatch) as found:
        yield found


def on_gpu(gpu, library, array, ordinal=0, **more):
    """An array of a library with the elements of `array`."""
    if library == "torch":
        return gpu.torch.Tensor(array, ordinal, **more)
    if library == "cupy":
        return gpu.cupy.ndarray(array, ordinal, **more)
    if library == "numba":
        return gpu.numba.DeviceNDArray(array, ordinal=ordinal, **more)
    if library == "interface":
        return Interface(gpu.driver.put(array, ordinal), **more)
    return {"dlpack": DLPack, "namespaced": Namespaced}[library](array, ordinal, **more)


LIBRARIES = ("torch", "cupy", "numba", "interface", "dlpack", "namespaced")
RESULTS = {"interface": "numba", "dlpack": "numba"}
"""The library of a result, where that is not the array's own."""
each_library = pytest.mark.parametrize("library", LIBRARIES)
each_op = pytest.mark.parametrize("name", OPS)


def kind_of(gpu, library):
    return type(on_gpu(gpu, RESULTS.get(library, library), np.zeros(1, np.float32)))


def same(result, name, x, *args, **kwargs):
    agree(result.host, right(name, x, *args, **kwargs))


# ---------------------------------------------------------------------- results


@each_library
@each_op
def test_results_are_right_and_of_the_same_library(gpu, library, name):
    function = getattr(ns, name)
    for axis in (-1, 0, (0, 2), None):
        x = on_gpu(gpu, library, X.copy())
        result = function(x, axis)
        assert type(result) is kind_of(gpu, library)
        same(result, name, X, axis)
        np.testing.assert_array_equal(x.host, X)
    same(function(on_gpu(gpu, library, X), scale=-0.3), name, X, scale=-0.3)
    same(function(on_gpu(gpu, library, X), where=on_gpu(gpu, library, MASK)), name, X, where=MASK)


@each_library
def test_views_and_other_dtypes(gpu, library):
    for x in (X[::2, :, ::-1] if library not in ("torch",) else X[::2], X.transpose(2, 0, 1), X.astype(np.float64)):
        same(ns.softmax(on_gpu(gpu, library, x), 1), "softmax", x, 1)
    for dtype in (np.float16, np.int32, np.bool_):
        x = X.astype(dtype)
        same(ns.logsumexp(on_gpu(gpu, library, x)), "logsumexp", x)
    same(ns.softmax(on_gpu(gpu, library, X), dtype="float64"), "softmax", X, dtype="float64")


@pytest.mark.parametrize("library", ["torch", "cupy", "numba"])
def test_bfloat16(gpu, library):
    bfloat16 = pytest.importorskip("ml_dtypes").bfloat16
    x = X.astype(bfloat16)
    result = ns.softmax(on_gpu(gpu, library, x))
    agree(result.host, right("softmax", x))


@each_library
def test_results_lie_in_memory_as_x_does(gpu, library):
    x = X.transpose(2, 0, 1)
    result = ns.softmax(on_gpu(gpu, library, x)).host
    like = np.empty_like(x) if library in ("torch", "cupy", "numba") else np.empty(x.shape, x.dtype)
    assert result.strides == like.strides


@each_library
@each_op
def test_out_is_written_to_and_given_back(gpu, library, name):
    expected = right(name, X)
    out = on_gpu(gpu, library, np.zeros(expected.shape, np.float32))
    assert getattr(ns, name)(on_gpu(gpu, library, X), out=out) is out
    agree(out.host, expected)
    wider = on_gpu(gpu, library, np.zeros((*expected.shape, 2), np.float64)[..., 1])
    getattr(ns, name)(on_gpu(gpu, library, X), out=wider)
    agree(wider.host, right(name, X, dtype=np.float64))


@each_library
def test_in_place_takes_no_memory(gpu, library):
    x = on_gpu(gpu, library, X.copy())
    assert ns.softmax(x, out=x) is x
    agree(x.host, right("softmax", X))
    assert gpu.driver.peak == 0


@each_library
@pytest.mark.parametrize("pools", [True, False])
def test_overlapping_out_gives_what_a_copy_would(gpu, library, pools):
    gpu.driver.pools = pools
    for take, put in ((np.s_[:-1], np.s_[1:]), (np.s_[2:], np.s_[:-2])):
        memory, gpu.driver.peak = np.tile(X.reshape(-1), 2), 0
        expected = right("softmax", memory[take].copy())
        out = on_gpu(gpu, library, memory[put])
        ns.softmax(on_gpu(gpu, library, memory[take]), out=out)
        agree(out.host, expected)
        assert gpu.driver.peak == memory[take].nbytes
        freed = ("free", gpu.queues[-1][1]) if pools else ("free", None)
        assert freed in gpu.log


def test_a_mask_that_out_overwrites_is_copied_first(gpu):
    memory = np.zeros(16, np.uint8)
    mask = memory[:4].view(bool)
    mask[:] = (True, False, True, True)
    out = Interface(gpu.driver.put(memory).view(np.float32))
    x = Interface(gpu.driver.put(np.zeros(4, np.float32)))
    ns.softmax(x, where=Interface(mask), out=out)
    agree(memory.view(np.float32), np.float32([1 / 3, 0, 1 / 3, 1 / 3]))


def test_a_reduction_of_all_axes_stays_on_the_gpu(gpu):
    result = ns.logsumexp(gpu.torch.Tensor(X), None)
    assert isinstance(result, gpu.torch.Tensor)
    assert result.shape == ()
    assert not any(what == "synchronize" for what, *_ in gpu.log)


@each_library
def test_arrays_without_elements(gpu, library):
    assert ns.softmax(on_gpu(gpu, library, np.zeros((3, 0), np.float32))).host.shape == (3, 0)
    result = ns.logsumexp(on_gpu(gpu, library, np.zeros((3, 0), np.float32)))
    np.testing.assert_array_equal(result.host, np.full(3, -np.inf))


def test_dtypes_of_torch_are_understood(gpu):
    x = gpu.torch.Tensor(X)
    assert ns.softmax(x, dtype=gpu.torch.float64).dtype is gpu.torch.float64
    with pytest.raises(TypeError, match="int32"):
        ns.softmax(x, dtype=gpu.torch.int32)


def test_torch_without_its_short_cut_to_the_stream(gpu):
    del gpu.torch._C._cuda_getCurrentRawStream
    ns.softmax(gpu.torch.Tensor(X))
    assert gpu.queues == [(0, CURRENT)]


def test_subclasses_and_arrays_on_the_host(gpu):
    class Parameter(gpu.torch.Tensor):
        pass

    same(ns.softmax(Parameter(X)), "softmax", X)
    gpu.queues.clear()
    result = ns.softmax(gpu.torch.OnHost(X))
    assert type(result) is gpu.torch.OnHost
    assert not gpu.queues


# ---------------------------------------------------------------------- streams


@pytest.mark.parametrize(
    ("library", "more", "stream"),
    [
        ("torch", {}, CURRENT),
        ("cupy", {}, CURRENT),
        ("numba", {}, 1),
        ("numba", {"stream": 0x55}, 0x55),
        ("interface", {}, 1),
        ("interface", {"stream": None}, 1),
        ("interface", {"stream": 1}, 1),
        ("interface", {"stream": 2}, 2),
        ("interface", {"stream": 0x55}, 0x55),
        ("dlpack", {}, 1),
        ("dlpack", {"versioned": False}, 1),
    ],
)
def test_work_is_queued_in_the_stream_of_x(gpu, library, more, stream):
    result = ns.softmax(on_gpu(gpu, library, X, **more))
    agree(result.host, right("softmax", X))
    assert gpu.queues == [(0, stream)]
    assert not any(what == "wait" for what, *_ in gpu.log)
    assert any(what == "synchronize" for what, *_ in gpu.log) == (library == "dlpack")


def test_work_is_done_on_the_device_of_x(gpu):
    gpu.current.streams[1] = 0x88
    for library in ("torch", "cupy", "numba", "interface", "dlpack"):
        result = ns.softmax(on_gpu(gpu, library, X, 1))
        assert gpu.queues[-1][0] == 1
        if library in ("torch", "cupy"):
            assert gpu.queues[-1][1] == 0x88
            assert (result.device[1] if library == "torch" else result.data.device_id) == 1
    assert gpu.current.device == 0
    assert gpu.driver.contexts == [0xC0]


def test_streams_of_other_arrays_are_waited_for_and_wait(gpu):
    x = on_gpu(gpu, "interface", X, stream=0x11)
    out = on_gpu(gpu, "interface", np.empty_like(X), stream=0x22)
    where = on_gpu(gpu, "interface", MASK, stream=0x33)
    ns.softmax(x, where=where, out=out)
    run = gpu.log.index(("run", 0x11))
    assert set(gpu.log[:run]) == {("wait", 0x11, 0x22), ("wait", 0x11, 0x33)}
    assert set(gpu.log[run + 1 :]) == {("wait", 0x22, 0x11), ("wait", 0x33, 0x11)}
    assert not gpu.driver.events


def test_a_stream_that_is_asked_for_waits_and_is_not_waited_for(gpu):
    gpu.driver.streams[0x99] = 0xC0
    for library in ("torch", "cupy", "numba", "interface"):
        gpu.log.clear()
        x = on_gpu(gpu, library, X.copy())
        before = CURRENT if library in ("torch", "cupy") else 1
        result = ns.softmax(x, stream=0x99)
        assert gpu.log == [("wait", 0x99, before), ("run", 0x99)]
        if library in ("torch", "cupy"):
            assert result.made_in == 0x99
    assert gpu.current.streams[0] == CURRENT
    dlpack = on_gpu(gpu, "dlpack", X.copy())
    gpu.log.clear()
    ns.softmax(dlpack, out=dlpack, stream=0x99)
    assert dlpack.streams == [0x99, 0x99]
    assert gpu.log == [("run", 0x99)]
    del gpu.driver.streams[0x99]


def test_torch_is_told_of_memory_that_another_stream_uses(gpu):
    gpu.driver.streams[0x99] = 0xC0
    x, out, where = (gpu.torch.Tensor(a) for a in (X, np.empty_like(X), MASK))
    ns.softmax(x, where=where, out=out, stream=0x99)
    assert x.used_in == out.used_in == where.used_in == [(0x99, 0)]
    gpu.driver.streams[CURRENT] = 0xC0
    ns.softmax(x, out=out, stream=CURRENT)
    assert x.used_in == [(0x99, 0)]
    gpu.driver.streams.clear()


class Handle:
    def __init__(self, **more):
        self.__dict__.update(more)


@pytest.mark.parametrize(
    "stream",
    [
        0x99,
        np.int64(0x99),
        Handle(ptr=0x99),
        Handle(cuda_stream=0x99),
        Handle(handle=0x99),
        Handle(handle=SimpleNamespace(value=0x99)),
        Handle(__cuda_stream__=(0, 0x99)),
        Handle(__cuda_stream__=lambda: (0, 0x99), handle="not this one"),
    ],
)
def test_streams_of_any_library_are_understood(gpu, stream):
    gpu.driver.streams[0x99] = 0xC0
    ns.softmax(gpu.torch.Tensor(X), stream=stream)
    assert gpu.queues == [(0, 0x99)]
    gpu.driver.streams.clear()


def test_default_streams_are_understood(gpu):
    for stream, handle in ((0, 1), (1, 1), (2, 2), (Handle(handle=SimpleNamespace(value=None)), 1)):
        result = ns.softmax(gpu.torch.Tensor(X), stream=stream)
        assert gpu.queues[-1] == (0, handle)
        assert result.made_in == (0 if handle == 1 else handle)  # PyTorch knows no 1


def test_the_default_stream_is_named_where_the_bindings_take_another_one_for_0(gpu, monkeypatch):
    monkeypatch.setenv("CUDA_PYTHON_CUDA_PER_THREAD_DEFAULT_STREAM", "1")
    driver.default_stream.cache_clear()
    gpu.current.streams[0] = 0
    for library, stream in (("numba", 2), ("torch", 1), ("cupy", 1), ("interface", 1), ("dlpack", 1)):
        result = ns.softmax(on_gpu(gpu, library, X))
        assert gpu.queues[-1] == (0, stream)
        if library == "numba":
            assert result.stream == 0
        if library == "interface":
            assert result.stream == 1
    assert not any(what == "wait" for what, *_ in gpu.log)


def test_streams_that_are_none_are_refused(gpu):
    for stream in (True, 1.0, "0", object(), -1, [1]):
        with pytest.raises(TypeError, match="stream is"):
            ns.softmax(gpu.torch.Tensor(X), stream=stream)
    with pytest.raises(driver.CudaError, match="stream 0x99: CUDA_ERROR_INVALID_HANDLE"):
        ns.softmax(gpu.torch.Tensor(X), stream=0x99)
    gpu.driver.streams[0x99] = 0xC1
    with pytest.raises(ValueError, match="stream 0x99 is not one of GPU 0"):
        ns.softmax(gpu.torch.Tensor(X), stream=0x99)
    gpu.driver.streams.clear()
    for x in (X, [1.0]):
        for device in (None, "cpu", "cuda"):
            with pytest.raises(ValueError, match="stream"):
                ns.softmax(x, stream=0, device=device)
    same(ns.softmax(gpu.torch.Tensor(X)), "softmax", X)


def test_loans_by_dlpack_end_with_the_call(gpu):
    for versioned in (True, False):
        host = X.copy()
        x, gone = DLPack(host, versioned=versioned), weakref.ref(host)
        ns.softmax(x, out=x)
        assert x.streams == [1, 1]
        del host, x
        gc.collect()
        assert gone() is None


# ----------------------------------------------------------------------- errors


def refused(gpu, kind, match, *args, **kwargs):
    """The call is refused, and the next one works."""
    before = len(gpu.queues)
    with pytest.raises(kind, match=match):
        ns.softmax(*args, **kwargs)
    assert len(gpu.queues) == before
    same(ns.softmax(on_gpu(gpu, "cupy", X)), "softmax", X)


@each_library
def test_wrong_arguments_are_named(gpu, library):
    def array(a, ordinal=0):
        return on_gpu(gpu, library, a, ordinal)

    x = array(X)
    refused(gpu, ValueError, "out lies on GPU 1, but x on GPU 0", x, out=array(np.empty_like(X), 1))
    refused(gpu, ValueError, "where lies on GPU 1", x, where=array(MASK, 1))
    refused(gpu, TypeError, r"out is a numpy\.ndarray in host memory", x, out=np.empty_like(X))
    refused(gpu, TypeError, r"where is a numpy\.ndarray in host memory", x, where=MASK)
    refused(gpu, TypeError, "where is on a GPU", X, where=array(MASK))
    refused(gpu, TypeError, "out is on a GPU", X, out=array(np.empty_like(X)))
    refused(gpu, TypeError, "where has dtype float32", x, where=x)
    refused(gpu, ValueError, r"where has shape \(3,\)", x, where=array(np.ones(3, bool)))
    refused(gpu, ValueError, r"out has shape \(2,\)", x, out=array(np.empty(2, np.float32)))
    refused(gpu, TypeError, "out has dtype int32", x, out=array(np.empty(X.shape, np.int32)))
    refused(gpu, TypeError, "out has dtype float32, but dtype=float64", x, dtype="float64", out=array(X.copy()))
    refused(gpu, np.exceptions.AxisError, "axis", x, 3)
    refused(gpu, TypeError, "axis", x, 1.0)
    refused(gpu, TypeError, "scale", x, scale=x)
    refused(gpu, TypeError, "x is on a GPU", x, device="cpu")
    refused(gpu, ValueError, "device", x, device="gpu")
    twice = np.lib.stride_tricks.as_strided(np.empty(5, np.float32), X.shape, (0, 0, 4))
    if library not in ("dlpack", "namespaced"):
        refused(gpu, ValueError, "elements that lie in the same memory", x, out=array(twice))


def test_arrays_that_cannot_be_served_are_refused(gpu):
    torch = gpu.torch
    refused(gpu, TypeError, r"pass x\.detach\(\)", torch.Tensor(X, requires_grad=True))
    refused(gpu, TypeError, r"pass out\.detach\(\)", torch.Tensor(X), out=torch.Tensor(X, requires_grad=True))
    refused(gpu, TypeError, r"pass x\.resolve_neg\(\)", torch.Tensor(X, negated=True))
    refused(gpu, TypeError, "complex64", torch.Tensor(X.astype(np.complex64)))
    float8 = torch.Tensor(X)
    float8.dtype = torch.float8_e4m3fnuz_x
    refused(gpu, TypeError, "x has dtype float8_e4m3fnuz_x", float8)
    refused(gpu, TypeError, "out has dtype float8_e4m3fnuz_x", torch.Tensor(X), out=float8)
    torch.grad = False
    same(ns.softmax(torch.Tensor(X, requires_grad=True)), "softmax", X)

    class NoDevice(Interface):
        __dlpack__ = None

    same(ns.softmax(NoDevice(gpu.driver.put(X.copy()))), "softmax", X)

    def interface(a, **more):
        return Interface(gpu.driver.put(a), **more)

    read_only = X.copy()
    read_only.flags.writeable = False
    same(ns.softmax(interface(read_only)), "softmax", X)
    refused(gpu, ValueError, "out is read-only", interface(X), out=interface(read_only))
    refused(gpu, ValueError, "out is read-only", DLPack(X), out=DLPack(read_only))
    refused(gpu, TypeError, "x has a mask", interface(X, mask=interface(MASK)))
    refused(gpu, TypeError, "x has dtype >f4", interface(X.astype(">f4")))
    refused(gpu, TypeError, "in host memory", Interface(X.copy()))
    refused(gpu, TypeError, "x has dtype complex128", interface(X.astype(complex)))


def test_errors_of_the_driver_say_what_it_says(gpu):
    x = np.arange(9, dtype=np.float32)
    gpu.driver.capacity = 8
    before = x.copy()
    with pytest.raises(MemoryError, match="allocating 32 bytes on GPU 0: out of memory"):
        ns.softmax(Interface(gpu.driver.put(x)[:-1]), out=Interface(x[1:]))
    np.testing.assert_array_equal(x, before)
    gpu.driver.capacity = 1 << 20
    ns.softmax(Interface(x[:-1]), out=Interface(x[1:]))
    agree(x[1:], right("softmax", before[:-1]))

    other = on_gpu(gpu, "interface", np.empty_like(X), stream=0x22)
    gpu.driver.fail("cuStreamWaitEvent", ILLEGAL)
    with pytest.raises(driver.CudaError, match=r"ILLEGAL_ADDRESS: in so many words; .* start a new process"):
        ns.softmax(on_gpu(gpu, "interface", X, stream=0x11), out=other)
    gpu.driver.fails.clear()
    assert not gpu.driver.events


def test_a_launch_hands_over_its_parameters(gpu):
    function = driver.load(1, b"cubin", "kernel")
    assert function == ("module", b"kernel", 0xC1)
    assert gpu.log.pop() == ("MAX_DYNAMIC_SHARED_SIZE_BYTES", None, 232448 - 1024)
    launch = driver.LoadedKernel(function, 1 << 31, 256, 4096, "qqqqddqq", (7, 8))
    launch.launch(driver.Queue(0, 5), (-1, 1 << 47, 3), 4, -1.0, 0.25)
    launch.launch(driver.Queue(1, 6), (1, 2, 3), 0, 1.0, 1.0)
    sizes = [1 << 31, 1, 1, 256, 1, 1, 4096]
    assert gpu.log[0] == ("launch", 5, 0xC0, sizes, [-1, 1 << 47, 3, 4, 7], [-1.0, 0.25])
    assert gpu.log[1] == ("launch", 6, 0xC1, sizes, [1, 2, 3, 0, 7], [1.0, 1.0])
    assert gpu.driver.contexts == [0xC0]
    gpu.driver.fail("cuLaunchKernel", BAD_HANDLE)
    with pytest.raises(driver.CudaError, match=r"launching a kernel on GPU 0, stream 0x5: CUDA_ERROR_INVALID_HANDLE"):
        launch.launch(driver.Queue(0, 5), (1, 2, 3), 0, 1.0, 1.0)
    gpu.driver.fails.clear()
    launch.launch(driver.Queue(0, 5), (1, 2, 3), 0, 1.0, 1.0)


def test_launches_from_many_threads_do_not_mix(gpu):
    launch = driver.LoadedKernel("function", 1, 32, 0, "qqqqddq", (9,))

    def work(k):
        for i in range(300):
            launch.launch(driver.Queue(0, k), (i, k, 0), 0, float(i), float(k))

    threads = [threading.Thread(target=work, args=(k,)) for k in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(words[1] == stream and floats == [words[0], stream] for _, stream, _, _, words, floats in gpu.log)
    assert len(gpu.log) == 1200


def test_devices_are_described(gpu):
    device = driver.device(1)
    assert (device.name, device.capability, device.processors) == ("Fake 1", (9, 0), 132)
    assert (driver.count(), driver.version()) == (2, (13, 2))
    with pytest.raises(driver.CudaError, match="asking for GPU 7: error 101"):
        driver.device(7)


@pytest.mark.parametrize("pools", [True, False])
def test_scratch_memory_is_freed_when_work_fails(gpu, pools):
    gpu.driver.pools = pools

    def interrupted():
        with allocation.scratch(driver.Queue(1, 5), 100) as address:
            assert len(gpu.driver.memory[address]) == 100
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert gpu.log == ([("free", 5)] if pools else [("synchronize", 5), ("free", None)])
    with pytest.raises(MemoryError, match=f"allocating {1 << 50} bytes on GPU 0"):
        allocation.scratch(driver.Queue(0, 5), 1 << 50).__enter__()


def test_nothing_of_a_fake_gpu_outlasts_a_test():
    before = driver.device, driver._context, allocation._pool, cuda._loaded
    with pytest.MonkeyPatch.context() as patch, machine(patch) as gpu:
        same(ns.softmax(gpu.torch.Tensor(X)), "softmax", X)
        assert driver.device.cache_info().currsize == 1
    assert (driver.device, driver._context, allocation._pool, cuda._loaded) == before
    assert not any(function.cache_info().currsize for function in before[:3])


# ------------------------------------------------ where CUDA is not, or not yet

FORKED = """
import multiprocessing, os
import numpy as np
from gpu_fakes import Driver
import numba_softmax as ns
from numba_softmax.backends.cuda import driver

driver._bindings = Driver
print(driver.count())
launch = driver.LoadedKernel("function", 1, 1, 0, "qqqqddq", (0,))
launch.launch(driver.Queue(0, 0), (1, 2, 3), 0, 1.0, 1.0)
child = os.fork()
if child == 0:
    said = []
    for call in (
        lambda: ns.softmax([1.0], device="cuda"),
        lambda: launch.launch(driver.Queue(0, 0), (1, 2, 3), 0, 1.0, 1.0),
        driver.count,
    ):
        try:
            call()
        except RuntimeError as error:
            said.append("spawn" in str(error))
    os._exit(0 if said == [True] * 3 and ns.logsumexp([0.0]) == 0 else 1)
assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
print(driver.count())
"""

UNUSED = """
import os
from gpu_fakes import Driver
from numba_softmax.backends.cuda import driver

driver._bindings = Driver
child = os.fork()
if child == 0:
    os._exit(0 if driver.count() == 2 else 1)  # nothing was begun before, so all is well
assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
def test_a_forked_process_is_told_to_be_spawned(run_python):
    assert run_python(FORKED).split() == ["2", "2"]
    run_python(UNUSED)


def test_a_process_forked_by_somebody_else_is_told_so(gpu):
    gpu.driver.cuInit = lambda flags: (NOT_INITIALIZED,)
    with pytest.raises(driver.CudaError, match=r"starting CUDA: CUDA_ERROR_NOT_INITIALIZED.*spawn"):
        driver.count()


def test_info_lists_the_gpus(gpu, capsys):
    assert cli.main(["info"]) == 0
    printed = capsys.readouterr().out
    assert "driver for CUDA 13.2" in printed
    assert "GPU 1: Fake 1, capability 9.0, 132 multiprocessors, 1099.5 GB" in printed


PTX = """
.version 8.0
.target sm_90
.address_size 64
.visible .entry fill(.param .u64 to) {
    .reg .u64 %to;
    .reg .f32 %x;
    ld.param.u64 %to, [to];
    mov.f32 %x, 0f3F800000;
    st.global.f32 [%to], %x;
    ret;
}
"""


def test_ptx_is_assembled_without_a_gpu():
    pytest.importorskip("cuda.bindings.nvjitlink", reason="numba-cuda is not installed")
    cubin, report = driver.assemble(PTX, (9, 0))
    assert cubin.startswith(b"\x7fELF")
    assert "registers" in report
    with pytest.raises(driver.CudaError, match=r"capability 9\.0: .*(?s:.*)Not a name of any known instruction"):
        driver.assemble(PTX.replace("mov.f32", "move.f32"), (9, 0))
    with pytest.raises(driver.CudaError, match=r"capability 3\.3: .*ARCH"):
        driver.assemble(PTX, (3, 3))
