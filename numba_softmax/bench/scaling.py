"""``numba-softmax bench --scaling``: files larger than slabs, and arrays in many chunks on worker processes.

`scaling_files` and `scaling_cluster` measure; `scaling_model` predicts. Three kinds
of numbers of the model are measured: the seconds of the scheduler and of a worker
for a task, with nearly empty chunks; the seconds to compute a chunk, without Dask;
and the seconds for a result to get to another worker. All but the last are CPU
seconds, which other processes on the machine change little; elapsed seconds are
beside them.
"""

from __future__ import annotations

import importlib.metadata
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from . import scaling_cluster, scaling_files
from . import scaling_model as model
from .optional import UnmeasurableError, optional
from .scaling_cluster import Series


class Sizes(NamedTuple):
    """The extent of the measurement."""

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

ASSUMED = {"read": 1e-9, "write": 1e-9, "network": 1e-9, "step": 0.01}
"""The costs of each worker of a large cluster: 1 GB/s from and to storage, and from other workers; 10 ms a step."""

TOTALS, WORKERS, CHUNK = (1e12, 1e15), (10, 100, 1000), 128 << 20
"""Bytes of an array, workers, and bytes of a chunk in the tables; the chunk is what Dask itself aims at."""


def measured(quick: bool, cores: int) -> dict[str, Any]:
    """All runs, beside the model's predictions for a machine of `cores`, and its tables for large clusters."""
    if not optional("distributed") or not optional("dask.array"):
        raise UnmeasurableError('--scaling needs Dask and its workers: pip install "numba-softmax[bench]"')
    sizes = QUICK if quick else FULL
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else None
    with tempfile.TemporaryDirectory(prefix="numba_softmax_scaling_", ignore_cleanup_errors=True) as folder:
        of_files = scaling_files.measured(sizes.file_bytes, sizes.file_rounds, Path(folder))
        of_cluster = scaling_cluster.measured(sizes.workers, sizes.series, Path(folder))
    results = {
        "versions": {name: importlib.metadata.version(name) for name in ("dask", "distributed")},
        "load": load,  # processes that wanted a core, in the minute before
        "files": of_files,
        "cluster": of_cluster,
        "cores": cores,
    }
    add_model(results)
    return results


# -------------------------------------------------------------------------- model


def add_model(results: dict[str, Any]) -> None:
    """Add the model's numbers to each run, and its tables."""
    of_cluster, cores = results["cluster"], results["cores"]
    chunk_bytes = {run["series"]: run["chunk_bytes"] for run in of_cluster["runs"]}
    kinds = {(run["workers"], run["queued"]) for run in of_cluster["runs"]}
    a_task = {kind: _of_a_task(of_cluster["runs"], *kind) for kind in sorted(kinds)}
    for run in of_cluster["runs"]:
        name, workers, queued = run["series"], run["workers"], run["queued"]
        compute = of_cluster["work_seconds"][name] / chunk_bytes[name]
        costs = model.Costs(*a_task[workers, queued], of_cluster["step_seconds"][str(workers)], compute)
        cut = model.Cut(1, run["chunks"], run["rows"], chunk_bytes[name])
        said = model.predicted(cut, workers, costs, cores, neighbours=not queued)
        run["model"] = {**said._asdict(), "states_a_chunk": said.moved / run["chunks"]}
    compute = of_cluster["work_seconds"][TWICE] / chunk_bytes[TWICE]  # making a chunk stands for decoding one
    scheduler, worker = a_task[min(workers for workers, _ in kinds), True]  # the fewest: not more than the cores
    costs = model.Costs(scheduler, worker, compute=compute, **ASSUMED)
    results["model"] = {
        "tasks": [
            {"workers": workers, "queued": queued, "scheduler": s, "worker": w}
            for (workers, queued), (s, w) in a_task.items()
        ],
        "assumed": {**costs._asdict(), "balanced": {str(n): model.balanced(n, costs) for n in WORKERS}},
        "tables": list(_tables(costs)),
    }


