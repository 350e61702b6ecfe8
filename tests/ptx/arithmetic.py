"""Arithmetic: each instruction a `Formula` of arrays."""

from dataclasses import dataclass, field

import numpy as np

from . import floats
from .decoding import DECODERS, DTYPES
from .parser import SIZES, immediate

ROUNDINGS = ("rn", "rz", "rm", "rp")
FLOATS = ("f16", "f32", "f64")


@dataclass
class Formula:
    """What an instruction computes: `function` of arrays of the types `sources`, an array of the type `result`.

    If `approximate`, the function takes the launch's setting for that first.
    """

    result: str
    sources: tuple[str, ...]
    function: object
    approximate: bool = False
    operands: list[str] | None = field(default=None)


def formula(*heads):
    """Enter a function that makes a `Formula` of an `Opcode` into the table of decoders."""

    def enter(make):
        def decode(scope, op):
            f = make(op)
            operands = f.operands or op.instruction.operands
            write = scope.writer(operands[0], f.result)
            sources = zip(operands[1:], f.sources, strict=True)
            return step_of(f, write, [source_reader(scope, o, t) for o, t in sources])

        DECODERS.update(dict.fromkeys(heads, decode))
        return make

    return enter


def source_reader(scope, text, type_):
    """The reader of an operand, which for a predicate may be negated."""
    if text.startswith("!"):
        read = scope.reader(text[1:], type_)
        return lambda batch, at: ~read(batch, at)
    return scope.reader(text, type_)


def step_of(f, write, readers):
    """A step that applies a formula to its operands."""
    function = f.function
    if f.approximate:
        return lambda b, active: write(
            b, active.at, np.asarray(function(b.settings.approximation, *[r(b, active.at) for r in readers]))
        )
    if len(readers) == 1:
        (read,) = readers
        return lambda b, active: write(b, active.at, function(read(b, active.at)))
    if len(readers) == 2:
        left, right = readers
        return lambda b, active: write(b, active.at, function(left(b, active.at), right(b, active.at)))
    return lambda b, active: write(b, active.at, function(*[r(b, active.at) for r in readers]))


def flushing(op, type_, function):
    """The function with subnormal operands and results as zeros, if the opcode says so and it is of float32."""
    if not op.take("ftz") or type_ != "f32":
        return function
    return lambda *args: floats.flushed(function(*(floats.flushed(a) for a in args)))


def saturating(op, function):
    """The function with float results in [0, 1], NaN as 0, if the opcode says so."""
    if not op.take("sat"):
        return function

    def saturated(*args):
        y = function(*args)
        return np.where(np.isnan(y), y.dtype.type(0), np.clip(y, y.dtype.type(0), y.dtype.type(1)))

    return saturated


def _float_type(op):
    type_ = op.type()
    if type_ not in FLOATS:
        op.unknown(f"is not supported for {type_}")
    return type_


# ---------------------------------------------------------------- sums and products


def _integer_product(op, type_, part):
    """The function for the low half, the high half or all of a product of integers."""
    wide = f"{type_[0]}{16 * SIZES[type_]}"
    if part == "lo":
        return type_, np.multiply
    if part == "wide":
        return wide, lambda a, b: a.astype(DTYPES[wide]) * b.astype(DTYPES[wide])
    if part != "hi":
        op.unknown()
    if SIZES[type_] < 8:
        bits = 8 * SIZES[type_]
        return type_, lambda a, b: (a.astype(DTYPES[wide]) * b.astype(DTYPES[wide]) >> bits).astype(DTYPES[type_])
    return type_, _high_product_signed if type_[0] == "s" else _high_product


def _high_product(a, b):
    """The upper 64 bits of the products of uint64."""
    low, half = np.uint64(0xFFFFFFFF), np.uint64(32)
    a_lo, a_hi, b_lo, b_hi = a & low, a >> half, b & low, b >> half
    first = a_hi * b_lo + (a_lo * b_lo >> half)
    second = a_lo * b_hi + (first & low)
    return a_hi * b_hi + (first >> half) + (second >> half)


def _high_product_signed(a, b):
    high = _high_product(a.astype(np.uint64), b.astype(np.uint64)).astype(np.int64)
    return high - np.where(a < 0, b, 0) - np.where(b < 0, a, 0)


@formula("add", "sub", "mul")
def _arithmetic(op):
    rounding = op.take(*ROUNDINGS, default="rn")
    part = op.take("lo", "hi", "wide")
    type_ = op.type()
    if type_ == "f32x2":
        return _of_pairs(op, 2, {"add": np.add, "sub": np.subtract, "mul": np.multiply}[op.head], rounding)
    if type_ not in FLOATS:
        if type_.startswith("bf") or "x2" in type_ or "sat" in op.words:
            op.unknown()
        if op.head == "mul":
            result, function = _integer_product(op, type_, part)
            return Formula(result, (type_,) * 2, function)
        return Formula(type_, (type_,) * 2, np.add if op.head == "add" else np.subtract)
    function = {"add": np.add, "sub": np.subtract, "mul": np.multiply}[op.head]
    if rounding != "rn":
        function = lambda a, b: floats.directed(op.head, a, b, rounding)  # noqa: E731
    return Formula(type_, (type_,) * 2, saturating(op, flushing(op, type_, function)))


