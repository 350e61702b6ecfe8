"""Accesses to global memory, as wide as their alignment allows, and numbers as they lie there."""

from __future__ import annotations

from llvmlite import ir
from numba.core import types

from ... import kernel_code
from ...math.lanewise import Value, Vec, constant, llvm_type
from ...math.memory import Stored, from_memory, raw_type, to_memory
from ...math.simd import convert, lane

kernel_code.register()

WIDEST = 16
"""Bytes of one thread's access to memory, at most."""

_INT, _GLOBAL = ir.IntType(32), 1  # an address space

# ------------------------------------------------------------- numbers of 16 bits

# They are moved and converted two at a time, in words of 32 bits. By default the compiler splits their vectors into
# narrower accesses and, where float16 is widened, loads halves as if they were float32.

_UNPACK_FLOAT16 = "{ .reg .b16 %lo, %hi; mov.b32 {%lo, %hi}, $2; cvt.f32.f16 $0, %lo; cvt.f32.f16 $1, %hi; }"
_PACK_FLOAT16 = "{ .reg .b16 %lo, %hi; cvt.rn.f16.f32 %lo, $1; cvt.rn.f16.f32 %hi, $2; mov.b32 $0, {%lo, %hi}; }"
_PACK_BFLOAT16 = "cvt.rn.bf16x2.f32 $0, $2, $1;"


def _comes_in_pairs(stored: Stored, lanes: int) -> bool:
    return stored.number in ("float16", "bfloat16") and not stored.swapped and lanes > 1


