"""Folds: the reductions of a row.

The elements of a block are added to sums, lane by lane, in a fixed order; the sums of all lanes are added up and make
the state of the block; the states of blocks are merged to that of the row. Sums belong to a maximum: those of different
maxima are rescaled to the larger one before they are added.

A fold names the numbers of its sums and of its state. A name that ends in ``_lo`` is the second part of the number
before it, in a row that is computed in float64 (on CUDA also in float32); it is None where one part is enough. Sums
begin with the sum of the weights, `total` and `total_lo`; states with ``m, rest, rest_lo``, as in
`numba_softmax.math.online`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

from numba import float32

from .. import kernel_code
from . import online
from .expmath import excess, float_format, rounded
from .lanewise import element, lanewise
from .pairs import add_sums, in_two_parts, lane_sums, two_sum
from .simd import exchange, halvings, lane, like, maximum, select, splat, widen
from .weights import block_state, frame_of, frame_of_others, narrow_frame_of

kernel_code.register()


class Fold(NamedTuple):
    """A reduction of rows, as `lanewise` functions.

    `m` is the maximum of a block, `weight` the weight of the element `x`, in parts or as one number, and `others` are
    the element's numbers in the op's further operands.
    """

    sums: tuple[str, ...]
    state: tuple[str, ...]
    frame_of: Callable  # (m, scale) -> the frame of a block for `weigh`, and its `unit`
    zero: Callable  # (v, number) -> the empty sums in the type v; only the type of `number` counts
    add: Callable  # (sums, weight, x, m, others) -> the sums with one more element; m is 0 where the maximum is -inf
    closed: Callable  # (sums) -> the sums in a form that can be added to those of other lanes
    block_state: Callable  # (m, sums, unit) -> the state of a block; the sums come without `up`
    identity: Callable  # (zero, zero_lo) -> the empty state, typed like `zero`; `zero_lo` is None without second parts
    rescaled: Callable  # (state, m, scale) -> its numbers but `m`, rescaled to m, times `up`; last, its implicit 1
    state_of: Callable  # (m, *sums of what `rescaled` gives) -> the state that they make, without `up`
    merge: Callable | None = None  # (a, b, scale) -> the merged state; None: by `rescaled` and `state_of`
    counts: tuple[str, ...] = ()  # those of the last sums that are integers: their order does not matter
    single: Callable | None = None  # (weight) -> the closed sums of one element; None without a shorter way

    def extended(self, **changes: Any) -> Fold:
        """The fold with more sums and numbers; the shortcuts that only fit the present ones are dropped."""
        return self._replace(merge=None, single=None, **changes)


@lanewise
def zero_of_all(v, number):
    """The sums of no weights."""
    return splat(v, like(number, _start(v))), splat(v, like(number, 0.0))


def _start(v):
    """The initial value of sums of all weights: no weight is larger, so `total_lo` catches all that additions lose."""
    return 2.0 * float_format(v).up


@lanewise
def add_to_all(sums, weight, x, m, others):
    """The sums with one more weight; `total_lo` sums the errors of all additions, so that errors do not accumulate."""
    total, lost = sums
    grown = total + rounded(weight)
    return grown, lost + excess(weight, grown - total)


@lanewise
def closed_all(sums):
    """The sums minus their initial value."""
    total, lost = sums
    total, error = two_sum(total, like(total, -_start(total.type)))
    return total, lost + error


@lanewise
def single_of_all(weight):
    """The closed sums of one weight."""
    w = rounded(weight)
    start = like(w, _start(w.type))
    taken = (start + w) - start
    return taken, excess(weight, taken)


@lanewise
def block_state_of_all(m, sums, unit):
    """The state of a block; the maximum's own term is in the sum."""
    return block_state(m, sums, like(m, 1.0), unit)


@lanewise
def zero_of_others(v, number):
    """The sums of no weights."""
    zero = splat(v, like(number, 0.0))
    return zero, zero, zero


@lanewise
def add_to_others(sums, weight, x, m, others):
    """The sums with one more weight or, for an element that is a finite maximum, one more tie."""
    total, lost, ties = sums
    is_maximum = x == m
    grown = total + select(is_maximum, 0.0, rounded(weight))
    taken = grown - total
    error = (total - (grown - taken)) + select(is_maximum, 0.0, excess(weight, taken))
    return grown, lost + error, select(is_maximum, ties + 1.0, ties)


@lanewise
def as_they_are(sums):
    """The sums, unchanged."""
    return sums


@lanewise
def block_state_of_others(m, sums, unit):
    """The state of a block; no tie is in the sum, and one of them stays implicit."""
    total, lost, ties = sums
    return block_state(m, (total, lost), 1.0 - ties, unit)


@lanewise
def zero_of_few(v, number):
    """The sums of no weights."""
    return splat(v, like(number, 0.0)), None


@lanewise
def add_to_few(sums, weight, x, m, others):
    """The sums with one more weight."""
    return sums[0] + weight, None


_STATE: dict[str, Any] = {
    "state": ("m", "rest", "rest_lo"),
    "identity": online.identity,
    "rescaled": online.rescaled,
    "state_of": online.state_of,
    "merge": online.merge,
}

ALL = Fold(
    ("total", "total_lo"), frame_of=frame_of, zero=zero_of_all, add=add_to_all, closed=closed_all,
    block_state=block_state_of_all, single=single_of_all, **_STATE,
)  # fmt: skip
"""All weights are in the sum."""

OTHERS = Fold(
    ("total", "total_lo", "ties"), frame_of=frame_of_others, zero=zero_of_others, add=add_to_others,
    closed=as_they_are, block_state=block_state_of_others, counts=("ties",), **_STATE,
)  # fmt: skip
"""All weights but the maxima's, which are counted as `ties`: log l stays precise if one element outweighs the rest."""

