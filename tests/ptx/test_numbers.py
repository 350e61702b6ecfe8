"""The instructions' arithmetic against exact numbers."""

import math
from fractions import Fraction

import hypothesis.extra.numpy as hnp
import hypothesis.strategies as st
import ml_dtypes
import numpy as np
import pytest
from hypothesis import given

from . import conversions, floats
from .handwritten import SIZES, TYPES, computed


def floats_of_bits(dtype, n=32):
    """Arrays of any floats, NaN among them, as often tiny as huge."""
    return hnp.arrays(f"u{dtype[1:]}", n, fill=st.nothing()).map(lambda bits: bits.view(dtype))


EDGES = [0.0, -0.0, 1.0, -1.5, np.inf, -np.inf, np.nan, 3.0, 1e-3]


def same(a, b):
    """Equal, NaN included, with the same sign of zero."""
    return np.array_equal(a, b, equal_nan=True) and np.array_equal(np.signbit(a[a == 0]), np.signbit(b[a == 0]))


def fused(a, b, c, dtype):
    """a * b + c by fractions, rounded once, where all are finite and the result is not 0."""
    exact = Fraction(float(a)) * Fraction(float(b)) + Fraction(float(c))
    return nearest(exact, dtype)


def nearest(x, dtype):
    """The float that is nearest to a fraction, of two the even one."""
    info = np.finfo(dtype)
    if x == 0:
        return dtype(0)
    exponent = abs(x.numerator).bit_length() - x.denominator.bit_length()
    exponent += abs(x) >= Fraction(2) ** exponent  # 2**(exponent - 1) <= |x| < 2**exponent
    unit = Fraction(2) ** (max(exponent - 1, int(info.minexp)) - info.nmant)
    value = round(x / unit) * unit
    return dtype(np.inf) * (1 if x > 0 else -1) if abs(value) > Fraction(float(info.max)) else dtype(float(value))


def check_fma(a, b, c):
    with np.errstate(all="ignore"):
        got, plain = floats.fma(a, b, c), a * b + c
    for x, y, z, r, p in zip(a, b, c, got, plain, strict=True):
        if np.isfinite([x, y, z]).all() and Fraction(float(x)) * Fraction(float(y)) != -Fraction(float(z)):
            assert r == fused(x, y, z, a.dtype.type)
        elif not np.isinf(z):
            assert r == p or (np.isnan(r) and np.isnan(p))


@pytest.mark.parametrize("dtype", ["f4", "f8", "f2"])
@given(data=st.data())
def test_fma_of_any_numbers_is_rounded_once(dtype, data):
    check_fma(*(data.draw(floats_of_bits(dtype)) for _ in range(3)))


@pytest.mark.parametrize("dtype", ["f4", "f8", "f2"])
@pytest.mark.parametrize("power", [-60, -30, -24, -11, 0, 11, 24, 53])
def test_fma_of_numbers_of_like_size_is_rounded_once(dtype, power):
    rng = np.random.default_rng(power + 100)
    a, b = (rng.normal(size=(2, 400)) * 2.0 ** rng.integers(-3, 4, (2, 400))).astype(dtype)
    with np.errstate(all="ignore"):
        c = (a.astype("f8") * b * 2.0**power).astype(dtype) * np.array([1, -1] * 200, dtype)
    check_fma(a, b, c)


def test_fma_is_exact_at_halves_and_below_normal_numbers():
    rng = np.random.default_rng(0)
    a = (1 + rng.integers(0, 2**12, 2000) / 2.0**12).astype("f4")
    b = (1 + rng.integers(0, 2**12, 2000) / 2.0**12).astype("f4")
    tiny = np.float32(2.0**-149)
    for c in (tiny, -tiny, np.float32(2.0**-60), np.float32(-(2.0**-60))):
        got = floats.fma(a, b, np.full_like(a, c))
        assert got.tolist() == [fused(x, y, c, np.float32) for x, y in zip(a, b, strict=True)]
    low = (rng.normal(size=500) * 2.0**-75).astype("f4")
    got = floats.fma(low, low[::-1], np.full_like(low, tiny))
    assert got.tolist() == [fused(x, y, tiny, np.float32) for x, y in zip(low, low[::-1], strict=True)]


