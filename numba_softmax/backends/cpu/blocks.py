"""The work on one block of a row that lies contiguously in memory: lanes run along the row.

block_maximum      x -> the maximum
block_sums         x, others -> sums; weights are kept, if they are given memory
finish_block       weights (or x), others -> results
finish_and_sum     finish_block of one block and block_sums of another, in one loop
rewrite_block      x, others -> results, where weights were not kept
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import NamedTuple

from ... import kernel_code
from ...math.expmath import INF, float_format, rounded
from ...math.folds import sum_lanes
from ...math.lanewise import lanewise
from ...math.memory import Stored, store
from ...math.simd import Vec, largest_lane, maximum, splat
from ...math.weights import shift_of
from ..spec import Spec, make_finisher
from .access import make_access, make_block_ends, weights_for
from .basics import inlined, jit, lanes_of, own_format

kernel_code.register()


class BlockFunctions(NamedTuple):
    """Jitted functions over contiguous blocks; see `make_blocks`."""

    block_maximum: Callable
    block_sums: Callable
    finish_block: Callable
    finish_and_sum: Callable
    rewrite_block: Callable


class Summing(NamedTuple):
    """Functions that add vectors to the sums in each lane; see `make_summing`."""

    zero: Callable  # (m) -> the sums of no elements
    add_vector: Callable  # (elements, j, weights, m, frame, scale, sums) -> the sums with those that `read` gave for j
    add_rest: Callable  # (at, weights, j, count, m, frame, scale, sums) -> the sums with elements j to count
    close: Callable  # (sums) -> those of all lanes, in float64 and without `up`


@functools.cache
def make_blocks(spec: Spec, formats: tuple[Stored, ...]) -> BlockFunctions:
    """The block functions for operands in these formats; `at` are the addresses of a block.

    `weights` is the address at which a block's weights are kept, or 0; `z` is the one from which they are read.
    """
    number, lanes, frame_of = spec.number, lanes_of(spec.number), weights_for(spec).frame_of
    zero, add_vector, add_rest, close = make_summing(spec, formats)
    read, finish_vector = make_access(spec, formats).read, _make_finish(spec, formats)
    head_of, mask_results, prefetch_two, prefetch_results = make_block_ends(spec, formats)

    @jit
    def block_sums(at, weights, count, m, scale, ahead):
        """The sums of a block with the maximum `m`. The last vector of weights is written whole."""
        m = number(shift_of(m))
        frame, _ = frame_of(m, scale)
        sums = zero(m)
        whole = count - count % (2 * lanes)
        for j in range(0, whole, 2 * lanes):
            prefetch_two(at, j, ahead)
            a, b = read(at, j, None, scale), read(at, j + lanes, None, scale)
            sums = add_vector(a, j, weights, m, frame, scale, sums)
            sums = add_vector(b, j + lanes, weights, m, frame, scale, sums)
        return close(add_rest(at, weights, whole, count, m, frame, scale, sums))

    @jit
    def finish_block(z, at, count, prepared, scale):
        """Write a block's results from its weights or, of an op without weights, from its elements."""
        j = head_of(at, count)
        if j:
            finish_vector(z, at, 0, j, prepared, scale)
        while j + lanes <= count:
            finish_vector(z, at, j, None, prepared, scale)
            j += lanes
        if j < count:
            finish_vector(z, at, j, count - j, prepared, scale)
        mask_results(at, count, prepared)

    @jit
    def finish_and_sum(z, finished, prepared, at, weights, count, m, scale, ahead):
        """`finish_block` of the block `finished` and `block_sums` of another that is as long, in one loop.

        So results are written to memory while elements are computed. The weights of both blocks may lie in the same
        place: `z` is read before `weights` is written.
        """
        m = number(shift_of(m))
        frame, _ = frame_of(m, scale)
        sums = zero(m)
        head = head_of(finished, count)
        if head:
            finish_vector(z, finished, 0, head, prepared, scale)
        both = (count - head) // (2 * lanes) * (2 * lanes)
        for j in range(0, both, 2 * lanes):
            prefetch_two(at, j, ahead)
            prefetch_results(finished, j)
            a, b = read(at, j, None, scale), read(at, j + lanes, None, scale)
            finish_vector(z, finished, head + j, None, prepared, scale)
            finish_vector(z, finished, head + j + lanes, None, prepared, scale)
            sums = add_vector(a, j, weights, m, frame, scale, sums)
            sums = add_vector(b, j + lanes, weights, m, frame, scale, sums)
        j = head + both
        while j + lanes <= count:
            finish_vector(z, finished, j, None, prepared, scale)
            j += lanes
        if j < count:
            finish_vector(z, finished, j, count - j, prepared, scale)
        mask_results(finished, count, prepared)
        return close(add_rest(at, weights, both, count, m, frame, scale, sums))

    maximum_of, rewrite = _make_maximum(spec, formats), _make_rewrite(spec, formats)
    return BlockFunctions(maximum_of, block_sums, finish_block, finish_and_sum, rewrite)


