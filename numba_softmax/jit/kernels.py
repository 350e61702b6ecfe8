"""Rows at addresses, for jitted code to compute in the calling thread: by the CPU's kernels, and with their bits."""

from __future__ import annotations

import functools
from collections.abc import Callable

import numpy as np
from llvmlite import ir

from ..backends.cpu.kernels import REGIMES
from ..backends.cpu.layout import words_of_one_row
from ..backends.cpu.rows import CHUNK, GROUP_BYTES, make_group
from ..backends.cpu.tiles import (
    AHEAD,
    BLOCK,
    VECTOR_BYTES,
    aligned_address,
    inlined,
    jit,
    make_tiles,
    own_format,
    release,
    weights_for,
)
from ..backends.spec import Spec, stored
from ..lanewise import Value, lanewise
from ..ops import OPS
from ..pairs import inverse
from ..simd import store, widen
from ..weights import block_state

STACK = 1 << 13
"""Bytes of weights that have room on the stack. From the heap it takes as long as the softmax of 100 elements."""


def _room(builder: ir.IRBuilder, kind: ir.Type, count: int) -> ir.Value:
    """Memory on the stack of the function that is compiled, until that returns; unlike Numba's, not filled."""
    with builder.goto_entry_block():
        room = builder.alloca(ir.ArrayType(kind, count))
        room.align = VECTOR_BYTES
    return room


def _address(like: Value, room: ir.Value) -> Value:
    return like.emit(like.type, like.builder.ptrtoint(room, like.ir.type))


@lanewise
def words_on_stack(words):
    """The address of a table of integers, all of the type of the first one."""
    builder, first = words[0].builder, words[0]
    room = _room(builder, first.ir.type, len(words))
    for i, number in enumerate(words):
        place = builder.gep(room, [ir.IntType(32)(0), ir.IntType(32)(i)])
        builder.store(number.cast(first.type).ir, place)
    return _address(first, room)


@lanewise
def weights_on_stack(n):
    """The address of `STACK` bytes."""
    return _address(n, _room(n.builder, ir.IntType(8), STACK))


@functools.cache
def body_of(regime: str, spec: Spec) -> Callable:
    """``f(x, y, layout, first, last)``: those rows, by that kernel."""
    body = jit(REGIMES[regime](spec))

    @jit
    def compute(x, y, layout, first, last):
        body(x, y, 0, 0, 1.0, 1.0, layout, first, last)

    return compute


def spec_of(name: str, x: str, y: str) -> Spec:
    """What an op's kernels are compiled for; formats are dtype names."""
    return Spec(OPS[name], x, y, masked=False, scaled=False, wide=False)


@functools.cache
def strided_row(spec: Spec) -> Callable:
    """``f(x, x_step, y, y_step, n)``: a row of any steps, in bytes."""
    gathered, words = body_of("gathered", spec), inlined(words_of_one_row)

    @jit
    def row(x, x_step, y, y_step, n):
        gathered(x, y, words_on_stack(words(n, x_step, y_step)), 0, 1)

    return row


@functools.cache
def contiguous_row(spec: Spec) -> Callable:
    """``f(x, y, n)``: a row whose elements, and results, lie side by side."""
    block, chunk, uses_weights = _block(spec), _chunk(spec), spec.op.uses_weights
    long_rows, words = body_of("long_rows", spec), inlined(words_of_one_row)
    x_size, y_size, size = stored(spec.x).bytes, stored(spec.y).bytes, own_format(spec.number).bytes

    @jit
    def long_row(x, y, n):
        long_rows(x, y, words_on_stack(words(n, x_size, y_size)), 0, 1)

    if not uses_weights:

        @jit
        def row(x, y, n):
            if n <= BLOCK:
                block(x, y, 0, n)
            else:
                long_row(x, y, n)

        return row

    @jit
    def from_heap(x, y, n):
        scratch = np.empty(VECTOR_BYTES + GROUP_BYTES + -(-n * size // VECTOR_BYTES) * VECTOR_BYTES, np.uint8)
        room = aligned_address(scratch)
        if n <= BLOCK:
            block(x, y, room, n)
        else:
            chunk(x, y, room, n)
        release(scratch)

    @jit
    def row_with_weights(x, y, n):
        if n * size <= STACK:
            block(x, y, weights_on_stack(n), n)
        elif n <= CHUNK:
            from_heap(x, y, n)
        else:
            long_row(x, y, n)

    return row_with_weights


def _block(spec: Spec) -> Callable:
    """``f(x, y, weights, n)``: a row of one block.

    It does what `rows` does with a group of such rows. For one row alone a
    group's table, and vectors with one row's sums in them, would take longer
    than all else.
    """
    op, number, two_parts = spec.op, spec.number, spec.two_parts
    uses_weights, reduces, prepare, finish_row = op.uses_weights, op.reduces, op.prepare, op.finish_row
    block_maximum, block_sums, finish_block, _, _ = make_tiles(spec, stored(spec.x))
    y_format, x_size = stored(spec.y), stored(spec.x).bytes
    unit_of = weights_for(spec).unit_of

    @jit
    def block(x, y, weights, n):
        m = block_maximum(x, 0, n, None)
        total, lost, less = block_sums(x, 0, weights, n, m, None, max(AHEAD, n * x_size))
        total = widen(total), (widen(lost) if two_parts else None)
        if uses_weights:
            hi, lo = prepare(number, inverse(*total))
            finish_block(weights, 0, y, n, (hi, lo, m), None)
        else:
            state = block_state(widen(m), total, widen(less), unit_of(m, None))
            if reduces:
                store(y_format, y, finish_row(state, None)[0])
            else:
                finish_block(x, 0, y, n, prepare(number, state), None)

    return block


def _chunk(spec: Spec) -> Callable:
    """``f(x, y, room, n)``: a row of several blocks, whose weights are kept; as `rows` does it, without other rows."""
    block_maximum, block_sums, finish_block, _, _ = make_tiles(spec, stored(spec.x))
    group = make_group(spec)
    clear, keep_sums, maximum_at, finish_blocks, prepared_at = (
        group.clear, group.keep_sums, group.maximum_at, group.finish_blocks, group.prepared_at
    )  # fmt: skip
    x_size, y_size, size = stored(spec.x).bytes, stored(spec.y).bytes, own_format(spec.number).bytes

    @jit
    def chunk(x, y, room, n):
        clear(room)
        for i in range(-(-n // BLOCK)):
            start = i * BLOCK
            xb, weights, count = x + start * x_size, room + GROUP_BYTES + start * size, min(BLOCK, n - start)
            m = block_maximum(xb, 0, count, None)
            keep_sums(room, i, m, block_sums(xb, 0, weights, count, m, None, BLOCK * x_size))
        finish_blocks(room, None)
        for i in range(-(-n // BLOCK)):
            start = i * BLOCK
            weights, count, prepared = room + GROUP_BYTES + start * size, min(BLOCK, n - start), prepared_at(room, i)
            if prepared[2] != maximum_at(room, i):  # to be weighed against another maximum than its own
                block_sums(x + start * x_size, 0, weights, count, prepared[2], None, BLOCK * x_size)
            finish_block(weights, 0, y + start * y_size, count, prepared, None)

    return chunk
