"""The online softmax, stated once; every kernel goes through it.

The numbers ``x`` of a row are reduced to their maximum ``m`` and the sum
``l`` of ``exp(x - m)`` (M. Milakov and N. Gimelshein, *Online normalizer
calculation for softmax*, arXiv:1805.02867). Rows are folded block by block,
and the states of the parts are merged:

    m = max(m_a, m_b)
    l = l_a exp(m_a - m) + l_b exp(m_b - m)

The maximum's own term in ``l`` is exactly 1. It stays implicit: a state is
``(m, rest, rest_lo)`` with ``l = 1 + rest + rest_lo``. So
``log l`` keeps its precision where one element outweighs all others. With two
numbers for the sum, the error of any number of merges stays below the rounding of
the result; where the state is in float64 and the row in float32, as on the CPU, one
is enough, and ``rest_lo`` is None. The state of no numbers has ``m = -inf`` and ``l = 0``.

`push` is the recurrence for one number; the kernels fold blocks instead, see
`numba_softmax.math.weights`. Kernels of users have plain states, ``(m, l)``. The
functions take floats and `Vec` alike, on the CPU and on CUDA; `scale` is as in
`numba_softmax.math.weights`.
"""

from .. import kernel_code
from .expmath import INF, exp_pair, float_format, log1p
from .lanewise import lanewise
from .pairs import add, inverse, product, times, two_sum
from .simd import divide, like, select
from .weights import gap

kernel_code.register()


@lanewise
def identity(zero, zero_lo):
    """The state of an empty row; `zero` is 0 in float64 or a Vec of zeros, and so is `zero_lo`, if it is not None."""
    return zero - INF, zero - 1.0, zero_lo


@lanewise
def singleton(x, zero_lo):
    """The state of one number; that of -inf has ``l = 0``, as exp is 0."""
    zero = like(x, 0.0)
    return x, select(x == -INF, zero - 1.0, zero), zero_lo


@lanewise
def merge(a, b, scale):
    """The merged state of two parts of a row."""
    (m, rest, rest_lo), (m_s, rest_s, lo_s) = larger_first(a, b)
    small = product(sum_of(rest_s, lo_s), rescale_factor(m_s, m, scale, lo_s))
    return m, *add(rest, rest_lo, *times(small, 1.0 / float_format(m.type).up))


def larger_first(a, b):
    """Two states, the one with the larger maximum first; where one maximum is NaN, the second one."""
    larger = a[0] >= b[0]
    return (
        tuple(None if x is None else select(larger, x, y) for x, y in zip(a, b, strict=True)),
        tuple(None if x is None else select(larger, y, x) for x, y in zip(a, b, strict=True)),
    )


@lanewise
def rescaled(state, m, scale):
    """A state's sum, rescaled to the row's maximum `m`: in two parts or one, times `up`; and its implicit 1, if kept.

    This merges any number of states with one exponential each: the results are added up, and `state_of` makes a state
    of the sums. The factor `up` keeps the sums of many far parts from losing digits to underflow.
    """
    m_part, rest, rest_lo = state
    up = float_format(m.type).up
    small, small_lo = product(sum_of(rest, rest_lo), rescale_factor(m_part, m, scale, rest_lo))
    own = m_part == m
    return (
        select(own, rest * up, small),
        None if rest_lo is None else select(own, rest_lo * up, small_lo),
        select(own, like(rest, 1.0), 0.0),
    )


@lanewise
def state_of(m, total, total_lo, ones):
    """The state with the maximum `m` from the sums of `rescaled` states; one of their ones stays implicit."""
    total, total_lo = times((total, total_lo), 1.0 / float_format(m.type).up)
    return m, *add(total, total_lo, ones - 1.0, None if total_lo is None else like(ones, 0.0))


@lanewise
def push(state, x, scale):
    """The state with one more number."""
    return merge(state, singleton(x, None if state[2] is None else like(x, 0.0)), scale)


def sum_of(rest, rest_lo):
    """``l = 1 + rest``, in as many parts as `rest` has."""
    if rest_lo is None:
        return 1.0 + rest, None
    l, error = two_sum(like(rest, 1.0), rest)
    return l, error + rest_lo


@lanewise
def rescale_factor(m_part, m, scale, zero_lo):
    """``up * exp(scale * (m_part - m))``, which rescales a sum to the maximum `m`; `up` for equal infinities too.

    It has two parts or, where `zero_lo` is None, one. Without `up`, a subnormal factor would have few bits left, and a
    sum of many terms is multiplied by it.
    """
    d, error = gap(m_part, m, scale)
    equal = m_part == m
    d, error = select(equal, 0.0, d), select(equal, 0.0, error)
    return exp_pair(d, None if zero_lo is None else error)


# A plain state, (m, l), is for kernels of users: it can be read and made by hand, and its `l` may be any weight.
# It is in one number type, and log l has the precision of l, also where that is nearly 1. The empty one is (-inf, 0).


@lanewise
def plain_push(state, x):
    """The plain state with one more number; the exponential of -inf is 0."""
    return plain_merge(state, (x, select(x == -INF, 0.0, like(x, 1.0))))


@lanewise
def plain_merge(a, b):
    """The merged plain state of two parts of a row."""
    (m, l), (m_small, l_small) = larger_first(a, b)
    return m, l + plain_rescaled((m_small, l_small), m)


@lanewise
def plain_rescaled(state, m):
    """A plain state's sum, rescaled to the row's maximum `m`: ``l exp(m_part - m)``.

    The factor `up` is taken off a large `l` before the product, so that nothing
    overflows, and off the product of a small `l`, so that nothing is lost to underflow.
    """
    m_part, l = state
    factor, _ = rescale_factor(m_part, m, None, None)
    large, down = l > 1.0, 1.0 / float_format(m.type).up
    return select(large, l * down, l) * factor * select(large, like(l, 1.0), down)


FAR_BELOW = 2.0**-20
"""Parts of a row whose rescale factor is smaller are exponentiated against the row's maximum: a product with a factor
that small could lose digits to underflow."""


@lanewise
def rescaled_share(m_part, state, scale):
    """The maximum to subtract in a part of a row, and the factor that makes softmax of its exponentials.

    `m_part` is the part's own maximum. The caller divides the factor, in two parts or one, by the weights' unit.
    """
    m, rest_lo = state[0], state[2]
    factor, factor_lo = times(rescale_factor(m_part, m, scale, rest_lo), 1.0 / float_format(m.type).up)
    near = factor >= FAR_BELOW
    factor = select(near, factor, 1.0), None if rest_lo is None else select(near, factor_lo, 0.0)
    return select(near, m_part, m), product(factor, share(state))


@lanewise
def nan_if_infinite(state):
    """The state of a complete row, made NaN if its maximum is infinite, as its softmax is NaN then."""
    m, rest, *more = state
    return m, rest + (m - m), *more


@lanewise
def share(state):
    """``1 / l``: divided by a block's unit, it makes softmax of weights taken against the row's maximum."""
    return inverse(*sum_of(state[1], state[2]))


@lanewise
def log_sum(state):
    """``log l``, precise also where `l` is nearly 1."""
    rest, rest_lo = state[1:3]
    log_l = log1p(rest)
    return log_l if rest_lo is None else log_l + select(rest > -1.0, divide(rest_lo, 1.0 + rest), 0.0)
