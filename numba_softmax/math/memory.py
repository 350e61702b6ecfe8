"""Memory for `Vec`: loads and stores that convert from and to the format in memory.

Formats (`Stored`) are floats, integers and booleans of 8 to 64 bits, bfloat16, and any of them with swapped bytes.
Addresses are integers.

>>> import numba, numpy as np
>>> from numba_softmax.math import memory, simd
>>> f64x8, f64 = simd.Vec(numba.float64, 8), memory.Stored("float64")
>>> @numba.njit
... def double(x, y):
...     v = memory.load(f64x8, f64, x.ctypes.data)
...     memory.store(f64, y.ctypes.data, v + v)
>>> x, y = np.arange(8.0), np.empty(8)
>>> double(x, y)
>>> y
array([ 0.,  2.,  4.,  6.,  8., 10., 12., 14.])
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba.core import types

from .. import kernel_code
from .lanewise import Value, call_llvm, constant, element, lanewise, llvm_suffix, llvm_type, with_element
from .simd import bitcast, convert, first_lanes, like, machine_has, select

kernel_code.register()

__all__ = [
    "Stored", "fence", "load", "load_first", "load_where", "prefetch", "prefetch_to_write", "store", "store_first",
    "store_where", "stream",
]  # fmt: skip

_NAMES = (
    "bool", *(f"{sign}int{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64)),
    "float16", "bfloat16", "float32", "float64",
)  # fmt: skip


class Stored(types.Type):
    """The format of a number in memory; loads convert from it, stores to it.

    Parameters
    ----------
    name : str
        A NumPy dtype's name: a float, an integer, ``"bool"`` or ``"bfloat16"``.
    swapped : bool
        True if its bytes are not in the machine's order.
    """

    def __init__(self, name: str, swapped: bool = False) -> None:
        if name not in _NAMES:
            raise ValueError(f"name is {name!r}: it must be one of {', '.join(_NAMES)}")
        self.number, self.swapped = name, swapped
        self.bits = 8 if name == "bool" else int(name.lstrip("abcdefghijklmnopqrstuvwxyz"))
        self.bytes = self.bits // 8
        super().__init__(f"Stored({name}{', swapped' if swapped else ''})")


def _pointer(address: Value, to: ir.Type) -> ir.Value:
    return address.builder.inttoptr(address.ir, to.as_pointer())


def raw_type(v: types.Type, stored: Stored) -> types.Type:
    """The integers that hold the bits of a `v` in memory."""
    return with_element(v, types.Integer.from_bitwidth(stored.bits, signed=not stored.number.startswith("u")))


@lanewise
def load(v, stored, address):
    """The numbers at `address`, in the format `stored`, as a `v`, which is a Vec or a number type."""
    raw = raw_type(v, stored)
    loaded = address.builder.load(_pointer(address, llvm_type(raw)), align=1)
    return from_memory(address.emit(raw, loaded), stored, v)


@lanewise
def load_where(mask, v, stored, address):
    """The lanes of a `v` at `address` where `mask` is set; the others are zero and are not read."""
    raw = raw_type(v, stored)
    t = llvm_type(raw)
    loaded = call_llvm(
        address.builder, f"llvm.masked.load.{llvm_suffix(t)}.p0", t,
        _pointer(address, t), ir.IntType(32)(1), mask.ir, constant(t, 0),
    )  # fmt: skip
    return from_memory(address.emit(raw, loaded), stored, v)


@lanewise
def load_first(v, stored, address, count):
    """The first `count` lanes of a `v` at `address`; the others are zero and are not read."""
    return load_where(first_lanes(v, count), v, stored, address)


@lanewise
def store(stored, address, value):
    """Write `value` to `address` as `stored`."""
    raw = to_memory(value, stored)
    value.builder.store(raw.ir, _pointer(address, raw.ir.type), align=1)


@lanewise
def store_where(mask, stored, address, value):
    """Write the lanes of `value` where `mask` is set to `address` as `stored`."""
    raw = to_memory(value, stored)
    t = raw.ir.type
    call_llvm(
        value.builder, f"llvm.masked.store.{llvm_suffix(t)}.p0", ir.VoidType(),
        raw.ir, _pointer(address, t), ir.IntType(32)(1), mask.ir,
    )  # fmt: skip


@lanewise
def store_first(stored, address, value, count):
    """Write the first `count` lanes of `value` to `address` as `stored`."""
    store_where(first_lanes(value.type, count), stored, address, value)


@lanewise
def stream(stored, address, value):
    """Write `value` by a non-temporal store to `address`, a multiple of the vector's size; see `fence`."""
    raw = to_memory(value, stored)
    written = value.builder.store(raw.ir, _pointer(address, raw.ir.type), align=value.type.lanes * stored.bytes)
    written.set_metadata("nontemporal", value.builder.module.add_metadata([ir.IntType(32)(1)]))


