"""Speed on NumPy arrays: seconds, and the share of a copy's speed."""

import itertools
import os
import statistics

import numba
import numpy as np

import numba_softmax as ns

from . import common
from .common import CASES, DTYPES, OPS, OTHER_CALLS, REDUCING, TYPES, arrays_of, call_of, filled, result_shape, tool


class Time(common.Timed):
    """Seconds of a call with `out=`."""

    version = "1"
    rounds, repeat, warmup_time = 1, (5, 30, 0.4), 0.05
    params = (OPS, tuple(CASES), DTYPES)
    param_names = ("op", "case", "dtype")

    def made(self, op, case, dtype):
        return call_of(op, case, *arrays_of(op, case, dtype))

    def time_call(self, *_):
        self.call()


class TimeOthers(Time):
    """Seconds of a call that folds rows into states, or finishes them; of jitted code that loops over rows."""

    params = (OTHER_CALLS, tuple(CASES), ("float32",))


class OfCopy:
    """Speed as a share of that of a parallel copy of the same bytes; what only reads is held against reading them.

    All cases are measured in one process, in rounds. In each round a case is timed next to its copy, and cases come in
    a random order: so other work of the machine hits both, and different cases each time.
    """

    version = "1"
    unit = "of copy"
    params = (OPS, tuple(CASES), DTYPES)
    param_names = ("op", "case", "dtype")
    ROUNDS = 21

    def setup_cache(self):
        return measured(KEYS, self.ROUNDS)

    setup_cache.timeout = 3600

    def setup(self, rounds, *key):
        if key not in rounds:
            raise NotImplementedError("this commit has no such call")
        if isinstance(rounds[key], str):
            raise RuntimeError(rounds[key])

    def track_of_copy(self, rounds, *key):
        return statistics.median(_shares(rounds[key]))

    def track_noise(self, rounds, *key):
        return noise_of(_shares(rounds[key]))

    track_noise.unit = "of the value"

    def track_copy_bandwidth(self, rounds, op, case, dtype):
        """The ceiling: bytes that the copy reads and writes in a nanosecond."""
        elements = np.prod(common.shape_of(case)) * (1 if op in REDUCING else 2)
        seconds = statistics.median(copy for copy, _ in rounds[op, case, dtype])
        return float(elements * TYPES[dtype].itemsize / seconds / 1e9)

    track_copy_bandwidth.unit = "GB/s"


class OfCopyOthers(OfCopy):
    """The same for the calls of `TimeOthers`."""

    params = (OTHER_CALLS, tuple(CASES), ("float32",))


KEYS = [key for kind in (OfCopy, OfCopyOthers) for key in itertools.product(*kind.params)]
"""What is measured in one process."""


def _shares(rounds):
    return [copy / ours for copy, ours in rounds]


def noise_of(samples):
    """Half of the 95 % confidence interval of the median of some samples, as a part of it.

    The standard error of a median of normal samples is 1.25 sigma / sqrt(n); sigma is from the middle half of the
    samples, which is 1.35 sigma wide: what other processes do to a few rounds does not count.
    """
    low, middle, high = statistics.quantiles(samples, n=4)
    return 1.96 * 1.25 * (high - low) / 1.35 / len(samples) ** 0.5 / middle


def measured(keys, rounds):
    """Seconds of the copy and of the call in each round, by op, case and dtype.

    What this commit lacks is left out; of a call that fails there is what it said.
    """
    timing, memory, pairs, found = tool("timing"), {}, {}, {}
    most = max(int(np.prod(common.shape_of(case))) * CASES[case].step for case in CASES)
    for op, case, dtype in keys:
        if dtype not in memory:  # all cases of a dtype lie in the same memory
            memory[dtype] = filled((most,), dtype), np.ones(most, TYPES[dtype])
        elements, results = memory[dtype]
        x, y = _parts(op, case, elements, results)
        try:
            calls = (
                timing.ceiling(elements[: x.size], None if op in REDUCING else results[: y.size]),
                call_of(op, case, x, y),
            )
            for call in calls:
                call()  # compiles, or loads
        except NotImplementedError:
            continue
        except Exception as error:
            found[op, case, dtype] = f"{type(error).__name__}: {error}"
            continue
        pairs[op, case, dtype] = [(call, min(timing.timed(call) for _ in range(3))) for call in calls]
    found |= {key: [] for key in pairs}
    for key in timing.in_turns(pairs, rounds):
        found[key].append(tuple(timing.rested(call, about) for call, about in pairs[key]))
    return found


def _parts(op, case, elements, results):
    """A case's elements and results in memory that is large enough for all."""
    shape, step, result = common.shape_of(case), CASES[case].step, result_shape(op, case)
    x = elements[: int(np.prod(shape)) * step].reshape(*shape[:-1], -1)[..., ::step]
    return x, results[: int(np.prod(result))].reshape(result)


def track_threads():
    """How many threads compute, in the layer that the environment of the benchmarks asks for."""
    ns.softmax(filled((1024, 1024), "float32"))
    wanted = os.environ.get("NUMBA_THREADING_LAYER")
    if wanted and numba.threading_layer() != wanted:
        raise RuntimeError(f"threads are those of {numba.threading_layer()}, not of {wanted}")
    return numba.get_num_threads()


track_threads.unit = "threads"
track_threads.version = "1"
