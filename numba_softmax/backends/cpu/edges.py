"""Access to vectors with lanes across rows, of which the lanes from `begin` to `end` are rows of a strip."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

from numba import float64, types

from ... import kernel_code
from ...math.expmath import INF
from ...math.lanewise import Value, Vec, lanewise
from ...math.memory import load, load_where, store, store_where, stream
from ...math.simd import either, lane, lanes_between, select, with_lane
from ..spec import Spec
from .basics import BOOL, inlined, lanes_of
from .layout import ROWS, STRIP, make_places, word

kernel_code.register()


class Edges(NamedTuple):
    """Jitted functions; `at` are the addresses of the vectors. See `make_edges`."""

    moved: Callable  # (at, strides, j, c) -> the addresses, j elements and c rows further
    read: Callable  # (at, begin, end, scale) -> the numbers of all inputs, the first of which is folded
    write: Callable  # (at, results, begin, end, non_temporal) -> nothing
    load_rows: Callable  # (at, layout, c, begin, end) -> the numbers of the rows from c on, a tuple for each operand
    store_rows: Callable  # (at, layout, c, results, begin, end) -> nothing


@functools.cache
def make_edges(spec: Spec) -> Edges:
    """The functions for a kernel's operands in memory."""
    lanes, formats, sizes = lanes_of(spec.number), spec.formats, spec.sizes
    vec, vec64 = Vec(spec.number, lanes), Vec(float64, lanes)
    mask_vec, row_strides = vec.of(types.boolean), make_places(len(spec.operands)).row_strides

    @lanewise
    def moved(at, strides, j, c):
        return tuple(
            address + j * stride + c * size if o.per == "element" else address
            for o, address, stride, size in zip(spec.operands, at, strides, sizes, strict=True)
        )

    @lanewise
    def read_whole(at, scale):
        keep = load(mask_vec, BOOL, at[spec.mask]) if spec.masked else None
        return inputs_of([load(vec, formats[i], at[i]) for i in spec.element_inputs], keep, scale)

    @lanewise
    def read_part(at, begin, end, scale):
        there = lanes_between(vec, begin, end)
        keep = load_where(there, mask_vec, BOOL, at[spec.mask]) if spec.masked else None
        return inputs_of([load_where(there, vec, formats[i], at[i]) for i in spec.element_inputs], keep, scale)

    def inputs_of(vectors: list[Value], keep: Value | None, scale: Any) -> tuple[Value, ...]:
        v, *rest = vectors
        v = v * scale[0] if spec.scaled else v
        return (v, *rest) if keep is None else (select(keep, v, -INF), *(select(keep, r, 0.0) for r in rest))

    @inlined
    def read(at, begin, end, scale):
        if begin > 0 or end < lanes:
            return read_part(at, begin, end, scale)
        return read_whole(at, scale)

    def masked_results(results: tuple[Value, ...], keep: Value | None) -> tuple[Value, ...]:
        if keep is None:
            return results
        return tuple(
            select(keep, v, spec.operands[i].masked) for i, v in zip(spec.element_results, results, strict=True)
        )

    @lanewise
    def write_part(at, results, begin, end):
        there = lanes_between(vec, begin, end)
        keep = load_where(there, mask_vec, BOOL, at[spec.mask]) if spec.masked else None
        for i, v in zip(spec.element_results, masked_results(results, keep), strict=True):
            store_where(there, formats[i], at[i], v)

    def make_write_whole(put: Callable) -> Callable:
        @lanewise
        def write_whole(at, results):
            keep = load(mask_vec, BOOL, at[spec.mask]) if spec.masked else None
            for i, v in zip(spec.element_results, masked_results(results, keep), strict=True):
                put(formats[i], at[i], v)

        return write_whole

    write_to_caches, write_by_streaming = make_write_whole(store), make_write_whole(stream)

    @inlined
    def write(at, results, begin, end, non_temporal):
        if begin > 0 or end < lanes:
            write_part(at, results, begin, end)
        elif non_temporal:
            write_by_streaming(at, results)
        else:
            write_to_caches(at, results)

    def numbers_at(i: int, address: Value, stride: Value, begin: Value, end: Value) -> Value:
        """The numbers of the rows from begin to end, in their lanes."""

        def side_by_side() -> Value:
            return load_where(lanes_between(vec64, begin, end), vec64, formats[i], address)

        def apart() -> Value:
            return load_apart(vec64, formats[i], address, stride, begin, end)

        return either(stride == sizes[i], side_by_side, apart)

    @lanewise
    def load_rows(at, layout, c, begin, end):
        strides, rows = row_strides(layout), word(layout, ROWS)
        return tuple(
            tuple(
                numbers_at(i, at[i] + c * strides[i] + rows * (k * sizes[i]), strides[i], begin, end)
                for k in range(spec.operands[i].numbers)
            )
            for i in spec.row_reads
        )

    @lanewise
    def store_rows(at, layout, c, results, begin, end):
        strides, rows = row_strides(layout), word(layout, ROWS)
        for i, numbers in zip(spec.row_results, results, strict=True):
            for k in range(spec.operands[i].numbers):
                address = at[i] + c * strides[i] + rows * (k * sizes[i])
                store_numbers(formats[i], address, strides[i], numbers[k], begin, end)

    return Edges(moved, read, write, load_rows, store_rows)