@lanewise
def prefetch(address):
    """Prefetch the cache line at `address`, which need not be readable."""
    _ask(address, 0)


@lanewise
def prefetch_to_write(address):
    """Prefetch a cache line that is to be written."""
    _ask(address, 1)


def _ask(address: Value, writes: int) -> None:
    number = ir.IntType(32)
    pointer = _pointer(address, ir.IntType(8))
    call_llvm(address.builder, "llvm.prefetch.p0", ir.VoidType(), pointer, number(writes), number(3), number(1))


@lanewise
def fence(address):
    """Order non-temporal stores (to `address`, or anywhere) before everything that follows."""
    address.builder.fence("seq_cst")


def from_memory(raw: Value, stored: Stored, v: types.Type) -> Value:
    """Raw integers from memory, converted to a `v`."""
    if stored.swapped and stored.bits > 8:
        raw = _swap_bytes(raw)
    name = stored.number
    if isinstance(element(v), types.Boolean):
        return raw != 0
    if name == "bool":
        return (raw != 0).cast(v)
    if "int" in name:
        return raw.cast(v)
    if name == "bfloat16":
        bits = raw.cast(with_element(v, types.int32)) << 16
        return convert(v, bitcast(with_element(v, types.float32), bits))
    if name == "float16" and not _has_float16(raw):
        return convert(v, _float32_from_half(raw))
    return convert(v, bitcast(with_element(v, _float_of(stored.bits)), raw))


def to_memory(value: Value, stored: Stored) -> Value:
    """Floats as the raw integers that go to memory, rounded to nearest even."""
    raw = raw_type(value.type, stored)
    if stored.number == "bool":
        result = (value if isinstance(element(value.type), types.Boolean) else value != 0).cast(raw)
    elif "int" in stored.number:
        result = value.cast(raw)
    elif stored.number == "bfloat16":
        value = convert(types.float32, value)
        bits = bitcast(with_element(value.type, types.int32), value)
        lowest_kept = _shift_right(bits, 16) & 1
        # All set bits of a NaN's significand may be in the part that is cut off.
        rounded = select(value != value, bits | 0x00400000, bits + (lowest_kept + 0x7FFF))
        result = _shift_right(rounded, 16).cast(raw)
    else:
        if stored.bits == 16:  # by way of float32: no machine rounds float64 to float16 at once
            value = convert(types.float32, value)
        if stored.bits == 16 and not _has_float16(value):
            result = _half_from_float32(value).cast(raw)
        else:
            result = bitcast(raw, convert(_float_of(stored.bits), value))
    return _swap_bytes(result) if stored.swapped else result


def _has_float16(value: Value) -> bool:
    """True if the machine converts float16: x86 without F16C would call functions that Numba's kernels cannot find."""
    return machine_has(value, "+f16c")


def _float32_from_half(raw: Value) -> Value:
    """The float32 numbers of the bits of float16 numbers, by integer operations and one exact product."""
    bits = raw.cast(with_element(raw.type, types.int32))
    magnitude = (bits & 0x7FFF) << 13
    number = bitcast(with_element(raw.type, types.float32), magnitude) * 2.0**112  # the exponents' biases differ
    widened = bitcast(bits.type, number)
    special = select((bits & 0x7C00) == 0x7C00, widened | 0x7F800000, widened)
    return bitcast(number.type, special | ((bits & 0x8000) << 16))


def _half_from_float32(value: Value) -> Value:
    """The bits of float32 numbers rounded to float16, to nearest even, as int32."""
    bits = bitcast(with_element(value.type, types.int32), value)
    sign = _shift_right(bits, 16) & 0x8000
    magnitude = bits & 0x7FFFFFFF
    # A subnormal float16 is a multiple of 2**-24: adding 1/2 rounds to one, and leaves the factor in the low bits.
    half = bitcast(magnitude.type, bitcast(value.type, magnitude) + 0.5) - 0x3F000000
    odd = _shift_right(magnitude, 13) & 1
    normal = _shift_right(magnitude - 0x37FFF001 + odd, 13)  # the biases' difference, minus the rounding term
    finite = select(magnitude < 0x38800000, half, normal)
    infinite = select(magnitude > 0x7F800000, 0x7E00, like(magnitude, 0x7C00))
    return select(magnitude < 0x477FF000, finite, infinite) | sign


def _float_of(bits: int) -> Any:
    return {16: types.float16, 32: types.float32, 64: types.float64}[bits]


def _shift_right(v: Value, bits: int) -> Value:
    return v.emit(v.type, v.builder.lshr(v.ir, constant(v.ir.type, bits)))


def _swap_bytes(raw: Value) -> Value:
    t = raw.ir.type
    return raw.emit(raw.type, call_llvm(raw.builder, f"llvm.bswap.{llvm_suffix(t)}", t, raw.ir))
