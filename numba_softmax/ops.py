"""The table of operations. They share the recurrence and differ in the finalizer alone.

An op that gives an element for each element has two functions: `prepare`
makes, once a block, what `finish` then applies to each vector. For an op that
uses weights, these are made of the block's share and of its weights; for
another, of the row's state and of the elements. An op that gives one number a
row has `finish_row` instead.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

from . import online
from .expmath import float_format
from .lanewise import lanewise
from .simd import convert, fma, select


@lanewise
def prepare_softmax(number, share):
    """What weights are multiplied by, in two parts: it takes off their `up` as well."""
    return online.in_two_parts(number, online.times(share, 1.0 / float_format(number).up))


@lanewise
def finish_softmax(w, prepared, scale):
    """Softmax from weights; without the low part, good for rounding to 16 bits."""
    hi, lo, _ = prepared
    return w * hi if lo is None else fma(w, hi, w * lo)


@lanewise
def prepare_log_softmax(number, state):
    """``log l`` in two parts, and the maximum."""
    m = state[0]
    log_l = online.log_sum(state) + (m - m)  # an infinite maximum makes NaN of the row
    return *online.in_two_parts(number, (log_l, None)), convert(number, m)


@lanewise
def finish_log_softmax(x, prepared, scale):
    """``(x - m) - log l``: both terms have the same sign, so nothing cancels."""
    hi, lo, m = prepared
    d, error = online.gap(x, m, scale)
    return d - (hi - (select(d > -online.INF, error, 0.0) - lo))


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
    return select(rest == -1.0, -online.INF, result)  # no terms at all: whatever the scale


class Op(NamedTuple):
    """An operation: its name, what it does with masked elements, its finalizer."""

    name: str
    masked: float  # the result where `where` is False
    uses_weights: bool = False  # `finish` gets exp(x - m), not x
    prepare: Any = None  # functions, or None, as described above
    finish: Any = None
    finish_row: Any = None

    @property
    def reduces(self) -> bool:
        """Whether the result has one number a row."""
        return self.finish_row is not None


OPS = {
    op.name: op
    for op in (
        Op("softmax", 0.0, uses_weights=True, prepare=prepare_softmax, finish=finish_softmax),
        Op("log_softmax", -math.inf, prepare=prepare_log_softmax, finish=finish_log_softmax),
        Op("logsumexp", -math.inf, finish_row=finish_logsumexp),
    )
}
