"""What a launch did, in numbers that say how fast it can be."""

from collections import Counter
from dataclasses import dataclass, field

import numpy as np

BANKS = 32
SECTOR = 32


@dataclass
class Requests:
    """The warps' accesses of one kind to global memory: sectors are pieces of 32 bytes."""

    requests: int = 0
    sectors: int = 0
    bytes_by_size: Counter = field(default_factory=Counter)

    @property
    def bytes(self):
        """Bytes that the threads asked for."""
        return sum(self.bytes_by_size.values())

    def share(self, size=16):
        """Which part of the bytes moved by accesses of this size."""
        return self.bytes_by_size[size] / self.bytes if self.bytes else 0.0

    def add(self, address, size, warps):
        """Count one instruction's accesses; `warps` are in order."""
        self.requests += changes(warps)
        self.sectors += distinct((warps << 48) | (address // SECTOR))
        self.bytes_by_size[size] += size * len(address)


@dataclass
class Counts:
    """What a launch did.

    `loads` and `stores` are those of global memory, atomics apart; `traffic` says, by the names of allocations, how
    often each byte was read and written. `conflicts` are the passes over the banks of shared memory beyond those that
    the accesses would need at best. `instructions` counts threads, by opcode.
    """

    threads: int = 0
    blocks: int = 0
    loads: Requests = field(default_factory=Requests)
    stores: Requests = field(default_factory=Requests)
    atomics: int = 0
    shared_accesses: int = 0
    conflicts: int = 0
    barriers: int = 0
    instructions: Counter = field(default_factory=Counter)
    traffic: dict = field(default_factory=dict)

    @property
    def barriers_per_block(self):
        """How many barriers a block passed, on average."""
        return self.barriers / self.blocks

    @property
    def executed(self):
        """Instructions of all threads."""
        return self.instructions.total()

    def of_class(self, *heads):
        """Instructions of all threads whose opcodes start with one of these words, such as "fma"."""
        return sum(n for opcode, n in self.instructions.items() if opcode.split(".")[0] in heads)


def changes(ordered):
    """How many different numbers there are, equal ones side by side."""
    return 1 + int(np.count_nonzero(ordered[1:] != ordered[:-1])) if len(ordered) else 0


def distinct(numbers):
    """How many different numbers there are; fast where they are in order."""
    if len(numbers) and (numbers[1:] < numbers[:-1]).any():
        numbers = np.sort(numbers)
    return changes(numbers)


def bank_conflicts(lanes, offset, size):
    """Passes over the banks beyond one for each group of lanes that can be served at once.

    Those are 32 lanes, 16 with 8 bytes each, 8 with 16 bytes; one pass serves different words from different banks.
    """
    words = max(1, size // 4)
    group = lanes // (BANKS // words)
    groups = group if words == 1 else np.repeat(group, words)
    word = offset // 4 if words == 1 else ((offset // 4)[:, None] + np.arange(words)).reshape(-1)
    slots = np.bincount(groups * BANKS + word % BANKS, minlength=BANKS * (int(groups[-1]) + 1))
    if slots.max() <= 1:
        return 0
    once = np.unique((groups << 32) | word)
    slots = np.bincount((once >> 32) * BANKS + (once & 0xFFFFFFFF) % BANKS, minlength=len(slots))
    passes = slots.reshape(-1, BANKS).max(axis=1)
    return int((passes - 1).sum())
