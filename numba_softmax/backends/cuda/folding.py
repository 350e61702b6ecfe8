"""Folding: what one thread makes of the elements that it has in registers, and the states of the op's fold.

For results of 16 bits, weights are one number each, by the special function unit, and sums have one part.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from ... import kernel_code
from ...math import online
from ...math.expmath import LOG2_E, float_format, rounded
from ...math.folds import ALL, FEW, OTHERS, Names, added, each_pair, merge_states, restored, without_up
from ...math.lanewise import Value, Vec, lanewise
from ...math.pairs import inverse, over, product, times
from ...math.simd import convert, exchange, fma, halvings, lane, larger, like, select, splat
from ...math.weights import narrow_frame_of, narrow_gap, shift_of, weigh
from ..spec import Spec
from . import device
from .access import Element
from .geometry import Geometry

kernel_code.register()

Sums = tuple[Any, ...]
"""Numbers that `Fold.sums` names; of pairs, the second one may be None."""

State = tuple[Any, ...]
"""The same that `Fold.state` names."""

Scale = Any
"""The scale as `weights` has it, three numbers; or None."""

NARROW_LOG2_UP = 16.0
"""Weights for 16-bit results are so much larger that even a subnormal bfloat16 comes from a normal number."""


@lanewise
def zero_of_few_others(v, number):
    """No weights."""
    zero = splat(v, like(number, 0.0))
    return zero, None, zero


@lanewise
def add_to_few_others(sums, weight, x, m, others):
    """One more weight or, of a finite maximum, one more tie."""
    total, _, ties = sums
    is_maximum = x == m
    return total + select(is_maximum, 0.0, weight), None, select(is_maximum, ties + 1.0, ties)


OF_FEW = {ALL: FEW, OTHERS: OTHERS._replace(zero=zero_of_few_others, add=add_to_few_others)}
"""For folds, those without the additions' errors: enough for the few dozen of a thread and results of 16 bits."""


class Folded(NamedTuple):
    """What folding leaves in registers of a thread's elements."""

    weights: list[Value]
    m: Value  # the maximum that they were taken against
    unit: Value | None  # theirs


class Folding:
    """The functions of a fold; `summed` lanes of a vector belong to one row."""

    def __init__(self, spec: Spec, geometry: Geometry) -> None:
        self.spec = spec
        self.fold = OF_FEW.get(spec.op.fold, spec.op.fold) if spec.narrow else spec.op.fold
        self.number, self.vec = spec.number, Vec(spec.number, geometry.elements)
        self.up = 2.0**NARROW_LOG2_UP if spec.narrow else float_format(spec.number).up
        self.two_parts = not spec.narrow
        self.along = geometry.across == 1
        self.summed = geometry.elements if self.along else 1

    # ----------------------------------------------------------------- elements

    def maximum(self, elements: list[Element]) -> Value:
        """The largest of a thread's elements."""
        m = elements[0].x
        for element in elements[1:]:
            m = larger(m, element.x)
        for step in halvings(self.summed):
            m = larger(m, exchange(m, step))
        return self._of_lanes(m)

    def _of_lanes(self, v: Value) -> Value:
        """One of the lanes of a vector, if all have the same row's number."""
        return lane(v, 0) if self.along else v

    def frame_of(self, m: Value, scale: Scale) -> tuple[Any, Value | None]:
        """The frame that `weigh` takes, of the maximum that elements are weighed against; and the weights' unit."""
        return (narrow_frame_of if self.spec.narrow else self.fold.frame_of)(m, scale)

    def weigh(self, x: Value, frame: Any, scale: Scale) -> Any:
        """``up * unit * exp(scale * (x - m))``, in the parts that sums take."""
        if self.spec.narrow:
            return device.exp2(fma(narrow_gap(x, frame, scale), LOG2_E, NARROW_LOG2_UP))
        return weigh(x, frame, scale)

    def sums(self, elements: list[Element], m: Value, scale: Scale) -> tuple[Sums, Folded]:
        """The sums of a thread's elements for the maximum `m` of them and maybe others."""
        finite = shift_of(m)
        frame, unit = self.frame_of(finite, scale)
        weights, sums = [], self.fold.zero(self.vec, finite)
        for x, others in elements:  # one after the other, so that few registers hold parts
            w = self.weigh(x, frame, scale)
            sums = self.fold.add(sums, w, x, finite, others)
            weights.append(rounded(w))
        sums = self.fold.closed(sums)
        if not self.two_parts:
            sums = each_pair(self.fold.sums, _in_one_part, sums)
        sums = added_by(exchange, self.summed, self.fold.sums, sums)
        sums = tuple(None if v is None else self._of_lanes(v) for v in sums)
        return sums, Folded(weights, m, unit)

    # ------------------------------------------------------------------- states

    def state(self, sums: Sums, folded: Folded) -> State:
        """The state of what has these sums."""
        return self.fold.block_state(folded.m, without_up(self.fold, sums, 1.0 / self.up), folded.unit)

    def folded(self, state: State, elements: list[Element], scale: Scale) -> tuple[State, Folded]:
        """A thread's state with some more elements."""
        sums, folded = self.sums(elements, self.maximum(elements), scale)
        return merge_states(self.fold, state, self.state(sums, folded), scale), folded

    def first_state(self, v: Value) -> State:
        """The state of nothing; `v` is any number."""
        zero = like(convert(self.number, v), 0.0)
        zero = zero if self.along else splat(self.vec, zero)
        return self.fold.identity(zero, zero if self.two_parts else None)

    def restored(self, numbers: list[Value]) -> State:
        """The state with the numbers that `only` has left."""
        return restored(self.fold.state, self.two_parts, numbers)

    @property
    def state_numbers(self) -> int:
        """How many numbers a state has, at most."""
        return len(self.fold.state)

    # ------------------------------------------------------------------- shares

    def share_of_sums(self, sums: Sums) -> tuple[Value, Value | None]:
        """What makes softmax of weights against the row's maximum, from the row's sums, which have the same unit."""
        return inverse(*times(sums[:2], 1.0 / self.up))

    def share_of_folded(self, folded: Folded, state: State, scale: Scale) -> tuple[Value, Value | None]:
        """What makes softmax of the weights of a part of a row, but for `up`."""
        factor = online.rescale_factor(folded.m, state[0], scale, state[2])
        return over(product(factor, online.share(state)), folded.unit)

    def share_of_state(self, state: State, unit: Value | None) -> tuple[Value, Value | None]:
        """What makes softmax of weights against the row's maximum."""
        return times(over(online.share(state), unit), float_format(self.number).up / self.up)


def _in_one_part(pair: tuple[Value, Value | None]) -> tuple[Value, None]:
    """The sum of both parts: where a sum starts far above its terms, it has all of them in the second one."""
    v, lo = pair
    return v if lo is None else v + lo, None


def added_by(exchange: Callable, lanes: int, names: Names, sums: Sums) -> Sums:
    """Sums over lanes that `exchange` can reach, added in halves: both sides of an addition get the same."""
    for step in halvings(lanes):
        sums = added(names, sums, [None if v is None else exchange(v, step) for v in sums])
    return sums
