"""The work on one block of a row that lies contiguously in memory: lanes run along the row."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

from numba import types

from ... import kernel_code
from ...math.expmath import INF, float_format, rounded
from ...math.folds import sum_lanes
from ...math.lanewise import Value, lanewise
from ...math.simd import (
    Stored,
    Vec,
    convert,
    first_lanes,
    largest_lane,
    load,
    load_first,
    maximum,
    prefetch,
    prefetch_to_write,
    select,
    splat,
    store,
    store_first,
    stream,
)
from ...math.weights import narrow_frame_of, narrow_weigh, shift_of, weigh
from ..spec import Spec, make_finisher
from .basics import BOOL, VECTOR_BYTES, inlined, jit, lanes_of, own_format
from .layout import make_beyond

kernel_code.register()

AHEAD_TO_WRITE = 2048
"""Lines of results are prefetched so many bytes before their use, unless they are written past the caches."""


class Weighing(NamedTuple):
    """Functions that weigh elements: those of `weights`, or what is good for 16 bits."""

    frame_of: Callable
    weigh: Callable
    unit_of: Callable  # (m, scale) -> the unit of weights that were taken against m, which may be of a wider type


@functools.cache
def weights_for(spec: Spec) -> Weighing:
    """The functions for a kernel's elements."""
    frame_of = narrow_frame_of if spec.narrow else spec.op.fold.frame_of

    @lanewise
    def unit_of(m, scale):
        return frame_of(convert(spec.number, m), scale)[1]

    return Weighing(frame_of, narrow_weigh if spec.narrow else weigh, unit_of)


class Access(NamedTuple):
    """`lanewise` access to the elements of a block: those from `j` on, `width` of them or, if that is None, a vector.

    `at` are the addresses of the block, row operands included.
    """

    beyond: Callable  # (at, j) -> the addresses from element j on
    read: Callable  # (at, j, width, scale) -> the element that is folded, and a tuple of the others
    read_to_finish: Callable  # (z, at, j, width, scale) -> the same: weights at `z`, or elements with no mask seen to
    write: Callable  # (at, j, width, results) -> nothing


@functools.cache
def make_access(spec: Spec, formats: tuple[Stored, ...]) -> Access:
    """The functions for operands in these formats."""
    own, vec = own_format(spec.number), Vec(spec.number, lanes_of(spec.number))
    mask_vec, selects = vec.of(types.boolean), spec.masked and make_finisher(spec).selects
    beyond = make_beyond(spec, formats)

    def part(v: types.Type, stored: Stored, address: Value, width: Any) -> Value:
        return load(v, stored, address) if width is None else load_first(v, stored, address, width)

    def mask_of(at: Any, width: Any) -> Any:
        if spec.masked:
            return part(mask_vec, BOOL, at[spec.mask], width)
        return None if width is None else first_lanes(vec, width)

    def element_of(at: Any, width: Any, scale: Any) -> Value:
        v = part(vec, formats[spec.elements[0]], at[spec.elements[0]], width)
        return v * scale[0] if spec.scaled else v

    def others_of(at: Any, width: Any) -> tuple[Value, ...]:
        return tuple(part(vec, formats[i], at[i], width) for i in spec.elements[1:])

    @lanewise
    def read(at, j, width, scale):
        at = beyond(at, j)
        keep, v, others = mask_of(at, width), element_of(at, width, scale), others_of(at, width)
        if spec.masked:
            others = tuple(select(keep, other, 0.0) for other in others)
        return (v if keep is None else select(keep, v, -INF)), others

    @lanewise
    def read_to_finish(z, at, j, width, scale):
        at = beyond(at, j)
        v = part(vec, own, z + j * own.bytes, width) if spec.of_softmax else element_of(at, width, scale)
        return v, others_of(at, width)

    @lanewise
    def write(at, j, width, results):
        at = beyond(at, j)
        for i, v in zip(spec.results, results, strict=True):
            if selects:
                v = select(mask_of(at, width), v, spec.operands[i].masked)
            if width is not None:
                store_first(formats[i], at[i], v, width)
            elif spec.streaming:
                stream(formats[i], at[i], v)
            else:
                store(formats[i], at[i], v)

    return Access(beyond, read, read_to_finish, write)


