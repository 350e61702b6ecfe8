"""``numba-softmax bench``: this machine's numbers, beside the copy ceiling and what else is installed.

The command's options, its files and its table of cases are here; `sweep`,
`cold`, `scaling` and `bench_cuda` are other measurements, which make a `Mode` as the cases do.
"""

from __future__ import annotations

import argparse
import contextlib
import datetime
import importlib
import json
import statistics
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numba
import numpy as np
from tqdm import tqdm

from .. import api
from ..call.arguments import as_output_dtype
from ..ops import OPS
from . import UserError, cold, info, scaling, sweep
from .files import beside
from .info import optional
from .reference import NoReferenceError, by_numpy, error_in_ulps
from .timing import FEWEST_ROUNDS, ROUNDS, ceiling, interleaved

CHECKED = 1 << 19
"""Elements that are compared with a wider computation."""

SHARE = 0.8
"""How much of an array a mask lets take part."""

AIM, AIM_INTEGERS = 1.3, 1.0
"""Times of the plain call that `where` or `scale`, and integer input, should take at most."""

OURS, PLAIN, COPY, OTHERS = "numba_softmax", "plain", "copy", ("torch", "scipy", "numpy")


class Case(NamedTuple):
    """One line of the table."""

    op: str
    shape: tuple[int, ...]
    dtype: str = "float32"
    axis: int = -1
    masked: bool = False
    scale: float | None = None

    @property
    def label(self) -> str:
        """The case in words; float32 and the last axis go without saying."""
        shape = " x ".join(f"{size:,}" for size in self.shape)
        words = [self.op, shape] + ([] if self.dtype == "float32" else [self.dtype])
        words += [] if self.axis == -1 else [f"axis {self.axis}"]
        words += [f"where {SHARE:.0%}"] if self.masked else []
        return " ".join(words + ([] if self.scale is None else [f"scale {self.scale:g}"]))

    @property
    def integers(self) -> bool:
        """Whether the input is integers, and the plain call that of float64."""
        return "int" in self.dtype

    @property
    def aim(self) -> float | None:
        """At most so many times the plain call's time; None if this is the plain call."""
        if self.integers:
            return AIM_INTEGERS
        return AIM if self.masked or self.scale is not None else None


SQUARE, NARROW = (4096, 4096), (262144, 64)
CASES = [
    *(Case("softmax", shape) for shape in ((8, 8), (1024, 1024), SQUARE, (32768, 1024), (128, 32768))),
    *(Case("softmax", shape) for shape in (NARROW, (1000000, 10), (1, 16777216))),
    Case("softmax", SQUARE, axis=0),
    Case("softmax", (64, 1000, 256), axis=1),
    *(Case(op, shape) for op in ("log_softmax", "logsumexp") for shape in (SQUARE, NARROW)),
    *(Case("softmax", SQUARE, dtype) for dtype in ("float64", "float16", "bfloat16", "int32")),
    Case("softmax", SQUARE, masked=True),
    Case("softmax", SQUARE, scale=0.125),
]
QUICK = [Case("softmax", (8, 8)), Case("softmax", (64, 1024)), Case("softmax", (64, 1024), masked=True)]


class Mode(NamedTuple):
    """A kind of measurement, and what becomes of its numbers."""

    name: str  # in the record
    measured: Callable[[], Any]
    lines: Callable[[Any], Iterator[str]]
    figure: Callable[[Any], Any]


def command(arguments: argparse.Namespace) -> int:
    """Measure, print the table, write the files."""
    mode = _mode(arguments)
    with contextlib.ExitStack() as files:  # opened first: whatever is wrong with them shows before minutes of work
        to_json = files.enter_context(beside(Path(arguments.json))) if arguments.json else None
        to_plot = files.enter_context(beside(Path(arguments.plot))) if arguments.plot else None
        kind = _check_plot(Path(arguments.plot)) if arguments.plot else ""
        results = mode.measured()
        machine = {**info.gathered(), "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")}
        del machine["cache"]  # a folder of this user's, which a record has no need of
        machine["versions"] |= {name: m.__version__ for name in ("scipy", "torch") if (m := optional(name))}
        if to_json:
            to_json.write_text(json.dumps({"machine": machine, mode.name: results}, indent=2) + "\n")
        if to_plot:
            figure = mode.figure(results)
            figure.supxlabel(info.in_one_line(machine), fontsize=8, color="#666666")
            figure.savefig(to_plot, format=kind, dpi=150)
    print("\n".join([info.in_one_line(machine), *mode.lines(results)]))
    return 0


