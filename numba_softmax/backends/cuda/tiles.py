"""A tile: the part of a row that one thread has in registers; and what the threads of a row make of their tiles.

All here runs where a kernel is compiled, on `Value` objects, and emits its instructions:
the loops are those of the compiler, and nothing is left of the objects.

The elements of a row go to its threads in turn, a vector each; a thread has several of them.
So the order of all sums follows from the length of the row and the formats alone: not from
where the row lies, nor from how wide the accesses to it can be.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from numba import int32, int64

from ... import kernel_code, online
from ...expmath import INF, LOG2_E, float_format, rounded
from ...lanewise import Value, Vec
from ...pairs import add_sums, inverse, over, product, times
from ...simd import Stored, convert, first_lanes, fma, from_memory, halvings, lane, larger, like, select, splat
from ...simd import exchange as exchange_lanes
from ...weights import FEW, block_state, narrow_frame_of, narrow_gap, shift_of, weigh
from ..spec import Spec, stored
from . import device
from .shifts import load_shifted, store_shifted

kernel_code.register()

State = tuple[Value, Value, Value | None]
Scale = Any
"""The scale as `weights` has it, three numbers; or None."""

BLOCK = 128
"""Threads in a block, where that is enough for a row."""

STATE_NUMBERS = 3
"""Numbers of a state in temporary memory, at most."""

NARROW_LOG2_UP = 16.0
"""Weights for 16-bit results are so much larger that even a subnormal bfloat16 comes from a normal number."""

_BOOL = Stored("bool")


class Geometry(NamedTuple):
    """How rows are shared out to threads, and how they lie in memory."""

    threads: int  # of a row; a power of two
    vectors: int  # of a thread
    elements: int  # of a vector
    widths: tuple[int, int, int]  # bytes in an access: to elements, results and mask
    shifted: tuple[bool, bool]  # whether rows may begin within a vector, in elements and results: see `shifts`
    ragged: bool  # whether a row may end within a vector
    row_dims: int
    reduced_dims: int  # 0 if the elements of a row are neighbours in memory
    bfloat16: bool  # whether the machine rounds to bfloat16
    across: int = 1  # threads side by side across rows, if those are neighbours in memory
    groups: int = 1  # of rows that are neighbours, among these threads

    @property
    def tile(self) -> int:
        """Elements that the threads of a row hold together."""
        return self.threads * self.vectors * self.elements

    @property
    def rows(self) -> int:
        """How many rows a block works on, with threads along them."""
        return max(1, BLOCK // self.threads)

    @property
    def lanes(self) -> int:
        """How many lanes of a warp work on a row."""
        return min(self.threads, device.WARP)

    @property
    def warps(self) -> int:
        """How many warps work on a row."""
        return max(1, self.threads // device.WARP)


class Sums(NamedTuple):
    """A sum of weights with the errors of its additions beside it, without the terms that `ones` counts."""

    total: Value
    lost: Value | None
    ones: Value | None


class Part(NamedTuple):
    """A vector of a row in registers, as it came from memory."""

    raw: Any
    keep: Value | None  # the bytes of the mask
    position: Value  # of its first element
    present: Value  # how many elements are there; others may be less than none


class Tile:
    """The functions over a thread's part of a row."""

    def __init__(self, spec: Spec, geometry: Geometry) -> None:
        self.spec, self.geometry = spec, geometry
        self.number = spec.number
        self.vec = Vec(spec.number, geometry.elements)
        self.x_format, self.y_format, self.own = stored(spec.x), stored(spec.y), Stored(spec.number.name)
        self.up = 2.0**NARROW_LOG2_UP if spec.narrow else float_format(spec.number).up
        self.keeps_weights = spec.op.uses_weights and not spec.narrow
        self.two_parts = not spec.narrow  # of the sums of states
        self.block_fold = FEW if spec.narrow and spec.op.uses_weights else spec.op.fold
        self.summed = geometry.elements  # lanes of a vector that belong to one row

    # -------------------------------------------------------------- memory

    def offsets(self, dims: tuple[Value, ...], first: int, count: int, index: Value) -> tuple[Value, Value, Value]:
        """Where element `index`, in C order over some dimensions, lies: in x, result and mask."""
        result = [like(index, 0)] * 3
        for d in reversed(range(first, first + count)):
            size, *steps = dims[4 * d : 4 * d + 4]
            i = index
            if d > first:
                index, i = device.quotient_and_rest(index, size)
            result = [at + i * step for at, step in zip(result, steps, strict=True)]
        return result[0], result[1], result[2]

    def row_offsets(self, dims: tuple[Value, ...], row: Value) -> tuple[Value, Value, Value]:
        """Where a row begins: in x, result and mask."""
        return self.offsets(dims, 0, self.geometry.row_dims, row)

    def element_offsets(self, dims: tuple[Value, ...], position: Value) -> tuple[Value, Value, Value]:
        """Where an element of a row lies, from the row's beginning on: in x, result and mask."""
        wide = position.cast(int64)
        if self.geometry.reduced_dims:
            return self.offsets(dims, self.geometry.row_dims, self.geometry.reduced_dims, wide)
        return wide * self.x_format.bytes, wide * self.y_format.bytes, wide

    def load(self, x: Value, w: Value, dims: tuple[Value, ...], thread: Value, start: Value, stop: Any) -> list[Part]:
        """The parts of a thread in elements start to stop of a row."""
        g, fill = self.geometry, self._bits_of_minus_infinity() or 0

        def read(position: Value, count: Value) -> Value:
            if g.shifted[0]:
                near = thread & (g.lanes - 1)
                return load_shifted(self.vec, self.x_format, x, position, count, near, g.lanes, fill)
            x_at = self.element_offsets(dims, position)[0]
            return device.load_raw(self.vec, self.x_format, x + x_at, count, g.widths[0], g.ragged, fill)

        return self._parts(read, w, dims, thread, start, stop)

    def load_masks(self, w: Value, dims: tuple[Value, ...], thread: Value, start: Value, stop: Any) -> list[Part]:
        """What `load` gives, without the elements."""
        return self._parts(lambda position, count: None, w, dims, thread, start, stop)

    def _parts(
        self, read: Callable, w: Value, dims: tuple[Value, ...], thread: Value, start: Value, stop: Any
    ) -> list[Part]:
        g = self.geometry
        parts = []
        for k in range(g.vectors):
            position, count = self.place(k, thread, start, stop)
            keep = None
            if self.spec.masked:
                w_at = self.element_offsets(dims, position)[2]
                keep = device.load_raw(self.vec, _BOOL, w + w_at, count, g.widths[2], g.ragged)
            parts.append(Part(read(position, count), keep, position, count))
        return parts

    def place(self, k: int, thread: Value, start: Value, stop: Any) -> tuple[Value, Value]:
        """The position of a thread's vector `k` in elements start to stop, and how many elements are there."""
        g = self.geometry
        position = start + ((thread + g.threads * k) * g.elements).cast(start.type)
        return position, (stop - position).cast(int32)

    def placed_again(self, parts: list[Part]) -> list[Part]:
        """The parts, their positions and counts computed anew: no registers hold them between loads and stores."""
        step = self.geometry.threads * self.geometry.elements
        position, present = device.renewed(parts[0].position), device.renewed(parts[0].present)
        return [part._replace(position=position + step * k, present=present - step * k) for k, part in enumerate(parts)]

    def _bits_of_minus_infinity(self) -> int | None:
        """What elements that are not there are read as; None if that cannot be minus infinity."""
        if self.spec.scaled or self.spec.masked:
            return None
        return {"float16": 0xFC00, "bfloat16": 0xFF80, "float32": 0xFF800000, "float64": 0xFFF << 52}.get(self.spec.x)

    def values(self, part: Part, scale: Scale) -> Value:
        """The elements of a part in the type to compute in, with the scale's sign; those that do not count are -inf."""
        v = device.numbers(self.vec, part.raw, self.x_format)
        if self.spec.scaled:
            v = v * scale[0]
        if self.spec.masked:  # where nothing was read, the mask is 0
            return select(part.keep != 0, v, -INF)
        if self._bits_of_minus_infinity() is not None:
            return v
        return select(first_lanes(self.vec, part.present), v, -INF)

    def store(self, y: Value, dims: tuple[Value, ...], thread: Value, part: Part, results: Value) -> None:
        """Write the results of a part, for masked elements what the op has for those."""
        g = self.geometry
        if part.keep is not None:
            results = select(part.keep != 0, results, self.spec.op.masked)
        if g.shifted[1]:
            raw = device.packed(results, self.y_format, g.bfloat16)
            store_shifted(self.y_format, y, part.position, raw, part.present, thread & (g.lanes - 1), g.lanes)
            return
        y_at = self.element_offsets(dims, part.position)[1]
        device.store_raw(self.y_format, y + y_at, results, part.present, g.widths[1], g.ragged, g.bfloat16)

    # --------------------------------------------------------- sums of a thread

    def maximum(self, values: list[Value]) -> Value:
        """The largest of a thread's elements."""
        m = values[0]
        for v in values[1:]:
            m = larger(m, v)
        for step in halvings(self.summed):
            m = larger(m, exchange_lanes(m, step))
        return self._of_lanes(m)

    def _of_lanes(self, v: Value) -> Value:
        """One of the lanes of a vector, if all have the same row's number."""
        return lane(v, 0) if self.geometry.across == 1 else v

    def frame_of(self, m: Value, scale: Scale) -> tuple[Any, Value | None]:
        """The frame that `weigh` takes, of the maximum that elements are weighed against; and the weights' unit."""
        return (narrow_frame_of if self.spec.narrow else self.spec.op.fold.frame_of)(m, scale)

    def weigh(self, v: Value, frame: Any, scale: Scale) -> Any:
        """``up * unit * exp(scale * (v - m))``, in the parts that sums take."""
        if self.spec.narrow:
            return device.exp2(fma(narrow_gap(v, frame, scale), LOG2_E, NARROW_LOG2_UP))
        return weigh(v, frame, scale)

    def sums(self, values: list[Value], m: Value, scale: Scale) -> tuple[Sums, list[Value], Value | None]:
        """The sums of a thread's elements for the maximum `m` of them and maybe others; the weights, and their unit."""
        m = shift_of(m)
        frame, unit = self.frame_of(m, scale)
        kept, sums = [], self.block_fold.zero(self.vec, m)
        for v in values:  # one after the other, so that few registers hold parts
            w = self.weigh(v, frame, scale)
            sums = self.block_fold.add(sums, w, v, m)
            kept.append(rounded(w))
        total, lost, ties = self.block_fold.closed(sums)
        if not self.two_parts:  # a few dozen additions, for results of 11 bits
            lost = None
        sums = _added(Sums(total, lost, ties), exchange_lanes, self.summed, self._of_lanes)
        return sums, kept, unit

    def total(self, sums: Sums) -> tuple[Value, Value | None]:
        """The total of `sums`, without `up`."""
        return times((sums.total, sums.lost), 1.0 / self.up)

    def state(self, m: Value, sums: Sums, unit: Value | None) -> State:
        """The state of what has these sums."""
        return block_state(m, self.total(sums), self.block_fold.less(m, sums.ones), unit)

    def fold(self, state: State, parts: list[Part], scale: Scale) -> tuple[State, list[Value], Value, Value | None]:
        """A thread's state with the elements of its parts; their weights, the maximum these are against, their unit."""
        values = [self.values(part, scale) for part in parts]
        m = self.maximum(values)
        sums, weights, unit = self.sums(values, m, scale)
        return online.merge(state, self.state(m, sums, unit), scale), weights, m, unit

    # ---------------------------------------------------------- threads of a row

    def maximum_of_lanes(self, m: Value, lanes: int) -> Value:
        """The maximum over so many lanes of a warp, in each of them."""
        for step in halvings(lanes):
            m = larger(m, device.exchange(m, step))
        return m

    def sums_of_lanes(self, sums: Sums, lanes: int) -> Sums:
        """The sums over so many lanes of a warp, in each of them."""
        return _added(sums, device.exchange, lanes)

    def merge_lanes(self, state: State, lanes: int, scale: Scale) -> State:
        """The state of the states of so many lanes, in each of them."""
        m = self.maximum_of_lanes(state[0], lanes)
        return online.joined(m, *self.sums_of_lanes(Sums(*online.against(state, m, scale)), lanes))

    def merge_warps(self, state: State, row: Value, thread: Value, scale: Scale) -> State:
        """The state of the states of a row's warps, in each of its threads; `row` is its number in the block.

        Each warp leaves its state in shared memory. Behind the barrier each reads all of them, one a lane.
        """
        warps = self.geometry.warps
        if warps == 1:
            return state
        numbers = [number for number in state if number is not None]
        slots = [
            device.shared_memory(thread, f"slots_{i}", self.number, self.geometry.rows * warps)
            for i in range(len(numbers))
        ]
        warp, lane_number = device.quotient_and_rest(thread, device.WARP)
        with thread.builder.if_then((lane_number == 0).ir):
            for slot, number in zip(slots, numbers, strict=True):
                device.write_shared(slot, row * warps + warp, number)
        device.barrier(thread)
        mine = row * warps + (lane_number & (warps - 1))
        theirs = self.state_of([device.read_shared(self.number, slot, mine) for slot in slots])
        return self.merge_lanes(theirs, warps, scale)

    def state_of(self, numbers: list[Value]) -> State:
        """The state with these two numbers, or three."""
        m, rest, *rest_lo = numbers
        return m, rest, rest_lo[0] if rest_lo else None

    def merge_threads(self, state: State, thread: Value, scale: Scale) -> State:
        """The state of the states of all threads of a block, in each of them."""
        return self.merge_warps(self.merge_lanes(state, device.WARP, scale), like(thread, 0), thread, scale)

    def first_state(self, v: Value) -> State:
        """The state of nothing; `v` is any number."""
        zero = like(convert(self.number, v), 0.0)
        zero = zero if self.geometry.across == 1 else splat(self.vec, zero)
        return online.identity(zero, zero if self.two_parts else None)

    def load_state(self, states: Value, index: Value) -> State:
        """State number `index` in temporary memory."""
        v, one = Vec(self.number, 1), device.integer(index, 1)
        raws = (
            device.load_raw(v, self.own, place, one, self.own.bytes, False)
            for place in self._places_of_state(states, index)
        )
        return self.state_of([lane(from_memory(raw, self.own, v), 0) for raw in raws])

    def store_state(self, states: Value, index: Value, state: State, here: Value) -> None:
        """Leave a state in temporary memory, in one thread."""
        v, count = Vec(self.number, 1), here.cast(int32)
        numbers = (number for number in state if number is not None)
        for place, number in zip(self._places_of_state(states, index), numbers, strict=True):
            device.store_raw(self.own, place, splat(v, number), count, self.own.bytes, False, False)

    def _places_of_state(self, states: Value, index: Value) -> list[Value]:
        size = self.own.bytes
        start = states + index.cast(int64) * (STATE_NUMBERS * size)
        return [start + i * size for i in range(3 if self.two_parts else 2)]

    # --------------------------------------------------------------- results

    def results(self, values: list[Value], state: State, scale: Scale) -> list[Value]:
        """The results of a thread's elements from the row's state."""
        op, number = self.spec.op, self.number
        if not op.uses_weights:
            prepared = op.prepare(number, state)
            return [op.finish(v, prepared, scale) for v in values]
        frame, unit = self.frame_of(shift_of(state[0]), scale)
        share = times(over(online.share(state), unit), float_format(number).up / self.up)
        prepared = self._prepared(share)
        return [op.finish(rounded(self.weigh(v, frame, scale)), prepared, scale) for v in values]

    def store_results(
        self, y: Value, dims: tuple[Value, ...], thread: Value, parts: list[Part], state: State, scale: Scale
    ) -> None:
        """Write the results of a thread's parts from the row's state."""
        results = self.results([self.values(part, scale) for part in parts], state, scale)
        self.store_all(y, dims, thread, parts, results)

    def store_all(
        self, y: Value, dims: tuple[Value, ...], thread: Value, parts: list[Part], results: list[Value]
    ) -> None:
        """Write the results of a thread's parts."""
        for part, result in zip(self.placed_again(parts), results, strict=True):
            self.store(y, dims, thread, part, result)

    def results_of_weights(self, weights: list[Value], sums: Sums) -> list[Value]:
        """The results of a thread's weights, which were taken against the row's maximum, from the row's sums."""
        prepared = self._prepared(inverse(*self.total(sums)))
        return [self.spec.op.finish(w, prepared, None) for w in weights]

    def rescaled_results(
        self, weights: list[Value], m: Value, unit: Value | None, state: State, scale: Scale
    ) -> list[Value]:
        """The results of a thread's weights, which were taken against `m`, from the row's state."""
        # A small factor takes weights below the normal numbers only with the second multiplication.
        factor = online.shrinkage(m, state[0], scale, state[2])
        prepared = self._prepared(over(product(factor, online.share(state)), unit))
        return [self.spec.op.finish(w, prepared, scale) * (1.0 / self.up) for w in weights]

    def _prepared(self, share: tuple[Value, Value]) -> Any:
        hi, lo = self.spec.op.prepare(self.number, share)
        return hi, None if self.spec.high_only else lo, None

    def store_numbers(self, y: Value, rows: Value, numbers: tuple[Value, ...], here: Value) -> None:
        """Write the first numbers of a row, as many as there is room for, in one of its threads."""
        count, width = here.cast(int32), min(self.geometry.widths[1], self.y_format.bytes)
        for k, number in enumerate(numbers[: self.spec.row_numbers]):
            place, one = y + rows * (k * self.y_format.bytes), splat(Vec(number.type, 1), number)
            device.store_raw(self.y_format, place, one, count, width, False, False)


def _added(sums: Sums, exchange: Callable, lanes: int, of: Callable = lambda v: v) -> Sums:
    """Sums over lanes that `exchange` can reach, added in halves: both sides of an addition get the same."""
    total, lost, ones = sums
    for step in halvings(lanes):
        total, lost = add_sums(total, lost, exchange(total, step), None if lost is None else exchange(lost, step))
        ones = None if ones is None else ones + exchange(ones, step)
    return Sums(of(total), None if lost is None else of(lost), None if ones is None else of(ones))
