"""Loads, stores and atomics of the threads in flight, in all of PTX's state spaces."""

import numpy as np

from .counts import bank_conflicts
from .errors import OutOfBoundsError
from .memory import LOCAL_WINDOW, SHARED_WINDOW, WINDOW, Cells, check_alignment, check_bounds
from .shared import Races, Rows

WINDOWS = {"shared": SHARED_WINDOW, "local": LOCAL_WINDOW}


class Spaces:
    """The memory that a batch of blocks sees.

    Parameters
    ----------
    memory : Memory
        Global and constant memory.
    parameters : bytes
        The kernel's arguments, as its entry lays them out.
    blocks, lanes : int
        How many there are in flight.
    shared_size, local_size : int
        Bytes of a block and of a thread.
    settings : Settings
        Which checks to make.
    counts : Counts
        What to add to.
    """

    def __init__(self, memory, parameters, blocks, lanes, shared_size, local_size, settings, counts):
        self.memory, self.settings, self.counts = memory, settings, counts
        self.parameters = Cells(np.frombuffer(parameters.ljust(16, b"\0"), np.uint8))
        self.parameter_size = len(parameters)
        self.rows = {"shared": Rows(blocks, shared_size), "local": Rows(lanes, local_size)}
        self.races = Races(len(self.rows["shared"].cells.data)) if settings.shared_races else None

    def load(self, batch, site, lanes, address, size, count, strong):
        """The values at the lanes' addresses, `count` arrays of unsigned integers of `size` bytes."""
        parts = []
        for space, i in self._spaces(site.space, address):
            at, who = (address, lanes) if i is None else (address[i], lanes[i])
            parts.append((i, self._load(space, batch, site, who, at, size, count, strong)))
        if len(parts) == 1:
            return parts[0][1]
        return [_joined([(i, values[k]) for i, values in parts], len(address)) for k in range(count)]

    def store(self, batch, site, lanes, address, values, size, strong):
        """Write `values`, arrays of unsigned integers, to the lanes' addresses."""
        for space, i in self._spaces(site.space, address):
            if i is None:
                self._store(space, batch, site, lanes, address, values, size, strong)
            else:
                self._store(space, batch, site, lanes[i], address[i], [v[i] for v in values], size, strong)

    def _spaces(self, space, address):
        """The parts of the accesses by space: pairs of a name, and indices or None for all; addresses stay generic."""
        if space != "generic":
            return [(space, None)]
        if not len(address) or address.max() < SHARED_WINDOW:
            return [("global", None)]
        result, rest = [], np.ones(len(address), bool)
        for name, window in WINDOWS.items():
            inside = (address >= window) & (address < window + WINDOW)
            if inside.any():
                result.append((f"generic {name}", np.flatnonzero(inside)))
                rest &= ~inside
        if rest.any():
            result.append(("global", np.flatnonzero(rest)))
        return result

    def _load(self, space, batch, site, lanes, address, size, count, strong):
        where = batch.fault(site, lanes, address)
        whole = size * count
        if space in ("global", "const"):
            check_alignment(where, address, whole)
            if space == "global":
                self.counts.loads.add(address, whole, lanes >> 5)
            return self._load_global(batch, site, lanes, address, size, count)
        if space == "param":
            check_alignment(where, address, whole)
            check_bounds(where, address, whole, 0, self.parameter_size)
            return self.parameters.load(where, address, size, count)
        rows, place = self._place(space, batch, where, lanes, address, whole)
        values = rows.cells.load(where, place, size, count)
        self._note_shared(space, batch, where, lanes, place, whole, writes=False, strong=strong)
        return values

    def _load_global(self, batch, site, lanes, address, size, count):
        parts = []
        for allocation, i in self.memory.parts(batch.fault(site, lanes, address), address, size * count):
            at, who = (address, lanes) if i is None else (address[i], lanes[i])
            parts.append((i, allocation.load(batch.fault(site, who, at), at, size, count)))
            allocation.traffic.note(at, size * count, writes=False)
        if len(parts) == 1:
            return parts[0][1]
        return [_joined([(i, values[k]) for i, values in parts], len(address)) for k in range(count)]

    def _store(self, space, batch, site, lanes, address, values, size, strong):
        where = batch.fault(site, lanes, address)
        whole = size * len(values)
        if space in ("const", "param"):
            raise OutOfBoundsError(where(0, "cannot be written"))
        if space == "global":
            check_alignment(where, address, whole)
            self.counts.stores.add(address, whole, lanes >> 5)
            for allocation, i in self.memory.parts(where, address, whole):
                at, who = (address, lanes) if i is None else (address[i], lanes[i])
                if self.settings.global_races and not strong:
                    allocation.claim(batch.fault(site, who, at), at, whole, batch.threads(who))
                allocation.store(at, values if i is None else [v[i] for v in values], size)
                allocation.traffic.note(at, whole, writes=True)
            return
        rows, place = self._place(space, batch, where, lanes, address, whole)
        self._note_shared(space, batch, where, lanes, place, whole, writes=True, strong=strong)
        rows.cells.store(place, values, size)

    def _place(self, space, batch, where, lanes, address, size):
        """The rows of a space, and where in them the addresses are."""
        generic, _, name = space.rpartition(" ")
        offset = address - WINDOWS[name] if generic else address
        row = lanes if name == "local" else batch.block_of[lanes]
        return self.rows[name], self.rows[name].place(where, row, offset, size)

    def _note_shared(self, space, batch, where, lanes, place, size, *, writes, strong):
        if space.endswith("local"):
            return
        self.counts.shared_accesses += len(lanes)
        self.counts.conflicts += bank_conflicts(lanes, place, size)
        if self.races and not strong:
            epoch, warp_epoch = batch.epoch[batch.block_of[lanes]], batch.warp_epoch[lanes >> 5]
            self.races.check(where, place, size, writes, lanes, epoch, warp_epoch)

    def atomic(self, batch, site, lanes, address, update, dtype):
        """Replace each lane's number by ``update(number, i)``, one lane after the other; gives the old numbers."""
        old = np.empty(len(lanes), dtype)
        self.counts.atomics += len(lanes)
        for space, some in self._spaces(site.space, address):
            i = np.arange(len(lanes)) if some is None else some
            at, who = address[i], lanes[i]
            where = batch.fault(site, who, at)
            if space == "global":
                check_alignment(where, at, dtype.itemsize)
                targets = [(a, at if j is None else at[j], i if j is None else i[j])
                           for a, j in self.memory.parts(where, at, dtype.itemsize)]  # fmt: skip
            else:
                rows, place = self._place(space, batch, where, who, at, dtype.itemsize)
                targets = [(rows.cells, place, i)]
            for cells, place, j in targets:
                cells.load(where, place, dtype.itemsize, 1)  # checks that all were written
                first, data, _ = cells.view(dtype.itemsize, 1)
                numbers = data.reshape(-1).view(dtype)
                for k, row in zip(j, (place - first) // dtype.itemsize, strict=True):
                    old[k] = numbers[row]
                    numbers[row] = update(old[k], k)
        return old


def _joined(parts, n):
    """One array of the parts' values, each with its indices."""
    result = np.empty(n, parts[0][1].dtype)
    for i, values in parts:
        result[i] = values
    return result
