"""Softmax inside one's own kernels: functions to call from code that Numba compiles.

Rows, in ``@njit`` code: `softmax` and `log_softmax` write to an array,
`logsumexp` gives a number. They have the bits of the functions of the same names
in `numba_softmax` and, from a few hundred elements on, nearly their speed. They
compute in the calling thread, so they can be called in ``prange``. Where SciPy is
installed, its `scipy.special.softmax`, `log_softmax` and `logsumexp` compile as
well, for any axis.

>>> import numba, numpy as np
>>> from numba_softmax import jit
>>> @numba.njit(parallel=True)
... def entropies(x):
...     h = np.empty(len(x))
...     for i in numba.prange(len(x)):
...         p = jit.softmax(x[i], np.empty_like(x[i]))
...         h[i] = jit.logsumexp(x[i]) - (p * x[i]).sum()
...     return h
>>> entropies(np.array([[0.0, 0.0], [0.0, 3.0]])).round(4)
array([0.6931, 0.1909])

States, in ``@njit`` and ``@cuda.jit`` code: `push` a number, `merge` two states,
and their `lse`. In kernels for CUDA, `warp_merge` and `block_merge` merge the
states of threads. What calls them is compiled with the whole of them: the first
row in the first function of a process takes seconds, so ``cache=True`` is worth
its while. (Numba's cache does not look at this package: empty it after an update.)

Vectors, in ``@njit`` code: a `Vec` is a number of SIMD registers, with operators
and functions. Addresses are integers; `Stored` tells how numbers lie in memory.
An address does not keep its array: Numba may free one that it makes itself
after its last mention, so mention it once more when the vectors are done.
States may be vectors too. So this is logsumexp of a contiguous
float64 array, with a state in each lane:

>>> f64x8, f64 = jit.Vec(numba.float64, 8), jit.Stored("float64")
>>> @numba.njit
... def lse(x):
...     m, l = jit.splat(f64x8, -np.inf), jit.splat(f64x8, 0.0)
...     address, whole = x.ctypes.data, len(x) - len(x) % 8
...     for j in range(0, whole, 8):
...         m, l = jit.push(m, l, jit.load(f64x8, f64, address + 8 * j))
...     count = len(x) - whole  # of the tail; load_first reads no further, and gives 0 beyond
...     tail = jit.load_first(f64x8, f64, address + 8 * whole, count)
...     m, l = jit.push(m, l, jit.select(jit.first_lanes(f64x8, count), tail, -np.inf))
...     top = jit.largest_lane(m)
...     total = 0.0
...     for i in range(8):
...         _, total = jit.merge(top, total, jit.lane(m, i), jit.lane(l, i))
...     return jit.lse(top, total)
>>> x = np.linspace(0, 20, 1003)
>>> abs(lse(x) - jit.logsumexp(x)) < 1e-12
True
"""

from __future__ import annotations

from ..math.lanewise import Vec
from ..math.memory import Stored, load, load_first, load_where, store, store_first, store_where
from ..math.simd import (
    bitcast,
    convert,
    divide,
    first_lanes,
    fma,
    lane,
    largest_lane,
    like,
    maximum,
    select,
    splat,
    widen,
)
from . import scipy_special
from .rows import log_softmax, logsumexp, softmax
from .scalars import lse, merge, push
from .threads import block_merge, warp_merge

__all__ = [
    "Stored", "Vec", "bitcast", "block_merge", "convert", "divide", "first_lanes", "fma", "lane", "largest_lane",
    "like", "load", "load_first", "load_where", "log_softmax", "logsumexp", "lse", "maximum", "merge", "push",
    "select", "softmax", "splat", "store", "store_first", "store_where", "warp_merge", "widen",
]  # fmt: skip

scipy_special.register()
