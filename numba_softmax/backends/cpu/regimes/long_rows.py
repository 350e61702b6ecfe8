"""Kernels for contiguous rows of any length, and for rows of any strides: they are read a second time to be written.

A thread folds a row chunk by chunk, merges the states of chunks in order, and writes the row. Where rows are fewer than
threads, these share them: chunks are folded, then merged by one thread, then written.

    chunk        | 0 | 1 | 2 | 3 |            | 0 | 1 | 2 | 3 |
    thread 0       fold     ...                 write   ...
    thread 1               fold    ...  merge           write   ...

Elements that are not side by side are gathered into scratch memory, a block at a time, and results scattered.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numba import float64

from .... import kernel_code
from ....math import online
from ....math.folds import merge_states, only, present, restored
from ....math.lanewise import lanewise
from ....math.memory import fence, load, store
from ....math.pairs import over
from ....math.simd import convert, widen
from ....math.weights import widen_scale
from ...spec import Spec, make_finisher, make_scale
from ..access import weights_for
from ..basics import BLOCK, CHUNK, FLOAT64, VECTOR_BYTES, aligned_address, inlined, jit, release
from ..blocks import make_blocks
from ..group import make_group
from ..layout import ROWS, N, make_beyond, make_gather, make_places, make_row_numbers, word

kernel_code.register()


class Chunks(NamedTuple):
    """Jitted functions over a piece of a row, at most a chunk to fold; `at` are the addresses of the row."""

    nbytes: int  # of scratch memory, which begins with a group
    fold: Callable  # (at, layout, room, start, stop, scale) -> the state of these elements
    write: Callable  # (at, layout, room, start, stop, state, scale): writes their results
    reduce: Callable  # (at, layout, state, scale): writes the row's numbers
    merge: Callable  # (state, state, scale) -> state


def make_chunks(spec: Spec, gathered: bool) -> Chunks:
    """The functions for contiguous rows, or for gathered ones."""
    op, fold = spec.op, spec.op.fold
    places, group = make_gather(spec), make_group(spec)
    gather, scatter, block_at = places.gather, places.scatter, places.block_at
    formats = places.formats if gathered else spec.formats
    block_maximum, block_sums, _, _, rewrite_block = make_blocks(spec, formats)
    beyond, row_numbers, prepare_block = make_beyond(spec, formats), make_row_numbers(spec), _make_prepare(spec)
    clear, keep_sums, keep_row, prepare_rows = group.clear, group.keep_sums, group.keep_row, group.prepare_rows
    finisher_at, state_of_blocks, blocks_at = group.finisher_at, group.state_of_blocks, group.nbytes
    ahead = 0 if gathered else BLOCK * formats[spec.element_inputs[0]].bytes
    of_softmax = spec.of_softmax

    @inlined
    def block_of(at, layout, room, start, count, there):
        if gathered:
            if not there:
                gather(at, layout, start, count, room + blocks_at)
            return block_at(at, room + blocks_at)
        return beyond(at, start)

    @jit
    def fold_chunk(at, layout, room, start, stop, scale):
        clear(room)
        for first in range(start, stop, BLOCK):
            count = min(BLOCK, stop - first)
            block = block_of(at, layout, room, first, count, False)
            m = block_maximum(block, count, scale)
            keep_sums(room, (first - start) // BLOCK, m, block_sums(block, 0, count, m, scale, ahead))
        return state_of_blocks(room, scale)

    @jit
    def write(at, layout, room, start, stop, state, scale):
        there = word(layout, N) <= BLOCK  # where `fold` has just gathered it: such rows are not split
        for first in range(start, stop, BLOCK):
            count = min(BLOCK, stop - first)
            block = block_of(at, layout, room, first, count, there)
            if of_softmax and there:  # for the same bits as all rows of one block
                keep_row(room, 0, at, layout)
                prepare_rows(room, scale)
                m, prepared = first_number(state), finisher_at(room, 0)
            else:
                own = block_maximum(block, count, scale) if of_softmax else first_number(state)
                m, prepared = prepare_block(own, state, row_of(at, layout), scale)
            rewrite_block(block, count, m, prepared, scale, ahead)
            if gathered:
                scatter(at, layout, first, count, room + blocks_at)

    @lanewise
    def first_number(state):
        return convert(spec.number, state[0])

    @lanewise
    def row_of(at, layout):
        return row_numbers.load(at, layout)

    @lanewise
    def reduce(at, layout, state, scale):
        row_numbers.store(at, layout, op.rows(state, row_numbers.load(at, layout), widen_scale(scale)))

    @lanewise
    def merge(a, b, scale):
        return merge_states(fold, a, b, widen_scale(scale))

    nbytes = VECTOR_BYTES + blocks_at + (places.nbytes if gathered else 0)
    return Chunks(nbytes, fold_chunk, write, reduce, merge)


def _make_prepare(spec: Spec) -> Callable:
    """A `lanewise` function: the maximum to subtract in a block, and the numbers of its finisher.

    It takes the block's own maximum, and the state and the numbers of its row.
    """
    finisher, unit_of = make_finisher(spec), weights_for(spec).unit_of

    @lanewise
    def prepare_block(own, state, row, scale):
        if not spec.of_softmax:
            return own, finisher.prepare(None, state, row)
        m, share = online.rescaled_share(widen(own), state, widen_scale(scale))
        return convert(spec.number, m), finisher.prepare(over(share, unit_of(m, scale)), state, row)

    return prepare_block


def make_long_rows(spec: Spec, gathered: bool) -> Callable:
    """The kernel in which one thread folds a row and writes it; if `gathered`, for any strides."""
    scale_of, row_at = make_scale(spec), make_places(len(spec.operands)).row_at
    nbytes, fold, write, reduce, merge = make_chunks(spec, gathered)
    writes_rows, writes_elements, streaming = spec.writes_rows, spec.writes_elements, spec.streaming

    def long_rows(addresses, sign, factor, layout, first, last):
        n, scale = word(layout, N), scale_of(sign, factor)
        buffer = np.empty(nbytes, np.uint8)
        room = aligned_address(buffer)
        for row in range(first, last):
            at = row_at(addresses, layout, row)
            state = fold(at, layout, room, 0, min(n, CHUNK), scale)
            for start in range(CHUNK, n, CHUNK):
                state = merge(state, fold(at, layout, room, start, min(n, start + CHUNK), scale), scale)
            if writes_rows:
                reduce(at, layout, state, scale)
            if writes_elements:
                write(at, layout, room, 0, n, state, scale)
        if streaming:
            fence(room)
        release(buffer)

    return long_rows


@inlined
def chunk_of(task, n):
    """The row of a chunk, and the range of its elements."""
    chunks = -(-n // CHUNK)
    start = task % chunks * CHUNK
    return task // chunks, start, min(n, start + CHUNK)


def make_split_rows(spec: Spec, gathered: bool) -> tuple[Callable, Callable, Callable, int]:
    """The functions for few long rows, which fold chunks, merge the states of each row's chunks, and write chunks.

    The last value is the number of float64 that a state has in the array `states`.
    """
    scale_of, row_at = make_scale(spec), make_places(len(spec.operands)).row_at
    nbytes, fold, write, reduce, merge = make_chunks(spec, gathered)
    writes_rows, streaming, names, two_parts = spec.writes_rows, spec.streaming, spec.op.fold.state, spec.two_parts
    numbers = sum(present(names, two_parts))
    size = 8 * numbers

    @lanewise
    def state_at(address):
        return restored(names, two_parts, [load(float64, FLOAT64, address + 8 * k) for k in range(numbers)])

    @lanewise
    def keep_state(address, state):
        for k, number in enumerate(only(state)):
            store(FLOAT64, address + 8 * k, number)

    @jit
    def fold_chunks(addresses, sign, factor, layout, states, first, last):
        n, scale = word(layout, N), scale_of(sign, factor)
        buffer = np.empty(nbytes, np.uint8)
        room = aligned_address(buffer)
        for task in range(first, last):
            row, start, stop = chunk_of(task, n)
            state = fold(row_at(addresses, layout, row), layout, room, start, stop, scale)
            keep_state(states + task * size, state)
        release(buffer)

    @jit
    def merge_chunks(addresses, sign, factor, layout, states):
        """Store the state of each row in place of its first chunk's."""
        rows, chunks, scale = word(layout, ROWS), -(-word(layout, N) // CHUNK), scale_of(sign, factor)
        for row in range(rows):
            state = state_at(states + row * chunks * size)
            for c in range(row * chunks + 1, (row + 1) * chunks):
                state = merge(state, state_at(states + c * size), scale)
            keep_state(states + row * chunks * size, state)
            if writes_rows:
                reduce(row_at(addresses, layout, row), layout, state, scale)

    @jit
    def write_chunks(addresses, sign, factor, layout, states, first, last):
        """Write the last chunk first: it is the one most likely to be in the caches still."""
        n, scale = word(layout, N), scale_of(sign, factor)
        chunks = -(-n // CHUNK)
        buffer = np.empty(nbytes, np.uint8)
        room = aligned_address(buffer)
        for task in range(last - 1, first - 1, -1):
            row, start, stop = chunk_of(task, n)
            state = state_at(states + row * chunks * size)
            write(row_at(addresses, layout, row), layout, room, start, stop, state, scale)
        if streaming:
            fence(room)
        release(buffer)

    return fold_chunks, merge_chunks, write_chunks, numbers
