"""Access to the elements of a contiguous block, and the functions that weigh them: lanes run along the row."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

from numba import types

from ... import kernel_code
from ...math.expmath import INF
from ...math.lanewise import Value, lanewise
from ...math.memory import Stored, load, load_first, prefetch, prefetch_to_write, store, store_first, stream
from ...math.simd import Vec, convert, first_lanes, select
from ...math.weights import narrow_frame_of, narrow_weigh, weigh
from ..spec import Spec, make_finisher
from .basics import BOOL, VECTOR_BYTES, inlined, lanes_of, own_format
from .layout import make_beyond

kernel_code.register()

AHEAD_TO_WRITE = 2048
"""Bytes by which lines of results are prefetched ahead of their use, unless they are written by non-temporal stores."""


class Weighing(NamedTuple):
    """Functions that weigh elements: those of `weights`, or their narrow variants for results of 16 bits."""

    frame_of: Callable
    weigh: Callable
    unit_of: Callable  # (m, scale) -> the unit of weights relative to m, which may be of a wider type


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
    read_to_finish: Callable  # (z, at, j, width, scale) -> the same: weights at `z`, or elements, with no mask applied
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
        v = part(vec, formats[spec.element_inputs[0]], at[spec.element_inputs[0]], width)
        return v * scale[0] if spec.scaled else v

    def others_of(at: Any, width: Any) -> tuple[Value, ...]:
        return tuple(part(vec, formats[i], at[i], width) for i in spec.element_inputs[1:])

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
        for i, v in zip(spec.element_results, results, strict=True):
            if selects:
                v = select(mask_of(at, width), v, spec.operands[i].masked)
            if width is not None:
                store_first(formats[i], at[i], v, width)
            elif spec.streaming:
                stream(formats[i], at[i], v)
            else:
                store(formats[i], at[i], v)

    return Access(beyond, read, read_to_finish, write)


class BlockEnds(NamedTuple):
    """Jitted functions for all of a block but the arithmetic of its vectors; see `make_block_ends`."""

    head_of: Callable
    mask_results: Callable
    prefetch_two: Callable
    prefetch_results: Callable


@functools.cache
def make_block_ends(spec: Spec, formats: tuple[Stored, ...]) -> BlockEnds:
    """The functions: the start of streaming, NaN under a mask, prefetching."""
    lanes, beyond = lanes_of(spec.number), make_access(spec, formats).beyond
    vec = Vec(spec.number, lanes)
    x, written, sizes = spec.element_inputs[:1], spec.element_results, [f.bytes for f in formats]
    masks_nans = spec.masked and bool(written) and not make_finisher(spec).selects
    streamed = lanes * sizes[written[0]] if spec.streaming else 0

    @lanewise
    def address(at):
        return at[written[0]]

    @inlined
    def head_of(at, count):
        """The number of elements before the first one at which a streamed vector may begin."""
        return min(count, -address(at) % streamed // (streamed // lanes)) if streamed else 0

    @lanewise
    def mask_vector(at, j, width):
        at = beyond(at, j)
        keep = load_first(vec.of(types.boolean), BOOL, at[spec.mask], width)
        for i in written:
            v = select(keep, load_first(vec, formats[i], at[i], width), spec.operands[i].masked)
            store_first(formats[i], at[i], v, width)

    @inlined
    def mask_results(at, count, prepared):
        """Overwrite a block's results of masked elements with the value that these have.

        A weight of 0 has made them 0 already, unless the share is NaN: only then do they have to be overwritten.
        """
        if masks_nans and prepared[0] - prepared[0] != 0.0:
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
        """Prefetch two vectors of results, unless they are written by non-temporal stores."""
        for i in () if spec.streaming else written:
            for line in range(0, 2 * lanes * sizes[i], VECTOR_BYTES):
                prefetch_to_write(at[i] + j * sizes[i] + AHEAD_TO_WRITE + line)

    return BlockEnds(head_of, mask_results, prefetch_two, prefetch_results)
