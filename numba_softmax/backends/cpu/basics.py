"""What all kernels of the CPU share: sizes, scratch memory, and how their functions are compiled."""

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
"""On every CPU: LLVM splits vectors where registers are narrower, and the bits stay."""

AHEAD = 8192
"""Elements are prefetched at least so many bytes before their use."""

BOOL, FLOAT64 = Stored("bool"), Stored("float64")

# `forceinline` is said each time: else a function has it from the one that is being compiled when it is first called.
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
    """Let go of scratch memory.

    Numba frees an array after its last mention, and where only its address is
    used further on, that is too early. So the last mention has to be this.
    """
    scratch[0] = 0


def own_format(number: types.Type) -> Stored:
    """How numbers of the compute type lie in scratch memory."""
    return Stored(number.name)


def lanes_of(number: types.Type) -> int:
    """Numbers of that type in a vector."""
    return VECTOR_BYTES * 8 // number.bitwidth
