"""The examples in docs/examples run, and what they compute is right."""

import importlib.util
import math
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from naive import naive
from ptx import Memory, parse, run

import numba_softmax as ns

FOLDER = Path(__file__).parents[1] / "docs" / "examples"
NEEDS = {"fused_attention": "numba_cuda"}


def example(name):
    """An example as a module; by its own file, so that Numba can keep its functions."""
    spec = importlib.util.spec_from_file_location(name, FOLDER / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(autouse=True)
def nothing_is_kept(monkeypatch, tmp_path):
    """What examples keep by Numba's cache goes to a folder of the test."""
    monkeypatch.setattr("numba.core.config.CACHE_DIR", str(tmp_path))


@pytest.mark.parametrize("name", sorted(path.stem for path in FOLDER.glob("*.py")))
def test_every_example_says_what_it_shows_and_prints_a_few_lines(name, capsys):
    if name in NEEDS:
        pytest.importorskip(NEEDS[name], reason=f"{name}.py imports it")
    module = example(name)
    assert module.__doc__
    assert f"python docs/examples/{name}.py" in module.__doc__
    module.main()
    assert 1 <= len(capsys.readouterr().out.splitlines()) <= 12


def test_the_estimated_evidence_is_the_exact_one():
    model = example("log_evidence")
    y = 0.7 + np.random.default_rng(1).standard_normal(1000)
    estimate, error = model.log_evidence(y, 300_000)
    assert 0 < error < 0.05
    assert abs(estimate - model.exact_log_evidence(y)) < 4 * error


def test_softmax_of_a_generator_is_that_of_its_rows():
    generator = example("generator")
    blocks = [*generator.softmax_of(generator.logits)]
    expected = ns.softmax(np.hstack([*generator.logits()]))
    np.testing.assert_allclose(np.hstack(blocks), expected, rtol=1e-6)
    at, best, total = generator.most_likely(iter(blocks))
    np.testing.assert_array_equal(at, expected.argmax(axis=1))
    np.testing.assert_array_equal(best, np.hstack(blocks).max(axis=1))
    np.testing.assert_allclose(total, 1, rtol=1e-6)


def test_the_mixture_climbs_and_has_right_responsibilities():
    mixture = example("mixture")
    points = mixture.sample(3000)
    (log_weights, means, precisions), responsibilities, history = mixture.fit(points, components=3, steps=30)
    assert np.all(np.diff(history) > -1e-9 * abs(history[0]))
    assert history[-1] > history[0] + 500
    got = mixture.e_step(points, log_weights, means, precisions, responsibilities)
    gaps = points[:, None] - means
    densities = log_weights + 0.5 * (np.log(precisions / (2 * math.pi)) - gaps**2 * precisions).sum(axis=2)
    assert got == pytest.approx(float(naive("logsumexp", densities).sum()), rel=1e-13)
    np.testing.assert_allclose(responsibilities, naive("softmax", densities).astype(float), rtol=1e-10, atol=1e-300)
    np.testing.assert_allclose(sorted(np.exp(log_weights)), [0.2, 0.3, 0.5], atol=0.03)


def array_argument(address, array):
    """The parameters of an array's argument, as Numba has them."""
    return [0, 0, array.size, array.itemsize, address, *array.shape, *array.strides]


def test_attention_in_one_pass_is_right_without_a_gpu(monkeypatch):
    pytest.importorskip("numba_cuda", reason="numba-cuda compiles the kernel")
    from numba import cuda, float32
    from numba.cuda import dispatcher

    device = SimpleNamespace(compute_capability=(8, 0))
    monkeypatch.setattr(dispatcher, "get_current_device", lambda: device)
    attention = example("fused_attention")
    matrix = float32[:, ::1]
    signature = matrix, matrix, matrix, float32, matrix, float32[::1]
    text, _ = cuda.compile(attention.attention, signature, device=False, abi="numba", cc=(8, 0), output="ptx")
    for m, n in ((3, 50), (2, 3)):
        arrays = attention.sample(m, n)
        arrays[0][0] *= 30  # scores far apart
        memory, results = Memory(), [np.empty((m, attention.SIZE), "f4"), np.empty(m, "f4")]
        inputs = [word for x in arrays for word in array_argument(memory.put(x), x)]
        out = [memory.allocate(y.nbytes) for y in results]
        outputs = [word for at, y in zip(out, results, strict=True) for word in array_argument(at, y)]
        arguments = [*inputs, 1 / math.sqrt(attention.SIZE), *outputs]
        run(parse(text), m, attention.LANES * attention.WARPS, arguments, memory)
        want, want_lse = attention.reference(*arrays)
        got, lse = (memory.get(at, y.size, "f4").reshape(y.shape) for at, y in zip(out, results, strict=True))
        np.testing.assert_allclose(got, want, atol=2e-6)
        np.testing.assert_allclose(lse, want_lse, rtol=2e-6)


@pytest.mark.gpu
def test_attention_in_one_pass_is_right_on_a_gpu():
    attention = example("fused_attention")
    arrays = attention.sample(200, 1000)  # Numba warns of fewer than 128 blocks
    for got, want in zip(attention.launch(*arrays), attention.reference(*arrays), strict=True):
        np.testing.assert_allclose(got, want, rtol=2e-6, atol=2e-6)
