"""Imports and first calls in a new process, timed.

It imports nothing of the package: benchmarks of other versions load this module alone.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys

CHILD = """
import json, sys, time
sys.path[:], shape = json.loads(sys.argv[1])
clock = time.perf_counter
start = clock()
import numba
numba_there = clock()
import numba_softmax
all_there = clock()
import numpy
x = numpy.random.default_rng(15).standard_normal(shape, numpy.float32)
before = clock()
numba_softmax.softmax(x)
first = clock()
numba_softmax.softmax(x)
second = clock()
print(json.dumps([numba_there - start, all_there - numba_there, first - before, second - first]))
"""


def in_new_process(folder: str, shape: tuple[int, ...]) -> list[float]:
    """Seconds that a new process spends on imports and calls, with the disk cache in `folder`.

    Parameters
    ----------
    folder : str
        The folder of the kernels.
    shape : tuple of int
        The shape of the calls' float32 argument.

    Returns
    -------
    list of float
        Seconds to import numba, to import numba_softmax after that, of the first call of softmax and of the second.

    Raises
    ------
    ChildProcessError
        The process failed.
    """
    environment = {**os.environ, "XDG_CACHE_HOME": folder, "LOCALAPPDATA": folder}
    environment.pop("NUMBA_CACHE_DIR", None)  # it would take precedence
    command = [sys.executable, "-c", CHILD, json.dumps([sys.path, shape])]
    done = subprocess.run(command, env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True)
    if done.returncode:
        last = (done.stderr.strip().splitlines() or [f"exit status {done.returncode}"])[-1]
        raise ChildProcessError(f"a new process could not compute a softmax: {last}")
    return json.loads(done.stdout)
