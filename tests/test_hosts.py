"""Machines with narrower registers or fewer instructions, as Numba's settings can make one of this."""

import platform

import numpy as np
import pytest
from naive import NAMES, naive, same_bits, ulp_of

import numba_softmax as ns
from numba_softmax.cli import info

SSE = "+sse,+sse2,+sse3,+ssse3,+sse4.1,+sse4.2,+popcnt,+cx16"
AVX2 = SSE + ",+avx,+avx2,+fma,+f16c,+bmi,+bmi2"
CASES = [("float32", (40, 5), 1), ("float32", (9, 300), 1), ("float32", (70, 40), 0), ("float16", (9, 300), 1)]

COMPUTE = """
import sys
import numpy as np
import numba_softmax as ns

out, *names = sys.argv[1:]
given = np.load(out + "/given.npz")
results = {}
for name in names:
    for key, axis in (key.split(":") for key in given):
        results[f"{name}:{key}"] = getattr(ns, name)(given[f"{key}:{axis}"], int(axis))
np.savez(out + "/results.npz", **results)
"""

pytestmark = pytest.mark.skipif(platform.machine() not in ("x86_64", "AMD64"), reason="the settings are those of x86")


HALFWAY = [0.3465736, 16.28896, 107.09124, 6526.327]
"""Numbers whose products with log2 e, rounded to float32, lie halfway between integers."""

EQUAL = np.repeat(np.float32([[1.3], [-0.7], [40.1], [6.52]]), 7, axis=1)


def given():
    generator = np.random.default_rng(3)
    random = [generator.normal(0, 4, shape).astype(dtype) for dtype, shape, _ in CASES]
    halfway = np.float32(HALFWAY)[:, None] - np.float32([0, 1, 2])
    axes = [axis for _, _, axis in CASES]
    return {f"{i}:{axis}": x for i, (x, axis) in enumerate(zip([*random, halfway, EQUAL], [*axes, 1, 1], strict=True))}


def results_on(host, features, run_python, folder):
    np.savez(folder / "given.npz", **given())
    run_python(COMPUTE, folder, *NAMES, NUMBA_CPU_NAME=host, NUMBA_CPU_FEATURES=features)
    return np.load(folder / "results.npz")


@pytest.mark.skipif(
    not {"avx2", "fma", "f16c"} <= set(info.gathered()["cpu"]["features"]), reason="this machine has no AVX2"
)
def test_same_bits_with_registers_of_half_the_width(run_python, tmp_path):
    results = results_on("haswell", AVX2, run_python, tmp_path)
    for name in NAMES:
        for key, x in given().items():
            i, axis = key.split(":")
            assert same_bits(results[f"{name}:{i}"], getattr(ns, name)(x, int(axis)))


@pytest.mark.parametrize(("host", "features"), [("nehalem", SSE), ("generic", None)])
def test_right_without_fused_multiply_add_and_float16_instructions(run_python, tmp_path, host, features):
    results = results_on(host, features, run_python, tmp_path)
    assert (results[f"softmax:{len(CASES) + 1}"] == np.float32(1 / 7)).all()
    for name in NAMES:
        for key, x in given().items():
            i, axis = key.split(":")
            result, exact = results[f"{name}:{i}"], naive(name, x, int(axis))
            unit = ulp_of(np.maximum(np.abs(exact), np.abs(x).max() if name == "logsumexp" else 0), x.dtype)
            error = np.max(np.abs(result.astype(np.longdouble) - exact) / unit)
            assert error <= (3 if x.dtype == np.float32 else 0.51), (name, key)