class BlockFunctions(NamedTuple):
    """Jitted functions over contiguous blocks; see `make_blocks`."""

    block_maximum: Callable
    block_sums: Callable
    finish_block: Callable
    finish_and_sum: Callable
    rewrite_block: Callable


@functools.cache
def make_blocks(spec: Spec, formats: tuple[Stored, ...]) -> BlockFunctions:
    """The block functions for operands in these formats; `at` are the addresses of a block.

    Sums are those of the fold, in float64 and without `up`. `weights` is where a block's weights are kept, or 0;
    `z` where they are read.
    """
    fold, block_maximum, finish_vector = spec.op.fold, _make_maximum(spec, formats), _make_finish(spec, formats)
    number, lanes, own = spec.number, lanes_of(spec.number), own_format(spec.number)
    vec, (frame_of, weigh, _) = Vec(number, lanes), weights_for(spec)
    _, read, _, _ = make_access(spec, formats)
    head_of, mask_results, prefetch_two, prefetch_results = _make_edges(spec, formats)
    down, size, results_of = 1.0 / float_format(number).up, own.bytes, make_finisher(spec).results
    write = make_access(spec, formats).write

    @lanewise
    def zero(m):
        return fold.zero(vec, m)

    @lanewise
    def add_vector(elements, j, weights, m, frame, scale, sums):
        """Add a vector, the elements from j on as `read` gives them, to the sums in each lane."""
        v, others = elements
        weight = weigh(v, frame, scale)
        if spec.of_softmax:
            with weights.builder.if_then((weights != 0).ir):
                store(own, weights + j * size, rounded(weight))
        return fold.add(sums, weight, v, m, others)

    @inlined
    def add_rest(at, weights, j, count, m, frame, scale, sums):
        """Add elements j to count."""
        while j + lanes <= count:
            sums = add_vector(read(at, j, None, scale), j, weights, m, frame, scale, sums)
            j += lanes
        if j < count:
            sums = add_vector(read(at, j, count - j, scale), j, weights, m, frame, scale, sums)
        return sums

    @lanewise
    def sums_of_lanes(sums):
        return sum_lanes(fold, sums, down)

    @jit
    def block_sums(at, weights, count, m, scale, ahead):
        """The sums of a block with the maximum `m`. The last vector of weights is a whole one."""
        m = number(shift_of(m))
        frame, _ = frame_of(m, scale)
        sums = zero(m)
        whole = count - count % (2 * lanes)
        for j in range(0, whole, 2 * lanes):
            prefetch_two(at, j, ahead)
            a, b = read(at, j, None, scale), read(at, j + lanes, None, scale)
            sums = add_vector(a, j, weights, m, frame, scale, sums)
            sums = add_vector(b, j + lanes, weights, m, frame, scale, sums)
        return sums_of_lanes(add_rest(at, weights, whole, count, m, frame, scale, sums))

    @jit
    def finish_block(z, at, count, finisher, scale):
        """Write a block's results from its weights or, of an op without weights, from its elements."""
        j = head_of(at, count)
        if j:
            finish_vector(z, at, 0, j, finisher, scale)
        while j + lanes <= count:
            finish_vector(z, at, j, None, finisher, scale)
            j += lanes
        if j < count:
            finish_vector(z, at, j, count - j, finisher, scale)
        mask_results(at, count, finisher)

    @jit
    def finish_and_sum(z, finished, finisher, at, weights, count, m, scale, ahead):
        """`finish_block` of the block `finished` and `block_sums` of another that is as long, in one loop.

        The memory then has results to take while elements are computed with.
        The weights of both blocks may lie in the same place: `z` is read ahead of
        what `weights` gets.
        """
        m = number(shift_of(m))
        frame, _ = frame_of(m, scale)
        sums = zero(m)
        head = head_of(finished, count)
        if head:
            finish_vector(z, finished, 0, head, finisher, scale)
        both = (count - head) // (2 * lanes) * (2 * lanes)
        for j in range(0, both, 2 * lanes):
            prefetch_two(at, j, ahead)
            prefetch_results(finished, j)
            a, b = read(at, j, None, scale), read(at, j + lanes, None, scale)
            finish_vector(z, finished, head + j, None, finisher, scale)
            finish_vector(z, finished, head + j + lanes, None, finisher, scale)
            sums = add_vector(a, j, weights, m, frame, scale, sums)
            sums = add_vector(b, j + lanes, weights, m, frame, scale, sums)
        j = head + both
        while j + lanes <= count:
            finish_vector(z, finished, j, None, finisher, scale)
            j += lanes
        if j < count:
            finish_vector(z, finished, j, count - j, finisher, scale)
        mask_results(finished, count, finisher)
        return sums_of_lanes(add_rest(at, weights, both, count, m, frame, scale, sums))

    @lanewise
    def rewrite_vector(at, j, width, frame, finisher, scale):
        """Write the results of a vector, or of its first elements, from these."""
        v, others = read(at, j, width, scale)
        if spec.of_softmax:
            v = rounded(weigh(v, frame, scale))
        write(at, j, width, results_of(v, others, finisher, scale, None))

    @jit
    def rewrite_block(at, count, m, finisher, scale, ahead):
        """Write a block's results from its elements, which are weighed against `m`."""
        frame, _ = frame_of(number(m), scale)
        j = head_of(at, count)
        if j:
            rewrite_vector(at, 0, j, frame, finisher, scale)
        while j + 2 * lanes <= count:
            prefetch_two(at, j, ahead)
            rewrite_vector(at, j, None, frame, finisher, scale)
            rewrite_vector(at, j + lanes, None, frame, finisher, scale)
            j += 2 * lanes
        if j + lanes <= count:
            rewrite_vector(at, j, None, frame, finisher, scale)
            j += lanes
        if j < count:
            rewrite_vector(at, j, count - j, frame, finisher, scale)
        mask_results(at, count, finisher)

    return BlockFunctions(block_maximum, block_sums, finish_block, finish_and_sum, rewrite_block)


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
    def finish_vector(z, at, j, width, finisher, scale):
        v, others = access.read_to_finish(z, at, j, width, scale)
        access.write(at, j, width, results_of(v, others, finisher, scale, None))

    return finish_vector


