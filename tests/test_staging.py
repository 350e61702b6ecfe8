"""Host arrays that a GPU computes with: the right bytes for any layout, in bounded memory, whatever happens."""

import itertools

import numpy as np
import pytest
from gpu_fakes import ILLEGAL, agree, machine, right

import numba_softmax as ns
from numba_softmax.backends import cuda
from numba_softmax.backends.cuda import driver
from numba_softmax.backends.cuda.interop import staging

OPS = ("softmax", "log_softmax", "logsumexp")
SLICE = 1 << 10
RNG = np.random.default_rng(11)
X = RNG.normal(size=(24, 6, 20)).astype(np.float32)
MASK = RNG.random(X.shape) < 0.7
each_op = pytest.mark.parametrize("name", OPS)
AXES = (-1, 0, 1, (0, 2), (0, 1), None)


@pytest.fixture
def gpu(monkeypatch):
    """A machine with GPUs, and slices so small that there are many."""
    monkeypatch.setattr(staging, "SLICE_BYTES", SLICE)
    with machine(monkeypatch) as found:
        yield found


def nothing_left(gpu):
    return not any((gpu.driver.memory, gpu.driver.pinned, gpu.driver.streams, gpu.driver.events))


def same(name, x, *args, **kwargs):
    agree(np.asarray(getattr(ns, name)(x, *args, device="cuda", **kwargs)), right(name, x, *args, **kwargs))


@each_op
@pytest.mark.parametrize("axis", AXES)
def test_results_are_right_on_every_axis(gpu, name, axis):
    views = X, X[::2, ::-1], X.transpose(2, 0, 1), np.broadcast_to(X[:1], X.shape)
    for x in views:
        same(name, x, axis)
    same(name, X, axis, scale=-2.5)
    for mask in (MASK, MASK[:, :1], MASK[0, 0], MASK.transpose(1, 0, 2).copy().transpose(1, 0, 2)):
        same(name, X, axis, where=mask)
    assert gpu.driver.peak > 0


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float64", "bool", ">f2", ">i4"])
def test_every_format_is_moved_as_it_is(gpu, dtype):
    if dtype == "bfloat16":
        dtype = pytest.importorskip("ml_dtypes").bfloat16
    x = (4 * X).astype(dtype)
    same("softmax", x, 0)


def test_tensors_in_host_memory_are_moved_and_come_back_as_tensors(gpu):
    result = ns.softmax(gpu.torch.OnHost(X), device="cuda", where=gpu.torch.OnHost(MASK))
    assert type(result) is gpu.torch.OnHost
    agree(result.host, right("softmax", X, where=MASK))
    assert gpu.driver.peak > 0


@each_op
def test_out_of_any_layout(gpu, name):
    expected = right(name, X)
    for out in (np.zeros(expected.shape, np.float32), np.zeros(expected.shape[::-1], ">f8").T):
        assert getattr(ns, name)(X, out=out, device="cuda") is out
        agree(out, right(name, X, dtype=out.dtype.newbyteorder("=")))
    x = X.copy()
    if name != "logsumexp":
        getattr(ns, name)(x, out=x, device="cuda")
        agree(x, expected)
        memory = np.concatenate([X, X[:1]])
        getattr(ns, name)(memory[:-1], out=memory[1:], device="cuda")
        agree(memory[1:], expected)


@each_op
def test_what_is_no_array_and_what_has_no_elements(gpu, name):
    function = getattr(ns, name)
    agree(np.asarray(function([0.0, 1.0], device="cuda")), right(name, np.arange(2.0)))
    assert isinstance(ns.logsumexp([0.0, 1.0], device="cuda"), np.float64)
    for shape, axis in (((0, 3), -1), ((3, 0), -1), ((3, 0), 0), ((), None)):
        same(name, np.ones(shape), axis)
    assert gpu.driver.contexts == [0xC0]


