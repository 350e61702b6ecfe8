"""Shared and local memory: a row of bytes for each block or thread; and who touched shared memory since a barrier."""

import numpy as np

from .errors import SharedRaceError
from .memory import FIRST_OFFSET, Cells, check_alignment, check_bounds

LANE_BITS, WARP_BITS = 20, 20


class Rows:
    """As many pieces of memory of `size` bytes as there are blocks (shared) or threads (local) in flight."""

    def __init__(self, rows, size):
        self.size = size
        self.stride = -(-max(size, 1) // 256) * 256
        self.cells = Cells(np.full(rows * self.stride, 0xA5, np.uint8), initialised=False)

    def place(self, where, row, offset, size):
        """Where the bytes of all rows hold those at an offset of the lanes' rows, after all checks."""
        check_alignment(where, offset, size)
        check_bounds(where, offset, size, FIRST_OFFSET, FIRST_OFFSET + self.size)
        return row * self.stride + (offset - FIRST_OFFSET)


class Races:
    """Who read and wrote shared memory last, and when: two threads need a barrier between, if one of them writes.

    A stamp holds the numbers of barriers that the block and the warp had passed, and the lane. `granule` bytes have
    one; that is the size of the smallest access so far.
    """

    def __init__(self, nbytes):
        self.nbytes, self.granule = nbytes, 16
        self.write, self.read = (np.full(nbytes // 16, -1, np.int64) for _ in range(2))
        self.many = np.zeros(nbytes // 16, np.int8)  # read by one lane, by several of a warp, by several warps

    def check(self, where, place, size, writes, lane, epoch, warp_epoch):
        """Raise if the accesses race with earlier ones or with each other; else remember them."""
        self._refine(size)
        n = size // self.granule
        at = (place // self.granule)[:, None] + np.arange(n)
        lane, epoch, warp_epoch = lane[:, None], epoch[:, None], warp_epoch[:, None]
        stamp = (epoch << (LANE_BITS + WARP_BITS)) | (warp_epoch << LANE_BITS) | lane
        raced = self._conflicts(self.write[at], 0, lane, epoch, warp_epoch)
        if writes:
            raced |= self._conflicts(self.read[at], self.many[at], lane, epoch, warp_epoch)
            self.write[at] = stamp
            raced |= self.write[at] != stamp
        else:
            self._remember_readers(at, stamp, lane, epoch)
        if raced.any():
            first = np.flatnonzero(raced.any(axis=1))[0]
            raise SharedRaceError(where(first, "in shared memory is another thread's too since the last barrier"))

    @staticmethod
    def _conflicts(stamp, many, lane, epoch, warp_epoch):
        """Whether accesses with these stamps are of other threads, with no barrier since."""
        then = stamp & ((1 << LANE_BITS) - 1)
        same_thread = (then == lane) & (many == 0)
        since = warp_epoch > ((stamp >> LANE_BITS) & ((1 << WARP_BITS) - 1))
        ordered = (then >> 5 == lane >> 5) & since & (many < 2)
        return (stamp >= 0) & (stamp >> (LANE_BITS + WARP_BITS) == epoch) & ~same_thread & ~ordered

    def _remember_readers(self, at, stamp, lane, epoch):
        before, many = self.read[at], self.many[at]
        current = (before >= 0) & (before >> (LANE_BITS + WARP_BITS) == epoch)
        then = before & ((1 << LANE_BITS) - 1)
        several = np.where(then >> 5 != lane >> 5, 2, np.where(then != lane, 1, 0))
        self.many[at] = np.where(current, np.maximum(many, several), 0)
        self.read[at] = stamp
        last = self.read[at]
        lost = last != stamp  # other lanes of this very instruction read the same
        if lost.any():
            warps = (last >> 5 & ((1 << LANE_BITS - 5) - 1)) != lane >> 5
            np.maximum.at(self.many, at[lost], np.where(warps, 2, 1)[lost].astype(np.int8))

    def _refine(self, size):
        if size < self.granule:
            times = self.granule // size
            self.write, self.read, self.many = (np.repeat(a, times) for a in (self.write, self.read, self.many))
            self.granule = size
