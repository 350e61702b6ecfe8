"""`Vec` does in each lane what NumPy does with an element, in every format of memory."""

import operator

import numba
import numpy as np
import pytest
from naive import BFLOAT16

from numba_softmax.math import memory, simd
from numba_softmax.math.lanewise import lanewise

LANES = 8
NUMBERS = {"float32": numba.float32, "float64": numba.float64, "int32": numba.int32}
FORMATS = [
    "bool",
    *(f"{u}int{b}" for u in ("", "u") for b in (8, 16, 32, 64)),
    "float16",
    "bfloat16",
    "float32",
    "float64",
]
FORMATS += [">" + name for name in ("int16", "uint32", "int64", "float16", "bfloat16", "float32", "float64")]
each_number = pytest.mark.parametrize("number", NUMBERS)


def stored(name):
    return memory.Stored(name.removeprefix(">"), swapped=name.startswith(">"))


def dtype_of(name):
    plain = BFLOAT16 if "bfloat16" in name else np.dtype(name.removeprefix(">"))
    return plain.newbyteorder() if name.startswith(">") else plain


def lanewise_of(function, number, arity, result=None):
    """A jitted function that applies `function` to vectors from memory."""
    vec, own, to = simd.Vec(NUMBERS[number], LANES), memory.Stored(number), memory.Stored(result or number)
    one = numba.njit(function)

    @numba.njit
    def run(a, b, c, out):
        for i in range(0, len(out), LANES):
            x = memory.load(vec, own, a.ctypes.data + i * a.itemsize)
            y = memory.load(vec, own, b.ctypes.data + i * b.itemsize)
            z = memory.load(vec, own, c.ctypes.data + i * c.itemsize)
            if arity == 1:
                v = one(x)
            elif arity == 2:
                v = one(x, y)
            else:
                v = one(x, y, z)
            memory.store(to, out.ctypes.data + i * out.itemsize, v)

    return run


SPECIAL = [0.0, -0.0, 1.0, -1.0, np.inf, -np.inf, np.nan, 1e-40, 3e38, -1e-310, 1.5, 7.25]


def operands(number):
    rng = np.random.default_rng(0)
    if number == "int32":
        a, b = rng.integers(-(2**31), 2**31, (2, 400)).astype(np.int32)
        a[:100] = b[:100]
        return a, b, np.ones_like(a)
    a, b, c = (rng.normal(size=(3, 256)) * 10.0 ** rng.integers(-3, 4, (3, 256))).astype(number)
    with np.errstate(over="ignore"):
        edges = np.array([(x, y) for x in SPECIAL for y in SPECIAL], number)
    return np.concatenate([a, edges[:, 0]]), np.concatenate([b, edges[:, 1]]), np.concatenate([c, edges[:, 0]])


def applied(function, number, arity, *arrays, result=None):
    out = np.zeros(len(arrays[0]), result or number)
    padded = [*arrays, *arrays[:1] * 3][:3]
    lanewise_of(function, number, arity, result)(*padded, out)
    return out


def assert_same(result, expected):
    np.testing.assert_array_equal(result, expected)
    if expected.dtype.kind == "f":
        numbers = ~np.isnan(expected)
        np.testing.assert_array_equal(np.signbit(result)[numbers], np.signbit(expected)[numbers])


@each_number
@pytest.mark.parametrize("symbol", ["add", "sub", "mul", "truediv", "neg"])
def test_arithmetic(number, symbol):
    if number == "int32" and symbol in ("truediv", "neg"):
        pytest.skip("kernels divide and negate floats alone")
    function = {
        "add": lambda x, y: x + y,
        "sub": lambda x, y: x - y,
        "mul": lambda x, y: x * y,
        "truediv": lambda x, y: x / y,
        "neg": lambda x: -x,
    }[symbol]
    a, b, _ = operands(number)
    arrays = [a] if symbol == "neg" else [a, b]
    with np.errstate(all="ignore"):
        expected = getattr(operator, symbol)(*arrays)
    assert_same(applied(function, number, len(arrays), *arrays), expected)


@each_number
@pytest.mark.parametrize("symbol", ["lt", "le", "gt", "ge", "eq", "ne"])
def test_comparisons_and_select(number, symbol):
    compare = {
        "lt": lambda x, y: simd.select(x < y, x, y),
        "le": lambda x, y: simd.select(x <= y, x, y),
        "gt": lambda x, y: simd.select(x > y, x, y),
        "ge": lambda x, y: simd.select(x >= y, x, y),
        "eq": lambda x, y: simd.select(x == y, x, y),
        "ne": lambda x, y: simd.select(x != y, x, y),
    }[symbol]
    a, b, _ = operands(number)
    assert_same(applied(compare, number, 2, a, b), np.where(getattr(operator, symbol)(a, b), a, b))


