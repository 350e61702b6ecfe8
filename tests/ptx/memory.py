"""Memory that checks each access: bounds, alignment, and whether anybody has written what is read.

Addresses of global memory are made up: beyond ``2**32``, so that one cut off to 32 bits shows, and with gaps between
the allocations. Generic addresses of shared and of local memory lie in windows of their own.
"""

from collections import defaultdict
from dataclasses import dataclass, field

import numpy as np

from .errors import GlobalRaceError, MisalignedError, OutOfBoundsError, UninitialisedError

GLOBAL_BASE = 0x7_0000_0000_00
GAP = 4096
SHARED_WINDOW, LOCAL_WINDOW, WINDOW = 0x1_0000_0000_00, 0x2_0000_0000_00, 1 << 32
FIRST_OFFSET = 1024  # in shared and local memory, so that a null pointer is out of bounds
UNSIGNED = {1: np.uint8, 2: np.uint16, 4: np.uint32, 8: np.uint64}
FLUSH = 1 << 21
"""So many accesses are gathered before they are counted: counting takes time in the size of the allocation."""


class Cells:
    """Bytes with the knowledge which of them were written, as numbers of any size from `base` on."""

    def __init__(self, data, base=0, initialised=True):
        self.data, self.base = data, base
        self.written = None if initialised else np.zeros(len(data), np.uint8)
        self._views = {}

    def view(self, size, count):
        """The bytes and their written flags as rows of `count` numbers of `size` bytes; and the first row's address."""
        if (size, count) not in self._views:
            whole = size * count
            skip = -self.base % whole
            rows = max(0, len(self.data) - skip) // whole
            self._views[size, count] = (
                self.base + skip,
                *(
                    None if a is None else a[skip : skip + rows * whole].view(UNSIGNED[size]).reshape(rows, count)
                    for a in (self.data, self.written)
                ),
            )
        return self._views[size, count]

    def load(self, where, address, size, count):
        """The numbers at the addresses, as a list of `count` arrays; `where` tells errors who reads."""
        first, data, written = self.view(size, count)
        rows = (address - first) // (size * count)
        if written is not None:
            unset = (written[rows] != np.iinfo(written.dtype).max).any(axis=1)
            if unset.any():
                raise UninitialisedError(where(np.flatnonzero(unset)[0], "reads what nobody has written"))
        if count == 1:
            return [data.reshape(-1)[rows]]
        return list(np.ascontiguousarray(data[rows].T))

    def store(self, address, values, size):
        """Write the arrays `values`, one for each number of a row."""
        first, data, written = self.view(size, len(values))
        rows = (address - first) // (size * len(values))
        if len(values) == 1:
            data.reshape(-1)[rows] = values[0]
        else:
            data[rows] = np.stack(values, axis=1)
        if written is not None:
            written[rows] = np.iinfo(written.dtype).max


def check_alignment(where, address, size):
    """Raise if an address is not a multiple of `size`, a power of two."""
    if size > 1:
        odd = address & (size - 1)
        if odd.any():
            raise MisalignedError(where(np.flatnonzero(odd)[0], f"is not aligned to {size} bytes"))


def check_bounds(where, address, size, low, high):
    """Raise if an access is not within the addresses `low` to `high`."""
    if len(address) and (address.min() < low or address.max() > high - size):
        outside = (address < low) | (address > high - size)
        raise OutOfBoundsError(where(np.flatnonzero(outside)[0], f"is outside [{low:#x}, {high:#x}) with {size} bytes"))


