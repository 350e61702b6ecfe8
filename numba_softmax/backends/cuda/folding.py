"""Folding: the sums and states that one thread makes of the elements in its registers.

For results of 16 bits, weights are one number each, from the special function unit, and sums have one part.
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
"""The log2 of `up` for 16-bit results: weights that large are normal numbers even for a subnormal bfloat16."""


@lanewise
def zero_of_few_others(v, number):
    """The sums of no weights."""
    zero = splat(v, like(number, 0.0))
    return zero, None, zero


@lanewise
def add_to_few_others(sums, weight, x, m, others):
    """Add a weight or, for an element equal to a finite maximum, a tie."""
    total, _, ties = sums
    is_maximum = x == m
    return total + select(is_maximum, 0.0, weight), None, select(is_maximum, ties + 1.0, ties)


OF_FEW = {ALL: FEW, OTHERS: OTHERS._replace(zero=zero_of_few_others, add=add_to_few_others)}
"""Folds without the additions' errors, by fold: precise enough for a thread's few dozen elements and 16-bit results."""


class Folded(NamedTuple):
    """The weights of a thread's elements, which folding leaves in registers."""

    weights: list[Value]
    m: Value  # the maximum that was subtracted
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
        """One of the lanes of a vector if all have the same row's number, else the vector."""
        return lane(v, 0) if self.along else v

    def frame_of(self, m: Value, scale: Scale) -> tuple[Any, Value | None]:
        """The frame that `weigh` takes, from the maximum to subtract; and the weights' unit."""
        return (narrow_frame_of if self.spec.narrow else self.fold.frame_of)(m, scale)

    def weigh(self, x: Value, frame: Any, scale: Scale) -> Any:
        """``up * unit * exp(scale * (x - m))``, in the parts that sums take."""
        if self.spec.narrow:
            return device.exp2(fma(narrow_gap(x, frame, scale), LOG2_E, NARROW_LOG2_UP))
        return weigh(x, frame, scale)

    def sums(self, elements: list[Element], m: Value, scale: Scale) -> tuple[Sums, Folded]:
        """The sums of a thread's elements, with `m` the maximum of these and maybe of others."""
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
        """The state of elements with these sums."""
        return self.fold.block_state(folded.m, without_up(self.fold, sums, 1.0 / self.up), folded.unit)

    def folded(self, state: State, elements: list[Element], scale: Scale) -> tuple[State, Folded]:
        """A thread's state merged with that of some more elements."""
        sums, folded = self.sums(elements, self.maximum(elements), scale)
        return merge_states(self.fold, state, self.state(sums, folded), scale), folded

    def first_state(self, v: Value) -> State:
        """The state of no elements; `v` is any number."""
        zero = like(convert(self.number, v), 0.0)
        zero = zero if self.along else splat(self.vec, zero)
        return self.fold.identity(zero, zero if self.two_parts else None)

    def restored(self, numbers: list[Value]) -> State:
        """The state from the numbers that `only` returned."""
        return restored(self.fold.state, self.two_parts, numbers)

    # ------------------------------------------------------------------- shares

    def share_of_sums(self, sums: Sums) -> tuple[Value, Value | None]:
        """The share that makes softmax of weights relative to the row's maximum, from sums with the same unit."""
        return inverse(*times(sums[:2], 1.0 / self.up))

    def share_of_folded(self, folded: Folded, state: State, scale: Scale) -> tuple[Value, Value | None]:
        """The share that makes softmax of the weights of a part of a row, except for the factor `up`."""
        factor = online.rescale_factor(folded.m, state[0], scale, state[2])
        return over(product(factor, online.share(state)), folded.unit)

    def share_of_state(self, state: State, unit: Value | None) -> tuple[Value, Value | None]:
        """The share that makes softmax of weights relative to the row's maximum, from the row's state."""
        return times(over(online.share(state), unit), float_format(self.number).up / self.up)


def _in_one_part(pair: tuple[Value, Value | None]) -> tuple[Value, None]:
    """The sum of both parts: a sum that starts far above its terms has collected all of them in its second part."""
    v, lo = pair
    return v if lo is None else v + lo, None


def added_by(exchange: Callable, lanes: int, names: Names, sums: Sums) -> Sums:
    """Pairwise sums over lanes that `exchange` reaches: both lanes of an addition get the same bits."""
    for step in halvings(lanes):
        sums = added(names, sums, [None if v is None else exchange(v, step) for v in sums])
    return sums
