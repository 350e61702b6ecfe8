"""The online softmax, stated once; every kernel goes through it.

The numbers ``x`` of a row are summed up by their maximum ``m`` and by the sum
``l`` of ``exp(x - m)`` (M. Milakov and N. Gimelshein, *Online normalizer
calculation for softmax*, arXiv:1805.02867). Rows are folded block by block,
and the states of the parts are merged:

    m = max(m_a, m_b)
    l = l_a exp(m_a - m) + l_b exp(m_b - m)

The maximum's own term in ``l`` is exactly 1. It stays implicit: a state is
``(m, rest, rest_lo)`` with ``l = 1 + rest + rest_lo``. So
``log l`` keeps its precision where one element outweighs all others. Two
numbers for the sum keep any number of merges below the rounding of the result;
where the state is in float64 and the row in float32, as on the CPU, one is
enough, and ``rest_lo`` is None. The state of no numbers at all has ``m = -inf`` and ``l = 0``.

`push` says the same for one number; the kernels fold blocks instead, see
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
    """The state of an empty row; `zero` is 0 in float64, or a Vec of it, and `zero_lo` too, or None."""
    return zero - INF, zero - 1.0, zero_lo


@lanewise
def singleton(x, zero_lo):
    """The state of one number. Of -inf, exp is 0, so that `l` is 0 too."""
    zero = like(x, 0.0)
    return x, select(x == -INF, zero - 1.0, zero), zero_lo


@lanewise
def merge(a, b, scale):
    """The state of two parts of a row together."""
    (m, rest, rest_lo), (m_s, rest_s, lo_s) = larger_first(a, b)
    small = product(sum_of(rest_s, lo_s), shrinkage(m_s, m, scale, lo_s))
    return m, *add(rest, rest_lo, *times(small, 1.0 / float_format(m.type).up))


def larger_first(a, b):
    """Two states, the one with the larger maximum first; where one maximum is NaN, the second one."""
    larger = a[0] >= b[0]
    return (
        tuple(None if x is None else select(larger, x, y) for x, y in zip(a, b, strict=True)),
        tuple(None if x is None else select(larger, y, x) for x, y in zip(a, b, strict=True)),
    )


@lanewise
def against(state, m, scale):
    """What a state adds to the sum of a row whose maximum is `m`: two numbers or one, and the maxima's own 1 apart.

    So any number of states are merged with one exponential each: the results
    are added up, and `joined` makes a state of them. The former are times `up`,
    so that many far parts lose nothing to underflow.
    """
    m_part, rest, rest_lo = state
    up = float_format(m.type).up
    small, small_lo = product(sum_of(rest, rest_lo), shrinkage(m_part, m, scale, rest_lo))
    own = m_part == m
    return (
        select(own, rest * up, small),
        None if rest_lo is None else select(own, rest_lo * up, small_lo),
        select(own, like(rest, 1.0), 0.0),
    )


@lanewise
def joined(m, total, total_lo, ones):
    """The state of all states whose `against` were added up; one of the maxima's terms is implicit."""
    total, total_lo = times((total, total_lo), 1.0 / float_format(m.type).up)
    return m, *add(total, total_lo, ones - 1.0, None if total_lo is None else like(ones, 0.0))


@lanewise
def push(state, x, scale):
    """The state with one more number."""
    return merge(state, singleton(x, None if state[2] is None else like(x, 0.0)), scale)


def sum_of(rest, rest_lo):
    """``l = 1 + rest``, in as many parts."""
    if rest_lo is None:
        return 1.0 + rest, None
    l, error = two_sum(like(rest, 1.0), rest)
    return l, error + rest_lo


@lanewise
def shrinkage(m_part, m, scale, zero_lo):
    """``up * exp(scale * (m_part - m))``, in two parts or, as `zero_lo`, in one; `up` for equal infinities too.

    Of a factor below the normal numbers there would be few bits left, where a sum of many terms is multiplied by it.
    """
    d, error = gap(m_part, m, scale)
    equal = m_part == m
    d, error = select(equal, 0.0, d), select(equal, 0.0, error)
    return exp_pair(d, None if zero_lo is None else error)


# A plain state is (m, l), for kernels of users: what can be read and made by hand, and where `l` may be any weight.
# It is in one number type, and log l has the precision of l, also where that is nearly 1. The empty one is (-inf, 0).


@lanewise
def plain_push(state, x):
    """The plain state with one more number. Of -inf, exp is 0."""
    return plain_merge(state, (x, select(x == -INF, 0.0, like(x, 1.0))))


@lanewise
def plain_merge(a, b):
    """The plain state of two parts of a row together."""
    (m, l), (m_small, l_small) = larger_first(a, b)
    return m, l + plain_against((m_small, l_small), m)


@lanewise
def plain_against(state, m):
    """What a plain state adds to the sum of a row whose maximum is `m`: ``l exp(m_part - m)``.

    The factor `up` is taken off a large `l` before, so that nothing overflows,
    and off a small one's product, so that nothing is lost to underflow.
    """
    m_part, l = state
    factor, _ = shrinkage(m_part, m, None, None)
    large, down = l > 1.0, 1.0 / float_format(m.type).up
    return select(large, l * down, l) * factor * select(large, like(l, 1.0), down)


FAR_BELOW = 2.0**-20
"""Parts of a row that shrink to less are weighed against the row's maximum: a product with so small a factor could
lose digits to underflow."""


@lanewise
def shared(m_part, state, scale):
    """The maximum to weigh the elements of a part of a row against, and what makes softmax of the weights.

    `m_part` is the part's own maximum. The second result, in two parts or one, is to be divided by the weights' unit.
    """
    m, _, rest_lo = state
    factor, factor_lo = times(shrinkage(m_part, m, scale, rest_lo), 1.0 / float_format(m.type).up)
    near = factor >= FAR_BELOW
    factor = select(near, factor, 1.0), None if rest_lo is None else select(near, factor_lo, 0.0)
    return select(near, m_part, m), product(factor, share(state))


@lanewise
def settled(state):
    """The state of a row that is complete: NaN if its maximum is infinite, for its softmax is NaN then."""
    m, rest, rest_lo = state
    return m, rest + (m - m), rest_lo


@lanewise
def share(state):
    """``1 / l``: over a block's unit, it makes softmax of weights that were taken against the row's maximum."""
    return inverse(*sum_of(state[1], state[2]))


@lanewise
def log_sum(state):
    """``log l``, precise also where `l` is nearly 1."""
    _, rest, rest_lo = state
    log_l = log1p(rest)
    return log_l if rest_lo is None else log_l + select(rest > -1.0, divide(rest_lo, 1.0 + rest), 0.0)
