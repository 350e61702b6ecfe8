"""The primitives of CUDA that the kernels use, and nothing else.

These are `lanewise` functions that emit NVVM's instructions, as is all that the kernels
call. All that involves more than one thread is in this module: threads and blocks, shuffles,
shared memory, the barrier. Global memory is in `global_memory`.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba.core import types

from ... import kernel_code
from ...math.lanewise import Value, Vec, alike, call_llvm, lanewise, llvm_type, shuffle_order
from ...math.simd import lane_by_lane
from . import installed
from .global_memory import WIDEST

with installed.needed():
    from numba.cuda.extending import models, register_model

kernel_code.register()

WARP = 32
"""Threads that run in step and can read each other's registers."""

_SHARED = 3  # an address space
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
    """The word that begins `bits` bits after the beginning of the first of two words side by side."""
    return _funnel("shf.r.wrap.b32 $0, $1, $2, $3;", low, high, bits)


def funnel_left(low: Value, high: Value, bits: Value) -> Value:
    """The word that begins `bits` bits before the beginning of the second of two words side by side."""
    return _funnel("shf.l.wrap.b32 $0, $1, $2, $3;", low, high, bits)


def _funnel(assembly: str, low: Value, high: Value, bits: Value) -> Value:
    shift = ir.InlineAsm(ir.FunctionType(_INT, [_INT] * 3), assembly, "=r,r,r,r")
    return low.emit(low.type, low.builder.call(shift, [low.ir, high.ir, bits.ir]))


def renewed(v: Value) -> Value:
    """The same number of 32 or 64 bits, which the compiler does not know to be the same.

    Values that depend on it are computed again, instead of being kept in registers.
    """
    t, kind = v.ir.type, {32: "r", 64: "l"}[v.ir.type.width]
    assembly = f"mov.b{t.width} $0, $1;"
    return v.emit(v.type, v.builder.asm(ir.FunctionType(t, [t]), assembly, f"={kind},{kind}", [v.ir], side_effect=True))


# -------------------------------------------------------------------------- lanes


def take_lanes(v: Value, first: int, count: int) -> Value:
    """Some lanes of a vector, as a shorter one."""
    order = shuffle_order(list(range(first, first + count)))
    return v.emit(Vec(v.type.element, count), v.builder.shuffle_vector(v.ir, v.ir, order))


def side_by_side(vectors: list[Value]) -> Value:
    """Concatenate vectors of the same length, a power of two of them."""
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
    """The number of this thread in a block of any dimensions, and the number of threads; `v` is any number."""
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
    """Wait for all threads of the block; return `v`."""
    call_llvm(v.builder, "llvm.nvvm.barrier0", ir.VoidType())
    return v


_DOWN, _UP, _ACROSS = 2, 1, 3
"""Modes of a shuffle: it reads from a later lane, an earlier one, or the one whose number differs by a mask."""


@lanewise
def exchange(v, step):
    """The number from the thread whose lane differs by the bit `step`; all lanes of the warp take part."""
    return _shuffled(v, _ACROSS, step, WARP - 1)


def from_next(v: Value) -> Value:
    """The number from the next lane of the warp; the last lane gets its own."""
    return _shuffled(v, _DOWN, 1, WARP - 1)


def from_previous(v: Value) -> Value:
    """The number from the previous lane of the warp; the first lane gets its own."""
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
    """The pointer to `count` numbers in shared memory; each name has one array."""
    module = v.builder.module
    if name not in module.globals:
        array = ir.GlobalVariable(module, ir.ArrayType(llvm_type(number), count), name, addrspace=_SHARED)
        array.linkage, array.align = "internal", WIDEST
        array.initializer = ir.Constant(array.value_type, ir.Undefined)
    return v.builder.gep(module.globals[name], [_INT(0), _INT(0)])


def dynamic_shared_memory(v: Value) -> ir.Value:
    """The pointer to the bytes of shared memory that were requested at launch."""
    module, name = v.builder.module, "dynamic_shared_memory"
    if name not in module.globals:
        array = ir.GlobalVariable(module, ir.ArrayType(ir.IntType(8), 0), name, addrspace=_SHARED)
        array.linkage, array.align = "external", WIDEST
    return v.builder.gep(module.globals[name], [_INT(0), _INT(0)])


def read_shared(v: types.Type, array: ir.Value, index: Value) -> Value:
    """Read a `v`, a number or a Vec, from position `index` of a shared array."""
    pointer, align = _shared_pointer(v, array, index)
    return index.emit(v, index.builder.load(pointer, align=align))


def write_shared(array: ir.Value, index: Value, value: Value) -> None:
    """Write a number or a Vec to position `index` of a shared array, where it is aligned to its size."""
    pointer, align = _shared_pointer(value.type, array, index)
    value.builder.store(value.ir, pointer, align=align)


def _shared_pointer(v: types.Type, array: ir.Value, index: Value) -> tuple[ir.Value, int]:
    t = llvm_type(v)
    at = index.builder.gep(array, [index.ir])
    size = (v.lanes * v.element.bitwidth if isinstance(v, Vec) else v.bitwidth) // 8
    return index.builder.bitcast(at, t.as_pointer(_SHARED)), min(WIDEST, size)
