"""Blocks of threads in flight: who runs next, and who waits at a barrier.

Every register is an array with a number for each lane, that is for each thread of all blocks in flight. Each lane is
at some basic block of the program; those at the lowest one run it together. Compilers lay out code such that diverged
threads meet again in this way nearly always; where they do not, lanes at an exchange of their warp, or at a barrier,
wait until the others arrive. (The design is that of tinygrad's emulator of GPUs for its tests.)
"""

from dataclasses import dataclass

import numpy as np

from .errors import DeadlockError, EndlessError, ShuffleError
from .program import EXIT

WARP = 32
PARKED = EXIT - 1  # waits for others
PATIENCE, TURNS = 500, 50
"""So many times lanes may go backward before others that could run get turns, for whom they may be waiting."""


@dataclass
class Settings:
    """How a launch runs; see `run`."""

    approximation: float | str = 0
    order: str = "forward"
    warps: str = "together"
    shared_races: bool = True
    global_races: bool = True
    max_steps: int = 10_000_000


class Active:
    """The lanes that run: their numbers, and `at` to index registers by, None where all lanes may be computed."""

    __slots__ = ("at", "exact", "lanes")

    def __init__(self, lanes, everybody, n):
        self.lanes = lanes
        self.exact = None if len(lanes) == n else lanes
        self.at = None if everybody else lanes

    def where(self, condition):
        """Those for which a condition, an array as `at` indexes them, holds; None if there are none."""
        if np.ndim(condition) == 0:
            return self if condition else None
        chosen = condition if self.at is not None or self.exact is None else condition[self.lanes]
        if chosen.all():
            return self
        lanes = self.lanes[chosen]
        return Active(lanes, False, -1) if len(lanes) else None


