"""The states of threads together, in kernels for CUDA.

The functions are emitted where they are called: a barrier in a function of its
own could be moved by a compiler that does not see it.
"""

from __future__ import annotations

from typing import Any

from numba.core.errors import TypingError, UnsupportedError

from ..math import online
from ..math.expmath import INF
from ..math.lanewise import Value, Vec, lanewise
from ..math.simd import halvings, larger, select
from .scalars import in_one_type

_WARPS = 32
"""The most warps in a block, which is also the number of lanes in a warp."""


@lanewise
def warp_merge(m, l):
    """The state of the states of all lanes of a warp, in each of them.

    To be called in a kernel for CUDA by all 32 lanes.

    Parameters
    ----------
    m, l : float
        The thread's state, as from `push`; ``(-inf, 0)`` for none.

    Returns
    -------
    m, l : float
        The state of all, with the same bits in each lane and each run.

    Raises
    ------
    RuntimeError, numba.core.errors.UnsupportedError
        It is called elsewhere than in a kernel for CUDA.

    Notes
    -----
    It takes one exponential a lane: the maximum is found first, by shuffles, and
    then the sums, rescaled to it, are added pairwise.

    Examples
    --------
    >>> import numpy as np
    >>> from numba import cuda
    >>> from numba_softmax import jit
    >>> def lse_of_warps(x, out):  # to be compiled by cuda.jit
    ...     m, l = jit.warp_merge(x[cuda.grid(1)], np.float32(1))
    ...     if cuda.laneid == 0:
    ...         out[cuda.grid(1) // 32] = jit.lse(m, l)
    """
    m, l = _checked("warp_merge", m, l)
    return _over_lanes(m, l) if _is_emitted(m) else (m, l)


@lanewise
def block_merge(m, l):
    """The state of the states of all threads of a block, in each of them.

    To be called in a kernel for CUDA by all threads of a block, of one, two or
    three dimensions, whose number is a multiple of 32.

    Parameters
    ----------
    m, l : float
        The thread's state, as from `push`; ``(-inf, 0)`` for none.

    Returns
    -------
    m, l : float
        The state of all, with the same bits in each thread and each run.

    Raises
    ------
    RuntimeError, numba.core.errors.UnsupportedError
        It is called elsewhere than in a kernel for CUDA.

    Notes
    -----
    Each warp leaves its state in shared memory, of which a kernel needs 512
    bytes at most, and behind a barrier each merges all of them. A second barrier
    lets the function be called again. It takes two exponentials.

    Examples
    --------
    >>> import numpy as np
    >>> from numba import cuda
    >>> from numba_softmax import jit
    >>> def lse_of_rows(x, out):  # to be compiled by cuda.jit; a block for each row
    ...     m, l = np.float32(-np.inf), np.float32(0)  # as the elements are: float64 takes longer
    ...     for j in range(cuda.threadIdx.x, x.shape[1], cuda.blockDim.x):
    ...         m, l = jit.push(m, l, x[cuda.blockIdx.x, j])
    ...     m, l = jit.block_merge(m, l)
    ...     if cuda.threadIdx.x == 0:
    ...         out[cuda.blockIdx.x] = jit.lse(m, l)
    """
    m, l = _checked("block_merge", m, l)
    return _over_warps(*_over_lanes(m, l)) if _is_emitted(m) else (m, l)


def _checked(name: str, m: Any, l: Any) -> list[Value]:
    """The numbers in one type, in a kernel for CUDA; elsewhere they are refused."""
    if not isinstance(m, Value):
        raise RuntimeError(f"{name} is for kernels that numba.cuda.jit compiles")
    m, l = in_one_type(m=m, l=l)
    if isinstance(m.type, Vec):
        raise TypingError(f"{name} takes plain numbers, not {m.type}")
    if _is_emitted(m) and not m.builder.module.triple.startswith("nvptx"):
        raise UnsupportedError(f"{name} is for kernels that numba.cuda.jit compiles")
    return [m, l]


def _is_emitted(v: Value) -> bool:
    """True if instructions go to a kernel, not to the code in which types are tried out, which has no target."""
    return not v.builder.module.triple.startswith("unknown")


def _over_lanes(m: Value, l: Value) -> tuple[Value, Value]:
    """The merged state of all lanes: their maximum, and the sum of their sums rescaled to it."""
    from ..backends.cuda import device

    top = m
    for step in halvings(device.WARP):
        top = larger(top, device.exchange(top, step))
    total = online.plain_rescaled((m, l), top)
    for step in halvings(device.WARP):
        total = total + device.exchange(total, step)
    return top, total


def _over_warps(m: Value, l: Value) -> tuple[Value, Value]:
    """The merged state of all warps, whose states are each in all lanes."""
    from ..backends.cuda import device

    place, threads = device.place_in_block(m)
    warp, lane = device.quotient_and_rest(place, device.WARP)
    warps, _ = device.quotient_and_rest(threads, device.WARP)
    slots = [device.shared_memory(m, f"numba_softmax_{m.type}_{i}", m.type, _WARPS) for i in range(2)]
    with m.builder.if_then((lane == 0).ir):
        for slot, number in zip(slots, (m, l), strict=True):
            device.write_shared(slot, warp, number)
    device.barrier(m)
    there = lane < warps
    mine = select(there, lane, 0)
    m, l = (device.read_shared(m.type, slot, mine) for slot in slots)
    device.barrier(m)  # the slots are free again
    return _over_lanes(select(there, m, -INF), select(there, l, 0.0))