def _mode(arguments: argparse.Namespace) -> Mode:
    of_cpu = [f"--{kind}" for kind in ("sweep", "cold", "scaling") if getattr(arguments, kind)]
    if len(of_cpu) > 1:
        raise UserError(f"{of_cpu[0]} does not go with {of_cpu[1]}: one after the other")
    if arguments.device == "cuda":
        if of_cpu:
            raise UserError(f"{of_cpu[0]} does not go with --device cuda: it measures the kernels of the CPU")
        from . import bench_cuda

        return Mode("cuda", lambda: bench_cuda.measured(arguments.quick), bench_cuda.lines, bench_cuda.figure)
    if arguments.scaling:
        return Mode("scaling", lambda: scaling.measured(arguments.quick), scaling.lines, scaling.figure)
    if arguments.sweep:
        return Mode("sweep", sweep.measured, sweep.lines, sweep.figure)
    if arguments.cold:
        if arguments.plot:
            raise UserError("--plot does not go with --cold, whose few times are not worth a picture: use --json")
        return Mode("cold", cold.measured, cold.lines, lambda _: None)
    return Mode("cases", lambda: _measured(QUICK if arguments.quick else CASES), table, figure)


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


# -------------------------------------------------------------------- candidates


class Data(NamedTuple):
    """The arrays of a case."""

    x: Any
    y: Any
    mask: Any


def candidates(case: Case, data: Data) -> Iterator[tuple[str, Callable[[], Any]]]:
    """What takes part, by name. Ours and torch write to the result's array."""
    (x, y, mask), ours = data, getattr(api, case.op)
    yield OURS, lambda: ours(x, case.axis, where=mask, scale=case.scale, out=y)
    if case.aim is not None:
        plain = x.astype(np.float64) if case.integers else x
        yield PLAIN, lambda: ours(plain, case.axis, out=y)
    yield COPY, _ceiling(case, data)
    yield "numpy", lambda: by_numpy(case.op, as_numpy_needs(case, x, mask), case.axis)
    if case.dtype != "bfloat16" and (special := optional("scipy.special")):
        theirs = getattr(special, case.op)
        yield "scipy", lambda: theirs(as_numpy_needs(case, x, mask), axis=case.axis)
    if torch := optional("torch"):
        torch.set_num_threads(numba.get_num_threads())
        yield "torch", _by_torch(torch, case, data)


