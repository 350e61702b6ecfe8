"""The work on one block of a row that lies contiguously in memory: lanes run along the row."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

from numba import float32, float64, int64, njit, types

from ... import online
from ...expmath import float_format, two_sum
from ...ops import Op
from ...simd import (
    Stored,
    Vec,
    first_lanes,
    largest_lane,
    load,
    load_first,
    maximum,
    prefetch,
    select,
    splat,
    store,
    store_first,
    stream,
)

BLOCK = 2048
"""Elements that are folded at once. The bits of a result depend on it, for every shape and layout alike."""

PREFETCH = 8192
"""How many bytes before their use elements are asked for, while others are computed with."""

VECTOR_BYTES = 64
"""On every CPU: LLVM splits vectors where registers are narrower, and the bits stay."""

BOOL = Stored("bool")

jit = functools.partial(njit, error_model="numpy", nogil=True, no_cpython_wrapper=True, no_cfunc_wrapper=True)
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


class Spec(NamedTuple):
    """What a kernel is compiled for."""

    op: Op
    x: str  # names of Stored formats; a leading ">" for swapped bytes
    y: str
    masked: bool
    scaled: bool
    wide: bool  # compute in float64 in any case

    @property
    def number(self) -> Any:
        """The type to compute in."""
        return float32 if {self.x, self.y} <= _IN_FLOAT32 and not self.wide else float64

    @property
    def narrow(self) -> bool:
        """Whether results are rounded to 16 bits, from at most float32."""
        return self.y.removeprefix(">") in ("float16", "bfloat16") and self.number is float32


_IN_FLOAT32 = {order + name for order in ("", ">") for name in ("float16", "bfloat16", "float32")}


def own_format(number: types.Type) -> Stored:
    """How numbers of the compute type lie in scratch memory."""
    return Stored(number.name)


def lanes_of(number: types.Type) -> int:
    return VECTOR_BYTES * 8 // number.bitwidth


def stored(name: str) -> Stored:
    return Stored(name.removeprefix(">"), swapped=name.startswith(">"))


class Tiles(NamedTuple):
    """Jitted functions over contiguous blocks; see `make_tiles`."""

    block_maximum: Callable
    block_sums: Callable
    finish_block: Callable


def make_tiles(spec: Spec, x_format: Stored) -> Tiles:
    """The block functions for elements stored as `x_format`.

    Addresses are integers; `w` is the address of the mask's bytes, unused where
    the spec has none.
    """
    op, number, masked, scaled = spec.op, spec.number, spec.masked, spec.scaled
    own, size, lanes = own_format(number), number.bitwidth // 8, lanes_of(number)
    vec = Vec(number, lanes)
    mask_vec = vec.of(types.boolean)
    y_format = stored(spec.y)
    x_size, y_size = x_format.bits // 8, y_format.bits // 8
    uses_weights, masked_value, finish = op.uses_weights, op.masked, op.finish
    up = float_format(number).up
    start, down = up if uses_weights else 0.0, 1.0 / up
    weight = online.narrow_weight if spec.narrow else online.weight
    z_format = own if uses_weights else x_format
    z_size = z_format.bits // 8
    stream_alignment = VECTOR_BYTES * y_size // size

    @inlined
    def read(x, w, j, width, scale):
        """Elements j to j + width of a block, -inf elsewhere, and the lanes that count."""
        if width == lanes:
            v = load(vec, x_format, x + j * x_size)
            keep = load(mask_vec, BOOL, w + j) if masked else splat(mask_vec, True)
        else:
            v = load_first(vec, x_format, x + j * x_size, width)
            keep = load_first(mask_vec, BOOL, w + j, width) if masked else first_lanes(vec, width)
        if scaled:
            v = v * scale[0]
        return select(keep, v, -online.INF), keep

    @jit
    def block_maximum(x, w, count, scale):
        a = splat(vec, -online.INF)
        b, c, d = a, a, a
        j = 0
        while j + 4 * lanes <= count:
            a = maximum(read(x, w, j, lanes, scale)[0], a)
            b = maximum(read(x, w, j + lanes, lanes, scale)[0], b)
            c = maximum(read(x, w, j + 2 * lanes, lanes, scale)[0], c)
            d = maximum(read(x, w, j + 3 * lanes, lanes, scale)[0], d)
            j += 4 * lanes
        while j < count:
            a = maximum(read(x, w, j, min(lanes, count - j), scale)[0], a)
            j += lanes
        return largest_lane(maximum(maximum(a, b), maximum(c, d)))

    @inlined
    def add_vector(x, w, weights, j, width, shift, scale, total, lost, ties):
        """Add the weights of elements j to j + width to the sums in each lane."""
        v, keep = read(x, w, j, width, scale)
        e = weight(v, shift, scale)
        if masked or scaled:
            e = select(keep, e, 0.0)
        if not uses_weights:
            return online.add_other(total, lost, ties, e, v, shift)
        if width == lanes:
            store(own, weights + j * size, e)
        else:
            store_first(own, weights + j * size, e, width)
        total, lost = online.add_weight(total, lost, e)
        return total, lost, ties

    @jit
    def block_sums(x, w, weights, count, m, scale):
        """What `online.block_state` takes of a block with the maximum `m`: sum, its low part, less what.

        Weights go to `weights`, for an op that uses them.
        """
        shift = number(online.shift_of(m))
        total, lost, ties = splat(vec, start), splat(vec, 0.0), splat(vec, 0.0)
        whole = count - count % lanes
        for j in range(0, whole, lanes):
            prefetch(x + j * x_size + PREFETCH)
            total, lost, ties = add_vector(x, w, weights, j, lanes, shift, scale, total, lost, ties)
        if whole < count:
            total, lost, ties = add_vector(x, w, weights, whole, count - whole, shift, scale, total, lost, ties)
        total, error = two_sum(total, splat(vec, -start))
        total, lost = online.sum_lanes(total, lost + error)
        if uses_weights:
            return total * down, lost * down, 1.0
        return total * down, lost * down, 1.0 - online.sum_lanes(ties, splat(vec, 0.0))[0]

    @jit
    def multiply_block(weights, count, power):
        for j in range(0, count, lanes):
            width = min(lanes, count - j)
            if width == lanes:
                store(own, weights + j * size, load(vec, own, weights + j * size) * power)
            else:
                v = load_first(vec, own, weights + j * size, width)
                store_first(own, weights + j * size, v * power, width)

    @inlined
    def finish_vector(z, w, y, j, width, prepared, scale, streaming):
        """Write the results of elements j to j + width."""
        at = y + j * y_size
        v = load(vec, z_format, z + j * z_size) if width == lanes else load_first(vec, z_format, z + j * z_size, width)
        if scaled and not uses_weights:
            v = v * scale[0]
        v = finish(v, prepared, scale)
        if masked:
            keep = load(mask_vec, BOOL, w + j) if width == lanes else load_first(mask_vec, BOOL, w + j, width)
            v = select(keep, v, masked_value)
        if width < lanes:
            store_first(y_format, at, v, width)
        elif streaming:
            stream(y_format, at, v)
        else:
            store(y_format, at, v)

    @jit
    def finish_block(z, w, y, count, prepared, scale, streaming):
        """Write a block's results to `y` from its weights or, for an op without weights, its elements."""
        if uses_weights and prepared[2] != 1.0:
            multiply_block(z, count, prepared[2])
        j = 0
        if streaming and y % y_size == 0:
            j = min(count, -y % stream_alignment // y_size)
            if j:
                finish_vector(z, w, y, 0, j, prepared, scale, False)
            while j + lanes <= count:
                finish_vector(z, w, y, j, lanes, prepared, scale, True)
                j += lanes
        while j + lanes <= count:
            finish_vector(z, w, y, j, lanes, prepared, scale, False)
            j += lanes
        if j < count:
            finish_vector(z, w, y, j, count - j, prepared, scale, False)

    return Tiles(block_maximum, block_sums, finish_block)
