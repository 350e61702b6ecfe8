"""The work on a strip: rows that are neighbours in memory, some vectors wide, with lanes across the rows.

A block of each row is copied to scratch memory, into a tile for each input, and weights replace the elements there:
in the array itself, elements that lie a power of two apart would evict each other from the caches. Each lane does for
its row, in the same order, what `blocks` does with lanes along the row, so the bits are the same: element ``j`` of a
block goes to the sum ``j`` modulo lanes, and those sums are added pairwise.

    scratch memory   [ sums of a block | kept of vector 0 | kept of vector 1 | ... | tile of x | tile of v | ... ]
    kept             [ maxima | numbers of the finisher | state of the rows | states of a chunk's blocks ]
    tile             [ element 0: vector 0, vector 1, ... | element 1: ... | ... ]

``scratch = (room, tile, step, apart)`` are the addresses of what is kept of the first vector and of the first tile, and
the strides in bytes from a tile's element to the next one, and from a tile to the next one.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import NamedTuple

from numba import float64

from ... import kernel_code
from ...math import online
from ...math.expmath import float_format, rounded
from ...math.folds import added, merge_states, only, present, restored, widened, without_up
from ...math.lanewise import lanewise
from ...math.memory import load, prefetch, prefetch_to_write, store
from ...math.pairs import inverse, over
from ...math.simd import Vec, convert, like, widen
from ...math.weights import shift_of, widen_scale
from ..spec import Spec, make_finisher
from .access import weights_for
from .basics import FLOAT64, GROUP, VECTOR_BYTES, inlined, jit, lanes_of, own_format

kernel_code.register()


class Kept(NamedTuple):
    """Offsets in scratch memory; see `kept_for`."""

    sums_bytes: int  # bytes of all sums, which precede what is kept of the first vector
    sums_each: int  # bytes of the sums of one slot
    nbytes: int  # bytes that are kept of each vector
    finisher_at: int
    row_at: int  # the rows' states
    blocks_at: int  # those of a chunk's blocks
    state_bytes: int


def kept_for(spec: Spec) -> Kept:
    """The offsets for a kernel: vectors of the type to compute in, then states in float64.

    Until it is merged, the state of a block of weights is its maximum and sums.
    """
    lanes, fold = lanes_of(spec.number), spec.op.fold
    names = fold.sums[: len(fold.sums) - len(fold.counts)]
    numbers = max(sum(present(fold.state, spec.two_parts)), 1 + sum(present(fold.sums, spec.two_parts)))
    sums_each, state_bytes = 8 * lanes * sum(present(names, spec.two_parts)), 8 * lanes * numbers
    row_at = VECTOR_BYTES * (1 + make_finisher(spec).numbers)
    blocks_at = row_at + state_bytes
    nbytes = blocks_at + GROUP * state_bytes
    return Kept(lanes * sums_each, sums_each, nbytes, VECTOR_BYTES, row_at, blocks_at, state_bytes)


def tiles_of(spec: Spec) -> int:
    """The number of tiles of a strip: one for each input, and enough for the results."""
    return max(len(spec.element_inputs), len(spec.element_results))


class Memory(NamedTuple):
    """`lanewise` access to scratch memory; see `make_memory`."""

    get: Callable  # (at) -> a vector of the type to compute in
    put: Callable  # (at, v)
    get_others: Callable  # (at, apart) -> the vectors of the other inputs' tiles
    weigh_in_place: Callable  # (at, frame, scale) -> weights in parts, which replace the elements
    put_numbers: Callable  # (at, vectors): vectors of float64, one after the other
    get_named: Callable  # (names, at) -> the numbers of a fold with these names, stored from `at` on
    get_sums: Callable  # (at) -> a block's maximum and sums
    get_state: Callable  # (at)
    put_state: Callable  # (at, state)


@functools.cache
def make_memory(spec: Spec) -> Memory:
    """The functions for a kernel's numbers."""
    own, lanes, fold, weigh = own_format(spec.number), lanes_of(spec.number), spec.op.fold, weights_for(spec).weigh
    vec, vec64, size = Vec(spec.number, lanes), Vec(float64, lanes), 8 * lanes

    @lanewise
    def get(at):
        return load(vec, own, at)

    @lanewise
    def put(at, v):
        store(own, at, v)

    def get_others(at, apart):
        return tuple(get(at + apart * k) for k in range(1, len(spec.element_inputs)))

    @lanewise
    def weigh_in_place(at, frame, scale):
        weight = weigh(get(at), frame, scale)
        put(at, rounded(weight))
        return weight

    def put_numbers(at, vectors):
        for k, v in enumerate(vectors):
            store(FLOAT64, at + size * k, v)

    def get_named(names, at):
        numbers = [load(vec64, FLOAT64, at + size * k) for k in range(sum(present(names, spec.two_parts)))]
        return restored(names, spec.two_parts, numbers)

    def get_sums(at):
        m, *sums = get_named(("m", *fold.sums), at)
        return m, sums

    def get_state(at):
        return get_named(fold.state, at)

    def put_state(at, state):
        put_numbers(at, only(state))

    return Memory(get, put, get_others, weigh_in_place, put_numbers, get_named, get_sums, get_state, put_state)