def store_numbers(stored, address, stride, v, begin, end):
    """Write lanes begin to end of a vector, with a stride in bytes."""
    with v.builder.if_else((stride == stored.bytes).ir) as (side_by_side, apart):
        with side_by_side:
            store_where(lanes_between(v.type, begin, end), stored, address, v)
        with apart:
            for i in range(v.type.lanes):
                with v.builder.if_then(((begin <= i) & (end > i)).ir):
                    store(stored, address + stride * i, lane(v, i))


def load_apart(v, stored, address, stride, begin, end):
    """Load a vector with a stride in bytes, in lanes begin to end; the other lanes repeat a number of these."""
    result = None
    for i in range(v.lanes):
        i64 = address.emit(address.type, address.ir.type(i))
        low = select(begin > i, begin, i64)
        index = select(low < end, low, end - 1)
        number = load(v.element, stored, address + index * stride)
        result = number.cast(v) if result is None else with_lane(result, i, number)
    return result


def strips_in(inner: int, strip: int, lanes: int, streaming: bool) -> int:
    """The number of strips of `strip` vectors over `inner` rows; streamed ones begin at a whole vector of memory."""
    return -(-(inner + (lanes - 1 if streaming else 0)) // (strip * lanes))


def strip_width(inner: int, widest: int, lanes: int, streaming: bool) -> int:
    """The width of strips in vectors: at least one, at most `widest`, and about the same for all."""
    vectors = -(-(inner + (lanes - 1 if streaming else 0)) // lanes)
    strips = -(-vectors // max(1, widest))
    return -(-vectors // strips)


def make_strip_at(spec: Spec) -> Callable:
    """A jitted function: the addresses of strip number `index`, and the range of its rows.

    The addresses are those of row 0 of the strip, which may lie before the array: only rows `begin` to `end` exist, and
    `begin` is within the first vector.
    """
    places, lanes, streaming = make_places(len(spec.operands)), lanes_of(spec.number), spec.streaming
    row_at, last_row_dim, row_strides, count_strips = (
        places.row_at, places.last_row_dim, places.row_strides, inlined(strips_in)
    )  # fmt: skip
    y, y_size = (spec.element_results[0], spec.sizes[spec.element_results[0]]) if streaming else (0, 1)

    @lanewise
    def result_of(at):
        return at[y]

    @lanewise
    def rows_further(at, layout, row):
        return tuple(address + row * stride for address, stride in zip(at, row_strides(layout), strict=True))

    @inlined
    def strip_at(addresses, layout, index):
        inner, vectors = last_row_dim(layout), word(layout, STRIP)
        strips = count_strips(inner, vectors, lanes, streaming)
        at = row_at(addresses, layout, index // strips * inner)
        row = index % strips * vectors * lanes
        if streaming:
            row -= result_of(at) % (lanes * y_size) // y_size
        return rows_further(at, layout, row), max(0, -row), min(vectors * lanes, inner - row)

    return strip_at
