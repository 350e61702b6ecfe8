"""Chunks on a GPU: folded, merged and finished there, by the kernels of CUDA."""

import numpy as np
import pytest
from naive import NAMES, assert_right

pytest.importorskip("numba_cuda", reason="kernels are compiled by numba-cuda, which is not installed")
dask = pytest.importorskip("dask", reason="dask is not installed")
da = pytest.importorskip("dask.array", reason="dask.array is not installed")

from dask.array.dispatch import concatenate_lookup  # noqa: E402
from test_states_cuda import Interpreted, normal  # noqa: E402

import numba_softmax as ns  # noqa: E402


class Chunks(Interpreted):
    """Arrays of Numba, as it seems, with as much of NumPy's interface as CuPy's have and Dask needs."""

    def __init__(self, monkeypatch):
        super().__init__(monkeypatch)

        class Chunk(self.module.DeviceNDArray):
            ndim = property(lambda self: len(self.shape))

            def __getitem__(self, index):
                return Chunk(self.host[index].copy())

            def reshape(self, *shape):
                return Chunk(self.host.reshape(*shape).copy())

            def astype(self, dtype):
                return Chunk(self.host.astype(dtype))

        def concatenated(chunks, axis=0):
            return Chunk(np.concatenate([chunk.host for chunk in chunks], axis))

        self.kind = Chunk
        concatenate_lookup.register(Chunk, concatenated)

    def _new(self, shape, dtype):
        return self.kind(np.empty(shape, dtype))

    def put(self, array):
        return self.kind(array.copy())


here = []
"""The GPU of a test. Dask copies functions with what they hold, but for those of a module."""


def put(block):
    return here[-1].put(block)


def get(block):
    return here[-1].get(block)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(("axis", "scale"), [(1, None), (0, None), (1, -0.5)])
def test_chunks_stay_on_the_gpu(name, axis, scale, monkeypatch):
    here.append(Chunks(monkeypatch))
    x = normal((20, 70))
    with dask.config.set(scheduler="synchronous"):
        on_gpu = da.from_array(x, (10, 20)).map_blocks(put, meta=np.empty((0, 0), np.float32))
        y = getattr(ns, name)(on_gpu, axis, scale=scale)
        result = y.map_blocks(get, meta=y._meta).compute()
    assert_right(name, result, x, axis, scale=scale)
    assert here.pop().regimes


@pytest.mark.gpu
@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("axis", [0, 1, None])
def test_chunks_of_cupy_give_chunks_of_cupy(name, axis):
    cupy = pytest.importorskip("cupy", reason="CuPy is not installed")
    x = normal((200, 700))
    with dask.config.set(scheduler="synchronous"):
        y = getattr(ns, name)(da.from_array(cupy.asarray(x), (100, 200), asarray=False), axis)
        assert isinstance(y._meta, cupy.ndarray)
        result = y.compute()
    assert isinstance(result, cupy.ndarray)
    assert_right(name, result.get(), x, axis)