@pytest.mark.parametrize("number", ["float32", "float64"])
def test_scalars_are_spread_over_the_lanes(number):
    a, b, _ = operands(number)
    with np.errstate(all="ignore"):
        assert_same(applied(lambda x: (2.0 - x) * 3.0 + 1.0, number, 1, a), ((2 - a) * 3 + 1).astype(number))
    assert_same(applied(lambda x, y: simd.maximum(x, y), number, 2, a, b), np.where(a > b, a, b))


@pytest.mark.parametrize("number", ["float32", "float64"])
def test_fma_is_rounded_once_or_twice(number):
    """Once where the machine has it."""
    a, b, c = (v[:256] for v in operands(number))
    result = applied(lambda x, y, z: simd.fma(x, y, z), number, 3, a, b, c)
    exact = a.astype(np.longdouble) * b.astype(np.longdouble) + c.astype(np.longdouble)
    once, twice = exact.astype(number), a * b + c
    if number == "float32":
        assert ((result == once) | (result == twice)).all()
        assert (result == once).all() or (result == twice).all()
    else:
        assert np.max(np.abs(result - exact) / np.spacing(np.abs(a * b) + np.abs(c))) <= 1


@pytest.mark.parametrize(("source", "target"), [("float32", "float64"), ("float64", "float32"), ("int32", "float64")])
def test_convert(source, target):
    a, _, _ = operands(source)
    number = NUMBERS[target]
    with np.errstate(all="ignore"):
        expected = a.astype(target)
    assert_same(applied(lambda x: simd.convert(number, x), source, 1, a, result=target), expected)


def copier(number, source, target):
    vec, source, target = simd.Vec(NUMBERS[number], LANES), stored(source), stored(target)
    source_size, target_size = source.bytes, target.bytes

    @numba.njit
    def copy(a, out, count):
        for i in range(0, count, LANES):
            memory.store(target, out + i * target_size, memory.load(vec, source, a + i * source_size))

    return lambda a, out: copy(a.ctypes.data, out.ctypes.data, len(a))


@pytest.mark.parametrize("number", ["float32", "float64"])
@pytest.mark.parametrize("name", FORMATS)
def test_load_from_every_format(number, name):
    dtype = dtype_of(name)
    bits = np.random.default_rng(0).integers(0, 256, 400 * dtype.itemsize, np.uint8)
    a = bits.view(bool) if name == "bool" else bits.view(dtype)
    if name == "bool":
        a = bits % 3 > 0
    out = np.zeros(len(a), number)
    copier(number, name, number)(a, out)
    with np.errstate(all="ignore"):
        assert_same(out, a.astype(number))


@pytest.mark.parametrize("number", ["float32", "float64"])
@pytest.mark.parametrize("name", [name for name in FORMATS if "float" in name])
def test_store_to_every_float_format(number, name):
    if number == "float64" and "16" in name:
        pytest.skip("kernels round to 16 bits from float32")
    a = operands(number)[0]
    out = np.zeros(len(a), dtype_of(name))
    copier(number, number, name)(a, out)
    with np.errstate(all="ignore"):
        expected = a.astype(out.dtype)
    assert_same(out.astype(float), expected.astype(float))


@pytest.mark.parametrize("name", ["float16", "bfloat16"])
def test_all_16_bit_floats_load_exactly_and_go_back(name):
    bits = np.arange(1 << 16, dtype=np.uint16)
    a = bits.view(dtype_of(name))
    loaded, back = np.zeros(1 << 16, np.float32), np.zeros(1 << 16, dtype_of(name))
    copier("float32", name, "float32")(a, loaded)
    copier("float32", name, name)(a, back)
    numbers = ~np.isnan(a.astype(np.float32))
    assert_same(loaded, a.astype(np.float32))
    np.testing.assert_array_equal(back.view(np.uint16)[numbers], bits[numbers])
    assert np.isnan(back[~numbers].astype(np.float32)).all()


@pytest.mark.parametrize("name", ["float16", "bfloat16"])
def test_rounding_to_16_bits_is_to_nearest_even(name):
    """Every number, every midpoint between two, and the neighbours of those."""
    numbers = np.sort(np.arange(1 << 16, dtype=np.uint16).view(dtype_of(name)).astype(np.float32))
    numbers = numbers[np.isfinite(numbers)]
    midpoints = numbers[:-1] / 2 + numbers[1:] / 2
    with np.errstate(over="ignore"):
        around = [np.nextafter(midpoints, np.float32(side)) for side in (-np.inf, np.inf)]
    a = np.concatenate([numbers, midpoints, *around, np.array([7e4, -7e4, 3.4e38, -3.4e38, 65519, 65520], np.float32)])
    a = np.concatenate([a, np.zeros(-len(a) % LANES, np.float32)])
    out = np.zeros(len(a), dtype_of(name))
    copier("float32", "float32", name)(a, out)
    with np.errstate(over="ignore"):
        expected = a.astype(out.dtype)
    np.testing.assert_array_equal(out.view(np.uint16), expected.view(np.uint16))


