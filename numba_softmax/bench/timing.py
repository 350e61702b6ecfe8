"""Clocks for the benchmarks: candidates that take turns, and a parallel copy, the speed that memory allows.

Thread pools spin for some milliseconds after their work, which would slow the
next candidate. So a pause precedes each timed call, and an untimed call that
wakes its own threads. The pause also helps where other processes compete for the
cores: a rested process is scheduled on all cores at once; otherwise its threads
wait for each other's time slices, which takes ten times as long.

This module imports nothing of the package: benchmarks of other versions load it
alone.
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
"""Seconds before each timed call."""

ROUNDS, FEWEST_ROUNDS, FEWEST_SLOW_ROUNDS = 15, 5, 3
"""Rounds of a case, and the fewest once `CASE_SECONDS` have passed: of any candidate, of one known to be slow."""

CASE_SECONDS = 0.7

SLOW = 0.02
"""A call of at least this many seconds has no untimed one before it."""

HOPELESS = 1.5
"""A call of more seconds than this is timed once."""

LEAST_TIMED = 3e-3
"""The least seconds of a measurement: shorter calls are repeated."""

SERIAL_BELOW = 1 << 17
"""A copy of fewer bytes uses one thread."""

Key = TypeVar("Key", bound=Hashable)


# ------------------------------------------------------------------------ memory


def _copy(x, y, parts):
    for part in prange(parts):
        first, end = len(x) * part // parts, len(x) * (part + 1) // parts
        y[first:end] = x[first:end]  # a memcpy, by far faster than a loop: it uses non-temporal stores


def _read(x, parts):
    sums = np.empty(parts, np.int64)
    for part in prange(parts):
        total = 0  # a sum for each thread: one for all would not be vectorised
        for word in x[len(x) * part // parts : len(x) * (part + 1) // parts]:
            total += word
        sums[part] = total
    return sums


CEILINGS = {  # by (writes, parallel)
    (writes, parallel): njit(body, parallel=parallel)
    for writes, body in ((True, _copy), (False, _read))
    for parallel in (False, True)
}


def ceiling(x: np.ndarray, y: np.ndarray | None) -> Callable[[], Any]:
    """A copy of `x` to `y`, which is as large, or a read of `x` if `y` is None: the speed that memory allows."""
    words, parts = x.reshape(-1).view(np.int64), numba.get_num_threads()
    function = CEILINGS[y is not None, x.nbytes >= SERIAL_BELOW and parts > 1]
    if y is None:
        return lambda: function(words, parts)
    to = y.reshape(-1).view(np.int64)
    return lambda: function(words, to, parts)


# ------------------------------------------------------------------------- clocks


def timed(call: Callable[[], Any], repeats: int = 1) -> float:
    """Mean seconds of `repeats` calls."""
    start = time.perf_counter()
    for _ in range(repeats):
        call()
    return (time.perf_counter() - start) / repeats


def rested(call: Callable[[], Any], about: float) -> float:
    """Seconds of a call after a pause; `about` is what one call takes."""
    time.sleep(PAUSE)
    if about < SLOW:
        call()
    return timed(call, max(1, int(LEAST_TIMED / about)))


def interleaved(
    calls: Mapping[str, Callable[[], Any]], foreign: Collection[str], slow: Collection[str], fewest: int = FEWEST_ROUNDS
) -> dict[str, list[float]]:
    """Seconds of the calls of each candidate, which take turns.

    Parameters
    ----------
    calls : mapping of str to function
        The candidates.
    foreign : collection of str
        The candidates that are left out if they fail.
    slow : collection of str
        The candidates that get fewer rounds if a call takes long.
    fewest : int
        The fewest rounds of candidates that are not foreign, however long they take.

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
    """Seconds of many calls, one number for each round.

    Each round makes all calls, in a random order: so a burst of noise hits unrelated
    calls, not one end of a curve.

    Parameters
    ----------
    calls : mapping of key to function
        The calls.
    rounds : int
        The number of rounds.
    bar : tqdm
        A progress bar, which advances by one for each call of each round, and of a round of warm-up before them.

    Returns
    -------
    dict of key to list of float
        The seconds of each call, a number for each round.
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
    """All keys once in each round, in a random order."""
    order, generator = list(keys), random.Random(13)
    for _ in range(rounds):
        generator.shuffle(order)
        yield from order
