"""`OnlineSoftmax` on a GPU: the same states from the same calls, by the kernels of CUDA, in order of the streams."""

import numpy as np
import pytest
from naive import FLOATS, assert_right
from test_edges import CASES, N, row_of
from test_states_scaled import SCALES, for_scale

pytest.importorskip("numba_cuda", reason="kernels are compiled by numba-cuda, which is not installed")

from gpu_fakes import CURRENT, Current, DLPack, Interface, fake_numba_cuda, machine
from gpus import Interpreter

import numba_softmax as ns
from numba_softmax.backends import cuda
from numba_softmax.backends.cuda.interop import libraries
from numba_softmax.bench.cuda_arrays import on_device

each_dtype = pytest.mark.parametrize("dtype", FLOATS)


class Interpreted:
    """Arrays of Numba, as it seems, on a GPU whose kernels are interpreted."""

    def __init__(self, monkeypatch):
        self.interpreter = Interpreter(monkeypatch)
        self.module = fake_numba_cuda(Current(), self.interpreter.driver)
        # Not the module itself: the compiler needs the real one.
        monkeypatch.setattr(libraries.Numba, "empty", lambda _, x, shape, dtype, stream: self._new(shape, dtype))
        monkeypatch.setattr(libraries.Numba, "empty_like", lambda _, x, dtype, stream: self._new(x.shape, dtype))

    def _new(self, shape, dtype):
        return self.module.device_array(shape, dtype)

    def put(self, array):
        return self.module.DeviceNDArray(array.copy() if array.flags.c_contiguous else array)

    def get(self, array):
        return array.host

    @property
    def regimes(self):
        """The kernels so far, by their regimes."""
        return [kernel.regime for kernel, _ in self.interpreter.launched]


class Real:
    """Arrays of Numba on the first GPU."""

    def put(self, array):
        from numba import cuda

        return on_device(cuda, array)

    def get(self, array):
        return array.copy_to_host()


@pytest.fixture(params=["interpreted", pytest.param("real", marks=pytest.mark.gpu)])
def gpu(request, monkeypatch):
    """A GPU, of either kind, with Numba's arrays."""
    return Interpreted(monkeypatch) if request.param == "interpreted" else Real()


def normal(shape, dtype="float32", seed=0):
    return np.random.default_rng(seed).normal(0, 4, shape).astype(FLOATS[dtype])


def assert_right_of(gpu, state, x, axis=-1, where=None):
    """What the state says of its rows and their elements is right, and on the GPU."""
    on_gpu = gpu.put(x), axis, None if where is None else gpu.put(where)
    options = {"where": where, "scale": state.scale}
    assert_right("softmax", gpu.get(state.normalize(*on_gpu)), x, axis, **options)
    assert_right("log_softmax", gpu.get(state.log_normalize(*on_gpu)), x, axis, **options)
    assert_right("logsumexp", gpu.get(state.lse), x, axis, **options)


def new_state(gpu, shape, dtype="float32", scale=None):
    return ns.OnlineSoftmax(shape, FLOATS[dtype], scale=scale, like=gpu.put(np.zeros(1, np.float32)))


@each_dtype
@pytest.mark.parametrize(
    ("shape", "axis", "cuts"),
    [
        ((5, 60), 1, [7, 7, 29]),
        ((3, 9100), 1, [9000]),
        ((1, 60_001), 1, []),
        ((70, 33), 0, [1, 40]),
        ((2, 700, 9), 1, [300]),
        ((4, 5, 6, 3), (1, 3), []),
        ((300, 4), 1, [1, 2]),
        ((7,), None, [3]),
    ],
)
def test_blocks_of_any_layout(gpu, dtype, shape, axis, cuts):
    x = normal(shape, dtype)
    axes = range(len(shape)) if axis is None else np.atleast_1d(axis)
    state = new_state(gpu, tuple(size for i, size in enumerate(shape) if i not in axes), dtype)
    blocks = np.split(x, cuts, axes[0])
    others = [state, state.copy()]
    for k, block in enumerate(blocks):
        others[k % 2].update(gpu.put(np.ascontiguousarray(block)), axis)
    assert_right_of(gpu, state.merge(others[1]), x, axis)


