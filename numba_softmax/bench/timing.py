"""Clocks for the benchmarks: candidates that take turns, and what memory allows at best.

Thread pools spin for some milliseconds after their work and would slow the next
candidate, so each timed call comes after a pause, and after an untimed call that
wakes its own threads. Where other processes want the cores, the pause has one
more use: a process that has rested gets its cores at once, while threads of one
that has not wait for each other by turns of the scheduler, ten times the time.
"""

from __future__ import annotations

import contextlib
import random
import time
from collections.abc import Callable, Collection, Hashable, Iterable, Iterator, Mapping
from typing import Any, TypeVar

import numba
import numpy as np
from numba import njit, prange
from tqdm import tqdm

PAUSE = 0.01
ROUNDS, FEWEST_ROUNDS, FEWEST_SLOW_ROUNDS, CASE_SECONDS = 15, 5, 3, 0.7
SLOW = 0.02
"""Seconds from which on a call needs no untimed one before it."""

HOPELESS = 1.5
"""Seconds from which on one call is enough."""

LEAST_TIMED = 3e-3
"""Seconds that are timed at once: shorter calls are repeated."""

SERIAL_BELOW = 1 << 17
"""Bytes below which the copy does not use threads."""

Key = TypeVar("Key", bound=Hashable)


# ------------------------------------------------------------------------ memory


def _copy(x, y, parts):
    for part in prange(parts):
        first, end = len(x) * part // parts, len(x) * (part + 1) // parts
        y[first:end] = x[first:end]  # a memcpy, which beats a loop by far: it writes past the caches


def _read(x, parts):
    sums = np.empty(parts, np.int64)
    for part in prange(parts):
        total = 0  # a sum of its own: one for all threads would not be vectorised
        for word in x[len(x) * part // parts : len(x) * (part + 1) // parts]:
            total += word
        sums[part] = total
    return sums


CEILINGS = {  # by whether results are written, and whether the array is worth threads
    (writes, parallel): njit(body, parallel=parallel)
    for writes, body in ((True, _copy), (False, _read))
    for parallel in (False, True)
}


def ceiling(x: np.ndarray, y: np.ndarray | None) -> Callable[[], Any]:
    """What memory allows at best: to copy `x` to `y`, which is as large, or to read it if that is None."""
    words, parts = x.reshape(-1).view(np.int64), numba.get_num_threads()
    function = CEILINGS[y is not None, x.nbytes >= SERIAL_BELOW and parts > 1]
    if y is None:
        return lambda: function(words, parts)
    to = y.reshape(-1).view(np.int64)
    return lambda: function(words, to, parts)


# ------------------------------------------------------------------------- clocks


def timed(call: Callable[[], Any], repeats: int = 1) -> float:
    """Seconds of one of `repeats` calls."""
    start = time.perf_counter()
    for _ in range(repeats):
        call()
    return (time.perf_counter() - start) / repeats


def rested(call: Callable[[], Any], about: float) -> float:
    """Seconds of one call, which takes `about` so many, after a pause."""
    time.sleep(PAUSE)
    if about < SLOW:
        call()
    return timed(call, max(1, int(LEAST_TIMED / about)))


def interleaved(
    calls: Mapping[str, Callable[[], Any]], foreign: Collection[str], slow: Collection[str], fewest: int = FEWEST_ROUNDS
) -> dict[str, list[float]]:
    """Seconds a call of each candidate, which take turns.

    Parameters
    ----------
    calls : mapping of str to function
        The candidates.
    foreign : collection of str
        Those that are left out if they fail.
    slow : collection of str
        Those of which few rounds are enough where they take long.
    fewest : int
        Rounds of those that are not foreign, however long they take.

    Returns
    -------
    dict of str to list of float
        The candidates that did not fail.
    """
    once, times = {}, {}
    for name, call in calls.items():
        with contextlib.suppress(*((Exception,) if name in foreign else ())):  # a dtype that it lacks, say
            call()  # compiles, or loads
            once[name] = timed(call)
            times[name] = [once[name]] if once[name] > HOPELESS else []
    start = time.perf_counter()
    for done in range(ROUNDS):
        late = time.perf_counter() - start > CASE_SECONDS
        for name, seconds in once.items():
            least = FEWEST_ROUNDS if name in foreign else fewest
            least = FEWEST_SLOW_ROUNDS if name in slow and seconds > SLOW else least
            if seconds > HOPELESS or (late and done >= least):
                continue
            times[name].append(rested(calls[name], seconds))
    return times


def shuffled(calls: Mapping[Key, Callable[[], Any]], rounds: int, bar: tqdm[Any]) -> dict[Key, list[float]]:
    """Seconds of many calls of one library, a number a round.

    Each round goes through all of them in an order of its own: a burst of noise
    hits calls that have nothing to do with each other, not one end of a curve.

    Parameters
    ----------
    calls : mapping of key to function
        What is timed.
    rounds : int
        How many times.
    bar : tqdm
        It moves by one for each call of each round, and of one round before them.

    Returns
    -------
    dict of key to list of float
        The seconds of a call in each round.
    """
    once: dict[Key, float] = {}
    times: dict[Key, list[float]] = {key: [] for key in calls}
    for key, call in calls.items():
        call()  # compiles, or loads
        once[key] = timed(call)
        bar.update()
    for key in in_turns(calls, rounds):
        times[key].append(rested(calls[key], once[key]))
        bar.update()
    return times


def in_turns(keys: Iterable[Key], rounds: int) -> Iterator[Key]:
    """All keys once a round, each round in an order of its own."""
    order, generator = list(keys), random.Random(13)
    for _ in range(rounds):
        generator.shuffle(order)
        yield from order
