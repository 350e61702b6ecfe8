"""SIMD for Numba: arithmetic, choices and exchanges of lanes on a `Vec`.

A ``Vec(element, lanes)`` lives in SIMD registers. It has the arithmetic and
comparison operators (a scalar operand is broadcast to the lanes) and the
functions here, which take plain floats as well where that makes sense. Loads and stores are in `memory`.

>>> import numba
>>> from numba_softmax.math import simd
>>> f64x4 = simd.Vec(numba.float64, 4)
>>> @numba.njit
... def largest_of(a, b):
...     return simd.largest_lane(simd.maximum(simd.splat(f64x4, a), simd.splat(f64x4, b)))
>>> largest_of(1.0, 2.0)
2.0

LLVM splits vectors that are wider than the machine's registers. Every operation
is rounded lane by lane, so the bits of a result do not depend on that width.
"""

from __future__ import annotations

from collections.abc import Callable

from llvmlite import ir
from numba.core import config, types
from numba.core.codegen import get_host_cpu_features

from .. import kernel_code
from .lanewise import (
    Value,
    Vec,
    alike,
    call_llvm,
    element,
    lanewise,
    llvm_suffix,
    llvm_type,
    shuffle_order,
    with_element,
)

kernel_code.register()

__all__ = [
    "Vec", "bitcast", "convert", "divide", "exchange", "first_lanes", "fma", "lane", "lanes_between", "largest_lane",
    "like", "maximum", "select", "splat", "transpose", "widen", "with_lane",
]  # fmt: skip


# ------------------------------------------------------------------- arithmetic


@lanewise
def fma(a, b, c):
    """``a * b + c``, rounded once on every machine that has a fused multiply-add."""
    a, b, c = alike(a, b, c)
    return a.emit(a.type, call_llvm(a.builder, f"llvm.fmuladd.{llvm_suffix(a.ir.type)}", a.ir.type, a.ir, b.ir, c.ir))


def has_fma(v: Value) -> bool:
    """True if `fma` rounds once on the machine that code is emitted for."""
    return machine_has(v, "+fma")


def machine_has(value: Value, feature: str) -> bool:
    """True if the machine that code is emitted for has this feature of x86, or is not an x86."""
    on_x86 = value.builder.module.triple.startswith(("x86", "i386", "i686"))
    features = get_host_cpu_features() if config.CPU_FEATURES is None else config.CPU_FEATURES
    return not on_x86 or feature in features.split(",")


@lanewise
def divide(a, b):
    """``a / b`` as IEEE 754 has it, without Python's check for zero."""
    return a / b


@lanewise
def select(mask, a, b):
    """`a` where `mask` is set, else `b`."""
    if not isinstance(a, Value) and not isinstance(b, Value):
        raise TypeError("one of the choices must have a type")
    a, b = alike(a, b)
    if isinstance(mask.type, Vec):
        a, b = (v.cast(mask.type.of(element(v.type))) for v in (a, b))
    return mask.emit(a.type, mask.builder.select(mask.ir, a.ir, b.ir))


def either(condition: Value, first: Callable[[], Value], second: Callable[[], Value]) -> Value:
    """The result of `first` if the condition is true, else of `second`; the other one's instructions are not run."""
    builder, values, blocks = condition.builder, [], []
    with builder.if_else(condition.ir) as branches:
        for branch, function in zip(branches, (first, second), strict=True):
            with branch:
                values.append(function())
                blocks.append(builder.block)
    phi = builder.phi(values[0].ir.type)
    for value, block in zip(values, blocks, strict=True):
        phi.add_incoming(value.ir, block)
    return values[0].emit(values[0].type, phi)


@lanewise
def maximum(a, b):
    """The larger of the two; `b` where either is NaN."""
    return select(a > b, a, b)


@lanewise
def larger(a, b):
    """The larger of the two; if one is NaN, either of them. On CUDA this is one instruction, `maximum` is two."""
    a, b = alike(a, b)
    if not is_on_cuda(a):
        return select(a > b, a, b)
    return lane_by_lane("llvm.nvvm.fmax." + ("f" if element(a.type) == types.float32 else "d"), a, b)


