"""Arrays of other libraries in host memory come back as what they were, and nothing is copied.

Two stand-ins are always there; the libraries themselves where they are installed.
"""

import gc
import sys
import weakref
from collections import UserList, deque
from types import SimpleNamespace

import ml_dtypes
import numpy as np
import pytest
from gpu_fakes import Current, fake_torch
from naive import NAMES

import numba_softmax as ns
from numba_softmax.call import dlpack, host_libraries
from numba_softmax.streaming import mapped

X = np.random.default_rng(8).normal(size=(6, 4, 5)).astype(np.float32)
MASK = np.random.default_rng(9).random((4, 5)) < 0.7
DTYPES = ("float16", "bfloat16", "float32", "float64", "int32", "bool")


class Lent:
    """An array that speaks DLPack alone; of version 0, if it is not versioned."""

    def __init__(self, host, versioned=True):
        self.host, self._versioned = host, versioned

    def __dlpack_device__(self):
        return (1, 0)

    def __dlpack__(self, *, stream=None, **version):
        assert stream is None
        if version and not self._versioned:
            raise TypeError("unknown argument max_version")
        lent = dlpack.Bfloat16(self.host) if self.host.dtype == ml_dtypes.bfloat16 else self.host
        return lent.__dlpack__(**version)


class Immutable(Lent):
    """One of a library that follows the array API standard and never writes to an array."""

    def __init__(self, host):
        super().__init__(host, versioned=False)

    def __array_namespace__(self):
        def from_dlpack(array):
            taken = dlpack.as_numpy(array, "an array", writeable=True)
            assert not taken.size or taken.ctypes.data % 64 == 0, "it would have to be copied"
            return Immutable(taken)

        return SimpleNamespace(from_dlpack=from_dlpack)


class Torch:
    """The fake or the real one."""

    lacks = ()

    def __init__(self, torch):
        self.torch, self.kind = torch, getattr(torch, "OnHost", torch.Tensor)

    def array(self, host):
        if hasattr(self.torch, "OnHost"):
            return self.torch.OnHost(host)
        return self.torch.from_dlpack(dlpack.Bfloat16(host) if host.dtype == ml_dtypes.bfloat16 else host)

    def host(self, array):
        return dlpack.as_numpy(array, "the result", writeable=True)


class Namespace:
    """A library that follows the array API standard."""

    def __init__(self, module, kind):
        self.module, self.kind = module, kind
        self.lacks = ("float16", "bfloat16") if module.__name__ == "array_api_strict" else ()

    def array(self, host):
        return self.module.asarray(host)

    def host(self, array):
        return np.asarray(array)


@pytest.fixture(params=["fake torch", "lent", "immutable", "torch", "jax.numpy", "array_api_strict"])
def library(request, monkeypatch):
    if request.param == "lent":
        return SimpleNamespace(array=Lent, kind=np.ndarray, host=lambda array: getattr(array, "host", array), lacks=())
    if request.param == "immutable":
        return SimpleNamespace(array=Immutable, kind=Immutable, host=lambda array: array.host, lacks=())
    if request.param == "fake torch":
        monkeypatch.setitem(sys.modules, "torch", fake_torch(Current()))
        return Torch(sys.modules["torch"])
    module = pytest.importorskip(request.param)
    if request.param == "torch":
        return Torch(module)
    return Namespace(module, type(module.asarray(0)))