def test_slices_take_turns_in_streams_of_their_own(gpu):
    ns.softmax(X, device="cuda")
    slices = -(-X.nbytes // SLICE)
    streams = [stream for _, stream in gpu.queues]
    assert len(streams) >= slices
    assert len(set(streams)) == 3
    assert streams[3:] == streams[:-3]
    runs = [i for i, (what, *_) in enumerate(gpu.log) if what == "run"]
    waits = [i for i, (what, *_) in enumerate(gpu.log) if what == "synchronize"]
    assert sum(i < waits[0] for i in runs) == 3  # nothing is waited for until all slots are busy


@pytest.mark.parametrize("axis", AXES[:4])
def test_memory_is_bounded_whatever_the_size(gpu, axis):
    peaks = []
    for repeats in (1, 8):
        gpu.driver.peak = 0
        x = np.repeat(X, repeats, 1 if axis in (0, (0, 2)) else 0)
        same("softmax", x, axis, where=np.repeat(MASK, repeats, 1 if axis in (0, (0, 2)) else 0))
        peaks.append(gpu.driver.peak)
    row = X.size // {-1: 144, 0: 120, 1: 480, (0, 2): 6}[axis] * 4
    assert peaks[1] <= max(SLICE, row) * 3 * 2 * (4 + 4 + 1) / 4
    assert peaks[1] <= 1.2 * peaks[0]


def test_a_row_may_be_longer_than_a_slice(gpu):
    x = RNG.normal(size=(3, 4 * SLICE))
    same("softmax", x)
    same("logsumexp", x)
    same("softmax", x, None)


def test_little_memory_on_the_gpu_is_enough(gpu):
    x = RNG.normal(size=(7, 4 * SLICE)).astype(np.float32)
    gpu.driver.capacity = 2 * x[0].nbytes
    same("softmax", x)
    assert len({stream for _, stream in gpu.queues}) == 1
    gpu.driver.capacity -= 1
    with pytest.raises(MemoryError, match=r"out of memory .* a row 16384, .* device='cpu'"):
        ns.softmax(x, device="cuda")
    assert not gpu.driver.memory
    gpu.driver.capacity += 1
    same("softmax", x)


@pytest.mark.parametrize("function", ["cuMemcpyHtoDAsync", "cuMemcpyDtoHAsync", "cuMemHostAlloc", "cuStreamCreate"])
@pytest.mark.parametrize("after", [0, 2])
def test_errors_in_the_middle_leave_nothing_behind(gpu, function, after):
    gpu.driver.fail(function, ILLEGAL, after)
    with pytest.raises(driver.CudaError, match="ILLEGAL_ADDRESS"):
        ns.softmax(X, device="cuda")
    assert nothing_left(gpu)
    gpu.driver.fails.clear()
    same("softmax", X)


def test_an_interrupt_drains_the_streams_and_frees_all(gpu, monkeypatch):
    launcher_for, calls = cuda.launcher_for, []

    def interrupted(op, layout):
        launch = launcher_for(op, layout)

        def on_gpu(*arguments):
            calls.append(arguments)
            if len(calls) == 5:
                raise KeyboardInterrupt
            launch(*arguments)

        return on_gpu

    monkeypatch.setattr(cuda, "launcher_for", interrupted)
    with pytest.raises(KeyboardInterrupt):
        ns.softmax(X, device="cuda")
    last = max(i for i, (what, *_) in enumerate(gpu.log) if what in ("run", "copy"))
    end = [entry for entry in gpu.log[last + 1 :] if entry[0] in ("synchronize", "unpin", "free")]
    assert len({stream for what, stream in end if what == "synchronize"}) == 3
    for before, entry in itertools.pairwise(end):  # memory of both kinds goes when nothing can use it
        assert entry[0] != "unpin" or before[0] in ("synchronize", "unpin")
        assert entry[0] != "free" or ("synchronize", entry[1]) in end[: end.index(entry)]
    assert nothing_left(gpu)


def test_the_current_device_computes(gpu):
    gpu.driver.contexts.append(0xC1)
    same("softmax", X)
    assert {ordinal for ordinal, _ in gpu.queues} == {1}
    gpu.driver.contexts.pop()
    gpu.driver.contexts.clear()
    gpu.queues.clear()
    same("softmax", X)
    assert {ordinal for ordinal, _ in gpu.queues} == {0}
    gpu.driver.contexts.append(0xC0)


def test_warmup_compiles_for_the_gpu(gpu, monkeypatch):
    asked = []
    monkeypatch.setattr(cuda, "warm", lambda *arguments: asked.append(arguments) or [lambda: None])
    assert ns.warmup("softmax", device="cuda") == 1
    assert asked[0][1:] == ("float32", "float32", False, False)


@pytest.mark.parametrize("sizes", [(1,), (7,), (3, 5), (2, 1, 9), (4, 3, 2)])
def test_boxes_hold_each_row_once(sizes):
    for rows in range(1, 30):
        seen = np.zeros(sizes, int)
        boxes = list(staging._boxes(sizes, rows))
        for box in boxes:
            seen[tuple(slice(a, a + n) for a, n in zip(box.start, box.sizes, strict=True))] += 1
        assert (seen == 1).all()
        assert max(np.prod(box.sizes) for box in boxes) == np.prod(boxes[0].sizes) <= max(1, rows)
