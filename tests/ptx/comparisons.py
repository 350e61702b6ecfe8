"""Comparisons, and choices between operands."""

import numpy as np

from . import floats
from .arithmetic import FLOATS, Formula, flushing, formula, source_reader
from .decoding import DTYPES, decodes


@formula("min", "max")
def _extremum(op):
    nan = op.take("NaN")
    type_ = op.type()
    if type_ not in FLOATS:
        return Formula(type_, (type_,) * 2, np.minimum if op.head == "min" else np.maximum)
    names = ("minimum", "maximum") if nan else ("fmin", "fmax")
    choose = getattr(np, names[op.head == "max"])
    return Formula(type_, (type_,) * 2, flushing(op, type_, lambda a, b: _with_signed_zeros(op.head, choose, a, b)))


def _with_signed_zeros(head, choose, a, b):
    """PTX has ``-0 < +0`` here; NumPy takes either."""
    y = choose(a, b)
    zeros = (a == 0) & (b == 0)
    if zeros.any():
        signs = np.signbit(a) | np.signbit(b) if head == "min" else np.signbit(a) & np.signbit(b)
        y = np.where(zeros, np.where(signs, -y.dtype.type(0), y.dtype.type(0)), y)
    return y


ORDERED = {"eq": np.equal, "ne": np.not_equal, "lt": np.less, "le": np.less_equal, "gt": np.greater,
           "ge": np.greater_equal, "lo": np.less, "ls": np.less_equal, "hi": np.greater,
           "hs": np.greater_equal}  # fmt: skip


def comparison(name, is_float):
    """The function of a comparison; those of floats are false for NaN, or true if their names end in u."""
    if name == "num":
        return lambda a, b: ~(np.isnan(a) | np.isnan(b))
    if name == "nan":
        return lambda a, b: np.isnan(a) | np.isnan(b)
    if name == "ne" and is_float:
        return lambda a, b: (a < b) | (a > b)
    if name in ORDERED:
        return ORDERED[name]
    opposite = {"equ": None, "neu": "eq", "ltu": "ge", "leu": "gt", "gtu": "le", "geu": "lt"}[name]
    if opposite is None:
        return lambda a, b: ~((a < b) | (a > b))
    return lambda a, b: ~ORDERED[opposite](a, b)


COMPARISONS = (*ORDERED, "equ", "neu", "ltu", "leu", "gtu", "geu", "num", "nan")
COMBINING = {"and": np.logical_and, "or": np.logical_or, "xor": np.logical_xor}


def _compared(op):
    """The comparison, combined with a third operand if there is one; and the operands' types."""
    name = op.take(*COMPARISONS) or op.unknown()
    combining = op.take(*COMBINING)
    return name, COMBINING.get(combining)


@decodes("setp")
def _set_predicate(scope, op):
    name, combine = _compared(op)
    type_ = op.type()
    compare = comparison(name, type_ in FLOATS)
    ftz = op.take("ftz") and type_ == "f32"
    results, *sources = op.instruction.operands
    result, _, complement = results.partition("|")
    write, write_complement = scope.writer(result, "pred"), scope.writer(complement or "_", "pred")
    left, right = (scope.reader(s, type_) for s in sources[:2])
    third = source_reader(scope, sources[2], "pred") if combine else None

    def step(batch, active):
        a, b = left(batch, active.at), right(batch, active.at)
        if ftz:
            a, b = floats.flushed(a), floats.flushed(b)
        holds = compare(a, b)
        if not combine:
            write(batch, active.at, holds)
            write_complement(batch, active.at, ~holds)
        else:
            c = third(batch, active.at)
            write(batch, active.at, combine(holds, c))
            write_complement(batch, active.at, combine(~holds, c))

    return step


@formula("set")
def _set(op):
    name, combine = _compared(op)
    result, type_ = op.type(), op.type()
    compare = comparison(name, type_ in FLOATS)
    one = DTYPES[result].type(1) if result == "f32" else ~DTYPES[result].type(0)
    sources = (type_, type_, "pred") if combine else (type_, type_)

    def choose(a, b, *c):
        holds = compare(a, b)
        return np.where(combine(holds, *c) if combine else holds, one, DTYPES[result].type(0))

    return Formula(result, sources, flushing(op, type_, choose) if not combine else choose)


@formula("selp")
def _select(op):
    type_ = op.type()
    return Formula(type_, (type_, type_, "pred"), lambda a, b, p: np.where(p, a, b))


@formula("slct")
def _select_by_sign(op):
    type_, sign = op.type(), op.type()
    op.take("ftz")
    return Formula(type_, (type_, type_, sign), lambda a, b, c: np.where(c >= 0, a, b))


@formula("testp")
def _test(op):
    name = op.take("finite", "infinite", "number", "notanumber", "normal", "subnormal")
    type_ = op.type()
    tiny = np.finfo(DTYPES[type_]).smallest_normal
    tests = {
        "finite": np.isfinite,
        "infinite": np.isinf,
        "number": lambda x: ~np.isnan(x),
        "notanumber": np.isnan,
        "normal": lambda x: np.isfinite(x) & (np.abs(x) >= tiny),
        "subnormal": lambda x: (x != 0) & (np.abs(x) < tiny),
    }
    return Formula("pred", (type_,), tests[name])
