"""Rows at addresses, computed by jitted code in the calling thread: with the CPU's kernels, and the same bits."""

from __future__ import annotations

import functools
from collections.abc import Callable

import numpy as np
from llvmlite import ir

from ..backends.cpu.access import weights_for
from ..backends.cpu.basics import AHEAD, BLOCK, CHUNK, VECTOR_BYTES, aligned_address, inlined, jit, own_format, release
from ..backends.cpu.blocks import make_blocks
from ..backends.cpu.group import make_group
from ..backends.cpu.kernels import REGIMES
from ..backends.cpu.layout import words_of_one_row
from ..backends.cpu.regimes.rows import make_row_functions
from ..backends.spec import Spec, make_finisher, operands_for
from ..math.lanewise import Value, lanewise
from ..math.memory import store
from ..math.pairs import inverse
from ..math.simd import widen
from ..ops import OPS

STACK = 1 << 13
"""Bytes of weights that fit on the stack. Allocating on the heap takes as long as the softmax of 100 elements."""


def _room(builder: ir.IRBuilder, kind: ir.Type, count: int) -> ir.Value:
    """Memory on the stack of the function that is compiled, until it returns; unlike Numba's, not initialised."""
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
    """``f(x, y, layout, first, last)``: computes the rows `first` to `last` by that regime's kernel."""
    body = jit(REGIMES[regime](spec))

    @jit
    def compute(x, y, layout, first, last):
        body((x, y), 1.0, 1.0, layout, first, last)

    return compute


def spec_of(name: str, x: str, y: str) -> Spec:
    """The `Spec` of an op's kernels; formats are dtype names."""
    return Spec(OPS[name], operands_for(OPS[name], x, y, False), False, False)


@functools.cache
def strided_row(spec: Spec) -> Callable:
    """``f(x, x_step, y, y_step, n)``: computes a row with any strides, given in bytes as `x_step` and `y_step`."""
    gathered, words = body_of("gathered", spec), inlined(words_of_one_row)

    @jit
    def row(x, x_step, y, y_step, n):
        gathered(x, y, words_on_stack(words(n, x_step, y_step)), 0, 1)

    return row


@functools.cache
def contiguous_row(spec: Spec) -> Callable:
    """``f(x, y, n)``: computes a row whose elements, and results, lie side by side."""
    block, chunk, nbytes = _block(spec), _chunk(spec), make_group(spec).nbytes
    long_rows, words = body_of("long_rows", spec), inlined(words_of_one_row)
    (x_size, y_size), size = spec.sizes, own_format(spec.number).bytes

    @jit
    def long_row(x, y, n):
        long_rows(x, y, words_on_stack(words(n, x_size, y_size)), 0, 1)

    if not spec.of_softmax:

        @jit
        def row(x, y, n):
            if n <= BLOCK:
                block(x, y, 0, n)
            else:
                long_row(x, y, n)

        return row

    @jit
    def from_heap(x, y, n):
        scratch = np.empty(VECTOR_BYTES + nbytes + -(-n * size // VECTOR_BYTES) * VECTOR_BYTES, np.uint8)
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
    """``f(x, y, weights, n)``: computes a row of one block.

    It does what `rows` does with a group of such rows. For a single row, a
    group's table, and vectors with only one row's sums in them, would take longer
    than everything else.
    """
    op = spec.op
    block_maximum, block_sums, finish_block, _, _ = make_blocks(spec, spec.formats)
    prepare, unit_of, x_size = make_finisher(spec).prepare, weights_for(spec).unit_of, spec.sizes[0]
    y_format, reduces = spec.formats[1], op.rows is not None

    def state_of(m, sums):
        return op.fold.block_state(widen(m), sums, unit_of(m, None))

    @lanewise
    def prepared(m, sums):
        share = inverse(*sums[:2]) if spec.of_softmax else None
        return prepare(share, state_of(m, sums), ())

    @lanewise
    def number_of(m, sums):
        return op.rows(state_of(m, sums), (), None)[0][0]

    @jit
    def block(x, y, weights, n):
        at = x, y
        m = block_maximum(at, n, None)
        sums = block_sums(at, weights, n, m, None, max(AHEAD, n * x_size))
        if reduces:
            store(y_format, y, number_of(m, sums))
        else:
            finish_block(weights, at, n, prepared(m, sums), None)

    return block


def _chunk(spec: Spec) -> Callable:
    """``f(x, y, room, n)``: computes a row of several blocks, whose weights are kept, as `rows` does for one row."""
    group = make_group(spec)
    clear, prepare_blocks = group.clear, group.prepare_blocks
    _, fold_row, _, write_row, weigh_again = make_row_functions(spec)
    ahead = BLOCK * spec.sizes[0]

    @jit
    def chunk(x, y, room, n):
        at = x, y
        layout = words_on_stack((0, n))
        clear(room)
        fold_row(at, layout, room, 0, None, ahead)
        prepare_blocks(room, None)
        weigh_again(at, layout, room, None, ahead)
        write_row(at, layout, room, 0, None)

    return chunk
