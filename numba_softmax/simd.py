"""SIMD for users' jitted code: the functions of `numba_softmax.math.simd` and `numba_softmax.math.memory`.

A ``Vec(element, lanes)`` lives in SIMD registers. It has the arithmetic and
comparison operators (a scalar operand is spread over the lanes) and the
functions here: memory access with conversion from and to narrow, integer and
byte-swapped formats (`Stored`), fused multiply-add, selection, reduction. Those
that do not touch memory take plain floats as well. Addresses are integers.

>>> import numba, numpy as np
>>> from numba_softmax import simd
>>> f64x8, f64 = simd.Vec(numba.float64, 8), simd.Stored("float64")
>>> @numba.njit
... def double(x, y):
...     v = simd.load(f64x8, f64, x.ctypes.data)
...     simd.store(f64, y.ctypes.data, v + v)
>>> x, y = np.arange(8.0), np.empty(8)
>>> double(x, y)
>>> y
array([ 0.,  2.,  4.,  6.,  8., 10., 12., 14.])

LLVM splits vectors that are wider than the machine's registers. Every operation
is rounded lane by lane, so the bits of a result do not depend on that width.
"""

from .math.memory import (
    Stored,
    fence,
    load,
    load_first,
    load_where,
    prefetch,
    prefetch_to_write,
    store,
    store_first,
    store_where,
    stream,
)
from .math.simd import (
    Vec,
    bitcast,
    convert,
    divide,
    exchange,
    first_lanes,
    fma,
    lane,
    lanes_between,
    largest_lane,
    like,
    maximum,
    select,
    splat,
    transpose,
    widen,
    with_lane,
)

__all__ = [
    "Stored", "Vec", "bitcast", "convert", "divide", "exchange", "fence", "first_lanes", "fma", "lane",
    "lanes_between", "largest_lane", "like", "load", "load_first", "load_where", "maximum", "prefetch",
    "prefetch_to_write", "select", "splat", "store", "store_first", "store_where", "stream", "transpose",
    "widen", "with_lane",
]  # fmt: skip
