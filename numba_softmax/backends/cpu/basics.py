"""Common to all kernels of the CPU: sizes, scratch memory, and the options to compile functions with."""

from __future__ import annotations

import functools

from numba import int64, njit, types

from ... import kernel_code
from ...math.memory import Stored

kernel_code.register()

BLOCK = 8192
"""Elements that are folded at once. The bits of a result depend on it, for every shape and layout alike."""

GROUP = 8
"""Blocks whose sums are finished together, with lanes across the blocks."""

CHUNK = GROUP * BLOCK
"""Elements whose state is made by one thread. The bits of a result depend on it, for every shape and layout alike.

The weights of rows up to this length are kept until their sum is known. Beyond, they are computed twice.
"""

VECTOR_BYTES = 64
"""Bytes of a vector on every CPU: where registers are narrower, LLVM splits vectors, and the bits are the same."""

AHEAD = 8192
"""Bytes, at least, by which elements are prefetched ahead of their use."""

BOOL, FLOAT64 = Stored("bool"), Stored("float64")

# `forceinline` is always given: else a function takes it from the one that is being compiled when it is first called.
jit = functools.partial(
    njit, error_model="numpy", nogil=True, no_cpython_wrapper=True, no_cfunc_wrapper=True, fastmath=False,
    forceinline=False,
)  # fmt: skip
inlined = functools.partial(jit, forceinline=True)


@inlined
def aligned_address(array):
    """The address of the first whole vector in scratch memory."""
    address = int64(array.ctypes.data)
    return address + -address % VECTOR_BYTES


@inlined
def release(scratch):
    """Keep scratch memory allocated up to this call.

    Numba frees an array after its last use, which is too early where only its
    address is used further on. So this has to be the last use.
    """
    scratch[0] = 0


def own_format(number: types.Type) -> Stored:
    """The format in scratch memory of numbers of the type to compute in."""
    return Stored(number.name)


def lanes_of(number: types.Type) -> int:
    """Numbers of that type in a vector."""
    return VECTOR_BYTES * 8 // number.bitwidth