@formula("mad", "fma")
def _multiply_add(op):
    rounding = op.take(*ROUNDINGS, default="rn")
    part = op.take("lo", "hi", "wide")
    type_ = op.type()
    if type_ == "f32x2":
        return _of_pairs(op, 3, floats.fma, rounding)
    if type_ in FLOATS:
        if type_ == "f64" and rounding != "rn":
            op.unknown()
        fma = flushing(op, type_, lambda a, b, c: floats.fma(a, b, c, rounding))
        return Formula(type_, (type_,) * 3, saturating(op, fma))
    result, product = _integer_product(op, type_, part)
    return Formula(result, (type_, type_, result), lambda a, b, c: product(a, b) + c)


def _arrays(args):
    return np.broadcast_arrays(*(np.atleast_1d(a) for a in args))


def _of_pairs(op, arity, function, rounding):
    """The formula for 64 bits that hold two float32."""
    if rounding != "rn":
        op.unknown()
    function = flushing(op, "f32", function)

    def apply(*args):
        return function(*(np.ascontiguousarray(a).view(np.float32) for a in _arrays(args))).view(np.uint64)

    return Formula("b64", ("b64",) * arity, apply)


@formula("div")
def _divide(op):
    approximate, rounding = op.take("approx", "full"), op.take(*ROUNDINGS)
    type_ = op.type()
    if type_ not in FLOATS:
        return Formula(type_, (type_,) * 2, _integer_quotient)
    if approximate:
        return Formula(type_, (type_,) * 2, _approximation(op, "div", np.divide, type_), approximate=True)
    if rounding not in (None, "rn"):
        op.unknown()
    return Formula(type_, (type_,) * 2, flushing(op, type_, np.divide))


def _integer_quotient(a, b):
    """Rounded towards zero; all ones for a divisor of zero, which PTX leaves open."""
    if a.dtype.kind == "u":
        return np.where(b == 0, ~np.zeros_like(a), a // np.where(b == 0, b.dtype.type(1), b))
    unsigned = a.dtype.str.replace("i", "u")
    size_a, size_b = (np.where(x < 0, -x, x).astype(unsigned) for x in (a, b))
    q = _integer_quotient(size_a, size_b).astype(a.dtype)
    return np.where((a < 0) != (b < 0), -q, q)


@formula("rem")
def _remainder(op):
    type_ = op.type()
    return Formula(type_, (type_,) * 2, lambda a, b: a - _integer_quotient(a, b) * b)


# ------------------------------------------------------------------ one operand


@formula("neg", "abs")
def _sign(op):
    type_ = op.type()
    function = np.negative if op.head == "neg" else np.abs
    return Formula(type_, (type_,), flushing(op, type_, function))


@formula("copysign")
def _copysign(op):
    type_ = op.type()
    return Formula(type_, (type_,) * 2, lambda a, b: np.copysign(b, a))


EXACT = {
    "ex2": np.exp2,
    "lg2": np.log2,
    "rcp": lambda x: 1 / x,
    "rsqrt": lambda x: 1 / np.sqrt(x),
    "sqrt": np.sqrt,
    "tanh": np.tanh,
}
"""What approximate instructions compute, in float64."""


@formula("ex2", "lg2", "tanh", "rsqrt", "rcp", "sqrt")
def _function(op):
    approximate, rounding = op.take("approx"), op.take(*ROUNDINGS)
    type_ = _float_type(op)
    if approximate and type_ == "f64" and op.head == "rcp":
        op.take("ftz")
        return Formula(type_, (type_,), _gross_reciprocal, approximate=True)
    if approximate and type_ == "f32":
        return Formula(type_, (type_,), _approximation(op, op.head, EXACT[op.head], type_), approximate=True)
    if approximate or rounding != "rn" or op.head not in ("rcp", "sqrt"):
        op.unknown()
    one = DTYPES[type_].type(1)
    return Formula(type_, (type_,), flushing(op, type_, np.sqrt if op.head == "sqrt" else lambda x: one / x))


def _approximation(op, name, exact, type_):
    """A function of the launch's setting and the operands."""
    if type_ != "f32":
        op.unknown()
    ftz = op.take("ftz")

    def approximate(setting, *args):
        args = _arrays(args)
        if ftz:
            args = [floats.flushed(a) for a in args]
        true = exact(*(a.astype(np.float64) for a in args))
        result = floats.approximate(name, true, floats.nudges(setting, args[0]))
        return floats.flushed(result) if ftz else result

    return approximate


def _gross_reciprocal(setting, x):
    """rcp.approx.ftz.f64: of the upper 32 bits of a float64, and no more than those of the result."""
    bits = np.atleast_1d(x).view(np.int64)
    upper = 1 / (bits >> 32 << 32).view(np.float64)
    nudge = np.rint(floats.nudges(setting, x)).astype(np.int64)
    result = (((upper.view(np.int64) + (1 << 31)) >> 32) + nudge) << 32
    plain = ~np.isfinite(upper) | (upper == 0)
    return floats.flushed(np.where(plain, upper, result.view(np.float64)))


def unsigned_of(type_):
    """The unsigned type of the same size."""
    return f"u{8 * SIZES[type_]}"


def number(text):
    """An operand that must be a constant."""
    return int(immediate(text, "u32"))