@pytest.mark.parametrize("rounding", ["rz", "rm", "rp"])
@pytest.mark.parametrize("op", ["add", "sub", "mul"])
@pytest.mark.parametrize("dtype", ["f4", "f8"])
def test_rounding_goes_in_the_direction_wanted(op, rounding, dtype):
    rng = np.random.default_rng(1)
    a, b = (rng.normal(size=(2, 500)) * 10.0 ** rng.integers(-6, 7, (2, 500))).astype(dtype)
    name = {"f4": "f32", "f8": "f64"}[dtype]
    got = computed(f"{op}.{rounding}.{name} d, a, b;", name, a, b)
    for x, y, r in zip(a.tolist(), b.tolist(), got, strict=True):
        exact = {"add": Fraction(x) + Fraction(y), "sub": Fraction(x) - Fraction(y), "mul": Fraction(x) * Fraction(y)}[
            op
        ]
        down = rounding == "rm" or (rounding == "rz" and exact > 0)
        assert (Fraction(float(r)) <= exact) if down else (Fraction(float(r)) >= exact)
        beyond = np.nextafter(r, r.dtype.type(np.inf if down else -np.inf))
        assert Fraction(float(r)) == exact or (Fraction(float(beyond)) > exact) == down


def pairs(dtype):
    return np.array([(x, y) for x in EDGES for y in EDGES] + [(0, 0)] * 15, dtype).T.copy()


@pytest.mark.parametrize("type_", ["f32", "f64"])
def test_min_and_max_drop_nan_unless_told_to_keep_it(type_):
    a, b = pairs(TYPES[type_])
    for op, drop, keep in (("min", np.fmin, np.minimum), ("max", np.fmax, np.maximum)):
        assert np.array_equal(computed(f"{op}.{type_} d, a, b;", type_, a, b), drop(a, b), equal_nan=True)
        assert np.array_equal(computed(f"{op}.NaN.{type_} d, a, b;", type_, a, b), keep(a, b), equal_nan=True)
    zeros = computed("min.f32 d, a, b;", "f32", np.float32([0, -0.0]), np.float32([-0.0, 0]))
    assert np.signbit(zeros).all()


@pytest.mark.parametrize("name", ["eq", "ne", "lt", "le", "gt", "ge"])
def test_comparisons_are_false_for_nan_or_true_if_unordered(name):
    a, b = pairs("f4")
    nan = np.isnan(a) | np.isnan(b)
    compare = {
        "eq": np.equal,
        "ne": np.not_equal,
        "lt": np.less,
        "le": np.less_equal,
        "gt": np.greater,
        "ge": np.greater_equal,
    }
    for suffix, at_nan in (("", False), ("u", True)):
        got = computed(f"{{ .reg .pred p; setp.{name}{suffix}.f32 p, a, b; selp.u32 d, 1, 0, p; }}", "u32", a, b)
        assert got.astype(bool).tolist() == np.where(nan, at_nan, compare[name](a, b)).tolist()


def test_predicates_are_combined_and_negated():
    a, b = pairs("f4")
    text = """{ .reg .pred p, q, r, s; setp.num.f32 r, a, b; not.pred r, r; setp.lt.or.f32 p|q, a, b, !r;
    xor.pred s, p, q; selp.u32 d, 1, 0, s; }"""
    got = computed(text, "u32", a, b).astype(bool)
    ordered = ~(np.isnan(a) | np.isnan(b))
    assert got.tolist() == (((a < b) | ordered) ^ (~(a < b) | ordered)).tolist()


