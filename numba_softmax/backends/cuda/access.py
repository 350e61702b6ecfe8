"""Loads and stores of a thread: elements, results and numbers of rows, along rows or across them.

All of this runs while a kernel is compiled, on `Value` objects, and emits its instructions: loops are unrolled, and
nothing is left of the objects.
"""

from __future__ import annotations

from collections.abc import Container
from typing import Any, NamedTuple

from numba import float64, int32, int64

from ... import kernel_code
from ...math.expmath import INF
from ...math.lanewise import Value, Vec
from ...math.memory import Stored
from ...math.simd import first_lanes, lane, like, select, splat
from ..spec import Spec
from . import device, global_memory
from .geometry import Geometry
from .shifts import load_shifted, store_shifted

kernel_code.register()

Numbers = tuple[Any, ...]
"""The numbers of a row in one operand: in float64; across rows, vectors of them."""


class Line(NamedTuple):
    """A row, or several neighbouring rows, as seen by one of their threads."""

    addresses: tuple[Value, ...]  # the operands'
    starts: tuple[Value, ...]  # offsets from there to its first element, or number
    dims: tuple[Value, ...]  # sizes and strides, as the kernel gets them
    rows: Value  # the number of rows in all
    here: Value  # the number of rows here: 0 or 1; across rows, at most the elements of a vector, and maybe negative
    thread: Value  # the thread's number along the row

    def at(self, i: int) -> Value:
        """The address of its first element, or number, in an operand."""
        return self.addresses[i] + self.starts[i]

    def placed(self) -> Line:
        """The same line with its offsets added to the addresses, so that loops do not add them again."""
        at = tuple(map(self.at, range(len(self.addresses))))
        return self._replace(addresses=at, starts=tuple(like(address, 0) for address in at))


class Part(NamedTuple):
    """A vector of a row in registers, as it came from memory."""

    raws: tuple[Any, ...]  # of each operand with elements to read; None if that was not wanted
    keep: Value | None  # the bytes of the mask
    position: Value  # of its first element
    present: Value  # the number of elements present; it may be negative, or more than a vector's


class Element(NamedTuple):
    """The elements of a part in the type to compute in; missing and masked ones are -inf, and 0 in `others`."""

    x: Value  # with the scale's sign
    others: tuple[Value, ...]


