"""What the hardware offers: every primitive of CUDA that the kernels use, and nothing else.

These are `lanewise` functions that emit NVVM's instructions, and so is all that the kernels
call. What is not of one thread stands here alone: threads and blocks, shuffles, shared
memory, the barrier; and accesses to global memory, as wide as their alignment allows.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba.core import types

from ... import kernel_code
from ...math.lanewise import Value, Vec, alike, call_llvm, constant, lanewise, llvm_type, shuffle_order
from ...math.simd import Stored, convert, from_memory, lane, lane_by_lane, raw_type, to_memory
from . import installed

with installed.needed():
    from numba.cuda.extending import models, register_model

kernel_code.register()

WARP = 32
"""Threads that run in step and can read each other's registers."""

WIDEST = 16
"""Bytes that one thread reads or writes at once, at most."""

_GLOBAL, _SHARED = 1, 3  # address spaces
_INT, _BIT = ir.IntType(32), ir.IntType(1)


@register_model(Vec)
class VecModel(models.PrimitiveModel):
    """A Vec is an LLVM vector on the GPU too."""

    def __init__(self, dmm: Any, fe_type: Vec) -> None:
        super().__init__(dmm, fe_type, llvm_type(fe_type))


def integer(v: Value, number: int) -> Value:
    """A 32-bit constant, emitted where `v` is."""
    return v.emit(types.int32, _INT(number))


# ---------------------------------------------------------------- arithmetic


@lanewise
def exp2(d):
    """``2**d`` in float32 by the special function unit, with a relative error of 2**-22; below 2**-126 it is 0."""
    return lane_by_lane("llvm.nvvm.ex2.approx.ftz.f", d)


@lanewise
def quotient_and_rest(a, b):
    """``a // b`` and ``a % b`` for integers that are not negative, in the type of `a`."""
    a, b = alike(a, b)
    q = a.emit(a.type, a.builder.udiv(a.ir, b.ir))
    return q, a - q * b


def funnel_right(low: Value, high: Value, bits: Value) -> Value:
    """The word that begins `bits` after the first one of two words side by side."""
    return _funnel("shf.r.wrap.b32 $0, $1, $2, $3;", low, high, bits)


def funnel_left(low: Value, high: Value, bits: Value) -> Value:
    """The word that begins `bits` before the second one of two words side by side."""
    return _funnel("shf.l.wrap.b32 $0, $1, $2, $3;", low, high, bits)


def _funnel(assembly: str, low: Value, high: Value, bits: Value) -> Value:
    shift = ir.InlineAsm(ir.FunctionType(_INT, [_INT] * 3), assembly, "=r,r,r,r")
    return low.emit(low.type, low.builder.call(shift, [low.ir, high.ir, bits.ir]))


def renewed(v: Value) -> Value:
    """The same number of 32 or 64 bits, which the compiler does not know to be the same.

    What is computed from it is computed again, instead of being kept in registers since it was computed before.
    """
    t, kind = v.ir.type, {32: "r", 64: "l"}[v.ir.type.width]
    assembly = f"mov.b{t.width} $0, $1;"
    return v.emit(v.type, v.builder.asm(ir.FunctionType(t, [t]), assembly, f"={kind},{kind}", [v.ir], side_effect=True))


# -------------------------------------------------------------------------- lanes


def lanes_of(v: Value, first: int, count: int) -> Value:
    """Some lanes of a vector, as a shorter one."""
    order = shuffle_order(list(range(first, first + count)))
    return v.emit(Vec(v.type.element, count), v.builder.shuffle_vector(v.ir, v.ir, order))


def side_by_side(vectors: list[Value]) -> Value:
    """Vectors of the same length as one: a power of two of them."""
    while len(vectors) > 1:
        a, b = vectors[::2], vectors[1::2]
        both = Vec(a[0].type.element, 2 * a[0].type.lanes)
        order = shuffle_order(list(range(both.lanes)))
        vectors = [v.emit(both, v.builder.shuffle_vector(v.ir, w.ir, order)) for v, w in zip(a, b, strict=True)]
    return vectors[0]


# ------------------------------------------------------------ threads of a block


@lanewise
def thread_of(v):
    """The number of this thread in its block; `v` is any number."""
    return v.emit(types.int32, call_llvm(v.builder, "llvm.nvvm.read.ptx.sreg.tid.x", _INT))


@lanewise
def block_of(v):
    """The number of this block; `v` is any number."""
    return v.emit(types.int32, call_llvm(v.builder, "llvm.nvvm.read.ptx.sreg.ctaid.x", _INT))


def place_in_block(v: Value) -> tuple[Value, Value]:
    """The number of this thread in a block of any dimensions, and how many there are; `v` is any number."""
    place, count = integer(v, 0), integer(v, 1)
    for axis in "xyz":
        i, size = (
            v.emit(types.int32, call_llvm(v.builder, f"llvm.nvvm.read.ptx.sreg.{register}.{axis}", _INT))
            for register in ("tid", "ntid")
        )
        place, count = place + i * count, count * size
    return place, count


@lanewise
def barrier(v):
    """Wait for all threads of the block; `v` is given back."""
    call_llvm(v.builder, "llvm.nvvm.barrier0", ir.VoidType())
    return v


_DOWN, _UP, _ACROSS = 2, 1, 3
"""Whose register a shuffle reads: of a lane further on, of one before, of the one whose number differs by a mask."""


