"""What only a GPU can show: real libraries, streams, graphs, errors and sizes."""

import gc

import numpy as np
import pytest
from naive import NAMES, naive

import numba_softmax as ns

pytestmark = pytest.mark.gpu
X = np.random.default_rng(5).normal(0, 4, (37, 5, 300)).astype(np.float32)
each_op = pytest.mark.parametrize("name", NAMES)


@pytest.fixture(scope="module", autouse=True)
def a_gpu():
    from numba_softmax.backends.cuda import driver

    try:
        driver.count()
    except driver.CudaError as error:
        pytest.skip(str(error))


@pytest.fixture
def torch():
    torch = pytest.importorskip("torch")
    if not torch.cuda.is_available():
        pytest.skip("this PyTorch has no CUDA")
    return torch


@pytest.fixture
def cupy():
    return pytest.importorskip("cupy")


@pytest.fixture
def numba_cuda():
    from numba import cuda

    return cuda


def agree(result, expected):
    tolerance = 4 * float(np.finfo(result.dtype).eps)
    np.testing.assert_allclose(result, expected.astype(result.dtype), rtol=tolerance, atol=tolerance)


# -------------------------------------------------------------------- libraries


@each_op
@pytest.mark.parametrize("axis", [-1, 0, (0, 2), None])
def test_torch(torch, name, axis):
    x = torch.tensor(X, device="cuda")
    result = getattr(ns, name)(x, axis)
    assert isinstance(result, torch.Tensor)
    assert result.device == x.device
    agree(result.cpu().numpy(), naive(name, X, axis))
    view = x.transpose(0, 2)[::3]
    agree(getattr(ns, name)(view, 1).cpu().numpy(), naive(name, X.transpose(2, 1, 0)[::3], 1))
    where = x > -1
    agree(
        getattr(ns, name)(x, axis, where=where, scale=0.5).cpu().numpy(),
        naive(name, X, axis, where=X > -1, scale=0.5),
    )


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float64"])
def test_torch_dtypes(torch, dtype):
    x = torch.tensor(X, device="cuda").to(getattr(torch, dtype))
    result = ns.softmax(x)
    assert result.dtype is x.dtype
    expected = torch.softmax(x.double(), -1)
    torch.testing.assert_close(result.double(), expected, rtol=2**-7, atol=2**-9)
    out = torch.empty_like(x)
    assert ns.softmax(x, out=out) is out
    assert torch.equal(out, result)
    ns.softmax(x, out=x)
    assert torch.equal(x, result)


def test_torch_gradients_and_inference(torch):
    x = torch.tensor(X, device="cuda", requires_grad=True)
    with pytest.raises(TypeError, match="detach"):
        ns.softmax(x)
    ns.softmax(x.detach())
    with torch.inference_mode():
        ns.softmax(x)


@each_op
@pytest.mark.parametrize("axis", [-1, 0, None])
def test_cupy(cupy, name, axis):
    for host in (X, np.asfortranarray(X), X[:, ::-1]):
        result = getattr(ns, name)(cupy.asarray(host), axis)
        assert isinstance(result, cupy.ndarray)
        agree(result.get(), naive(name, host, axis))


@each_op
def test_numba(numba_cuda, name):
    result = getattr(ns, name)(numba_cuda.to_device(X))
    agree(result.copy_to_host(), naive(name, X))
    stream = numba_cuda.stream()
    result = getattr(ns, name)(numba_cuda.to_device(X, stream=stream), stream=stream)
    stream.synchronize()
    agree(result.copy_to_host(), naive(name, X))


@pytest.mark.parametrize("library", ["torch", "cupy"])
def test_arrays_that_speak_an_interchange_protocol_alone(library, request):
    library = request.getfixturevalue(library)

    class ByDLPack:
        def __init__(self, array):
            self.array = array

        def __dlpack__(self, **options):
            return self.array.__dlpack__(**options)

        def __dlpack_device__(self):
            return self.array.__dlpack_device__()

    class ByInterface:
        def __init__(self, array):
            self.__cuda_array_interface__ = array.__cuda_array_interface__

    array = library.asarray(X)
    array = array.cuda() if hasattr(array, "cuda") else array
    for speaks in (ByDLPack, ByInterface):
        agree(ns.softmax(speaks(array)).copy_to_host(), naive("softmax", X))
        out = library.empty_like(array)
        ns.softmax(speaks(array), out=speaks(out))
        agree(np.asarray(out.cpu() if hasattr(out, "cpu") else out.get()), naive("softmax", X))


# ---------------------------------------------------------------------- streams


def test_work_follows_what_the_current_stream_holds(torch):
    stream = torch.cuda.Stream()
    x = torch.zeros(1 << 22, device="cuda")
    ns.logsumexp(x)  # to compile it takes longer than the GPU will sleep
    with torch.cuda.stream(stream):
        stream.wait_stream(torch.cuda.default_stream())
        torch.cuda._sleep(200_000_000)
        x.fill_(1.0)
        result = ns.logsumexp(x) * 1
    stream.synchronize()
    assert float(result) == pytest.approx(1 + np.log(1 << 22))


