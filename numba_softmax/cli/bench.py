"""``numba-softmax bench``: this machine's numbers, beside the copy ceiling and what else is installed.

All candidates of a case take turns in one process. Thread pools spin for some
milliseconds after their work and would slow the next candidate, so each timed
call comes after a pause, and after an untimed call that wakes its own threads.
"""

from __future__ import annotations

import argparse
import contextlib
import datetime
import importlib
import json
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numba
import numpy as np
from numba import njit, prange
from tqdm import tqdm

from .. import api
from ..ops import OPS
from . import UserError, info
from .info import optional
from .run import beside
from .selftest import NoReferenceError, error_in_ulps

PAUSE = 0.01
ROUNDS, FEWEST_ROUNDS, FEWEST_SLOW_ROUNDS, CASE_SECONDS = 15, 5, 3, 0.7
SLOW = 0.02
"""Seconds from which on a call needs no untimed one before it."""

HOPELESS = 1.5
"""Seconds from which on one call is enough."""

LEAST_TIMED = 3e-3
"""Seconds that are timed at once: shorter calls are repeated."""

SERIAL_BELOW, CHECKED = 1 << 17, 1 << 19
"""Bytes below which the copy does not use threads; elements that are compared with a wider computation."""

OURS = "numba_softmax"


class Case(NamedTuple):
    """One line of the table."""

    op: str
    shape: tuple[int, ...]
    dtype: str = "float32"
    axis: int = -1

    @property
    def label(self) -> str:
        """The case in words; float32 and the last axis go without saying."""
        shape = " x ".join(f"{size:,}" for size in self.shape)
        dtype = "" if self.dtype == "float32" else f" {self.dtype}"
        return f"{self.op} {shape}{dtype}" + ("" if self.axis == -1 else f" axis {self.axis}")


SQUARE = (4096, 4096)
CASES = [
    *(Case("softmax", shape) for shape in ((8, 8), (1024, 1024), SQUARE, (32768, 1024), (128, 32768))),
    *(Case("softmax", shape) for shape in ((262144, 64), (1000000, 10), (1, 16777216))),
    Case("softmax", SQUARE, axis=0),
    Case("softmax", (64, 1000, 256), axis=1),
    Case("log_softmax", SQUARE),
    Case("logsumexp", SQUARE),
    *(Case("softmax", SQUARE, dtype) for dtype in ("float64", "float16", "bfloat16")),
]
QUICK = [Case("softmax", (8, 8)), Case("softmax", (64, 1024))]


def command(arguments: argparse.Namespace) -> int:
    """Measure, print the table, write the files."""
    with contextlib.ExitStack() as files:  # opened first: whatever is wrong with them shows before minutes of work
        to_json = files.enter_context(beside(Path(arguments.json))) if arguments.json else None
        to_plot = files.enter_context(beside(Path(arguments.plot))) if arguments.plot else None
        kind = _check_plot(Path(arguments.plot)) if arguments.plot else ""
        cases = QUICK if arguments.quick else CASES
        with tqdm(cases, desc="measuring", delay=1, leave=False, disable=None, file=sys.stderr) as bar:
            results = [result for case in bar if (result := measured_case(case))]
        machine = {**info.gathered(), "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")}
        del machine["cache"]  # a folder of this user's, which a record has no need of
        machine["versions"] |= {name: m.__version__ for name in ("scipy", "torch") if (m := optional(name))}
        if to_json:
            to_json.write_text(json.dumps({"machine": machine, "cases": results}, indent=2) + "\n")
        if to_plot:
            plot(results, machine, to_plot, kind)
    print("\n".join(table(results, machine)))
    return 0


# -------------------------------------------------------------------- candidates


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


CEILINGS = {  # by whether the op reduces, and whether the array is worth threads
    (reduces, parallel): njit(body, parallel=parallel)
    for reduces, body in ((False, _copy), (True, _read))
    for parallel in (False, True)
}


