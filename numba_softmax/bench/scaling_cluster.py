"""Softmax of Dask arrays on worker processes, for `scaling`: seconds, tasks, and bytes between workers.

Workers import this module for the functions that they run.
"""

from __future__ import annotations

import collections
import contextlib
import itertools
import logging
import math
import operator
import statistics
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numba
import numpy as np
from tqdm import tqdm

from .. import OnlineSoftmax, softmax
from . import memory
from .progress import progress
from .timing import timed

CHAIN = 60
"""Tasks in sequence, each on another worker than the one before."""


class Series(NamedTuple):
    """Chunks of one shape, in increasing numbers along the reduced axis."""

    name: str
    rows: int
    columns: int
    counts: tuple[int, ...]
    reads: int = 1  # times that a chunk is made: once, or once for folding and once for finishing
    queued: bool = True  # chunks wait at the scheduler until a worker is free, which is Dask's default

    @property
    def chunk_bytes(self) -> int:
        """The bytes of a chunk, of float32."""
        return self.rows * self.columns * 4


# --------------------------------------------------------------- on workers, in tasks


def chunk(block_id: tuple[int, int], rows: int, columns: int) -> np.ndarray:
    """A chunk of the array, made on the worker that needs it."""
    across = np.arange(columns, dtype=np.float32) % 13 + np.float32(block_id[1] % 5)
    return np.add.outer(np.arange(rows, dtype=np.float32) % 7, across)


def _start_counting(dask_worker: Any) -> None:
    dask_worker.transfer_incoming_log = collections.deque()  # Dask's own keeps only the last transfers
    memory.forget_peak()


def received(log: Any) -> dict[str, int]:
    """Bytes in a worker's log of transfers from other workers: of states, of chunks, of all else."""
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
        "peak": memory.peak(),
    }


def _warm(rows: int, columns: int) -> None:
    """Load the kernels."""
    sum_of_softmax(Series("", rows, columns, ()), 2).compute(scheduler="synchronous")


# ------------------------------------------------------------------------- cluster


def sum_of_softmax(series: Series, chunks: int) -> Any:
    """A Dask array of one number, the sum of the results, which is the number of rows: few bytes to move."""
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


def measured(worker_counts: Sequence[int], all_series: Sequence[Series], folder: Path) -> dict[str, Any]:
    """Seconds, tasks and bytes of each series on each number of workers, whose files are in `folder`."""
    runs, steps = [], {}
    kinds = sorted({series.queued for series in all_series}, reverse=True)
    total = len(worker_counts) * sum(n * _rounds(series, n) for series in all_series for n in series.counts)
    with progress("cluster", total=total, unit="chunk") as bar:
        for workers, queued in itertools.product(worker_counts, kinds):
            with _workers(workers, folder, queued) as client:
                for series in [series for series in all_series if series.queued == queued]:
                    client.run(_warm, series.rows, series.columns)
                    for chunks in series.counts:
                        runs.append(_run(client, series, chunks, bar))
                if queued:
                    steps[str(workers)] = _seconds_of_a_step(client)
    work = {series.name: _work(series) for series in all_series}
    return {"runs": runs, "step_seconds": steps, "work_seconds": work}


@contextlib.contextmanager
def _workers(count: int, folder: Path, queued: bool = True) -> Iterator[Any]:
    """A client of new worker processes of one thread each, which write nothing to a disk."""
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
    """The number of rounds; more if chunks are nearly empty, since the model takes its times of a task from these."""
    return max(3 if series.rows == 1 else 1, min(5, 100 // chunks))


def _run(client: Any, series: Series, chunks: int, bar: tqdm[Any]) -> dict[str, Any]:
    """The record of one number of chunks: medians over the rounds."""
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
    memory.forget_peak()
    memory_before = memory.peak()
    start = time.perf_counter()
    result = sum_of_softmax(series, chunks).compute()
    seconds = time.perf_counter() - start
    own, most, after = time.process_time() - cpu, memory.peak(), client.run(_counted)
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
        "scheduler_peak": None if memory_before is None or most is None else most - memory_before,
    }


def _median(values: list[Any]) -> Any:
    if isinstance(values[0], dict):
        return {key: _median([value[key] for value in values]) for key in values[0]}
    return None if values[0] is None else statistics.median(values)


def _seconds_of_a_step(client: Any) -> float:
    """Seconds from the end of a task to the end of the next one, which gets its result from another worker."""
    names = list(client.nthreads())

    def chain() -> None:
        future = client.submit(operator.add, 1, 1, pure=False)
        for i in range(CHAIN):
            future = client.submit(operator.add, future, 1, workers=[names[i % len(names)]], pure=False)
        future.result()

    return min(timed(chain) for _ in range(3)) / CHAIN


def _work(series: Series) -> float:
    """Seconds of a core to make, fold and finish a chunk and to sum its results, without Dask."""
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
