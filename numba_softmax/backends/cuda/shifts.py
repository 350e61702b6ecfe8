"""Wide accesses to rows that do not begin at a whole vector.

A thread has elements ``i V`` to ``(i + 1) V`` of a row wherever the row lies, so that sums do not depend on that. In
memory these are the end of one aligned vector and the beginning of the next one. So each thread loads or stores an
aligned vector, and neighbours exchange the elements that are the other's. Only the ends of rows and of warps take
narrower accesses.
"""

from __future__ import annotations

from llvmlite import ir
from numba import int32, int64
from numba.core import types

from ... import kernel_code
from ...math.lanewise import Value, Vec, llvm_type
from ...math.memory import Stored, raw_type
from ...math.simd import select
from . import device, global_memory

kernel_code.register()


def can_shift(stored: Stored, lanes: int) -> bool:
    """True if vectors of `lanes` lanes consist of words that threads can exchange."""
    return stored.bytes in (2, 4, 8) and not stored.swapped and lanes * stored.bytes in (8, 16)


def load_shifted(
    v: Vec, stored: Stored, row: Value, position: Value, count: Value, lane: Value, lanes: int, fill: int
) -> Value:
    """The bits of the vector at a position of a row, as `global_memory.load_raw` returns them.

    `row` is the address of the row's first element, `lane` the thread's number among the `lanes` that have parts side
    by side.
    """
    size = v.lanes * stored.bytes
    offset, skipped = _offset(row, size, stored)
    here = row + position.cast(int64) * stored.bytes - offset.cast(int64)
    first = select(position == 0, skipped, 0)
    own = global_memory.load_raw(v, stored, here, count + skipped, size, True, fill, first)
    at_end = lane == lanes - 1
    rest = select(at_end, count + skipped - v.lanes, 0)
    beyond = _words(global_memory.load_raw(v, stored, here + size, rest, size, True, fill))
    own_words = _words(own)
    following = [select(at_end, b, device.from_next(w)) for b, w in zip(beyond, own_words, strict=True)]
    return _vector(raw_type(v, stored), _later(own_words + following, offset, stored))


def store_shifted(
    stored: Stored, row: Value, position: Value, raw: Value, count: Value, lane: Value, lanes: int
) -> None:
    """Write the first `count` elements of a vector at a position of a row; see `load_shifted`."""
    builder, size, n = raw.builder, raw.type.lanes * stored.bytes, raw.type.lanes
    offset, skipped = _offset(row, size, stored)
    there = row + position.cast(int64) * stored.bytes
    own = _words(raw)
    aligned = _vector(raw.type, _earlier([device.from_previous(w) for w in own] + own, offset, stored))
    # A vector is stored whole if all of it belongs to the row, and the neighbour's elements are available.
    whole = ((lane > 0) | (skipped == 0)) & ((position > 0) | (skipped == 0)) & (count + skipped >= n)
    next_whole = (lane < lanes - 1) & (count + skipped >= 2 * n)
    with builder.if_then(whole.ir):
        global_memory.store_words(there - offset.cast(int64), aligned, stored, size)
    with builder.if_then(builder.not_((whole & next_whole).ir)):
        for i in range(n):
            moved = select(skipped + i < n, whole, next_whole)
            with builder.if_then(builder.and_(builder.not_(moved.ir), (count > i).ir)):
                global_memory.store_element(there, raw, i, stored)


def _offset(row: Value, size: int, stored: Stored) -> tuple[Value, Value]:
    """The distance of a row's beginning from the multiple of `size` before it, in bytes and in elements."""
    offset = (row & (size - 1)).cast(int32)
    return offset, device.quotient_and_rest(offset, stored.bytes)[0]


def _words(raw: Value) -> list[Value]:
    """The bits of a vector in words of 32."""
    count = raw.type.lanes * raw.type.element.bitwidth // 32
    words = raw.builder.bitcast(raw.ir, ir.VectorType(ir.IntType(32), count))
    return [raw.emit(int32, raw.builder.extract_element(words, ir.IntType(32)(i))) for i in range(count)]


def _vector(t: types.Type, words: list[Value]) -> Value:
    """The vector of these words."""
    builder = words[0].builder
    result = ir.Constant(ir.VectorType(ir.IntType(32), len(words)), ir.Undefined)
    for i, word in enumerate(words):
        result = builder.insert_element(result, word.ir, ir.IntType(32)(i))
    return words[0].emit(t, builder.bitcast(result, llvm_type(t)))


def _later(words: list[Value], offset: Value, stored: Stored) -> list[Value]:
    """Half of these words: those that begin `offset` bytes after the first one."""
    half = len(words) // 2
    for step in _steps(half):
        moved = (offset & (4 * step)) != 0
        words = [select(moved, words[min(i + step, len(words) - 1)], word) for i, word in enumerate(words)]
    if stored.bytes >= 4:
        return words[:half]
    bits = (offset & 2) << 3
    return [device.funnel_right(words[i], words[i + 1], bits) for i in range(half)]


def _earlier(words: list[Value], offset: Value, stored: Stored) -> list[Value]:
    """Half of these words: those that begin `offset` bytes before the middle."""
    half = len(words) // 2
    for step in _steps(half):
        moved = (offset & (4 * step)) != 0
        words = [select(moved, words[max(i - step, 0)], word) for i, word in enumerate(words)]
    if stored.bytes >= 4:
        return words[half:]
    bits = (offset & 2) << 3
    return [device.funnel_left(words[i - 1], words[i], bits) for i in range(half, 2 * half)]


def _steps(half: int) -> tuple[int, ...]:
    """The distances in words by which a shift moves, one after the other."""
    return tuple(step for step in (2, 1) if step < half)