def make_summing(spec: Spec, formats: tuple[Stored, ...]) -> Summing:
    """The functions for a kernel's fold."""
    fold, lanes, own = spec.op.fold, lanes_of(spec.number), own_format(spec.number)
    vec, read, weigh = Vec(spec.number, lanes), make_access(spec, formats).read, weights_for(spec).weigh
    down = 1.0 / float_format(spec.number).up

    @lanewise
    def zero(m):
        return fold.zero(vec, m)

    @lanewise
    def add_vector(elements, j, weights, m, frame, scale, sums):
        v, others = elements
        weight = weigh(v, frame, scale)
        if spec.of_softmax:
            with weights.builder.if_then((weights != 0).ir):
                store(own, weights + j * own.bytes, rounded(weight))
        return fold.add(sums, weight, v, m, others)

    @inlined
    def add_rest(at, weights, j, count, m, frame, scale, sums):
        while j + lanes <= count:
            sums = add_vector(read(at, j, None, scale), j, weights, m, frame, scale, sums)
            j += lanes
        if j < count:
            sums = add_vector(read(at, j, count - j, scale), j, weights, m, frame, scale, sums)
        return sums

    @lanewise
    def close(sums):
        return sum_lanes(fold, sums, down)

    return Summing(zero, add_vector, add_rest, close)


def _make_maximum(spec: Spec, formats: tuple[Stored, ...]) -> Callable:
    """A jitted function: the maximum of a block."""
    lanes, read = lanes_of(spec.number), make_access(spec, formats).read
    vec = Vec(spec.number, lanes)

    @lanewise
    def larger(at, j, width, scale, m):
        return maximum(read(at, j, width, scale)[0], m)

    @jit
    def block_maximum(at, count, scale):
        a = splat(vec, -INF)
        b, c, d = a, a, a
        j = 0
        while j + 4 * lanes <= count:
            a = larger(at, j, None, scale, a)
            b = larger(at, j + lanes, None, scale, b)
            c = larger(at, j + 2 * lanes, None, scale, c)
            d = larger(at, j + 3 * lanes, None, scale, d)
            j += 4 * lanes
        while j < count:
            a = larger(at, j, min(lanes, count - j), scale, a)
            j += lanes
        return largest_lane(maximum(maximum(a, b), maximum(c, d)))

    return block_maximum


def _make_finish(spec: Spec, formats: tuple[Stored, ...]) -> Callable:
    """A `lanewise` function: writes the results of a vector, or of its first elements."""
    access, results_of = make_access(spec, formats), make_finisher(spec).results

    @lanewise
    def finish_vector(z, at, j, width, prepared, scale):
        v, others = access.read_to_finish(z, at, j, width, scale)
        access.write(at, j, width, results_of(v, others, prepared, scale, None))

    return finish_vector


def _make_rewrite(spec: Spec, formats: tuple[Stored, ...]) -> Callable:
    """A jitted function: writes a block's results from its elements, which are exponentiated against `m`."""
    number, lanes, access, results_of = (
        spec.number, lanes_of(spec.number), make_access(spec, formats), make_finisher(spec).results
    )  # fmt: skip
    frame_of, weigh, _ = weights_for(spec)
    head_of, mask_results, prefetch_two, _ = make_block_ends(spec, formats)

    @lanewise
    def rewrite_vector(at, j, width, frame, prepared, scale):
        v, others = access.read(at, j, width, scale)
        if spec.of_softmax:
            v = rounded(weigh(v, frame, scale))
        access.write(at, j, width, results_of(v, others, prepared, scale, None))

    @jit
    def rewrite_block(at, count, m, prepared, scale, ahead):
        frame, _ = frame_of(number(m), scale)
        j = head_of(at, count)
        if j:
            rewrite_vector(at, 0, j, frame, prepared, scale)
        while j + 2 * lanes <= count:
            prefetch_two(at, j, ahead)
            rewrite_vector(at, j, None, frame, prepared, scale)
            rewrite_vector(at, j + lanes, None, frame, prepared, scale)
            j += 2 * lanes
        if j + lanes <= count:
            rewrite_vector(at, j, None, frame, prepared, scale)
            j += lanes
        if j < count:
            rewrite_vector(at, j, count - j, frame, prepared, scale)
        mask_results(at, count, prepared)

    return rewrite_block
