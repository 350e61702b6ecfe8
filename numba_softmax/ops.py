"""The table of operations. They share the recurrence and differ in the finalizer alone.

An op that gives an element for each element has two functions: `prepare`
makes, once a block, what `finish` then applies to each vector. For an op that
uses weights, these are made of the block's share and of its weights; for
another, of the row's state and of the elements. An op that gives numbers a
row has `finish_row` instead: a tuple of them from the row's state.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

from numba import float32

from . import kernel_code, online
from .expmath import INF, float_format
from .lanewise import element, lanewise
from .pairs import in_two_parts, product_less, times
from .simd import convert, divide, fma, has_fma, like, select, widen
from .weights import ALL, OTHERS, Fold, gap

kernel_code.register()


@lanewise
def prepare_softmax(number, share):
    """What weights are multiplied by, in two parts: it takes off their `up` as well."""
    return in_two_parts(number, times(share, 1.0 / float_format(number).up))


@lanewise
def finish_softmax(w, prepared, scale):
    """Softmax from weights; without the low part, good for rounding to 16 bits."""
    hi, lo, _ = prepared
    if lo is None:
        return w * hi
    if has_fma(w):
        return fma(w, hi, w * lo)
    p = w * hi
    return p + (product_less(w, hi, p) + w * lo)


@lanewise
def prepare_log_softmax(number, state):
    """``log l`` in two parts, and the maximum."""
    m = state[0]
    log_l = online.log_sum(state) + (m - m)  # an infinite maximum makes NaN of the row
    return *in_two_parts(number, (log_l, None)), convert(number, m)


@lanewise
def finish_log_softmax(x, prepared, scale):
    """``(x - m) - log l``: both terms have the same sign, so nothing cancels."""
    hi, lo, m = prepared
    d, error = gap(x, m, scale)
    return d - (hi - (select(d > -INF, error, 0.0) - lo))


@lanewise
def finish_logsumexp(state, scale):
    """``scale * m + log l``."""
    m, rest, _ = state
    log_l = online.log_sum(state)
    result = m + log_l
    if scale is not None:
        scaled = m * scale[1]
        error = fma(m, scale[2], fma(m, scale[1], -scaled))
        result = scaled + log_l + select(scaled - scaled == 0.0, error, 0.0)
    return (select(rest == -1.0, -INF, result),)  # no terms at all: whatever the scale


@lanewise
def finish_fold(state, scale):
    """The state itself, for float64: the parts of a sum that float32 needs two for are one there."""
    m, rest, rest_lo = state
    if rest_lo is not None and element(rest.type) == float32:
        rest, rest_lo = widen(rest) + widen(rest_lo), None
    return (m, rest) if rest_lo is None else (m, rest, rest_lo)


@lanewise
def finish_identity(state, scale):
    """The state of no elements, whatever the state."""
    zero = like(state[0], 0.0)
    return online.identity(zero, zero)


@lanewise
def finish_m(state, scale):
    """The maximum as an element: it is kept with the scale's sign, and maybe halved."""
    return (state[0] if scale is None else divide(state[0], scale[0]),)


@lanewise
def finish_copy(state, scale):
    """The number; with a scale, as a maximum is kept: what `finish_m` takes off is put back."""
    return (state[0] if scale is None else state[0] * scale[0],)


@lanewise
def finish_l(state, scale):
    """The sum, in one part."""
    l, l_lo = online.sum_of(state[1], state[2])
    return (l if l_lo is None else l + l_lo,)


class Op(NamedTuple):
    """An operation: its name, what it does with masked elements, its finalizer."""

    name: str
    masked: float  # the result where `where` is False
    uses_weights: bool = False  # `finish` gets exp(x - m), not x
    prepare: Any = None  # functions, or None, as described above
    finish: Any = None
    finish_row: Any = None
    gives_states: bool = False  # the numbers of a row are those of its state
    merges: bool = False  # with the state that is there already
    reads: int = 3  # how many of the numbers of a state, at most; that is their first ones
    takes_scale: bool = True  # whether the scale changes anything

    @property
    def fold(self) -> Fold:
        """The fold of its weights."""
        return ALL if self.uses_weights else OTHERS

    @property
    def reduces(self) -> bool:
        """Whether the result has numbers a row, not an element for each element."""
        return self.finish_row is not None


OPS = {
    op.name: op
    for op in (
        Op("softmax", 0.0, uses_weights=True, prepare=prepare_softmax, finish=finish_softmax),
        Op("log_softmax", -math.inf, prepare=prepare_log_softmax, finish=finish_log_softmax),
        Op("logsumexp", -math.inf, finish_row=finish_logsumexp),
    )
}
"""The public functions."""

STATE_OPS = {
    op.name: op
    for op in (
        Op("fold", -math.inf, finish_row=finish_fold, gives_states=True),
        Op("merge", -math.inf, finish_row=finish_fold, gives_states=True, merges=True),
        Op("identity", -math.inf, finish_row=finish_identity, gives_states=True, reads=0, takes_scale=False),
        Op("copy", -math.inf, finish_row=finish_copy, reads=1),  # of any float64, told to be the maximum
        Op("m", -math.inf, finish_row=finish_m, reads=1),
        Op("l", 0.0, finish_row=finish_l, takes_scale=False),
    )
}
"""What is asked of states that outlive a call, besides the public functions. All but `fold` need the states."""