def _make_edges(spec: Spec, formats: tuple[Stored, ...]) -> tuple[Callable, Callable, Callable, Callable]:
    """Jitted functions for what is not a vector's arithmetic: where streaming begins, NaN under a mask, prefetching."""
    lanes, beyond = lanes_of(spec.number), make_access(spec, formats).beyond
    vec = Vec(spec.number, lanes)
    x, written, sizes = spec.elements[:1], spec.results, [f.bytes for f in formats]
    masks_nans = spec.masked and bool(written) and not make_finisher(spec).selects
    streamed = lanes * sizes[written[0]] if spec.streaming else 0

    @lanewise
    def address(at):
        return at[written[0]]

    @inlined
    def head_of(at, count):
        """How many elements come before the first one that a streamed vector may begin with."""
        return min(count, -address(at) % streamed // (streamed // lanes)) if streamed else 0

    @lanewise
    def mask_vector(at, j, width):
        at = beyond(at, j)
        keep = load_first(vec.of(types.boolean), BOOL, at[spec.mask], width)
        for i in written:
            v = select(keep, load_first(vec, formats[i], at[i], width), spec.operands[i].masked)
            store_first(formats[i], at[i], v, width)

    @inlined
    def mask_results(at, count, finisher):
        """Put what masked elements have after the results of a block.

        No weight means no share, unless that is NaN: only then there is something to do.
        """
        if masks_nans and finisher[0] - finisher[0] != 0.0:
            for j in range(0, count, lanes):
                mask_vector(at, j, min(lanes, count - j))

    @lanewise
    def prefetch_two(at, j, ahead):
        """Prefetch two vectors of elements, `ahead` bytes before they are read."""
        for i in x:
            for line in range(0, 2 * lanes * sizes[i], VECTOR_BYTES):
                prefetch(at[i] + j * sizes[i] + ahead + line)

    @lanewise
    def prefetch_results(at, j):
        """Prefetch two vectors of results, unless they are written past the caches."""
        for i in () if spec.streaming else written:
            for line in range(0, 2 * lanes * sizes[i], VECTOR_BYTES):
                prefetch_to_write(at[i] + j * sizes[i] + AHEAD_TO_WRITE + line)

    return head_of, mask_results, prefetch_two, prefetch_results
