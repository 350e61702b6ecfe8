"""``numba-softmax bench``: the choice of a measurement, and the files and lines made of its numbers."""

from __future__ import annotations

import argparse
import contextlib
import datetime
import importlib
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from ..bench import cold, cpu, scaling, sweep
from ..bench.optional import UnmeasurableError, optional
from . import info
from .common import UserError
from .files import beside


class Mode(NamedTuple):
    """A measurement, and the functions that show its numbers."""

    name: str  # of the numbers in the record
    measured: Callable[[], Any]
    lines: Callable[[Any], Iterator[str]]
    figure: Callable[[Any], Any]


def command(arguments: argparse.Namespace) -> int:
    """Measure, print the table, write the files."""
    mode = _mode(arguments)
    with contextlib.ExitStack() as files:  # opened first: errors with them appear before minutes of work
        to_json = files.enter_context(beside(Path(arguments.json))) if arguments.json else None
        to_plot = files.enter_context(beside(Path(arguments.plot))) if arguments.plot else None
        kind = _check_plot(Path(arguments.plot)) if arguments.plot else ""
        try:
            results = mode.measured()
        except UnmeasurableError as error:
            raise UserError(str(error)) from error
        machine = _machine()
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
        from ..bench import cuda, cuda_report

        return Mode("cuda", lambda: cuda.measured(arguments.quick), cuda_report.lines, cuda_report.figure)
    if arguments.scaling:
        cores = info.cpu()["cores"]
        return Mode("scaling", lambda: scaling.measured(arguments.quick, cores), scaling.lines, scaling.figure)
    if arguments.sweep:
        return Mode("sweep", sweep.measured, sweep.lines, sweep.figure)
    if arguments.cold:
        if arguments.plot:
            raise UserError("--plot does not go with --cold, whose few times are not worth a picture: use --json")
        return Mode("cold", cold.measured, cold.lines, lambda _: None)
    return Mode("cases", lambda: cpu.measured(arguments.quick), cpu.lines, cpu.figure)


def _check_plot(path: Path) -> str:
    """The file format of the figure, after a check of the path."""
    kind = path.suffix.lower().lstrip(".")
    if kind not in ("png", "svg", "pdf"):
        raise UserError(f"{path}: a plot's name ends in .png, .svg or .pdf")
    try:
        importlib.import_module("matplotlib.figure")
    except ImportError:
        raise UserError('--plot needs matplotlib: pip install "numba-softmax[bench]"') from None
    return kind


def _machine() -> dict[str, Any]:
    """The facts that a record begins with."""
    machine = {**info.gathered(), "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")}
    del machine["cache"]  # a folder of this user, which a record does not need
    machine["versions"] |= {name: m.__version__ for name in ("scipy", "torch") if (m := optional(name))}
    return machine
