"""States of rows as two numbers, in jitted code for the CPU and for CUDA, and from Python.

`m` is the maximum of the numbers of a row and `l` the sum of ``exp(x - m)``.
The recurrence is stated in `numba_softmax.math.online`.
"""

from __future__ import annotations

from typing import Any

from numba import float32, float64, njit, types
from numba.core.errors import TypingError

from ..math import online
from ..math.expmath import log
from ..math.lanewise import NEEDS_COMPILER, Value, Vec, element, lanewise, with_element


def in_one_type(**numbers: Any) -> list[Value]:
    """The numbers in one float type that can hold them all, or in a Vec of it."""
    if not any(isinstance(v, Value) for v in numbers.values()):
        raise NotImplementedError(NEEDS_COMPILER)
    for name, v in numbers.items():
        number = element(v.type) if isinstance(v, Value) else None
        if number not in (float32, float64) and not isinstance(number, (types.Integer, types.Boolean)):
            raise TypingError(f"{name} must be a number, float32 or float64, not {getattr(v, 'type', v)}")
    values = list(numbers.values())
    number = float32 if all(element(v.type) == float32 for v in values) else float64
    vectors = [v.type for v in values if isinstance(v.type, Vec)]
    if len({v.lanes for v in vectors}) > 1:
        raise TypingError(f"{', '.join(numbers)} must have as many lanes each, not {vectors}")
    return [v.cast(with_element(vectors[0], number) if vectors else number) for v in values]


@lanewise
def _push(m, l, x):
    m, l, x = in_one_type(m=m, l=l, x=x)
    return online.plain_push((m, l), x)


@lanewise
def _merge(m, l, m2, l2):
    m, l, m2, l2 = in_one_type(m=m, l=l, m2=m2, l2=l2)
    return online.plain_merge((m, l), (m2, l2))


@lanewise
def _lse(m, l):
    m, l = in_one_type(m=m, l=l)
    return m + log(l)


# Bare, since they are compiled for CUDA as well; but on the CPU a caller's fast mathematics would be inherited.


@njit(fastmath=False)
def push(m, l, x):
    """The state of a row with one more number.

    Parameters
    ----------
    m, l : float or Vec
        A state: the maximum of some numbers and the sum of ``exp(number - m)``.
        ``(-inf, 0)`` for none.
    x : float or Vec
        A number.

    Returns
    -------
    m, l : float or Vec
        Of the same type: float32 if all arguments are that, else float64.

    Notes
    -----
    An element of -inf adds nothing, NaN makes `l` NaN, and +inf makes `m` +inf.
    It takes one exponential; with all numbers of a row in an array, `logsumexp`
    is many times as fast, and more precise: each push rounds `l`, by up to a
    unit in the last place, so keep the states of thousands of float32 numbers
    in float64. Method: M. Milakov and N. Gimelshein, arXiv:1805.02867.

    Examples
    --------
    >>> import numba, numpy as np
    >>> from numba_softmax import jit
    >>> @numba.njit
    ... def lse_of_squares(n):
    ...     m, l = -np.inf, 0.0
    ...     for i in range(n):
    ...         m, l = jit.push(m, l, float(i * i))
    ...     return jit.lse(m, l)
    >>> round(lse_of_squares(100), 6)
    9801.0
    """
    return _push(m, l, x)


@njit(fastmath=False)
def merge(m, l, m2, l2):
    """The state of two parts of a row together.

    Parameters
    ----------
    m, l, m2, l2 : float or Vec
        Two states; see `push`. `l` and `l2` may be any weights that are not
        negative, not only sums that have the maximum's own 1 among them.

    Returns
    -------
    m, l : float or Vec
        A state, as from `push`.

    Notes
    -----
    ``(-inf, 0)`` changes nothing. It is commutative to the last bit, and
    associative up to rounding. A part whose maximum is 133 (float64: 754) below
    the other's adds nothing. Any other sum that was weighted with ``exp(x - m_of_part)``,
    such as the sum of values in attention, is to be multiplied by
    ``exp(m_of_part - m)``.

    Examples
    --------
    >>> from numba_softmax import jit
    >>> jit.merge(1.0, 2.0, 1.0, 3.0)
    (1.0, 5.0)
    >>> jit.merge(float("-inf"), 0.0, 7.0, 1e-20)
    (7.0, 1e-20)
    """
    return _merge(m, l, m2, l2)


@njit(fastmath=False)
def lse(m, l):
    """``log(sum(exp(x)))`` of the numbers of a state: ``m + log(l)``.

    Parameters
    ----------
    m, l : float or Vec
        A state; see `push`.

    Returns
    -------
    float or Vec
        -inf for no numbers, +inf if one of them was that.

    Examples
    --------
    >>> from numba_softmax import jit
    >>> round(jit.lse(1000.0, 2.0), 4)
    1000.6931
    """
    return _lse(m, l)