def _ceiling(reduces: bool, x: np.ndarray) -> Callable[[], Any]:
    """What memory allows at best: the bytes copied or, for an op that reduces, read once."""
    words, parts = x.reshape(-1).view(np.int64), numba.get_num_threads()
    function = CEILINGS[reduces, x.nbytes >= SERIAL_BELOW and parts > 1]
    if reduces:
        return lambda: function(words, parts)
    to = np.full_like(words, 1)
    return lambda: function(words, to, parts)


def candidates(case: Case, x: np.ndarray, y: np.ndarray) -> Iterator[tuple[str, Callable[[], Any]]]:
    """What takes part, by name. Ours and torch write to `y`."""
    ours = getattr(api, case.op)
    yield OURS, lambda: ours(x, case.axis, out=y)
    yield "copy", _ceiling(OPS[case.op].reduces, x)
    yield "numpy", lambda: by_numpy(case.op, x, case.axis)
    if case.dtype != "bfloat16" and (special := optional("scipy.special")):
        theirs = getattr(special, case.op)
        yield "scipy", lambda: theirs(x, axis=case.axis)
    if torch := optional("torch"):
        torch.set_num_threads(numba.get_num_threads())
        tensor, out, function = _tensor(torch, x), _tensor(torch, y), getattr(torch, case.op)
        yield "torch", lambda: function(tensor, case.axis, out=out)


def by_numpy(op: str, x: np.ndarray, axis: int) -> np.ndarray:
    """As most people write it."""
    m = x.max(axis, keepdims=True)
    d = x - m
    e = np.exp(d)
    total = e.sum(axis, keepdims=True)
    if op == "softmax":
        return e / total
    return d - np.log(total) if op == "log_softmax" else (m + np.log(total)).squeeze(axis)


def _tensor(torch: Any, array: np.ndarray) -> Any:
    """The same memory as a tensor."""
    if array.dtype.name == "bfloat16":
        return torch.from_numpy(array.view(np.int16)).view(torch.bfloat16)
    return torch.from_numpy(array)


# ------------------------------------------------------------------- measurements


def measured_case(case: Case) -> dict[str, Any] | None:
    """The median seconds and the largest errors of all candidates; None if the dtype is not there."""
    home = optional("ml_dtypes") if case.dtype == "bfloat16" else np
    if home is None:
        return None
    x = (np.random.default_rng(11).standard_normal(case.shape, np.float32) * 3).astype(getattr(home, case.dtype))
    y = np.full_like(x.max(case.axis) if OPS[case.op].reduces else x, 1)
    calls = dict(candidates(case, x, y))
    times = interleaved(calls)
    ulp = {name: _error(case, x, calls[name](), y) for name in times if name != "copy"}
    seconds = {name: statistics.median(samples) for name, samples in times.items()}
    return {
        "case": case.label,
        **case._asdict(),
        "seconds": seconds,
        "of_copy": {name: seconds["copy"] / value for name, value in seconds.items() if name != "copy"},
        "times_faster_than": {name: value / seconds[OURS] for name, value in seconds.items() if name != OURS},
        "ulp": ulp,
        "rounds": {name: len(samples) for name, samples in times.items()},
    }


def interleaved(calls: dict[str, Callable[[], Any]]) -> dict[str, list[float]]:
    """Seconds a call of each candidate, which take turns. One that fails is left out."""
    once, times = {}, {}
    for name, call in calls.items():
        with contextlib.suppress(*(() if name in (OURS, "copy") else (Exception,))):  # a dtype that it lacks, say
            call()  # compiles, or loads
            once[name] = _timed(call, 1)
            times[name] = [once[name]] if once[name] > HOPELESS else []
    start = time.perf_counter()
    for done in range(ROUNDS):
        late = time.perf_counter() - start > CASE_SECONDS
        for name, seconds in once.items():
            fewest = FEWEST_SLOW_ROUNDS if name in ("numpy", "scipy") and seconds > SLOW else FEWEST_ROUNDS
            if seconds > HOPELESS or (late and done >= fewest):
                continue
            time.sleep(PAUSE)
            if seconds < SLOW:
                calls[name]()
            times[name].append(_timed(calls[name], max(1, int(LEAST_TIMED / seconds))))
    return times


def _timed(call: Callable[[], Any], repeats: int) -> float:
    start = time.perf_counter()
    for _ in range(repeats):
        call()
    return (time.perf_counter() - start) / repeats


