"""What softmax of an array in many chunks costs, by a model: functions of sizes and speeds alone.

Rows that are spread over chunks are read twice: a task a chunk folds it to
states, a tree of tasks merges these, and a task a chunk makes the results.
"""

from __future__ import annotations

import math
from typing import NamedTuple

BRANCHES = 8
"""States that a task merges, as `numba_softmax.dask` has it."""

STATE = 16
"""Bytes of the state of a row; 24 for rows computed in float64."""

TASKS = 3
"""Of a chunk: it is read or made, folded, finished."""

STEPS = 4
"""Tasks one after the other, beside those that merge: a chunk is read, folded, read again or handed on, finished."""


class Costs(NamedTuple):
    """Seconds that the parts of a cluster take."""

    scheduler: float  # of the scheduler, a task
    worker: float  # of a worker, a task, beside what the task computes
    step: float  # from a task's end to that of the next one, which has nothing to compute, on another worker
    compute: float  # of a worker, a byte of elements
    read: float = 0.0  # a byte, from where the elements lie; they are read twice
    write: float = 0.0
    network: float = 0.0  # a byte, from another worker


class Cut(NamedTuple):
    """An array in chunks: `groups` of rows, which have `chunks` each along the reduced axis."""

    groups: int
    chunks: int
    rows: int  # of a chunk
    chunk_bytes: float

    @property
    def total(self) -> int:
        """All chunks."""
        return self.groups * self.chunks


class Prediction(NamedTuple):
    """Seconds, and what they follow from."""

    tasks: int
    depth: int
    moved: float  # bytes of states, between workers
    scheduler: float
    share: float  # of each worker
    cpu: float  # of all processes together
    seconds: float


def levels(chunks: int) -> list[int]:
    """States that are left after each level of the tree that merges those of so many chunks."""
    left = []
    while chunks > 1:
        chunks = -(-chunks // BRANCHES)
        left.append(chunks)
    return left


def depth(chunks: int) -> int:
    """Levels of that tree: the logarithm to the base 8, rounded up."""
    return len(levels(chunks))


def merges(chunks: int) -> int:
    """Tasks of that tree."""
    return sum(levels(chunks))


def tasks(cut: Cut) -> int:
    """All tasks of softmax."""
    return cut.groups * (TASKS * cut.chunks + merges(cut.chunks))


def moved(cut: Cut, workers: int) -> float:
    """Bytes of states that workers receive from others, if chunks lie on workers at random.

    A task that merges 8 states runs where one of `workers` has most of them, the
    part ``1 / min(workers, 8)`` at least. The merged state then goes to all others.
    """
    merged = cut.chunks + merges(cut.chunks) - 1 if cut.chunks > 1 else 0  # states that a task of the tree takes
    away = 1 - 1 / min(workers, BRANCHES)
    handed_on = min(workers, cut.chunks) - 1
    return STATE * cut.rows * cut.groups * (merged * away + handed_on)


def moved_between_neighbours(cut: Cut, workers: int) -> float:
    """About as many of them, if each worker has chunks that are neighbours: the number of chunks matters little.

    Where one worker's chunks end and the next one's begin, a task of each level
    has states on both sides; the lesser half moves.
    """
    ends = min(workers, cut.chunks) - 1
    at_ends = STATE * cut.rows * cut.groups * ends * (BRANCHES // 2 * depth(cut.chunks) + 1)
    return min(at_ends, moved(cut, workers))


def predicted(
    cut: Cut, workers: int, costs: Costs, cores: int | None = None, *, neighbours: bool = False
) -> Prediction:
    """What softmax takes on `workers` of one thread each; `cores`, if the scheduler and they share so few.

    The scheduler, the workers and the cores each have their own work to do, all
    at the same time: the slowest of them counts, and the steps of one chunk. If
    each waits for the others, it takes as long as all together.
    """
    count, states = tasks(cut), (moved_between_neighbours if neighbours else moved)(cut, workers)
    scheduler = count * costs.scheduler
    busy = count * costs.worker + cut.total * cut.chunk_bytes * costs.compute
    waiting = cut.total * cut.chunk_bytes * (2 * costs.read + costs.write) + states * costs.network
    share = (busy + waiting) / min(workers, cut.total)
    slowest = max(scheduler, share, (scheduler + busy) / (cores or math.inf))
    seconds = slowest + (depth(cut.chunks) + STEPS) * costs.step
    return Prediction(count, depth(cut.chunks), states, scheduler, share, scheduler + busy, seconds)


def balanced(workers: int, costs: Costs) -> float:
    """Bytes of a chunk from which on the workers, and no longer the scheduler, are the limit."""
    each = TASKS + 1 / (BRANCHES - 1)
    a_byte = costs.compute + 2 * costs.read + costs.write
    return max(0.0, each * (workers * costs.scheduler - costs.worker) / a_byte)


def square(total_bytes: float, chunk_bytes: float, itemsize: int = 4) -> Cut:
    """A square array of so many bytes in square chunks."""
    side, edge = math.sqrt(total_bytes / itemsize), math.sqrt(chunk_bytes / itemsize)
    chunks = math.ceil(side / edge)
    return Cut(chunks, chunks, math.ceil(edge), chunk_bytes)