class Strips(NamedTuple):
    """Jitted functions over strips; `kept` is the address of what is kept of a vector, `row` has its rows' numbers."""

    fold_tile: Callable  # (scratch, count, vectors, state_at, ask, scale): makes the states of a block's rows
    merge_blocks: Callable  # (blocks, vectors, room, first, scale): merges those of a chunk's blocks
    prepare_rows: Callable  # (kept, row, scale): prepares the finisher of rows of one block each
    prepare_block: Callable  # (kept, row, scale) -> the frame of one of several blocks; prepares its finisher
    finish_vector: Callable  # (at, apart, kept, scale) -> the results of the vector of the tiles at `at`
    finish_column: Callable  # (at, n, step, apart, kept, scale): replaces `n` vectors of the tiles by their results
    numbers_of_rows: Callable  # (kept, row, scale) -> numbers a row, of rows of one block each
    numbers_of_long_rows: Callable  # (kept, row, scale) -> those of longer rows


@functools.cache
def make_strips(spec: Spec, early: bool) -> Strips:
    """The functions. If `early`, cache lines of the next strip are prefetched while one is folded."""
    fold, kept = spec.op.fold, kept_for(spec)
    memory = make_memory(spec)
    get, get_state, put_state = memory.get, memory.get_state, memory.put_state
    sum_column, sum_pairwise = _make_sums(spec, early)
    of_softmax, unit_of = spec.of_softmax, weights_for(spec).unit_of
    nbytes, blocks_at, state_bytes, row_at, sums_bytes = (
        kept.nbytes, kept.blocks_at, kept.state_bytes, kept.row_at, kept.sums_bytes
    )  # fmt: skip

    @lanewise
    def keep_block(at, m, sums, counts, unit):
        """Store the state of a block or, of weights, its sums; see `kept_for`."""
        sums, m = (*sums, *(widen(v) for v in counts)), widen(m)
        if of_softmax:
            memory.put_numbers(at, [m, *only(sums)])
        else:
            put_state(at, fold.block_state(m, sums, unit))

    @jit
    def fold_tile(scratch, count, vectors, state_at, ask, scale):
        """Store the states of a block's rows in scratch memory, and weights in the tile.

        If `early`, cache lines are prefetched with each vector of elements: ``ask = (x, x_step, y, y_step)`` are the
        address of the first one to read and the stride to the next, and the same for those to write.
        """
        room, tile, step, apart = scratch
        sums = room - sums_bytes
        for c in range(vectors):
            asked = ask[0] + c * count * ask[1], ask[1], ask[2] + c * count * ask[3], ask[3]
            m = get(room + c * nbytes)
            counts, unit = sum_column(tile + c * VECTOR_BYTES, step, apart, count, m, sums, asked, scale)
            keep_block(room + c * nbytes + state_at, m, sum_pairwise(sums, count), counts, unit)

    @lanewise
    def state_of_sums(at, scale):
        """Replace the maximum and sums of a block by its state."""
        m, sums = memory.get_sums(at)
        put_state(at, fold.block_state(m, sums, unit_of(m, scale)))

    @lanewise
    def merge_into(a, b, scale):
        """Merge the state at `b` into that at `a`."""
        put_state(a, merge_states(fold, get_state(a), get_state(b), widen_scale(scale)))

    @lanewise
    def move_state(a, b):
        put_state(a, get_state(b))

    @jit
    def merge_blocks(blocks, vectors, room, first, scale):
        """Merge the states of a chunk's blocks pairwise, and the result into the state of what precedes the chunk."""
        for c in range(vectors):
            row, at = room + c * nbytes + row_at, room + c * nbytes + blocks_at
            if of_softmax:
                for k in range(blocks):
                    state_of_sums(at + k * state_bytes, scale)
            half = GROUP // 2
            while half:
                for k in range(min(half, blocks - half)):
                    merge_into(at + k * state_bytes, at + (k + half) * state_bytes, scale)
                half //= 2
            if first:
                move_state(row, at)
            else:
                merge_into(row, at, scale)

    return Strips(fold_tile, merge_blocks, *_make_finish(spec))