class Traffic:
    """How often each byte of an allocation was read and written by a launch, atomics apart.

    Accesses are gathered, and counted when somebody asks.
    """

    def __init__(self, low, nbytes):
        self.low, self.nbytes = low, nbytes
        self._log, self._logged = defaultdict(list), 0
        self._counts = {}

    def note(self, address, size, writes):
        """Remember that there were accesses at these addresses."""
        self._log[size, writes].append((address // size - self.low // size).astype(np.uint32))
        self._logged += len(address)
        if self._logged > max(FLUSH, self.nbytes):
            self._count()

    @property
    def read(self):
        """How often each byte was read."""
        return self._count()[False]

    @property
    def written(self):
        """How often each byte was written."""
        return self._count()[True]

    def _count(self):
        for writes in (False, True):
            self._counts.setdefault(writes, np.zeros(self.nbytes, np.int64))
        for (size, writes), rows in self._log.items():
            times = np.repeat(np.bincount(np.concatenate(rows), minlength=-(-self.nbytes // size) + 1), size)
            self._counts[writes] += times[self.low % size :][: self.nbytes]
        self._log.clear()
        self._logged = 0
        return self._counts


class Allocation(Cells):
    """A piece of global memory, from address `low` to `high`."""

    def __init__(self, data, low, initialised, name):
        super().__init__(data, low, initialised)
        self.low, self.high, self.name = low, low + len(data), name
        self.start()

    def start(self):
        """Start a launch: nothing was counted, nobody has written."""
        self.traffic = Traffic(self.low, len(self.data))
        self._writers, self._granule = None, None

    def claim(self, where, address, size, threads):
        """Raise if a byte was already written by another thread of the launch."""
        if self._writers is None:
            self._granule = size
            self._writers = np.full(self._granules(size), -1, np.int64)
        if size < self._granule:
            finer = np.repeat(self._writers, self._granule // size)
            self._granule = size
            self._writers = finer[: self._granules(size)]
        at = (address // self._granule - self.low // self._granule)[:, None] + np.arange(size // self._granule)
        before = self._writers[at]
        self._writers[at] = threads[:, None]
        other = ((before >= 0) & (before != threads[:, None])) | (self._writers[at] != threads[:, None])
        if other.any():
            raise GlobalRaceError(where(np.flatnonzero(other.any(axis=1))[0], "is written by two threads of a launch"))

    def _granules(self, size):
        return (self.high - 1) // size - self.low // size + 1 if self.high > self.low else 0


@dataclass
class Memory:
    """Global memory: allocations at made-up addresses."""

    allocations: list[Allocation] = field(default_factory=list)
    symbols: dict = field(default_factory=dict)
    _next: int = GLOBAL_BASE

    def put(self, array, *, offset=0, name=""):
        """Copy an array's bytes to a new allocation, and give their address, `offset` bytes from an aligned one."""
        data = np.frombuffer(np.ascontiguousarray(array).tobytes(), np.uint8).copy()
        return self._add(data, None, offset, True, name)

    def allocate(self, nbytes, *, offset=0, name=""):
        """The address of so many new bytes, which must be written before they are read."""
        return self._add(np.full(nbytes, 0xA5, np.uint8), None, offset, False, name)

    def map(self, array, address=None, *, name=""):
        """The address of an existing C-contiguous array, which is not copied: kernels write to it."""
        if not array.flags.c_contiguous:
            raise ValueError("only C-contiguous arrays can be mapped")
        return self._add(array.reshape(-1).view(np.uint8), address, 0, True, name)

    def get(self, address, shape, dtype):
        """A copy of an array that lies at an address; all of it must have been written."""
        dtype = np.dtype(dtype)
        shape = (shape,) if np.isscalar(shape) else tuple(shape)
        size = int(np.prod(shape, dtype=np.int64)) * dtype.itemsize
        a = self.at(address)
        if a is None or address + size > a.high:
            raise OutOfBoundsError(f"no {size} bytes at {address:#x}")
        piece = slice(address - a.low, address - a.low + size)
        if a.written is not None and not a.written[piece].all():
            first = address + int(np.flatnonzero(a.written[piece] == 0)[0])
            raise UninitialisedError(f"nobody has written address {first:#x}, byte {first - address} of the array")
        return np.frombuffer(a.data[piece].tobytes(), dtype).reshape(shape).copy()

    def at(self, address):
        """The allocation that holds an address, or None."""
        return next((a for a in self.allocations if a.low <= address < a.high), None)

    def parts(self, where, address, size):
        """Which allocation holds which accesses: pairs of an allocation and indices, or None for all of them."""
        lowest, highest = int(address.min()), int(address.max())
        for i, a in enumerate(self.allocations):
            if a.low <= lowest and highest <= a.high - size:
                if i:
                    self.allocations.insert(0, self.allocations.pop(i))  # it is likely to be asked for again
                return [(a, None)]
        found, left = [], np.ones(len(address), bool)
        for a in self.allocations:
            inside = (address >= a.low) & (address <= a.high - size)
            if inside.any():
                found.append((a, np.flatnonzero(inside)))
                left &= ~inside
        if left.any():
            raise OutOfBoundsError(where(np.flatnonzero(left)[0], f"is in no allocation with {size} bytes"))
        return found

    def _add(self, data, address, offset, initialised, name):
        if address is None:
            address = self._next + offset
        if any(address < a.high + 1 and a.low - 1 < address + len(data) for a in self.allocations):
            raise ValueError(f"{address:#x} is in use")
        self._next = max(self._next, -(-(address + len(data) + GAP) // 256) * 256)
        self.allocations.append(Allocation(data, address, initialised, name or f"{address:#x}"))
        return address
