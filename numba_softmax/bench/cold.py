"""``numba-softmax bench --cold``: what a new process waits for: imports, compilation, kernels from the disk.

Each repeat takes two new processes for each shape: the first finds an empty
disk cache, in a folder of its own, and the second finds what the first left.
"""

from __future__ import annotations

import statistics
import sys
import tempfile
from collections.abc import Iterator
from typing import Any

from tqdm import tqdm

from ..cli import UserError
from .new_process import in_new_process

REPEATS = 5

SHAPES = ((8, 8), (1024, 1024))
"""Of float32 input: one for a single thread, one for all of them."""

OVER, EMPTY, CACHED = "over numba", "first call, nothing cached", "first call, kernel cached"
AIMS = {OVER: 0.05, EMPTY: 3.0, CACHED: 0.4}
"""Seconds."""


def measured() -> dict[str, Any]:
    """Seconds of each step, all of them and the median."""
    imports, calls = ("import numba", "import numba_softmax", OVER), (EMPTY, CACHED, "second call")
    samples: dict[Any, list[float]] = {(step, None): [] for step in imports}
    samples |= {(step, shape): [] for shape in SHAPES for step in calls}
    total = REPEATS * len(SHAPES) * 2
    with tqdm(total=total, desc="starting", delay=1, leave=False, disable=None, file=sys.stderr) as bar:
        for _ in range(REPEATS):
            for shape in SHAPES:
                with tempfile.TemporaryDirectory(prefix="numba_softmax_cold_") as folder:
                    for first_call in (EMPTY, CACHED):
                        numba, own, first, second = _in_new_process(folder, shape)
                        for step, seconds in zip(imports, (numba, numba + own, own), strict=True):
                            samples[step, None].append(seconds)
                        samples[first_call, shape].append(first)
                        samples["second call", shape].append(second)
                        bar.update()
    return {
        "repeats": REPEATS,
        "steps": [
            {"step": step, "shape": shape, "seconds": statistics.median(all_), "aim": AIMS.get(step), "samples": all_}
            for (step, shape), all_ in samples.items()
        ],
    }


def _in_new_process(folder: str, shape: tuple[int, ...]) -> list[float]:
    try:
        return in_new_process(folder, shape)
    except ChildProcessError as error:
        raise UserError(str(error)) from None


def lines(results: dict[str, Any]) -> Iterator[str]:
    """Lines for people."""
    yield f"a new process: median milliseconds of {results['repeats']} repeats, of float32 softmax where a shape stands"
    yield ""
    labels = [_label(step) for step in results["steps"]]
    width = max(map(len, labels))
    yield f"{'':<{width}} {'ms':>10}  at most"
    for label, step in zip(labels, results["steps"], strict=True):
        aim = "" if step["aim"] is None else f"{step['aim'] * 1e3:7,.0f}"
        met = "" if step["aim"] is None else "   met" if step["seconds"] <= step["aim"] else "   missed"
        yield f"{label:<{width}} {_milliseconds(step['seconds']):>10}{aim:>9}{met}".rstrip()


def _label(step: dict[str, Any]) -> str:
    if step["shape"] is None:
        return f"  {step['step']}" if step["step"] == OVER else step["step"]
    return f"{' x '.join(f'{size:,}' for size in step['shape'])}: {step['step']}"


def _milliseconds(seconds: float) -> str:
    return f"{seconds * 1e3:,.0f}" if seconds > 0.1 else f"{seconds * 1e3:.3g}"