def numbers(v: Vec, raw: Value, stored: Stored) -> Value:
    """Convert raw integers, as they came from memory, to a `v`."""
    if not _comes_in_pairs(stored, v.lanes):
        return from_memory(raw, stored, v)
    builder, f32 = raw.builder, ir.FloatType()
    words = builder.bitcast(raw.ir, ir.VectorType(_INT, v.lanes // 2))
    unpack = ir.InlineAsm(ir.FunctionType(ir.LiteralStructType([f32, f32]), [_INT]), _UNPACK_FLOAT16, "=f,=f,r")
    result = ir.Constant(ir.VectorType(f32, v.lanes), ir.Undefined)
    for i in range(v.lanes // 2):
        word = builder.extract_element(words, _INT(i))
        if stored.number == "float16":
            both = builder.call(unpack, [word])
            pair = [builder.extract_value(both, 0), builder.extract_value(both, 1)]
        else:  # the upper half of a float32
            pair = [builder.shl(word, _INT(16)), builder.and_(word, _INT(0xFFFF0000))]
            pair = [builder.bitcast(half, f32) for half in pair]
        for j in range(2):
            result = builder.insert_element(result, pair[j], _INT(2 * i + j))
    return convert(v, raw.emit(v.of(types.float32), result))


def packed(value: Value, stored: Stored, has_bfloat16: bool) -> Value:
    """Convert numbers to the raw integers that go to memory, rounded to nearest even."""
    lanes, builder = value.type.lanes, value.builder
    if not _comes_in_pairs(stored, lanes):
        return to_memory(value, stored)
    in_hardware = stored.number == "float16" or has_bfloat16
    value = convert(types.float32, value) if in_hardware else to_memory(value, stored).cast(Vec(types.int32, lanes))
    pair = ir.FunctionType(_INT, [ir.FloatType()] * 2)
    pack = ir.InlineAsm(pair, _PACK_FLOAT16 if stored.number == "float16" else _PACK_BFLOAT16, "=r,f,f")
    words = ir.Constant(ir.VectorType(_INT, lanes // 2), ir.Undefined)
    for i in range(lanes // 2):
        low, high = lane(value, 2 * i).ir, lane(value, 2 * i + 1).ir
        if in_hardware:
            word = builder.call(pack, [low, high])
        else:
            word = builder.or_(builder.and_(low, _INT(0xFFFF)), builder.shl(high, _INT(16)))
        words = builder.insert_element(words, word, _INT(i))
    raw = Vec(types.int16, lanes)
    return value.emit(raw, builder.bitcast(words, llvm_type(raw)))


# ------------------------------------------------------------------ global memory


def load_raw(
    v: Vec,
    stored: Stored,
    address: Value,
    count: Value,
    width: int,
    ragged: bool,
    fill: int = 0,
    first: Value | None = None,
) -> Value:
    """The bits of the vector at `address`, of which elements `first`, or 0, to `count` are present.

    Others are `fill`, and are not read. Accesses are `width` bytes wide. If not
    `ragged`, `count` is known to be at most 0, or at least all lanes.
    """
    raw = raw_type(v, stored)
    builder, own = address.builder, _own_words(raw, stored)
    pattern = fill if stored.bytes >= 4 else sum(fill << 8 * stored.bytes * i for i in range(4 // stored.bytes))
    result = constant(own, pattern if own != llvm_type(raw) else fill)
    whole = _all_there(count, v.lanes, ragged)
    if first is not None:
        whole = builder.and_(whole, builder.icmp_signed("==", first.ir, _INT(0)))
    with builder.if_else(whole) as (then, otherwise):
        with then:
            loaded = builder.bitcast(_load_pieces(builder, address, *_pieces(raw, stored, width)), own)
            after_whole = builder.block
        with otherwise:
            for i in range(v.lanes if ragged else 0):
                here = builder.icmp_signed(">", count.ir, _INT(i))
                if first is not None:
                    here = builder.and_(here, builder.icmp_signed("<=", first.ir, _INT(i)))
                result = _load_one(result, i, stored, address, here, width)
            after_parts = builder.block
    result = _either(builder, loaded, after_whole, result, after_parts)
    return address.emit(raw, builder.bitcast(result, llvm_type(raw)))


def _own_words(raw: types.Type, stored: Stored) -> ir.VectorType:
    """The type of a vector's bits in words, since the compiler would load short elements one by one."""
    in_words = stored.bytes < 4 and raw.lanes * stored.bytes % 4 == 0
    return ir.VectorType(_INT, raw.lanes * stored.bytes // 4) if in_words else llvm_type(raw)


def store_raw(
    stored: Stored, address: Value, value: Value, count: Value, width: int, ragged: bool, has_bfloat16: bool
) -> None:
    """Write the first `count` elements of `value` to `address`, as `load_raw` reads them."""
    raw = packed(value, stored, has_bfloat16)
    builder, lanes = value.builder, raw.type.lanes
    with builder.if_then(_all_there(count, lanes, ragged)):
        store_words(address, raw, stored, width)
    if ragged:
        with builder.if_then(builder.icmp_signed("<", count.ir, _INT(lanes))):
            for i in range(lanes):
                with builder.if_then(builder.icmp_signed(">", count.ir, _INT(i))):
                    store_element(address, raw, i, stored, width)


def store_words(address: Value, raw: Value, stored: Stored, width: int) -> None:
    """Write all bits of a vector, by accesses of `width` bytes."""
    _store_pieces(raw.builder, address, raw, *_pieces(raw.type, stored, width))


def store_element(address: Value, raw: Value, i: int, stored: Stored, width: int = WIDEST) -> None:
    """Write element `i` of the vector that belongs to `address`."""
    pointer = _pointer(raw.builder, address, i * stored.bytes, raw.ir.type.element)
    raw.builder.store(lane(raw, i).ir, pointer, align=min(width, stored.bytes))


def _all_there(count: Value, lanes: int, ragged: bool) -> ir.Value:
    return count.builder.icmp_signed(">=", count.ir, _INT(lanes if ragged else 1))


def _load_one(words: ir.Value, i: int, stored: Stored, address: Value, here: ir.Value, width: int) -> ir.Value:
    """The words, with element `i` loaded from memory if `here`."""
    builder, before = address.builder, address.builder.block
    element, word = ir.IntType(8 * stored.bytes), words.type.element
    each = word.width // element.width
    with builder.if_then(here):
        one = builder.load(_pointer(builder, address, i * stored.bytes, element), align=min(width, stored.bytes))
        if each > 1:
            place = i % each * element.width
            rest = word(~(((1 << element.width) - 1) << place) & 0xFFFFFFFF)
            others = builder.and_(builder.extract_element(words, _INT(i // each)), rest)
            one = builder.or_(others, builder.shl(builder.zext(one, word), word(place)))
        changed = builder.insert_element(words, one, _INT(i // each))
        inside = builder.block
    return _either(builder, words, before, changed, inside)


def _either(builder: ir.IRBuilder, a: ir.Value, a_block: ir.Block, b: ir.Value, b_block: ir.Block) -> ir.Value:
    """The value that belongs to whichever block ran before."""
    phi = builder.phi(a.type)
    phi.add_incoming(a, a_block)
    phi.add_incoming(b, b_block)
    return phi


def _pieces(raw: types.Type, stored: Stored, width: int) -> tuple[ir.VectorType, int, int]:
    """The split of a vector into accesses of `width` bytes: its words, words in an access, bytes of a word."""
    size = min(width, 4)
    words = ir.VectorType(ir.IntType(8 * size), raw.lanes * stored.bytes // size)
    return words, min(width // size, words.count), size


def _load_pieces(builder: ir.IRBuilder, address: Value, words: ir.VectorType, each: int, size: int) -> ir.Value:
    result = ir.Constant(words, ir.Undefined)
    for first in range(0, words.count, each):
        piece = ir.VectorType(words.element, each) if each > 1 else words.element
        loaded = builder.load(_pointer(builder, address, first * size, piece), align=each * size)
        for i in range(each):
            word = builder.extract_element(loaded, _INT(i)) if each > 1 else loaded
            result = builder.insert_element(result, word, _INT(first + i))
    return result


def _store_pieces(
    builder: ir.IRBuilder, address: Value, raw: Value, words: ir.VectorType, each: int, size: int
) -> None:
    bits = builder.bitcast(raw.ir, words)
    for first in range(0, words.count, each):
        piece = builder.extract_element(bits, _INT(first))
        if each > 1:
            t = ir.VectorType(words.element, each)
            piece = ir.Constant(t, ir.Undefined)
            for i in range(each):
                piece = builder.insert_element(piece, builder.extract_element(bits, _INT(first + i)), _INT(i))
        builder.store(piece, _pointer(builder, address, first * size, piece.type), align=each * size)


def _pointer(builder: ir.IRBuilder, address: Value, offset: int, t: ir.Type) -> ir.Value:
    """A pointer into global memory: where the address space is known, an access needs one instruction less."""
    start = builder.inttoptr(address.ir, ir.IntType(8).as_pointer(_GLOBAL))
    return builder.bitcast(builder.gep(start, [ir.IntType(64)(offset)]), t.as_pointer(_GLOBAL))
