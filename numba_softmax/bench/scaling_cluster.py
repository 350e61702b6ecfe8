"""What `scaling` measures: files through memory maps, and Dask arrays on worker processes.

Functions that tasks and workers run stand here too: a worker imports this module.
"""

from __future__ import annotations

import collections
import contextlib
import functools
import itertools
import json
import logging
import math
import operator
import re
import select
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numba
import numpy as np
from tqdm import tqdm

from .. import OnlineSoftmax, softmax
from ..cli import UserError
from .timing import in_turns, timed

COPY = "copy"
ROW_LENGTH = 16384
"""Of the files: 64 KiB."""

COPIED_AT_ONCE = 1 << 20

STATUS = Path("/proc/self/status")

CHAIN = 60
"""Tasks one after the other, each on another worker than the one before."""


class Series(NamedTuple):
    """Chunks of one shape, in growing numbers along the reduced axis."""

    name: str
    rows: int
    columns: int
    counts: tuple[int, ...]
    reads: int = 1  # how many times a chunk is made: for both streams at once, or for each
    queued: bool = True  # whether chunks wait at the scheduler until a worker is free, as is Dask's default

    @property
    def chunk_bytes(self) -> int:
        """Of float32."""
        return self.rows * self.columns * 4


class Sizes(NamedTuple):
    """How much is measured."""

    file_bytes: int
    file_rounds: int
    workers: tuple[int, ...]
    series: tuple[Series, ...]


EMPTY, SMALL, LARGE, TWICE = "nearly empty", "small", "large", "large, made twice"
AT_ONCE = "small, handed out at once"
FULL = Sizes(
    1 << 30, 5, (1, 2, 3, 4),
    (
        Series(EMPTY, 1, 1, (10, 100, 1000)),
        Series(SMALL, 256, 256, (10, 100, 1000, 10000)),
        Series(LARGE, 1024, 4096, (10, 100)),
        Series(TWICE, 1024, 4096, (10, 100), 2),
        Series(EMPTY, 1, 1, (1000,), queued=False),
        Series(AT_ONCE, 256, 256, (10, 100, 1000), queued=False),
    ),
)  # fmt: skip
QUICK = Sizes(
    40 << 20, 1, (2,),
    (
        Series(EMPTY, 1, 1, (10,)),
        Series(SMALL, 256, 256, (10, 20)),
        Series(TWICE, 64, 128, (10,), 2),
        Series(EMPTY, 1, 1, (10,), queued=False),
    ),
)  # fmt: skip


# -------------------------------------------------------------------------- files