@pytest.mark.parametrize("name", ["float32", ">float32", "float16", "bfloat16", "float64", "int8", "bool"])
def test_load_first_and_store_first_of_every_count(name):
    vec, source, own = simd.Vec(numba.float32, LANES), stored(name), memory.Stored("float32")

    @numba.njit
    def load_first(a, out, count):
        memory.store(own, out, memory.load_first(vec, source, a, count))

    @numba.njit
    def store_first(a, out, count):
        memory.store_first(own, out, memory.load(vec, source, a), count)

    a = (np.arange(LANES) + 1).astype(dtype_of(name))
    for count in range(-1, LANES + 2):
        expected = np.where(np.arange(LANES) < count, a.astype(np.float32), 0)
        for function in (load_first, store_first):
            out = np.zeros(LANES, np.float32)
            function(a.ctypes.data, out.ctypes.data, count)
            np.testing.assert_array_equal(out, expected)


@pytest.mark.parametrize("lanes", [1, 2, 8, 16])
def test_largest_lane(lanes):
    vec, own = simd.Vec(numba.float32, lanes), memory.Stored("float32")

    @numba.njit
    def largest(a):
        return simd.largest_lane(memory.load(vec, own, a.ctypes.data))

    for i in range(lanes):
        a = np.linspace(-3, -2, lanes).astype(np.float32)
        a[i] = 5.0
        assert largest(a) == 5.0
        a[i] = np.inf
        assert largest(a) == np.inf
    assert largest(np.full(lanes, -np.inf, np.float32)) == -np.inf


@pytest.mark.parametrize(("number", "lanes"), [("float32", 16), ("float32", 4), ("float64", 8), ("int32", 2)])
def test_transpose_is_a_transpose(number, lanes):
    vec, own = simd.Vec(NUMBERS[number], lanes), memory.Stored(number)
    size = own.bytes

    @lanewise
    def load_rows(address):
        return tuple(memory.load(vec, own, address + i * lanes * size) for i in range(lanes))

    @lanewise
    def store_rows(address, rows):
        for i, row in enumerate(rows):
            memory.store(own, address + i * lanes * size, row)

    @numba.njit
    def transposed(a, out):
        store_rows(out, simd.transpose(load_rows(a)))

    @numba.njit
    def transposed_twice(a, out):
        store_rows(out, simd.transpose(simd.transpose(load_rows(a))))

    a = np.arange(lanes * lanes).reshape(lanes, lanes).astype(number)
    for function, expected in ((transposed, a.T), (transposed_twice, a)):
        out = np.zeros_like(a)
        function(a.ctypes.data, out.ctypes.data)
        np.testing.assert_array_equal(out, expected)


@pytest.mark.parametrize("name", ["uint8", "uint32", "uint64"])
def test_unsigned_numbers_are_compared_as_such(name):
    number, own, truth = getattr(numba, name), memory.Stored(name), memory.Stored("bool")
    vec, dtype = simd.Vec(number, LANES), np.dtype(name)

    @numba.njit
    def run(a, b, larger, below):
        x, y = memory.load(vec, own, a.ctypes.data), memory.load(vec, own, b.ctypes.data)
        memory.store(own, larger.ctypes.data, simd.maximum(x, y))
        memory.store(truth, below.ctypes.data, x < y)

    top = np.iinfo(dtype).max
    a, b = np.array([top, 0, 1, top, 5, 9, 0, top - 1], dtype), np.array([5, top, 1, top - 1, top, 3, 0, top], dtype)
    larger, below = np.empty(LANES, dtype), np.empty(LANES, bool)
    run(a, b, larger, below)
    np.testing.assert_array_equal(larger, np.maximum(a, b))
    np.testing.assert_array_equal(below, a < b)


@pytest.mark.parametrize("target", ["int32", "uint8", "int64"])
@pytest.mark.parametrize("number", ["float32", "float64"])
def test_floats_become_integers_toward_zero(number, target):
    run = lanewise_of(lambda x: x, number, 1, target)
    x = np.array([0.0, -0.4, 1.5, 2.999, 100.25, 7.0, 55.5, 3.0], number)
    out = np.empty(LANES, target)
    run(x, x, x, out)
    np.testing.assert_array_equal(out, x.astype(target))


def test_what_makes_no_sense_is_refused_in_words():
    i32x8 = simd.Vec(numba.int32, 8)
    for call, words in [
        (lambda: simd.Vec(numba.float64, 3), "lanes is 3: it must be a power of two"),
        (lambda: simd.Vec(numba.float64, 0), "lanes is 0"),
        (lambda: simd.Vec("float64", 2), "element is 'float64'"),
        (lambda: memory.Stored("complex64"), "name is 'complex64'"),
    ]:
        with pytest.raises((TypeError, ValueError), match=words):
            call()

    for function, words in [
        (lambda v: v / v, "div is for floats"),
        (lambda v: v + 0.5, "float64 does not go with"),
    ]:
        jitted = numba.njit(function)

        @numba.njit
        def run(number, jitted=jitted):
            return simd.largest_lane(jitted(simd.splat(i32x8, number)))

        with pytest.raises(numba.TypingError, match=words):
            run(numba.int32(1))