@pytest.fixture
def torch(monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", fake_torch(Current()))
    return Torch(sys.modules["torch"])


def same_bits(result, expected):
    assert result.dtype == expected.dtype
    assert result.shape == np.shape(expected)
    assert result.tobytes() == expected.tobytes()


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("dtype", DTYPES)
def test_results_have_the_bits_of_a_call_on_numpy_arrays_and_are_of_the_same_library(library, dtype, name):
    of_numpy = X.astype(ml_dtypes.bfloat16 if dtype == "bfloat16" else dtype)
    if dtype in library.lacks:
        pytest.skip(f"the library has no {dtype}")
    x, mask = library.array(of_numpy), library.array(MASK)
    result = getattr(ns, name)(x, 1, where=mask, scale=0.5)
    assert isinstance(result, library.kind)
    expected = getattr(ns, name)(library.host(x), 1, where=MASK, scale=0.5)
    if library.host(result).dtype == np.float32:  # JAX takes float64 to float32
        expected = expected.astype(np.float32)
    same_bits(library.host(result), expected)


def test_views_of_any_steps_are_read_where_they_lie(library):
    repeated = np.lib.stride_tricks.as_strided(X[0], X.shape, (0, *X[0].strides))
    for view in (X.transpose(2, 0, 1), X[::2, :, ::3], X[:, :1], repeated, X[:0], X[:, :0]):
        x = library.array(view)
        result = library.host(ns.softmax(x, 1))
        same_bits(result, ns.softmax(view, 1))
        if result.size:
            assert result.strides == np.empty_like(library.host(x)).strides


def test_results_without_axes_are_arrays_of_the_library(library):
    result = ns.logsumexp(library.array(X), None)
    assert isinstance(result, np.generic if library.kind is np.ndarray else library.kind)
    assert float(library.host(result)) == float(ns.logsumexp(X, None))


def test_the_library_names_dtypes(torch):
    assert ns.softmax(torch.array(X), dtype=torch.torch.float64).host.dtype == np.float64
    assert ns.softmax(X, dtype=torch.torch.bfloat16).dtype == ml_dtypes.bfloat16
    with pytest.raises(TypeError, match="int32"):
        ns.softmax(torch.array(X), dtype=torch.torch.int32)


def test_out_is_written_where_it_lies_and_given_back(torch):
    for x in (X.copy(), torch.array(X.copy()), Lent(X.copy())):
        for out in (torch.array(np.zeros_like(X)), Lent(np.zeros_like(X)), np.zeros_like(X)):
            assert ns.softmax(x, where=torch.array(MASK), out=out) is out
            same_bits(getattr(out, "host", out), ns.softmax(X, where=MASK))
    x = torch.array(X.copy())
    assert ns.softmax(x, out=x) is x
    same_bits(x.host, ns.softmax(X))
    shifted = np.zeros(1 + X.size, np.float32)
    shifted[1:] = X.ravel()
    ns.softmax(torch.array(shifted[1:]), out=torch.array(shifted[:-1]))
    same_bits(shifted[:-1], ns.softmax(X.ravel()))


@pytest.mark.parametrize("slab", [100, 1 << 25])
def test_memory_maps_take_masks_and_results_of_other_libraries(slab, torch, tmp_path, monkeypatch):
    monkeypatch.setattr(mapped, "SLAB", slab)
    np.save(tmp_path / "x.npy", X)
    x, out = np.load(tmp_path / "x.npy", mmap_mode="r"), torch.array(np.zeros_like(X))
    assert ns.softmax(x, where=torch.array(MASK), out=out) is out
    same_bits(out.host, ns.softmax(X, where=MASK))


def test_what_cannot_be_written_is_refused(torch):
    read_only = X.copy()
    read_only.flags.writeable = False
    for out in (Lent(read_only), Lent(X.copy(), versioned=False), Immutable(X.copy())):
        for x in (X, torch.array(X)):
            with pytest.raises(ValueError, match="out is read-only"):
                ns.softmax(x, out=out)
    for x in (X, torch.array(X)):
        with pytest.raises(TypeError, match="out must be a NumPy array"):
            ns.softmax(x, out=X.tolist())
        with pytest.raises(ValueError, match=r"out has shape \(3,\)"):
            ns.softmax(x, out=torch.array(np.zeros(3, np.float32)))


def test_jax_and_its_like_are_never_written_to():
    jnp = pytest.importorskip("jax.numpy")
    out = jnp.zeros(X.shape, "float32")
    with pytest.raises(ValueError, match="out is read-only"):
        ns.softmax(X, out=out)
    assert not np.asarray(out).any()


def test_results_are_handed_over_without_a_copy(library, monkeypatch):
    if library.kind is np.ndarray:
        pytest.skip("results are NumPy's")
    made = []
    lent = host_libraries._lent
    monkeypatch.setattr(host_libraries, "_lent", lambda array: made.append(array.ctypes.data) or lent(array))
    x = np.zeros((100, 100), np.float32)
    result = library.host(ns.softmax(library.array(x)))
    assert made == [result.ctypes.data]
    gc.collect()
    same_bits(result, ns.softmax(x))


def test_loans_end_with_the_call():
    for versioned in (True, False):
        host = X.copy()
        x, gone = Lent(host, versioned), weakref.ref(host)
        ns.softmax(x)
        del host, x
        gc.collect()
        assert gone() is None


def test_tensors_that_are_more_than_their_memory_are_refused_as_on_a_gpu(torch):
    def tensor(**more):
        return torch.torch.OnHost(X.copy(), **more)

    for options, match in (
        ({"x": tensor(requires_grad=True)}, r"x requires grad.*pass x\.detach\(\)"),
        ({"x": tensor(), "out": tensor(requires_grad=True)}, r"pass out\.detach\(\)"),
        ({"x": X, "out": tensor(requires_grad=True)}, r"pass out\.detach\(\)"),
        ({"x": tensor(negated=True)}, r"pass x\.resolve_neg\(\)"),
        ({"x": torch.array(X.astype(np.complex64))}, "x has dtype complex64"),
    ):
        with pytest.raises(TypeError, match=match):
            ns.softmax(**options)
    torch.torch.grad = False
    same_bits(ns.softmax(tensor(requires_grad=True)).host, ns.softmax(X))


def test_tensors_of_the_real_torch_that_cannot_be_read_are_named():
    torch = pytest.importorskip("torch")
    for x, match in (
        (torch.ones(3, requires_grad=True), r"x requires grad.*pass x\.detach\(\)"),
        (torch.ones(3, device="meta"), "x cannot be read by DLPack"),
        (torch.eye(3).to_sparse(), "x cannot be read by DLPack"),
        (torch.ones(3, dtype=torch.complex64), "x has dtype complex64"),
    ):
        with pytest.raises(TypeError, match=match):
            ns.softmax(x)
    with torch.no_grad():
        assert ns.softmax(torch.ones(2, requires_grad=True)).tolist() == [0.5, 0.5]
    parameter = torch.nn.Parameter(torch.zeros(2))
    ns.softmax(torch.zeros(2), out=parameter.detach())
    assert parameter.tolist() == [0.5, 0.5]


def test_arrays_on_other_devices_are_refused_and_not_copied():
    class Elsewhere(Lent):
        def __dlpack__(self, **options):
            capsule = super().__dlpack__(**options)
            dlpack._managed(capsule, "x").tensor.device_type = 8  # Metal
            return capsule

    class Copied(Elsewhere, Immutable):
        def __array__(self, dtype=None, copy=None):
            raise AssertionError("it would be copied")

    for x in (Elsewhere(X), Copied(X)):
        with pytest.raises(TypeError, match="x lies on a device of DLPack's kind 8"):
            ns.softmax(x)


def test_nothing_but_its_version_is_read_of_a_capsule_of_another_version():
    class Later(Lent):
        def __dlpack__(self, **options):
            capsule = super().__dlpack__(**options)
            managed = dlpack._managed(capsule, "x")
            managed.major = 2
            managed.tensor.device_type = 8  # what lies there in another layout
            return capsule

    with pytest.raises(TypeError, match="x speaks version 2 of DLPack"):
        ns.softmax(Later(X))


def test_what_numpy_takes_and_cannot_be_given_back_stays_numpys():
    class Labelled(Lent):
        def __array__(self, dtype=None, copy=None):
            return self.host

    class Spread(Immutable):
        def __dlpack__(self, **options):
            raise BufferError("it is spread over devices")

        __array__ = Labelled.__array__

    assert type(ns.softmax(Labelled(X))) is np.ndarray
    same_bits(ns.softmax(Spread(X)).host, ns.softmax(X))


def test_elements_may_be_numpys_and_the_mask_of_another_library(library):
    same_bits(ns.softmax(X, where=library.array(MASK)), ns.softmax(X, where=MASK))
    same_bits(ns.softmax(X.tolist(), where=library.array(MASK)), ns.softmax(X.tolist(), where=MASK))


def test_states_take_blocks_and_give_results_in_their_library(library):
    state = ns.OnlineSoftmax((6, 4))
    state.update(library.array(X), where=library.array(MASK)).update(library.array(X))
    expected = ns.OnlineSoftmax((6, 4)).update(X, where=MASK).update(X)
    same_bits(state.lse, expected.lse)
    result = state.normalize(library.array(X), where=library.array(MASK))
    assert isinstance(result, library.kind)
    same_bits(library.host(result), expected.normalize(X, where=MASK))


def test_states_write_to_arrays_of_other_libraries(torch):
    state = ns.OnlineSoftmax((6, 4), like=torch.array(X)).update(X)
    same_bits(state.lse, ns.logsumexp(X))
    x = torch.array(X.copy())
    assert state.normalize(x, out=x) is x
    same_bits(x.host, state.normalize(X))


def test_sequences_of_masked_arrays_keep_no_mask_and_are_refused():
    masked = np.ma.masked_array([1.0, 2.0, 3.0], [False, True, False])
    sequences = ([masked, masked], (masked,), [[masked], [masked]], [[1.0, 2.0], masked[:2]], [1.0, np.ma.masked])
    for x in (*sequences, deque([masked, masked]), UserList([masked, masked]), [deque([masked]), UserList([masked])]):
        for name in NAMES:
            with pytest.raises(TypeError, match=r"x is a .* with masked arrays in it"):
                getattr(ns, name)(x)
        with pytest.raises(TypeError, match=r"block is a .* with masked arrays in it"):
            ns.OnlineSoftmax(len(x)).update(x)
    with pytest.raises(TypeError, match="where is a list with masked arrays"):
        ns.softmax(np.zeros((1, 3)), where=[masked > 1])
    endless = [1.0]
    endless.append(endless)
    with pytest.raises((TypeError, ValueError)):
        ns.softmax(endless)
    same_bits(ns.softmax([X[0], X[1].tolist()]), ns.softmax(X[:2].astype(np.float64)))
    for kind in (deque, UserList, lambda part: memoryview(np.array(part))):
        same_bits(ns.softmax(kind([1.0, 2.0])), ns.softmax([1.0, 2.0]))
    same_bits(ns.softmax(memoryview(X)), ns.softmax(X))
