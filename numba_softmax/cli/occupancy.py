"""The number of blocks of a kernel that run on a multiprocessor at once.

The limits are those of NVIDIA's CUDA C++ Programming Guide, "Technical Specifications per Compute Capability";
registers and shared memory are allocated as in ``cuda_occupancy.h``, a file of the CUDA toolkit.
"""

from __future__ import annotations

import math
from typing import NamedTuple

WARP = 32

REGISTERS, REGISTERS_AT_ONCE, MOST_REGISTERS = 65536, 256, 255
"""Registers of a multiprocessor; the unit in which a warp's are allocated; and the most that a thread can have."""

PARTITIONS = 4
"""Partitions of a multiprocessor: each has a fourth of the registers, and a warp belongs to one."""


class Limits(NamedTuple):
    """The capacity of a multiprocessor."""

    blocks: int
    warps: int
    shared_memory: int  # bytes
    reserved: int = 1024  # bytes of it that the system takes for each block
    shared_at_once: int = 128  # the unit in bytes in which a block's is allocated

    @property
    def of_a_block(self) -> int:
        """The bytes of shared memory that a block can have."""
        return self.shared_memory - self.reserved


LIMITS = {
    (7, 5): Limits(16, 32, 64 << 10, 0, 256),
    (8, 0): Limits(32, 64, 164 << 10),
    (8, 6): Limits(16, 48, 100 << 10),
    (8, 9): Limits(24, 48, 100 << 10),
    (9, 0): Limits(32, 64, 228 << 10),
    (10, 0): Limits(32, 64, 228 << 10),
    (12, 0): Limits(24, 48, 100 << 10),
}
"""The limits by compute capability, for those that kernels are made for."""


class Residency(NamedTuple):
    """The blocks and warps of a kernel that run on a multiprocessor at once."""

    blocks: int
    warps: int
    occupancy: float  # the share of the warps that it could hold
    limited_by: tuple[str, ...]


def residency(limits: Limits, threads: int, registers: int, shared_memory: int) -> Residency:
    """The residency of blocks of `threads` threads, with `registers` for each and `shared_memory` bytes for a block."""
    warps = math.ceil(threads / WARP)
    at_most = {
        "registers": _warps_with(registers) // warps,
        "shared memory": _blocks_with(shared_memory, limits),
        "warps": limits.warps // warps,
        "blocks": limits.blocks,
    }
    blocks = min(at_most.values())
    limited_by = tuple(what for what, most in at_most.items() if most == blocks)
    return Residency(blocks, blocks * warps, blocks * warps / limits.warps, limited_by)


def _warps_with(registers: int) -> int:
    if registers > MOST_REGISTERS:
        return 0
    of_a_warp = _rounded_up(max(1, registers) * WARP, REGISTERS_AT_ONCE)
    return REGISTERS // PARTITIONS // of_a_warp * PARTITIONS


def _blocks_with(shared_memory: int, limits: Limits) -> int:
    if shared_memory > limits.of_a_block:
        return 0
    taken = _rounded_up(shared_memory + limits.reserved, limits.shared_at_once)
    return limits.shared_memory // max(1, taken)


def _rounded_up(number: int, multiple: int) -> int:
    return math.ceil(number / multiple) * multiple