def _make_sums(spec: Spec, early: bool) -> tuple[Callable, Callable]:
    """Jitted functions: sum a block in a vector's rows, for each `j` modulo lanes; and add these sums pairwise."""
    fold, number, lanes, memory = spec.op.fold, spec.number, lanes_of(spec.number), make_memory(spec)
    vec, (frame_of, weigh, _), sums_each = Vec(number, lanes), weights_for(spec), kept_for(spec).sums_each
    get, weigh_in_place = memory.get, memory.weigh_in_place
    of_softmax, writes_elements = spec.of_softmax, spec.writes_elements
    ordered = len(fold.sums) - len(fold.counts)
    names, down = fold.sums[:ordered], 1.0 / float_format(number).up
    shortcut = fold.single is not None

    @lanewise
    def prefetch_early(j, ask):
        if early:
            prefetch(ask[0] + j * ask[1])
            if writes_elements:
                prefetch_to_write(ask[2] + j * ask[3])

    @lanewise
    def add_element(at, apart, m, frame, scale, column):
        """Add an element of each row to the sums, and replace it by its weight if the op is made of softmax."""
        v, others = get(at), memory.get_others(at, apart)
        weight = weigh_in_place(at, frame, scale) if of_softmax else weigh(v, frame, scale)
        return fold.add(column, weight, v, shift_of(m), others)

    @lanewise
    def zero(m):
        return fold.zero(vec, m)

    @lanewise
    def no_counts(m):
        return tuple(like(m, 0.0) for _ in fold.counts)

    @lanewise
    def keep_column(sums, slot, closed, counts):
        """Store the sums of a slot; return the counts so far."""
        memory.put_numbers(sums + slot * sums_each, only(widened(names, closed[:ordered])))
        return tuple(a + b for a, b in zip(counts, closed[ordered:], strict=True))

    @lanewise
    def closed_of(column):
        return fold.closed(column)

    @lanewise
    def single_at(at, frame, scale):
        return fold.single(weigh_in_place(at, frame, scale))

    @inlined
    def sum_column(at, step, apart, count, m, sums, ask, scale):
        """Store the sums of a block in `sums`; return its counts and unit."""
        frame, unit = frame_of(m, scale)
        counts = no_counts(m)
        for slot in range(min(count, lanes)):
            if shortcut and of_softmax and count <= lanes:
                prefetch_early(slot, ask)
                closed = single_at(at + slot * step, frame, scale)
            else:
                column = zero(m)
                for j in range(slot, count, lanes):
                    prefetch_early(j, ask)
                    column = add_element(at + j * step, apart, m, frame, scale, column)
                closed = closed_of(column)
            counts = keep_column(sums, slot, closed, counts)
        return counts, unit

    def sums_at(at):
        return memory.get_named(names, at)

    @lanewise
    def add_slots(a, b):
        memory.put_numbers(a, only(added(names, sums_at(a), sums_at(b))))

    @lanewise
    def first_sums(sums):
        return without_up(fold, sums_at(sums), down)

    @inlined
    def sum_pairwise(sums, count):
        """The pairwise sum of a block's sums; missing ones are skipped, which with lanes along a row are 0."""
        there, half = min(count, lanes), lanes // 2
        while half:
            for k in range(there - half):
                add_slots(sums + k * sums_each, sums + (k + half) * sums_each)
            there = min(there, half)
            half //= 2
        return first_sums(sums)

    return sum_column, sum_pairwise


def _make_finish(spec: Spec) -> tuple[Callable, ...]:
    """The functions that finish the rows of a vector, in the order of `Strips`."""
    op, fold, number, kept_at = spec.op, spec.op.fold, spec.number, kept_for(spec)
    finisher, memory, (frame_of, _, unit_of) = make_finisher(spec), make_memory(spec), weights_for(spec)

    def put_prepared(kept, prepared):
        for k, v in enumerate(prepared):
            memory.put(kept + (kept_at.finisher_at + VECTOR_BYTES * k), v)

    def share_and_state(kept, scale):
        """The share and the state of rows of one block each."""
        at = kept + kept_at.row_at
        if not spec.of_softmax:
            return None, memory.get_state(at)
        m, sums = memory.get_sums(at)
        return inverse(*sums[:2]), fold.block_state(m, sums, unit_of(m, scale))

    @lanewise
    def prepare_rows(kept, row, scale):
        put_prepared(kept, finisher.prepare(*share_and_state(kept, scale), row))

    @lanewise
    def prepare_block(kept, row, scale):
        state = memory.get_state(kept + kept_at.row_at)
        if not spec.of_softmax:
            put_prepared(kept, finisher.prepare(None, state, row))
            return None
        m, share = online.rescaled_share(widen(memory.get(kept)), state, widen_scale(scale))
        frame, unit = frame_of(convert(number, m), scale)
        put_prepared(kept, finisher.prepare(over(share, unit), state, row))
        return frame

    @lanewise
    def finish_vector(at, apart, kept, scale):
        prepared = tuple(memory.get(kept + (kept_at.finisher_at + VECTOR_BYTES * k)) for k in range(finisher.numbers))
        return finisher.results(memory.get(at), memory.get_others(at, apart), prepared, scale, None)

    @lanewise
    def finish_in_place(at, apart, kept, scale):
        for k, v in enumerate(finish_vector(at, apart, kept, scale)):
            memory.put(at + apart * k if k else at, v)

    @inlined
    def finish_column(at, n, step, apart, kept, scale):
        for j in range(n):
            finish_in_place(at + j * step, apart, kept, scale)

    @lanewise
    def numbers_of_rows(kept, row, scale):
        return op.rows(share_and_state(kept, scale)[1], row, widen_scale(scale))

    @lanewise
    def numbers_of_long_rows(kept, row, scale):
        return op.rows(memory.get_state(kept + kept_at.row_at), row, widen_scale(scale))

    return prepare_rows, prepare_block, finish_vector, finish_column, numbers_of_rows, numbers_of_long_rows
