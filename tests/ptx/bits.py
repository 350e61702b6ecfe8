"""Operations on the bits of integers."""

import numpy as np

from .arithmetic import Formula, formula, number, unsigned_of
from .decoding import DTYPES
from .parser import SIZES


@formula("and", "or", "xor")
def _logic(op):
    type_ = op.type()
    names = {"and": np.bitwise_and, "or": np.bitwise_or, "xor": np.bitwise_xor}
    return Formula(type_, (type_,) * 2, names[op.head])


@formula("not")
def _not(op):
    type_ = op.type()
    return Formula(type_, (type_,), np.bitwise_not)


@formula("cnot")
def _is_zero(op):
    type_ = op.type()
    return Formula(type_, (type_,), lambda a: (a == 0).astype(DTYPES[type_]))


@formula("shl", "shr")
def _shift(op):
    type_ = op.type()
    dtype, bits = DTYPES[type_], 8 * SIZES[type_]

    def shift(a, n):
        clamped = np.minimum(n, np.uint32(bits - 1)).astype(dtype)
        shifted = a << clamped if op.head == "shl" else a >> clamped
        if dtype.kind == "i" and op.head == "shr":
            return shifted  # the sign fills up
        return np.where(n >= bits, dtype.type(0), shifted)

    return Formula(type_, (type_, "u32"), shift)


@formula("shf")
def _funnel_shift(op):
    left, wrap = op.take("l", "r") == "l", op.take("wrap", "clamp") == "wrap"
    op.type()

    def shift(low, high, n):
        n = (n & np.uint32(31) if wrap else np.minimum(n, np.uint32(32))).astype(np.uint64)
        both = high.astype(np.uint64) << np.uint64(32) | low
        if left:
            return ((both << n) >> np.uint64(32)).astype(np.uint32)
        return (both >> n).astype(np.uint32)

    return Formula("b32", ("b32", "b32", "u32"), shift)


@formula("popc")
def _count(op):
    type_ = op.type()
    return Formula("u32", (type_,), lambda a: np.bitwise_count(a).astype(np.uint32))


def leading_zeros(a):
    """The zeros before the first set bit of uint32 or uint64."""
    bits = 8 * a.dtype.itemsize
    if bits == 64:
        high, low = (a >> np.uint64(32)).astype(np.uint32), a.astype(np.uint32)
        return np.where(high > 0, leading_zeros(high), np.uint32(32) + leading_zeros(low))
    return np.uint32(bits) - np.frexp(a.astype(np.float64))[1].astype(np.uint32)


@formula("clz")
def _leading_zeros(op):
    return Formula("u32", (unsigned_of(op.type()),), leading_zeros)


@formula("bfind")
def _highest_bit(op):
    shift = op.take("shiftamt")
    type_ = op.type()
    unsigned = DTYPES[unsigned_of(type_)]

    def find(a):
        zeros = leading_zeros(np.where(a < 0, ~a, a).astype(unsigned))
        position = zeros if shift else np.uint32(8 * SIZES[type_] - 1) - zeros
        return np.where(zeros == 8 * SIZES[type_], ~np.uint32(0), position)

    return Formula("u32", (type_,), find)


BYTE_REVERSED = np.array([int(f"{i:08b}"[::-1], 2) for i in range(256)], np.uint8)


@formula("brev")
def _reverse(op):
    type_ = op.type()
    return Formula(type_, (type_,), lambda a: BYTE_REVERSED[np.atleast_1d(a).byteswap().view(np.uint8)].view(a.dtype))


@formula("bfe")
def _extract(op):
    type_ = op.type()
    dtype, bits = DTYPES[type_], 8 * SIZES[type_]
    signed = dtype.kind == "i"

    def extract(a, position, length):
        position, length = (position & 255).astype(np.int64), (length & 255).astype(np.int64)
        # In two shifts: the field's top bit goes to the top, then its lowest to the bottom.
        end = np.minimum(position + length, bits)
        kept = np.where(end > position, end - position, 0)
        shifted = (a << np.clip(bits - end, 0, bits - 1).astype(dtype)) >> np.clip(bits - kept, 0, bits - 1).astype(
            dtype
        )
        sign = a >> dtype.type(bits - 1) if signed else dtype.type(0)
        beyond = np.where(length == 0, dtype.type(0), sign)
        # A signed field that ends beyond the top is filled up with the sign, as the shifts do anyway.
        return np.where(kept == 0, beyond, shifted)

    return Formula(type_, (type_, "u32", "u32"), extract)


@formula("bfi")
def _insert(op):
    type_ = op.type()
    dtype, bits = DTYPES[type_], 8 * SIZES[type_]
    one = dtype.type(1)

    def insert(a, b, position, length):
        position, length = np.minimum(position & 255, bits), np.minimum(length & 255, bits)
        ones = np.where(length == bits, ~dtype.type(0), (one << np.minimum(length, bits - 1).astype(dtype)) - one)
        shift = np.minimum(position, bits - 1).astype(dtype)
        mask = np.where(position >= bits, dtype.type(0), ones << shift)
        return (b & ~mask) | ((a << shift) & mask)

    return Formula(type_, (type_, type_, "u32", "u32"), insert)


@formula("prmt")
def _permute(op):
    op.type()
    if op.words:
        op.unknown()

    def permute(a, b, selector):
        a, b, selector = np.broadcast_arrays(np.atleast_1d(a), b, selector)
        both = np.stack([a, b], axis=1).view(np.uint8)
        result = np.empty((len(a), 4), np.uint8)
        for i in range(4):
            nibble = selector >> np.uint32(4 * i) & np.uint32(15)
            byte = both[np.arange(len(a)), nibble & 7]
            result[:, i] = np.where(nibble & 8, np.where(byte & 0x80, 0xFF, 0), byte)
        return result.view(np.uint32).reshape(-1)

    return Formula("b32", ("b32",) * 3, permute)


@formula("lop3")
def _logic_of_three(op):
    op.type()
    operands = op.instruction.operands
    table = number(operands[-1])

    def combine(a, b, c):
        result = a & np.uint32(0)
        for i in range(8):
            if table >> i & 1:
                result = result | ((a if i & 4 else ~a) & (b if i & 2 else ~b) & (c if i & 1 else ~c))
        return result

    return Formula("b32", ("b32",) * 3, combine, operands=operands[:-1])
