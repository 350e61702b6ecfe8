"""The kernel for contiguous rows of at most a chunk, whose weights are kept until their sum is known.

Rows of one block are computed in groups, longer ones one by one. While the
blocks of a group are read, the results of the previous group are written: the
memory is kept busy in both directions, and the dependency chain from sums to
results is complete when they are needed:

    group 0        read, fold
    group 1        read, fold      write group 0
    group 2        read, fold      write group 1
    ...
                                   write the last group
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from .... import kernel_code
from ....math.memory import fence
from ...spec import Spec, make_scale
from ..basics import AHEAD, BLOCK, GROUP, VECTOR_BYTES, aligned_address, inlined, jit, lanes_of, own_format, release
from ..blocks import make_blocks
from ..group import make_group
from ..layout import N, make_beyond, make_places, word

kernel_code.register()


class RowFunctions(NamedTuple):
    """Jitted functions over a contiguous row of a group; see `make_row_functions`."""

    weights_bytes: Callable  # (n) -> the bytes of a row's weights
    fold_row: Callable
    fold_and_write_row: Callable
    write_row: Callable
    weigh_again: Callable


def make_row_functions(spec: Spec) -> RowFunctions:
    """The functions for row `i` of the group at `room`; `at` are the row's addresses."""
    group, beyond, size = make_group(spec), make_beyond(spec, spec.formats), own_format(spec.number).bytes
    block_maximum, block_sums, finish_block, finish_and_sum, _ = make_blocks(spec, spec.formats)
    keep_sums, keep_row, finisher_at = group.keep_sums, group.keep_row, group.finisher_at
    maximum_at, against_at = group.maximum_at, group.against_at
    lanes, of_softmax, weights_at = lanes_of(spec.number), spec.of_softmax, group.nbytes

    @inlined
    def weights_bytes(n):
        return -(-n // lanes) * VECTOR_BYTES if of_softmax else 0

    @inlined
    def weights_of(room, n, i, start):
        """The address of a row's kept weights, from element `start` on."""
        return room + weights_at + i * weights_bytes(n) + start * size if of_softmax else 0

    @inlined
    def fold_row(at, layout, room, i, scale, ahead):
        n = word(layout, N)
        for start in range(0, max(n, 1), BLOCK):
            block, k, count = beyond(at, start), i + start // BLOCK, min(BLOCK, n - start)
            m = block_maximum(block, count, scale)
            sums = block_sums(block, weights_of(room, n, i, start), count, m, scale, ahead)
            keep_sums(room, k, m, sums)
            keep_row(room, k, at, layout)

    @inlined
    def fold_and_write_row(before, at, layout, room, i, scale, ahead):
        """`fold_row`, and `write_row` of the row `before`, which had the same place in the previous group."""
        n = word(layout, N)
        for start in range(0, max(n, 1), BLOCK):
            block, k, count = beyond(at, start), i + start // BLOCK, min(BLOCK, n - start)
            m, weights = block_maximum(block, count, scale), weights_of(room, n, i, start)
            sums = finish_and_sum(
                weights, beyond(before, start), finisher_at(room, k), block, weights, count, m, scale, ahead
            )
            keep_sums(room, k, m, sums)
            keep_row(room, k, at, layout)

    @jit
    def write_row(at, layout, room, i, scale):
        n = word(layout, N)
        for start in range(0, n, BLOCK):
            prepared, count = finisher_at(room, i + start // BLOCK), min(BLOCK, n - start)
            finish_block(weights_of(room, n, i, start), beyond(at, start), count, prepared, scale)

    @jit
    def weigh_again(at, layout, room, scale, ahead):
        """Recompute the weights of blocks whose own maximum is far below the row's: a rescale would underflow."""
        n = word(layout, N)
        for start in range(0, n, BLOCK):
            m = against_at(room, start // BLOCK)
            if m != maximum_at(room, start // BLOCK):
                count = min(BLOCK, n - start)
                block_sums(beyond(at, start), weights_of(room, n, 0, start), count, m, scale, ahead)

    return RowFunctions(weights_bytes, fold_row, fold_and_write_row, write_row, weigh_again)


def make_rows(spec: Spec) -> Callable:
    """The kernel."""
    group, scale_of, row_at = make_group(spec), make_scale(spec), make_places(len(spec.operands)).row_at
    weights_bytes, fold_row, fold_and_write_row, write_row, weigh_again = make_row_functions(spec)
    clear, prepare_rows, prepare_blocks = group.clear, group.prepare_rows, group.prepare_blocks
    reduce_rows, store_row, reduce_blocks, nbytes = (
        group.reduce_rows,
        group.store_row,
        group.reduce_blocks,
        group.nbytes,
    )
    writes_rows, writes_elements, of_softmax = spec.writes_rows, spec.writes_elements, spec.of_softmax
    x_size, streaming = spec.sizes[spec.element_inputs[0]], spec.streaming

    @inlined
    def finish_group(addresses, layout, room, begin, end, scale, ahead):
        """Write the numbers of rows begin to end, and prepare their results an element."""
        at = row_at(addresses, layout, begin)
        if word(layout, N) <= BLOCK:
            if writes_rows:
                reduce_rows(room, scale)
                for row in range(begin, end):
                    store_row(room, row - begin, row_at(addresses, layout, row), layout)
            if writes_elements:
                prepare_rows(room, scale)
        else:
            if writes_rows:
                reduce_blocks(room, at, layout, scale)
            if writes_elements:
                prepare_blocks(room, scale)
                if of_softmax:
                    weigh_again(at, layout, room, scale, ahead)

    def rows(addresses, sign, factor, layout, first, last):
        n, scale = word(layout, N), scale_of(sign, factor)
        members = max(1, min(GROUP, BLOCK // max(n, 1)))
        ahead = max(AHEAD, min(n, BLOCK) * x_size)
        buffer = np.empty(VECTOR_BYTES + nbytes + members * weights_bytes(n), np.uint8)
        room = aligned_address(buffer)
        clear(room)
        end = first
        for begin in range(first, last, members):
            before, end = end, min(last, begin + members)
            for row in range(begin, end):
                at = row_at(addresses, layout, row)
                if writes_elements and begin > first:
                    fold_and_write_row(
                        row_at(addresses, layout, row - members), at, layout, room, row - begin, scale, ahead
                    )
                else:
                    fold_row(at, layout, room, row - begin, scale, ahead)
            if writes_elements and begin > first:  # the last group may have fewer rows than the one before
                for row in range(end - members, before):
                    write_row(row_at(addresses, layout, row), layout, room, row - (begin - members), scale)
            finish_group(addresses, layout, room, begin, end, scale, ahead)
        if writes_elements and first < last:
            begin = first + (last - first - 1) // members * members
            for row in range(begin, last):
                write_row(row_at(addresses, layout, row), layout, room, row - begin, scale)
        if streaming:
            fence(room)
        release(buffer)

    return rows
