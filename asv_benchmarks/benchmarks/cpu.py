"""Speed on NumPy arrays: seconds, and the share of a copy's speed."""

import contextlib
import itertools
import os
import statistics
import sys

import numba
import numpy as np
from tqdm import tqdm

import numba_softmax as ns

from . import common
from .common import CASES, DTYPES, OPS, REDUCING, STATE_CALLS, TYPES, arrays_of, call_of, filled, result_shape, tool


class Time:
    """Seconds of a call with `out=`."""

    version = "1"
    rounds, sample_time, repeat, warmup_time = 1, 0.02, (3, 9, 0.4), 0.05
    params = (OPS, tuple(CASES), DTYPES)
    param_names = ("op", "case", "dtype")

    def setup(self, op, case, dtype):
        self.call = call_of(op, case, *arrays_of(op, case, dtype))
        self.call()  # compiles, or loads

    def time_call(self, *_):
        self.call()


class TimeStates(Time):
    """Seconds of a call that folds rows into states, or finishes rows with states; jitted code that loops over rows."""

    params = (STATE_CALLS, tuple(CASES), ("float32",))


class OfCopy:
    """Speed as a share of the speed of a parallel copy of the same bytes; for what reduces, of their reading.

    All cases are measured in one process, in rounds. In each round a case is timed next to its copy, and cases come in
    a random order: so other work of the machine hits both, and different cases each time.
    """

    version = "1"
    unit = "of copy"
    params = (OPS, tuple(CASES), DTYPES)
    param_names = ("op", "case", "dtype")
    ROUNDS = 11

    def setup_cache(self):
        return shares(KEYS, self.ROUNDS)

    setup_cache.timeout = 3600

    def setup(self, found, op, case, dtype):
        if (op, case, dtype) not in found:
            raise NotImplementedError("this commit has no such call")

    def track_of_copy(self, found, *key):
        return statistics.median(found[key])

    def track_noise(self, found, *key):
        """The width of the middle half of all rounds, as a part of the median."""
        low, middle, high = statistics.quantiles(found[key], n=4)
        return (high - low) / middle

    track_noise.unit = "of the value"


class OfCopyStates(OfCopy):
    """The same for the calls of `TimeStates`."""

    params = (STATE_CALLS, tuple(CASES), ("float32",))


KEYS = [key for kind in (OfCopy, OfCopyStates) for key in itertools.product(*kind.params)]
"""What is measured in one process."""


def shares(keys, rounds):
    """The copy's seconds over the call's, a number a round, by op, case and dtype; without what this commit lacks."""
    timing, memory, pairs = tool("timing"), {}, {}
    most = max(int(np.prod(common.shape_of(case))) * CASES[case].step for case in CASES)
    for op, case, dtype in keys:
        if dtype not in memory:  # all cases of a dtype lie in the same memory
            memory[dtype] = filled((most,), dtype), np.ones(most, TYPES[dtype])
        elements, results = memory[dtype]
        x, y = _parts(op, case, elements, results)
        with contextlib.suppress(NotImplementedError):
            call = call_of(op, case, x, y)
            copy = timing.ceiling(elements[: x.size], None if op in REDUCING else results[: y.size])
            pairs[op, case, dtype] = copy, call
    abouts, found = {}, {key: [] for key in pairs}
    for key, pair in tqdm(pairs.items(), desc="compiling", file=sys.stderr):
        for call in pair:
            call()
        abouts[key] = [timing.timed(call) for call in pair]
    for key in tqdm(timing.in_turns(pairs, rounds), total=rounds * len(pairs), desc="measuring", file=sys.stderr):
        copy, ours = (timing.rested(call, about) for call, about in zip(pairs[key], abouts[key], strict=True))
        found[key].append(copy / ours)
    return found


def _parts(op, case, elements, results):
    """A case's elements and results in memory that is large enough for all."""
    shape, step, to = common.shape_of(case), CASES[case].step, result_shape(op, case)
    x = elements[: int(np.prod(shape)) * step].reshape(*shape[:-1], -1)[..., ::step]
    return x, results[: int(np.prod(to))].reshape(to)


def track_threads():
    """How many threads compute, in the layer that the environment of the benchmarks asks for."""
    ns.softmax(filled((1024, 1024), "float32"))
    wanted = os.environ.get("NUMBA_THREADING_LAYER")
    if wanted and numba.threading_layer() != wanted:
        raise RuntimeError(f"threads are those of {numba.threading_layer()}, not of {wanted}")
    return numba.get_num_threads()


track_threads.unit = "threads"
track_threads.version = "1"