def _error(case: Case, x: np.ndarray, result: Any, y: np.ndarray) -> float | None:
    """The largest error in units in the last place, in a random subset of the rows."""
    result = result if isinstance(result, np.ndarray) else y
    rows = np.moveaxis(x, case.axis, -1)
    if not OPS[case.op].reduces:
        result = np.moveaxis(result, case.axis, -1)
    generator, count = np.random.default_rng(12), max(1, CHECKED // rows.shape[-1])
    some = tuple(generator.integers(0, size, count) for size in rows.shape[:-1])
    try:
        return error_in_ulps(case.op, rows[some], result[some])
    except NoReferenceError:
        return None


# ------------------------------------------------------------------------- shown


def table(results: list[dict[str, Any]], machine: dict[str, Any]) -> Iterator[str]:
    """Lines for people."""
    yield info.in_one_line(machine)
    yield "us: median of our time; of copy: the time of a parallel copy of the same bytes (logsumexp: of reading them)"
    yield "over ours; x torch and so on: their time over ours; ulp: the largest error, in units in the last place"
    yield ""
    others = ("torch", "scipy", "numpy")
    heads = ["us", "of copy", *(f"x {name}" for name in others), "ulp", "ulp torch"]
    width = max(len(result["case"]) for result in results)
    yield " ".join([" " * width, *(f"{head:>9}" for head in heads)])
    for result in results:
        cells = [f"{result['seconds'][OURS] * 1e6:.1f}", _two(result["of_copy"][OURS])]
        cells += [_two(result["times_faster_than"].get(name)) for name in others]
        cells += [_two(result["ulp"].get(name)) for name in (OURS, "torch")]
        yield " ".join([f"{result['case']:<{width}}", *(f"{cell:>9}" for cell in cells)])


def _two(number: float | None) -> str:
    return "-" if number is None else f"{number:.3g}" if number >= 100 else f"{number:.2f}"


def _check_plot(path: Path) -> str:
    """The file format to draw in."""
    kind = path.suffix.lower().lstrip(".")
    if kind not in ("png", "svg", "pdf"):
        raise UserError(f"{path}: a plot's name ends in .png, .svg or .pdf")
    try:
        importlib.import_module("matplotlib.figure")
    except ImportError:
        raise UserError('--plot needs matplotlib: pip install "numba-softmax[bench]"') from None
    return kind


def plot(results: list[dict[str, Any]], machine: dict[str, Any], path: Path, kind: str) -> None:
    """Speed as a fraction of the copy's, ours and torch's side by side."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 1.9 + 0.42 * len(results)), layout="constrained")
    axes = figure.subplots()
    shown = [("torch", "torch", "#b9bec6", 0.19), (OURS, "numba_softmax", "#1f6fb2", -0.19)]
    for name, label, color, offset in shown:
        places = [i + offset for i, result in enumerate(results) if name in result["of_copy"]]
        if not places:
            continue
        speeds = [result["of_copy"][name] for result in results if name in result["of_copy"]]
        bars = axes.barh(places, speeds, height=0.36, color=color, label=label, zorder=2)
        axes.bar_label(bars, fmt="%.2f", padding=3, fontsize=8, color="#444444")
    axes.axvline(1, color="#222222", linewidth=1, linestyle="--", zorder=3)
    axes.set_yticks(range(len(results)), [result["case"] for result in results])
    axes.invert_yaxis()
    axes.set_xlabel("speed as a fraction of a parallel copy's (logsumexp: of a parallel read's); longer is faster")
    axes.set_title("Speed against the memory's", loc="left", fontsize=12)
    figure.supxlabel(info.in_one_line(machine), fontsize=8, color="#666666")
    axes.margins(x=0.08, y=0.01)
    axes.grid(axis="x", color="#e6e6e6", zorder=0)
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.tick_params(axis="y", length=0)
    handles, labels = axes.get_legend_handles_labels()
    axes.legend(handles[::-1], labels[::-1], loc="lower right", bbox_to_anchor=(1, 1), ncols=2, frameon=False)
    figure.savefig(path, format=kind, dpi=150)
