"""A model of the cost of softmax of an array in many chunks: functions of sizes and speeds alone.

Rows that are spread over chunks are read twice: one task for each chunk folds it to
states, a tree of tasks merges these, and one task for each chunk finishes it.
"""

from __future__ import annotations

import math
from typing import NamedTuple

BRANCHES = 8
"""States that a task merges, as in `numba_softmax.dask`."""

STATE = 16
"""Bytes of the state of a row; 24 for rows computed in float64."""

TASKS = 3
"""Tasks of a chunk: it is read or made, folded, finished."""

STEPS = 4
"""Tasks in sequence, besides those that merge: a chunk is read, folded, read again or handed on, finished."""


class Costs(NamedTuple):
    """Seconds that parts of a cluster spend on a task or a byte."""

    scheduler: float  # of the scheduler, per task
    worker: float  # of a worker, per task, without what the task computes
    step: float  # from the end of a task to the end of an empty one that needs its result, on another worker
    compute: float  # of a worker, per byte of elements
    read: float = 0.0  # per byte, from storage; elements are read twice
    write: float = 0.0
    network: float = 0.0  # per byte, from another worker


class Cut(NamedTuple):
    """An array in chunks: `groups` of rows, with `chunks` each along the reduced axis."""

    groups: int
    chunks: int
    rows: int  # of a chunk
    chunk_bytes: float

    @property
    def total(self) -> int:
        """The number of all chunks."""
        return self.groups * self.chunks


class Prediction(NamedTuple):
    """The predicted seconds, and the numbers that they are computed from."""

    tasks: int
    depth: int
    moved: float  # bytes of states, between workers
    scheduler: float
    share: float  # of each worker
    cpu: float  # of all processes together
    seconds: float


def levels(chunks: int) -> list[int]:
    """The number of states after each level of the tree that merges those of all chunks."""
    left = []
    while chunks > 1:
        chunks = -(-chunks // BRANCHES)
        left.append(chunks)
    return left


def depth(chunks: int) -> int:
    """The levels of the tree: log8(chunks), rounded up."""
    return len(levels(chunks))


def merges(chunks: int) -> int:
    """The tasks of the tree."""
    return sum(levels(chunks))


def tasks(cut: Cut) -> int:
    """The tasks of softmax."""
    return cut.groups * (TASKS * cut.chunks + merges(cut.chunks))


def moved(cut: Cut, workers: int) -> float:
    """Bytes of states that workers receive from others, if chunks are on workers at random.

    A task that merges 8 states runs on the worker that has most of them, which is
    ``1 / min(workers, 8)`` of them at least. The merged state then goes to all other workers.
    """
    merged = cut.chunks + merges(cut.chunks) - 1 if cut.chunks > 1 else 0  # inputs of the tasks of the tree
    away = 1 - 1 / min(workers, BRANCHES)
    handed_on = min(workers, cut.chunks) - 1
    return STATE * cut.rows * cut.groups * (merged * away + handed_on)


def moved_between_neighbours(cut: Cut, workers: int) -> float:
    """Bytes of states that workers receive, if each has neighbouring chunks: hardly more with more chunks.

    Where the chunks of one worker end and those of the next begin, a task of each
    level merges states of both; the smaller half of them moves.
    """
    ends = min(workers, cut.chunks) - 1
    at_ends = STATE * cut.rows * cut.groups * ends * (BRANCHES // 2 * depth(cut.chunks) + 1)
    return min(at_ends, moved(cut, workers))


def predicted(
    cut: Cut, workers: int, costs: Costs, cores: int | None = None, *, neighbours: bool = False
) -> Prediction:
    """The cost of softmax on `workers` of one thread each; with `cores`, they and the scheduler share these.

    The scheduler, the workers and the cores work at the same time: the slowest of
    them determines the seconds, to which the steps of one chunk are added. If they wait
    for each other, it takes up to the sum of theirs.
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
    """The bytes of a chunk for which the workers take as long as the scheduler: in larger ones they are the limit."""
    each = TASKS + 1 / (BRANCHES - 1)
    a_byte = costs.compute + 2 * costs.read + costs.write
    return max(0.0, each * (workers * costs.scheduler - costs.worker) / a_byte)


def square(total_bytes: float, chunk_bytes: float, itemsize: int = 4) -> Cut:
    """A square array in square chunks."""
    side, edge = math.sqrt(total_bytes / itemsize), math.sqrt(chunk_bytes / itemsize)
    chunks = math.ceil(side / edge)
    return Cut(chunks, chunks, math.ceil(edge), chunk_bytes)