class Batch:
    """Some blocks of a launch, all in flight together.

    Parameters
    ----------
    program : Program
        What they run.
    ids : array
        The numbers of the blocks in the grid.
    grid, block : tuple of three ints
        The launch's dimensions.
    spaces : callable
        Makes the `Spaces` of so many blocks and lanes.
    addresses : dict
        Those of variables, by the program's symbols.
    settings, counts
        Those of the launch.
    """

    def __init__(self, program, ids, grid, block, spaces, addresses, settings, counts):
        self.program, self.ids, self.grid, self.block = program, ids, grid, block
        self.addresses, self.settings, self.counts = addresses, settings, counts
        threads = block[0] * block[1] * block[2]
        self.padded = -(-threads // WARP) * WARP
        self.n = len(ids) * self.padded
        self.spaces = spaces(len(ids), self.n)
        lanes = np.arange(self.n)
        self.block_of, self.thread_of = lanes // self.padded, lanes % self.padded
        self.key = np.where(self.thread_of < threads, 0, EXIT)
        self.everybody = np.flatnonzero(self.key == 0)
        self.live = np.full(len(ids), threads)
        self.waits_at = np.full(self.n, -1)
        self.arrived, self.barrier_names = np.zeros(len(ids), np.int64), np.zeros(len(ids), np.int64)
        self.epoch, self.warp_epoch = np.zeros(len(ids), np.int64), np.zeros(self.n // WARP, np.int64)
        junk = {d: np.frombuffer(b"\xa5" * (d.itemsize * self.n), d) for d in set(program.dtypes) if d.kind != "b"}
        junk[np.dtype(bool)] = np.frombuffer(bytes(self.n), bool)
        self.registers = [junk[d] for d in program.dtypes]
        self.params = {k: np.zeros((self.n, size), np.uint8) for k, size in program.params.values()}
        self.returns = {name: np.zeros(self.n, np.int64) for name in program.starts}
        self.executed = np.zeros(len(program.blocks), np.int64)
        self._special = {}
        self.steps = self.backward = 0
        self.rivals, self.crowded = PARKED, False

    # --------------------------------------------------------------- scheduling

    def run(self):
        """Run all threads to their end."""
        with np.errstate(all="ignore"):
            while (picked := self._pick()) is not None:
                self._go(*picked)
        for block, times in zip(self.program.blocks, self.executed.tolist(), strict=True):
            for opcode in block.opcodes:
                self.counts.instructions[opcode] += times

    def _pick(self):
        """The lowest block at which lanes can run, and these; None when all have ended."""
        key = self.key
        if self.settings.warps != "together" and self.backward <= PATIENCE:
            key = self._key_of_first_warps()
        first = int(key.min(initial=EXIT))
        if first >= PARKED:
            if first == EXIT:
                return None
            self._complain()
        if self.backward > PATIENCE and self.backward % 2:  # perhaps they wait for somebody further on
            later = key[(key > first) & (key < PARKED)]
            first = int(later.min()) if len(later) else first
        here = key == first
        others = np.where(here, PARKED, key)
        self.rivals = int(others.min())
        lanes = np.flatnonzero(here)
        self.crowded = self.rivals < PARKED or (
            key is not self.key and np.count_nonzero(self.key < PARKED) > len(lanes)
        )
        return first, Active(lanes, len(lanes) == len(self.everybody), self.n)

    def _key_of_first_warps(self):
        """The key with all lanes parked but those of each block's first warp, in the order wanted, that can run."""
        warps = self.key.reshape(len(self.ids), -1, WARP)
        can = (warps < PARKED).any(axis=2)
        if not can.any():
            return self.key
        order = can if self.settings.warps == "forward" else can[:, ::-1]
        first = order.argmax(axis=1)
        if self.settings.warps == "reverse":
            first = can.shape[1] - 1 - first
        chosen = np.arange(can.shape[1]) == first[:, None]
        return np.where(chosen[:, :, None], warps, np.maximum(warps, PARKED)).reshape(-1)

    def _go(self, number, active):
        """Run lanes on from a block, as long as they are the first."""
        blocks = self.program.blocks
        while True:
            block = blocks[number]
            self.steps += 1
            if block.meet:
                active = block.meet(self, number, active)
                if active is None:
                    return
            self.executed[number] += len(active.lanes)
            for step in block.steps:
                step(self, active)
            following = block.end(self, active)
            if isinstance(following, int):
                self._watch(number, following)
                if following < self.rivals and self.backward <= PATIENCE:
                    number = following
                    continue
            else:
                self._watch(number, int(following.min()))
            self.key[active.lanes] = following
            self._bury(active.lanes)
            return

    def _watch(self, number, following):
        """Count the steps, and the backward ones that lanes make while others could run."""
        if following <= number:
            self.backward = (self.backward + self.crowded) % (PATIENCE + TURNS)
            if self.steps > self.settings.max_steps:
                raise EndlessError(f"more than {self.settings.max_steps} steps")

    def _bury(self, lanes):
        """Take those of the lanes that have ended from the blocks they were in."""
        ended = lanes[self.key[lanes] == EXIT]
        if len(ended):
            self.backward = 0
            self.live -= np.bincount(self.block_of[ended], minlength=len(self.live))
            self.everybody = self.everybody[self.key[self.everybody] != EXIT]
            self._release()

    def park(self, lanes, number):
        """Let lanes wait at a block."""
        self.key[lanes] = PARKED
        self.waits_at[lanes] = number

    def barrier(self, number, active, name):
        """Let lanes wait at a barrier until all of their blocks have arrived; gives those that need not."""
        self.executed[number] += len(active.lanes)
        if len(active.lanes) == len(self.everybody):
            self.executed[number] -= len(active.lanes)  # they will be counted as they go on
            self._pass(self.live > 0)
            return active
        blocks = self.block_of[active.lanes]
        others = (self.arrived[blocks] > 0) & (self.barrier_names[blocks] != name)
        if others.any():
            lane = active.lanes[np.argmax(others)]
            raise DeadlockError(f"{self.name(lane)} is at barrier {name}, others of its block are at another")
        self.barrier_names[blocks] = name
        self.park(active.lanes, number)
        self.arrived += np.bincount(blocks, minlength=len(self.live))
        self._release()
        return None

    def _release(self):
        """Let the blocks go on whose living threads have all arrived."""
        ready = (self.arrived == self.live) & (self.arrived > 0)
        if ready.any():
            lanes = np.flatnonzero((self.waits_at >= 0) & ready[self.block_of])
            self.key[lanes] = self.waits_at[lanes] + 1
            self.waits_at[lanes] = -1
            self.arrived[ready] = 0
            self._pass(ready)

    def _pass(self, blocks):
        self.backward = 0
        self.epoch += blocks
        self.counts.barriers += int(blocks.sum())

    def _complain(self):
        """Raise, as all threads that are left wait."""
        lanes = np.flatnonzero(self.key == PARKED)
        at_barrier = [self.program.blocks[b].opcodes[0].startswith("bar") for b in self.waits_at[lanes]]
        lane = lanes[np.argmin(at_barrier)]
        block = self.program.blocks[self.waits_at[lane]]
        kind = DeadlockError if all(at_barrier) or block.opcodes[0].startswith("bar") else ShuffleError
        raise kind(f"{block.opcodes[0]}: {self.name(lane)} waits for others, and all that are left do")

    # ------------------------------------------------------------------- names

    def special(self, name):
        """A special register: an array for all lanes, or a number."""
        if name not in self._special:
            self._special[name] = self._special_value(name)
        return self._special[name]

    def _special_value(self, name):
        name, _, axis = name.partition(".")
        k = "xyz".find(axis) if axis else 0
        lane = self.thread_of % WARP
        if name in ("tid", "ctaid"):
            return np.array(coordinates(self.thread_of, self.block)[k]) if name == "tid" else self._block_id(k)
        bits = {"eq": 1 << lane, "lt": (1 << lane) - 1, "le": (2 << lane) - 1, "gt": -(2 << lane), "ge": -(1 << lane)}
        if name.startswith("lanemask_"):
            return bits[name[9:]] & 0xFFFFFFFF
        sizes = self.spaces.rows["shared"].size
        values = {
            "ntid": self.block[k], "nctaid": self.grid[k], "laneid": lane, "warpid": self.thread_of // WARP,
            "nwarpid": self.padded // WARP, "smid": 0, "total_smem_size": sizes,
            "dynamic_smem_size": sizes - self.program.shared_size,
        }  # fmt: skip
        if name in values:
            return np.array(values[name])
        return np.array(self.steps)  # a clock

    def _block_id(self, k):
        return coordinates(self.ids, self.grid)[k][self.block_of]

    def threads(self, lanes):
        """The numbers of lanes' threads in the launch."""
        return self.ids[self.block_of[lanes]] * self.padded + self.thread_of[lanes]

    def name(self, lane):
        """A lane's thread, for people."""
        thread = tuple(int(c) for c in coordinates(self.thread_of[lane], self.block))
        block = tuple(int(c) for c in coordinates(self.ids[self.block_of[lane]], self.grid))
        return f"thread {thread} of block {block}"

    def fault(self, site, lanes, address):
        """What makes the text of an error from the index of an access and what is wrong with it."""
        return lambda i, what: f"{site}: {self.name(lanes[i])}: address {int(address[i]):#x} {what}"


def coordinates(number, sizes):
    return number % sizes[0], number // sizes[0] % sizes[1], number // (sizes[0] * sizes[1])