def integers(dtype, n=256):
    info, rng = np.iinfo(dtype), np.random.default_rng(2)
    edges = [info.min, info.max, 0, 1, 2, info.max - 1, info.max // 3, 7]
    return np.concatenate(
        [rng.integers(info.min, info.max, n - 64, dtype, endpoint=True), np.repeat(np.array(edges, dtype), 8)]
    )


def wrapped(numbers, dtype):
    bits = 8 * np.dtype(dtype).itemsize
    return np.array([int(n) % 2**bits for n in numbers], f"u{bits // 8}").view(dtype).tolist()


def truncated(x, y):
    return int(abs(x) // abs(y)) * (1 if (x < 0) == (y < 0) else -1)


INTEGER_OPS = {
    "add.{t}": lambda x, y: x + y,
    "sub.{t}": lambda x, y: x - y,
    "mul.lo.{t}": lambda x, y: x * y,
    "mul.hi.{t}": lambda x, y: x * y >> 32,
    "div.{t}": truncated,
    "rem.{t}": lambda x, y: x - truncated(x, y) * y,
    "min.{t}": min,
    "max.{t}": max,
    "and.b{b}": lambda x, y: x & y,
    "xor.b{b}": lambda x, y: x ^ y,
}


@pytest.mark.parametrize("op", INTEGER_OPS)
@pytest.mark.parametrize("type_", ["s32", "u32", "s64", "u64"])
def test_integers_wrap_and_divide_towards_zero(op, type_):
    dtype, bits = TYPES[type_], type_[1:]
    a, b = integers(dtype), integers(dtype)[::-1].copy()
    if op[:3] in ("div", "rem"):
        b[b == 0] = 3
        b[(a == np.iinfo(dtype).min) & (b + 1 == 0)] = 5
    exact = INTEGER_OPS[op] if "hi" not in op else lambda x, y: x * y >> int(bits)
    got = computed(op.format(t=type_, b=bits) + " d, a, b;", type_, a, b)
    assert got.tolist() == wrapped([exact(x, y) for x, y in zip(a.tolist(), b.tolist(), strict=True)], dtype)


def test_pairs_of_floats_are_computed_apart():
    a, b, c = np.random.default_rng(6).normal(size=(3, 128)).astype("f4")
    pairs = [x.view("u8") for x in (a, b, c)]
    assert np.array_equal(computed("fma.rn.f32x2 d, a, b, c;", "b64", *pairs).view("f4"), floats.fma(a, b, c))
    assert np.array_equal(computed("mul.rn.f32x2 d, a, b;", "b64", *pairs[:2]).view("f4"), a * b)


def test_wide_products_and_sums_keep_all_bits():
    a, b, c = integers("i4"), integers("i4")[::-1].copy(), integers("i8")
    got = computed("mad.wide.s32 d, a, b, c;", "s64", a, b, c)
    assert got.tolist() == wrapped(
        [x * y + z for x, y, z in zip(a.tolist(), b.tolist(), c.tolist(), strict=True)], "i8"
    )


@pytest.mark.parametrize(
    ("op", "type_"), [("shl", "b32"), ("shr", "u32"), ("shr", "s32"), ("shr", "s64"), ("shl", "b64")]
)
def test_shifts_are_clamped(op, type_):
    a = integers(TYPES[type_])
    n = np.tile(np.uint32([0, 1, 5, 31, 32, 33, 63, 64, 100, 2**31, 2**32 - 1, 7, 8, 9, 10, 11]), 16)
    bits = 8 * SIZES[type_]
    got = computed(f"{op}.{type_} d, a, b;", type_, a, n)
    exact = [
        x << min(k, bits) if op == "shl" else x >> min(k, bits) for x, k in zip(a.tolist(), n.tolist(), strict=True)
    ]
    assert got.tolist() == wrapped(exact, TYPES[type_])


BIT_OPS = {
    "popc.b32 d, a;": lambda a, b: a.bit_count(),
    "clz.b32 d, a;": lambda a, b: 32 - a.bit_length(),
    "brev.b32 d, a;": lambda a, b: int(f"{a:032b}"[::-1], 2),
    "not.b32 d, a;": lambda a, b: ~a,
    "bfe.u32 d, a, 5, 9;": lambda a, b: a >> 5 & 511,
    "bfe.s32 d, a, 5, 9;": lambda a, b: (a >> 5 & 511) - (a >> 4 & 512),
    "bfe.u32 d, a, 30, 9;": lambda a, b: a >> 30,
    "bfe.s32 d, a, 30, 9;": lambda a, b: (a >> 30) - (a >> 29 & 4),
    "bfe.s32 d, a, 0, 32;": lambda a, b: a,
    "bfi.b32 d, a, b, 8, 12;": lambda a, b: b & ~(4095 << 8) | (a & 4095) << 8,
    "bfi.b32 d, a, b, 0, 32;": lambda a, b: a,
    "prmt.b32 d, a, b, 0x3175;": lambda a, b: (a >> 24 << 24) | (a >> 8 & 255) << 16 | b >> 24 << 8 | b >> 8 & 255,
    "prmt.b32 d, a, b, 0x7779;": lambda a, b: b >> 24 << 24 | b >> 24 << 16 | b >> 24 << 8 | -(a >> 15 & 1) & 255,
    "lop3.b32 d, a, b, a, 0x3c;": lambda a, b: a ^ b,
    "shf.l.wrap.b32 d, a, b, 37;": lambda a, b: (b << 5) | a >> 27,
    "shf.r.clamp.b32 d, a, b, 5;": lambda a, b: (b << 27) | a >> 5,
    "shf.r.clamp.b32 d, a, b, 40;": lambda a, b: b,
}  # fmt: skip


@pytest.mark.parametrize("op", BIT_OPS)
def test_operations_on_bits_agree_with_their_definition(op):
    a, b = integers("u4"), integers("u4")[::-1].copy()
    got = computed(op, "b32", a, b, types=["b32", "b32"])
    assert got.tolist() == wrapped([BIT_OPS[op](x, y) for x, y in zip(a.tolist(), b.tolist(), strict=True)], "u4")


SELECTIONS = {
    "slct.f32.s32 d, a, b, c;": lambda a, b, c: np.where(c >= 0, a, b),
    "copysign.f32 d, a, b;": lambda a, b, c: np.copysign(b, a),
    "abs.f32 d, a;": lambda a, b, c: np.abs(a),
    "neg.f32 d, a;": lambda a, b, c: -a,
    "set.gt.f32.f32 d, a, b;": lambda a, b, c: (a > b).astype("f4"),
    "add.sat.f32 d, a, b;": lambda a, b, c: np.clip(np.nan_to_num(a + b, nan=0.0, posinf=1.0, neginf=0.0), 0, 1),
    "cvt.rzi.f32.f32 d, a;": lambda a, b, c: np.trunc(a),
    "cvt.sat.f32.f32 d, a;": lambda a, b, c: np.clip(np.nan_to_num(a, nan=0.0, posinf=1.0, neginf=0.0), 0, 1),
    "div.rn.f32 d, a, b;": lambda a, b, c: a / b,
    "sqrt.rn.f32 d, a;": lambda a, b, c: np.sqrt(a),
    "rcp.rn.f32 d, a;": lambda a, b, c: 1 / a,
    "{ .reg .pred p; testp.finite.f32 p, a; selp.f32 d, a, b, p; }": lambda a, b, c: np.where(np.isfinite(a), a, b),
    "{ .reg .pred p; testp.normal.f32 p, a; selp.f32 d, 0f3F800000, 0f00000000, p; }": (
        lambda a, b, c: (np.isfinite(a) & (np.abs(a) >= 2.0**-126)).astype("f4")
    ),
}


@pytest.mark.parametrize("op", SELECTIONS)
def test_functions_of_floats_agree_with_their_definition(op):
    a, b = pairs("f4")
    a[-3:] = 1e-40
    c = np.arange(len(a), dtype="i4") - 40
    with np.errstate(all="ignore"):
        want = SELECTIONS[op](a, b, c).astype("f4")
    assert same(computed(op, "f32", a, b, c), want)


def test_comparisons_give_masks():
    a, b = integers("i4"), integers("i4")[::-1].copy()
    assert computed("set.lt.u32.s32 d, a, b;", "u32", a, b).tolist() == np.where(a < b, 2**32 - 1, 0).tolist()
    assert computed("cnot.b32 d, a;", "b32", a, types=["b32"]).tolist() == (a == 0).tolist()


def test_the_highest_bit_is_that_which_differs_from_the_sign():
    a = integers("i4")
    want = [max(v, ~v).bit_length() - 1 for v in a.tolist()]
    assert computed("bfind.s32 d, a;", "u32", a).tolist() == [w % 2**32 for w in want]
    unsigned = integers("u8")
    want = [v.bit_length() - 1 for v in unsigned.tolist()]
    assert computed("bfind.u64 d, a;", "u32", unsigned).tolist() == [w % 2**32 for w in want]


def test_registers_are_packed_and_unpacked():
    a, b = integers("u4"), integers("u8")
    got = computed("{ .reg .b32 x, y; mov.b64 {x, y}, b; mov.b64 d, {y, a}; }", "u64", a, b)
    assert got.tolist() == [(int(x) << 32) | int(y) >> 32 for x, y in zip(a, b, strict=True)]
    got = computed("{ .reg .b16 x, y; mov.b32 {x, y}, a; mov.b32 d, {y, x}; }", "u32", a)
    assert got.tolist() == [int(x) >> 16 | (int(x) & 65535) << 16 for x in a]


# -------------------------------------------------------------------- conversions


@pytest.mark.parametrize("to", ["s8", "u8", "s16", "s32", "u32", "s64", "u64"])
@pytest.mark.parametrize("of", ["f32", "f64"])
def test_floats_become_the_nearest_integers(to, of):
    rng, info = np.random.default_rng(3), np.iinfo(TYPES[to])
    edges = [
        0.5,
        1.5,
        2.5,
        -0.5,
        -1.5,
        float(info.max),
        float(info.min),
        2.0 * info.max + 7,
        -1e30,
        1e30,
        np.inf,
        -np.inf,
    ]
    x = np.concatenate([rng.normal(size=52) * 10.0 ** rng.integers(0, 20, 52), edges]).astype(TYPES[of])
    for rounding, exact in (("rni", round), ("rzi", math.trunc), ("rmi", math.floor), ("rpi", math.ceil)):
        got = computed(f"cvt.{rounding}.{to}.{of} d, a;", to, x) if SIZES[to] > 1 else None
        if got is None:
            got = conversions.float_to_integer(conversions.TO_INTEGER[rounding](x), np.dtype(TYPES[to]))
        want = [
            min(max(exact(v), info.min), info.max) if np.isfinite(v) else (info.max if v > 0 else info.min)
            for v in x.tolist()
        ]
        assert got.tolist() == want


def test_nan_becomes_zero_or_the_sign_bit():
    nan = np.full(32, np.nan)
    assert not computed("cvt.rzi.s32.f32 d, a;", "s32", nan.astype("f4")).any()
    assert set(computed("cvt.rzi.s64.f64 d, a;", "s64", nan).tolist()) == {-(2**63)}


@pytest.mark.parametrize("of", ["s32", "u32", "s64", "u64"])
@pytest.mark.parametrize("to", ["f32", "f64"])
def test_integers_become_the_nearest_floats(to, of):
    x = integers(TYPES[of])
    got = computed(f"cvt.rn.{to}.{of} d, a;", to, x)
    dtype = np.dtype(TYPES[to]).type
    assert got.tolist() == [nearest(Fraction(v), dtype) for v in x.tolist()]


@given(floats_of_bits("f4"))
def test_float32_is_rounded_to_16_bits(x):
    with np.errstate(all="ignore"):
        brain, half = x.astype(ml_dtypes.bfloat16), x.astype("f2")
        got = floats.bfloat16_bits(x).view(ml_dtypes.bfloat16)
    assert same(got.astype("f4"), brain.astype("f4"))
    assert same(floats.from_bfloat16(brain.view("u2")), brain.astype("f4"))
    packed = computed("cvt.rn.f16x2.f32 d, a, b;", "b32", x, -x, types=["f32", "f32"]).view("f2").reshape(-1, 2)
    assert same(packed[:, 1], half)
    assert same(packed[:, 0], -half)


@given(floats_of_bits("f8"))
def test_float64_is_rounded_in_all_directions(x):
    with np.errstate(all="ignore"):
        for rounding in ("rn", "rz", "rm", "rp"):
            got = computed(f"cvt.{rounding}.f32.f64 d, a;", "f32", x).astype("f8")
            finite = np.isfinite(x) & np.isfinite(got)
            assert not ((rounding == "rm") & (got > x)[finite]).any()
            assert not ((rounding == "rp") & (got < x)[finite]).any()
            assert not ((rounding == "rz") & (np.abs(got) > np.abs(x))[finite]).any()
            assert rounding != "rn" or same(got, x.astype("f4").astype("f8"))


def test_narrow_integers_are_extended_and_cut_off():
    x = integers("i4")
    assert computed("cvt.s64.s32 d, a;", "s64", x).tolist() == x.tolist()
    assert computed("cvt.u16.u32 d, a;", "u16", x, types=["u32"]).tolist() == (x & 65535).tolist()
    assert computed("cvt.s32.s8 d, a;", "s32", x).tolist() == x.astype("i1").tolist()
    assert computed("cvt.sat.s16.s32 d, a;", "s16", x).tolist() == np.clip(x, -(2**15), 2**15 - 1).tolist()


def test_subnormal_numbers_are_flushed_where_the_instruction_says_so():
    x = np.float32([1e-40, -1e-40, 1.5e-38, 1.0] * 8)
    got = computed("mul.ftz.f32 d, a, b;", "f32", x, np.full_like(x, 0.5))
    assert got[:4].tolist() == [0.0, -0.0, 0.0, 0.5]
    assert computed("mul.f32 d, a, b;", "f32", x, np.full_like(x, 0.5)).tolist() == (x * np.float32(0.5)).tolist()


# --------------------------------------------------------- approximate instructions

APPROXIMATE = {
    "ex2.approx.f32 d, a;": (np.exp2, 2.0**-22),
    "ex2.approx.ftz.f32 d, a;": (np.exp2, 2.0**-22),
    "rcp.approx.f32 d, a;": (np.reciprocal, 2.0**-23),
    "sqrt.approx.f32 d, a;": (lambda x: np.sqrt(np.abs(x)), 2.0**-23),
    "lg2.approx.f32 d, a;": (lambda x: np.log2(np.abs(x)), 2.0**-22),
}


@pytest.mark.parametrize("op", APPROXIMATE)
def test_approximate_instructions_are_as_far_off_as_they_may_be(op):
    exact, bound = APPROXIMATE[op]
    x = np.random.default_rng(4).uniform(-30, 30, 1024).astype("f4")
    x = np.abs(x) + 2 if op[:2] in ("lg", "sq", "rc") else x
    y = exact(x.astype("f8"))
    for approximation in (-1, 0, 1, "mixed"):
        error = computed(op, "f32", x, approximation=approximation) / y - 1
        assert np.abs(error).max() <= bound * (1 + 1e-6)
        if approximation in (-1, 1):
            assert (error * approximation).mean() > bound / 4
            assert np.abs(error).max() > bound / 2
        if approximation == 0:
            assert np.abs(error).max() <= 2.0**-24
        if approximation == "mixed":
            assert error.min() < -bound / 4 < bound / 4 < error.max()


def test_approximate_instructions_are_exact_at_the_edges():
    x = np.float32([np.inf, -np.inf, np.nan, 200, -200, 0, 0, 0])
    for approximation in (-1, 0, 1):
        got = computed("ex2.approx.ftz.f32 d, a;", "f32", x, approximation=approximation)
        assert np.array_equal(got[:5], np.float32([np.inf, 0, np.nan, np.inf, 0]), equal_nan=True)


def test_the_gross_reciprocal_has_only_upper_bits():
    x = np.random.default_rng(5).uniform(1, 1000, 64)
    for approximation in (-1, 0, 1):
        got = computed("rcp.approx.ftz.f64 d, a;", "f64", x, approximation=approximation)
        assert not (got.view("u8") & 0xFFFFFFFF).any()
        assert np.abs(got * x - 1).max() < 2.0**-18