@lanewise
def exchange(v, step):
    """The number of the thread whose lane differs by the bit `step`; all lanes of the warp take part."""
    return _shuffled(v, _ACROSS, step, WARP - 1)


def from_next(v: Value) -> Value:
    """The number of the next lane of the warp; of the last one, its own."""
    return _shuffled(v, _DOWN, 1, WARP - 1)


def from_previous(v: Value) -> Value:
    """The number of the lane before; of the first one, its own."""
    return _shuffled(v, _UP, 1, 0)


def _shuffled(v: Value, mode: int, distance: int, limit: int) -> Value:
    bits = ir.IntType(v.type.bitwidth)
    words = v.builder.bitcast(v.builder.bitcast(v.ir, bits), ir.VectorType(_INT, bits.width // 32))
    result = words
    both = ir.LiteralStructType((_INT, _BIT))
    for i in range(words.type.count):
        word = v.builder.extract_element(words, _INT(i))
        arguments = _INT(-1), _INT(mode), word, _INT(distance), _INT(limit)
        got = v.builder.extract_value(call_llvm(v.builder, "llvm.nvvm.shfl.sync.i32", both, *arguments), 0)
        result = v.builder.insert_element(result, got, _INT(i))
    return v.emit(v.type, v.builder.bitcast(v.builder.bitcast(result, bits), v.ir.type))


def shared_memory(v: Value, name: str, number: types.Type, count: int) -> ir.Value:
    """The pointer to so many numbers that the threads of a block share; one array a name."""
    module = v.builder.module
    if name not in module.globals:
        array = ir.GlobalVariable(module, ir.ArrayType(llvm_type(number), count), name, addrspace=_SHARED)
        array.linkage, array.align = "internal", WIDEST
        array.initializer = ir.Constant(array.value_type, ir.Undefined)
    return v.builder.gep(module.globals[name], [_INT(0), _INT(0)])


def dynamic_shared_memory(v: Value) -> ir.Value:
    """The pointer to the bytes of shared memory that were asked for at launch."""
    module, name = v.builder.module, "dynamic_shared_memory"
    if name not in module.globals:
        array = ir.GlobalVariable(module, ir.ArrayType(ir.IntType(8), 0), name, addrspace=_SHARED)
        array.linkage, array.align = "external", WIDEST
    return v.builder.gep(module.globals[name], [_INT(0), _INT(0)])


def read_shared(v: types.Type, array: ir.Value, index: Value) -> Value:
    """The `v`, a number or a Vec, that begins at place `index` of a shared array."""
    pointer, align = _shared_pointer(v, array, index)
    return index.emit(v, index.builder.load(pointer, align=align))


def write_shared(array: ir.Value, index: Value, value: Value) -> None:
    """Write a number or a Vec to place `index` of a shared array, where it is aligned to its size."""
    pointer, align = _shared_pointer(value.type, array, index)
    value.builder.store(value.ir, pointer, align=align)


def _shared_pointer(v: types.Type, array: ir.Value, index: Value) -> tuple[ir.Value, int]:
    t = llvm_type(v)
    at = index.builder.gep(array, [index.ir])
    size = (v.lanes * v.element.bitwidth if isinstance(v, Vec) else v.bitwidth) // 8
    return index.builder.bitcast(at, t.as_pointer(_SHARED)), min(WIDEST, size)


# ------------------------------------------------------------- numbers of 16 bits

# They are moved and converted two at a time, in words of 32 bits. Left to itself, the compiler takes their vectors
# apart into narrower accesses and, where float16 is widened, loads halves as if they were float32.

_UNPACK_FLOAT16 = "{ .reg .b16 %lo, %hi; mov.b32 {%lo, %hi}, $2; cvt.f32.f16 $0, %lo; cvt.f32.f16 $1, %hi; }"
_PACK_FLOAT16 = "{ .reg .b16 %lo, %hi; cvt.rn.f16.f32 %lo, $1; cvt.rn.f16.f32 %hi, $2; mov.b32 $0, {%lo, %hi}; }"
_PACK_BFLOAT16 = "cvt.rn.bf16x2.f32 $0, $2, $1;"


def _comes_in_pairs(stored: Stored, lanes: int) -> bool:
    return stored.number in ("float16", "bfloat16") and not stored.swapped and lanes > 1


def numbers(v: Vec, raw: Value, stored: Stored) -> Value:
    """Raw integers, as they came from memory, as a `v`."""
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
    """Numbers as the raw integers that go to memory, rounded to nearest even."""
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
    """The bits of the vector at `address`, of which elements `first`, or 0, to `count` are there.

    Others are `fill`, and are not read. Accesses are `width` bytes wide. If not
    `ragged`, `count` is known to be no more than 0, or all lanes.
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
    """A vector's bits in words that the compiler leaves together: those of short elements it would load one by one."""
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
    """The words with element `i` from memory, if that is `here`."""
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
    """The value that comes from whichever block was run before."""
    phi = builder.phi(a.type)
    phi.add_incoming(a, a_block)
    phi.add_incoming(b, b_block)
    return phi


def _pieces(raw: types.Type, stored: Stored, width: int) -> tuple[ir.VectorType, int, int]:
    """How a vector is moved by accesses of so many bytes: the words it consists of, words an access, bytes a word."""
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
    """Global memory: known as such, it is reached in a step less."""
    start = builder.inttoptr(address.ir, ir.IntType(8).as_pointer(_GLOBAL))
    return builder.bitcast(builder.gep(start, [ir.IntType(64)(offset)]), t.as_pointer(_GLOBAL))