FEW = Fold(
    ("total", "total_lo"), frame_of=narrow_frame_of, zero=zero_of_few, add=add_to_few, closed=as_they_are,
    block_state=block_state_of_all, **_STATE,
)  # fmt: skip
"""All weights, without the additions' errors: enough for the few dozen of a thread and results of 16 bits. A weight is
one number, not in parts."""


def merge_states(fold: Fold, a: Sequence[Any], b: Sequence[Any], scale: Any) -> tuple[Any, ...]:
    """The merged state of two states."""
    if fold.merge is not None:
        return fold.merge(a, b, scale)
    m = maximum(a[0], b[0])
    return fold.state_of(m, *added(contributions(fold), fold.rescaled(a, m, scale), fold.rescaled(b, m, scale)))


def sum_lanes(fold: Fold, sums: Sequence[Any], down: float) -> tuple[Any, ...]:
    """The sums over all lanes of a vector, in float64, added pairwise; the factor `down` takes off their `up`."""
    sums = widened(fold.sums, fold.closed(sums))
    for step in halvings(sums[0].type.lanes):
        sums = added(fold.sums, sums, [None if v is None else exchange(v, step) for v in sums])
    return without_up(fold, [None if v is None else lane(v, 0) for v in sums], down)


def merge_lanes(fold: Fold, state: Sequence[Any], scale: Any) -> tuple[Any, ...]:
    """The states of all lanes merged pairwise; every lane gets the result of lane 0.

    The order of merges differs between lanes and, where maxima are equal, decides the last bits of the results.
    """
    for step in halvings(state[0].type.lanes):
        state = merge_states(fold, state, [None if v is None else exchange(v, step) for v in state], scale)
    return tuple(None if v is None else splat(v.type, lane(v, 0)) for v in state)


# ---------------------------------------------------------------------------- stored states


def stored_numbers(fold: Fold, x: str) -> int:
    """The number of float64 numbers in the stored state of a row of that format."""
    return sum(present(fold.state, x.removeprefix(">") == "float64"))


def stored_order(fold: Fold) -> tuple[str, ...]:
    """The names of a stored state's numbers; second parts, which not all states have, come last."""
    return tuple(sorted(fold.state, key=lambda name: name.endswith("_lo")))


def to_stored(fold: Fold, state: Sequence[Any]) -> tuple[Any, ...]:
    """The numbers of a state as it is stored: in float64, where one number holds the two parts that float32 needs."""

    def one(pair: tuple[Any, Any]) -> tuple[Any, Any]:
        v, lo = pair
        return (widen(v) + widen(lo), None) if lo is not None and element(v.type) == float32 else pair

    numbers = dict(zip(fold.state, each_pair(fold.state, one, state), strict=True))
    return tuple(only([numbers[name] for name in stored_order(fold)]))


def in_order(fold: Fold, stored: Sequence[Any]) -> tuple[Any, ...]:
    """The numbers of a stored state in the fold's order; None for second parts that it does not have."""
    numbers = dict(zip(stored_order(fold), stored, strict=False))
    return tuple(numbers.get(name) for name in fold.state)


def from_stored(fold: Fold, number: Any, two_parts: bool, numbers: Sequence[Any]) -> tuple[Any, ...]:
    """The state in the type to compute in, from its stored numbers."""

    def of(pair: tuple[Any, Any]) -> tuple[Any, Any]:
        hi, lo = in_two_parts(number, pair)
        return hi, lo if two_parts else None

    return each_pair(fold.state, of, in_order(fold, numbers))


# ------------------------------------------------------------------------ numbers by their names

Names = tuple[str, ...]


def contributions(fold: Fold) -> Names:
    """The names of the numbers from `Fold.rescaled`: the state's but the maximum, and the implicit ones."""
    return *fold.state[1:], "ones"


def present(names: Names, two_parts: bool) -> tuple[bool, ...]:
    """For each of the numbers, True if it is present."""
    return tuple(two_parts or not name.endswith("_lo") for name in names)


def only(numbers: Sequence[Any]) -> list[Any]:
    """The numbers that are present."""
    return [number for number in numbers if number is not None]


def restored(names: Names, two_parts: bool, numbers: Iterable[Any]) -> tuple[Any, ...]:
    """The argument of `only`, from its result."""
    numbers = iter(numbers)
    return tuple(next(numbers) if there else None for there in present(names, two_parts))


def each_pair(names: Names, function: Callable, *numbers: Sequence[Any]) -> tuple[Any, ...]:
    """The results of a function of each number and its second part or None; it returns both again."""
    result: list[Any] = []
    for i, name in enumerate(names):
        if not name.endswith("_lo"):
            paired = names[i + 1 : i + 2] == (f"{name}_lo",)
            pair = function(*((v[i], v[i + 1] if paired else None) for v in numbers))
            result += pair if paired else pair[:1]
    return tuple(result)


def added(names: Names, a: Sequence[Any], b: Sequence[Any]) -> tuple[Any, ...]:
    """The sum of two folds' sums, number by number."""
    return each_pair(names, lambda v, w: add_sums(*v, *w), a, b)


def widened(names: Names, sums: Sequence[Any]) -> tuple[Any, ...]:
    """The sums in float64, where one number holds the two parts that float32 needs."""
    return each_pair(names, lambda v: (widen(v[0]), None) if v[1] is None else lane_sums(*v), sums)


def without_up(fold: Fold, sums: Sequence[Any], down: float) -> tuple[Any, ...]:
    """The first sums times a power of two; counts stay as they are."""
    return tuple(v if v is None or name in fold.counts else v * down for name, v in zip(fold.sums, sums, strict=False))
