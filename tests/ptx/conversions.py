"""cvt: from each type of number to each other."""

import numpy as np

from . import floats
from .arithmetic import FLOATS, ROUNDINGS, Formula, formula
from .decoding import DTYPES
from .parser import SIZES

TO_INTEGER = {"rni": np.rint, "rzi": np.trunc, "rmi": np.floor, "rpi": np.ceil}


@formula("cvt")
def _convert(op):
    integral, rounding = op.take(*TO_INTEGER), op.take(*ROUNDINGS)
    ftz, sat = op.take("ftz"), op.take("sat")
    to, of = op.type(), op.type()
    if to in ("bf16x2", "f16x2"):
        return _convert_two(op, to, of, rounding)
    if to in FLOATS or to == "bf16":
        function = _to_float(op, to, of, integral, rounding)
    elif of in FLOATS:
        if integral is None:
            op.unknown("has no rounding")
        function = lambda x: float_to_integer(TO_INTEGER[integral](x), DTYPES[to])  # noqa: E731
    else:
        function = (lambda x: _clamped(x, DTYPES[to])) if sat else lambda x: np.array(x).astype(DTYPES[to])
    if sat and to in FLOATS:
        function = _saturated(function)
    return Formula(to, (of,), _flushed(function, to, of) if ftz else function)


def _to_float(op, to, of, integral, rounding):
    dtype = DTYPES[to]
    if to == "bf16":
        if of != "f32":
            op.unknown()
        return lambda x: floats.bfloat16_bits(x, rounding)
    if of == "bf16":
        if to != "f32":
            op.unknown()
        return floats.from_bfloat16
    if of in FLOATS:
        if integral:
            return lambda x: TO_INTEGER[integral](x).astype(dtype)
        if SIZES[to] < SIZES[of] and rounding not in (None, "rn"):
            return lambda x: floats.rounded(np.atleast_1d(x).astype(np.float64), dtype, rounding)
        return lambda x: np.array(x).astype(dtype)
    if rounding == "rn":
        return lambda x: integer_to_float(x, dtype)
    if SIZES[of] == 8 or rounding is None:
        op.unknown("rounds 64 bits in a direction" if rounding else "has no rounding")
    return lambda x: floats.rounded(np.atleast_1d(x).astype(np.float64), dtype, rounding)


def integer_to_float(x, dtype):
    """Rounded once."""
    if dtype == np.float16:  # by way of float64, exact or at least nowhere near the largest float16
        return x.astype(np.float64).astype(dtype)
    return x.astype(dtype)


def float_to_integer(x, dtype):
    """Whole floats as integers: the nearest there is; NaN as PTX has it, 0 or, in 64 bits, the sign's bit alone."""
    info = np.iinfo(dtype)
    wide = np.atleast_1d(x).astype(np.float64)
    too_low, too_high = wide < float(info.min), wide >= float(info.max) + (info.bits < 64)
    nan = np.isnan(wide)
    result = np.where(too_low | too_high | nan, 0.0, wide).astype(dtype)
    result[too_low], result[too_high] = info.min, info.max
    wide_nan = x.dtype == np.float64 or info.bits == 64
    result[nan] = np.array(1 << (info.bits - 1), f"u{info.bits // 8}").astype(dtype) if wide_nan else 0
    return result


def _clamped(x, dtype):
    """Integers as the nearest of another type."""
    to, of = np.iinfo(dtype), np.iinfo(x.dtype)
    return np.clip(x, max(to.min, of.min), min(to.max, of.max)).astype(dtype)


def _saturated(function):
    def saturated(x):
        y = function(x)
        return np.where(np.isnan(y), y.dtype.type(0), np.clip(y, y.dtype.type(0), y.dtype.type(1)))

    return saturated


def _flushed(function, to, of):
    def flushed(x):
        y = function(floats.flushed(x) if of == "f32" else x)
        return floats.flushed(y) if to == "f32" else y

    return flushed


def _convert_two(op, to, of, rounding):
    """Two float32 as the halves of 32 bits; the first operand goes to the upper half."""
    if of != "f32" or rounding not in ("rn", "rz"):
        op.unknown()

    def half(x):
        if to == "bf16x2":
            return floats.bfloat16_bits(x, rounding).astype(np.uint32)
        return (
            floats.rounded(np.atleast_1d(x).astype(np.float64), np.dtype(np.float16), rounding)
            .view(np.uint16)
            .astype(np.uint32)
        )

    return Formula("b32", ("f32", "f32"), lambda a, b: half(a) << np.uint32(16) | half(b))
