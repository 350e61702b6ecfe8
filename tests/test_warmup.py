"""`warmup`: after it, no call of the kinds that were named compiles."""

import numpy as np
import pytest

import numba_softmax as ns
from numba_softmax.backends import cpu
from numba_softmax.backends.cpu import kernels

SHAPES = [((3, 1), 1), ((50, 7), 1), ((4, 700), 1), ((2, 70_000), 1), ((1, 300_000), 1), ((7, 5), 0), ((100, 64), 0)]
SHAPES += [
    ((9000, 20), 0),
    ((2000, 64), 1),
    ((300, 40, 6), 1),
    ((1, 9_000_000), 1),
    ((9000, 1000), 1),
    ((9_000, 1000), 0),
]


def test_no_call_compiles_after_warmup(monkeypatch):
    assert ns.warmup("logsumexp", dtypes=[np.float32]) > 0

    def compiles(*args, **options):
        raise AssertionError("a call compiles")

    monkeypatch.setattr(kernels, "_compiled", compiles)
    for shape, axis in SHAPES:
        x = np.zeros(shape, np.float32)
        for same in (x, np.repeat(x, 2, axis=-1)[..., ::2] if x.size < 10**6 else x):
            assert ns.logsumexp(same, axis).shape == np.sum(x, axis).shape
    with pytest.raises(AssertionError, match="a call compiles"):
        ns.logsumexp(np.zeros((3, 4), ">i2"), scale=0.3)  # a kind that no other test has


def test_warmup_names_what_it_does_not_know():
    with pytest.raises(ValueError, match="there is no function 'softplus': it must be one of softmax"):
        ns.warmup("softplus")
    for wrong in ("complex64", ["complex64"], np.complex64, 5):
        with pytest.raises(TypeError, match=r"complex64|dtype=5"):
            ns.warmup("softmax", dtypes=wrong)


@pytest.mark.parametrize("one", ["float32", np.float32, np.dtype("float32")], ids=repr)
def test_one_dtype_needs_no_list(one, monkeypatch):
    asked = []
    monkeypatch.setattr(cpu, "warm", lambda op, *formats: asked.append((op.name, *formats)) or [lambda: None])
    assert ns.warmup("softmax", dtypes=one) == ns.warmup("softmax", dtypes=[one]) == 1
    assert asked == [("softmax", "float32", "float32", False, False)] * 2
