"""The work on one block of a row that lies contiguously in memory: lanes run along the row."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import NamedTuple

from numba import int64, njit, types

from ... import kernel_code
from ...expmath import INF, float_format, rounded
from ...lanewise import lanewise
from ...pairs import sum_lanes, times
from ...simd import (
    Stored,
    Vec,
    convert,
    first_lanes,
    largest_lane,
    like,
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
from ...weights import narrow_frame_of, narrow_weigh, shift_of, weigh
from ..spec import Spec, stored

kernel_code.register()

BLOCK = 8192
"""Elements that are folded at once. The bits of a result depend on it, for every shape and layout alike."""

AHEAD = 8192
"""At least so many bytes before their use elements are asked for, while others are computed with."""

AHEAD_TO_WRITE = 2048
"""How many bytes before their use lines of results are asked for, unless they are written past the caches."""

VECTOR_BYTES = 64
"""On every CPU: LLVM splits vectors where registers are narrower, and the bits stay."""

BOOL = Stored("bool")

jit = functools.partial(
    njit, error_model="numpy", nogil=True, no_cpython_wrapper=True, no_cfunc_wrapper=True, fastmath=False
)
inlined = functools.partial(jit, forceinline=True)


@inlined
def aligned_address(array):
    """The address of the first whole vector in scratch memory."""
    address = int64(array.ctypes.data)
    return address + -address % VECTOR_BYTES


@inlined
def release(scratch):
    """Let go of scratch memory.

    Numba frees an array after its last mention, and where only its address is
    used further on, that is too early. So the last mention has to be this.
    """
    scratch[0] = 0


def own_format(number: types.Type) -> Stored:
    """How numbers of the compute type lie in scratch memory."""
    return Stored(number.name)


def lanes_of(number: types.Type) -> int:
    return VECTOR_BYTES * 8 // number.bitwidth


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


class Tiles(NamedTuple):
    """Jitted functions over contiguous blocks; see `make_tiles`."""

    block_maximum: Callable
    block_sums: Callable
    finish_block: Callable
    finish_and_sum: Callable
    rewrite_block: Callable


@functools.cache
def make_tiles(spec: Spec, x_format: Stored) -> Tiles:
    """The block functions for elements stored as `x_format`.

    Addresses are integers; `w` is the address of the mask's bytes, unused where
    the spec has none. Sums are ``(total, lost, less)``: what `block_state` takes.
    """
    op, number, masked, scaled, streaming = spec.op, spec.number, spec.masked, spec.scaled, spec.streaming
    own, lanes = own_format(number), lanes_of(number)
    vec = Vec(number, lanes)
    mask_vec = vec.of(types.boolean)
    y_format = stored(spec.y)
    size, x_size, y_size = own.bytes, x_format.bytes, y_format.bytes
    uses_weights, masked_value, finish = op.uses_weights, op.masked, op.finish
    down, (_, zero, add, closed, less) = 1.0 / float_format(number).up, op.fold
    frame_of, weigh, _ = weights_for(spec)
    z_format = own if uses_weights else x_format
    z_size = z_format.bytes
    stream_alignment = lanes * y_size

    @lanewise
    def read(x, w, j, width, scale):
        """Elements j to j + width of a block, or a whole vector of them if that is None; -inf elsewhere."""
        x, w = x + j * x_size, w + j
        v = load(vec, x_format, x) if width is None else load_first(vec, x_format, x, width)
        if scaled:
            v = v * scale[0]
        if masked:
            keep = load(mask_vec, BOOL, w) if width is None else load_first(mask_vec, BOOL, w, width)
        else:
            keep = None if width is None else first_lanes(vec, width)
        return v if keep is None else select(keep, v, -INF)

    @jit
    def block_maximum(x, w, count, scale):
        a = splat(vec, -INF)
        b, c, d = a, a, a
        j = 0
        while j + 4 * lanes <= count:
            a = maximum(read(x, w, j, None, scale), a)
            b = maximum(read(x, w, j + lanes, None, scale), b)
            c = maximum(read(x, w, j + 2 * lanes, None, scale), c)
            d = maximum(read(x, w, j + 3 * lanes, None, scale), d)
            j += 4 * lanes
        while j < count:
            a = maximum(read(x, w, j, min(lanes, count - j), scale), a)
            j += lanes
        return largest_lane(maximum(maximum(a, b), maximum(c, d)))

    @lanewise
    def add_vector(v, weights, j, m, frame, scale, sums):
        """Add the weights of a vector, the elements from j on, to the sums in each lane."""
        e = weigh(v, frame, scale)
        if uses_weights:
            with weights.builder.if_then((weights != 0).ir):
                store(own, weights + j * size, rounded(e))
        return add(sums, e, v, m)

    @inlined
    def add_rest(x, w, weights, j, count, m, frame, scale, sums):
        """Add the weights of elements j to count."""
        while j + lanes <= count:
            sums = add_vector(read(x, w, j, None, scale), weights, j, m, frame, scale, sums)
            j += lanes
        if j < count:
            sums = add_vector(read(x, w, j, count - j, scale), weights, j, m, frame, scale, sums)
        return sums

    @lanewise
    def sums_of_lanes(sums, m):
        total, lost, ties = closed(sums)
        total, lost = times(sum_lanes(total, lost), down)
        return total, lost, less(m, None if ties is None else sum_lanes(ties, like(ties, 0.0))[0])

    @jit
    def block_sums(x, w, weights, count, m, scale, ahead):
        """The sums of a block with the maximum `m`; its weights go to `weights`, if that is not 0.

        The last vector of weights is a whole one.
        """
        m = number(shift_of(m))
        frame, _ = frame_of(m, scale)
        sums = zero(vec, m)
        whole = count - count % (2 * lanes)
        for j in range(0, whole, 2 * lanes):
            prefetch_two(x, j, ahead)
            a, b = read(x, w, j, None, scale), read(x, w, j + lanes, None, scale)
            sums = add_vector(a, weights, j, m, frame, scale, sums)
            sums = add_vector(b, weights, j + lanes, m, frame, scale, sums)
        return sums_of_lanes(add_rest(x, w, weights, whole, count, m, frame, scale, sums), m)

    @lanewise
    def prefetch_two(x, j, ahead):
        """Prefetch two vectors of elements, `ahead` bytes before they are read."""
        for line in range(0, 2 * lanes * x_size, VECTOR_BYTES):
            prefetch(x + j * x_size + ahead + line)

    @lanewise
    def prefetch_results(y, j):
        """Prefetch two vectors of results, unless they are written past the caches."""
        for line in range(0, 0 if streaming else 2 * lanes * y_size, VECTOR_BYTES):
            prefetch_to_write(y + j * y_size + AHEAD_TO_WRITE + line)

    def put(y, w, j, width, v):
        """Write the results `v` of elements j to j + width, or, if that is None, of a whole vector."""
        y, w = y + j * y_size, w + j
        if masked and not uses_weights:
            keep = load(mask_vec, BOOL, w) if width is None else load_first(mask_vec, BOOL, w, width)
            v = select(keep, v, masked_value)
        if width is not None:
            store_first(y_format, y, v, width)
        elif streaming:
            stream(y_format, y, v)
        else:
            store(y_format, y, v)

    @lanewise
    def finish_vector(z, w, y, j, width, prepared, scale):
        """Write the results of elements j to j + width, or of a whole vector if that is None."""
        z = z + j * z_size
        v = load(vec, z_format, z) if width is None else load_first(vec, z_format, z, width)
        if scaled and not uses_weights:
            v = v * scale[0]
        put(y, w, j, width, finish(v, prepared, scale))

    @inlined
    def mask_results(y, w, count, prepared):
        """Put 0 where the mask says so, after the results of a block.

        No weight means no share, unless that is NaN: only then there is something to do.
        """
        if masked and uses_weights and prepared[0] - prepared[0] != 0.0:
            for j in range(0, count, lanes):
                width = min(lanes, count - j)
                keep = load_first(mask_vec, BOOL, w + j, width)
                v = select(keep, load_first(vec, y_format, y + j * y_size, width), masked_value)
                store_first(y_format, y + j * y_size, v, width)

    @inlined
    def head_of(y, count):
        """How many elements come before the first one that a streamed vector may begin with."""
        return min(count, -y % stream_alignment // y_size) if streaming else 0

    @jit
    def finish_block(z, w, y, count, prepared, scale):
        """Write a block's results to `y` from its weights or, for an op without weights, its elements."""
        j = head_of(y, count)
        if j:
            finish_vector(z, w, y, 0, j, prepared, scale)
        while j + lanes <= count:
            finish_vector(z, w, y, j, None, prepared, scale)
            j += lanes
        if j < count:
            finish_vector(z, w, y, j, count - j, prepared, scale)
        mask_results(y, w, count, prepared)

    @jit
    def finish_and_sum(z, wz, y, prepared, x, w, weights, count, m, scale, ahead):
        """`finish_block` of one block and `block_sums` of another that is as long, in one loop.

        The memory then has results to take while elements are computed with.
        The weights of both blocks may lie in the same place: `z` is read ahead of
        what `weights` gets.
        """
        m = number(shift_of(m))
        frame, _ = frame_of(m, scale)
        sums = zero(vec, m)
        head = head_of(y, count)
        if head:
            finish_vector(z, wz, y, 0, head, prepared, scale)
        both = (count - head) // (2 * lanes) * (2 * lanes)
        for j in range(0, both, 2 * lanes):
            prefetch_two(x, j, ahead)
            prefetch_results(y, j)
            a, b = read(x, w, j, None, scale), read(x, w, j + lanes, None, scale)
            finish_vector(z, wz, y, head + j, None, prepared, scale)
            finish_vector(z, wz, y, head + j + lanes, None, prepared, scale)
            sums = add_vector(a, weights, j, m, frame, scale, sums)
            sums = add_vector(b, weights, j + lanes, m, frame, scale, sums)
        j = head + both
        while j + lanes <= count:
            finish_vector(z, wz, y, j, None, prepared, scale)
            j += lanes
        if j < count:
            finish_vector(z, wz, y, j, count - j, prepared, scale)
        mask_results(y, wz, count, prepared)
        return sums_of_lanes(add_rest(x, w, weights, both, count, m, frame, scale, sums), m)

    @lanewise
    def rewrite_vector(x, w, y, j, width, frame, prepared, scale):
        """Write the results of elements j to j + width, or of a whole vector if that is None, from these elements."""
        v = read(x, w, j, width, scale)
        if uses_weights:
            v = rounded(weigh(v, frame, scale))
        put(y, w, j, width, finish(v, prepared, scale))

    @jit
    def rewrite_block(x, w, y, count, m, prepared, scale, ahead):
        """Write a block's results from its elements, when the row's maximum `m` is known."""
        frame, _ = frame_of(number(m), scale)
        j = head_of(y, count)
        if j:
            rewrite_vector(x, w, y, 0, j, frame, prepared, scale)
        while j + 2 * lanes <= count:
            prefetch_two(x, j, ahead)
            rewrite_vector(x, w, y, j, None, frame, prepared, scale)
            rewrite_vector(x, w, y, j + lanes, None, frame, prepared, scale)
            j += 2 * lanes
        if j + lanes <= count:
            rewrite_vector(x, w, y, j, None, frame, prepared, scale)
            j += lanes
        if j < count:
            rewrite_vector(x, w, y, j, count - j, frame, prepared, scale)
        mask_results(y, w, count, prepared)

    return Tiles(block_maximum, block_sums, finish_block, finish_and_sum, rewrite_block)