def test_a_stream_that_is_asked_for(torch):
    stream = torch.cuda.Stream()
    x = torch.zeros(1 << 22, device="cuda")
    ns.logsumexp(x.fill_(0.0), stream=stream)
    torch.cuda.synchronize()
    torch.cuda._sleep(200_000_000)
    x.fill_(1.0)
    result = ns.logsumexp(x, stream=stream)
    assert not stream.query()  # neither has the host waited
    stream.synchronize()
    assert float(result) == pytest.approx(1 + np.log(1 << 22))


def test_arrays_of_two_libraries_and_their_streams(torch, cupy):
    mine, theirs = torch.cuda.Stream(), cupy.cuda.Stream(non_blocking=True)
    with torch.cuda.stream(mine), theirs:
        x = torch.zeros(1 << 22, device="cuda")
        out = cupy.empty(1 << 22, np.float32)
        ns.softmax(x, out=out)
        torch.cuda._sleep(200_000_000)
        x.fill_(1.0)
        ns.softmax(x, out=out)
        total = float(out.sum(dtype=np.float64))
    assert total == pytest.approx(1)


def test_calls_are_captured_in_a_graph(torch):
    x = torch.zeros((64, 1000), device="cuda")
    out = torch.empty_like(x)
    long = torch.zeros((1, 1 << 22), device="cuda")  # takes temporary memory
    ns.softmax(x, out=out), ns.logsumexp(x), ns.softmax(long)  # kernels cannot be loaded while calls are captured
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        ns.softmax(x, out=out)
        total = ns.logsumexp(x)
        shares = ns.softmax(long)
    long[0, 0] = 5.0
    x.copy_(torch.arange(1000, device="cuda").expand(64, -1))
    graph.replay()
    torch.testing.assert_close(out, torch.softmax(x, -1))
    torch.testing.assert_close(total, torch.logsumexp(x, -1))
    torch.testing.assert_close(shares, torch.softmax(long, -1))


# ----------------------------------------------------------------------- errors


def test_a_stream_of_nobody(torch):
    stream = torch.cuda.ExternalStream(torch.cuda.Stream().cuda_stream)
    x = torch.tensor(X, device="cuda")
    with pytest.raises(TypeError, match="stream"):
        ns.softmax(x, stream="0")
    ns.softmax(x, stream=stream)
    torch.cuda.synchronize()


def test_out_of_memory_is_said_and_gone_with_the_call(torch):
    torch.cuda.empty_cache()
    free, _ = torch.cuda.mem_get_info()
    row = np.broadcast_to(
        np.float32(0), (free // 4 + (1 << 28),)
    )  # moved as one element, but its results need the memory
    with pytest.raises(MemoryError, match="device='cpu'"):
        ns.softmax(row, device="cuda", out=np.empty(row.shape, np.float32))
    agree(ns.softmax(X, device="cuda"), naive("softmax", X))
    assert torch.cuda.mem_get_info()[0] > 0.95 * free


def test_arrays_on_different_gpus(torch):
    if torch.cuda.device_count() < 2:
        pytest.skip("one GPU")
    x = torch.tensor(X, device="cuda:1")
    with pytest.raises(ValueError, match="out lies on GPU 0"):
        ns.softmax(x, out=torch.empty_like(x, device="cuda:0"))
    agree(ns.softmax(x).cpu().numpy(), naive("softmax", X))
    assert torch.cuda.current_device() == 0


# ------------------------------------------------------------------------ sizes


def test_more_than_two_to_the_31_elements(torch):
    n = (1 << 31) + 4096
    if torch.cuda.mem_get_info()[0] < 5 * n:
        pytest.skip("a GPU with 11 GB of free memory is needed")
    for shape, axis in (((n // 4096, 4096), -1), ((n,), -1), ((4096, n // 4096), 0)):
        x = torch.zeros(shape, dtype=torch.float16, device="cuda")
        x.view(-1)[-1] = 1.0
        total = ns.logsumexp(x, axis, dtype=torch.float32)
        length = shape[axis]
        assert float(total.reshape(-1)[-1]) == pytest.approx(np.log(length - 1 + np.e), rel=1e-6)
        ns.softmax(x, axis, out=x)
        assert float(x.view(-1)[0]) == pytest.approx(1 / length, rel=1e-3, abs=2**-24)
        assert float(x.view(-1)[-1]) == pytest.approx(np.e / (length - 1 + np.e), rel=1e-3, abs=2**-24)
        del x
        gc.collect()


@each_op
@pytest.mark.parametrize("axis", [-1, 0, (0, 2), None])
def test_host_arrays_in_several_slices(name, axis):
    x = np.random.default_rng(6).normal(size=(300, 40, 700)).astype(np.float32)
    agree(np.asarray(getattr(ns, name)(x, axis, device="cuda")), getattr(ns, name)(x, axis))
    agree(np.asarray(getattr(ns, name)(x.astype(">f8"), axis, device="cuda")), getattr(ns, name)(x.astype("f8"), axis))