def _of_a_task(runs: list[dict[str, Any]], workers: int, queued: bool) -> tuple[float, float]:
    """Seconds of the scheduler with the client, and of a worker, for a task, from the most nearly empty chunks."""
    kind = (EMPTY, workers, queued)
    empty = max((r for r in runs if (r["series"], r["workers"], r["queued"]) == kind), key=lambda r: r["chunks"])
    return empty["scheduler_cpu"] / empty["tasks"], empty["workers_cpu"] / empty["tasks"]


def _tables(costs: model.Costs) -> Iterator[dict[str, Any]]:
    for total in TOTALS:
        for workers in WORKERS:
            for kind, chunk_bytes in (("Dask's", CHUNK), ("balanced", model.balanced(workers, costs))):
                cut = model.square(total, chunk_bytes)
                said = model.predicted(cut, workers, costs)
                yield {
                    "bytes": total,
                    "workers": workers,
                    "kind": kind,
                    "chunk_bytes": chunk_bytes,
                    "chunks": cut.total,
                    **said._asdict(),
                }


# ------------------------------------------------------------------------- shown


def lines(results: dict[str, Any]) -> Iterator[str]:
    """Tables: files, the cluster beside the model, and the model for large clusters."""
    before = "unknown" if results["load"] is None else f"{results['load']:.1f}"
    yield f"{results['cores']} cores; processes that wanted one in the minute before: {before}"
    yield ""
    yield from _lines_of_files(results["files"])
    yield ""
    yield from _lines_of_runs(results["cluster"]["runs"])
    yield ""
    yield from _lines_of_tasks(results["model"]["tasks"], results["cluster"])
    yield ""
    yield from _lines_of_tables(results["model"]["tables"])


def _lines_of_files(of_files: dict[str, Any]) -> Iterator[str]:
    yield f"softmax from file to file, {of_files['bytes'] / 1e9:.2f} GB of float32 in the page cache"
    yield "of copy: the time of copying it over ours; memory: the most that is not of files, beyond a small call's"
    yield f"{'':<10} {'seconds':>9} {'GB/s':>7} {'of copy':>8} {'memory, MB':>11}"
    for case in of_files["cases"]:
        memory = "-" if case["memory"] is None else f"{case['memory'] / 1e6:.0f}"
        speeds = f"{case['seconds']:>9.3f} {case['gb_per_second']:>7.2f} {case['of_copy']:>8.2f}"
        yield f"{case['case']:<10} {speeds} {memory:>11}"


def _lines_of_runs(runs: list[dict[str, Any]]) -> Iterator[str]:
    yield "softmax of Dask arrays on processes of one thread, chunks along the reduced axis; a chunk of it:"
    yield "ms: milliseconds that went by; cpu: those of cores, of all processes; states: bytes from other workers"
    heads = ("ms", "model", "cpu", "model", "states", "model", "chunks")
    yield " ".join([f"{'':<25} {'bytes':>10} workers chunks   tasks", *(f"{head:>8}" for head in heads), "peak, MB"])
    for run in runs:
        said, count = run["model"], run["chunks"]
        cpu = run["scheduler_cpu"] + run["workers_cpu"]
        cells = [run["seconds"] / count * 1e3, said["seconds"] / count * 1e3, cpu / count * 1e3]
        shown = [f"{cell:>8.2f}" for cell in [*cells, said["cpu"] / count * 1e3]]
        moved = [run["states_a_chunk"], said["states_a_chunk"], run["received"]["chunks"] / count]
        peak = "-" if run["peak"] is None else f"{run['peak'] / 1e6:.0f}"
        shown += [f"{number:>8,.0f}" for number in moved]
        case = f"{run['series']:<25} {run['chunk_bytes']:>10,} {run['workers']:>7} {count:>6} {run['tasks']:>7}"
        yield " ".join([case, *shown, f"{peak:>8}"])


