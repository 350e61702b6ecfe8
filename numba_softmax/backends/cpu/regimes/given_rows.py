"""Kernels for contiguous rows, and rows of any strides, whose states are given: elements are normalised in one pass.

A task is a chunk of a row.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numba import types

from .... import kernel_code
from ....math import online
from ....math.folds import from_stored
from ....math.lanewise import lanewise
from ....math.memory import fence
from ....math.pairs import over
from ....math.simd import convert
from ...spec import Spec, make_finisher, make_scale
from ..access import weights_for
from ..basics import AHEAD, BLOCK, VECTOR_BYTES, aligned_address, jit, release
from ..blocks import make_blocks
from ..layout import N, make_beyond, make_gather, make_places, make_row_numbers, word
from .long_rows import chunk_of

kernel_code.register()


def make_prepare_given(spec: Spec) -> Callable:
    """A function: the maximum to subtract from elements, and the numbers of the finisher.

    It takes the numbers of a row, or of a vector of rows; the first ones are those of the states.
    """
    finisher, unit_of, fold, float64 = make_finisher(spec), weights_for(spec).unit_of, spec.op.fold, types.float64

    def prepare(numbers: Any, scale: Any) -> tuple[Any, Any]:
        stored, *row = numbers
        state = from_stored(fold, float64, spec.two_parts, stored)
        state = online.nan_if_infinite(state)
        share = over(online.share(state), unit_of(state[0], scale)) if spec.of_softmax else None
        return convert(spec.number, state[0]), finisher.prepare(share, state, tuple(row))

    return prepare


def make_given_rows(spec: Spec, gathered: bool) -> Callable:
    """The kernel for contiguous rows or, if `gathered`, for any strides."""
    scale_of, row_at, streaming = make_scale(spec), make_places(len(spec.operands)).row_at, spec.streaming
    prepare, row_numbers, write = make_prepare_given(spec), make_row_numbers(spec), _make_write(spec, gathered)
    nbytes = VECTOR_BYTES + (make_gather(spec).nbytes if gathered else 0)

    @lanewise
    def prepared_at(at, layout, scale):
        return prepare(row_numbers.load(at, layout), scale)

    def given_rows(addresses, sign, factor, layout, first, last):
        n, scale = word(layout, N), scale_of(sign, factor)
        buffer = np.empty(nbytes, np.uint8)
        room = aligned_address(buffer)
        for task in range(first, last):
            row, start, stop = chunk_of(task, n)
            at = row_at(addresses, layout, row)
            m, prepared = prepared_at(at, layout, scale)
            write(at, layout, room, start, stop, m, prepared, scale)
        if streaming:
            fence(room)
        release(buffer)

    return given_rows


def _make_write(spec: Spec, gathered: bool) -> Callable:
    """A jitted function: writes the results of elements start to stop of a row."""
    places, beyond = make_gather(spec), make_beyond(spec, spec.formats)
    gather, scatter, block_at = places.gather, places.scatter, places.block_at
    rewrite_block = make_blocks(spec, places.formats if gathered else spec.formats).rewrite_block
    x_size = spec.sizes[spec.element_inputs[0]]

    @jit
    def write_gathered(at, layout, room, start, stop, m, prepared, scale):
        for first in range(start, stop, BLOCK):
            count = min(BLOCK, stop - first)
            gather(at, layout, first, count, room)
            rewrite_block(block_at(at, room), count, m, prepared, scale, 0)
            scatter(at, layout, first, count, room)

    @jit
    def write(at, layout, room, start, stop, m, prepared, scale):
        ahead = min(max(AHEAD, word(layout, N) * x_size), BLOCK * x_size)
        rewrite_block(beyond(at, start), stop - start, m, prepared, scale, ahead)

    return write_gathered if gathered else write
