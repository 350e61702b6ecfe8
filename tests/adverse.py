"""Rows made to be wrong, and what weights err by: ``python tests/adverse.py`` goes through all near some maxima.

Errors of equal weights do not cancel in a sum. So a row of a maximum, copies of
a few such elements and one last element brings out the largest error of
softmax: those of the sum and of that one weight add up.
"""

import numba
import numpy as np

from numba_softmax.math import expmath

UNITS = {"float32": 2.0**-24, "float64": 2.0**-53}
LENGTHS = (3, 4, 6, 9, 14, 24, 41)
MAXIMA = (0.0, 1.0, -0.3, 7.77, 0.1, -20.5, 1.9, 90.0, 1000.0, -6.5835357, 7.2903624)
"""The units of the last two err most."""


@numba.njit
def _parts(d, m, power, head, tail, weight):
    top, unit = expmath.top_of(m, None)
    for i in range(len(d)):
        parts = expmath.exp_parts(d[i], None, top)
        power[i], head[i], tail[i] = parts
        weight[i] = expmath.rounded(parts)
    return unit


def errors_of_weights(d, m):
    """The relative errors of the weights of elements `d`, as parts and rounded, in `UNITS`."""
    power, head, tail, weight = (np.empty_like(d) for _ in range(4))
    unit = _parts(d, d.dtype.type(m), power, head, tail, weight)
    up = expmath.float_format(getattr(numba, d.dtype.name)).up
    exact = np.exp(d.astype(np.longdouble) - d.dtype.type(m)) * unit * up
    of_parts = power * (1 + (head.astype(np.longdouble) + tail))
    unit = UNITS[d.dtype.name]
    return ((of_parts / exact - 1) / unit).astype(float), ((weight / exact - 1) / unit).astype(float)


def elements_below(m, dtype, count, rng):
    """Elements from `m` down, most of them near it, and among these ones near 0, which have more places than others."""
    d = np.concatenate(
        [m - rng.uniform(0, 3, count), m - rng.uniform(0, 25, count // 4), rng.uniform(-0.3, 0.3, count // 2)]
    )
    d = d.astype(dtype)
    return d[(d <= m) & (d >= m - 60)]


def adverse_rows(dtype, rows, seed=0, pool=60):
    """Matrices of such rows, `rows` in each."""
    rng = np.random.default_rng(seed)
    for m in MAXIMA:
        d = elements_below(m, dtype, 200_000, rng)
        of_parts, of_weights = errors_of_weights(d, m)
        low, high = (d[np.argsort(of_parts)[ends]] for ends in (np.s_[:pool], np.s_[-pool:]))
        rounded_low, rounded_high = (d[np.argsort(of_weights)[ends]] for ends in (np.s_[:pool], np.s_[-pool:]))
        for n in LENGTHS:
            for many, one in (
                (low, rounded_high),
                (high, rounded_low),
                (rounded_low, rounded_high),
                (rounded_high, low),
            ):
                few = rng.choice(many, (rows, 3))
                x = np.take_along_axis(few, rng.integers(0, rng.integers(1, 4, (rows, 1)), (rows, n)), axis=1)
                x[:, 0], x[:, -1] = m, rng.choice(one, rows)
                yield x


def every_element_below(m, reach=3.0):
    """All float32 numbers in ``[m - reach, m]`` but for those within 1e-7 of 0, in arrays of some millions."""
    ends = np.float32([m - reach, m])
    bits = [int(v.view(np.int32)) if v >= 0 else -(int(v.view(np.int32)) & 0x7FFFFFFF) for v in ends]
    tiny = int(np.float32(1e-7).view(np.int32))
    for start in range(bits[0], bits[1] + 1, 1 << 22):
        ordered = np.arange(start, min(start + (1 << 22), bits[1] + 1))
        ordered = ordered[np.abs(ordered) > tiny]
        yield (np.abs(ordered).astype(np.int32).view(np.float32) * np.sign(ordered)).astype(np.float32)


if __name__ == "__main__":
    for top in map(np.float32, MAXIMA):
        worst = [tuple(np.abs(e).max() for e in errors_of_weights(d, top)) for d in every_element_below(top) if len(d)]
        print(f"below {top:8.2f}: parts {max(w[0] for w in worst):.3f}, one number {max(w[1] for w in worst):.3f}")
