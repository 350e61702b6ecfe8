"""The geometry that a kernel is compiled for besides its op: how rows are shared out to threads and lie in memory.

The elements of a row go to its threads in turn, a vector each; a thread has several of them. So the order of all sums
follows from the length of the row and the formats alone, not from the address of the row nor the width of accesses.
"""

from __future__ import annotations

from typing import NamedTuple

from ... import kernel_code
from .device import WARP

kernel_code.register()

BLOCK_THREADS = 128
"""Threads in a block, where that is enough for a row."""


class Geometry(NamedTuple):
    """The sharing of rows among threads, and the arrangement of rows in memory."""

    threads: int  # of a row; a power of two
    vectors: int  # of a thread
    elements: int  # of a vector
    widths: tuple[int, ...]  # bytes in an access to each operand
    shifted: tuple[bool, ...]  # for each operand, True if its rows may begin within a vector: see `shifts`
    ragged: bool  # True if a row may end within a vector
    row_dims: int
    reduced_dims: int  # 0 if the elements of a row are neighbours in memory
    bfloat16: bool  # True if the machine has instructions to round to bfloat16
    across: int = 1  # threads side by side across rows, if those are neighbours in memory
    groups: int = 1  # of rows that are neighbours, among these threads
    apart: tuple[bool, ...] = ()  # for each operand, True if such neighbours' numbers lie apart; () if none do

    @property
    def tile(self) -> int:
        """Elements that the threads of a row hold together."""
        return self.threads * self.vectors * self.elements

    @property
    def rows_per_block(self) -> int:
        """Rows that a block works on, with threads along them."""
        return max(1, BLOCK_THREADS // self.threads)

    @property
    def warp_threads(self) -> int:
        """Threads of a warp that work on a row."""
        return min(self.threads, WARP)

    @property
    def warps(self) -> int:
        """Warps that work on a row."""
        return max(1, self.threads // WARP)
