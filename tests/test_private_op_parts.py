"""An op that the package does not know, of several operands and results: in files and Dask arrays, part by part."""

import itertools

import numpy as np
import pytest
from naive import same_bits
from test_private_op_host import arrays, assert_right, some, tilt

from numba_softmax.streaming import mapped

pytestmark = pytest.mark.usefixtures("one_thread")


# --------------------------------------------------------------------------------- files


@pytest.fixture
def on_disk(tmp_path, monkeypatch):
    monkeypatch.setattr(mapped, "SLAB", 4000)
    monkeypatch.setattr(mapped, "SHORTEST_RUN", 64)
    names = itertools.count()

    def make(x):
        file = np.memmap(tmp_path / str(next(names)), x.dtype, "w+", shape=x.shape)
        file[...] = x
        return file

    return make


FILES = [((30, 70), 1), ((40, 30), 0), ((2, 5000), 1), ((3000, 30), 0), ((6, 7, 400), (0, 2)), ((6, 70, 40), None)]


@pytest.mark.parametrize(("shape", "axis"), FILES)
def test_files_are_as_right_as_arrays(shape, axis, on_disk):
    x, v, t = arrays(shape, axis)
    keep = some(shape, axis)
    for options in ({}, {"where": keep, "scale": -0.3}, {"keepdims": True}):
        for others in ((v, t), (on_disk(v), on_disk(t) if t.ndim else t), (v[:1], t)):
            results = tilt(on_disk(x), *others, axis, **options)
            assert all(type(y) in (np.ndarray, np.float32) for y in results)
            assert_right(results, x, *others, axis, **options)


@pytest.mark.parametrize("over", ["x", "v", None])
@pytest.mark.parametrize(("shape", "axis"), [((60, 70), 1), ((2, 5000), 1), ((3000, 30), 0)])
def test_results_of_files_may_lie_on_their_elements(shape, axis, over, on_disk):
    x, v, t = arrays(shape, axis)
    files = {"x": on_disk(x), "v": on_disk(v), None: on_disk(np.zeros_like(x))}
    out = files[over], np.empty(t.shape, np.float32)
    assert tilt(files["x"], files["v"], t, axis, out=out) is out
    assert_right(out, x, v, t, axis)


def test_results_of_files_that_overlap_what_is_read_are_those_of_copies(on_disk):
    x, v, t = arrays((100, 300))
    for shifted in (False, True):
        file, other = on_disk(np.vstack([x, x[:1]])), on_disk(v)
        out = (file[1:], np.empty(100, np.float32)) if shifted else (np.empty_like(x), other[:, 7])
        tilt(file[:-1], other, t, out=out)
        assert_right(out, x, v, t)
    file = on_disk(x)
    with pytest.raises(ValueError, match="out has arrays that lie in the same memory"):
        tilt(file, v, t, out=(file, file[:, 0]))


# ---------------------------------------------------------------------------------- Dask


@pytest.mark.parametrize("chunks", [(2, 70), (3, 11), (5, 70)])
@pytest.mark.parametrize("axis", [0, 1])
def test_dask_arrays_give_a_tuple_of_dask_arrays(chunks, axis):
    da = pytest.importorskip("dask.array")
    x, v, t = arrays((5, 70), axis)
    keep = some(x.shape, axis)
    cut, of_rows = da.from_array(x, chunks), chunks[1 - axis]
    for others in ((v, t), (da.from_array(v, chunks), da.from_array(t, of_rows)), (v[:1], np.expand_dims(t, axis))):
        for options in ({}, {"where": keep, "scale": 0.5}, {"keepdims": True}, {"dtype": "float64"}):
            results = tilt(cut, *others, axis, **options)
            assert [y.chunks[: y.ndim] for y in results[:1]] == [cut.chunks]
            computed = da.compute(*results)
            assert [y.dtype for y in computed] == [y.dtype for y in results]
            assert [y.shape for y in computed] == [y.shape for y in results]
            options.pop("dtype", None)
            assert_right([y.astype(np.float32) for y in computed], x, *others, axis, **options)
            assert same_bits(results[1].compute(), computed[1])


def test_dask_arrays_whose_chunks_do_not_fit_are_refused_by_name():
    da = pytest.importorskip("dask.array")
    x, v, t = arrays((6, 70))
    cut = da.from_array(x, (2, 20))
    for others, error, words in (
        ((da.from_array(v, (2, 30)), t), ValueError, "v has chunks"),
        ((v, da.from_array(t, 3)), ValueError, "t has chunks"),
        ((v, np.ones(5)), ValueError, "t has shape"),
        ((da.from_array(v.astype(complex), (2, 20)), t), TypeError, "v has dtype complex"),
        ((da.ma.masked_array(da.from_array(v, (2, 20))), t), TypeError, "v has chunks of masked arrays"),
    ):
        with pytest.raises(error, match=words):
            tilt(cut, *others)