def files(sizes: Sizes, folder: Path) -> dict[str, Any]:
    """Seconds of softmax from file to file, beside those of copying it, and memory of a process that does so."""
    source, target = folder / "x", folder / "y"
    _write(source, sizes.file_bytes)
    shutil.copyfile(source, target)  # there is room for it, then: a full disk kills who writes to a map
    rows = sizes.file_bytes // (4 * ROW_LENGTH)
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
    with tqdm(total=len(calls) * (sizes.file_rounds + 1), **_shown("files")) as bar:
        for call in calls.values():
            call()  # loads kernels, and pages
            bar.update()
        for name in in_turns(calls, sizes.file_rounds):
            times[name].append(timed(calls[name]))
            bar.update()
    return {
        "bytes": sizes.file_bytes,
        "rounds": sizes.file_rounds,
        "cases": [
            {
                "case": name,
                "shape": kinds[name][0] if name in kinds else None,
                "seconds": statistics.median(samples),
                "gb_per_second": sizes.file_bytes / statistics.median(samples) / 1e9,
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
    """Over a file that is there, as the calls write."""
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
    """Bytes that are not of files: the most of them in a new process, over those after a small call; None if unknown.

    Another process looks at it, some hundred times a second: what is shorter is not seen.
    """
    command = [sys.executable, "-c", CHILD, json.dumps([sys.path, str(source), str(target), shape, axis])]
    pipe = subprocess.PIPE  # for errors too: what an interrupt has it say is not shown
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe, text=True) as child:
        assert child.stdin is not None
        assert child.stdout is not None
        child.stdout.readline()
        status = Path(f"/proc/{child.pid}/status")
        before = most = _status(status, "RssAnon")
        child.stdin.write("\n")
        child.stdin.flush()
        while before is not None and not select.select([child.stdout], [], [], 0.003)[0]:
            most = max(most or 0, _status(status, "RssAnon") or 0)
        child.stdout.readline()
    if child.returncode:
        raise UserError("a new process could not compute a softmax of a file")
    return None if before is None or most is None else most - before


def _status(path: Path, name: str) -> int | None:
    """A number of bytes that Linux tells of a process; None where it does not."""
    try:
        found = re.search(rf"^{name}:\s+(\d+) kB", path.read_text(), re.MULTILINE)
    except OSError:
        return None
    return int(found[1]) * 1024 if found else None


# --------------------------------------------------------------- on workers, in tasks


def chunk(block_id: tuple[int, int], rows: int, columns: int) -> np.ndarray:
    """A chunk of the array: made where it is wanted."""
    across = np.arange(columns, dtype=np.float32) % 13 + np.float32(block_id[1] % 5)
    return np.add.outer(np.arange(rows, dtype=np.float32) % 7, across)


def _start_counting(dask_worker: Any) -> None:
    dask_worker.transfer_incoming_log = collections.deque()  # Dask's own forgets all but the last ones
    _forget_peak()


def received(log: Any) -> dict[str, int]:
    """Bytes of a worker's log of what came from other workers: of states, of chunks and of all else."""
    sums = {"states": 0, "chunks": 0, "other": 0}
    for entry in log:
        for key, size in entry["keys"].items():
            name = key[0] if isinstance(key, tuple) else key
            kind = "states" if name.startswith("softmax-") else "chunks" if name.startswith("chunk-") else "other"
            sums[kind] += size
    return sums


def _counted(dask_worker: Any) -> dict[str, Any]:
    return {
        "cpu": time.process_time(),
        "tasks": dask_worker.state.executed_count,
        "received": received(dask_worker.transfer_incoming_log),
        "peak": _status(STATUS, "VmHWM"),
    }


def _forget_peak() -> None:
    """Have Linux count the most memory anew."""
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


def _warm(rows: int, columns: int) -> None:
    """Load the kernels."""
    sum_of_softmax(Series("", rows, columns, ()), 2).compute(scheduler="synchronous")


# ------------------------------------------------------------------------- cluster


def sum_of_softmax(series: Series, chunks: int) -> Any:
    """A Dask array of one number: the sum of all shares, that is, the number of rows. No results have to be moved."""
    import dask.array as da
    from dask.graph_manipulation import bind

    from .. import dask as steps

    x = da.map_blocks(
        chunk, rows=series.rows, columns=series.columns, chunks=((series.rows,), (series.columns,) * chunks),
        dtype=np.float32, meta=np.empty((0, 0), np.float32), name=None,
    )  # fmt: skip
    if series.reads == 1:
        y = softmax(x)
    else:
        state = steps.online_state(x)
        y = steps.normalize(bind(x, state), state)
    return y.sum(split_every={0: 2, 1: 64}, dtype=np.float64)


def cluster(sizes: Sizes, folder: Path) -> dict[str, Any]:
    """Seconds, tasks and bytes of each series on each number of workers."""
    runs, steps = [], {}
    kinds = sorted({series.queued for series in sizes.series}, reverse=True)
    total = len(sizes.workers) * sum(n * _rounds(series, n) for series in sizes.series for n in series.counts)
    with tqdm(total=total, unit="chunk", **_shown("cluster")) as bar:
        for workers, queued in itertools.product(sizes.workers, kinds):
            with _workers(workers, folder, queued) as client:
                for series in [series for series in sizes.series if series.queued == queued]:
                    client.run(_warm, series.rows, series.columns)
                    for chunks in series.counts:
                        runs.append(_run(client, series, chunks, bar))
                if queued:
                    steps[str(workers)] = _seconds_of_a_step(client)
    work = {series.name: _work(series) for series in sizes.series}
    return {"runs": runs, "step_seconds": steps, "work_seconds": work}


@contextlib.contextmanager
def _workers(count: int, folder: Path, queued: bool = True) -> Iterator[Any]:
    """A client of new worker processes with a thread each, which keep all in memory."""
    import dask
    from distributed import Client, LocalCluster

    options: dict[str, Any] = {"temporary-directory": str(folder)}
    if not queued:
        options |= {"distributed.scheduler.worker-saturation": float("inf")}
    with (
        dask.config.set(options),
        LocalCluster(
            n_workers=count, threads_per_worker=1, processes=True, dashboard_address=None, memory_limit=None,
            local_directory=str(folder), silence_logs=logging.ERROR,
        ) as processes,
        Client(processes) as client,
    ):  # fmt: skip
        yield client


def _rounds(series: Series, chunks: int) -> int:
    """Of chunks with nearly nothing in them more: the model stands on these."""
    return max(3 if series.rows == 1 else 1, min(5, 100 // chunks))


def _run(client: Any, series: Series, chunks: int, bar: tqdm[Any]) -> dict[str, Any]:
    """One number of chunks: all that is counted, a chunk of it or a task, and medians over the rounds."""
    rounds = []
    for _ in range(_rounds(series, chunks)):
        rounds.append(_round(client, series, chunks))
        bar.update(chunks)
    first = rounds[0]
    numbers = ("seconds", "scheduler_cpu", "workers_cpu", "peak", "scheduler_peak", "received")
    middle = {name: _median([r[name] for r in rounds]) for name in numbers}
    return {
        "series": series.name,
        "workers": first["workers"],
        "chunks": chunks,
        "queued": series.queued,
        "rows": series.rows,
        "chunk_bytes": series.chunk_bytes,
        "tasks": first["tasks"],
        **middle,
        "states_a_chunk": middle["received"]["states"] / chunks,
        "samples": [r["seconds"] for r in rounds],
    }


def _round(client: Any, series: Series, chunks: int) -> dict[str, Any]:
    client.run(_start_counting)
    before, cpu = client.run(_counted), time.process_time()
    _forget_peak()
    memory = _status(STATUS, "VmHWM")
    start = time.perf_counter()
    result = sum_of_softmax(series, chunks).compute()
    seconds = time.perf_counter() - start
    own, most, after = time.process_time() - cpu, _status(STATUS, "VmHWM"), client.run(_counted)
    if not math.isclose(result, series.rows, rel_tol=1e-4):
        raise RuntimeError(f"softmax on {len(after)} workers is wrong: shares of {series.rows} rows add up to {result}")
    peaks = [after[name]["peak"] - before[name]["peak"] for name in after if after[name]["peak"] is not None]
    return {
        "seconds": seconds,
        "workers": len(after),
        "scheduler_cpu": own,  # and the client's, in the same process
        "workers_cpu": sum(after[name]["cpu"] - before[name]["cpu"] for name in after),
        "tasks": sum(after[name]["tasks"] - before[name]["tasks"] for name in after),
        "received": {kind: sum(one["received"][kind] for one in after.values()) for kind in ("states", "chunks")},
        "peak": max(peaks, default=None),
        "scheduler_peak": None if memory is None or most is None else most - memory,
    }


def _median(values: list[Any]) -> Any:
    if isinstance(values[0], dict):
        return {key: _median([value[key] for value in values]) for key in values[0]}
    return None if values[0] is None else statistics.median(values)


def _seconds_of_a_step(client: Any) -> float:
    """From the end of a task to the end of the next one, which gets its result from another worker."""
    names = list(client.nthreads())

    def chain() -> None:
        future = client.submit(operator.add, 1, 1, pure=False)
        for i in range(CHAIN):
            future = client.submit(operator.add, future, 1, workers=[names[i % len(names)]], pure=False)
        future.result()

    return min(timed(chain) for _ in range(3)) / CHAIN


def _work(series: Series) -> float:
    """Seconds of a core to make, fold and finish a chunk and add up its results, without Dask."""
    before = numba.get_num_threads()
    numba.set_num_threads(1)
    try:
        _of_chunk(series, 0)
        repeats = max(3, (32 << 20) // series.chunk_bytes) if series.chunk_bytes > 4 else 3
        start = time.process_time()
        for i in range(repeats):
            _of_chunk(series, i)
        return (time.process_time() - start) / repeats
    finally:
        numba.set_num_threads(before)


def _of_chunk(series: Series, i: int) -> Any:
    state = OnlineSoftmax((series.rows,), np.float32)
    x = chunk((0, i), series.rows, series.columns)
    state.update(x)
    if series.reads == 2:
        x = chunk((0, i), series.rows, series.columns)
    return state.normalize(x).sum(dtype=np.float64)


def _shown(what: str) -> dict[str, Any]:
    return {"desc": what, "delay": 1, "leave": False, "disable": None, "file": sys.stderr}