@pytest.mark.parametrize("dtype", ["float32", "float16"])
@pytest.mark.parametrize(("shape", "axis"), [((9, 300), 1), ((40, 30), 0), ((6, 40_000), 1)])
def test_masked_blocks(gpu, dtype, shape, axis):
    x, keep = normal(shape, dtype), np.random.default_rng(1).random(shape) < 0.5
    state = new_state(gpu, shape[1 - axis], dtype)
    for block, mask in zip(np.array_split(x, 3, axis), np.array_split(keep, 3, axis), strict=True):
        state.update(gpu.put(np.ascontiguousarray(block)), axis, gpu.put(np.ascontiguousarray(mask)))
    assert_right_of(gpu, state, x, axis, keep)


@pytest.mark.parametrize("case", CASES)
def test_the_contract_of_the_edges(gpu, case):
    elements, keep, *_ = row_of(case)
    x, masks = np.stack([elements] * 3).astype(np.float32), None if keep is None else np.stack([keep] * 3)
    for axis in (1, 0):
        block, where = (x, masks) if axis else (x.T.copy(), None if masks is None else masks.T.copy())
        state = new_state(gpu, 3)
        for part in (slice(0, 20), slice(20, 20), slice(20, N)):
            of_part = (slice(None), part) if axis else part
            mask = None if where is None else gpu.put(np.ascontiguousarray(where[of_part]))
            state.update(gpu.put(np.ascontiguousarray(block[of_part])), axis, mask)
        assert_right_of(gpu, state, block, axis, where)


@each_dtype
@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize(
    ("shape", "axis"), [((5, 60), 1), ((2, 9100), 1), ((33, 21), 0), ((700, 2), 0), ((5, 4, 6, 3), (0, 3))]
)
def test_scaled_blocks_of_any_layout(gpu, dtype, shape, axis, scale):
    x = for_scale(normal(shape, dtype), scale)
    m = x.min(axis=axis) if scale < 0 else x.max(axis=axis)
    states = [new_state(gpu, m.shape, dtype, scale) for _ in range(2)]
    for k, block in enumerate(np.split(x, [2, 4], np.atleast_1d(axis)[0])):
        states[k % 2].update(gpu.put(np.ascontiguousarray(block)), axis)
    state = states[0].merge(states[1])
    assert_right_of(gpu, state, x, axis)
    np.testing.assert_array_equal(gpu.get(state.m), m)


@pytest.mark.parametrize("scale", [-3.0, 0.0, 0.125])
@pytest.mark.parametrize("case", CASES)
def test_the_contract_of_the_edges_under_a_scale(gpu, case, scale):
    elements, keep, *_ = row_of(case)
    x, masks = np.stack([elements] * 3).astype(np.float32), None if keep is None else np.stack([keep] * 3)
    for axis in (1, 0):
        block, where = (x, masks) if axis else (x.T.copy(), None if masks is None else masks.T.copy())
        state = new_state(gpu, 3, scale=scale)
        for part in (slice(0, 20), slice(20, N)):
            of_part = (slice(None), part) if axis else part
            mask = None if where is None else gpu.put(np.ascontiguousarray(where[of_part]))
            state.update(gpu.put(np.ascontiguousarray(block[of_part])), axis, mask)
        assert_right_of(gpu, state, block, axis, where)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("scale", [-3.0, 0.125, 1e38])
def test_arrays_make_the_same_scaled_state_on_the_gpu_and_in_host_memory(gpu, dtype, scale):
    state = new_state(gpu, (4, 3), dtype, scale).update(gpu.put(normal((4, 3, 50), dtype)))
    on_host = {name: gpu.get(array) for name, array in state.to_arrays().items()}
    options = {"dtype": dtype, "scale": scale}
    host = ns.OnlineSoftmax.from_arrays(**on_host, **options)
    for other in (ns.OnlineSoftmax.from_arrays(**state.to_arrays(), **options), state.copy(), host):
        assert other.scale == scale
        for name, array in other.to_arrays().items():
            assert (array if isinstance(array, np.ndarray) else gpu.get(array)).tobytes() == on_host[name].tobytes()
    np.testing.assert_array_equal(host.lse, gpu.get(state.lse))


