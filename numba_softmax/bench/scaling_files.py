"""Softmax from file to file through memory maps, for `scaling`: seconds, beside those of a copy, and memory."""

from __future__ import annotations

import functools
import json
import math
import select
import shutil
import statistics
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from .. import softmax
from . import memory
from .cases import COPY
from .progress import progress
from .timing import in_turns, timed

ROW_LENGTH = 16384
"""Elements of a row: 64 KiB."""

COPIED_AT_ONCE = 1 << 20
"""Bytes that are copied at once."""


def measured(nbytes: int, rounds: int, folder: Path) -> dict[str, Any]:
    """Seconds of softmax of a file of `nbytes` in `folder` and of a copy, and memory of processes that compute it."""
    source, target = folder / "x", folder / "y"
    _write(source, nbytes)
    shutil.copyfile(source, target)  # raises on a full disk, where writing to a map would kill the process
    rows = nbytes // (4 * ROW_LENGTH)
    kinds = {
        "axis 1": ((rows, ROW_LENGTH), 1),
        "axis 0": ((rows, ROW_LENGTH), 0),
        "one row": ((1, rows * ROW_LENGTH), 1),
    }
    calls: dict[str, Callable[[], Any]] = {COPY: functools.partial(_copy, source, target)}
    for name, (shape, axis) in kinds.items():
        x, y = np.memmap(source, np.float32, "r", shape=shape), np.memmap(target, np.float32, "r+", shape=shape)
        calls[name] = functools.partial(softmax, x, axis, out=y)
    times: dict[str, list[float]] = {name: [] for name in calls}
    with progress("files", total=len(calls) * (rounds + 1)) as bar:
        for call in calls.values():
            call()  # loads kernels, and pages
            bar.update()
        for name in in_turns(calls, rounds):
            times[name].append(timed(calls[name]))
            bar.update()
    return {
        "bytes": nbytes,
        "rounds": rounds,
        "cases": [
            {
                "case": name,
                "shape": kinds[name][0] if name in kinds else None,
                "seconds": statistics.median(samples),
                "gb_per_second": nbytes / statistics.median(samples) / 1e9,
                "of_copy": statistics.median(times[COPY]) / statistics.median(samples),
                "samples": samples,
                "memory": None if name == COPY else _memory_of_a_process(source, target, *kinds[name]),
            }
            for name, samples in times.items()
        ],
    }


def _write(path: Path, size: int) -> None:
    block = (np.random.default_rng(16).standard_normal(1 << 20, np.float32) * 3).tobytes()
    with path.open("wb") as file:
        for _ in range(math.ceil(size / len(block))):
            file.write(block)
        file.truncate(size)


def _copy(source: Path, target: Path) -> None:
    """Copy over an existing file, as the calls write over one."""
    with source.open("rb") as read, target.open("r+b") as written:
        shutil.copyfileobj(read, written, COPIED_AT_ONCE)


CHILD = """
import json, sys
sys.path[:], source, target, shape, axis = json.loads(sys.argv[1])
import numpy, numba_softmax
x, y = (numpy.memmap(path, "float32", mode, shape=tuple(shape)) for path, mode in ((source, "r"), (target, "r+")))
numba_softmax.softmax(numpy.ones((64, 64), "float32"), axis)
print("ready", flush=True)
sys.stdin.readline()
numba_softmax.softmax(x, axis, out=y)
print("done", flush=True)
sys.stdin.readline()
"""


def _memory_of_a_process(source: Path, target: Path, shape: tuple[int, ...], axis: int) -> int | None:
    """The peak of a new process's memory without pages of files, less that after a small call; None if unknown.

    It is sampled from here, some hundred times a second: shorter peaks are missed.
    """
    command = [sys.executable, "-c", CHILD, json.dumps([sys.path, str(source), str(target), shape, axis])]
    pipe = subprocess.PIPE  # for errors too: output after an interrupt is not shown
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe, text=True) as child:
        assert child.stdin is not None
        assert child.stdout is not None
        child.stdout.readline()
        before = most = memory.anonymous(child.pid)
        child.stdin.write("\n")
        child.stdin.flush()
        while before is not None and not select.select([child.stdout], [], [], 0.003)[0]:
            most = max(most or 0, memory.anonymous(child.pid) or 0)
        child.stdout.readline()
    if child.returncode:
        raise ChildProcessError("a new process could not compute a softmax of a file")
    return None if before is None or most is None else most - before