class Access:
    """Loads and stores of threads along a row."""

    def __init__(self, spec: Spec, geometry: Geometry) -> None:
        self.spec, self.geometry = spec, geometry
        self.vec = Vec(spec.number, geometry.elements)
        self.formats, self.sizes = spec.formats, spec.sizes

    # ------------------------------------------------------------------ places

    def line(
        self, addresses: tuple[Value, ...], dims: tuple[Value, ...], rows: Value, row: Value, thread: Value
    ) -> Line:
        """The row with this number."""
        starts = tuple(self._offsets(dims, 0, self.geometry.row_dims, row))
        return Line(addresses, starts, dims, rows, (row < rows).cast(int32), thread)

    def _offsets(self, dims: tuple[Value, ...], first: int, count: int, index: Value) -> list[Value]:
        """The offset in each operand of number `index`, in C order over some dimensions."""
        result, each = [like(index, 0)] * len(self.formats), 1 + len(self.formats)
        for d in reversed(range(first, first + count)):
            size, *steps = dims[each * d : each * (d + 1)]
            i = index
            if d > first:
                index, i = device.quotient_and_rest(index, size)
            result = [at + i * step for at, step in zip(result, steps, strict=True)]
        return result

    def _element_offset(self, line: Line, operand: int, position: Value) -> Value:
        """The offset of an element in an operand, from the line's beginning."""
        g, wide = self.geometry, position.cast(int64)
        if g.reduced_dims:
            return self._offsets(line.dims, g.row_dims, g.reduced_dims, wide)[operand]
        return wide * self.sizes[operand]

    def _place(self, line: Line, k: int, start: Value, stop: Value) -> tuple[Value, Value]:
        """The position of a thread's vector `k` in elements start to stop, and the number of elements from there on."""
        g = self.geometry
        position = start + ((line.thread + g.threads * k) * g.elements).cast(start.type)
        return position, (stop - position).cast(int32)

    def _placed_again(self, parts: list[Part]) -> list[Part]:
        """The parts with positions and counts computed anew, so that no registers hold them from loads to stores."""
        step = self.geometry.threads * self.geometry.elements
        position, present = device.renewed(parts[0].position), device.renewed(parts[0].present)
        return [part._replace(position=position + step * k, present=present - step * k) for k, part in enumerate(parts)]

    # ---------------------------------------------------------------- elements

    def load(self, line: Line, start: Value, stop: Value, wanted: Container[int] | None = None) -> list[Part]:
        """The parts of a thread in elements start to stop: those of all operands, or of the `wanted` ones."""
        parts = []
        for k in range(self.geometry.vectors):
            position, present = self._place(line, k, start, stop)
            keep = None
            if self.spec.mask is not None:
                keep = self._load_vector(line, self.spec.mask, position, present)
            raws = (
                self._load_vector(line, i, position, present) if wanted is None or i in wanted else None
                for i in self.spec.element_inputs
            )
            parts.append(Part(tuple(raws), keep, position, present))
        return parts

    def _load_vector(self, line: Line, i: int, position: Value, count: Value) -> Value:
        g, stored = self.geometry, self.formats[i]
        fill = self._bits_of_minus_infinity() or 0 if i == self.spec.element_inputs[0] else 0
        if g.shifted[i]:
            near = line.thread & (g.warp_threads - 1)
            return load_shifted(self.vec, stored, line.at(i), position, count, near, g.warp_threads, fill)
        address = line.at(i) + self._element_offset(line, i, position)
        return global_memory.load_raw(self.vec, stored, address, count, g.widths[i], g.ragged, fill)

    def _bits_of_minus_infinity(self) -> int | None:
        """The bits for missing elements, -inf in the format of `x`; None if that, a scale or a mask rules this out."""
        if self.spec.scaled or self.spec.masked:
            return None
        bits = {"float16": 0xFC00, "bfloat16": 0xFF80, "float32": 0xFF800000, "float64": 0xFFF << 52}
        return bits.get(self.spec.operands[self.spec.element_inputs[0]].format)

    def elements(self, parts: list[Part], scale: Any) -> list[Element]:
        """The elements of parts."""
        return [Element(self._x(part, scale), self.others(part)) for part in parts]

    def _x(self, part: Part, scale: Any) -> Value:
        v = global_memory.numbers(self.vec, part.raws[0], self.formats[self.spec.element_inputs[0]])
        if self.spec.scaled:
            v = v * scale[0]
        if self.spec.masked:  # where nothing was read, the mask is 0
            return select(part.keep != 0, v, -INF)
        if self._bits_of_minus_infinity() is not None:
            return v
        return select(first_lanes(self.vec, part.present), v, -INF)

    def others(self, part: Part) -> tuple[Value, ...]:
        """The elements of a part in the further operands; those that were not read are 0 already."""
        others = (
            global_memory.numbers(self.vec, raw, self.formats[i])
            for i, raw in zip(self.spec.element_inputs[1:], part.raws[1:], strict=True)
            if raw is not None
        )
        return tuple(select(part.keep != 0, v, 0.0) if self.spec.masked else v for v in others)

    def store(self, line: Line, parts: list[Part], results: list[tuple[Value, ...]]) -> None:
        """Write the results of a thread's parts."""
        for part, of_part in zip(self._placed_again(parts), results, strict=True):
            for i, result in zip(self.spec.element_results, of_part, strict=True):
                self._store_vector(line, i, part, result)

    def _store_vector(self, line: Line, i: int, part: Part, v: Value) -> None:
        """Write a vector of results; masked elements get the operand's value for those."""
        g, stored = self.geometry, self.formats[i]
        if part.keep is not None:
            v = select(part.keep != 0, v, self.spec.operands[i].masked)
        if g.shifted[i]:
            raw = global_memory.packed(v, stored, g.bfloat16)
            store_shifted(
                stored, line.at(i), part.position, raw, part.present, line.thread & (g.warp_threads - 1), g.warp_threads
            )
            return
        address = line.at(i) + self._element_offset(line, i, part.position)
        global_memory.store_raw(stored, address, v, part.present, g.widths[i], g.ragged, g.bfloat16)

    # ----------------------------------------------------------- numbers of rows

    def row_inputs(self, line: Line) -> tuple[Numbers, ...]:
        """The numbers of the line in all operands with numbers of rows to read."""
        return tuple(self.row_numbers(line, i) for i in self.spec.row_inputs)

    def row_numbers(self, line: Line, i: int) -> Numbers:
        """The numbers of a line in an operand."""
        stored = self.formats[i]
        return tuple(self._row_number(line, i, address) for address in self._planes(line, i, stored))

    def _planes(self, line: Line, i: int, stored: Stored) -> list[Value]:
        """The address of each of a line's numbers in an operand."""
        return [line.at(i) + line.rows * (k * stored.bytes) for k in range(self.spec.operands[i].numbers)]

    def _row_number(self, line: Line, i: int, address: Value) -> Value:
        v, stored = Vec(float64, 1), self.formats[i]
        raw = global_memory.load_raw(v, stored, address, line.here, self._width(i), False)
        return lane(global_memory.numbers(v, raw, stored), 0)

    def store_row(self, line: Line, results: tuple[Numbers, ...], here: Value) -> None:
        """Write a row's results in the thread where `here` is true; only the first ones, if an operand has fewer."""
        count = here.cast(int32)
        for i, numbers in zip(self.spec.row_results, results, strict=True):
            for address, number in zip(self._planes(line, i, self.formats[i]), numbers, strict=False):
                v = splat(Vec(number.type, 1), number)
                global_memory.store_raw(self.formats[i], address, v, count, self._width(i), False, False)

    def _width(self, i: int) -> int:
        """The bytes of an access to one number of an operand."""
        return min(self.geometry.widths[i], self.sizes[i])