def _lines_of_tasks(tasks: list[dict[str, Any]], of_cluster: dict[str, Any]) -> Iterator[str]:
    yield "microseconds of cores for a task: of the scheduler with the client, of a worker; of a step to another worker"
    for task in tasks:
        step = of_cluster["step_seconds"][str(task["workers"])]
        numbers = " ".join(f"{seconds * 1e6:>7.0f}" for seconds in (task["scheduler"], task["worker"], step))
        yield f"{task['workers']:>3} workers {numbers}{'' if task['queued'] else '  all chunks handed out at once'}"
    most = max(of_cluster["runs"], key=lambda run: run["tasks"])
    if most["scheduler_peak"] is not None:
        kilobytes = most["scheduler_peak"] / most["tasks"] / 1e3
        yield f"memory of the scheduler and the client: {kilobytes:.1f} kB a task, of {most['tasks']:,}"


def _lines_of_tables(tables: list[dict[str, Any]]) -> Iterator[str]:
    yield "the model, for a square array of float32 on workers with 1 GB/s each from files and from others"
    yield "   bytes workers    chunk, MB     chunks      tasks depth states, GB scheduler, s workers, s   total, s"
    for row in tables:
        yield (
            f"{row['bytes']:>8.0e} {row['workers']:>7} {row['chunk_bytes'] / 1e6:>12,.1f} {row['chunks']:>10,} "
            f"{row['tasks']:>10,} {row['depth']:>5} {row['moved'] / 1e9:>10,.1f} {row['scheduler']:>12,.0f} "
            f"{row['share']:>10,.0f} {row['seconds']:>10,.0f}"
        )


COLORS = ("#1f6fb2", "#2a9d6f", "#e08a1e", "#c8322b")


def figure(results: dict[str, Any]) -> Any:
    """Seconds and bytes per chunk over the number of chunks; the lines are the model's."""
    from matplotlib.figure import Figure

    runs = [run for run in results["cluster"]["runs"] if run["series"] == SMALL]
    drawing = Figure(figsize=(13, 4.8), layout="constrained")
    drawing.suptitle(
        f"softmax of Dask arrays in chunks of {runs[0]['chunk_bytes'] >> 10} KiB along the reduced axis, "
        f"worker processes on {results['cores']} cores; lines: the model",
        x=0.01, ha="left", fontsize=12,
    )  # fmt: skip
    panels = drawing.subplots(1, 3)
    kinds = (
        ("milliseconds that went by, a chunk", _elapsed),
        ("milliseconds of cores, a chunk", _of_cores),
        ("bytes of states from other workers, a row and chunk", _bytes),
    )
    for axes, (title, numbers) in zip(panels, kinds, strict=True):
        for workers, color in zip(sorted({run["workers"] for run in runs}), COLORS, strict=False):
            group = [run for run in runs if run["workers"] == workers]
            places = [run["chunks"] for run in group]
            seen, said = zip(*map(numbers, group), strict=True)
            axes.plot(places, seen, "o", color=color, label=f"{workers} worker{'s' * (workers > 1)}", zorder=3)
            axes.plot(places, said, color=color, linewidth=1.2, zorder=2)
        axes.set_xscale("log")
        axes.xaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
        axes.set_ylim(bottom=0)
        axes.set_xlabel("chunks")
        axes.set_title(title, loc="left", fontsize=10)
        axes.grid(color="#e6e6e6", zorder=0)
        axes.spines[["top", "right"]].set_visible(False)
    panels[0].legend(frameon=False)
    return drawing


def _elapsed(run: dict[str, Any]) -> tuple[float, float]:
    return run["seconds"] / run["chunks"] * 1e3, run["model"]["seconds"] / run["chunks"] * 1e3


def _of_cores(run: dict[str, Any]) -> tuple[float, float]:
    cpu = run["scheduler_cpu"] + run["workers_cpu"]
    return cpu / run["chunks"] * 1e3, run["model"]["cpu"] / run["chunks"] * 1e3


def _bytes(run: dict[str, Any]) -> tuple[float, float]:
    return run["states_a_chunk"] / run["rows"], run["model"]["states_a_chunk"] / run["rows"]