@each_dtype
def test_states_are_those_of_the_cpu_within_their_promise(gpu, dtype):
    x = normal((20, 500), dtype)
    on_gpu, on_cpu = new_state(gpu, 20, dtype), ns.OnlineSoftmax(20, FLOATS[dtype])
    for block in np.split(x, 5, axis=1):
        on_gpu.update(gpu.put(block.copy()))
        on_cpu.update(block)
    np.testing.assert_array_equal(gpu.get(on_gpu.m), on_cpu.m)
    np.testing.assert_allclose(gpu.get(on_gpu.l), on_cpu.l, rtol=1e-15 if dtype == "float64" else 1e-7)


@each_dtype
def test_a_new_state_is_a_real_identity(gpu, dtype):
    state = new_state(gpu, (4, 3), dtype)
    np.testing.assert_array_equal(gpu.get(state.l), np.zeros((4, 3)))
    np.testing.assert_array_equal(gpu.get(state.lse).astype(float), np.full((4, 3), -np.inf))
    state.update(gpu.put(normal((4, 3, 9), dtype)))
    before = {name: gpu.get(array).copy() for name, array in state.to_arrays().items()}
    state.update(gpu.put(np.empty((4, 3, 0), FLOATS[dtype])))
    for other in (state.merge(new_state(gpu, (4, 3), dtype)), new_state(gpu, (4, 3), dtype).merge(state)):
        for name, array in other.to_arrays().items():
            assert gpu.get(array).tobytes() == before[name].tobytes()


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_arrays_make_the_same_state_on_the_gpu_and_in_host_memory(gpu, dtype):
    state = new_state(gpu, (4, 3), dtype).update(gpu.put(normal((4, 3, 50), dtype)))
    again = ns.OnlineSoftmax.from_arrays(**state.to_arrays(), dtype=dtype)
    on_host = {name: gpu.get(array) for name, array in state.to_arrays().items()}
    for other in (again, state.copy(), ns.OnlineSoftmax.from_arrays(**on_host, dtype=dtype)):
        for name, array in other.to_arrays().items():
            assert (array if isinstance(array, np.ndarray) else gpu.get(array)).tobytes() == on_host[name].tobytes()


def test_out_is_written_to_and_may_be_the_block(gpu):
    x = normal((6, 50))
    state = new_state(gpu, 6).update(gpu.put(x))
    expected = gpu.get(state.normalize(gpu.put(x))).copy()
    out, block = gpu.put(np.zeros_like(x)), gpu.put(x)
    assert state.normalize(block, out=out) is out
    assert gpu.get(out).tobytes() == expected.tobytes()
    assert state.normalize(block, out=block) is block
    assert gpu.get(block).tobytes() == expected.tobytes()


def test_arrays_of_any_alignment_make_a_state(monkeypatch):
    gpu = Interpreted(monkeypatch)
    memory = np.zeros(6 * 8 + 4, np.uint8)
    m, rest = memory[4:].view(np.float64), np.arange(6.0)
    m[:] = np.arange(6)
    state = ns.OnlineSoftmax.from_arrays(gpu.module.DeviceNDArray(m), gpu.put(rest))
    np.testing.assert_array_equal(gpu.get(state.m), np.arange(6))
    np.testing.assert_array_equal(gpu.get(state.l), rest + 1)


@pytest.mark.parametrize("library", [Interface, DLPack])
def test_blocks_may_be_of_any_library(monkeypatch, library):
    gpu = Interpreted(monkeypatch)
    x = normal((3, 40))
    block = gpu.interpreter.driver.put(x.copy())
    state = new_state(gpu, 3).update(library(block, stream=5) if library is Interface else library(block))
    assert_right_of(gpu, state, x)