def _ceiling(case: Case, data: Data) -> Callable[[], Any]:
    """The copy of as many bytes as a call reads and writes, or the reading of them if it reduces."""
    x, y, mask = data
    if OPS[case.op].reduces:
        return ceiling(x, None)
    moved = (x.nbytes + y.nbytes + (0 if mask is None else mask.nbytes)) // 2
    source = x if moved == x.nbytes else np.full(moved // 8, 1, np.int64)
    return ceiling(source, np.full(moved // 8, 1, np.int64))


def as_numpy_needs(case: Case, x: Any, mask: Any) -> Any:
    """What one does by hand to leave out elements and to scale them, in libraries that have no such arguments."""
    if mask is not None:
        x = np.where(mask, x, x.dtype.type(-np.inf))
    return x if case.scale is None else x * case.scale


def _by_torch(torch: Any, case: Case, data: Data) -> Callable[[], Any]:
    mask = None if data.mask is None else torch.from_numpy(data.mask)
    return by_torch(torch, case, Data(_tensor(torch, data.x), _tensor(torch, data.y), mask))


def by_torch(torch: Any, case: Case, tensors: Data) -> Callable[[], Any]:
    """A call of torch's function, wherever the tensors lie."""
    tensor, out, function = tensors.x, tensors.y, getattr(torch, case.op)
    if tensors.mask is not None:
        hidden = ~tensors.mask
        return lambda: function(tensor.masked_fill(hidden, -np.inf), case.axis, out=out)
    if case.scale is not None:
        return lambda: function(tensor * case.scale, case.axis, out=out)
    if case.integers:
        return lambda: function(tensor, case.axis, dtype=out.dtype, out=out)
    return lambda: function(tensor, case.axis, out=out)


def _tensor(torch: Any, array: np.ndarray) -> Any:
    """The same memory as a tensor."""
    if array.dtype.name == "bfloat16":
        return torch.from_numpy(array.view(np.int16)).view(torch.bfloat16)
    return torch.from_numpy(array)


# ------------------------------------------------------------------- measurements


def _measured(cases: list[Case]) -> list[dict[str, Any]]:
    with tqdm(cases, desc="measuring", delay=1, leave=False, disable=None, file=sys.stderr) as bar:
        return [result for case in bar if (result := measured_case(case))]


def measured_case(case: Case) -> dict[str, Any] | None:
    """The median seconds and the largest errors of all candidates; None if the dtype is not there."""
    home = optional("ml_dtypes") if case.dtype == "bfloat16" else np
    if home is None:
        return None
    generator = np.random.default_rng(11)
    x = (generator.standard_normal(case.shape, np.float32) * 3).astype(getattr(home, case.dtype))
    mask = generator.random(case.shape, np.float32) < SHARE if case.masked else None
    shape = x.max(case.axis).shape if OPS[case.op].reduces else x.shape
    data = Data(x, np.ones(shape, as_output_dtype(None, x.dtype, None)), mask)
    calls = dict(candidates(case, data))
    fewest = FEWEST_ROUNDS if case.aim is None else ROUNDS  # a ratio near 1 is worth more rounds
    times = interleaved(calls, foreign=OTHERS, slow=("numpy", "scipy"), fewest=fewest)
    ulp = {name: _error(case, data, calls[name]()) for name in times if name not in (COPY, PLAIN)}
    seconds = {name: statistics.median(samples) for name, samples in times.items()}
    return {
        "case": case.label,
        **case._asdict(),
        "seconds": seconds,
        "of_copy": {name: seconds[COPY] / value for name, value in seconds.items() if name != COPY},
        "times_faster_than": {name: value / seconds[OURS] for name, value in seconds.items() if name != OURS},
        "of_plain": None if case.aim is None else seconds[OURS] / seconds[PLAIN],
        "of_plain_aim": case.aim,
        "ulp": ulp,
        "rounds": {name: len(samples) for name, samples in times.items()},
    }


def _error(case: Case, data: Data, result: Any) -> float | None:
    """The largest error in units in the last place, in a random subset of the rows."""
    result = result if isinstance(result, np.ndarray) else data.y
    x = data.x if data.mask is None else np.where(data.mask, data.x, data.x.dtype.type(-np.inf))
    rows = np.moveaxis(x, case.axis, -1)
    if not OPS[case.op].reduces:
        result = np.moveaxis(result, case.axis, -1)
    some = some_rows(rows.shape)
    return error_of_rows(case, rows[some], result[some])


def some_rows(shape: tuple[int, ...]) -> tuple[np.ndarray, ...]:
    """The index of a random subset of the rows, which lie along the last axis."""
    generator, count = np.random.default_rng(12), max(1, CHECKED // shape[-1])
    return tuple(generator.integers(0, size, count) for size in shape[:-1])


def error_of_rows(case: Case, rows: np.ndarray, results: np.ndarray) -> float | None:
    """The largest error in units in the last place; None where there is nothing to compare with."""
    try:
        return error_in_ulps(case.op, rows, results, scale=1.0 if case.scale is None else case.scale)
    except NoReferenceError:
        return None


# ------------------------------------------------------------------------- shown


def table(results: list[dict[str, Any]]) -> Iterator[str]:
    """Lines for people."""
    yield "us: median of our time; of copy: the time of a parallel copy of the same bytes (logsumexp: of reading them)"
    yield "over ours; x torch and so on: their time over ours; / plain: our time over that of the same call without"
    yield f"where and scale (aim: at most {AIM:g}), for integers over that of float64 (aim: at most {AIM_INTEGERS:g})"
    yield "ulp: the largest error, in units in the last place"
    yield ""
    heads = ["us", "of copy", *(f"x {name}" for name in OTHERS), "/ plain", "ulp", "ulp torch"]
    width = max(len(result["case"]) for result in results)
    yield " ".join([" " * width, *(f"{head:>9}" for head in heads)])
    for result in results:
        cells = [f"{result['seconds'][OURS] * 1e6:.1f}", two_places(result["of_copy"][OURS])]
        cells += [two_places(result["times_faster_than"].get(name)) for name in OTHERS]
        cells += [two_places(result["of_plain"]), *(two_places(result["ulp"].get(name)) for name in (OURS, "torch"))]
        yield " ".join([f"{result['case']:<{width}}", *(f"{cell:>9}" for cell in cells)])


def two_places(number: float | None) -> str:
    """For a table."""
    return "-" if number is None else f"{number:.3g}" if number >= 100 else f"{number:.2f}"


def figure(results: list[dict[str, Any]]) -> Any:
    """Speed as a fraction of the copy's, ours and torch's side by side."""
    from matplotlib.figure import Figure

    drawing = Figure(figsize=(9, 1.9 + 0.42 * len(results)), layout="constrained")
    axes = drawing.subplots()
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
    axes.margins(x=0.08, y=0.01)
    axes.grid(axis="x", color="#e6e6e6", zorder=0)
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.tick_params(axis="y", length=0)
    handles, labels = axes.get_legend_handles_labels()
    axes.legend(handles[::-1], labels[::-1], loc="lower right", bbox_to_anchor=(1, 1), ncols=2, frameon=False)
    return drawing
