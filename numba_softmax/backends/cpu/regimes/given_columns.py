"""The kernel for rows that are neighbours in memory, and whose states are given: elements are normalised in one pass.

A task is a chunk of a strip.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from .... import kernel_code
from ....math.expmath import rounded
from ....math.lanewise import lanewise
from ....math.memory import fence
from ...spec import Spec, make_finisher, make_scale
from ..access import weights_for
from ..basics import CHUNK, VECTOR_BYTES, aligned_address, inlined, jit, lanes_of, release
from ..edges import make_edges, make_strip_at
from ..layout import STRIP, N, make_places, word
from ..strips import make_memory
from .given_rows import make_prepare_given

kernel_code.register()

ELEMENTS_AT_ONCE = 16
"""Elements of a column that are finished before its neighbours' are: a strip of them fits the first cache."""


def make_given_columns(spec: Spec) -> Callable:
    """The kernel."""
    scale_of, streaming, lanes, strip_at = make_scale(spec), spec.streaming, lanes_of(spec.number), make_strip_at(spec)
    element_strides, moved = make_places(len(spec.operands)).element_strides, make_edges(spec).moved
    prepare_strip, finish_strip, kept_bytes = _make_prepare(spec), _make_finish(spec), _kept_bytes(spec)
    y = (spec.element_results or (0,))[0]
    streamed = lanes * spec.sizes[y]

    @lanewise
    def result_of(addresses):
        return addresses[y]

    def given_columns(addresses, sign, factor, layout, first, last):
        n, vectors, scale = word(layout, N), word(layout, STRIP), scale_of(sign, factor)
        chunks, strides = -(-n // CHUNK), element_strides(layout)
        buffer = np.empty(VECTOR_BYTES + vectors * kept_bytes, np.uint8)
        room = aligned_address(buffer)
        for task in range(first, last):
            start = task % chunks * CHUNK
            count = min(CHUNK, n - start)
            at, begin, end = strip_at(addresses, layout, task // chunks)
            if begin < end:
                prepare_strip(at, layout, begin, end, room, scale)
                at = moved(at, strides, start, 0)
                if streaming and result_of(at) % streamed == 0 and result_of(strides) % streamed == 0:
                    finish_strip(at, strides, count, begin, end, room, scale, True)
                else:
                    finish_strip(at, strides, count, begin, end, room, scale, False)
        if streaming:
            fence(room)
        release(buffer)

    return given_columns


def _kept_bytes(spec: Spec) -> int:
    return VECTOR_BYTES * (1 + make_finisher(spec).numbers)


def _make_prepare(spec: Spec) -> Callable:
    """A jitted function: stores, for each vector of a strip, the rows' maxima and the numbers of their finishers."""
    prepare, put, load_rows = make_prepare_given(spec), make_memory(spec).put, make_edges(spec).load_rows
    lanes, kept_bytes = lanes_of(spec.number), _kept_bytes(spec)

    @lanewise
    def prepare_vector(numbers, kept, scale):
        m, prepared = prepare(numbers, scale)
        for k, v in enumerate((m, *prepared)):
            put(kept + VECTOR_BYTES * k, v)

    @jit
    def prepare_strip(at, layout, begin, end, room, scale):
        for c in range(0, end, lanes):
            prepare_vector(load_rows(at, layout, c, begin - c, end - c), room + c // lanes * kept_bytes, scale)

    return prepare_strip


def _make_finish(spec: Spec) -> Callable:
    """A jitted function: writes the results of `count` elements of a strip, some at a time, vector by vector."""
    edges, finisher, lanes, kept_bytes = make_edges(spec), make_finisher(spec), lanes_of(spec.number), _kept_bytes(spec)
    moved, read, write, get = edges.moved, edges.read, edges.write, make_memory(spec).get
    frame_of, weigh, _ = weights_for(spec)

    @lanewise
    def prepared_at(kept, scale):
        prepared = tuple(get(kept + VECTOR_BYTES * (1 + k)) for k in range(finisher.numbers))
        return prepared, frame_of(get(kept), scale)[0]

    @lanewise
    def results_of(inputs, prepared, frame, scale):
        v, *others = inputs
        v = rounded(weigh(v, frame, scale)) if spec.of_softmax else v
        return finisher.results(v, tuple(others), prepared, scale, None)

    @inlined
    def finish_strip(at, strides, count, begin, end, room, scale, non_temporal):
        for first in range(0, count, ELEMENTS_AT_ONCE):
            last = min(count, first + ELEMENTS_AT_ONCE)
            for c in range(0, end, lanes):
                prepared, frame = prepared_at(room + c // lanes * kept_bytes, scale)
                for j in range(first, last):
                    vector = moved(at, strides, j, c)
                    results = results_of(read(vector, begin - c, end - c, scale), prepared, frame, scale)
                    write(vector, results, begin - c, end - c, non_temporal)

    return finish_strip