def test_blocks_and_states_elsewhere_are_refused(gpu):
    x = normal((4, 9))
    on_gpu, on_host = new_state(gpu, 4), ns.OnlineSoftmax(4)
    with pytest.raises(TypeError, match="block is in host memory, but the state in GPU 0"):
        on_gpu.update(x)
    with pytest.raises(TypeError, match="block is in GPU 0, but the state in host memory"):
        on_host.update(gpu.put(x))
    with pytest.raises(TypeError, match="other is in host memory, but the state in GPU 0"):
        on_gpu.merge(on_host)
    with pytest.raises(TypeError, match=r"out is a numpy\.ndarray in host memory"):
        on_gpu.normalize(gpu.put(x), out=np.empty_like(x))
    with pytest.raises(TypeError, match="where is"):
        on_gpu.update(gpu.put(x), where=np.ones(9, bool))
    with pytest.raises(TypeError, match="rest is"):
        ns.OnlineSoftmax.from_arrays(gpu.put(np.zeros(3)), np.zeros(3))
    for wrong in ({"where": gpu.put(np.ones(9, bool))}, {"out": gpu.put(x)}):
        with pytest.raises(TypeError, match=f"{next(iter(wrong))} is on a GPU, but the elements in host memory"):
            on_host.normalize(x, **wrong)
    np.testing.assert_array_equal(gpu.get(on_gpu.l), np.zeros(4))


def test_each_kind_of_block_has_its_kernels(monkeypatch):
    gpu = Interpreted(monkeypatch)
    state, x = new_state(gpu, 5), gpu.put(normal((5, 30)))
    assert gpu.regimes == ["states"]
    state.update(x)
    assert gpu.regimes[1:] == ["rows", "states"]
    state.normalize(x)
    assert gpu.regimes[3:] == ["given_rows"]
    state.normalize(gpu.put(normal((30, 5))), 0)
    assert gpu.regimes[4:] == ["given_columns"]
    assert [kernel.spec.op.name for kernel, _ in gpu.interpreter.launched[:3]] == ["identity", "fold", "merge"]


@pytest.mark.parametrize(("shape", "axis"), [((3, 20_000), 1), ((900, 40), 0)])
def test_elements_are_read_once_and_results_written_once(monkeypatch, shape, axis):
    gpu = Interpreted(monkeypatch)
    x, out = gpu.put(normal(shape)), gpu.put(np.empty(shape, np.float32))
    new_state(gpu, shape[1 - axis]).update(x, axis).normalize(x, axis, out=out)
    _, counts = gpu.interpreter.launched[-1]
    read, written = (counts.traffic[f"array at {array.host.ctypes.data}"] for array in (x, out))
    assert set(read.read) == set(written.written) == {1}
    assert set(read.written) == set(written.read) == {0}


# ------------------------------------------------------------------------- streams


@pytest.fixture
def queued(monkeypatch):
    """A machine whose kernels do nothing, and the streams that they were queued in."""
    with machine(monkeypatch) as gpu:
        gpu.streams = []

        def launcher_for(op, layout):
            return lambda addresses, scale, queue: gpu.streams.append(tuple(queue))

        monkeypatch.setattr(cuda, "launcher_for", launcher_for)
        yield gpu


@pytest.mark.parametrize("library", ["torch", "cupy"])
def test_what_is_read_of_a_state_is_of_the_library_that_it_was_made_like(queued, library):
    new = queued.torch.Tensor if library == "torch" else queued.cupy.ndarray
    state = ns.OnlineSoftmax((2, 3), like=new(np.zeros(2, np.float32)))
    block = new(normal((2, 3, 4)))
    state.update(block)
    found = state.m, state.l, state.lse, state.normalize(block), *state.to_arrays().values()
    assert {type(array) for array in found} == {new}
    assert set(queued.streams) == {(0, CURRENT)}
    assert not [entry for entry in queued.log if entry[0] in ("wait", "synchronize")]


def test_work_waits_for_the_streams_of_block_and_state(queued):
    state = ns.OnlineSoftmax(2, like=queued.cupy.ndarray(np.zeros(2, np.float32)))
    block = queued.numba.DeviceNDArray(normal((2, 4)), stream=0x99)
    queued.log.clear()
    state.normalize(block)
    assert ("wait", 0x99, CURRENT) in queued.log
    assert ("wait", CURRENT, 0x99) in queued.log
    assert queued.streams[-1] == (0, 0x99)


def test_a_block_on_another_gpu_is_refused(queued):
    state = ns.OnlineSoftmax(2, like=queued.cupy.ndarray(np.zeros(2, np.float32)))
    with pytest.raises(TypeError, match="block is in GPU 1, but the state in GPU 0"):
        state.update(queued.cupy.ndarray(normal((2, 4)), 1))
