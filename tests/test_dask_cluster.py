"""Dask arrays on worker processes: the same bits whoever computes what, also when a worker dies or memory is short."""

import functools
import os
import signal

import numpy as np
import pytest
from naive import assert_right, same_bits

distributed = pytest.importorskip("distributed", reason="distributed is not installed")
da = pytest.importorskip("dask.array", reason="dask.array is not installed")

import dask  # noqa: E402
from dask.graph_manipulation import bind  # noqa: E402

import numba_softmax as ns  # noqa: E402
import numba_softmax.dask as nd  # noqa: E402

MEBIBYTE = 1 << 20
WORKER_MEMORY = 512 * MEBIBYTE

pytestmark = pytest.mark.filterwarnings("default")  # of Dask and its libraries; they are not ours to mend


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    """Two workers with a thread each, and little memory."""
    folder = str(tmp_path_factory.mktemp("workers"))
    options = {"n_workers": 2, "threads_per_worker": 1, "processes": True, "dashboard_address": None}
    with distributed.LocalCluster(**options, memory_limit=WORKER_MEMORY, local_directory=folder) as cluster:
        yield cluster


@pytest.fixture
def client(cluster):
    with distributed.Client(cluster) as client:
        client.wait_for_workers(2)
        yield client


def chunk(shape, block_info=None):
    """Elements that follow from the chunk's place alone."""
    place = block_info[None]["chunk-location"]
    return np.resize(np.random.default_rng(place).standard_normal(5003, np.float32) * 5, shape)


def source(blocks, shape):
    chunks = tuple((size,) * count for count, size in zip(blocks, shape, strict=True))
    return da.map_blocks(functools.partial(chunk, shape), chunks=chunks, meta=np.empty((0, 0), np.float32))


def peak_of_worker(dask_worker):
    """The most memory that a worker has had, and which process it is."""
    with open("/proc/self/status") as status:
        return os.getpid(), next(int(line.split()[1]) << 10 for line in status if line.startswith("VmHWM"))


@pytest.mark.parametrize("axis", [0, 1, None])
def test_workers_give_the_bits_of_one_process(axis, client):
    x = source((4, 9), (30, 50))
    one = dask.compute(x, ns.softmax(x, axis), ns.logsumexp(x, axis), scheduler="synchronous")
    assert_right("softmax", one[1], one[0], axis)
    for workers in (None, list(client.scheduler_info()["workers"])[:1]):
        for _ in range(2):
            futures = client.compute([ns.softmax(x, axis), ns.logsumexp(x, axis)], workers=workers)
            assert all(same_bits(*pair) for pair in zip(client.gather(futures), one[1:], strict=True))


def killed_once(mark, block):
    """The chunk; but the first worker to come here dies."""
    if not mark.exists():
        mark.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return block


def test_a_worker_that_dies_does_not_change_the_result(client, tmp_path):
    x = source((4, 9), (30, 50))
    middle = x[:, 200:250].map_blocks(functools.partial(killed_once, tmp_path / "mark"), meta=x._meta)
    dying = da.concatenate([x[:, :200], middle, x[:, 250:]], axis=1)
    before = set(client.run(os.getpid).values())
    result = client.compute(ns.softmax(dying)).result()
    assert (tmp_path / "mark").exists()
    assert same_bits(result, ns.softmax(x).compute(scheduler="synchronous"))
    client.wait_for_workers(2)
    assert set(client.run(os.getpid).values()) != before


@pytest.mark.skipif(not os.path.exists("/proc/self/status"), reason="needs Linux to tell how much memory was used")
@pytest.mark.parametrize("streams", ["kept", "read twice"])
def test_arrays_of_four_times_the_memory_of_all_workers_are_computed_within_it(streams, client):
    size = 16 * MEBIBYTE
    count = 4 * 2 * WORKER_MEMORY // size
    if streams == "kept":  # rows of 16 chunks; these are kept until the states of their rows are there
        x = source((count // 16, 16), (1024, size // 4 // 1024))
        y = ns.softmax(x)
    else:  # all chunks have a part of each row
        x = source((count, 1), (1024, size // 4 // 1024))
        state = nd.online_state(x, 0)
        y = nd.normalize(bind(x, state), state, 0)
    assert x.nbytes >= 4 * 2 * WORKER_MEMORY
    before = client.run(peak_of_worker)
    total = y.sum(dtype=float).compute()
    rows = x.shape[0] if streams == "kept" else x.shape[1]
    assert total == pytest.approx(rows, rel=1e-6)
    after = client.run(peak_of_worker)
    assert {pid for pid, _ in before.values()} == {pid for pid, _ in after.values()}  # none was replaced
    assert max(peak for _, peak in after.values()) < WORKER_MEMORY