def is_on_cuda(v: Value) -> bool:
    """True if code is emitted for CUDA."""
    return v.builder.module.triple.startswith("nvptx")


def lane_by_lane(function: str, v: Value, *others: Value) -> Value:
    """The results of a function of numbers, given by its name in LLVM, for each lane."""
    if not isinstance(v.type, Vec):
        return v.emit(v.type, call_llvm(v.builder, function, v.ir.type, v.ir, *(other.ir for other in others)))
    result = v
    for i in range(v.type.lanes):
        result = with_lane(result, i, lane_by_lane(function, lane(v, i), *(lane(other, i) for other in others)))
    return result


@lanewise
def like(v, number):
    """`number` in the type of `v`, in every lane."""
    return alike(v, number)[1]


@lanewise
def splat(v, number):
    """`number` as a `v`, in every lane."""
    return number.cast(v)


@lanewise
def convert(v, value):
    """`value` in the element type of `v`: rounded to nearest, or to integers toward zero."""
    return value.cast(with_element(value.type, element(v)))


@lanewise
def widen(value):
    """`value` in float64."""
    return value.cast(with_element(value.type, types.float64))


@lanewise
def bitcast(v, value):
    """The bits of `value`, read as a `v`."""
    return value.emit(v, value.builder.bitcast(value.ir, llvm_type(v)))


# ------------------------------------------------------------------------ lanes


@lanewise
def first_lanes(v, count):
    """The mask of the first `count` lanes of a `v`."""
    numbers = ir.VectorType(ir.IntType(32), v.lanes)
    limit = count.cast(types.int32).cast(v.of(types.int32))
    return count.emit(
        v.of(types.boolean),
        count.builder.icmp_signed("<", ir.Constant(numbers, list(range(v.lanes))), limit.ir),
    )


@lanewise
def lanes_between(v, begin, end):
    """The mask of the lanes `begin` to `end` of a `v`; either may lie outside."""
    before, upto = first_lanes(v, begin), first_lanes(v, end)
    return upto.emit(upto.type, upto.builder.and_(upto.ir, upto.builder.not_(before.ir)))


@lanewise
def lane(v, i):
    """The value of lane `i`."""
    i = i.ir if isinstance(i, Value) else ir.IntType(32)(i)
    return v.emit(v.type.element, v.builder.extract_element(v.ir, i))


def with_lane(v: Value, i: int, value: Value) -> Value:
    """`v` with another value in lane `i`."""
    return v.emit(v.type, v.builder.insert_element(v.ir, value.ir, ir.IntType(32)(i)))


def exchange(v: Value, step: int) -> Value:
    """Each lane's value from the lane whose number differs by the bit `step`."""
    order = shuffle_order([i ^ step for i in range(v.type.lanes)])
    return v.emit(v.type, v.builder.shuffle_vector(v.ir, v.ir, order))


def halvings(lanes: int) -> list[int]:
    """The lane distances of a pairwise reduction over `lanes` lanes: ``lanes / 2``, and so on down to 1."""
    return [1 << k for k in reversed(range(lanes.bit_length() - 1))]


@lanewise
def largest_lane(v):
    """The maximum of all lanes."""
    for step in halvings(v.type.lanes):
        v = maximum(v, exchange(v, step))
    return lane(v, 0)


@lanewise
def transpose(vectors):
    """The transpose of a square matrix, whose rows are vectors, by exchanging ever smaller quarters."""
    rows = list(vectors)
    builder, lanes = rows[0].builder, len(rows)
    for step in halvings(lanes):
        upper = shuffle_order([lanes + (i ^ step) if i & step else i for i in range(lanes)])
        lower = shuffle_order([lanes + i if i & step else i ^ step for i in range(lanes)])
        for i in range(lanes):
            if not i & step:
                a, b = rows[i], rows[i ^ step]
                rows[i] = a.emit(a.type, builder.shuffle_vector(a.ir, b.ir, upper))
                rows[i ^ step] = a.emit(a.type, builder.shuffle_vector(a.ir, b.ir, lower))
    return tuple(rows)
